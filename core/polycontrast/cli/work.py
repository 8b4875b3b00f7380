"""The commands that work on methods and runs: check the call, then hand it to the api."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polycontrast.cli import output
from polycontrast.errors import InputError, did_you_mean, one_line

if TYPE_CHECKING:
    from polycontrast.request import Request

_TABLES = (".parquet",)


def run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Carry out one of the commands of this module."""
    handlers = {
        "train": _train,
        "ablate": _ablate,
        "compare": _compare,
        "evaluate": _evaluate,
        "embed": _table,
        "predict": _table,
        "report": _report,
    }
    return handlers[arguments.command](arguments, ["polycontrast", *words])


def _train(arguments: argparse.Namespace, command: list[str]) -> int:
    if arguments.dry_run and (arguments.resume or arguments.seeds):
        raise InputError("--dry-run shows one new run; leave out --resume and --seeds")
    common = _checked(arguments)
    with redirect_stdout(sys.stderr):  # standard output is for the answer, whatever a plugin prints
        from polycontrast import api

        if arguments.dry_run:
            answer = api.plan(arguments.method, seed=arguments.seed or 0, **common).as_dict()
        else:
            common |= {"resume": arguments.resume, "device": arguments.device, "command": command}
            if arguments.seeds:
                answer = api.train_seeds(arguments.method, seeds=arguments.seeds, **common)
            else:
                answer = api.train(arguments.method, seed=arguments.seed or 0, **common).as_dict()
    if not output.is_main_process():
        return 0
    if arguments.json:
        output.write_json(answer)
    elif arguments.dry_run:
        _print_plan(answer)
    else:
        _print_result(answer)
    return 0


def _ablate(arguments: argparse.Namespace, command: list[str]) -> int:
    common = _checked(arguments)
    with redirect_stdout(sys.stderr):
        from polycontrast import api

        answer = api.ablate(
            arguments.method, seeds=arguments.seeds, terms=arguments.terms, resume=arguments.resume,
            device=arguments.device, command=command, **common,
        )  # fmt: skip
    if output.is_main_process():
        if arguments.json:
            output.write_json(answer)
        else:
            _print_ablation(answer)
    return 0


def _compare(arguments: argparse.Namespace, command: list[str]) -> int:
    from polycontrast import request

    if len(arguments.runs) < 2:
        raise InputError("compare needs two runs or more")
    for run in arguments.runs:
        request.check_run(run)
    from polycontrast import api

    answer = api.compare(arguments.runs)
    if arguments.json:
        output.write_json(answer)
    else:
        _print_comparison(arguments.runs, answer)
    return 0


