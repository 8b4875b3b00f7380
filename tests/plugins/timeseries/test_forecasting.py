from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("pandas")

from sklearn.linear_model import Ridge

from polycontrast.errors import DataError
from polycontrast_timeseries import forecasting
from polycontrast_timeseries.config import SeriesConfig
from polycontrast_timeseries.forecasting import (
    RIDGE_GRID,
    ForecastError,
    dlinear,
    fill,
    metrics,
    persistence,
    ridge,
    score,
    seasonal_naive,
)
from polycontrast_timeseries.forecasting import _moving_average as moving_average
from polycontrast_timeseries.generators import seasonal_frame
from polycontrast_timeseries.pictures import forecasts_against_truth
from polycontrast_timeseries.series import SeriesDataset, from_frame

CONTEXT, HORIZONS = 30, (5, 12)


@pytest.fixture(scope="module")
def data() -> SeriesDataset:
    return from_frame(seasonal_frame(steps=400, channels=3, seed=1), SeriesConfig(features="MS"))


def slow(data: SeriesDataset, forecast: object, horizon: int) -> tuple[float, float]:
    """Errors by a loop over windows, one at a time, in numpy."""
    scaled = data.scaled.double().numpy()
    low, high = data.borders["test"]
    squared, absolute = [], []
    for first in range(low, high - horizon + 1):
        truth = scaled[first : first + horizon][:, list(data.targets)]
        error = forecast(scaled[first - CONTEXT : first], horizon) - truth  # type: ignore[operator]
        squared.append(error**2)
        absolute.append(np.abs(error))
    return float(np.mean(squared)), float(np.mean(absolute))


def check(found: dict[str, float], data: SeriesDataset, forecast: object) -> None:
    expected = {h: slow(data, forecast, h) for h in HORIZONS}
    for h in HORIZONS:
        assert found[f"mse_{h}"] == pytest.approx(expected[h][0], rel=1e-5)
        assert found[f"mae_{h}"] == pytest.approx(expected[h][1], rel=1e-5)
    assert found["mse"] == pytest.approx(np.mean([expected[h][0] for h in HORIZONS]), rel=1e-5)
    assert found["mae"] == pytest.approx(np.mean([expected[h][1] for h in HORIZONS]), rel=1e-5)
    assert set(found) == {"mse", "mae", "mse_5", "mae_5", "mse_12", "mae_12"}


@pytest.mark.parametrize("features", ["M", "S", "MS"])
def test_naive_forecasts_equal_a_slow_loop(features: str) -> None:
    data = from_frame(seasonal_frame(steps=400, channels=3), SeriesConfig(features=features, target="sensor_2"))  # type: ignore[arg-type]
    targets = list(data.targets)
    assert len(targets) == (3 if features == "M" else 1)
    check(persistence(data, CONTEXT, HORIZONS)["persistence"], data, lambda x, h: x[-1:, targets])
    check(
        seasonal_naive(data, CONTEXT, HORIZONS)["seasonal_naive"],
        data,
        lambda x, h: np.stack([x[CONTEXT - 24 + step % 24, targets] for step in range(h)]),
    )


def test_a_season_longer_than_the_context_repeats_the_context() -> None:
    data = from_frame(seasonal_frame(steps=400, channels=1), SeriesConfig(period=100))
    found = seasonal_naive(data, CONTEXT, HORIZONS)["seasonal_naive"]
    check(found, data, lambda x, h: np.stack([x[step % CONTEXT] for step in range(h)]))


