"""Ridge regression on words, relation counts and degree: the strong and cheap method that the network can build on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from polycontrast_graph.features import FeatureMaker, log_degree, relation_counts
from polycontrast_graph.kg import KnowledgeGraph

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Penalties that are tried."""
_WORDS = 3.0
"""Weight of TF-IDF rows, whose length is 1, beside logarithms of counts."""


def design(
    kg: KnowledgeGraph, maker: FeatureMaker, x_text: npt.NDArray[np.float32], nodes: Int | None = None
) -> sp.csr_matrix:
    """(n, F) float64: words of the text (its vectors where it is not TF-IDF), relation counts, log-degree.

    Args:
        kg: the graph.
        maker: of the features, for its words.
        x_text: (N, dt) vectors of the texts.
        nodes: which rows; None: all.
    """
    at = np.arange(kg.num_nodes) if nodes is None else nodes
    if maker.text.vectorizer is None:
        words = sp.csr_matrix(x_text[at][:, : maker.text.width or maker.given[1]])
    else:
        words = _WORDS * maker.text.vectorizer.transform([kg.text[i] if kg.text is not None else "" for i in at])
    counts = relation_counts(kg, maker.relation_names)[at]
    return sp.hstack([words, counts, sp.csr_matrix(log_degree(kg)[at])]).tocsr().astype(np.float64)


def width(maker: FeatureMaker) -> int:
    """F."""
    if maker.text.vectorizer is None:
        words = maker.text.width or maker.given[1]
    else:
        words = len(maker.text.vectorizer.vocabulary_)
    return words + 2 * len(maker.relation_names) + 1


def fit(x: sp.csr_matrix, y: Float, strength: float) -> Float:
    """(F + 1,) weights and, last, the intercept."""
    model = Ridge(strength, solver="sparse_cg", tol=1e-5).fit(x, y)
    return np.append(model.coef_, model.intercept_)


def apply(x: sp.csr_matrix, weights: npt.ArrayLike) -> Float:
    """(n,) predictions."""
    w = np.asarray(weights, dtype=np.float64)
    return np.asarray(x @ w[:-1] + w[-1])


def choose(
    x: sp.csr_matrix, y: Float, train: Int, val: Int, strengths: Sequence[float] = STRENGTHS
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


__all__ = ["STRENGTHS", "apply", "choose", "cross_fitted", "design", "fit", "width"]
