"""What the calendar says of a timestamp, as channels beside the series."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

NAMES = ("minute", "hour", "day_of_week", "day_of_month", "day_of_year", "month", "week")


def calendar(times: pd.DatetimeIndex) -> npt.NDArray[np.float64]:
    """Minute, hour, day of week (Monday 0), of month, of year, month and ISO week, (T, 7) float64."""
    fields = (
        times.minute, times.hour, times.dayofweek, times.day, times.dayofyear, times.month, times.isocalendar().week,
    )  # fmt: skip
    return np.stack([np.asarray(field, dtype=np.float64) for field in fields], axis=1)


__all__ = ["NAMES", "calendar"]