def test_ridge_equals_scikit_learn_on_all_windows(data: SeriesDataset) -> None:
    series = data.scaled[:, list(data.targets)].double().numpy()
    longest = max(HORIZONS)

    def matrix(split: str) -> tuple[np.ndarray, np.ndarray]:
        low, high = data.borders[split]
        first = low if split == "train" else low - CONTEXT
        rows = [
            series[start : start + CONTEXT + longest, c]
            for start in range(first, high - CONTEXT - longest + 1)
            for c in range(series.shape[1])
        ]
        x = np.array(rows)
        x = x - x[:, CONTEXT - 1 : CONTEXT]
        return x[:, :CONTEXT], x[:, CONTEXT:]

    x, y = matrix("train")
    x_val, y_val = matrix("val")
    best = {}
    for h in HORIZONS:
        models = [Ridge(alpha=penalty).fit(x, y[:, :h]) for penalty in RIDGE_GRID]
        errors = [((m.predict(x_val) - y_val[:, :h]) ** 2).mean() for m in models]
        best[h] = models[int(np.argmin(errors))]

    def forecast(known: np.ndarray, h: int) -> np.ndarray:
        own = known[:, list(data.targets)]
        last = own[-1:]
        return best[h].predict((own - last).T).T + last

    check(ridge(data, CONTEXT, HORIZONS)["ridge"], data, forecast)


def test_ridge_chooses_its_penalty_without_the_test_part(data: SeriesDataset) -> None:
    _, high = data.borders["test"]
    frame = seasonal_frame(steps=400, channels=3, seed=1)
    # One far outlier at the very end: it is in the truth of the last window only.
    frame.iloc[high - 1] += 1000.0
    other = from_frame(frame, SeriesConfig(features="MS"))
    ours = score_of_all_but_the_last(data)
    theirs = score_of_all_but_the_last(other)
    assert ours == pytest.approx(theirs, rel=1e-6)


def score_of_all_but_the_last(data: SeriesDataset) -> float:
    found = ridge(
        SeriesDataset(
            **{
                **{f: getattr(data, f) for f in ("name", "values", "channels", "mean", "std", "targets")},
                "borders": {**data.borders, "test": (data.borders["test"][0], data.borders["test"][1] - 1)},
            }
        ),
        CONTEXT,
        HORIZONS,
    )
    return found["ridge"]["mse"]


def test_moving_average_repeats_the_ends() -> None:
    x = np.random.default_rng(0).normal(size=40)
    padded = np.concatenate([np.full(12, x[0]), x, np.full(12, x[-1])])
    expected = np.array([padded[i : i + 25].mean() for i in range(40)])
    np.testing.assert_allclose(torch.from_numpy(x).float() @ moving_average(40, 25), expected, atol=1e-6)
    np.testing.assert_allclose(moving_average(7, 25).sum(dim=0), 1.0, rtol=1e-6)


def test_dlinear_learns_and_is_a_function_of_its_seed(data: SeriesDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "DLINEAR_GRID", (0.005,))
    state = torch.random.get_rng_state()
    found = dlinear(data, CONTEXT, HORIZONS, seed=0)["dlinear"]
    assert torch.equal(state, torch.random.get_rng_state())
    assert set(found) == {"mse", "mae", "mse_5", "mae_5", "mse_12", "mae_12"}
    assert found["mse"] < persistence(data, CONTEXT, HORIZONS)["persistence"]["mse"]
    assert dlinear(data, CONTEXT, HORIZONS, seed=0)["dlinear"] == found
    assert dlinear(data, CONTEXT, HORIZONS, seed=1)["dlinear"] != found


def test_dlinear_learns_what_is_linear() -> None:
    t = np.arange(400)
    wave = from_frame(np.stack([np.sin(t * 2 * np.pi / p) for p in (10, 17)], axis=1))
    threads = torch.get_num_threads()
    assert dlinear(wave, CONTEXT, (12,), seed=0)["dlinear"]["mse"] < 0.01
    assert torch.get_num_threads() == threads


def test_forecasters_see_nothing_after_the_context(data: SeriesDataset) -> None:
    seen: list[Tensor] = []

    def spy(x: Tensor, horizon: int) -> Tensor:
        seen.append(x)
        return torch.zeros(len(x), horizon, 1)

    score(data, CONTEXT, HORIZONS, spy, batch_size=7)
    assert all(x.shape[1] == CONTEXT and len(x) <= 7 for x in seen)
    low, high = data.borders["test"]
    assert sum(map(len, seen)) == sum(high - low - h + 1 for h in HORIZONS)


