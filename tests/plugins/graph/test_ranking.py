from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from polycontrast_graph.ranking import importance_metrics, ndcg_at, overlap_at, spearman

rng = np.random.default_rng(0)


def all_orders(true: np.ndarray, predicted: np.ndarray, k: int) -> tuple[float, float]:
    """NDCG and overlap as means over every way to break ties."""
    gains, shares = [], []
    orders = [
        sum(walk, ())
        for walk in itertools.product(
            *(itertools.permutations(np.flatnonzero(predicted == v).tolist()) for v in sorted(set(predicted))[::-1])
        )
    ]
    tops = [
        set(sum(walk, ())[:k])
        for walk in itertools.product(
            *(itertools.permutations(np.flatnonzero(true == v).tolist()) for v in sorted(set(true))[::-1])
        )
    ]
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = (np.sort(true)[::-1][:k] * discount).sum()
    for order in orders:
        gains.append((true[list(order)][:k] * discount).sum() / ideal)
        shares += [len(set(order[:k]) & top) / k for top in tops]
    return float(np.mean(gains)), float(np.mean(shares))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_ties_are_expectations_over_all_orders(k: int) -> None:
    true, predicted = np.array([3.0, 1.0, 2.0, 3.0, 0.5, 2.0]), np.array([1.0, 1.0, 0.0, 2.0, 0.0, 1.0])
    gain, share = all_orders(true, predicted, k)
    assert ndcg_at(true, predicted, k) == pytest.approx(gain)
    assert overlap_at(true, predicted, k) == pytest.approx(share)


def test_a_constant_scores_like_a_random_order_whatever_the_rows_are_sorted_by() -> None:
    true = np.sort(rng.uniform(0, 10, 500))[::-1]
    constant = importance_metrics(true, np.ones(500))
    shuffled = [importance_metrics(true, rng.random(500)) for _ in range(300)]
    for name in ("ndcg@20", "ndcg@100", "ndcg", "overlap@100"):
        mean = np.mean([row[name] for row in shuffled])
        assert constant[name] == pytest.approx(mean, abs=0.01)
    assert constant["spearman"] == 0.0


def test_against_libraries() -> None:
    true, predicted = rng.uniform(0, 5, 200), rng.normal(size=200).round(1)
    assert spearman(true, predicted) == pytest.approx(spearmanr(true, predicted).statistic)
    for k in (10, 200):
        assert ndcg_at(true, predicted, k) == pytest.approx(ndcg_score(true[None], predicted[None], k=k))


def test_bounds_and_small_sets() -> None:
    true = np.array([1.0, 2.0, 4.0])
    best, worst = importance_metrics(true, true), importance_metrics(true, -true)
    assert best["ndcg@100"] == best["overlap@20"] == best["spearman"] == 1.0
    assert best["rmse"] == best["median_absolute_error"] == 0.0
    assert worst["spearman"] == -1.0
    assert ndcg_at(np.zeros(4), np.arange(4), 2) == 0.0


@pytest.mark.parametrize(
    ("true", "predicted", "words"),
    [([1.0], [1.0, 2.0], "two equal lists"), ([], [], "two equal lists"), ([1.0, 2.0], [np.nan, 1.0], "finite")],
)
def test_what_is_refused(true: list[float], predicted: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        importance_metrics(true, predicted)
