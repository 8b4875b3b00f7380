"""Cheap known methods for the importance of nodes, on the same parts and with the same metrics.

Rankings by degree and PageRank (Page et al. 1999) need no label, or only where to restart. Ridge regressions on what a
node is, says and is joined to are what an expert would try first; they are hard to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from polycontrast_graph.config import FeatureConfig
from polycontrast_graph.features import adjacency, log_degree, make_features, relation_counts
from polycontrast_graph.folds import TRAIN, VAL
from polycontrast_graph.hypergraph import RelationStarBuilder
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.ranking import HEADLINE, importance_metrics
from polycontrast_graph.text import tfidf

Float = npt.NDArray[np.float64]
Part = npt.NDArray[np.int8]

ALPHAS = (1.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Penalties from which validation chooses."""
TEXT_WEIGHT = 3.0
"""Length of a row of TF-IDF, or of memberships, beside logarithms of counts."""
FLOORS = ("random", "degree", "pagerank")
"""Baselines that a working method must beat."""
_RANKINGS = ("degree", "pagerank", "personalised-pagerank")
_ERRORS = ("rmse", "median_absolute_error")


def pagerank(
    kg: KnowledgeGraph, restart: npt.ArrayLike | None = None, *, damping: float = 0.85, tolerance: float = 1e-10
) -> Float:
    """(N,) PageRank of the undirected graph.

    Args:
        kg: the graph; edges between the same two nodes count once.
        restart: (N,) where the walk restarts, at least 0; None: anywhere.
        damping: probability to go on.
        tolerance: sum of changes at which the iteration ends.
    """
    links = adjacency(kg)
    degree = np.diff(links.indptr)
    step = (sp.diags_array(1.0 / np.maximum(degree, 1)) @ links).T.tocsr()
    start = np.ones(kg.num_nodes) if restart is None else np.asarray(restart, dtype=np.float64)
    start = start / start.sum()
    rank = start
    for _ in range(1000):
        # A walk that can go nowhere restarts.
        new = damping * (step @ rank + rank[degree == 0].sum() * start) + (1 - damping) * start
        done = np.abs(new - rank).sum() < tolerance
        rank = new
        if done:
            break
    return rank


