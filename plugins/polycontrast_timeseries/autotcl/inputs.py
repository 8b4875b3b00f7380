"""From a series to what the encoder sees: calendar channels, sections to train on, windows to represent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polycontrast.data import Batch, uniform
from polycontrast.errors import DataError
from polycontrast_timeseries import calendar
from polycontrast_timeseries.autotcl.config import AutoTCLConfig
from polycontrast_timeseries.series import Scaler, SeriesDataset


def calendar_scaler(config: AutoTCLConfig, data: SeriesDataset) -> dict[str, list[float]] | None:
    """Mean and deviation of the calendar channels over the training part; None if there are none.

    Raises:
        DataError: they are wanted, but there are no timestamps.
    """
    if data.times is None and config.covariates == "on":
        raise DataError(f"{data.name} has no timestamps for calendar channels; give a time column or covariates=off")
    if data.times is None or config.covariates == "off":
        return None
    low, high = data.borders.get("train", (0, len(data.values)))
    part = calendar.calendar(data.times[low:high])
    std = part.std(axis=0)
    return {"mean": part.mean(axis=0).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}


def covariates(data: SeriesDataset, info: Mapping[str, Any]) -> Tensor:
    """(T, K) float32, scaled as in training; K is 0 for a model without calendar channels.

    Raises:
        DataError: the model has them, but the data have no timestamps.
    """
    scaler = info.get("calendar")
    if scaler is None:
        return torch.zeros(len(data.values), 0)
    if data.times is None:
        raise DataError(f"{data.name} has no timestamps, but the model was trained with calendar channels; add them")
    values = (calendar.calendar(data.times) - np.asarray(scaler["mean"])) / np.asarray(scaler["std"])
    return torch.from_numpy(values.astype(np.float32))


def inputs(data: SeriesDataset, info: Mapping[str, Any], *, scaler: Scaler | None = None) -> Tensor:
    """(T, K + m) float32: calendar channels first, as in the code, then the series; NaN where a value is missing.

    Args:
        data: the series.
        info: of the method.
        scaler: of the series in place of the dataset's own.
    """
    series = data.scaled if scaler is None else data.scale(scaler)
    return torch.cat([covariates(data, info), series], dim=1)


@dataclass(frozen=True, eq=False)
class Sections:
    """Stretches of one series to train on; the id of one is its first row. Short ones end in NaN."""

    series: Tensor
    """(T, C)."""
    starts: Tensor
    """(n,) int64."""
    lengths: Tensor
    """(n,) int64."""

    @classmethod
    def cut(cls, series: Tensor, low: int, high: int, *, length: int, stride: int | None, name: str) -> Sections:
        """Rows ``low`` to ``high`` in as many sections of at least ``length`` rows as fit, nearly equal in length.

        With a stride, in overlapping sections of ``length`` rows instead.

        Raises:
            DataError: fewer than two sections, between which nothing could be contrasted.
        """
        rows = high - low
        count = rows // length if stride is None else max(rows - length, -1) // stride + 1
        if count < 2:
            raise DataError(
                f"{name}: the training part has {rows} rows, which make {max(count, 0)} sections of {length}; two are "
                "the least; lower max_len" + (" or set stride" if stride is None else " or stride")
            )
        if stride is not None:
            starts = low + stride * torch.arange(count)
            return cls(series, starts, torch.full((count,), length))
        bounds = low + torch.tensor([len(p) for p in np.array_split(np.empty(rows), count)]).cumsum(0)
        starts = torch.cat([torch.tensor([low]), bounds[:-1]])
        return cls(series, starts, bounds - starts)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, positions: list[int]) -> Batch:
        at = torch.as_tensor(positions, dtype=torch.int64)
        starts, lengths = self.starts[at], self.lengths[at]
        steps = torch.arange(int(self.lengths.max()))
        rows = starts.unsqueeze(1) + steps
        x = self.series[rows.clamp_max(len(self.series) - 1)]
        return {"id": starts, "x": x.masked_fill((steps >= lengths.unsqueeze(1)).unsqueeze(2), torch.nan)}


def crop(x: Tensor, draw: Tensor, length: int, *, stream: int) -> Tensor:
    """A run of ``length`` steps of each series (B, T, C), from a random one on; shorter series as they are."""
    room = x.shape[1] - length
    if room <= 0:
        return x
    start = (uniform(draw, 1, stream=stream).double() * (room + 1)).long()
    at = start + torch.arange(length, device=x.device)
    return x.gather(1, at.unsqueeze(2).expand(-1, -1, x.shape[2]))


__all__ = ["Sections", "calendar_scaler", "covariates", "crop", "inputs"]
