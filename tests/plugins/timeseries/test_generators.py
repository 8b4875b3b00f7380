from __future__ import annotations

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from polycontrast.config import MethodConfig  # noqa: E402
from polycontrast_timeseries.classification import accuracy, logistic, one_nn_dtw, one_nn_euclidean  # noqa: E402
from polycontrast_timeseries.config import SeriesConfig  # noqa: E402
from polycontrast_timeseries.forecasting import dlinear, persistence, ridge, seasonal_naive  # noqa: E402
from polycontrast_timeseries.generators import (  # noqa: E402
    demo_cases,
    demo_series,
    motif_cases,
    seasonal_frame,
    synthetic_trend,
    trend_series,
    wave_cases,
)

CONFIG = MethodConfig(data=SeriesConfig())


def test_demo_series_is_an_hourly_frame_of_its_seed() -> None:
    data = demo_series(CONFIG, 0, "train")
    assert data.values.shape == (2000, 5)
    assert (data.frequency, data.period, data.name) == ("h", 24, "demo")
    assert np.isfinite(data.values).all()
    np.testing.assert_array_equal(data.values, demo_series(CONFIG, 0, "evaluate").values)
    other = demo_series(CONFIG, 1, "train").values
    # Other phases, not only other noise.
    assert abs(np.corrcoef(data.values[:, 0], other[:, 0])[0, 1]) < 0.95
    assert demo_series(CONFIG, 0, "predict").borders == {"all": (0, 2000)}
    assert 3 <= data.values.shape[1] <= 7


@pytest.mark.parametrize("seed", range(5))
def test_linear_baselines_work_on_the_demo(seed: int) -> None:
    data = demo_series(CONFIG, seed, "train")
    error = {
        name: found["mse"]
        for f in (persistence, seasonal_naive, ridge)
        for name, found in f(data, 96, (24, 48)).items()
    }
    assert error["ridge"] < 0.75 * error["seasonal_naive"]
    assert error["ridge"] < 0.5 * error["persistence"]
    if seed == 0:
        assert dlinear(data, 96, (24, 48), seed=0)["dlinear"]["mse"] < 0.75 * error["seasonal_naive"]


def test_level_shifts_and_trend_are_there() -> None:
    # Averages over a day leave level, trend and the slow cycle; they move by more than noise would make them.
    frame = seasonal_frame(channels=40, seed=3)
    scaled = (frame - frame.mean()) / frame.std()
    days = scaled.to_numpy()[: 83 * 24].reshape(83, 24, 40).mean(axis=1)
    halves = np.abs(days[:41].mean(axis=0) - days[42:].mean(axis=0))
    assert np.median(halves) > 0.1


def test_trend_series_is_the_formula_with_noise_of_a_tenth() -> None:
    for a, b, steps in ((300.0, 3.0, 400), (600.0, 100.0, 2000)):
        y = trend_series(a=a, b=b, steps=steps, seed=4)
        t = np.linspace(0, 1, steps)
        noise = y[:, 0] - (np.cos(a * t) + np.cos(a * t / 2) + np.cos(a * t / 4) + b * t)
        assert abs(noise.std() - 0.1) < 0.015
        assert abs(noise.mean()) < 0.02
    assert not np.array_equal(trend_series(seed=0), trend_series(seed=1))
    data = synthetic_trend(CONFIG, 0, "train")
    assert data.values.shape == (400, 1)
    # The slowest cosine: 2 pi / (300 / 4) of the length.
    assert abs(data.period - 33.5) <= 1
    assert ridge(data, 96, (24,))["ridge"]["mse"] < 0.3 * seasonal_naive(data, 96, (24,))["seasonal_naive"]["mse"]


@pytest.mark.parametrize("seed", range(3))
def test_strong_baselines_work_on_the_demo_cases(seed: int) -> None:
    data = demo_cases(CONFIG, seed, "train")
    assert data.x["train"].shape == (90, 96, 2)
    assert data.x["test"].shape == (300, 96, 2)
    assert np.bincount(data.y["train"]).tolist() == [30, 30, 30]
    train, y, test, truth = (a.numpy() for a in (data.x["train"], data.y["train"], data.x["test"], data.y["test"]))
    assert accuracy(truth, one_nn_euclidean(train, y, test)) > 0.8
    assert accuracy(truth, logistic(train, y, test, seed=seed)) > 0.55
    if seed == 0:
        assert accuracy(truth, one_nn_dtw(train, y, test)) > 0.85


def test_demo_cases_depend_on_the_seed_and_need_no_labels_to_predict() -> None:
    assert not np.array_equal(wave_cases(9, seed=0)[0], wave_cases(9, seed=1)[0])
    np.testing.assert_array_equal(wave_cases(9, seed=0)[0], wave_cases(9, seed=0)[0])
    data = demo_cases(CONFIG, 0, "train")
    assert not np.array_equal(data.raw["train"][:90], data.raw["test"][:90])
    assert set(demo_cases(CONFIG, 0, "predict").splits["all"][[0]]) == {"id", "x"}


def test_motifs_are_where_the_mask_says() -> None:
    x, y, informative = motif_cases(60, seed=3)
    assert x.shape == (60, 128, 2)
    assert np.bincount(y).tolist() == [30, 30]
    assert (informative.sum(1) == 32).all()
    starts = informative.argmax(1)
    assert len(set(starts.tolist())) > 20
    # The motif of a class is the same everywhere, up to its gain; bursts are not.
    rows = np.stack([x[i, s : s + 32, 0] for i, s in enumerate(starts)])
    within = np.corrcoef(rows)[np.ix_(y == 1, y == 1)]
    assert within.mean() > 0.7
    outside = np.stack([np.roll(x[i, :, 0], -s)[32:] for i, s in enumerate(starts)])
    assert abs(np.corrcoef(outside)[np.ix_(y == 1, y == 1)][~np.eye(30, dtype=bool)].mean()) < 0.1
    assert (motif_cases(60, seed=4)[0] != x).any()
