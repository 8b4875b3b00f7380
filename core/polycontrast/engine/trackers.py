"""metrics.jsonl always; tensorboard and wandb through accelerate when asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from polycontrast import distributed
from polycontrast.config import flat
from polycontrast.errors import ConfigError
from polycontrast.runs import Run


class Trackers:
    """Where the numbers of a training go, line by line. Does nothing outside process 0."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        for name in names:
            if find_spec(name) is None:
                raise ConfigError(f"engine.trackers: {name} is not installed: pip install {name}")
        self._main = distributed.rank() == 0
        self._others: list[GeneralTracker] = []
        if self._main:
            self._file = run.metrics_file.open("ab")
            for name in names:
                if name == "tensorboard":
                    tracker: GeneralTracker = TensorBoardTracker("tensorboard", logging_dir=run.path)
                else:
                    tracker = WandBTracker(run.path.name, dir=run.path)
                tracker.start()
                tracker.store_init_configuration({name: _simple(value) for name, value in flat(run.config).items()})
                self._others.append(tracker)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        if not self._main:
            return
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write((json.dumps(clean) + "\n").encode())
        self._file.flush()
        if self._others:
            numbers = {k: v for k, v in clean.items() if "/" in k and v is not None}
            for tracker in self._others:
                tracker.log(numbers, step=row["step"])

    @property
    def size(self) -> int:
        """Bytes of metrics.jsonl so far."""
        return self._file.tell() if self._main else 0

    def cut(self, size: int) -> None:
        """Forget what was written after a checkpoint."""
        if self._main:
            self._file.truncate(size)
            self._file.seek(size)

    def sync(self) -> None:
        """Make sure that the lines so far survive a power cut, before a checkpoint refers to them."""
        if self._main:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and end the other trackers."""
        if self._main:
            self._file.close()
        for tracker in self._others:
            tracker.finish()


def _simple(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
