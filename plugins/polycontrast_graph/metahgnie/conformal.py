"""Intervals that hold a given share of scores, without assumptions on the model: split-conformal prediction."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def radius(y: npt.ArrayLike, score: npt.ArrayLike, coverage: float) -> float:
    """Half the width of an interval around a score that holds the label of a new node with probability ``coverage``.

    The ``ceil((n + 1) coverage)``-th smallest absolute error of n nodes that neither training nor stopping has seen
    (Lei et al. 2018, "Distribution-free predictive inference for regression", section 2).

    Args:
        y: (n,) labels.
        score: (n,) predictions of them.
        coverage: in (0, 1).

    Returns:
        Infinity with less than :func:`fewest` nodes: no finite interval can promise that coverage then.
    """
    error = np.sort(np.abs(np.asarray(y, dtype=np.float64) - np.asarray(score, dtype=np.float64)))
    rank = math.ceil(round((len(error) + 1) * coverage, 9))
    return float(error[rank - 1]) if rank <= len(error) else math.inf


def fewest(coverage: float) -> int:
    """Nodes that an interval of finite width has to be calibrated on."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def covered(y: npt.ArrayLike, score: npt.ArrayLike, half: float) -> float:
    """Share of labels within ``half`` of their scores."""
    return float((np.abs(np.asarray(y) - np.asarray(score)) <= half).mean())


__all__ = ["covered", "fewest", "radius"]
