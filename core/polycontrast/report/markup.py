"""HTML and SVG as values: whatever is not :class:`Html` already is escaped."""

from __future__ import annotations

import html
import re
from typing import Any

_VOID = frozenset({"meta", "wbr"})


class Html(str):
    """Text that is markup and must not be escaped again."""

    __slots__ = ()


def join(*children: Any) -> Html:
    """Children one after the other. None and False are left out, lists and tuples are entered."""
    parts: list[str] = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(*child))
        else:
            parts.append(html.escape(str(child)))
    return Html("".join(parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. ``class_`` stands for class, other underscores for hyphens; None and False leave an attribute out."""
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written += f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def linked(text: str) -> Html:
    """Text whose web addresses can be clicked. Nothing is loaded from them."""
    parts = re.split(r"(https?://[^\s<>\"'{}]*[^\s<>\"'{}.,;:)\]])", text)
    return join(*(tag("a", p, href=p, rel="noreferrer") if i % 2 else p for i, p in enumerate(parts)))


def breakable(name: str) -> Html:
    """A dotted name that breaks after a dot or an underscore rather than anywhere."""
    return join(*((part, tag("wbr")) for part in re.split(r"(?<=[._])", name)))
