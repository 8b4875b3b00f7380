"""The model card of a run, ``RUN/model/README.md``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from polycontrast.report import facts
from polycontrast.report.rows import Row, decimals, groups, higher_is_better, number, shown, shown_in, table, verdict

if TYPE_CHECKING:
    from polycontrast.runs import Run

_ROLES = {
    "method": "",
    "floor": " (floor)",
    "strong": " (strong baseline)",
    "published": " (published, not recomputed)",
}


def model_card(run: Run) -> str:
    """A Markdown card: what the model is, what it was trained on, how well it does, how to use it.

    Args:
        run: a run directory, usually one with a result.

    Returns:
        Markdown with a YAML header for the Hugging Face hub.

    Raises:
        RunError: config.yaml, environment.json or result.json of the run is damaged.
    """
    asked, environment, result = run.config, run.environment, run.result or {}
    method = str(asked.get("method", "?"))
    domain, _, name = method.rpartition("/")
    # JSON strings are YAML strings, whatever is in them.
    tags = ["polycontrast", *(word for word in (domain, name) if word)]
    header = ["---", "library_name: polycontrast", f"tags: {json.dumps(tags)}"]
    if result.get("licence"):
        header.append(f"data_licence: {json.dumps(str(result['licence']), ensure_ascii=False)}")
    parts = ["\n".join([*header, "---"]), f"# {_text(name)}"]

    dataset = str(result.get("dataset", asked.get("data", "?")))
    preset = result.get("preset", asked.get("preset"))
    about = f"{_code(method)} trained with polycontrast on the dataset {_code(dataset)}"
    parts.append(about + (f", preset {_code(preset)}" if preset else "") + f", seed {asked.get('seed', '?')}.")
    parts.append(
        '## Use\n\n```python\nimport polycontrast\n\nmodel = polycontrast.load("FOLDER_OR_HUB_ID")\n```\n\n'
        "The argument is this folder or its id on the Hugging Face hub. Loading executes no code from it."
    )
    if result:
        parts.append("## Results\n\n" + _results(result))
        if result.get("warnings"):
            parts.append("## Warnings\n\n" + "\n".join(f"- {_text(told)}" for told in result["warnings"]))
    else:
        parts.append("## Results\n\nThe run has no result yet.")
    facts_of_data = facts.flat(result.get("protocol") or {})
    if result.get("licence"):
        facts_of_data["licence of the data"] = result["licence"]
    parts.append("## Data\n\n" + _pairs({"dataset": dataset, **facts_of_data}))
    if result.get("notes"):
        parts.append("\n".join(f"- {_text(note)}" for note in result["notes"]))
    _, started = facts.date(environment)
    steps, parameters = number(result.get("steps")), number(result.get("parameters"))
    training = {
        "steps": None if steps is None else f"{steps:,.0f}",
        "parameters": None if parameters is None else f"{parameters:,.0f}",
        "compute time": facts.duration(result.get("seconds")),
        "device": environment.get("device"),
        "processes": environment.get("processes"),
        "threads": environment.get("threads"),
        "seed": asked.get("seed"),
        "started": started,
        "python": environment.get("python"),
        **(environment.get("versions") or {}),
    }
    parts.append("## Training\n\n" + _pairs({k: v for k, v in training.items() if v not in (None, "")}))
    sources = []
    identifier = facts.paper(method)
    if identifier:
        address = facts.paper_address(identifier)
        sources.append("Method: " + (f"[{_text(identifier)}]({address})" if address else _text(identifier)))
    if result.get("citation"):
        sources.append(f"Data: {_text(result['citation'])}")
    if sources:
        parts.append("## Sources\n\n" + "\n\n".join(sources))
    return "\n\n".join(parts) + "\n"


def _text(value: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(facts.plain(value).split()))


def _code(value: object) -> str:
    return "`" + " ".join(str(value).replace("`", "'").split()) + "`"


def _pairs(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {_text(k)} | {_text(v)} |" for k, v in values.items())])


def _results(result: Mapping[str, Any]) -> str:
    rows = table(result)
    parts = []
    for group in groups(rows[0].values, result.get("headline")):
        heads = []
        for metric, heading in group.columns:
            sense = higher_is_better(metric, result)
            heads.append(_text(heading) + ("" if sense is None else " ↑" if sense else " ↓"))
        lines = [f"| {_text(group.title or 'metrics')} | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
        places = {metric: decimals(row.values.get(metric) for row in rows) for metric, _ in group.columns}
        for row in shown_in(rows, group):
            cells = [_cell(row, metric, places[metric]) for metric, _ in group.columns]
            lines.append(f"| {_text(row.label)}{_ROLES[row.role]} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, f"Headline: {_text(result.get('headline', '?'))}. {_text(verdict(result).text)}"])


def _cell(row: Row, metric: str, places: int) -> str:
    text = shown(row.values.get(metric), places)
    return f"**{text}**" if metric in row.best and row.role != "published" else text
