"""Numbers that change with the step: pure functions, so that a resumed run needs nothing but its counter.

For temperatures, momenta, weights of loss terms and curricula. Everything here is torch-free and can stand in a config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Shape = Literal["constant", "linear", "cosine", "exponential", "gaussian", "cyclic"]


def progress(step: float, steps: float, *, delay: float = 0) -> float:
    """How much of ``steps`` is done, from 0 to 1; 0 until ``delay``. If there are no steps, 1 from ``delay`` on."""
    if step < delay:
        return 0.0
    return 1.0 if steps <= 0 else min((step - delay) / steps, 1.0)


def linear(start: float, end: float, step: float, steps: float) -> float:
    """A straight line from ``start`` at step 0 to ``end`` at ``steps``, then ``end``."""
    return end + (start - end) * (1.0 - progress(step, steps))


def cosine(start: float, end: float, step: float, steps: float) -> float:
    """Half a cosine from ``start`` to ``end``: the momentum of BYOL, most learning rates."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress(step, steps)))


def exponential(start: float, end: float, step: float, steps: float) -> float:
    """Equal ratios from ``start`` to ``end``, which have the same sign and are not 0.

    Raises:
        ValueError: they have not.
    """
    if start * end <= 0:
        raise ValueError(f"an exponential schedule needs two numbers of one sign, got {start} and {end}; use cosine")
    done = progress(step, steps)
    return end if done == 1.0 else start * (end / start) ** done


def gaussian(start: float, end: float, step: float, steps: float) -> float:
    """``exp(-5 (1 - progress)^2)`` of the way from ``start`` to ``end``: the ramp-up of Laine and Aila (2017).

    It begins at ``exp(-5)`` of the way, 0.7 %, as in the paper.
    """
    return start + (end - start) * math.exp(-5.0 * (1.0 - progress(step, steps)) ** 2)


def cyclic(start: float, end: float, step: float, steps: float) -> float:
    """A whole cosine every ``steps`` steps: ``start``, half way ``end``, ``start`` again, without end.

    The temperature of Kukleva et al. (2023), with the largest as ``start``. No steps: ``start``.
    """
    return end + (start - end) * 0.5 * (1.0 + math.cos(2.0 * math.pi * step / steps)) if steps > 0 else start


def piecewise(points: Sequence[tuple[float, float]], step: float) -> float:
    """Straight lines between ``(step, value)`` points, level before the first and after the last.

    Raises:
        ValueError: no points, or their steps do not grow.
    """
    if not points or any(b <= a for (a, _), (b, _) in pairwise(points)):
        raise ValueError(f"a piecewise schedule needs (step, value) points with growing steps, got {list(points)}")
    for (a, start), (b, end) in pairwise(points):
        if step < b:
            return linear(start, end, max(step - a, 0), b - a)
    return points[-1][1]


_SHAPES = {
    "linear": linear, "cosine": cosine, "exponential": exponential, "gaussian": gaussian, "cyclic": cyclic,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schedule:
    """One of the functions above with its numbers, as a field of a config.

    ``Schedule("cosine", 0.99, 1.0, steps=1000)(step)``. Call it with the number of steps (or epochs) taken before.
    """

    shape: Shape = "constant"
    """How to get there. ``constant`` is ``start`` for ever."""
    start: float = 1.0
    """Value at ``delay`` and before."""
    end: float = 1.0
    """Value at ``delay + steps`` and after."""
    steps: float = 0
    """Length of the change."""
    delay: float = 0
    """Steps before it begins."""

    def __post_init__(self) -> None:
        if self.shape != "constant" and self.shape not in _SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}; one of: constant, {', '.join(_SHAPES)}")
        self(0)

    def __call__(self, step: float) -> float:
        """The value at a step."""
        if self.shape == "constant" or step < self.delay:
            return self.start
        return _SHAPES[self.shape](self.start, self.end, step - self.delay, self.steps)
