"""One live line on standard error: stage, step, loss, items per second, time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY_TERMINAL, _EVERY_FILE = 0.25, 15.0


class ProgressLine:
    """Shows where the training is. On a terminal a line that is drawn anew; elsewhere a plain line now and then."""

    def __init__(self, shown: bool) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._live = shown and self.console.is_terminal
        self._plain = shown and not self._live
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=self.console, auto_refresh=False,
            disable=not self._live,
        )  # fmt: skip
        self._stage = ""
        self._total = 0
        self._first = 0
        self._started = self._shown = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage begins, or goes on after ``done`` of its ``total`` steps."""
        for task in list(self._bar.task_ids):
            self._bar.remove_task(task)
        self._stage, self._total, self._first = stage, total, done
        self._task = self._bar.add_task(stage, total=total, completed=done, text="")
        self._started = time.perf_counter()
        self._shown = self._started

    def due(self) -> bool:
        """Whether it is time to show something; the loss is fetched from the device only then."""
        if not (self._live or self._plain):
            return False
        return time.perf_counter() - self._shown >= (_EVERY_TERMINAL if self._live else _EVERY_FILE)

    def show(self, done: int, loss: float, batch_size: int) -> None:
        """Show the state after ``done`` steps of the stage."""
        self._shown = time.perf_counter()
        rate = (done - self._first) / max(self._shown - self._started, 1e-9)
        text = f"loss {loss:.4g}  {rate * batch_size:.0f} items/s"
        if self._live:
            self._bar.update(self._task, completed=done, text=text)
            self._bar.refresh()
        else:
            left = (self._total - done) / rate if rate else 0.0
            print(f"{self._stage}  {done}/{self._total}  {text}  {_clock(left)} left", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """A line of its own above the live one."""
        self.console.print(message, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
