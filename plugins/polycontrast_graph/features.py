"""What is known of every node: features of structure and of text, made once and applied to new nodes.

A maker is fitted on one graph and then a fixed map. Applied to a graph with more nodes, it needs no refitting: counts
and degrees are counted, and the singular vectors of a new node follow from those of its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.utils.extmath import randomized_svd

from polycontrast.data import cache_dir
from polycontrast.errors import CheckpointError, DataError, one_line
from polycontrast.files import atomic_file, write_text
from polycontrast_graph.config import FeatureConfig
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.text import TextFeatures

Float32 = npt.NDArray[np.float32]
_COSTLY = 100_000
_STATE, _ABOUT = "features.safetensors", "features.json"


def adjacency(kg: KnowledgeGraph) -> sp.csr_matrix:
    """(N, N) float64, symmetric, 1 where any edge joins two different nodes."""
    head, tail = kg.edge_index
    keep = head != tail
    n = kg.num_nodes
    matrix = sp.csr_matrix((np.ones(int(keep.sum())), (head[keep], tail[keep])), shape=(n, n))
    matrix = (matrix + matrix.T).tocsr()
    matrix.data[:] = 1.0
    return matrix


def log_degree(kg: KnowledgeGraph) -> Float32:
    """(N, 1) log(1 + neighbours)."""
    return np.log1p(np.diff(adjacency(kg).indptr)).astype(np.float32)[:, None]


def relation_counts(kg: KnowledgeGraph, relation_names: Sequence[str] | None = None) -> sp.csr_matrix:
    """(N, 2 R) float32, log(1 + edges) of each relation as head, then of each as tail.

    Args:
        kg: the graph.
        relation_names: which, in which order; None: those of the graph. Edges of others do not count.
    """
    names = kg.relation_names if relation_names is None else tuple(relation_names)
    at = {name: i for i, name in enumerate(names)}
    column = np.array([at.get(name, -1) for name in kg.relation_names])[kg.edge_type]
    known = column >= 0
    head, tail = kg.edge_index[:, known]
    columns = np.concatenate([column[known], column[known] + len(names)])
    ones = np.ones(len(columns), dtype=np.float32)
    counts = sp.csr_matrix((ones, (np.concatenate([head, tail]), columns)), shape=(kg.num_nodes, 2 * len(names)))
    counts.data = np.log1p(counts.data)
    return counts


@dataclass(eq=False)
class SpectralVectors:
    """Truncated singular vectors of S = D^-1/2 (A + I) D^-1/2, and the map by which new nodes get theirs.

    The vectors are U Sigma = S V on one scale that brings the mean square of an entry to 1. So a row of S for a new
    node, times V, is its vector: a weighted sum over its neighbours (fold-in). Neighbours that are new themselves have
    no row in V and do not count, not in degrees either: the vectors of fitted nodes stay when new ones arrive.
    """

    right: Float32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(N, d) V of the fitted graph, scaled."""
    degree: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """(N,) neighbours of the fitted nodes, themselves among them."""

    def fit(self, kg: KnowledgeGraph, width: int, seed: int = 0) -> Float32:
        """(N, width) vectors of a graph, by randomised subspace iteration (Halko et al. 2011)."""
        closed = _closed(kg)
        self.degree = np.asarray(closed.sum(axis=1), dtype=np.float32).ravel()
        root = sp.diags_array(1.0 / np.sqrt(self.degree))
        normal = (root @ closed @ root).tocsr()
        _, _, right = randomized_svd(normal, min(width, kg.num_nodes), n_iter=5, random_state=seed % 2**32)
        self.right = np.ascontiguousarray(right.T, dtype=np.float32)
        unit = float(np.sqrt(np.mean(np.square(normal @ self.right, dtype=np.float64))))
        self.right /= np.float32(unit or 1.0)
        return self.apply(kg, np.arange(kg.num_nodes))

    def apply(self, kg: KnowledgeGraph, nodes: npt.NDArray[np.int64]) -> Float32:
        """(n, width) vectors of nodes from their neighbours, by fold-in.

        Args:
            kg: a graph whose first nodes are the fitted ones, in the same order.
            nodes: positions.
        """
        fitted = len(self.degree)
        rows = _closed(kg)[nodes][:, :fitted]
        degree = np.asarray(rows.sum(axis=1), dtype=np.float32).ravel() + (nodes >= fitted)
        rows = sp.diags_array(1.0 / np.sqrt(degree)) @ rows @ sp.diags_array(1.0 / np.sqrt(self.degree))
        return np.asarray(rows @ self.right, dtype=np.float32)


