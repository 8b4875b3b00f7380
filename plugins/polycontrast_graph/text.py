"""Vectors of texts: TF-IDF reduced by truncated SVD, or any text encoder of transformers or sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd, safe_sparse_dot

from polycontrast.errors import CheckpointError, DataError, MissingDependency, one_line
from polycontrast_graph.config import FeatureConfig

if TYPE_CHECKING:
    from torch import Tensor

Float32 = npt.NDArray[np.float32]

_BATCH = 64
_TOKENS = 256


class TextFeatures:
    """A map from texts to vectors of one width; a missing text is the zero vector.

    One global scale brings the mean square of an entry, over the fitted texts that are not empty, to 1. The natural
    decay of the dimensions of TF-IDF stays: whitening them gives the noise of the last ones the weight of the first.

    Args:
        config: ``text`` names the kind, see there; "given" is not made here.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self.width = 0
        self.scale = 1.0
        self.vectorizer: TfidfVectorizer | None = None
        self.components: Float32 = np.zeros((0, 0), np.float32)

    def fit(
        self, texts: Sequence[str] | None, count: int, seed: int = 0, labelled: npt.NDArray[np.bool_] | None = None
    ) -> Float32:
        """(count, width) vectors of the texts that the map is made for.

        Args:
            texts: (count,) or None.
            count: rows.
            seed: of the randomised decomposition.
            labelled: (count,) which nodes have a label, for ``text_from``.

        Raises:
            DataError: no word occurs in ``min_documents`` texts, or a text encoder cannot be loaded.
            MissingDependency: a text encoder is asked for and transformers is not installed.
        """
        self.width, self.vectorizer = 0, None
        given = _present(texts)
        if len(given) == 0:
            return np.zeros((count, 0), np.float32)
        assert texts is not None
        said = [texts[i] for i in given]
        if self.config.text == "tfidf":
            focus = None if labelled is None or self.config.text_from == "all" else labelled[given]
            rows = self._fit_tfidf(said, seed, focus)
        else:
            rows = encode(said, self.config.text)
        self.scale = 1.0 / (float(np.sqrt(np.mean(np.square(rows, dtype=np.float64)))) or 1.0)
        self.width = rows.shape[1]
        return self._spread(rows, given, count)

    def apply(self, texts: Sequence[str] | None, count: int) -> Float32:
        """(count, width) vectors of any texts by the fitted map."""
        given = _present(texts)
        if not self.width or len(given) == 0:
            return np.zeros((count, self.width), np.float32)
        assert texts is not None
        said = [texts[i] for i in given]
        if self.vectorizer is not None:
            rows = np.asarray(safe_sparse_dot(self.vectorizer.transform(said), self.components.T), dtype=np.float32)
        else:
            rows = encode(said, self.config.text)
        return self._spread(rows, given, count)

    def _fit_tfidf(self, texts: list[str], seed: int, focus: npt.NDArray[np.bool_] | None) -> Float32:
        self.vectorizer, terms = tfidf(texts, self.config.min_documents, self.config.max_terms)
        some = terms if focus is None or focus.sum() < 10 * self.config.text_width else terms[focus]
        width = min(self.config.text_width, *some.shape)
        _, _, components = randomized_svd(some, width, n_iter=5, random_state=seed % 2**32)
        self.components = components.astype(np.float32)
        return np.asarray(safe_sparse_dot(terms, self.components.T), dtype=np.float32)

    def _spread(self, rows: Float32, given: npt.NDArray[np.int64], count: int) -> Float32:
        result = np.zeros((count, self.width), np.float32)
        result[given] = rows * np.float32(self.scale)
        return result

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able facts; of TF-IDF the vocabulary in its order. No pickle."""
        facts: dict[str, Any] = {"width": self.width, "scale": self.scale}
        if self.vectorizer is None:
            return {}, facts
        vocabulary: dict[str, int] = self.vectorizer.vocabulary_
        facts["terms"] = sorted(vocabulary, key=vocabulary.__getitem__)
        return {"text.components": self.components, "text.idf": np.asarray(self.vectorizer.idf_)}, facts

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Any]) -> None:
        """Become the map whose :meth:`state` this is."""
        self.width, self.scale = int(facts["width"]), float(facts["scale"])
        if "terms" in facts:
            if len(facts["terms"]) != len(arrays["text.idf"]):
                raise CheckpointError("the words of the text features do not fit their weights; save the model again")
            self.vectorizer = _vectorizer(vocabulary={term: i for i, term in enumerate(facts["terms"])})
            self.vectorizer.idf_ = arrays["text.idf"]
            self.components = np.asarray(arrays["text.components"], dtype=np.float32)


def tfidf(texts: Sequence[str], min_documents: int, max_terms: int) -> tuple[TfidfVectorizer, sp.csr_matrix]:
    """Words and pairs of words, sublinear in their count, rows of length 1.

    Args:
        texts: (n,).
        min_documents: texts that a term must occur in.
        max_terms: the most frequent ones stay.

    Returns:
        The fitted vectoriser and (n, terms) float32.

    Raises:
        DataError: no term is left.
    """
    vectorizer = _vectorizer(min_df=min_documents, max_features=max_terms)
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(
            f"no word occurs in {min_documents} texts ({one_line(error)}); lower features.min_documents or use another "
            "features.text"
        ) from error


def _vectorizer(**settings: Any) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, **settings)


def _present(texts: Sequence[str] | None) -> npt.NDArray[np.int64]:
    return np.flatnonzero([bool(text.strip()) for text in texts or ()])


# ---- text encoders -------------------------------------------------------------------------------------------------


def encode(texts: Sequence[str], name: str) -> Float32:
    """(n, width) vectors of texts by a pretrained encoder.

    A folder or model that sentence-transformers made, where that package is installed, is used as it was meant;
    every other one through transformers, as the mean of the last hidden states over the tokens, of up to 256 tokens.

    Args:
        texts: not empty.
        name: a folder, or a model id on the Hugging Face hub.

    Raises:
        MissingDependency: transformers is not installed.
        DataError: no such model can be loaded.
    """
    made_for_sentences = not Path(name).is_dir() or (Path(name) / "modules.json").is_file()
    if not (made_for_sentences and find_spec("sentence_transformers")):
        return _encode_by_mean(list(texts), name)
    try:
        model = import_module("sentence_transformers").SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise _unknown(name, error) from error
    return np.asarray(model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False), dtype=np.float32)


def _encode_by_mean(texts: list[str], name: str) -> Float32:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"the text encoder {name!r} needs transformers; install it with: pip install transformers, or set "
            "features.text=tfidf"
        ) from error
    import torch

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise _unknown(name, error) from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    longest = min(_TOKENS, getattr(model.config, "max_position_embeddings", _TOKENS))
    # Texts of like length together: little padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    rows: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(order), _BATCH):
            some = [texts[i] for i in order[start : start + _BATCH]]
            batch = tokenizer(some, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            batch = batch.to(model.device)
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(2).to(hidden)
            rows.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).float().cpu())
    result = np.empty((len(texts), rows[0].shape[1]), np.float32)
    result[order] = torch.cat(rows).numpy()
    return result


def _unknown(name: str, error: Exception) -> DataError:
    first = one_line(error).split(". ")[0]
    return DataError(
        f"features.text: no text encoder can be loaded from {name!r} ({first}); give a folder or a model id of the "
        "Hugging Face hub, or tfidf"
    )


__all__ = ["TextFeatures", "encode", "tfidf"]
