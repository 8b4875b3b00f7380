"""What the commands print. No rich here: ``list`` must answer in a blink."""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from polycontrast.errors import PolycontrastError


class ReaderLeft(Exception):
    """Standard output was closed by the program that reads it."""


@contextmanager
def to_stdout() -> Iterator[None]:
    """Around everything that writes to standard output.

    Raises:
        ReaderLeft: the pipe was closed.
        PolycontrastError: standard output cannot be written, e.g. a full disk.
    """
    try:
        yield
    except BrokenPipeError:
        raise ReaderLeft from None
    except OSError as error:
        raise PolycontrastError(f"cannot write to standard output: {error.strerror or error}") from error


def flush() -> None:
    """Send off what is still in the buffer while an error can still be told."""
    if sys.stdout is not None and not sys.stdout.closed:
        with to_stdout():
            sys.stdout.flush()


def write(text: str) -> None:
    """One piece of text to standard output."""
    with to_stdout():
        print(text)


def say(text: str) -> None:
    """A line beside the answer, to standard error."""
    print(text, file=sys.stderr)


def write_json(answer: Mapping[str, Any]) -> None:
    """One JSON object as one line, with null where a number is not finite."""
    import json

    flush()
    write(json.dumps(jsonable(answer), ensure_ascii=False, allow_nan=False))


def jsonable(value: Any) -> Any:
    """The value with plain containers, null for NaN and infinities, and text for what JSON does not know."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy and torch
        return jsonable(value.tolist())
    return str(value)


def is_main_process() -> bool:
    """Under ``torchrun`` or ``accelerate launch`` only one process answers."""
    return os.environ.get("RANK", "0") == "0"


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: closed by the caller (>&-)


def _width() -> int:
    """Columns to fill: those of the terminal, unlimited in a file or pipe."""
    return shutil.get_terminal_size().columns if _on_terminal() else 1000


def bold(text: str) -> str:
    """Bold on a terminal, plain elsewhere."""
    if _on_terminal() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        return f"\033[1m{text}\033[0m"
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 2) -> str:
    """Left-aligned columns; on a terminal the last one is wrapped to its width."""
    if not rows:
        return ""
    wide = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head) - 1)]
    start = indent + sum(w + 2 for w in wide)
    room = max(_width() - start, 24)
    lines = []
    for row in [head, *rows]:
        first, *rest = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        cells = "".join(cell.ljust(w + 2) for cell, w in zip(row, wide, strict=False))
        line = (" " * indent + cells + first).rstrip()
        lines.append(bold(line) if row is head else line)
        lines += [" " * start + more for more in rest]
    return "\n".join(lines)


def paragraph(text: str, *, indent: int) -> list[str]:
    """Lines of running text, no longer than can be read with ease."""
    space = " " * indent
    return textwrap.wrap(" ".join(text.split()), min(_width(), 100), initial_indent=space, subsequent_indent=space)


def heading(text: str) -> str:
    """A line above a block."""
    return "\n" + bold(text)
