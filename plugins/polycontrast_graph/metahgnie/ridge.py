"""Ridge regression on what a node says, is and is joined to: the strong and cheap method the network can build on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from polycontrast_graph.baselines import ALPHAS, TEXT_WEIGHT
from polycontrast_graph.features import FeatureMaker, log_degree, relation_counts
from polycontrast_graph.hypergraph import RelationStarBuilder
from polycontrast_graph.kg import KnowledgeGraph

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """What the regression is told of a node: a fixed list of columns, for the fitted graph and those that grow from it.

    Words of the text (its vectors where it is not TF-IDF), log(1 + edges) by relation and direction, log-degree, and
    which relation leads to which node, for the pairs that at least three nodes share.
    """

    maker: FeatureMaker
    stars: Int
    """(S,) sorted keys of those pairs."""

    @classmethod
    def of(cls, kg: KnowledgeGraph, maker: FeatureMaker) -> Design:
        """For a graph and the maker of its features."""
        stars = RelationStarBuilder(include_anchor=False, min_size=3)(kg)
        return cls(maker, np.sort(_key(stars.hyperedge_type, stars.anchor)))

    @property
    def width(self) -> int:
        """F."""
        return self._words + 2 * len(self.maker.relation_names) + 1 + len(self.stars)

    @property
    def _words(self) -> int:
        text = self.maker.text
        return len(text.vectorizer.vocabulary_) if text.vectorizer is not None else text.width or self.maker.given[1]

    def rows(self, kg: KnowledgeGraph, x_text: npt.NDArray[np.float32], nodes: Int | None = None) -> sp.csr_matrix:
        """(n, F) float64.

        Args:
            kg: the graph.
            x_text: (N, dt) vectors of the texts.
            nodes: which rows; None: all.
        """
        at = np.arange(kg.num_nodes) if nodes is None else nodes
        if self.maker.text.vectorizer is None:
            words = sp.csr_matrix(x_text[at][:, : self._words])
        else:
            words = TEXT_WEIGHT * self.maker.text.vectorizer.transform(
                [kg.text[i] if kg.text is not None else "" for i in at]
            )
        counts = relation_counts(kg, self.maker.relation_names)[at]
        parts = [words, counts, sp.csr_matrix(log_degree(kg)[at]), self._memberships(kg)[at]]
        return sp.hstack(parts).tocsr().astype(np.float64)

    def _memberships(self, kg: KnowledgeGraph) -> sp.csr_matrix:
        """(N, S), rows on the scale of words."""
        h = RelationStarBuilder(include_anchor=False, min_size=1)(kg)
        keys = _key(h.hyperedge_type, h.anchor)
        column = np.searchsorted(self.stars, keys).clip(max=max(len(self.stars) - 1, 0))
        known = self.stars[column] == keys if len(self.stars) else np.zeros(len(keys), dtype=bool)
        node, edge = h.hyperedge_index[:, known[h.hyperedge_index[1]]]
        weight = TEXT_WEIGHT / np.sqrt(np.maximum(np.bincount(node, minlength=kg.num_nodes), 1))
        return sp.csr_matrix((weight[node], (node, column[edge])), shape=(kg.num_nodes, len(self.stars)))


def _key(kind: Int, anchor: Int) -> Int:
    return kind * 2**40 + anchor


def fit(x: sp.csr_matrix, y: Float, strength: float) -> Float:
    """(F + 1,) weights and, last, the intercept."""
    model = Ridge(strength, solver="sparse_cg", tol=1e-5).fit(x, y)
    return np.append(model.coef_, model.intercept_)


def apply(x: sp.csr_matrix, weights: npt.ArrayLike) -> Float:
    """(n,) predictions."""
    w = np.asarray(weights, dtype=np.float64)
    return np.asarray(x @ w[:-1] + w[-1])


def choose(
    x: sp.csr_matrix, y: Float, train: Int, val: Int, strengths: Sequence[float] = ALPHAS
) -> tuple[float, Float]:
    """The penalty with the least squared error on validation nodes, and the weights it gives on training nodes."""
    tried = [(strength, fit(x[train], y[train], strength)) for strength in strengths]
    return min(tried, key=lambda one: float(((apply(x[val], one[1]) - y[val]) ** 2).mean()))


def cross_fitted(x: sp.csr_matrix, y: Float, train: Int, strength: float, *, parts: int = 5) -> Float:
    """(n,) predictions of training nodes by fits on the others: what a ridge regression leaves over on new nodes.

    Args:
        x: (N, F).
        y: (N,).
        train: (n,) nodes.
        strength: penalty.
        parts: as many fits.
    """
    part = np.random.default_rng(0).permutation(len(train)) % parts
    held_out = np.empty(len(train))
    for k in range(parts):
        inside, outside = train[part != k], part == k
        held_out[outside] = apply(x[train[outside]], fit(x[inside], y[inside], strength))
    return held_out


__all__ = ["Design", "apply", "choose", "cross_fitted", "fit"]