def _closed(kg: KnowledgeGraph) -> sp.csr_matrix:
    """A + I, float32."""
    return (adjacency(kg) + sp.eye_array(kg.num_nodes)).tocsr().astype(np.float32)


@dataclass(eq=False)
class FeatureMaker:
    """Structural and text features of a graph's nodes, by :class:`~polycontrast_graph.config.FeatureConfig`.

    Args:
        config: see there.
    """

    config: FeatureConfig
    relation_names: tuple[str, ...] = ()
    spectral: SpectralVectors = field(default_factory=SpectralVectors)
    text: TextFeatures = field(init=False)
    given: tuple[int, int] = (0, 0)
    """Widths of the structural and the text features that the data bring, where they are used."""

    def __post_init__(self) -> None:
        self.text = TextFeatures(self.config)

    @property
    def num_fitted(self) -> int:
        """Nodes of the fitted graph."""
        return self._fitted

    _fitted: int = 0

    def fit(self, kg: KnowledgeGraph, seed: int = 0) -> tuple[Float32, Float32]:
        """Features of a graph.

        Args:
            kg: the graph; of its labels only which nodes have one is used.
            seed: of the randomised decompositions.

        Returns:
            (N, ds) structural and (N, dt) text features, float32. A node without text has a zero row.

        Raises:
            DataError: features are to be "given" and the data bring none; a text encoder cannot be loaded.
        """
        self.relation_names, self._fitted = kg.relation_names, kg.num_nodes
        self.given = (
            _width(kg, "x_struct") if "given" in self.config.structure else 0,
            _width(kg, "x_text") if self.config.text == "given" else 0,
        )
        vectors = self.spectral.fit(kg, self.config.svd_width, seed) if "svd" in self.config.structure else None
        if self.config.text == "given":
            words = _given(kg, "x_text", self.given[1])
        else:
            words = self.text.fit(kg.text, kg.num_nodes, seed, kg.labelled)
        return self._structure(kg, vectors), words

    def apply(self, kg: KnowledgeGraph) -> tuple[Float32, Float32]:
        """Features of a graph that grew: first the fitted nodes in their order, then new ones.

        The same map as :meth:`fit`, so that the vectors of a fitted node come from its neighbours as well.

        Raises:
            DataError: the graph has fewer nodes than were fitted, or lacks given features.
        """
        if kg.num_nodes < self.num_fitted:
            raise DataError(
                f"{kg.name} has {kg.num_nodes} nodes, the features were made for {self.num_fitted}; new nodes are "
                "appended to those"
            )
        vectors = self.spectral.apply(kg, np.arange(kg.num_nodes)) if "svd" in self.config.structure else None
        if self.config.text == "given":
            words = _given(kg, "x_text", self.given[1])
        else:
            words = self.text.apply(kg.text, kg.num_nodes)
        return self._structure(kg, vectors), words

    def _structure(self, kg: KnowledgeGraph, vectors: Float32 | None) -> Float32:
        parts: list[Float32] = []
        for part in self.config.structure:
            if part == "svd":
                assert vectors is not None
                parts.append(vectors)
            elif part == "counts":
                parts.append(relation_counts(kg, self.relation_names).toarray())
            elif part == "degree":
                parts.append(log_degree(kg))
            else:
                parts.append(_given(kg, "x_struct", self.given[0]))
        return np.concatenate(parts, axis=1)

    # ---- saving ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able facts from which :meth:`from_state` makes an equal maker."""
        arrays, words = self.text.state()
        return (
            {"spectral.right": self.spectral.right, "spectral.degree": self.spectral.degree, **arrays},
            {
                "relations": list(self.relation_names), "nodes": self.num_fitted, "given": list(self.given),
                "text": words,
            },
        )  # fmt: skip

    @classmethod
    def from_state(
        cls, config: FeatureConfig, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]
    ) -> FeatureMaker:
        """The maker whose :meth:`state` this is."""
        spectral = SpectralVectors(arrays["spectral.right"], arrays["spectral.degree"])
        maker = cls(config, tuple(about["relations"]), spectral)
        maker.given = (int(about["given"][0]), int(about["given"][1]))
        maker._fitted = int(about["nodes"])
        maker.text.restore(arrays, about["text"])
        return maker

    def save(self, folder: Path) -> None:
        """Write ``features.safetensors`` and ``features.json`` into a folder."""
        arrays, about = self.state()
        with atomic_file(folder / _STATE) as file:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file)
        write_text(folder / _ABOUT, json.dumps(about, ensure_ascii=False))

    @classmethod
    def load(cls, config: FeatureConfig, folder: Path) -> FeatureMaker:
        """The maker that :meth:`save` wrote.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            return cls.from_state(config, load_file(folder / _STATE), about)
        except FileNotFoundError as error:
            missing = error.filename or folder / _STATE
            raise CheckpointError(f"{missing} is missing; the model was not saved completely") from None
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
            raise CheckpointError(
                f"{folder}: the features are damaged ({one_line(error)}); save or copy the model again"
            ) from error


def make_features(
    kg: KnowledgeGraph, config: FeatureConfig, *, seed: int = 0, cache: bool | None = None
) -> tuple[Float32, Float32, FeatureMaker]:
    """Features of a graph and their maker, from the cache when this graph was seen before.

    The cache is in :func:`polycontrast.data.cache_dir`, by the content of the graph: a changed text, edge or setting
    makes new features.

    Args:
        kg: the graph; of its labels only which nodes have one plays a part.
        config: which features.
        seed: of the randomised decompositions.
        cache: whether to look there and to keep the result. None: where it costs much, that is above a hundred
            thousand nodes or with a pretrained text encoder.

    Returns:
        (N, ds) structural and (N, dt) text features, float32, and the maker for new nodes.
    """
    if cache is None:
        cache = kg.num_nodes > _COSTLY or (config.text not in ("tfidf", "given") and kg.text is not None)
    if not cache:
        maker = FeatureMaker(config)
        return *maker.fit(kg, seed), maker
    folder = cache_dir() / "features" / content_key(kg, config, seed)
    file = folder / "rows.safetensors"
    if file.is_file():
        try:
            rows = load_file(file)
            return rows["structure"], rows["text"], FeatureMaker.load(config, folder)
        except (SafetensorError, CheckpointError, KeyError):
            pass  # A damaged cache is made anew.
    maker = FeatureMaker(config)
    structure, words = maker.fit(kg, seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        maker.save(folder)
        with atomic_file(file) as temporary:
            save_file({"structure": structure, "text": words}, temporary)
    except OSError:
        pass  # No room for a cache is no reason to stop.
    return structure, words, maker


def content_key(kg: KnowledgeGraph, config: FeatureConfig, seed: int) -> str:
    """32 hexadecimal digits of everything that features depend on."""
    digest = hashlib.sha256(f"1 {config!r} {seed} {kg.num_nodes} {kg.relation_names!r}".encode())
    for array in (kg.edge_index, kg.edge_type, kg.x_struct, kg.x_text, kg.labelled):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
    digest.update(b"-" if kg.text is None else "\x1f".join(kg.text).encode())
    if Path(config.text).is_dir():
        digest.update(
            repr(
                [(f.name, (s := f.stat()).st_size, s.st_mtime_ns) for f in sorted(Path(config.text).iterdir())]
            ).encode()
        )
    return digest.hexdigest()[:32]


def _width(kg: KnowledgeGraph, what: str) -> int:
    value: Float32 | None = getattr(kg, what)
    if value is None:
        which = "features.structure" if what == "x_struct" else "features.text"
        raise DataError(f"{kg.name} brings no {what}; add it or choose another {which} than 'given'")
    return value.shape[1]


def _given(kg: KnowledgeGraph, what: str, width: int) -> Float32:
    if (found := _width(kg, what)) != width:
        raise DataError(f"{kg.name}: {what} has {found} columns, the model was trained on {width}; give the same ones")
    value: Float32 = getattr(kg, what)
    return value


__all__ = [
    "FeatureMaker", "SpectralVectors", "adjacency", "content_key", "log_degree", "make_features", "relation_counts",
]  # fmt: skip
