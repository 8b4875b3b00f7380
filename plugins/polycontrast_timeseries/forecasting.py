"""Forecast errors and the forecasters that every method is measured against.

All figures are on values standardised with the training part, over every window of a part (stride 1, the last
incomplete batch too), each number one mean over windows, steps and target channels. Missing truth is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from polycontrast.data import derive_seed
from polycontrast_timeseries.ridge import ridge_path
from polycontrast_timeseries.series import Scaler, SeriesDataset, Windows

Float = npt.NDArray[np.float64]
Forecast = Callable[[Tensor, int], Tensor]
"""Context (B, L, C) float32, standardised, and horizon H to the forecast (B, H, targets)."""

RIDGE_GRID = tuple(10.0**k for k in range(-2, 7))
"""Penalties from which :func:`ridge` chooses on the validation part."""
DLINEAR_GRID = (0.005, 0.001)
"""Learning rates from which :func:`dlinear` chooses on the validation part."""

_BLOCK_NUMBERS = 1 << 22
"""Numbers that a block of windows may hold: bounds the memory of everything below."""


class ForecastError:
    """Mean squared and mean absolute error per horizon, accumulated in float64.

    Args:
        horizons: steps ahead; errors of a horizon are averaged over steps 1 to H.
    """

    def __init__(self, horizons: Sequence[int]) -> None:
        self.horizons = tuple(horizons)
        self._squared = dict.fromkeys(self.horizons, 0.0)
        self._absolute = dict.fromkeys(self.horizons, 0.0)
        self._count = dict.fromkeys(self.horizons, 0)

    def update(self, horizon: int, truth: Tensor, prediction: Tensor) -> None:
        """Add windows.

        Args:
            horizon: one of :attr:`horizons`.
            truth: (B, horizon, C); NaN is left out.
            prediction: of the same shape. NaN makes the metric NaN.

        Raises:
            ValueError: the shapes differ or are not for this horizon.
        """
        if truth.shape != prediction.shape or truth.shape[1] != horizon:
            raise ValueError(
                f"horizon {horizon} needs (B, {horizon}, C), got truth {tuple(truth.shape)} and "
                f"prediction {tuple(prediction.shape)}"
            )
        seen = ~torch.isnan(truth)
        error = torch.where(seen, prediction.detach().to(truth.device).double() - truth.double(), 0.0)
        self._squared[horizon] += float(error.square().sum())
        self._absolute[horizon] += float(error.abs().sum())
        self._count[horizon] += int(seen.sum())

    def metrics(self) -> dict[str, float]:
        """``mse_H`` and ``mae_H`` for every horizon, and ``mse`` and ``mae``, their means over the horizons."""
        result: dict[str, float] = {}
        for name, total in (("mse", self._squared), ("mae", self._absolute)):
            by_horizon = [total[h] / self._count[h] if self._count[h] else float("nan") for h in self.horizons]
            result |= {f"{name}_{h}": value for h, value in zip(self.horizons, by_horizon, strict=True)}
            result[name] = sum(by_horizon) / len(by_horizon)
        return result


def metrics(truth: Tensor, prediction: Tensor) -> dict[str, float]:
    """``mse`` and ``mae`` of forecasts (B, H, C), NaN in the truth left out."""
    error = ForecastError((truth.shape[1],))
    error.update(truth.shape[1], truth, prediction)
    found = error.metrics()
    return {"mse": found["mse"], "mae": found["mae"]}


def score(
    dataset: SeriesDataset,
    context: int,
    horizons: Sequence[int],
    forecast: Forecast,
    *,
    split: str = "test",
    batch_size: int | None = None,
    scaler: Scaler | None = None,
) -> dict[str, float]:
    """Errors of a forecaster over all windows of a part, each horizon on all of its own windows.

    Args:
        dataset: what to forecast; its scaler is that of the figures.
        context: rows that are known.
        horizons: steps ahead.
        forecast: is given contexts (B, context, C), NaN where values are missing, and the horizon.
        split: part.
        batch_size: windows per call. None: as many as bound the memory.
        scaler: mean and standard deviation of contexts and figures in place of the dataset's own.

    Returns:
        As :meth:`ForecastError.metrics`.

    Raises:
        DataError: the part is too short for a horizon.
    """
    result = ForecastError(horizons)
    targets = list(dataset.targets)
    for horizon in horizons:
        windows = dataset.windows(split, context=context, horizon=horizon, scaler=scaler)
        for batch in _blocks(windows, batch_size):
            result.update(horizon, batch[:, context:, targets], forecast(batch[:, :context], horizon))
    return result.metrics()


def _blocks(windows: Windows, batch_size: int | None = None) -> Iterator[Tensor]:
    length = windows.context + windows.horizon
    size = batch_size or max(1, _BLOCK_NUMBERS // (length * windows.series.shape[1]))
    for begin in range(0, len(windows), size):
        yield windows[list(range(begin, min(begin + size, len(windows))))]["x"]


def fill(x: Tensor) -> Tensor:
    """Contexts (B, L, C) with every gap filled by the last value seen, by 0 (the mean) before the first."""
    missing = torch.isnan(x)
    if not missing.any():
        return x
    steps = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
    last = torch.where(missing, -1, steps).cummax(dim=1).values
    return torch.where(last < 0, 0.0, torch.nan_to_num(x).gather(1, last.clamp_min(0)))


def persistence(dataset: SeriesDataset, context: int, horizons: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Repeat the last value seen. Result: ``{"persistence": metrics}``."""
    targets = list(dataset.targets)

    def forecast(x: Tensor, horizon: int) -> Tensor:
        return fill(x[..., targets])[:, -1:].expand(-1, horizon, -1)

    return {"persistence": score(dataset, context, horizons, forecast)}


