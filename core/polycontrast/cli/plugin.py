"""``plugin new`` and ``plugin check``: for those who write plugins."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polycontrast.cli import output
from polycontrast.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from polycontrast.testing import Outcome


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``plugin``."""
    return _new(arguments) if arguments.action == "new" else _check(arguments)


def _new(arguments: argparse.Namespace) -> int:
    if arguments.folder is None:
        raise InputError("plugin new needs a directory: polycontrast plugin new NAME DIR")
    from polycontrast.scaffold import scaffold

    written = scaffold(arguments.name, Path(arguments.folder))
    if arguments.json:
        output.write_json({"files": [str(file) for file in written]})
        return 0
    steps = [f'cd {arguments.folder} && pip install -e ".[dev]"', "pytest", "polycontrast list"]
    output.write("\n".join([*map(str, written), "", "next:", *(f"  {step}" for step in steps)]))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from polycontrast.plugins import default

    if arguments.folder is not None:
        raise InputError(f"plugin check takes a domain alone; {arguments.folder!r} is one word too many")
    registry = default()
    domains = registry.domains
    if arguments.name not in domains:
        raise InputError(
            f"no domain {arguments.name!r} is installed; there are {', '.join(domains)}."
            + did_you_mean(arguments.name, domains)
        )
    ids = [entry.id for entry in registry.methods.values() if entry.plugin.domain == arguments.name]
    if not ids:
        why = f": {domains[arguments.name].hint}" if domains[arguments.name].hint else ""
        raise InputError(f"the domain {arguments.name!r} has no method to check{why}")
    for name in ids:
        registry.method(name).require()
    outcomes: list[Outcome] = []
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        from polycontrast.testing import Case, run_checks

        for name in ids:
            for outcome in run_checks(Case(name), Path(folder) / name):
                output.say(f"{outcome.state:7}{outcome.method}  {outcome.check.replace('_', ' ')}")
                outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if arguments.json:
        output.write_json({"checks": [_plain(outcome) for outcome in outcomes], "failed": len(failed)})
    else:
        rows = [[outcome.method, outcome.check.replace("_", " "), outcome.message] for outcome in failed]
        lines = [output.table(["method", "check", "what to mend"], rows, indent=0)] if failed else []
        known = sum(outcome.state == "known" for outcome in outcomes)
        lines.append(f"{len(outcomes)} checks, {len(failed)} failed, {known} known failures, 0 skipped")
        output.write("\n".join(lines))
    return 1 if failed else 0


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in outcome.__dataclass_fields__}
