"""Probes on representations of labelled series, and the classifiers that every method is measured against."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from polycontrast.data import derive_seed

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SVM_GRID = (*(10.0**k for k in range(-4, 5)), float("inf"))
"""Values of C from which :func:`svm_probe` chooses; infinity stands for a hard margin."""
LOGISTIC_GRID = tuple(10.0**k for k in range(-4, 3))
"""Values of C from which :func:`logistic` chooses."""

_HARD_MARGIN = 1e12
_MOST_CASES = 10_000
_MOST_CELLS = 2e10
"""Cells of dynamic programmes, times channels, that the baselines spend on DTW: some minutes of one core."""


def accuracy(y: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of right answers."""
    return float(np.mean(np.asarray(y) == np.asarray(predicted)))


def svm_probe(train_features: npt.ArrayLike, y: npt.ArrayLike, test_features: npt.ArrayLike, *, seed: int) -> Int:
    """Support vector machine with an RBF kernel, by the protocol of TS2Vec (Yue et al. 2022), after T-Loss.

    Kernel width "scale". C is chosen from :data:`SVM_GRID` by five-fold cross-validation on the training cases; with
    fewer than 50 cases, or fewer than five per class on average, a hard margin is used instead. From more than
    10 000 cases as many are drawn, with equal shares of the classes.

    Args:
        train_features: (n, D).
        y: (n,) integer classes.
        test_features: (m, D).
        seed: of the folds and the draw.

    Returns:
        (m,) predicted classes.
    """
    x, labels, test = _features(train_features), np.asarray(y, dtype=np.int64), _features(test_features)
    classes, counts = np.unique(labels, return_counts=True)
    state = derive_seed(seed, "svm") % (1 << 32)
    if len(classes) == 1:
        return np.full(len(test), classes[0])
    if len(labels) < 50 or len(labels) / len(classes) < 5:
        return _answer(_svm(C=_HARD_MARGIN), x, labels, test)
    if len(labels) > _MOST_CASES:
        keep = _stratified(labels, _MOST_CASES, state)
        x, labels = x[keep], labels[keep]
    grid = {"C": [_HARD_MARGIN if np.isinf(c) else c for c in SVM_GRID]}
    return _answer(GridSearchCV(_svm(), grid, cv=_folds(counts, state)), x, labels, test)


def _svm(**settings: Any) -> SVC:
    # A hard margin on classes that overlap would never end.
    return SVC(gamma="scale", max_iter=100_000, **settings)


def _answer(model: Any, x: Float, labels: Int, test: Float) -> Int:
    # Hundreds of small fits: several threads spend their time waiting for each other.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit(x, labels).predict(test), dtype=np.int64)


