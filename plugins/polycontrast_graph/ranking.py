"""How well predicted scores put nodes in order, with ties that no sorting order can decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Float = npt.NDArray[np.float64]

KS = (20, 50, 100, 200)
"""Ranks that the literature cuts lists at."""
HEADLINE = "spearman"


def importance_metrics(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, ks: Sequence[int] = KS) -> dict[str, float]:
    """The metrics of the literature on node importance.

    Args:
        y_true: (n,) labels, log(1 + score).
        y_pred: (n,) predictions on the same scale.
        ks: ranks, capped at n.

    Returns:
        ``ndcg@K`` and ``ndcg`` (the whole list), ``overlap@K``, ``spearman`` (0 when one side is constant), ``rmse``
        and ``median_absolute_error``.
    """
    true, predicted = _both(y_true, y_pred)
    error = np.abs(true - predicted)
    gains = _expected(predicted, true)
    return {
        **{f"ndcg@{k}": _ndcg(true, gains, k) for k in ks},
        "ndcg": _ndcg(true, gains, len(true)),
        **{f"overlap@{k}": overlap_at(true, predicted, k) for k in ks},
        "spearman": spearman(true, predicted),
        "rmse": float(np.sqrt((error**2).mean())),
        "median_absolute_error": float(np.median(error)),
    }


def ndcg_at(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, k: int) -> float:
    """NDCG@k with linear gain of the label and discount 1 / log2(1 + rank).

    Nodes that are predicted alike share the mean of their gains (McSherry & Najork 2008), which is the expectation
    over all orders of them: a constant prediction scores what a random order scores, whatever order the rows have.

    Args:
        y_true: (n,) labels, at least 0.
        y_pred: (n,).
        k: rank at which the list is cut.
    """
    true, predicted = _both(y_true, y_pred)
    return _ndcg(true, _expected(predicted, true), k)


def overlap_at(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, k: int) -> float:
    """Share of the k nodes with the highest labels that are among the k with the highest predictions.

    Where ties leave open who belongs to the k, on either side, it is the expectation over all choices.
    """
    true, predicted = _both(y_true, y_pred)
    k = min(k, len(true))
    return float((_within(true, k) * _within(predicted, k)).sum() / k)


def spearman(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """Correlation of ranks, mean ranks for ties; 0 when one side is constant."""
    true, predicted = (rankdata(part) for part in _both(y_true, y_pred))
    true, predicted = true - true.mean(), predicted - predicted.mean()
    scale = np.sqrt((true**2).sum() * (predicted**2).sum())
    return float((true * predicted).sum() / scale) if scale > 0 else 0.0


def _both(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> tuple[Float, Float]:
    true, predicted = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if true.ndim != 1 or true.shape != predicted.shape or not len(true):
        raise ValueError(f"labels and predictions must be two equal lists, got shapes {true.shape}, {predicted.shape}")
    if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
        raise ValueError("labels and predictions must be finite")
    return true, predicted


def _expected(predicted: Float, gain: Float) -> Float:
    """(n,) expected gain at each rank of the list sorted by prediction."""
    _, group, size = np.unique(-predicted, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=gain) / size
    return np.repeat(mean, size)


def _ndcg(true: Float, gains: Float, k: int) -> float:
    k = min(k, len(true))
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = float((np.sort(true)[::-1][:k] * discount).sum())
    return float((gains[:k] * discount).sum()) / ideal if ideal > 0 else 0.0


def _within(values: Float, k: int) -> Float:
    """(n,) probability to be among the k highest when ties are broken by lot."""
    last = np.partition(values, len(values) - k)[len(values) - k]
    above, tied = values > last, values == last
    return above + tied * ((k - above.sum()) / tied.sum())


__all__ = ["HEADLINE", "KS", "importance_metrics", "ndcg_at", "overlap_at", "spearman"]
