"""``list`` and ``info``: answered from manifests and config modules alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from polycontrast.cli import output
from polycontrast.errors import reason

if TYPE_CHECKING:
    from polycontrast.plugins import Entry


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``list`` or ``info``."""
    if arguments.command == "list":
        found = overview()
        if arguments.json:
            output.write_json(found)
        else:
            output.write(_list_page(found))
    else:
        about = describe(arguments.method)
        if arguments.json:
            output.write_json(about)
        else:
            output.write(_info_page(about))
    return 0


def overview() -> dict[str, Any]:
    """Plugins with their methods and states, what did not load, and ids claimed twice."""
    from polycontrast.plugins import default

    registry = default()
    entries = registry.methods
    plugins = []
    for name, domain in registry.domains.items():
        methods = [_entry_row(entry) for id_, entry in entries.items() if _of(id_, name)]
        plugins.append(
            {
                "domain": name,
                "owner": domain.owner,
                "state": domain.state,
                "hint": domain.hint,
                "methods": methods,
            }
        )
    return {
        "plugins": plugins,
        "broken": [{"owner": owner, "error": reason(error)} for owner, error in registry.broken.items()],
        "clashes": [{"method": id_, "owners": list(owners)} for id_, owners in registry.clashes.items()],
    }


def _of(id_: str, domain: str) -> bool:
    return id_.partition("/")[0] == domain


def _entry_row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "summary": entry.spec.summary,
        "paper": entry.spec.paper,
        **entry_state(entry),
    }


def entry_state(entry: Entry) -> dict[str, str]:
    """``state`` and ``hint`` of one method."""
    if entry.missing():
        return {"state": "not installed", "hint": entry.install_command}
    return {"state": "ready", "hint": ""}


def _list_page(found: dict[str, Any]) -> str:
    rows = []
    commands: dict[str, None] = {}
    for plugin in found["plugins"]:
        if plugin["state"] == "broken":  # told below, by owner
            continue
        if not plugin["methods"]:
            rows.append([plugin["domain"], plugin["state"], "no methods yet"])
        rows += [[method["id"], method["state"], method["summary"]] for method in plugin["methods"]]
        commands |= {thing["hint"]: None for thing in [plugin, *plugin["methods"]] if thing["hint"]}
    rows += [[clash["method"], "broken", f"claimed by {' and '.join(clash['owners'])}"] for clash in found["clashes"]]
    rows += [[broken["owner"], "broken", broken["error"]] for broken in found["broken"]]
    lines = [output.table(["method", "state", "summary"], rows, indent=0) or "no plugins are installed"]
    if commands:
        lines += ["", "To install what is not installed:", *(f"  {command}" for command in commands)]
    if found["broken"] or found["clashes"]:
        lines += ["", "Details of what is broken: polycontrast doctor"]
    return "\n".join(lines)


def describe(method: str) -> dict[str, Any]:
    """Everything known of a method without importing it."""
    from polycontrast import config
    from polycontrast.plugins import default

    entry = default().method(method)
    return {
        "id": entry.id,
        "summary": entry.spec.summary,
        "paper": entry.spec.paper,
        "owner": entry.owner,
        **entry_state(entry),
        **_declared(entry.spec.target),
        "fields": [
            {"path": f.path, "type": f.type, "default": f.default, "required": f.required, "doc": f.doc}
            for f in config.describe(entry.config_class())
        ],
        "presets": [{"name": p.name, "doc": p.doc, "values": p.values} for p in entry.presets().values()],
        "datasets": [
            {
                "name": name,
                "summary": spec.summary,
                "preset": spec.preset,
                "licence": spec.licence,
                "citation": spec.citation,
            }
            for name, spec in entry.datasets.items()
        ],
        "reads_files": bool(entry.spec.reader),
    }


def _declared(target: str) -> dict[str, Any]:
    """Headline metric and terms as the source of the method's class states them; importing it would cost torch.

    What is not written there as a plain value is null or left out.
    """
    import ast
    import importlib.util
    from pathlib import Path

    out: dict[str, Any] = {"headline": None, "higher_is_better": None, "terms": []}
    module, _, name = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return out
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError, SyntaxError):  # broken for whatever reason: `train` will tell
        return out
    body = next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), [])
    values: dict[str, ast.expr] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values[node.target.id] = node.value
    headline = _plain(values.get("HEADLINE"))
    if headline is not None:
        out["headline"] = headline
        out["higher_is_better"] = bool(_plain(values.get("HIGHER_IS_BETTER")))
    terms = values.get("TERMS")
    if isinstance(terms, ast.Dict):
        for key, call in zip(terms.keys, terms.values, strict=True):
            if isinstance(call, ast.Call):
                given = dict(zip(("kind", "weight"), map(_plain, call.args), strict=False))
                given |= {word.arg: _plain(word.value) for word in call.keywords if word.arg}
                out["terms"].append(
                    {"name": _plain(key), "kind": given.get("kind"), "weight": given.get("weight", 1.0)}
                )
    return out


def _plain(node: Any) -> Any:
    """The value of a literal, or None."""
    import ast

    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _info_page(about: dict[str, Any]) -> str:
    head = [["paper", about["paper"] or "-"], ["from", about["owner"]]]
    head.append(["state", about["state"] + (f": {about['hint']}" if about["hint"] else "")])
    if about["headline"]:
        better = "higher" if about["higher_is_better"] else "lower"
        head.append(["headline", f"{about['headline']} ({better} is better)"])
    wide = max(len(row[0]) for row in head)
    lines = [output.bold(about["id"]), f"  {about['summary']}", ""]
    lines += [f"  {key.ljust(wide)}  {value}" for key, value in head]
    if about["terms"]:
        rows = [[t["name"], t["kind"] or "-", _show(t["weight"])] for t in about["terms"]]
        lines += [output.heading("Terms of the loss"), output.table(["name", "kind", "weight"], rows)]
    lines += [output.heading("Settings (--set name=value)"), *_settings(about["fields"])]
    rows = [[p["name"], " ".join(p["doc"].split())] for p in about["presets"]]
    lines += [output.heading("Presets (--config NAME)"), output.table(["name", ""], rows) or "  none"]
    rows = [[d["name"], d["preset"] or "-", d["licence"] or "-", d["summary"]] for d in about["datasets"]]
    lines += [
        output.heading("Datasets (--data NAME)"),
        output.table(["name", "preset", "licence", ""], rows) or "  none",
    ]
    lines += ["", f"Reads your own files: {'yes, --data PATH' if about['reads_files'] else 'no'}"]
    return "\n".join(lines)


def _settings(fields: list[dict[str, Any]]) -> list[str]:
    """Each setting with its default, its type and, below, what it means; what is the method's own comes first."""
    groups: dict[str, list[dict[str, Any]]] = {"": []}
    for field in fields:
        groups.setdefault(field["path"].rpartition(".")[0], []).append(field)
    shared = [group for group in ("data", "optimiser", "engine") if group in groups]
    lines = []
    for group in [*(group for group in groups if group not in shared), *shared]:
        for field in groups[group]:
            default = "(required)" if field["required"] else f"= {_show(field['default'])}"
            lines.append(f"  {output.bold(field['path'])} {default}   ({field['type']})")
            lines += output.paragraph(field["doc"], indent=6)
    return lines


def _show(value: Any) -> str:
    """A default as one would write it after ``--set name=``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_show, value))}]"
    return str(value)