def _checked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``train`` and ``ablate`` hand to the api, after the call has been checked without torch."""
    from polycontrast import request

    wanted = request.resolve(
        arguments.method,
        data=arguments.data,
        config=arguments.config,
        assignments=arguments.set,
        max_steps=arguments.max_steps,
        precision=arguments.precision,
    )
    if arguments.resume and arguments.out is None:
        raise InputError("--resume needs --out DIR, the run to continue")
    if arguments.out is not None:
        request.check_out(arguments.out, resume=arguments.resume)
    if output.is_main_process():
        output.say(_plan_line(wanted, arguments))
    return {
        "data": arguments.data,
        "config": arguments.config,
        "set": arguments.set,
        "out": arguments.out,
        "precision": arguments.precision,
        "max_steps": arguments.max_steps,
    }


def _evaluate(arguments: argparse.Namespace, command: list[str]) -> int:
    from polycontrast import request

    request.check_model(arguments.model, arguments.data)
    with redirect_stdout(sys.stderr):
        from polycontrast import api

        answer = api.evaluate(arguments.model, data=arguments.data, device=arguments.device).as_dict()
    if output.is_main_process():
        if arguments.json:
            output.write_json(answer)
        else:
            _print_result(answer)
    return 0


def _table(arguments: argparse.Namespace, command: list[str]) -> int:
    from polycontrast import request

    out = Path(arguments.out)
    if out.suffix not in _TABLES:
        raise InputError(f"--out {arguments.out!r} must end in .parquet.{did_you_mean(out.suffix, _TABLES)}")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {arguments.out!r}: there is no directory {str(out.parent)!r}; make it first")
    if out.is_dir():
        raise InputError(f"--out {arguments.out!r} is a directory; name a file")
    request.check_model(arguments.model, arguments.data)
    with redirect_stdout(sys.stderr):
        from polycontrast import api

        work = api.embed if arguments.command == "embed" else api.predict
        try:
            table = work(arguments.model, data=arguments.data, out=out)
        except NotImplementedError as error:  # a method without a task output says so
            raise InputError(one_line(error) or f"this method cannot {arguments.command}") from error
    output.write(f"{out}: {table.num_rows} rows, columns {', '.join(table.column_names)}")
    return 0


def _report(arguments: argparse.Namespace, command: list[str]) -> int:
    from polycontrast import request

    request.check_run(arguments.run)
    with redirect_stdout(sys.stderr):
        from polycontrast import api

        page = api.report(arguments.run)
    output.write(str(page))
    return 0


def _plan_line(wanted: Request, arguments: argparse.Namespace) -> str:
    from_where = f"preset {wanted.preset}" if wanted.preset else "no preset"
    given = [*arguments.set]
    given += [f"engine.max_steps={arguments.max_steps}"] if arguments.max_steps else []
    given += [f"engine.precision={arguments.precision}"] if arguments.precision else []
    seeds = f"seeds 0 to {arguments.seeds - 1}" if arguments.seeds else f"seed {arguments.seed or 0}"
    return ", ".join([f"{wanted.entry.id} on {wanted.data}", from_where, *given, seeds])


def _print_result(answer: Mapping[str, Any]) -> None:
    from polycontrast import report

    with output.to_stdout():
        report.print_table(answer, sys.stdout)
    lines = []
    for result in answer.get("runs", [answer]):
        page = Path(result["run"]) / "report.html"
        lines.append(f"run: {result['run']}" + (f"   report: {page}" if page.is_file() else ""))
    output.write("\n".join(lines))


def _print_ablation(answer: Mapping[str, Any]) -> None:
    headline, better = answer["headline"], "higher" if answer["higher_is_better"] else "lower"
    rows = []
    for arm in answer["arms"]:
        cells = [arm["name"].replace("-", " ", 1), _spread(arm["summary"][headline])]
        if arm["off"]:
            helped = f"{arm['helped']} of {answer['seeds']}"
            cells += [_spread(arm["difference"].get(headline, {}), sign="+"), helped]
        rows.append([*cells, *[""] * (4 - len(cells))])
    seeds = f"seeds 0 to {answer['seeds'] - 1}"
    title = f"{answer['method']} on {answer['dataset']}, {seeds}: {headline}, {better} is better"
    head = ["", "mean and deviation", "whole minus this, seed by seed", "term helped on"]
    output.write(f"{title}\n\n{output.table(head, rows)}")


def _spread(summary: Mapping[str, float | None], sign: str = "") -> str:
    mean, deviation = summary.get("mean"), summary.get("std")
    if mean is None:
        return "-"
    return f"{mean:{sign}.4g}" + ("" if deviation is None else f" +- {deviation:.2g}")


def _print_comparison(runs: Sequence[str], answer: Mapping[str, Any]) -> None:
    facts = ("method", "dataset", "preset", "seed", "steps", "seconds", "parameters")
    rows = [[name, *(_shown(result.get(name)) for result in answer["runs"])] for name in facts]
    for name, values in answer["metrics"].items():
        cells = ["-" if value is None else f"{value:.4g}" for value in values]
        if name in answer["best"]:
            cells[answer["best"][name]] += " *"
        rows.append([name, *cells])
    lines = [output.table(["", *runs], rows, indent=0), "* best"]
    if answer["settings"]:
        settings = [[path, *map(_shown, values)] for path, values in answer["settings"].items()]
        lines += [output.heading("Settings that differ"), output.table(["", *runs], settings, indent=0)]
    lines += [f"note: {warning}" for warning in answer["warnings"]]
    output.write("\n".join(lines))


def _print_plan(plan: Mapping[str, Any]) -> None:
    from polycontrast.config import dump_yaml

    facts = [
        ["method", plan["method"]],
        ["data", plan["dataset"]],
        ["preset", plan["preset"] or "none"],
        ["seed", str(plan["seed"])],
        ["parameters", f"{plan['parameters']:,}"],
        ["run directory", f"{plan['run']} (not created)"],
        *([f"protocol: {name}", str(value)] for name, value in plan["protocol"].items()),
        *(["note", note] for note in plan["notes"]),
    ]
    lines = [output.table(["plan", ""], facts, indent=0)]
    if plan["stages"]:
        names = list(dict.fromkeys(name for stage in plan["stages"] for name in stage))
        rows = [[_shown(stage.get(name)) for name in names] for stage in plan["stages"]]
        lines += [output.heading("Stages"), output.table(names, rows)]
    lines += [output.heading("Config"), dump_yaml(plan["config"]).rstrip()]
    output.write("\n".join(lines))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)
