"""What the calendar says of a timestamp, as channels beside the series."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

NAMES = ("minute", "hour", "day_of_week", "day_of_month", "day_of_year", "month", "week")


def calendar(times: pd.DatetimeIndex) -> npt.NDArray[np.float64]:
    """Minute, hour, day of week (Monday 0), of month, of year, month and ISO week, (T, 7) float64."""
    week = times.isocalendar().week
    fields = (times.minute, times.hour, times.day_of_week, times.day, times.day_of_year, times.month, week)
    return np.stack([np.asarray(field, dtype=np.float64) for field in fields], axis=1)


__all__ = ["NAMES", "calendar"]