def logistic(train: npt.ArrayLike, y: npt.ArrayLike, test: npt.ArrayLike, *, seed: int) -> Int:
    """Multinomial logistic regression on raw values, each column standardised.

    C is chosen from :data:`LOGISTIC_GRID` by five-fold cross-validation, with fewer folds for small classes. Missing
    values count as the mean of their column.

    Args:
        train: (n, L, C) or (n, L).
        y: (n,) integer classes.
        test: (m, L, C) or (m, L).
        seed: of the folds.

    Returns:
        (m,) predicted classes.
    """
    x, other, labels = _raw(train), _raw(test), np.asarray(y, dtype=np.int64)
    x, other = x.reshape(len(x), -1), other.reshape(len(other), -1)
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return np.full(len(other), labels[0])
    seen = ~np.isnan(x)
    mean = np.where(seen, x, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    x, other = np.where(seen, x, mean), np.where(np.isnan(other), mean, other)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    if counts.min() < 2:
        return _answer(model, x, labels, other)
    state = derive_seed(seed, "logistic") % (1 << 32)
    search = GridSearchCV(model, {"logisticregression__C": list(LOGISTIC_GRID)}, cv=_folds(counts, state))
    return _answer(search, x, labels, other)


def one_nn_euclidean(train: npt.ArrayLike, y: npt.ArrayLike, test: npt.ArrayLike) -> Int:
    """Class of the nearest training case by Euclidean distance over all steps and channels.

    Args:
        train: (n, L, C) or (n, L); missing values count as 0, the mean of standardised data.
        y: (n,) integer classes.
        test: (m, L, C) or (m, L).

    Returns:
        (m,) predicted classes; the first of equally near cases decides.
    """
    x, other = np.nan_to_num(_raw(train)), np.nan_to_num(_raw(test))
    x, other = x.reshape(len(x), -1), other.reshape(len(other), -1)
    squared = (other**2).sum(axis=1)[:, None] - 2.0 * other @ x.T + (x**2).sum(axis=1)
    return np.asarray(y, dtype=np.int64)[squared.argmin(axis=1)]


def one_nn_dtw(train: npt.ArrayLike, y: npt.ArrayLike, test: npt.ArrayLike, *, band: float | None = 0.1) -> Int:
    """Class of the nearest training case by dynamic time warping, see :func:`dtw`.

    Args:
        train: (n, L, C) or (n, L); missing values count as 0.
        y: (n,) integer classes.
        test: (m, L, C) or (m, L).
        band: largest shift as a share of the length. None: any.

    Returns:
        (m,) predicted classes; the first of equally near cases decides.
    """
    x, other = np.nan_to_num(_raw(train)), np.nan_to_num(_raw(test))
    labels = np.asarray(y, dtype=np.int64)
    # As many cases at once as keep the working arrays small.
    size = max(1, 200_000 // x[..., 0].size)
    nearest = [dtw(other[i : i + size], x, band=band).argmin(axis=1) for i in range(0, len(other), size)]
    return labels[np.concatenate(nearest)]


def dtw(cases: npt.ArrayLike, others: npt.ArrayLike, *, band: float | None = None) -> Float:
    """Dynamic time warping of every case against every other, along one path for all channels.

    The least sum of squared differences over monotone paths from the first steps to the last (Sakoe & Chiba 1978).
    The dynamic programme runs over anti-diagonals, whose cells do not depend on each other, for all pairs at once.

    Args:
        cases: (m, L, C) or (m, L).
        others: (n, M, C) or (n, M).
        band: largest distance of a path from the diagonal, as a share of the longer length (at least what the two
            lengths differ by). None: any.

    Returns:
        (m, n) sums of squared differences; the root is not taken.
    """
    a, b = _raw(cases), _raw(others)
    rows, columns = a.shape[1], b.shape[1]
    width = max(rows, columns) if band is None else int(np.ceil(band * max(rows, columns)))
    width = max(width, abs(rows - columns))
    # Costs on this anti-diagonal and the two before, by row + 1; the cell before the first costs nothing.
    now, last, before = (np.full((len(a), len(b), rows + 1), np.inf) for _ in range(3))
    before[..., 0] = 0.0
    for diagonal in range(rows + columns - 1):
        low = max(0, diagonal - columns + 1, (diagonal - width + 1) // 2)
        high = min(rows - 1, diagonal, (diagonal + width) // 2)
        # What this buffer held three diagonals ago, and all that its neighbours may look at.
        now[..., max(low - 2, 0) : high + 4] = np.inf
        if low <= high:
            cost = np.zeros((len(a), len(b), high - low + 1))
            for channel in range(a.shape[2]):
                along = b[:, diagonal - high : diagonal - low + 1, channel][:, ::-1]
                cost += (a[:, None, low : high + 1, channel] - along) ** 2
            cell = now[..., low + 1 : high + 2]
            np.minimum(last[..., low : high + 1], last[..., low + 1 : high + 2], out=cell)
            np.minimum(cell, before[..., low : high + 1], out=cell)
            cell += cost
        if diagonal == 0:
            before[..., 0] = np.inf
        now, last, before = before, now, last
    return last[..., rows].copy()


def _features(x: npt.ArrayLike) -> Float:
    features = np.asarray(x, dtype=np.float64)
    if features.ndim != 2:
        raise ValueError(f"features must be (n, D), got {features.shape}")
    return features


def _raw(x: npt.ArrayLike) -> Float:
    """(n, L, C) float64."""
    values = np.asarray(x, dtype=np.float64)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3:
        raise ValueError(f"cases must be (n, L, C) or (n, L), got {values.shape}")
    return values


def _folds(counts: Int, state: int) -> StratifiedKFold:
    return StratifiedKFold(int(np.clip(counts.min(), 2, 5)), shuffle=True, random_state=state)


def _stratified(labels: Int, most: int, state: int) -> Int:
    order = np.random.default_rng(state).permutation(len(labels))
    # Rank of each case within its class, as a share of the class: the smallest ranks keep the proportions.
    rank = np.empty(len(labels))
    for c in np.unique(labels):
        mine = order[labels[order] == c]
        rank[mine] = np.arange(len(mine)) / len(mine)
    return np.sort(np.argsort(rank, kind="stable")[:most])


def baselines(
    x_train: npt.ArrayLike, y_train: npt.ArrayLike, x_test: npt.ArrayLike, y_test: npt.ArrayLike, *, seed: int
) -> dict[str, dict[str, float]]:
    """``{name: {"accuracy": share}}`` of the largest class, both nearest neighbours and logistic regression.

    On sets so large that 1-NN DTW would take many minutes it is measured against a stratified draw of the training
    cases, as many as are affordable, and called ``one_nn_dtw_of_N``; below one case per class it is left out.
    """
    y = np.asarray(y_train, dtype=np.int64)
    answers: dict[str, Any] = {
        "majority": np.full(len(np.asarray(y_test)), np.bincount(y).argmax()),
        "one_nn_euclidean": one_nn_euclidean(x_train, y, x_test),
        "logistic": logistic(x_train, y, x_test, seed=seed),
    }
    train, test = _raw(x_train), _raw(x_test)
    afford = int(_MOST_CELLS / (0.2 * train.shape[1] ** 2 * train.shape[2] * len(test)))
    if afford >= len(train):
        answers["one_nn_dtw"] = one_nn_dtw(train, y, test)
    elif afford >= len(np.unique(y)):
        keep = _stratified(y, afford, derive_seed(seed, "dtw") % (1 << 32))
        answers[f"one_nn_dtw_of_{afford}"] = one_nn_dtw(train[keep], y[keep], test)
    return {name: {"accuracy": accuracy(y_test, answer)} for name, answer in answers.items()}


__all__ = [
    "LOGISTIC_GRID", "SVM_GRID", "accuracy", "baselines", "dtw", "logistic", "one_nn_dtw", "one_nn_euclidean",
    "svm_probe",
]  # fmt: skip
