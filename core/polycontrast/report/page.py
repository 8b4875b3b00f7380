"""``report.html``: one file that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polycontrast.files import write_text
from polycontrast.report import charts, facts
from polycontrast.report.markup import Html, breakable, join, linked, tag
from polycontrast.report.rows import (
    MISSING,
    Group,
    Row,
    decimals,
    groups,
    higher_is_better,
    number,
    shown,
    shown_in,
    table,
    verdict,
)

if TYPE_CHECKING:
    from polycontrast.runs import Run

_CHIPS = {"method": "", "floor": "floor", "strong": "strong baseline", "published": "published, not recomputed"}
_SIGNS = {"good": "✓", "mixed": "≈", "bad": "✗", "unknown": "?"}


def write(run: Run) -> Path:
    """Write ``report.html`` into the run directory, also while the run is not finished.

    Args:
        run: a run directory; its result may be missing and its metrics.jsonl cut off.

    Returns:
        The file. It needs neither network nor script.

    Raises:
        RunError: config.yaml, environment.json or result.json of the run is damaged.
    """
    file = run.path / "report.html"
    # A lone surrogate, which JSON may hold, has no UTF-8 form.
    write_text(file, page(run).encode("utf-8", "replace").decode("utf-8"))
    return file


def page(run: Run) -> Html:
    """The whole document."""
    asked, environment, result = run.config, run.environment, run.result
    lines = [line for line in run.metrics() if isinstance(line, dict)]
    method = str(asked.get("method", "?"))
    dataset = str((result or {}).get("dataset", asked.get("data", "?")))
    body = join(
        _header(method, dataset, asked, environment, result, lines),
        tag(
            "main",
            _headline(method, result, lines),
            _warnings(result),
            _results(result) if result else None,
            _own_charts(run.charts),
            _curves(lines),
            _protocol(result),
            _reproduce(run),
            _settings(method, asked.get("config") or {}),
            _environment(environment),
            _sources(method, result or {}),
        ),
        tag("footer", tag("p", "Written by polycontrast. This page loads nothing from the network.")),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("title", f"{method} on {dataset}, seed {asked.get('seed', '?')}"),
        tag("style", Html(files("polycontrast.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    return Html("<!doctype html>\n" + tag("html", head, tag("body", body), lang="en-GB") + "\n")


def _section(title: str, *children: Any) -> Html:
    name = re.sub(r"\W+", "-", title.lower())
    return tag("section", tag("h2", title, id=name), *children, aria_labelledby=name)


def _header(
    method: str,
    dataset: str,
    asked: Mapping[str, Any],
    environment: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    lines: Sequence[Mapping[str, Any]],
) -> Html:
    done = result or {}
    iso, words = facts.date(environment)
    steps = number(done.get("steps", lines[-1].get("step") if lines else None))
    seconds = facts.duration(done.get("seconds", lines[-1].get("seconds") if lines else None))
    parameters = number(done.get("parameters"))
    known: list[tuple[str, Any]] = [
        ("dataset", dataset),
        ("preset", done.get("preset", asked.get("preset")) or None),
        ("seed", asked.get("seed")),
        ("date", tag("time", words, datetime=iso) if iso else words or None),
        ("steps", None if steps is None else f"{steps:,.0f}"),
        ("time", seconds or None),
        ("parameters", None if parameters is None else f"{parameters:,.0f}"),
        ("device", environment.get("device")),
    ]
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in known if value is not None]
    return tag("header", tag("p", "Run report", class_="eyebrow"), tag("h1", method), tag("dl", *pairs, class_="facts"))


def _warnings(result: Mapping[str, Any] | None) -> Html | None:
    """What was told during training and a reader of the numbers should know."""
    told = (result or {}).get("warnings") or ()
    return _section("Warnings", tag("ul", *(tag("li", str(text)) for text in told), class_="notes")) if told else None


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _value(value: float | None, places: int) -> Html:
    """A number for reading that carries its exact value."""
    if value is None:
        return tag("span", MISSING, class_="missing", aria_label="not measured")
    return tag("data", shown(value, places), value=repr(value), title=repr(value))


def _headline(method: str, result: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]]) -> Html:
    if not result:
        where = "Nothing has been logged."
        if lines:
            step, stage = number(lines[-1].get("step")) or 0, lines[-1].get("stage", "?")
            where = f"The last line logged is step {step:,.0f} of the stage “{stage}”."
        text = f"This run has no result yet: it is still going on, or it was interrupted. {where}"
        badge = tag("p", tag("span", "…", aria_hidden="true"), " Not finished", class_="badge unknown")
        return tag("section", badge, tag("p", text, class_="verdict"), class_="headline", aria_label="Headline")
    rows = table(result)
    name, higher = str(result.get("headline", "")), bool(result.get("higher_is_better"))
    own = rows[0].values.get(name)
    places = decimals(row.values.get(name) for row in rows)

    def best(role: str) -> Row | None:
        found = [row for row in rows if row.role == role and row.values.get(name) is not None]
        return (max if higher else min)(found, key=lambda row: row.values[name] or 0.0, default=None)

    said = verdict(result)
    figures = [
        tag(
            "div",
            tag("p", name, class_="what"),
            tag("p", _value(own, places), class_="big"),
            tag("p", "higher is better" if higher else "lower is better", class_="who"),
            class_="figure own",
        )
    ]
    for role, what in (("floor", "best floor"), ("strong", "best strong baseline")):
        row = best(role)
        figures.append(
            tag(
                "div",
                tag("p", what, class_="what"),
                tag("p", _value(row.values[name] if row else None, places), class_="big"),
                tag("p", row.label if row else "none measured", class_="who"),
                class_="figure",
            )
        )
    sign = tag("span", _SIGNS[said.level], aria_hidden="true")
    badge = tag("p", sign, f" {said.short}", class_=f"badge {said.level}")
    caution = " This is one run with one seed; how much of the difference is chance, it cannot say."
    text = tag("p", said.text.replace(" %", "\u00a0%"), caution if own is not None else None, class_="verdict")
    return tag(
        "section",
        tag("div", *figures, class_="figures"),
        tag("div", badge, text),
        _bars(rows, name, places, higher=higher),
        class_="headline",
        aria_label="Headline",
    )


def _bars(rows: Sequence[Row], metric: str, places: int, *, higher: bool) -> Html | None:
    """The headline of every row as a length, the best on top. Nothing where lengths would mislead."""
    known = [(v, row) for row in rows if (v := row.values.get(metric)) is not None]
    if len(known) < 2 or min(v for v, _ in known) < 0 or not max(v for v, _ in known):
        return None
    known.sort(key=lambda pair: pair[0], reverse=higher)
    top = max(v for v, _ in known)
    items = []
    for value, row in known:
        bar = tag("span", class_="bar", style=f"width:{100 * value / top:.2f}%")
        chip = tag("span", _CHIPS[row.role], class_="chip") if _CHIPS[row.role] else None
        name = tag("span", tag("span", row.label, class_="name"), chip, class_="label")
        items.append(tag("li", name, tag("span", bar, class_="track"), _value(value, places), class_=row.role))
    return tag("ol", *items, class_="bars", aria_label=f"{metric} of all rows")


def _results(result: Mapping[str, Any]) -> Html:
    rows = table(result)
    tables = [_table(rows, group, result) for group in groups(rows[0].values, result.get("headline"))]
    legend = [tag("span", tag("b", "0.000"), " best of the numbers measured in this run")]
    if any(row.role == "floor" for row in rows):
        legend.append(tag("span", tag("span", "floor", class_="chip"), " what a working method must beat"))
    if any(row.role == "published" for row in rows):
        text = " figures from the literature; underlined where better than all measured here"
        legend.append(tag("span", tag("span", "published, not recomputed", class_="chip"), text))
    return _section("Results", tag("div", *tables, class_="tables"), tag("p", *legend, class_="legend"))


def _table(rows: Sequence[Row], group: Group, result: Mapping[str, Any]) -> Html:
    headline = result.get("headline")
    head = [tag("th", tag("span", "row", class_="hidden"), scope="col")]
    senses = {metric: higher_is_better(metric, result) for metric, _ in group.columns}
    common = len(set(senses.values())) == 1
    # One family: one scale, so one number of decimals. Otherwise each column has its own.
    places = {metric: decimals(row.values.get(metric) for row in rows) for metric in senses}
    if group.title:
        places = dict.fromkeys(places, decimals(row.values.get(metric) for row in rows for metric in senses))
    for metric, heading in group.columns:
        arrow = None if common else _sense(senses[metric])
        head.append(tag("th", heading, arrow, scope="col", abbr=metric, class_="key" if metric == headline else None))
    body = []
    for row in shown_in(rows, group):
        chip = tag("span", _CHIPS[row.role], class_="chip") if _CHIPS[row.role] else None
        cells = [tag("th", tag("span", row.label, class_="name"), chip, scope="row")]
        for metric, _ in group.columns:
            value: Any = _value(row.values.get(metric), places[metric])
            if metric in row.best:
                value = tag("u", value) if row.role == "published" else tag("b", value)
            cells.append(tag("td", value, class_="key" if metric == headline else None))
        body.append(tag("tr", *cells, class_=row.role))
    sense = next(iter(senses.values())) if common else None
    words = {True: "higher is better", False: "lower is better", None: ""}[sense]
    caption = tag("caption", tag("span", group.title or "metrics", class_="name"), tag("span", words, class_="who"))
    inner = tag("table", caption, tag("thead", tag("tr", *head)), tag("tbody", *body))
    wide = " wide" if sum(max(7, len(heading) + 2) for _, heading in group.columns) > 36 else ""
    # A region that scrolls must be reachable by keyboard.
    return tag("div", inner, class_="scroll" + wide, tabindex="0", role="region", aria_label=group.title or "metrics")


def _sense(higher: bool | None) -> Html | None:
    if higher is None:
        return None
    words = "higher is better" if higher else "lower is better"
    return join(" ", tag("span", "↑" if higher else "↓", title=words, role="img", aria_label=words, class_="who"))


# ---- curves ----------------------------------------------------------------------------------------------------------


def _curves(lines: Sequence[Mapping[str, Any]]) -> Html:
    drawn = charts.charts(lines)
    if not drawn:
        return _section("Training", tag("p", "No metrics were logged.", class_="note"))
    spans = charts.stages(lines)
    figures = []
    for i, chart in enumerate(drawn):
        first = i == 0 and chart.title == "Loss"
        keys = []
        for series in chart.series:
            swatch = tag("span", class_=f"swatch {series.style}", aria_hidden="true")
            label = "" if series.label == chart.title else series.label + " "
            keys.append(tag("li", swatch, tag("b", label), charts.summary(series)))
        notes = [tag("p", note, class_="note") for series in chart.series if (note := charts.gaps(series))]
        if first:  # Text in a drawing shrinks with it: a narrow screen gets a drawing of its own.
            wide = tag("div", charts.draw(chart, spans, width=1080, height=330), class_="only-wide")
            small = tag("div", charts.draw(chart, spans, width=400, height=270), class_="only-narrow")
            drawing = join(wide, small)
        else:
            drawing = charts.draw(chart, spans, width=400, height=230)
        caption = tag("figcaption", tag("h3", chart.title), tag("ul", *keys, class_="keys"))
        figures.append(tag("figure", caption, drawing, *notes, class_="first" if first else None))
    names = list(dict.fromkeys(name for name, _, _ in spans if name))
    text = "Over optimiser steps; training values are means since the line before."
    if len(names) > 1:
        text += f" Stages: {', '.join(names)}; dotted lines mark their borders."
    return _section("Training", tag("p", text, class_="note"), tag("div", *figures, class_="charts"))


def _own_charts(saved: Sequence[Mapping[str, Any]]) -> Html | None:
    """What the method draws of itself."""
    figures = []
    for chart in charts.own_charts([one for one in saved if "lines" in one]):
        keys = [
            tag("li", tag("span", class_=f"swatch {series.style}", aria_hidden="true"), tag("b", series.label))
            for series in chart.series
        ]
        caption = tag("figcaption", tag("h3", chart.title), tag("ul", *keys, class_="keys"))
        figures.append(tag("figure", caption, charts.draw(chart, (), width=400, height=230)))
    drawn = [tag("div", *figures, class_="charts")] if figures else []
    listed = [_listing(one) for one in saved if "rows" in one]
    return _section("Examples", *drawn, *listed) if drawn or listed else None


def _listing(saved: Mapping[str, Any]) -> Html:
    """A :class:`polycontrast.method.Listing`."""
    head = tag("tr", *(tag("th", word, scope="col") for word in saved["columns"]))
    rows = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", word) for word in row[1:])) for row in saved["rows"]]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="listing")
    return tag("div", tag("h3", saved["title"]), tag("div", table, class_="scroll"))


# ---- facts -----------------------------------------------------------------------------------------------------------


def _pairs(values: Mapping[str, Any]) -> Html:
    rows = [tag("div", tag("dt", breakable(name)), tag("dd", facts.plain(value))) for name, value in values.items()]
    return tag("dl", *rows, class_="pairs")


def _protocol(result: Mapping[str, Any] | None) -> Html | None:
    protocol = facts.flat((result or {}).get("protocol") or {})
    notes = [str(note) for note in (result or {}).get("notes") or ()]
    if not protocol and not notes:
        return None
    return _section(
        "Protocol",
        tag("p", "What the numbers depend on.", class_="note") if protocol else None,
        _pairs(protocol) if protocol else None,
        tag("h3", "Notes") if notes else None,
        tag("ul", *(tag("li", linked(note)) for note in notes), class_="notes") if notes else None,
    )


def _code(text: str) -> Html:
    return tag("pre", tag("code", text), tabindex="0")


def _reproduce(run: Run) -> Html:
    given, again = facts.started_with(run.environment), facts.repeat_command(run)
    threads = run.environment.get("threads")
    where = f" and {threads} thread{'s' * (threads != 1)}" if isinstance(threads, int) else ""
    return _section(
        "Reproduce",
        join(tag("p", "The command that started this run:"), _code(given)) if given else None,
        tag("p", "The same run again, from the settings it saved:"),
        _code(again),
        tag("p", f"Identical numbers need the versions below, the same kind of machine{where}.", class_="note"),
    )


def _settings(method: str, config: Mapping[str, Any]) -> Html:
    values = facts.flat(config)
    defaults = facts.default_settings(method)
    if not defaults:
        return _section("Settings", _pairs(values))
    # Through text: YAML and JSON turn tuples into lists and back.
    changed = {k: v for k, v in values.items() if k not in defaults or facts.plain(v) != facts.plain(defaults[k])}
    if not changed:
        text = tag("p", f"All {len(values)} settings have the method's defaults.", class_="note")
    else:
        text = tag("p", f"{len(changed)} of {len(values)} settings differ from the method's defaults.", class_="note")
    head = tag("tr", *(tag("th", word, scope="col") for word in ("setting", "this run", "default")))
    rows = [
        tag(
            "tr",
            tag("th", breakable(k), scope="row"),
            tag("td", facts.plain(v)),
            tag("td", facts.plain(defaults.get(k, MISSING))),
        )
        for k, v in changed.items()
    ]
    differences = tag("table", tag("thead", head), tag("tbody", *rows), class_="changed") if changed else None
    every = tag("details", tag("summary", f"All {len(values)} settings"), _pairs(values))
    return _section("Settings", text, differences, every)


def _environment(environment: Mapping[str, Any]) -> Html | None:
    values = {k: v for k, v in environment.items() if k not in ("command", "versions") and v not in (None, "")}
    versions = environment.get("versions") or {}
    if not values and not versions:
        return None
    install = facts.install_command(environment)
    return _section(
        "Environment",
        tag(
            "div",
            tag("div", tag("h3", "Machine"), _pairs(values)) if values else None,
            tag("div", tag("h3", "Versions"), _pairs(versions)) if versions else None,
            class_="tables",
        ),
        tag("details", tag("summary", "Install these versions"), _code(install)) if install else None,
    )


def _sources(method: str, result: Mapping[str, Any]) -> Html | None:
    identifier = facts.paper(method)
    address = facts.paper_address(identifier)
    known = [
        ("Paper of the method", tag("a", identifier, href=address, rel="noreferrer") if address else identifier),
        ("Licence of the data", linked(str(result.get("licence") or ""))),
        ("Citation of the data", linked(str(result.get("citation") or ""))),
    ]
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in known if value]
    return _section("Sources", tag("dl", *items, class_="sources")) if items else None
