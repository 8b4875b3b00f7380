"""A panel of sensors on a graph: values that may stay on disk, windows as one gather, parts in order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pandas.tseries.frequencies import to_offset

from polycontrast.data import Batch, Dataset
from polycontrast.errors import DataError, did_you_mean
from polycontrast_timeseries.config import SeriesConfig
from polycontrast_timeseries.series import SeriesDataset, from_frame
from polycontrast_timeseries.st_ssdl.anchors import Anchors, hide_nulls
from polycontrast_timeseries.st_ssdl.config import PanelConfig
from polycontrast_timeseries.st_ssdl.graph import Graph

Array = npt.NDArray[Any]
Split = Literal["train", "val", "test"]

_MONDAY = pd.Timestamp("1970-01-05")
_DAY = pd.Timedelta(days=1)
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Clock:
    """When the rows are."""

    step: pd.Timedelta
    start: pd.Timestamp | None = None
    """Time of row 0. None: the rows are numbered, and row 0 counts as Monday 00:00."""

    @property
    def per_day(self) -> int:
        """Steps of a day; 1 for rows of a day or longer.

        Raises:
            DataError: a day is no whole number of steps.
        """
        if self.step >= _DAY:
            return 1
        if _DAY % self.step != pd.Timedelta(0):
            raise DataError(f"a day is no whole number of steps of {self.step}; resample to one that divides it")
        return int(_DAY / self.step)

    def period(self, period: Literal["week", "day"] | int) -> int:
        """Steps of a season.

        Raises:
            DataError: it is no whole number of at least 2.
        """
        if isinstance(period, int):
            return period
        length = _DAY * (7 if period == "week" else 1)
        if length % self.step != pd.Timedelta(0) or length / self.step < 2:
            raise DataError(
                f"anchor_period={period} needs at least two of the rows, which are {self.step} apart; give "
                "anchor_period as a number of rows"
            )
        return int(length / self.step)

    def slots(self, rows: npt.NDArray[np.int64], period: int) -> npt.NDArray[np.int64]:
        """Slot of rows in a season of so many steps; rows may lie beyond the end."""
        first = 0 if self.start is None else round((self.start.tz_localize(None) - _MONDAY) / self.step)
        return np.asarray((rows + first) % period)

    def times(self, rows: npt.NDArray[np.int64]) -> pd.Index:
        """Timestamps of rows, or their numbers."""
        if self.start is None:
            return pd.Index(rows)
        return pd.DatetimeIndex(self.start + rows * self.step).as_unit("us")


@dataclass(kw_only=True, eq=False)
class PanelDataset(Dataset):
    """Values of N sensors at T equally spaced times, with a graph between the sensors."""

    values: Array
    """(T, N) in original units; may be memory-mapped. NaN and the null value are missing."""
    sensors: tuple[str, ...]
    graph: Graph
    clock: Clock
    config: PanelConfig = field(default_factory=PanelConfig)
    events: Array | None = None
    """(T, N) bool: where a made-up incident is active, to judge deviation scores by."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.sensors):
            raise DataError(f"{self.name}: values of shape {self.values.shape} for {len(self.sensors)} sensors")
        if self.graph.size != len(self.sensors):
            raise DataError(
                f"{self.name}: the graph has {self.graph.size} nodes, the panel {len(self.sensors)} sensors; give the "
                "graph of these sensors in the same order"
            )
        rows = max(1, _CHUNK // len(self.sensors))
        for begin in range(0, len(self.values), rows):
            bad = np.isinf(self.values[begin : begin + rows])
            if bad.any():
                row, sensor = np.argwhere(bad)[0]
                raise DataError(
                    f"{self.name}, row {begin + row}: sensor {self.sensors[sensor]!r} holds an infinite value; "
                    "replace it, missing values may be NaN"
                )

    def starts(self, split: str, t_in: int, t_out: int) -> npt.NDArray[np.int64]:
        """First rows of the windows of a part: of rows - t_in - t_out + 1 windows, the sizes by ``round``.

        Raises:
            DataError: a part is empty.
        """
        count = len(self.values) - t_in - t_out + 1
        share = 1.0 - self.config.train_ratio - self.config.val_ratio
        test, train = round(max(count, 0) * round(share, 9)), round(max(count, 0) * self.config.train_ratio)
        sizes = {"train": train, "val": count - train - test, "test": test}
        if min(sizes.values()) < 1:
            raise DataError(
                f"{self.name} has {len(self.values)} rows, which are too few for windows of {t_in} + {t_out} rows in "
                "training, validation and test; give it more rows or lower t_in and t_out"
            )
        before = {"train": 0, "val": train, "test": count - test}[split]
        return np.arange(before, before + sizes[split])

    def input_rows(self, t_in: int, t_out: int, fit: Literal["train", "train+val"] = "train") -> int:
        """Rows that are inputs of training windows: what scaler and anchors are made from."""
        last = self.starts("train" if fit == "train" else "val", t_in, t_out)[-1]
        return int(last) + t_in

    def statistics(self, rows: int) -> tuple[float, float]:
        """One mean and one standard deviation over all observations of the first rows.

        Raises:
            DataError: a sensor was never observed in them.
        """
        counts = np.zeros(len(self.sensors))
        total = squares = 0.0
        size = max(1, _CHUNK // len(self.sensors))
        for begin in range(0, rows, size):
            part = hide_nulls(self.values[begin : min(begin + size, rows)], self.config.null_value)
            counts += (~np.isnan(part)).sum(0)
            total += float(np.nansum(part, dtype=np.float64))
            squares += float(np.nansum(np.square(part, dtype=np.float64)))
        if (counts == 0).any():
            sensor = self.sensors[int((counts == 0).argmax())]
            null = "" if self.config.null_value is None else f"; {self.config.null_value:g} counts as missing"
            raise DataError(
                f"{self.name}: sensor {sensor!r} has no value in the training part (rows 0 to {rows - 1}){null}; "
                "remove the sensor or set data.null_value"
            )
        mean = total / counts.sum()
        return mean, float(np.sqrt(max(squares / counts.sum() - mean**2, 0.0))) or 1.0

    def select(self, sensors: Sequence[str]) -> PanelDataset:
        """The same with these sensors in this order.

        Raises:
            DataError: one is missing.
        """
        if tuple(sensors) == self.sensors:
            return self
        where = {name: i for i, name in enumerate(self.sensors)}
        for name in sensors:
            if name not in where:
                raise DataError(
                    f"{self.name} has no sensor {name!r}, which the model was trained on; it has {some(self.sensors)}."
                    + did_you_mean(name, self.sensors)
                )
        at = [where[name] for name in sensors]
        return PanelDataset(
            name=self.name, values=self.values[:, at], sensors=tuple(sensors), graph=self.graph.select(at),
            clock=self.clock, config=self.config, events=None if self.events is None else self.events[:, at],
            protocol=self.protocol, notes=self.notes, licence=self.licence, citation=self.citation,
        )  # fmt: skip

    def as_series(self, t_in: int, t_out: int) -> SeriesDataset:
        """The same windows for the forecasters of :mod:`polycontrast_timeseries.forecasting`, all in memory.

        Parts are written so that they give the same windows; missing values are NaN, and every sensor is standardised
        by its own training inputs.
        """
        values = hide_nulls(self.values, self.config.null_value).astype(np.float64)
        known = values[: self.input_rows(t_in, t_out)]
        borders = {"train": (0, int(self.starts("train", t_in, t_out)[-1]) + t_in + t_out)}
        for split in ("val", "test"):
            starts = self.starts(split, t_in, t_out)
            borders[split] = (int(starts[0]) + t_in, int(starts[-1]) + t_in + t_out)
        std = np.nanstd(known, axis=0)
        return SeriesDataset(
            name=self.name, values=values, channels=self.sensors, borders=borders, mean=np.nanmean(known, axis=0),
            std=np.where(std > 0, std, 1.0), targets=tuple(range(len(self.sensors))),
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class PanelWindows:
    """Windows of a panel with their anchors; only the rows of a batch are ever in memory.

    ``windows[positions]`` is ``{"id": (B,) first rows, "x" and "anchor": (B, t_in, N), "y": (B, t_out, N), "tod":
    (B, t_in), "tod_out": (B, t_out)}`` in original units, NaN where missing; without ``y`` where ``known`` is False.
    """

    data: PanelDataset
    anchors: Anchors
    starts: npt.NDArray[np.int64]
    t_in: int
    t_out: int
    known: bool = True
    """Whether the rows to forecast are there."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, positions: list[int]) -> Batch:
        first = self.starts[np.asarray(positions, dtype=np.int64)]
        rows = first[:, None] + np.arange(self.t_in + self.t_out)
        clock, per_day, inputs = self.data.clock, self.data.clock.per_day, rows[:, : self.t_in]
        found = self.data.values[rows if self.known else inputs]
        block = torch.from_numpy(hide_nulls(found.astype(np.float32), self.data.config.null_value))
        anchor = self.anchors.at(self.data.values, inputs, clock.slots(inputs, len(self.anchors.table)))
        tod = torch.from_numpy(clock.slots(rows, per_day)).float() / per_day
        batch: Batch = {
            "id": torch.from_numpy(first), "x": block[:, : self.t_in],
            "anchor": torch.from_numpy(np.asarray(anchor, dtype=np.float32)),
            "tod": tod[:, : self.t_in], "tod_out": tod[:, self.t_in :],
        }  # fmt: skip
        if self.known:
            batch["y"] = block[:, self.t_in :]
        return batch


def panel(
    values: Array,
    graph: Graph | None,
    config: PanelConfig,
    *,
    name: str,
    sensors: Sequence[str] | None = None,
    clock: Clock | None = None,
    notes: Sequence[str] = (),
    **more: Any,
) -> PanelDataset:
    """A checked panel.

    Args:
        values: (T, N), or (T, N, C) of which ``config.channel`` is taken; not copied.
        graph: between the sensors as they come. None: no graph.
        config: of the data.
        name: what errors and results call it.
        sensors: their names. None: 0, 1, ...
        clock: when the rows are. None: ``config.start`` and ``config.step``.
        notes: lines a person should see.
        more: other fields of :class:`PanelDataset`.

    Raises:
        DataError: shapes, graph or values do not fit.
    """
    if values.ndim == 3:
        if config.channel >= values.shape[2]:
            raise DataError(f"{name} has {values.shape[2]} channels, none of number {config.channel} (data.channel)")
        values = values[:, :, config.channel]
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"{name} has shape {values.shape}; a panel is (time, sensor) or (time, sensor, channel)")
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} holds {values.dtype}, not numbers")
    names = tuple(map(str, sensors if sensors is not None else range(values.shape[1])))
    notes = list(notes)
    if graph is None:
        graph = Graph.none(len(names))
        notes.append("no graph was found: every sensor is by itself (data.graph names a file)")
    elif graph.size != len(names):
        raise DataError(
            f"{name}: the graph has {graph.size} nodes, the panel {len(names)} sensors; give the graph of these "
            "sensors in the same order"
        )
    if clock is None:
        clock = clock_of(config, notes)
    if config.max_sensors is not None and config.max_sensors < len(names):
        keep = range(config.max_sensors)
        notes.append(f"{len(keep)} of {len(names)} sensors are read (data.max_sensors)")
        values, names, graph = values[:, : len(keep)], names[: len(keep)], graph.select(keep)
    test = round(1 - config.train_ratio - config.val_ratio, 9)
    protocol: Mapping[str, Any] = {
        "split": f"{config.train_ratio:g}/{config.val_ratio:g}/{test:g} of the windows in order of time",
        "missing": "NaN" if config.null_value is None else f"NaN and {config.null_value:g} (within 5e-5)",
        "errors": "masked, original units, over all predictions at once; mape is a fraction"
        + (f", of targets above {config.mape_min:g}" if config.mape_min else ""),
        "rows": len(values), "sensors": len(names), "step": str(clock.step),
    }  # fmt: skip
    return PanelDataset(
        name=name, values=values, sensors=names, graph=graph, clock=clock, config=config, protocol=protocol,
        notes=tuple(notes), **more,
    )  # fmt: skip


def clock_of(config: PanelConfig, notes: list[str]) -> Clock:
    """The clock that ``data.start`` and ``data.step`` give to rows without timestamps."""
    try:
        step = pd.Timedelta(config.step or "5min")
        start = None if config.start is None else pd.Timestamp(config.start)
    except ValueError as error:
        raise DataError(f"data.start and data.step must be a time and a spacing, e.g. 5min: {error}") from None
    if not step > pd.Timedelta(0) or (start is not None and pd.isna(start)):
        raise DataError("data.start and data.step must be a time and a positive spacing, e.g. 5min")
    if start is None or config.step is None:
        notes.append(
            f"the rows have no timestamps: they count as {step.total_seconds() / 60:g} minutes apart, the first "
            f"{'Monday 00:00' if start is None else start} (data.start, data.step)"
        )
    return Clock(step, start)


def from_table(
    frame: pd.DataFrame,
    graph: Graph | None,
    config: PanelConfig,
    *,
    name: str = "frame",
    notes: Sequence[str] = (),
    **more: Any,
) -> PanelDataset:
    """A panel from a frame, wide (a column per sensor) or long (``unique_id``, ``ds``, ``y``).

    Rows with left-out timestamps are put in as missing.

    Raises:
        DataError: as :func:`polycontrast_timeseries.series.from_frame`, and as :func:`panel`.
    """
    how = SeriesConfig(missing="hidden", time_column=config.time_column, header=config.header, period=1)
    series = from_frame(frame, how, name=name, purpose="predict")
    return panel(
        series.values, graph, config, name=name, sensors=series.channels, clock=clock_of_series(series, config),
        notes=(*notes, *series.notes), **more,
    )  # fmt: skip


def clock_of_series(series: SeriesDataset, config: PanelConfig) -> Clock | None:
    """The clock of timestamps; None without any.

    Raises:
        DataError: their spacing is no fixed span, like months.
    """
    if series.times is None or series.frequency is None:
        return None
    try:
        step = pd.Timedelta(to_offset(series.frequency))  # type: ignore[arg-type]
    except ValueError:
        step = pd.Timedelta(0)
    if len(series.times) > 1 and not step > pd.Timedelta(0):
        step = series.times[1] - series.times[0]
        if (np.diff(series.times.asi8) != step.as_unit(series.times.unit).value).any():
            raise DataError(
                f"{series.name}: the spacing {series.frequency} is no fixed span; drop the time column and set "
                "data.step and anchor_period to numbers of rows"
            )
    return Clock(step, series.times[0])


def some(names: Sequence[str], most: int = 8) -> str:
    """The first few names."""
    shown = ", ".join(names[:most])
    return shown + (f", ... ({len(names)} in all)" if len(names) > most else "")
