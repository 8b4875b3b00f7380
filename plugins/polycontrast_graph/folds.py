"""The split of the literature on node importance: folds of the labelled nodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TRAIN, VAL, TEST, UNLABELLED = 0, 1, 2, -1


def fractions(labelled: npt.NDArray[np.bool_], seed: int = 0) -> npt.NDArray[np.float64]:
    """Where each labelled node stands in [0, 1], in random order; -1 where there is no label.

    Args:
        labelled: (N,).
        seed: 0 is the literature's.

    Returns:
        (N,).
    """
    labelled = np.asarray(labelled, dtype=bool)
    place = np.full(len(labelled), -1.0)
    count = int(labelled.sum())
    # The legacy generator is part of the published protocol.
    place[labelled] = np.random.RandomState(seed).permutation(np.linspace(0.0, 1.0, count))
    return place


def folds(labelled: npt.NDArray[np.bool_], *, count: int = 5, seed: int = 0) -> npt.NDArray[np.int8]:
    """The part of every node in every fold.

    Fold k tests on the nodes from k / count to (k + 1) / count of :func:`fractions`, both ends included, validates
    on the next half as many, wrapping around, and trains on the rest. With five folds these are 70, 10 and 20 %.

    Args:
        labelled: (N,) whether a node has a label.
        count: folds.
        seed: of the draw.

    Returns:
        (count, N) int8: 0 train, 1 validation, 2 test, -1 without label.
    """
    place, width = fractions(labelled, seed), 1.0 / count
    parts = np.full((count, len(place)), UNLABELLED, dtype=np.int8)
    for k, part in enumerate(parts):
        low, high = width * k, width * k + width
        part[place >= 0] = TRAIN
        wraps = k == count - 1
        part[(place >= 0) & (place <= width / 2) if wraps else (place > high) & (place <= high + width / 2)] = VAL
        part[(place >= low) & (place <= high)] = TEST
    return parts


__all__ = ["TEST", "TRAIN", "UNLABELLED", "VAL", "folds", "fractions"]
