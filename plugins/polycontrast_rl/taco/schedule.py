"""Exploration noise over time, written as in DrQ-v2: ``0.2``, ``linear(1.0,0.1,100000)``, ``step_linear(...)``.

Imports no torch.
"""

from __future__ import annotations

import re

from polycontrast import schedules
from polycontrast.errors import ConfigError

_CALL = re.compile(r"\s*(linear|step_linear)\s*\(([^()]*)\)\s*")


def scheduled(text: str, step: int) -> float:
    """The value of a schedule.

    Args:
        text: a number; ``linear(start,end,steps)``; or ``step_linear(start,middle,steps,end,steps)``, two lines one
            after the other.
        step: agent steps taken before.

    Raises:
        ConfigError: the text is none of these.
    """
    try:
        return float(text)
    except ValueError:
        pass
    match = _CALL.fullmatch(text)
    try:
        numbers = [float(word) for word in match[2].split(",")] if match else []
    except ValueError:
        numbers = []
    if match and match[1] == "linear" and len(numbers) == 3:
        start, end, steps = numbers
        return schedules.linear(start, end, step, steps)
    if match and match[1] == "step_linear" and len(numbers) == 5:
        start, middle, first, end, second = numbers
        if step <= first:
            return schedules.linear(start, middle, step, first)
        return schedules.linear(middle, end, step - first, second)
    raise ConfigError(f"schedule {text!r} is not understood; write 0.2, linear(1.0,0.1,100000) or step_linear(...)")
