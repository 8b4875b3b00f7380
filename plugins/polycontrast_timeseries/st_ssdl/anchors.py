"""Historical anchors: what a sensor usually shows at a slot of the week or day.

``fixed`` anchors are a table with one average per slot; ``expanding`` and ``ewm`` ones are taken, step by step, from
the same slot of earlier periods alone, so that no window sees itself. Slots count steps since a Monday 00:00.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.floating[Any]]
Int = npt.NDArray[np.int64]
Mode = Literal["fixed", "expanding", "ewm"]

NULL_TOLERANCE = 5e-5
"""How near a value must be to the missing marker (as in BasicTS)."""
_CHUNK = 1 << 22


def hide_nulls(values: Float, null_value: float | None) -> Float:
    """A floating copy with NaN where a value is missing."""
    found = np.array(values, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
    if null_value is not None and not np.isnan(null_value):
        found[np.abs(found - null_value) <= NULL_TOLERANCE] = np.nan
    return found


def slot_means(values: Float, slots: Int, period: int, *, null_value: float | None = 0.0) -> Float:
    """Mean of the observations of every slot and sensor (spec of the code: weekly, zeros left out).

    Args:
        values: (T, N), may be memory-mapped: a few rows are held at a time.
        slots: (T,) slot of each row, 0 to ``period`` - 1.
        period: slots, P.
        null_value: means missing, as NaN does.

    Returns:
        (P, N) float64, NaN where nothing was observed.
    """
    sums, counts = np.zeros((2, period, values.shape[1]))
    # Within a stretch of at most one period no slot repeats, so plain indexed addition is right.
    size = max(1, min(period, _CHUNK // max(values.shape[1], 1)))
    for start in range(0, len(values), size):
        part = hide_nulls(values[start : start + size], null_value)
        at, seen = slots[start : start + size], ~np.isnan(part)
        sums[at] += np.where(seen, part, 0.0)
        counts[at] += seen
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)


def filled(table: Float, per_day: int) -> Float:
    """Empty slots by the mean of the sensor's other slots at that time of day, else of all its slots, else of all.

    Args:
        table: (P, N) from :func:`slot_means`.
        per_day: slots of a day; used where P is a multiple of it.
    """
    table = np.array(table, dtype=np.float64)
    if len(table) > per_day and len(table) % per_day == 0:
        days = table.reshape(-1, per_day, table.shape[1])
        table = np.where(np.isnan(days), _mean(days, 0)[None], days).reshape(table.shape)
    table = np.where(np.isnan(table), _mean(table, 0)[None], table)
    return np.where(np.isnan(table), np.nan_to_num(_mean(table, None)), table)


def _mean(values: Float, axis: int | None) -> Float:
    """Mean of what is there; NaN of nothing, without numpy's warning."""
    seen = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, values, 0.0).sum(axis) / seen.sum(axis))


@dataclass(frozen=True)
class Anchors:
    """The anchor of any row of a panel."""

    table: Float
    """(P, N) filled averages; what causal modes fall back on, too."""
    mode: Mode = "fixed"
    decay: float = 0.5
    """Share of its weight that an observation keeps per period in mode ``ewm``."""
    per_day: int = 288
    null_value: float | None = 0.0

    def at(self, values: Float, rows: Int, slots: Int, until: Int | None = None) -> Float:
        """Anchors of some rows.

        Args:
            values: (T, N) the panel, for the causal modes; rows before 0 are not there.
            rows: (...,) numbers of rows; may lie beyond the end.
            slots: (...,) their slots.
            until: to broadcast with ``rows``: causal modes take observations before these rows alone. None: any that
                are earlier than the row itself.

        Returns:
            (..., N). In causal modes a step without an earlier observation at its slot takes those at the same time of
            earlier days, and failing these the table.
        """
        if self.mode == "fixed":
            return np.asarray(self.table[slots])
        known = self._before(values, rows, len(self.table), until)
        if len(self.table) > self.per_day and np.isnan(known).any():
            known = np.where(np.isnan(known), self._before(values, rows, self.per_day, until), known)
        return np.where(np.isnan(known), self.table[slots], known)

    def _before(self, values: Float, rows: Int, period: int, until: Int | None) -> Float:
        """Weighted mean of the observations one, two, ... periods earlier; NaN where there is none."""
        shape = (*rows.shape, values.shape[1])
        sums, weights, weight = np.zeros(shape), np.zeros(shape), 1.0
        last, end = int(rows.max(initial=0)), len(values) if until is None else np.minimum(until, len(values))
        for back in range(1, last // period + 1):
            earlier = rows - back * period
            there = (earlier >= 0) & (earlier < end)
            found = hide_nulls(values[np.where(there, earlier, 0)], self.null_value)
            seen = ~np.isnan(found) & there[..., None]
            sums += weight * np.where(seen, found, 0.0)
            weights += weight * seen
            weight *= self.decay if self.mode == "ewm" else 1.0
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / weights)
