"""Intervals that hold a given share of scores, without assumptions on the model: split-conformal prediction."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from polycontrast.errors import DataError


def radius(y: npt.ArrayLike, score: npt.ArrayLike, coverage: float) -> float:
    """Half the width of an interval around a score that holds the label of a new node with probability ``coverage``.

    The ``ceil((n + 1) coverage)``-th smallest absolute error of n nodes that neither training nor stopping has seen
    (Lei et al. 2018, "Distribution-free predictive inference for regression", section 2).

    Args:
        y: (n,) labels.
        score: (n,) predictions of them.
        coverage: in (0, 1).

    Raises:
        DataError: too few nodes for that coverage.
    """
    error = np.sort(np.abs(np.asarray(y, dtype=np.float64) - np.asarray(score, dtype=np.float64)))
    rank = math.ceil(round((len(error) + 1) * coverage, 9))
    if rank > len(error):
        need = math.ceil(round(coverage / (1 - coverage), 9))
        raise DataError(
            f"intervals that hold {coverage:.0%} of the scores need {need} nodes to calibrate on, there are "
            f"{len(error)}; label more nodes or lower coverage"
        )
    return float(error[rank - 1])


def covered(y: npt.ArrayLike, score: npt.ArrayLike, half: float) -> float:
    """Share of labels within ``half`` of their scores."""
    return float((np.abs(np.asarray(y) - np.asarray(score)) <= half).mean())


__all__ = ["covered", "radius"]
