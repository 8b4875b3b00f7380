"""Settings of the data that every method of this domain reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polycontrast.config import DataConfig
from polycontrast.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesConfig(DataConfig):
    """How a file of time series, or of labelled cases, is read and split.

    Every channel is brought to mean 0 and standard deviation 1 with the statistics of the training part.
    """

    protocol: Literal["auto", "ett", "ratio"] = "auto"
    """Parts of a series. "ett": 12, 4 and 4 months of 30 days, later rows unused, for hourly or 15-minutely rows;
    "ratio": shares of the rows in order of time; "auto": "ett" for exactly the columns of the ETT files,
    else "ratio"."""
    train_ratio: float = 0.7
    """Share of the rows for training under protocol "ratio"."""
    val_ratio: float = 0.1
    """Share of the rows for validation under protocol "ratio"; what remains is the test part."""
    features: Literal["M", "S", "MS"] = "M"
    """"M": all channels in, all channels out; "S": the target alone; "MS": all channels in, the target out."""
    target: str | None = None
    """Channel that "S" and "MS" predict. None: OT if there is one, else the last column."""
    time_column: str | None = None
    """Column with the timestamps. None: the first column that holds dates, if any."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the first line of a text file names the columns. "auto": unless it holds numbers."""
    missing: Literal["error", "hidden"] = "error"
    """Empty values: refuse the file, or pass them on as NaN, which methods treat as hidden. "hidden" also puts
    hidden rows where timestamps are left out."""
    period: int | None = None
    """Season in rows. None: from the spacing of the timestamps (a day, a week for daily rows, a year for weekly and
    longer ones), without timestamps from the autocorrelation of the training part."""
    max_channels: int | None = None
    """Read only so many channels, the first ones and the target. None: all."""
    max_length: int | None = 1024
    """Labelled cases longer than this are thinned out in equal steps. None: as they are."""

    def __post_init__(self) -> None:
        if not (0 < self.train_ratio < 1 and 0 < self.val_ratio < 1 and self.train_ratio + self.val_ratio < 1):
            raise ConfigError(
                "data.train_ratio and data.val_ratio must be positive and leave a share for the test part, "
                f"got {self.train_ratio} and {self.val_ratio}"
            )
        for name, value in {
            "period": self.period, "max_channels": self.max_channels, "max_length": self.max_length
        }.items():  # fmt: skip
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} must be positive, got {value}")
