"""People's own frames and arrays, in original units, to one shape and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from polycontrast.errors import DataError
from polycontrast_timeseries.config import SeriesConfig
from polycontrast_timeseries.series import LONG_COLUMNS, SeriesDataset, from_frame, future_times

Float = npt.NDArray[np.float64]
Series = pd.DataFrame | pd.Series | npt.NDArray[Any] | Tensor
"""(T,), (T, m) or (B, T, m); or a frame, wide (a column per channel, time as index or in the first column that holds
dates) or long (``unique_id``, ``ds``, ``y``)."""


def long_frame(names: Sequence[str], times: pd.Index, values: Float, column: str) -> pd.DataFrame:
    """(T, o) as rows of ``unique_id``, ``ds`` and ``column``, one channel after the other."""
    return pd.DataFrame(
        {
            "unique_id": np.repeat(np.asarray(names, dtype=object), len(times)),
            "ds": pd.Index(np.tile(times.to_numpy(), len(names))),
            column: values.T.ravel(),
        }
    )


@dataclass(frozen=True)
class Raw:
    """Series as they were given."""

    values: Float
    """(B, T, m) in the model's order of channels; NaN is missing."""
    kind: Literal["array", "wide", "long"]
    dims: int = 3
    """Of the array."""
    dataset: SeriesDataset | None = None
    """Of the frame."""

    @classmethod
    def read(cls, x: Series, channels: Sequence[str], data: SeriesConfig) -> Raw:
        """Take a frame or an array with the channels of a model.

        Raises:
            DataError: it does not have these channels, or cannot be read.
        """
        if not isinstance(x, pd.DataFrame | pd.Series):
            values = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
            given = values[:, None] if values.ndim == 1 else values
            if given.ndim not in (2, 3) or given.shape[-1] != len(channels) or 0 in given.shape:
                m = len(channels)
                raise DataError(
                    f"the array has shape {values.shape}; the model takes (steps, {m}) or (series, steps, {m}), "
                    f"channels {', '.join(channels)}"
                )
            return cls(given.reshape(-1, *given.shape[-2:]), "array", dims=values.ndim)
        data = replace(data, missing="hidden", features="M", target=None, max_channels=None, protocol="ratio")
        dataset = from_frame(x, data, name="the frame", purpose="predict")
        lacking = [c for c in channels if c not in dataset.channels]
        if lacking and len(channels) == len(dataset.channels) == 1:
            lacking, order = [], [0]  # a single channel may have any name
        elif not lacking:
            order = [dataset.channels.index(c) for c in channels]
        if lacking:
            raise DataError(
                f"the frame lacks the column {lacking[0]!r}; the model takes {', '.join(channels)}, "
                f"it has {', '.join(dataset.channels)}"
            )
        is_long = isinstance(x, pd.DataFrame) and set(LONG_COLUMNS) <= set(map(str, x.columns))
        return cls(dataset.values[None, :, order], "long" if is_long else "wide", dataset=dataset)

    def give_back(self, values: Float, names: Sequence[str], column: str = "y") -> Any:
        """(B, T, o) for the same steps, in the form in which the series came."""
        if self.dataset is None:
            return values if self.dims == 3 else values[0] if self.dims == 2 else values[0, :, 0]
        times = self.dataset.times if self.dataset.times is not None else pd.RangeIndex(values.shape[1])
        if self.kind == "long":
            return long_frame(names, times, values[0], column)
        return pd.DataFrame(values[0], index=times, columns=list(names))

    def forecast_frame(self, values: Float, names: Sequence[str]) -> pd.DataFrame:
        """(B, H, o) for the steps that follow."""
        horizon = values.shape[1]
        if self.dataset is not None:
            times: pd.Index = future_times(self.dataset, horizon)
            if self.kind == "long":
                return long_frame(names, times, values[0], "prediction")
            return pd.DataFrame(values[0], index=times.rename("ds"), columns=list(names))
        steps = pd.RangeIndex(self.values.shape[1], self.values.shape[1] + horizon, name="ds")
        if self.dims < 3:
            return pd.DataFrame(values[0], index=steps, columns=list(names))
        index = pd.MultiIndex.from_product([range(len(values)), steps], names=["series", "ds"])
        return pd.DataFrame(values.reshape(-1, len(names)), index=index, columns=list(names))


def scaler(info: Mapping[str, Any]) -> tuple[Float, Float]:
    """Mean and standard deviation per channel that a model was trained with."""
    return np.asarray(info["mean"], dtype=np.float64), np.asarray(info["std"], dtype=np.float64)
