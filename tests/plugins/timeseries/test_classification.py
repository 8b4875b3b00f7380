from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pandas")

from polycontrast_timeseries import classification
from polycontrast_timeseries.classification import (
    accuracy,
    baselines,
    dtw,
    logistic,
    one_nn_dtw,
    one_nn_euclidean,
    svm_probe,
)


def slow_dtw(a: np.ndarray, b: np.ndarray, width: int) -> float:
    cost = np.full((len(a) + 1, len(b) + 1), np.inf)
    cost[0, 0] = 0.0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            if abs(i - j) <= width:
                here = ((a[i - 1] - b[j - 1]) ** 2).sum()
                cost[i, j] = here + min(cost[i - 1, j], cost[i, j - 1], cost[i - 1, j - 1])
    return float(cost[-1, -1])


@pytest.mark.parametrize("shape", [(12, 12), (12, 9), (9, 12), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("band", [None, 0.0, 0.2, 0.5, 1.0])
def test_dtw_equals_the_textbook(shape: tuple[int, int], band: float | None) -> None:
    rng = np.random.default_rng(sum(shape))
    cases, others = rng.normal(size=(3, shape[0], 2)), rng.normal(size=(4, shape[1], 2))
    longer = max(shape)
    width = longer if band is None else max(int(np.ceil(band * longer)), abs(shape[0] - shape[1]))
    expected = [[slow_dtw(case, other, width) for other in others] for case in cases]
    np.testing.assert_allclose(dtw(cases, others, band=band), expected)


def test_dtw_by_hand() -> None:
    # The peak is a step later: warping makes up for it, the diagonal does not.
    assert dtw([[0.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]).tolist() == [[0.0]]
    assert dtw([[0.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]], band=0.0).tolist() == [[2.0]]


def test_nearest_neighbours() -> None:
    rng = np.random.default_rng(0)
    train, test, y = rng.normal(size=(20, 15, 2)), rng.normal(size=(7, 15, 2)), np.arange(20) % 3
    nearest = [((train - case) ** 2).sum(axis=(1, 2)).argmin() for case in test]
    assert one_nn_euclidean(train, y, test).tolist() == y[nearest].tolist()
    warped = [np.argmin([slow_dtw(case, other, 2) for other in train]) for case in test]
    assert one_nn_dtw(train, y, test, band=0.1).tolist() == y[warped].tolist()
    assert one_nn_dtw(train, y, test, band=0.0).tolist() == one_nn_euclidean(train, y, test).tolist()


def blobs(n: int, seed: int, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = distance * np.eye(3, 5)
    return centres[y] + rng.normal(size=(n, 5)), y


def test_svm_probe_on_blobs() -> None:
    x, y = blobs(150, 0)
    test, truth = blobs(300, 1)
    first = svm_probe(x, y, test, seed=0)
    assert accuracy(truth, first) > 0.75
    assert first.tolist() == svm_probe(x, y, test, seed=0).tolist()
    assert svm_probe(x, np.zeros(150), test, seed=0).tolist() == [0] * 300


def test_small_sets_use_a_hard_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("cross-validated")

    monkeypatch.setattr(classification, "GridSearchCV", fail)
    x, y = blobs(49, 0, distance=6.0)
    test, truth = blobs(90, 1, distance=6.0)
    assert accuracy(truth, svm_probe(x, y, test, seed=0)) > 0.9
    # Separable: a hard margin knows every training case.
    assert accuracy(y, svm_probe(x, y, x, seed=0)) == 1.0
    x, y = blobs(60, 0, distance=6.0)
    svm_probe(x, np.arange(60) % 20, test, seed=0)
    with pytest.raises(AssertionError, match="cross-validated"):
        svm_probe(x, y, test, seed=0)


def test_the_svm_does_not_look_at_the_test_cases() -> None:
    x, y = blobs(90, 0)
    test, _ = blobs(60, 1)
    assert svm_probe(x, y, test, seed=0)[:30].tolist() == svm_probe(x, y, test[:30], seed=0).tolist()


def test_large_sets_are_thinned_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat([0, 1], [900, 100])
    keep = classification._stratified(labels, 100, 0)
    assert np.bincount(labels[keep]).tolist() == [90, 10]
    assert len(set(keep.tolist())) == 100
    monkeypatch.setattr(classification, "_MOST_CASES", 60)
    x, y = blobs(300, 0, distance=6.0)
    assert accuracy(y, svm_probe(x, y, x, seed=0)) > 0.9


def test_logistic_on_raw_values() -> None:
    x, y = blobs(90, 0, distance=3.0)
    test, truth = blobs(300, 1, distance=3.0)
    assert accuracy(truth, logistic(x, y, test, seed=0)) > 0.85
    x[0, 2] = np.nan
    test[5, 1] = np.nan
    assert accuracy(truth, logistic(x[:, :, None], y, test[:, :, None], seed=0)) > 0.85
    # Classes of one case cannot be cross-validated, but fitted.
    assert logistic(np.eye(3), [0, 1, 2], np.eye(3), seed=0).tolist() == [0, 1, 2]
    assert logistic(np.eye(3), [1, 1, 1], np.eye(3), seed=0).tolist() == [1, 1, 1]


def test_baselines_in_one_call() -> None:
    x, y = blobs(60, 0, distance=6.0)
    test, truth = blobs(90, 1, distance=6.0)
    found = baselines(x, y, test, truth, seed=0)
    assert set(found) == {"majority", "one_nn_euclidean", "one_nn_dtw", "logistic"}
    assert found["majority"]["accuracy"] == pytest.approx(1 / 3)
    assert found["one_nn_euclidean"]["accuracy"] > 0.9


def test_dtw_of_large_sets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(60, 0, distance=6.0)
    cells = 0.2 * x.shape[1] ** 2 * len(x)
    monkeypatch.setattr(classification, "_MOST_CELLS", 20.5 * cells)
    found = baselines(x, y, x, y, seed=0)
    assert "one_nn_dtw" not in found
    assert found["one_nn_dtw_of_20"]["accuracy"] > 0.7
    monkeypatch.setattr(classification, "_MOST_CELLS", 2.5 * cells)
    assert not any("dtw" in name for name in baselines(x, y, x, y, seed=0))


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(n, D\)"):
        svm_probe(np.zeros((2, 3, 4)), [0, 1], np.zeros((2, 3)), seed=0)
    with pytest.raises(ValueError, match=r"\(n, L, C\)"):
        one_nn_euclidean(np.zeros(3), [0, 1, 2], np.zeros((1, 3)))