@dataclass
class Baselines:
    """All of them for one graph; what does not depend on the labels is made once.

    Args:
        kg: the graph.
        config: how words are counted (``max_terms``, ``min_documents``).
        seed: of the decompositions and of boosting.
    """

    kg: KnowledgeGraph
    config: FeatureConfig = field(default_factory=FeatureConfig)
    seed: int = 0

    # ---- what is known of a node ---------------------------------------------------------------------------------

    @cached_property
    def words(self) -> sp.csr_matrix:
        """(N, terms) TF-IDF of words and pairs of words, or the text features that the data bring, on that scale."""
        n = self.kg.num_nodes
        if self.kg.text is not None:
            return TEXT_WEIGHT * tfidf(list(self.kg.text), self.config.min_documents, self.config.max_terms)[1]
        if self.kg.x_text is None:
            return sp.csr_matrix((n, 0))
        lengths = np.linalg.norm(self.kg.x_text, axis=1)
        unit = float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 1.0
        return sp.csr_matrix(self.kg.x_text * (TEXT_WEIGHT / unit))

    @cached_property
    def counts(self) -> sp.csr_matrix:
        """(N, 2 R) log(1 + edges) of each relation as head and as tail."""
        return relation_counts(self.kg)

    @cached_property
    def degree(self) -> Float:
        """(N, 1) log(1 + neighbours)."""
        return log_degree(self.kg).astype(np.float64)

    @cached_property
    def memberships(self) -> sp.csr_matrix:
        """(N, stars) who stands at the end of which relation, of those that at least 3 share, on the scale of words."""
        stars = RelationStarBuilder(include_anchor=False, min_size=3)(self.kg)
        weight = TEXT_WEIGHT / np.sqrt(np.maximum(stars.degrees, 1))
        node, hyperedge = stars.hyperedge_index
        return sp.csr_matrix((weight[node], (node, hyperedge)), shape=(stars.num_nodes, stars.num_hyperedges))

    @cached_property
    def everything(self) -> sp.csr_matrix:
        """(N, F) words, relation counts and degree side by side."""
        return _beside(self.words, self.counts, self.degree)

    @cached_property
    def dense(self) -> npt.NDArray[np.float32]:
        """(N, 129) degree, 64 singular vectors of the adjacency and 64 of the words."""
        words = "tfidf" if self.kg.text is not None or self.kg.x_text is None else "given"
        config = FeatureConfig(
            structure=("degree", "svd"), text=words, text_width=64, max_terms=self.config.max_terms,
            min_documents=self.config.min_documents,
        )  # fmt: skip
        structure, text, _ = make_features(self.kg, config, seed=self.seed, cache=False)
        return np.concatenate([structure, text], axis=1)

    @cached_property
    def rank(self) -> Float:
        """(N,) PageRank."""
        return pagerank(self.kg)

    # ---- predictions ---------------------------------------------------------------------------------------------

    def predictions(self, part: Part, only: Sequence[str] | None = None) -> dict[str, Float]:
        """(N,) scores of all nodes by every baseline, fitted on the training nodes of one fold.

        ``random`` (a constant, which by expectation over ties ranks as a random order does), ``degree``, ``pagerank``,
        ``personalised-pagerank`` (restart at the training nodes, in proportion to their labels), ``ridge-degree`` (log
        degree and log PageRank), ``ridge-text``, ``ridge-counts``, ``ridge`` (text, counts, degree; penalty 20),
        ``ridge-tuned`` (its penalty from :data:`ALPHAS` by validation), ``ridge-neighbours`` (the same with
        :attr:`memberships`, likewise) and ``boosting`` (gradient boosting on :attr:`dense`).

        Args:
            part: (N,) 0 train, 1 validation, 2 test, -1 without label.
            only: which; None: all.
        """
        y = self.kg.y.astype(np.float64)
        train = np.flatnonzero(part == TRAIN)
        restart = np.zeros(len(y))
        restart[train] = y[train] - min(float(y[train].min()), 0.0) + 1e-9
        simple = sp.csr_matrix(np.column_stack([self.degree, _standard(np.log(self.rank))]))
        makers = {
            "random": lambda: np.full(len(y), y[train].mean()),
            "degree": lambda: self.degree[:, 0],
            "pagerank": lambda: self.rank,
            "personalised-pagerank": lambda: pagerank(self.kg, restart),
            "ridge-degree": lambda: ridge(simple, y, train, 1.0),
            "ridge-text": lambda: ridge(self.words / TEXT_WEIGHT, y, train, 3.0),
            "ridge-counts": lambda: ridge(self.counts, y, train, 5.0),
            "ridge": lambda: ridge(self.everything, y, train, 20.0),
            "ridge-tuned": lambda: self._tuned(self.everything, part)[0],
            "ridge-neighbours": lambda: self._tuned(_beside(self.everything, self.memberships), part)[0],
            "boosting": lambda: self._boosted(train),
        }
        return {name: np.asarray(make()) for name, make in makers.items() if only is None or name in only}

    def _tuned(self, x: sp.csr_matrix, part: Part) -> tuple[Float, float]:
        """Predictions under the penalty that ranks the validation nodes best, and that penalty."""
        y = self.kg.y.astype(np.float64)
        train, val = np.flatnonzero(part == TRAIN), np.flatnonzero(part == VAL)
        tried = {alpha: ridge(x, y, train, alpha) for alpha in ALPHAS}
        best = max(ALPHAS, key=lambda alpha: importance_metrics(y[val], tried[alpha][val], ())[HEADLINE])
        return tried[best], best

    def _boosted(self, train: npt.NDArray[np.int64]) -> Float:
        model = HistGradientBoostingRegressor(
            max_iter=150, learning_rate=0.06, early_stopping=False, random_state=self.seed % 2**32
        )
        model.fit(self.dense[train], self.kg.y[train])
        # Only labelled nodes are measured, but scores are wanted of all.
        return np.asarray(model.predict(self.dense), dtype=np.float64)

    def measure(self, part: Part, split: int = 2, only: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
        """Metrics of every baseline on a part, by default the test nodes; rankings have no ``rmse`` and the like."""
        at = np.flatnonzero(part == split)
        found = {}
        for name, score in self.predictions(part, only).items():
            metrics = importance_metrics(self.kg.y[at], score[at])
            found[name] = {k: v for k, v in metrics.items() if not (name in _RANKINGS and k in _ERRORS)}
        return found


@lru_cache(maxsize=1)
def of(kg: KnowledgeGraph) -> Baselines:
    """The baselines of a graph with their defaults; those of the last graph are kept, for its other folds."""
    return Baselines(kg)


def measure(kg: KnowledgeGraph, part: Part) -> Mapping[str, Mapping[str, float]]:
    """Metrics of all baselines on the test nodes of one fold, see :class:`Baselines`."""
    return of(kg).measure(part)


def ridge(x: sp.csr_matrix, y: Float, train: npt.NDArray[np.int64], alpha: float) -> Float:
    """(N,) predictions of a ridge regression with intercept, fitted on some rows.

    Args:
        x: (N, F).
        y: (N,), read at ``train`` alone.
        train: rows.
        alpha: penalty on the squared weights, as in scikit-learn.
    """
    model = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-5).fit(x[train], y[train])
    return np.asarray(x @ model.coef_ + model.intercept_)


def _beside(*parts: sp.csr_matrix | Float) -> sp.csr_matrix:
    return sp.hstack([sp.csr_matrix(part) for part in parts]).tocsr().astype(np.float64)


def _standard(values: Float) -> Float:
    spread = float(values.std())
    return (values - values.mean()) / (spread or 1.0)


__all__ = ["ALPHAS", "FLOORS", "Baselines", "measure", "of", "pagerank", "ridge"]
