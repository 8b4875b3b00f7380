"""The result table on the console."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from polycontrast.report.rows import (
    MISSING,
    Group,
    Row,
    decimals,
    groups,
    higher_is_better,
    shown,
    shown_in,
    table,
    verdict,
)

_ROLES = {"method": "", "floor": "floor", "strong": "strong", "published": "published"}
_SENSES = {True: "higher is better", False: "lower is better", None: ""}
_WIDE = Console(width=10_000)


def print_table(result: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print method, baselines and published figures of a run or of several seeds.

    Plain text when ``file`` is no terminal. A table that is too wide is cut into several; no number is ever cut.

    Args:
        result: the JSON object of a run, or that of several seeds (``runs`` and ``summary``).
        file: where to. None: standard output.
    """
    console = Console(file=file or sys.stdout, highlight=False)
    rows = table(result)
    if not rows:
        console.print("no results")
        return
    runs = result.get("runs") or [result]
    first = runs[0]
    limit = console.width if console.is_terminal else 160

    title = f"{first.get('method', '?')} on {first.get('dataset', '?')}"
    seeds = [str(run.get("seed", "?")) for run in runs]
    title += f", seed {seeds[0]}" if len(seeds) == 1 else f", mean and deviation over seeds {', '.join(seeds)}"

    def put(text: str, style: str = "") -> None:
        console.print(Text(_clean(text, console.encoding), style=style), soft_wrap=not console.is_terminal)

    put(title, "bold")
    headline = first.get("headline")
    for group in groups(rows[0].values, headline):
        columns = list(group.columns)
        while columns:
            part = len(columns)
            while part > 1 and _width(_build(rows, group, columns[:part], first, limit, console.encoding)) > limit:
                part -= 1
            built = _build(rows, group, columns[:part], first, limit, console.encoding)
            console.width = max(console.width, _width(built))  # else rich would cut numbers
            console.print()
            console.print(built)
            columns = columns[part:]
    notes = ["* best of the numbers measured here"] if any(row.best for row in rows if row.role != "published") else []
    if any(row.role == "published" for row in rows):
        notes.append("published figures are quoted, not recomputed")
    console.print()
    if notes:
        put("; ".join(notes), "dim")
    said = [verdict(run) for run in runs]
    if len(runs) == 1:
        put(said[0].text)
    elif all(one.level != "unknown" for one in said):
        floors, all_of_them = (sum(one.level in levels for one in said) for levels in (("good", "mixed"), ("good",)))
        strong = f", its strong baselines too in {all_of_them}" if any(row.role == "strong" for row in rows) else ""
        put(f"The method beats its floors in {floors} of {len(runs)} runs{strong}.")


def _clean(text: str, encoding: str) -> str:
    """The text without what could steer a terminal or cannot be written in its encoding."""
    return "".join(c if c.isprintable() else "?" for c in text).encode(encoding, "replace").decode(encoding)


def _width(built: Table) -> int:
    """Columns of the screen that the table needs to show everything."""
    return Measurement.get(_WIDE, _WIDE.options, built).maximum


def _build(
    rows: Sequence[Row],
    group: Group,
    columns: Sequence[tuple[str, str]],
    result: Mapping[str, Any],
    limit: int,
    encoding: str,
) -> Table:
    """One table of a group; cells are Text, so that no name is read as markup."""
    ascii_only = not encoding.lower().startswith("utf")
    built = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    # Long labels may wrap, numbers may not.
    senses = {metric: higher_is_better(metric, result) for metric, _ in columns}
    common = _SENSES[next(iter(senses.values()))] if len(set(senses.values())) == 1 else ""
    title = _clean(", ".join(word for word in (group.title, common) if word), encoding)
    built.add_column(Text(title), max_width=max(16, limit // 3), overflow="fold")
    built.add_column("", no_wrap=True, style="dim")
    cells: list[list[Text]] = [[] for _ in rows]
    for metric, heading in columns:
        head = heading if common or senses[metric] is None else f"{heading} ({'higher' if senses[metric] else 'lower'})"
        style = "bold" if metric == result.get("headline") else ""
        built.add_column(Text(_clean(head, encoding), style=style), justify="right", no_wrap=True)
        places = decimals(row.values.get(metric) for row in rows)
        starred = any(metric in row.best and row.role != "published" for row in rows)
        for row, line in zip(rows, cells, strict=True):
            text = shown(row.values.get(metric), places, missing="-" if ascii_only else MISSING)
            if metric in row.spread and row.values.get(metric) is not None:
                text += (" +/- " if ascii_only else " ± ") + shown(row.spread[metric], places)
            best = metric in row.best and row.role != "published"
            line.append(Text(text + (" *" if best else "  " * starred), style="bold" if best else ""))
    visible = {id(row) for row in shown_in(rows, Group(group.title, tuple(columns)))}
    for row, line in zip(rows, cells, strict=True):
        if id(row) in visible:
            built.add_row(
                Text(_clean(row.label, encoding), style="bold" if row.role == "method" else ""), _ROLES[row.role], *line
            )
    return built