def seasonal_naive(dataset: SeriesDataset, context: int, horizons: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Repeat the last season (``dataset.period`` rows). Result: ``{"seasonal_naive": metrics}``.

    When the context is shorter than a season, the whole context is repeated: no baseline sees more than the method.
    """
    targets = list(dataset.targets)
    season = min(dataset.period, context)

    def forecast(x: Tensor, horizon: int) -> Tensor:
        return fill(x[..., targets])[:, torch.arange(horizon) % season + (context - season)]

    return {"seasonal_naive": score(dataset, context, horizons, forecast)}


# ---- ridge -------------------------------------------------------------------------------------------------------


def ridge(dataset: SeriesDataset, context: int, horizons: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Closed-form linear forecast from the raw window. Result: ``{"ridge": metrics}``.

    One linear map from the context of a channel to its future, shared by the target channels and fitted on them;
    the last value is subtracted before and added after, the intercept is not penalised. The penalty is chosen for
    each horizon on the validation part from :data:`RIDGE_GRID`. Gaps are filled with the last value seen.
    """
    return {"ridge": score(dataset, context, horizons, fit_ridge(dataset, context, horizons))}


def fit_ridge(dataset: SeriesDataset, context: int, horizons: tuple[int, ...]) -> Forecast:
    """The forecaster behind :func:`ridge`."""
    longest = max(horizons)
    train = _Moments.of(dataset, "train", context, longest)
    val = _Moments.of(dataset, "val", context, longest)
    maps = train.ridge(RIDGE_GRID)
    by_step = np.stack([val.squared_error(weight, intercept) for weight, intercept in maps])
    targets = list(dataset.targets)
    best = {h: maps[int(by_step[:, :h].sum(axis=1).argmin())] for h in horizons}
    linear = {h: (torch.from_numpy(w[:, :h]).float(), torch.from_numpy(b[:h]).float()) for h, (w, b) in best.items()}

    def forecast(x: Tensor, horizon: int) -> Tensor:
        weight, intercept = linear[horizon]
        known = fill(x[..., targets]).transpose(1, 2)
        last = known[..., -1:]
        return ((known - last) @ weight + intercept + last).transpose(1, 2)

    return forecast


@dataclass(frozen=True)
class _Moments:
    """Sums over windows and channels from which a linear fit and its error follow; the windows are never kept."""

    n: int
    x: Float
    """(L,)"""
    y: Float
    """(H,)"""
    xx: Float
    """(L, L)"""
    xy: Float
    """(L, H)"""
    yy: Float
    """(H,) squares."""

    @classmethod
    def of(cls, dataset: SeriesDataset, split: str, context: int, horizon: int) -> _Moments:
        n = 0
        x, y, yy = torch.zeros(context).double(), torch.zeros(horizon).double(), torch.zeros(horizon).double()
        xx, xy = torch.zeros(context, context).double(), torch.zeros(context, horizon).double()
        for block in _blocks(_filled_windows(dataset, split, context, horizon)):
            rows = block.transpose(1, 2).reshape(-1, context + horizon).double()
            rows -= rows[:, context - 1 : context].clone()
            known, future = rows[:, :context], rows[:, context:]
            n += len(rows)
            x += known.sum(0)
            y += future.sum(0)
            xx += known.T @ known
            xy += known.T @ future
            yy += future.square().sum(0)
        return cls(n, x.numpy(), y.numpy(), xx.numpy(), xy.numpy(), yy.numpy())

    def ridge(self, penalties: Sequence[float]) -> list[tuple[Float, Float]]:
        """Weights (L, H) and intercept (H,) for every penalty, from one eigendecomposition."""
        mean_x, mean_y = self.x / self.n, self.y / self.n
        gram, cross = self.xx - self.n * np.outer(mean_x, mean_x), self.xy - self.n * np.outer(mean_x, mean_y)
        return list(ridge_path(gram, cross, mean_x, mean_y, penalties))

    def squared_error(self, weight: Float, intercept: Float) -> Float:
        """(H,) sums of squared errors per step."""
        explained = ((self.xx @ weight) * weight).sum(axis=0) - 2.0 * (self.xy * weight).sum(axis=0)
        offset = intercept * (self.n * intercept + 2.0 * (self.x @ weight) - 2.0 * self.y)
        return np.asarray(self.yy + explained + offset)


def _filled_windows(dataset: SeriesDataset, split: str, context: int, horizon: int) -> Windows:
    """Windows of the target channels without gaps: to fit on, never to measure on."""
    windows = dataset.windows(split, context=context, horizon=horizon)
    series = fill(dataset.scaled[None, :, list(dataset.targets)])[0]
    return Windows(series=series, starts=windows.starts, context=context, horizon=horizon)


# ---- DLinear -----------------------------------------------------------------------------------------------------


def dlinear(
    dataset: SeriesDataset, context: int, horizons: tuple[int, ...], *, seed: int
) -> dict[str, dict[str, float]]:
    """DLinear (Zeng et al., AAAI 2023). Result: ``{"dlinear": metrics}``.

    The context is cut into its moving average over 25 steps (ends repeated) and the rest; each goes through a
    linear layer shared by the target channels, and the two are added. As published for ETTh1: Adam on the mean
    squared error with batches of 32 windows and a learning rate that is halved after every round; training ends
    after three rounds without a better validation error, or ten in all, and the best weights count. A round is a
    pass over the training windows, several when they are few (at least 200 steps). The learning rate at the start is
    chosen on the validation part from :data:`DLINEAR_GRID`. One model for the longest horizon; shorter ones are its
    first steps. Gaps are filled with the last value seen.
    """
    return {"dlinear": score(dataset, context, horizons, fit_dlinear(dataset, context, horizons, seed=seed))}


def fit_dlinear(dataset: SeriesDataset, context: int, horizons: tuple[int, ...], *, seed: int) -> Forecast:
    """The forecaster behind :func:`dlinear`."""
    longest = max(horizons)
    targets = list(dataset.targets)
    threads = torch.get_num_threads()
    # Thousands of steps of under a millisecond: several threads spend their time waiting for each other.
    torch.set_num_threads(1)
    try:
        fits = [_fit_dlinear(dataset, context, longest, lr=lr, seed=seed) for lr in DLINEAR_GRID]
    finally:
        torch.set_num_threads(threads)
    forward = min(fits, key=lambda fit: fit[0])[1]

    @torch.no_grad()
    def forecast(x: Tensor, horizon: int) -> Tensor:
        return forward(fill(x[..., targets]))[:, :horizon]

    return forecast


def _fit_dlinear(
    dataset: SeriesDataset, context: int, longest: int, *, lr: float, seed: int
) -> tuple[float, Callable[[Tensor], Tensor]]:
    """Validation error, and the fitted map from (B, context, targets) to (B, longest, targets)."""
    average = _moving_average(context, 25)
    train = _filled_windows(dataset, "train", context, longest)
    val = _filled_windows(dataset, "val", context, longest)
    generator = torch.Generator().manual_seed(derive_seed(seed, "dlinear"))
    # Initialised like nn.Linear; two layers side by side are one of twice the width.
    weight, bias = (
        nn.Parameter((2.0 * torch.rand(shape, generator=generator) - 1.0) / context**0.5)
        for shape in ((2 * context, longest), (longest,))
    )

    def forward(known: Tensor) -> Tensor:
        rows = known.transpose(1, 2).reshape(-1, context)
        trend = rows @ average
        future = torch.cat([rows - trend, trend], dim=1) @ weight + bias
        return future.view(len(known), -1, longest).transpose(1, 2)

    optimiser = torch.optim.Adam([weight, bias], lr=lr)
    best, best_weights, worse = float("inf"), (weight.detach().clone(), bias.detach().clone()), 0
    passes = -(-200 // -(-len(train) // 32))
    for _ in range(10):
        for order in torch.stack([torch.randperm(len(train), generator=generator) for _ in range(passes)]).tolist():
            for begin in range(0, len(order), 32):
                x = train[order[begin : begin + 32]]["x"]
                optimiser.zero_grad()
                nn.functional.mse_loss(forward(x[:, :context]), x[:, context:]).backward()
                optimiser.step()
        error = ForecastError((longest,))
        with torch.no_grad():
            for x in _blocks(val):
                error.update(longest, x[:, context:], forward(x[:, :context]))
        now = error.metrics()["mse"]
        if now < best:
            best, best_weights, worse = now, (weight.detach().clone(), bias.detach().clone()), 0
        else:
            worse += 1
            if worse == 3:
                break
        for group in optimiser.param_groups:
            group["lr"] /= 2
    with torch.no_grad():
        weight.copy_(best_weights[0])
        bias.copy_(best_weights[1])
    return best, forward


def _moving_average(length: int, kernel: int) -> Tensor:
    """(length, length): rows @ it is the centred moving average with repeated ends."""
    at = torch.arange(length)
    result = torch.zeros(length, length)
    for shift in range(-(kernel - 1) // 2, kernel // 2 + 1):
        result[(at + shift).clamp(0, length - 1), at] += 1.0 / kernel
    return result


__all__ = [
    "DLINEAR_GRID", "RIDGE_GRID", "Forecast", "ForecastError", "dlinear", "fill", "fit_dlinear", "fit_ridge",
    "metrics", "persistence", "ridge", "score", "seasonal_naive",
]  # fmt: skip
