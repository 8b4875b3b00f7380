"""CSV tables beside the metrics, with the columns of DrQ-v2, that survive a kill."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CsvTable:
    """Rows appended to a file. A resumed run cuts off what was written after its checkpoint.

    Args:
        columns: their names, in order.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._file: Path | None = None
        self._size = 0

    def open(self, file: Path) -> None:
        """Write to ``file``, from where the table is: at its start, or where ``load_state_dict`` says."""
        self._file = file
        if file.exists():
            os.truncate(file, min(self._size, file.stat().st_size))
        if self._size == 0:
            self._append(self.columns)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row with a value for every column."""
        self._append([_short(row[name]) for name in self.columns])

    def _append(self, cells: Any) -> None:
        assert self._file is not None
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())
        self._size = self._file.stat().st_size

    def state_dict(self) -> dict[str, Any]:
        """How much is written."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Call it before :meth:`open`."""
        self._size = int(state["size"])


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
