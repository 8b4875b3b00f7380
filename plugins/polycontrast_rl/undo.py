"""What a replay on disk overwrote since a checkpoint, so that a resumed run can take it back.

Segment k holds the rows overwritten between the k-th and the next checkpoint, in order, each preceded by its number.
Going back to checkpoint k writes the segments from the newest to k back, last row first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from polycontrast.errors import CheckpointError
from polycontrast_rl.columns import Columns, write_all

_NAME = re.compile(r"undo-(\d+)\.bin")
_KEPT = 4


class UndoLog:
    """Rows as they were before they were overwritten.

    Args:
        folder: of the replay.
        columns: its rows.
        names: the fields of a row, in the order they are written back.
    """

    def __init__(self, folder: Path, columns: Columns, names: Sequence[str]) -> None:
        self._folder, self._columns, self._names = folder, columns, names
        self._sizes = [columns[name][0].nbytes for name in names]
        self._current = max(self._segments(), default=None)
        self._file = None if self._current is None else self._open(self._current)

    def keep(self, row: int, count: int) -> None:
        """Save consecutive rows that are about to be overwritten. Nothing to do before the first checkpoint."""
        if self._file is None:
            return
        for at in range(row, row + count):
            parts = [np.int64(at).tobytes(), *(self._columns[name][at].tobytes() for name in self._names)]
            write_all(self._file, b"".join(parts), self._folder)

    def begin(self) -> int:
        """Begin the segment of a new checkpoint and forget the oldest. Returns its number."""
        self._start(0 if self._current is None else self._current + 1)
        assert self._current is not None
        for number in self._segments():
            if number <= self._current - _KEPT:
                self._path(number).unlink()
        return self._current

    def back_to(self, number: int) -> None:
        """Bring the rows back to what they were at a checkpoint.

        Raises:
            CheckpointError: the log does not reach back to it.
        """
        segments = self._segments()
        if number not in segments:
            raise CheckpointError(
                f"the replay in {self._folder} no longer holds what it held at this checkpoint; take a newer one"
            )
        self.close()
        for segment in sorted((s for s in segments if s >= number), reverse=True):
            self._write_back(self._path(segment))
        self._columns.sync()
        for segment in (s for s in segments if s > number):
            self._path(segment).unlink()
        self._start(number)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_back(self, path: Path) -> None:
        size = 8 + sum(self._sizes)
        with path.open("rb") as file:
            # A kill may have left the last record half written; its row was not overwritten yet.
            for record in reversed(range(path.stat().st_size // size)):
                file.seek(record * size)
                row = int(np.frombuffer(file.read(8), np.int64)[0])
                for name, width in zip(self._names, self._sizes, strict=True):
                    column = self._columns[name]
                    value = np.frombuffer(file.read(width), column.dtype).reshape(1, *column.shape[1:])
                    self._columns.write(name, row, value)

    def _start(self, number: int) -> None:
        self.close()
        self._current = number
        self._path(number).unlink(missing_ok=True)
        self._file = self._open(number)

    def _open(self, number: int) -> BinaryIO:
        return self._path(number).open("ab", buffering=0)

    def _path(self, number: int) -> Path:
        return self._folder / f"undo-{number:06d}.bin"

    def _segments(self) -> list[int]:
        return sorted(int(m[1]) for p in self._folder.iterdir() if (m := _NAME.fullmatch(p.name)))
