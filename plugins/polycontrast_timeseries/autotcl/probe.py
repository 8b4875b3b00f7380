"""Forecasts from representations: windows to features, features to a ridge regression per horizon, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polycontrast_timeseries.autotcl.inputs import covariates, inputs
from polycontrast_timeseries.forecasting import ForecastError, fill
from polycontrast_timeseries.ridge import Parts, RidgeHead, fit_ridge, samples
from polycontrast_timeseries.series import SeriesDataset, Windows

Encode = Callable[[Windows], Tensor]
"""Windows of inputs to (n, D): what is known at the last step of each."""

PARTS = ("train", "val", "test")

_NUMBERS = 1 << 22


def features(
    data: SeriesDataset, info: Mapping[str, Any], context: int, encode: Encode, parts: Sequence[str] = PARTS
) -> Parts:
    """The representation at every step from which a part can be forecast, (n, D) each.

    In training from the last row of the first window on; in the other parts from the row before the part on.
    """
    series = inputs(data, info)
    return {part: encode(_ending(data, part, context, series)) for part in parts}


def raw_features(data: SeriesDataset, info: Mapping[str, Any], context: int) -> Parts:
    """The window itself, without gaps, and the calendar of its last step: what an encoder has to beat."""
    series = fill(data.scaled.unsqueeze(0))[0]
    known = covariates(data, info)
    found = {}
    for part in PARTS:
        windows = _ending(data, part, context, series)
        values = torch.cat([windows[block]["x"].flatten(1) for block in _blocks(windows)])
        found[part] = torch.cat([values, known[windows.starts + context - 1]], dim=1)
    return found


def _ending(data: SeriesDataset, part: str, context: int, series: Tensor) -> Windows:
    windows = data.windows(part, context=context, horizon=0)
    return Windows(series=series, starts=windows.starts, context=context, horizon=0)


def _blocks(windows: Windows) -> list[list[int]]:
    size = max(1, _NUMBERS // (windows.context * windows.series.shape[1]))
    return [list(range(i, min(i + size, len(windows)))) for i in range(0, len(windows), size)]


def errors(
    parts: Parts, data: SeriesDataset, context: int, horizons: Sequence[int], *, every: int = 1, split: str = "test"
) -> tuple[dict[str, float], list[RidgeHead]]:
    """Fit a head per horizon on ``train``, choose its penalty on ``val``, measure on a part.

    Args:
        parts: from :func:`features` or :func:`raw_features`.
        data: the truth.
        context: of the features.
        horizons: steps ahead.
        every: use every so manyth sample for everything.
        split: which part is measured.

    Returns:
        ``mse_H``, ``mae_H`` and their means ``mse`` and ``mae``; and the heads.
    """
    targets = list(data.targets)
    truth = data.scaled[:, targets]
    without_gaps = fill(truth.unsqueeze(0))[0]

    def pair(part: str, values: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        high = data.borders[part][1]
        x, y = samples(parts[part], values[high - len(parts[part]) : high], horizon)
        return x[::every], y[::every]

    result, heads = ForecastError(horizons), []
    for horizon in horizons:
        head = fit_ridge(pair("train", without_gaps, horizon), pair("val", truth, horizon))
        x, y = pair(split, truth, horizon)
        size = max(1, _NUMBERS // (horizon * len(targets)))
        for a, b in zip(x.split(size), y.split(size), strict=True):
            result.update(horizon, b, head.predict(a))
        heads.append(head)
    return result.metrics(), heads


__all__ = ["PARTS", "Encode", "errors", "features", "raw_features"]
