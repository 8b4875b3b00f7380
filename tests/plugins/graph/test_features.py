from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polycontrast.errors import CheckpointError, DataError, MissingDependency
from polycontrast_graph import features as module
from polycontrast_graph.config import FeatureConfig
from polycontrast_graph.features import (
    FeatureMaker,
    adjacency,
    content_key,
    log_degree,
    make_features,
    relation_counts,
)
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.text import TextFeatures, encode

WORDS = ["a small red apple", "a large red pear", "a large green pear", "small green apple", "", "the red small pear"]
CONFIG = FeatureConfig(structure=("svd", "counts", "degree"), svd_width=4, text_width=3)


def graph(n: int = 30, e: int = 90, extra: int = 0, text: bool = True) -> KnowledgeGraph:
    """With ``extra`` nodes after the others, each joined to some of those."""
    rng = np.random.default_rng(0)
    head, relation, tail = rng.integers(0, n, e), rng.integers(0, 3, e), rng.integers(0, n, e)
    new = np.repeat(np.arange(n, n + extra), 3)
    head, tail = np.concatenate([head, new]), np.concatenate([tail, rng.integers(0, n, len(new))])
    relation = np.concatenate([relation, np.zeros(len(new), np.int64)])
    words = [WORDS[i % len(WORDS)] for i in range(n + extra)] if text else None
    return KnowledgeGraph.from_arrays(head, relation, tail, num_nodes=n + extra, text=words, labels=False)


