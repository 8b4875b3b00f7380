"""Time series from files and frames: parts in order of time, one scaler, windows as one gather.

The borders follow the conventions of Time-Series-Library, so that numbers can be compared: validation and test
windows take their context from the rows before the part, every window of the test part counts (stride 1, the last
incomplete batch too), and errors are measured on values that were standardised with the training part.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pandas.tseries.frequencies import to_offset
from torch import Tensor

from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, Purpose
from polycontrast.data.readers import first_line, place, read_table
from polycontrast.errors import DataError, did_you_mean
from polycontrast_timeseries.config import SeriesConfig

Float = npt.NDArray[np.float64]
Scaler = tuple[Any, Any]
"""Mean and standard deviation per channel, each (C,): arrays, tensors or lists."""

ETT_COLUMNS = ("date", "HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
LONG_COLUMNS = ("unique_id", "ds", "y")
_ETT_DAYS = (12 * 30, 4 * 30, 4 * 30)


@dataclass(frozen=True, eq=False, kw_only=True)
class Windows:
    """Windows of ``context + horizon`` rows; the id of a window is its first row in the series.

    ``windows[positions]`` is ``{"id": (B,) int64, "x": (B, context + horizon, C) float32}``, cut from the series
    in one gather.
    """

    series: Tensor
    """(T, C) float32."""
    starts: Tensor
    """(n,) int64 first rows."""
    context: int
    horizon: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, positions: list[int]) -> Batch:
        at = self.starts[torch.as_tensor(positions, dtype=torch.int64)]
        length = self.context + self.horizon
        # (T - length + 1, length, C): every window as a view, no copy.
        return {"id": at, "x": self.series.unfold(0, length, 1).transpose(1, 2)[at]}


@dataclass(kw_only=True, eq=False)
class SeriesDataset(Dataset):
    """A multivariate series of T rows and C channels with its parts and its scaler."""

    values: Float
    """(T, C) float64 in original units; NaN is missing."""
    times: pd.DatetimeIndex | None = None
    frequency: str | None = None
    """Spacing of ``times`` as pandas writes it: ``h``, ``15min``, ``D``, ``MS``, ..."""
    channels: tuple[str, ...]
    borders: Mapping[str, tuple[int, int]]
    """First row and row after the last of ``train``, ``val`` and ``test``; of ``all`` when opened to predict."""
    mean: Float
    """(C,) of the training part; of all rows when opened to predict."""
    std: Float
    """(C,) likewise, not corrected for degrees of freedom; 1 for a constant channel."""
    period: int = 1
    """Rows of a season."""
    targets: tuple[int, ...]
    """Channels that count in a forecast."""
    scaled: Tensor = field(init=False, repr=False)
    """(T, C) float32, (values - mean) / std."""

    def __post_init__(self) -> None:
        self.scaled = self.scale((self.mean, self.std))

    def scale(self, scaler: Scaler) -> Tensor:
        """The whole series, (T, C) float32, under a scaler, e.g. that of a saved model.

        Raises:
            DataError: the scaler is for another number of channels.
        """
        mean, std = (np.asarray(part, dtype=np.float64) for part in scaler)
        if mean.shape != (len(self.channels),):
            raise DataError(
                f"{self.name} has {len(self.channels)} channels ({_some(self.channels)}), the model was trained on "
                f"{mean.size}; give a file with the same columns"
            )
        return torch.from_numpy(((self.values - mean) / std).astype(np.float32))

    def select(self, channels: Sequence[str]) -> SeriesDataset:
        """The same with these channels in this order, e.g. those that a saved model was trained on.

        What was a target stays one.

        Raises:
            DataError: one is missing.
        """
        if tuple(channels) == self.channels:
            return self
        for name in channels:
            if name not in self.channels:
                raise DataError(
                    f"{self.name} has no column {name!r}, which the model was trained on; it has "
                    f"{_some(self.channels)}." + did_you_mean(name, self.channels)
                )
        at = [self.channels.index(name) for name in channels]
        return replace(
            self,
            values=self.values[:, at],
            channels=tuple(channels),
            mean=self.mean[at],
            std=self.std[at],
            targets=tuple(i for i, old in enumerate(at) if old in self.targets),
        )

    def windows(
        self, split: str, *, context: int, horizon: int, stride: int = 1, scaler: Scaler | None = None
    ) -> Windows:
        """All windows of a part.

        Windows of ``train`` (and ``all``) lie within it; those of ``val`` and ``test`` have their horizon in the
        part and may have their context before it. So a part of n rows gives n - horizon + 1 windows, training
        n - context - horizon + 1.

        Args:
            split: a key of :attr:`borders`.
            context: rows that are known.
            horizon: rows that are forecast; may be 0.
            stride: rows between two windows.
            scaler: mean and standard deviation to use in place of the dataset's own.

        Raises:
            DataError: no such part, or it holds no window.
        """
        if split not in self.borders:
            raise DataError(f"{self.name} has no part {split!r}; it has {', '.join(self.borders)}")
        low, high = self.borders[split]
        first = low if split in ("train", "all") else max(low - context, 0)
        need = context + horizon
        if high - first < need:
            ahead = f" and {low - first} before it" if first < low else ""
            raise DataError(
                f"{self.name}: the part {split!r} has {high - low} rows{ahead}, but one window needs {need} "
                f"(context {context} + horizon {horizon}); lower context or horizon, or give it more rows"
                + ("" if split == "all" else " (data.train_ratio, data.val_ratio)")
            )
        starts = torch.arange(first, high - need + 1, stride)
        series = self.scaled if scaler is None else self.scale(scaler)
        return Windows(series=series, starts=starts, context=context, horizon=horizon)

    def last(self, context: int, *, scaler: Scaler | None = None) -> Windows:
        """The one window of the last ``context`` rows, to forecast what comes after the file.

        Raises:
            DataError: there are fewer rows.
        """
        rows = len(self.values)
        if rows < context:
            raise DataError(f"{self.name} has {rows} rows, but a forecast needs the last {context}; give it more rows")
        series = self.scaled if scaler is None else self.scale(scaler)
        return Windows(series=series, starts=torch.tensor([rows - context]), context=context, horizon=0)


def read_series(path: Path, config: MethodConfig, seed: int, purpose: Purpose) -> SeriesDataset:
    """The series in a file, see :func:`from_frame`; ``config.data`` says how.

    Args:
        path: text (``.csv``, ``.txt``, ``.tsv``, also gzipped, with or without column names) or ``.parquet``.
        config: of the method; its ``data`` is a :class:`SeriesConfig`.
        seed: not used, a file is what it is.
        purpose: to predict, the file needs no parts.
    """
    data = _data(config)
    table = read_table(path, header=data.header)
    dataset = _build(table.to_pandas(), data, str(path), purpose, first_line(table))
    if first_line(table) == 1 and data.header == "auto":
        note = "the first line holds numbers, so it is data and the columns are called c0, c1, ... (data.header)"
        dataset.notes = (note, *dataset.notes)
    return dataset


def from_frame(
    frame: pd.DataFrame | pd.Series[Any] | npt.NDArray[Any],
    config: MethodConfig | SeriesConfig | None = None,
    *,
    name: str = "frame",
    purpose: Purpose = "train",
) -> SeriesDataset:
    """The series in a frame or an array.

    Args:
        frame: wide, with one column per channel and the time as index or in the first column that holds dates; long,
            with the columns ``unique_id``, ``ds`` (time or step) and ``y``; or an array (T,) or (T, C).
        config: how to read and split it; of the method or the data. None: the defaults.
        name: what errors and results call it.
        purpose: to predict, it needs no parts.

    Raises:
        DataError: a column is not numeric; values are infinite, or missing while ``missing`` is "error"; timestamps
            are unsorted, repeated or irregular; there are too few rows; the target is not a column. The message
            says where.
    """
    if isinstance(frame, np.ndarray):
        if frame.ndim not in (1, 2):
            raise DataError(f"{name} has shape {frame.shape}; a series is (rows,) or (rows, channels)")
        frame = pd.DataFrame(frame.reshape(len(frame), -1))
        frame.columns = pd.Index([f"c{i}" for i in range(frame.shape[1])])
    elif isinstance(frame, pd.Series):
        frame = frame.to_frame(name=frame.name or "c0")
    return _build(frame, _data(config), name, purpose, None)


def from_gluonts(
    entries: Iterable[Mapping[str, Any]],
    config: MethodConfig | SeriesConfig | None = None,
    *,
    name: str = "gluonts",
    purpose: Purpose = "train",
) -> SeriesDataset:
    """The series in GluonTS entries, one channel each.

    Args:
        entries: dicts with ``start`` (a pandas Period, or a Timestamp together with ``freq``), ``target`` (T,) and
            maybe ``item_id``, the name of the channel.
        config: as in :func:`from_frame`.
        name: what errors and results call it.
        purpose: as in :func:`from_frame`.

    Raises:
        DataError: as in :func:`from_frame`; entries that do not cover the same time are ragged.
    """
    parts = []
    for i, entry in enumerate(entries):
        start, target = entry["start"], np.asarray(entry["target"], dtype=np.float64)
        if target.ndim != 1:
            raise DataError(f"{name}, entry {i}: target has shape {target.shape}; give one entry per channel")
        if not isinstance(start, pd.Period):
            start = pd.Period(start, freq=entry.get("freq"))
        times = pd.period_range(start, periods=len(target)).to_timestamp()
        parts.append(pd.DataFrame({"unique_id": str(entry.get("item_id", f"c{i}")), "ds": times, "y": target}))
    if not parts:
        raise DataError(f"{name} has no entry; add data")
    return from_frame(pd.concat(parts, ignore_index=True), config, name=name, purpose=purpose)


def future_times(dataset: SeriesDataset, horizon: int) -> pd.DatetimeIndex | pd.RangeIndex:
    """The ``horizon`` timestamps after the last row; without timestamps the row numbers."""
    rows = len(dataset.values)
    if dataset.times is None or dataset.frequency is None:
        return pd.RangeIndex(rows, rows + horizon)
    return pd.date_range(dataset.times[-1], periods=horizon + 1, freq=dataset.frequency)[1:]


def _data(config: MethodConfig | SeriesConfig | None) -> SeriesConfig:
    if config is None:
        return SeriesConfig()
    data = config if isinstance(config, SeriesConfig) else config.data
    if not isinstance(data, SeriesConfig):
        raise TypeError(f"config.data must be a SeriesConfig, got {type(data).__name__}")
    return data


# ---- from a frame to checked values ------------------------------------------------------------------------------


def _build(frame: pd.DataFrame, data: SeriesConfig, name: str, purpose: Purpose, first: int | None) -> SeriesDataset:
    notes: list[str] = []
    given = tuple(str(c) for c in frame.columns)
    if len(frame) == 0:
        raise DataError(f"{name} has no rows; add data")
    frame = frame.set_axis(list(given), axis="columns")
    if set(LONG_COLUMNS) <= set(given):
        frame = _pivot(frame, data, name, notes, first)
        times = frame.index if isinstance(frame.index, pd.DatetimeIndex) else None
        first = None  # Rows of the pivoted frame are no lines of the file.
    else:
        frame, times = _split_time(frame, data, name, notes, first)
    frequency = None
    if times is not None:
        frame, times, frequency = _check_times(frame, times, data, name, notes, first)
    frame, targets = _choose(frame, data, name, notes)
    values = _numbers(frame, name, first)
    _check_missing(values, frame, data, name, first, times)

    rows = len(values)
    borders, protocol = _borders(rows, given, frequency, data, name, purpose, notes)
    low, high = borders["all" if purpose == "predict" else "train"]
    mean, std = _statistics(values[low:high], tuple(frame.columns), name)
    period = data.period or _period(frequency) or _estimate_period((values[low:high] - mean) / std)
    features = data.features
    return SeriesDataset(
        name=name,
        values=values,
        times=times,
        frequency=frequency,
        channels=tuple(frame.columns),
        borders=borders,
        mean=mean,
        std=std,
        period=period,
        targets=targets,
        protocol={
            **protocol,
            "rows": rows,
            "features": features,
            "target": frame.columns[targets[0]] if features != "M" else None,
            "scaling": "mean and standard deviation of the training part, per channel",
            "frequency": frequency,
            "period": period,
        },
        notes=tuple(notes),
    )


def _pivot(frame: pd.DataFrame, data: SeriesConfig, name: str, notes: list[str], first: int | None) -> pd.DataFrame:
    """Long to wide, channels in order of appearance."""
    others = [c for c in frame.columns if c not in LONG_COLUMNS]
    if others:
        notes.append(f"long table: the columns {_some(others)} beside unique_id, ds and y are not used")
    ids, times = frame["unique_id"], frame["ds"]
    for column in ("unique_id", "ds"):
        empty = frame[column].isna().to_numpy()
        if empty.any():
            raise DataError(f"{name}, {place(first, int(empty.argmax()))}: {column} is empty; fill it in")
    if not (pd.api.types.is_datetime64_any_dtype(times) or pd.api.types.is_numeric_dtype(times)):
        times = _to_times(times, name, "ds", first)
    repeated = pd.DataFrame({"i": ids.to_numpy(), "t": times.to_numpy()}).duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        raise DataError(
            f"{name}, {place(first, row)}: a second value for unique_id {ids.iloc[row]} at {times.iloc[row]}; keep one"
        )
    numbers = _column(frame["y"], name, "y", first)
    wide = pd.DataFrame({"i": ids.to_numpy(), "t": times.to_numpy(), "y": numbers}).pivot(
        index="t", columns="i", values="y"
    )
    wide = wide[list(pd.unique(ids))]
    if pd.api.types.is_numeric_dtype(times):
        steps = np.diff(wide.index.to_numpy())
        if len(steps) and (steps != steps[0]).any():
            at = int((steps != steps[0]).argmax())
            raise DataError(
                f"{name}: ds goes from {wide.index[at]} to {wide.index[at + 1]}, but by {steps[0]} before; "
                "put in the steps that are left out"
            )
    counts = ids.value_counts(sort=False)
    short = counts[counts < len(wide)]
    if len(short) and data.missing == "error":
        raise DataError(
            f"{name}: unique_id {short.index[0]} has {short.iloc[0]} of {len(wide)} timestamps "
            f"({len(short)} of {len(counts)} series are incomplete); fill them or set data.missing=hidden"
        )
    wide.columns = pd.Index([str(c) for c in wide.columns])
    wide.index.name = None
    return wide


def _split_time(
    frame: pd.DataFrame, data: SeriesConfig, name: str, notes: list[str], first: int | None
) -> tuple[pd.DataFrame, pd.DatetimeIndex | None]:
    if data.time_column is not None:
        column = data.time_column
        if column not in frame.columns:
            raise DataError(
                f"{name} has no column {column!r} (data.time_column); it has {_some(frame.columns)}."
                + did_you_mean(column, frame.columns)
            )
        times = frame[column]
        if pd.api.types.is_numeric_dtype(times):
            raise DataError(
                f"{name}: column {column!r} (data.time_column) holds numbers; write dates as 2024-01-31 00:00"
            )
        return frame.drop(columns=column), pd.DatetimeIndex(_to_times(times, name, column, first))
    if isinstance(frame.index, pd.DatetimeIndex):
        return frame, frame.index
    if isinstance(frame.index, pd.PeriodIndex):
        return frame, frame.index.to_timestamp()
    head = frame.columns[0]
    if head in ("", "Unnamed: 0") and np.array_equal(frame[head].to_numpy(), np.arange(len(frame))):
        notes.append("the first column has no name and numbers the rows: left out")
        frame = frame.drop(columns=head)
    for column in frame.columns:
        if _holds_dates(frame[column]):
            return frame.drop(columns=column), pd.DatetimeIndex(_to_times(frame[column], name, column, first))
    return frame, None


def _holds_dates(column: pd.Series[Any]) -> bool:
    if pd.api.types.is_datetime64_any_dtype(column):
        return True
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    head = column.dropna().head(20)
    text = head.astype(str)
    # Numbers with a bad value among them are words to the reader too, and pandas finds dates in many words.
    like_dates = text.str.contains(r"\d.*[-/:. ].*\d", regex=True) & pd.to_numeric(text, errors="coerce").isna()
    # Most, not all: a bad date shall be refused as a date, not as "not numeric".
    return bool(like_dates.mean() > 0.5 and _parse(head).notna().mean() > 0.5)


def _parse(column: pd.Series[Any]) -> pd.Series[Any]:
    """Dates in one way of writing throughout, NaT where a value is none.

    ISO 8601 first, then as the first value suggests with the month before the day, then with the day first.
    """
    zones = column.astype(str).str.contains(r":\d\d.*(?:Z|[+-]\d\d:?\d\d)$", regex=True).any()
    ways: list[dict[str, Any]] = [{"format": "ISO8601"}, {}, {"dayfirst": True}]
    best = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # About what is tried here on purpose.
        for way in ways:
            # Offsets that change with the summer time only fit in one column as UTC.
            parsed = pd.to_datetime(column, errors="coerce", utc=bool(zones), **way)
            if parsed.notna().all() and parsed.is_monotonic_increasing:
                return parsed
            if best is None or parsed.notna().sum() > best.notna().sum():
                best = parsed
    assert best is not None
    return best


def _to_times(column: pd.Series[Any], name: str, label: str, first: int | None) -> pd.Series[Any]:
    parsed = column if pd.api.types.is_datetime64_any_dtype(column) else _parse(column)
    bad = parsed.isna().to_numpy()
    if bad.any():
        row = int(bad.argmax())
        value = column.iloc[row]
        what = "is empty" if pd.isna(value) else f"holds {value!r}, which is no date"
        raise DataError(f"{name}, {place(first, row)}: column {label!r} {what}; write dates as 2024-01-31 00:00")
    return parsed


def _check_times(
    frame: pd.DataFrame, times: pd.DatetimeIndex, data: SeriesConfig, name: str, notes: list[str], first: int | None
) -> tuple[pd.DataFrame, pd.DatetimeIndex, str | None]:
    """Sorted, without repetition, evenly spaced; left-out rows put in when missing values are hidden."""
    if len(times) < 2:
        return frame, times, None
    gaps = np.diff(times.as_unit("ns").asi8)
    if (gaps < 0).any():
        row = int((gaps < 0).argmax()) + 1
        raise DataError(
            f"{name}, {place(first, row)}: {times[row]} comes after {times[row - 1]}; sort the rows by time"
        )
    if (gaps == 0).any():
        row = int((gaps == 0).argmax()) + 1
        raise DataError(f"{name}, {place(first, row)}: {times[row]} appears a second time; keep one row of each time")
    if len(times) > 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # An offset instead of a string: both will do.
            inferred = to_offset(pd.infer_freq(times))
        if inferred is not None:
            return frame, times, inferred.freqstr
    steps, counts = np.unique(gaps, return_counts=True)
    usual = int(steps[counts.argmax()])
    if len(steps) == 1:
        return frame, times, to_offset(pd.Timedelta(usual, unit="ns")).freqstr
    if data.missing == "hidden" and usual == steps[0] and not (gaps % usual).any():
        frequency = to_offset(pd.Timedelta(usual, unit="ns")).freqstr
        full = pd.date_range(times[0], times[-1], freq=frequency)
        notes.append(f"{len(full) - len(times)} rows with left-out timestamps were put in as missing")
        return frame.set_axis(times, axis="index").reindex(full), full, frequency
    row = int((gaps != usual).argmax()) + 1
    raise DataError(
        f"{name}, {place(first, row)}: {times[row]} follows {times[row - 1]}, but the usual step is "
        f"{pd.Timedelta(usual, unit='ns')}; put in the rows that are left out (data.missing=hidden does it), "
        "resample, or drop the time column"
    )


def _choose(
    frame: pd.DataFrame, data: SeriesConfig, name: str, notes: list[str]
) -> tuple[pd.DataFrame, tuple[int, ...]]:
    """The channels to read and which of them are targets."""
    if frame.shape[1] == 0:
        raise DataError(f"{name} has no column beside the time; add one with numbers")
    columns = list(frame.columns)
    target = data.target
    if target is None:
        target = "OT" if "OT" in columns else columns[-1]
    elif target not in columns:
        raise DataError(
            f"{name} has no column {target!r} (data.target); it has {_some(columns)}." + did_you_mean(target, columns)
        )
    if data.features == "S":
        return frame[[target]], (0,)
    if data.max_channels is not None and len(columns) > data.max_channels:
        keep = columns[: data.max_channels]
        if data.features == "MS" and target not in keep:
            keep = [*keep[:-1], target]
        notes.append(f"{len(keep)} of {len(columns)} channels are read (data.max_channels)")
        frame, columns = frame[keep], keep
    if data.features == "MS":
        return frame, (columns.index(target),)
    return frame, tuple(range(len(columns)))


def _numbers(frame: pd.DataFrame, name: str, first: int | None) -> Float:
    """(T, C) float64; refuses words and infinities."""
    values = np.empty(frame.shape, dtype=np.float64)
    for i, column in enumerate(frame.columns):
        values[:, i] = _column(frame[column], name, column, first)
    return values


def _column(column: pd.Series[Any], name: str, label: Hashable, first: int | None) -> Float:
    if pd.api.types.is_datetime64_any_dtype(column):
        raise DataError(f"{name}: column {label!r} holds dates, but the time is another column; remove one")
    try:
        plain = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
        numbers = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: column {label!r} is not numeric ({error}); remove the column") from error
    bad = np.isnan(numbers) & column.notna().to_numpy()
    # A column of strings may spell missing values; pandas reads "nan" as NaN without complaint.
    if bad.any():
        bad &= ~column.astype(str).str.strip().str.lower().isin(["", "nan", "na", "null", "none"]).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{name}, {place(first, row)}: column {label!r} is not numeric, it holds {column.iloc[row]!r}; "
            "mend the value or remove the column"
        )
    infinite = np.isinf(numbers)
    if infinite.any():
        row = int(infinite.argmax())
        raise DataError(
            f"{name}, {place(first, row)}: column {label!r} holds {numbers[row]} ({int(infinite.sum())} infinite "
            "values in it); replace them, empty fields with data.missing=hidden are fine"
        )
    return numbers


def _check_missing(
    values: Float,
    frame: pd.DataFrame,
    data: SeriesConfig,
    name: str,
    first: int | None,
    times: pd.DatetimeIndex | None,
) -> None:
    empty = np.isnan(values)
    if data.missing == "hidden" or not empty.any():
        return
    counts = empty.sum(axis=0)
    channel = int((counts > 0).argmax())
    row = int(empty[:, channel].argmax())
    more = "" if (counts > 0).sum() == 1 else f", {int(counts.sum())} in {int((counts > 0).sum())} columns"
    at = f" ({times[row]})" if times is not None else ""
    raise DataError(
        f"{name}, {place(first, row)}{at}: column {frame.columns[channel]!r} is empty ({int(counts[channel])} missing "
        f"values in it{more}); fill them or set data.missing=hidden"
    )


# ---- parts, scaler, season ---------------------------------------------------------------------------------------


def _borders(
    rows: int,
    given: Sequence[str],
    frequency: str | None,
    data: SeriesConfig,
    name: str,
    purpose: Purpose,
    notes: list[str],
) -> tuple[dict[str, tuple[int, int]], dict[str, Any]]:
    if purpose == "predict":
        return {"all": (0, rows)}, {"protocol": "all rows"}
    is_ett = tuple(given) == ETT_COLUMNS
    if data.protocol == "ett" or (data.protocol == "auto" and is_ett):
        per_day = _rows_per_day(frequency)
        if per_day not in (24, 96):
            raise DataError(
                f"{name}: protocol ett is for hourly or 15-minutely timestamps, these are {frequency or 'missing'}; "
                "set data.protocol=ratio"
            )
        ends = np.cumsum([days * per_day for days in _ETT_DAYS])
        if rows < ends[-1]:
            raise DataError(
                f"{name} has {rows} rows, but protocol ett needs {ends[-1]} (12, 4 and 4 months of 30 days); "
                "set data.protocol=ratio"
            )
        if data.protocol == "auto":
            notes.append(
                "the columns are those of the ETT files, so the parts are 12, 4 and 4 months of 30 days "
                "(data.protocol=ratio for shares)"
            )
        protocol: dict[str, Any] = {"protocol": "ett", "split": "12/4/4 months of 30 days"}
    else:
        # As Time-Series-Library counts: training and test rounded down, validation gets the rest.
        test = int(rows * round(1 - data.train_ratio - data.val_ratio, 9))
        ends = np.array([int(rows * data.train_ratio), rows - test, rows])
        if min(np.diff(ends, prepend=0)) < 1:
            raise DataError(
                f"{name} has {rows} rows, too few for training, validation and test parts "
                f"({data.train_ratio:g}/{data.val_ratio:g}/rest); give it more rows"
            )
        share = round(1 - data.train_ratio - data.val_ratio, 9)
        protocol = {"protocol": "ratio", "split": f"{data.train_ratio:g}/{data.val_ratio:g}/{share:g} of the rows"}
    train, val, test = (int(e) for e in ends)
    protocol["borders"] = {"train": [0, train], "val": [train, val], "test": [val, test]}
    return {"train": (0, train), "val": (train, val), "test": (val, test)}, protocol


def _statistics(part: Float, channels: Sequence[str], name: str) -> tuple[Float, Float]:
    seen = ~np.isnan(part)
    count = seen.sum(axis=0)
    if (count == 0).any():
        channel = channels[int((count == 0).argmax())]
        raise DataError(f"{name}: column {channel!r} has no value in the training part; remove it")
    mean = np.where(seen, part, 0.0).sum(axis=0) / count
    std = np.sqrt((np.where(seen, part - mean, 0.0) ** 2).sum(axis=0) / count)
    # Rounding leaves a tiny spread in a constant channel; dividing by it would make noise of it.
    constant = std <= 1e-12 * np.maximum(np.abs(mean), 1.0)
    return mean, np.where(constant, 1.0, std)


def _rows_per_day(frequency: str | None) -> int | None:
    """None without a frequency, for calendar frequencies and when a day is no whole number of rows."""
    if frequency is None:
        return None
    try:
        step = pd.Timedelta(to_offset(frequency))  # type: ignore[arg-type]
    except ValueError:
        return None
    day = pd.Timedelta(days=1)
    return int(day / step) if step <= day and day % step == pd.Timedelta(0) else None


def _period(frequency: str | None) -> int | None:
    per_day = _rows_per_day(frequency)
    if frequency is None:
        return None
    if per_day is not None:
        return per_day if per_day > 1 else 7
    calendar = {"B": 5, "C": 5, "W": 52, "M": 12, "B M": 12, "Q": 4, "Y": 1, "A": 1}
    letter = frequency.split("-")[0].lstrip("0123456789")
    letter = letter[1:] if len(letter) > 1 and letter[0] == "B" else letter
    return calendar.get(letter[:1], 1) if not frequency[0].isdigit() else 1


def _estimate_period(scaled: Float) -> int:
    """The season by the autocorrelation averaged over channels; 1 when it has no hill above 0.2.

    The first of the hills within a tenth of the highest, so that no multiple of the season is taken for it.
    """
    filled = np.nan_to_num(scaled)
    rows = len(filled)
    largest = min(rows // 3, 2000)
    if largest < 3:
        return 1
    line = np.linspace(-1.0, 1.0, rows)[:, None]
    residual = filled - filled.mean(axis=0)
    residual = residual - line * (line * residual).sum(axis=0) / (line**2).sum()
    power = np.abs(np.fft.rfft(residual, n=2 * rows, axis=0)) ** 2
    covariance = np.fft.irfft(power, n=2 * rows, axis=0)[: largest + 1]
    # Fewer rows overlap at longer lags.
    covariance *= rows / (rows - np.arange(largest + 1))[:, None]
    variance = covariance[:1]
    moves = variance[0] > 1e-9 * rows
    if not moves.any():
        return 1
    correlation = (covariance[:, moves] / variance[:, moves]).mean(axis=1)
    lags = np.arange(2, largest)
    hills = lags[(correlation[lags] > correlation[lags - 1]) & (correlation[lags] >= correlation[lags + 1])]
    hills = hills[correlation[hills] > 0.2]
    if not len(hills):
        return 1
    return int(hills[correlation[hills] >= 0.9 * correlation[hills].max()][0])


def _some(names: Sequence[Any] | pd.Index[Any], most: int = 8) -> str:
    shown = [str(n) for n in names][:most]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > most else "")


__all__ = [
    "ETT_COLUMNS", "Scaler", "SeriesConfig", "SeriesDataset", "Windows", "from_frame", "from_gluonts",
    "future_times", "read_series",
]  # fmt: skip