def test_dlinear_takes_the_learning_rate_that_validates_best(
    data: SeriesDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def fit(*_: object, lr: float, seed: int) -> tuple[float, object]:
        tried.append(lr)
        return abs(lr - 0.001), lambda known: torch.full((len(known), 12, 1), lr)

    monkeypatch.setattr(forecasting, "_fit_dlinear", fit)
    found = dlinear(data, CONTEXT, (12,), seed=0)["dlinear"]["mse"]
    constant = score(data, CONTEXT, (12,), lambda x, h: torch.full((len(x), h, 1), 0.001))["mse"]
    assert tried == list(forecasting.DLINEAR_GRID)
    assert found == constant


def test_missing_truth_is_left_out_and_gaps_are_filled() -> None:
    frame = seasonal_frame(steps=400, channels=2)
    whole = from_frame(frame)
    low, _ = whole.borders["test"]
    frame.iloc[low + 20 : low + 25, 0] = np.nan
    frame.iloc[0, 1] = np.nan
    holed = from_frame(frame, SeriesConfig(missing="hidden"))
    for found in (
        persistence(holed, CONTEXT, HORIZONS), seasonal_naive(holed, CONTEXT, HORIZONS),
        ridge(holed, CONTEXT, HORIZONS), dlinear(holed, CONTEXT, HORIZONS, seed=0),
    ):  # fmt: skip
        assert all(np.isfinite(list(values.values())).all() for values in found.values())
    nan = float("nan")
    x = torch.tensor([[[nan, 1.0], [2.0, nan], [nan, nan], [3.0, 4.0]]])
    assert fill(x).tolist() == [[[0.0, 1.0], [2.0, 1.0], [2.0, 1.0], [3.0, 4.0]]]


def test_errors_by_hand() -> None:
    truth = torch.tensor([[[1.0], [2.0]], [[float("nan")], [4.0]]])
    prediction = torch.tensor([[[2.0], [2.0]], [[9.0], [1.0]]])
    assert metrics(truth, prediction) == {"mse": pytest.approx(10 / 3), "mae": pytest.approx(4 / 3)}
    error = ForecastError((1, 2))
    error.update(2, truth[:1], prediction[:1])
    error.update(2, truth[1:], prediction[1:])
    error.update(1, truth[:1, :1], prediction[:1, :1])
    found = error.metrics()
    assert found["mse_2"] == pytest.approx(10 / 3)
    assert found["mse_1"] == 1.0
    assert found["mse"] == pytest.approx((10 / 3 + 1) / 2)
    # A forecast that is NaN is no gap in the truth.
    assert np.isnan(metrics(prediction, truth)["mse"])
    with pytest.raises(ValueError, match="horizon 1 needs"):
        error.update(1, truth, prediction)


def test_errors_are_summed_in_double_precision() -> None:
    error = ForecastError((1,))
    for _ in range(200):
        error.update(1, torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1e4))
        error.update(1, torch.zeros(1000, 1, 1), torch.full((1000, 1, 1), 0.1))
    assert error.metrics()["mse_1"] == pytest.approx((1e8 + 1000 * 0.01) / 1001, rel=1e-9)


def test_a_part_that_is_too_short(data: SeriesDataset) -> None:
    with pytest.raises(DataError, match="part 'test' has 80 rows"):
        persistence(data, CONTEXT, (5, 81))


def test_charts_show_the_truth_and_the_forecast_in_original_units() -> None:
    values = np.stack([np.arange(400.0), 1000.0 + 10.0 * np.arange(400.0)], axis=1)
    dataset = from_frame(values, SeriesConfig())
    charts = forecasts_against_truth(dataset, 20, 6, lambda x, h: x[:, -1:].expand(-1, h, -1))
    assert [chart.title.split(",")[0] for chart in charts] == ["c0", "c1"]
    x, truth, answer = charts[1].x, charts[1].lines["truth"], charts[1].lines["forecast"]
    assert list(x) == list(range(-11, 7))
    assert np.diff(truth) == pytest.approx(10.0)
    assert np.isnan(answer[:12]).all()
    assert answer[12:] == pytest.approx([truth[11]] * 6)