def test_counts_and_degrees_by_hand() -> None:
    kg = KnowledgeGraph.from_arrays([0, 0, 1, 2], [0, 0, 1, 1], [1, 2, 0, 2], num_nodes=4, labels=False)
    expected = np.log1p([[2, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(relation_counts(kg).toarray(), expected, rtol=1e-6)
    # One neighbour whatever joins the two; an edge to itself is none.
    np.testing.assert_allclose(log_degree(kg)[:, 0], np.log1p([2, 1, 1, 0]), rtol=1e-6)
    turned = relation_counts(kg, ("1", "x", "0")).toarray()
    np.testing.assert_allclose(turned, expected[:, [1, 0, 0, 3, 0, 2]] * [1, 0, 1, 1, 0, 1], rtol=1e-6)


def test_singular_vectors_are_those_of_the_normalised_adjacency() -> None:
    kg = graph()
    closed = adjacency(kg).toarray() + np.eye(30)
    root = 1 / np.sqrt(closed.sum(1))
    left, values, _ = np.linalg.svd(root[:, None] * closed * root)
    found = module.SpectralVectors().fit(kg, 4)
    expected = left[:, :4] * values[:4]
    np.testing.assert_allclose(
        found @ found.T / (found**2).mean(), expected @ expected.T / (expected**2).mean(), atol=1e-3
    )
    assert (found**2).mean() == pytest.approx(1.0, rel=1e-5)


def test_a_maker_gives_old_nodes_what_they_had_and_new_ones_what_their_neighbours_say() -> None:
    maker = FeatureMaker(CONFIG)
    structure, words = maker.fit(graph())
    again, words_again = maker.apply(graph())
    np.testing.assert_array_equal(structure, again)
    np.testing.assert_allclose(words, words_again, atol=1e-6)
    assert structure.shape == (30, 4 + 6 + 1)
    assert words.shape == (30, 3)
    assert structure.dtype == words.dtype == np.float32
    np.testing.assert_array_equal(words[4], 0.0)  # No text.

    grown, said = maker.apply(graph(extra=2))
    np.testing.assert_allclose(grown[:30, :4], structure[:, :4], atol=1e-6)
    np.testing.assert_allclose(said[:30], words, atol=1e-6)
    np.testing.assert_allclose(said[30], words[0], atol=1e-6)  # The same words.
    kg = graph(extra=2)
    near = np.unique(kg.edge_index[1, kg.edge_index[0] == 30])
    degree = maker.spectral.degree
    mean = sum(maker.spectral.right[j] / np.sqrt(degree[j] * (len(near) + 1)) for j in near)
    np.testing.assert_allclose(grown[30, :4], mean, atol=1e-6)
    with pytest.raises(DataError, match="graph has 20 nodes, the features were made for 30"):
        maker.apply(graph(n=20))


def test_saving_without_pickle(tmp_path: Path) -> None:
    maker = FeatureMaker(CONFIG)
    maker.fit(graph())
    maker.save(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["features.json", "features.safetensors"]
    assert "red apple" in json.loads((tmp_path / "features.json").read_text())["text"]["terms"]
    for one, two in zip(
        maker.apply(graph(extra=3)), FeatureMaker.load(CONFIG, tmp_path).apply(graph(extra=3)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(CheckpointError, match="the features are damaged"):
        FeatureMaker.load(CONFIG, tmp_path)
    (tmp_path / "features.json").unlink()
    with pytest.raises(CheckpointError, match=r"features.json is missing; the model was not saved completely"):
        FeatureMaker.load(CONFIG, tmp_path)


def test_features_that_the_data_bring() -> None:
    config = FeatureConfig(structure=("given", "degree"), text="given")
    with pytest.raises(DataError, match=r"graph brings no x_struct; add it or choose another features.structure"):
        FeatureMaker(config).fit(graph())
    kg = replace(graph(), x_struct=np.ones((30, 2), np.float32), x_text=np.full((30, 5), 7.0, np.float32))
    maker = FeatureMaker(config)
    structure, words = maker.fit(kg)
    assert structure.shape == (30, 3)
    np.testing.assert_array_equal(words, kg.x_text)
    with pytest.raises(DataError, match="x_text has 4 columns, the model was trained on 5"):
        maker.apply(replace(kg, x_text=np.ones((30, 4), np.float32)))


def test_a_graph_without_any_text_has_no_text_features() -> None:
    structure, words, _ = make_features(graph(text=False), CONFIG)
    assert words.shape == (30, 0)
    assert structure.shape == (30, 11)


def test_the_cache_knows_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYCONTRAST_CACHE", str(tmp_path))
    kg = graph()
    one = make_features(kg, CONFIG, cache=True)
    monkeypatch.setattr(FeatureMaker, "fit", lambda *args: pytest.fail("made again"))
    two = make_features(kg, CONFIG, cache=True)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(one[2].apply(kg)[0], two[2].apply(kg)[0])
    monkeypatch.undo()

    key = content_key(kg, CONFIG, 0)
    others = [
        content_key(replace(kg, text=[*WORDS, *["x"] * 24]), CONFIG, 0),
        content_key(replace(kg, edge_type=kg.edge_type[::-1].copy()), CONFIG, 0),
        content_key(kg, replace(CONFIG, svd_width=5), 0),
        content_key(kg, CONFIG, 1),
    ]
    assert len({key, *others}) == 5
    # Of the labels, only who has one plays a part.
    some = [content_key(kg.with_labels(value + np.where(np.arange(30) < 9, np.nan, 0)), CONFIG, 0) for value in (1, 2)]
    assert some[0] == some[1] != key
    # What costs little is not kept.
    monkeypatch.setenv("POLYCONTRAST_CACHE", str(tmp_path / "other"))
    make_features(kg, CONFIG)
    assert not (tmp_path / "other").exists()
    # A damaged entry is made anew.
    monkeypatch.setenv("POLYCONTRAST_CACHE", str(tmp_path))
    next(tmp_path.rglob("rows.safetensors")).write_bytes(b"")
    np.testing.assert_array_equal(make_features(kg, CONFIG, cache=True)[0], one[0])


def test_words_keep_their_natural_decay() -> None:
    texts = [WORDS[i % 4] for i in range(40)]
    rows = TextFeatures(FeatureConfig(text_width=4)).fit(texts, 40)
    assert (rows**2).mean() == pytest.approx(1.0, rel=1e-5)
    scale = np.linalg.norm(rows, axis=0)
    assert scale[0] > 1.2 * scale[-1]


def test_dimensions_are_made_from_labelled_nodes() -> None:
    rng = np.random.default_rng(0)
    # Many different songs, few kinds of artists.
    songs = [" ".join(rng.choice(list("bcdfghjk"), 6)) + " song tune" for _ in range(300)]
    artists = [str(rng.choice(["loud rock", "soft jazz", "old folk"])) for _ in range(60)]
    labelled = np.arange(360) >= 300

    def spread(settings: FeatureConfig) -> float:
        rows = TextFeatures(settings).fit(songs + artists, 360, labelled=labelled)
        return float(np.linalg.matrix_rank(rows[labelled], tol=0.1))

    narrow = FeatureConfig(text_width=3, text_from="labelled")
    assert spread(narrow) == 3
    assert spread(replace(narrow, text_from="all")) < 3
    # Too few of them, and all nodes count.
    assert spread(replace(narrow, text_width=7)) == spread(replace(narrow, text_width=7, text_from="all"))


def test_no_common_word() -> None:
    with pytest.raises(DataError, match=r"no word occurs in 2 texts .* lower features.min_documents"):
        TextFeatures(FeatureConfig()).fit(["one two", "three four"], 2)


class TestEncoder:
    @pytest.fixture
    def bert(self, tmp_path: Path) -> str:
        transformers = pytest.importorskip("transformers")
        torch = pytest.importorskip("torch")
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in WORDS for w in t.split()})]
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            max_position_embeddings=12,
        )  # fmt: skip
        transformers.BertModel(config).save_pretrained(tmp_path)
        transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
        return str(tmp_path)

    def test_mean_over_tokens_whatever_else_is_in_the_batch(self, bert: str) -> None:
        texts = ["apple", "a small red apple " * 20, "pear"]
        rows = encode(texts, bert)
        assert rows.shape == (3, 16)
        for i, text in enumerate(texts):
            np.testing.assert_allclose(encode([text], bert)[0], rows[i], atol=1e-5)
        maker = FeatureMaker(replace(CONFIG, text=bert))
        _, words = maker.fit(graph())
        assert words.shape == (30, 16)
        np.testing.assert_array_equal(words[4], 0.0)
        np.testing.assert_allclose(maker.apply(graph(extra=1))[1][:30], words, atol=1e-5)

    def test_no_such_model(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        with pytest.raises(
            DataError, match=r"features.text: no text encoder can be loaded from .*; give a folder"
        ) as caught:
            encode(["a"], str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_without_transformers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "transformers", None)
        with pytest.raises(MissingDependency, match="needs transformers; install it with: pip install transformers"):
            encode(["a"], "some/model")
