"""The grammar of the command line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_DEVICE = re.compile(r"(cpu|mps|(cuda|xpu|npu|hpu|mlu|privateuseone)(:\d+)?)")

_EPILOG = """examples:
  polycontrast list
  polycontrast train timeseries/ti-mae
  polycontrast train timeseries/ti-mae --data my.csv --set engine.batch_size=32 --out runs/mine
  polycontrast predict runs/mine --data my.csv --out forecast.parquet

'polycontrast COMMAND --help' explains a command."""


_DATA = "one of the method's datasets ('polycontrast info METHOD' lists them), or a file or folder"


class _Parser(argparse.ArgumentParser):
    """argparse with our messages: the mistake first, then the usage on one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            add_help=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument ", "", " ".join(message.split()))
        message = re.sub(r"^the following arguments are required: (.*)$", r"\1 missing", message)
        print(f"polycontrast: error: {message}", file=sys.stderr)
        print(f"usage: {self.usage}   ('{self.prog} --help' explains)", file=sys.stderr)
        sys.exit(2)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The call, with the name of its command as ``command``.

    Raises:
        SystemExit: after ``--help`` and ``--version`` (0), and after a wrong call (2), which has been explained.
    """
    top, commands = _grammar()
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), None)
    front = list(words if at is None else words[:at])
    arguments, strangers = top.parse_known_args(front)
    if strangers:
        _refuse(top, strangers)
    if arguments.version:
        from importlib.metadata import version

        print(f"polycontrast {version('polycontrast')}")
        sys.exit(0)
    if at is None:
        if arguments.help or not front:
            top.print_help(None if arguments.help else sys.stderr)
            sys.exit(0 if arguments.help else 2)
        top.error(f"which command? one of {', '.join(commands)}")
    name = words[at]
    if name not in commands:
        top.error(f"no command {name!r}; it is one of {', '.join(commands)}.{_near(name, commands)}")
    command = commands[name]
    rest = _spread(words[at + 1 :])
    if arguments.help or "--help" in rest or "-h" in rest:
        command.print_help()
        sys.exit(0)
    call, strangers = command.parse_known_args(rest)
    if strangers:
        _refuse(command, strangers)
    call.command = name
    call.debug = call.debug or arguments.debug
    return call


def _spread(words: Sequence[str]) -> list[str]:
    """``--set a=1 b=2`` -> ``--set a=1 --set b=2``; so ``--set a=1 METHOD`` leaves METHOD alone."""
    out: list[str] = []
    setting = False
    for word in words:
        if setting and out[-1] != "--set" and "=" in word and not word.startswith("-"):
            out.append("--set")
        elif word.startswith("-") or (setting and out[-1] != "--set"):
            setting = word == "--set"
        out.append(word)
    return out


def _refuse(parser: _Parser, strangers: Sequence[str]) -> NoReturn:
    flags = [word.split("=")[0] for word in strangers if word.startswith("-")]
    if not flags:
        parser.error(f"unexpected argument {strangers[0]!r}")
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    if flags[0] == "--" or not flags[0].startswith("--") or "." not in flags[0]:
        parser.error(f"unknown flag {flags[0]!r}.{_near(flags[0], known)}")
    # A person who writes --engine.batch_size 32 means --set.
    parser.error(f"unknown flag {flags[0]!r}. Settings are given as --set {flags[0][2:]}=VALUE")


def _near(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    from polycontrast.errors import did_you_mean

    return did_you_mean(word, known)


def _whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return convert


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names; write a,b")
    return names


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device; try cpu, cuda, cuda:1 or mps")
    return text


def _grammar() -> tuple[_Parser, dict[str, _Parser]]:
    top = _Parser(
        prog="polycontrast",
        usage="polycontrast COMMAND [options]",
        description="Contrastive learning: a small core, and methods in domain plugins.",
        epilog=_EPILOG,
    )
    _common(top)
    top.add_argument("--version", action="store_true", help="print the version")
    children = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    commands: dict[str, _Parser] = {}

    def add(name: str, positional: str, summary: str, example: str, *, about: str = "") -> _Parser:
        command: _Parser = children.add_parser(
            name,
            prog=f"polycontrast {name}",
            usage=f"polycontrast {name} {positional + ' ' if positional else ''}[options]",
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{' ' if about else ''}{about}",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
        )
        commands[name] = command
        return command

    model = "a run directory, a save_pretrained folder or an id on the Hugging Face hub"
    command = add(
        "list", "", "plugins and methods, and whether they are ready",
        "polycontrast list\npolycontrast list --json",
    )  # fmt: skip
    _json(command)
    _common(command)

    command = add(
        "info", "METHOD", "a method's paper, settings, presets and datasets",
        "polycontrast info timeseries/ti-mae\npolycontrast info ti-mae --json",
        about="Works also when the method's extra is not installed.",
    )  # fmt: skip
    _method(command)
    _json(command)
    _common(command)

    command = add(
        "train", "METHOD", "train a method, measure it beside its baselines and write a report",
        "polycontrast train timeseries/ti-mae\n"
        "polycontrast train ti-mae --data my.csv --set mask_ratio=0.6 engine.batch_size=32 --out runs/mine\n"
        "polycontrast train ti-mae --seeds 5 --json\n"
        "polycontrast train ti-mae --data my.csv --out runs/mine --resume\n"
        "accelerate launch --num_processes 2 -m polycontrast train timeseries/ti-mae",
    )  # fmt: skip
    _what(command)
    command.add_argument("--out", metavar="DIR", help="the run directory; default: runs/METHOD/TIME-sSEED")
    seeds = command.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=_whole(0), metavar="N", help="seed of data, initialisation and order; default: 0")
    seeds.add_argument("--seeds", type=_whole(1), metavar="N", help="train with the seeds 0 to N-1; mean and spread")
    command.add_argument("--resume", action="store_true", help="continue the run in --out; start it if there is none")
    _how(command)
    command.add_argument("--dry-run", action="store_true", help="print what would be done and create nothing")
    _json(command)
    _common(command)

    command = add(
        "ablate", "METHOD", "train the whole method and again without each auxiliary term, with the same seeds",
        "polycontrast ablate graph/metahgnie --seeds 5\n"
        "polycontrast ablate metahgnie --terms contrast --out runs/ablation --resume",
    )  # fmt: skip
    _what(command)
    command.add_argument(
        "--terms", type=_names, default=(), metavar="a,b",
        help="terms to leave out, one at a time; default: all but the main objective",
    )  # fmt: skip
    command.add_argument("--seeds", type=_whole(1), default=3, metavar="N", help="seeds 0 to N-1; default: 3")
    command.add_argument("--out", metavar="DIR", help="directory of the runs; default: runs/METHOD/TIME-ablation")
    command.add_argument("--resume", action="store_true", help="continue what was begun in --out")
    _how(command)
    _json(command)
    _common(command)

    command = add(
        "compare", "RUN RUN...", "finished runs side by side", "polycontrast compare runs/a runs/b\n"
        "polycontrast compare runs/a runs/b runs/c --json",
    )  # fmt: skip
    command.add_argument("runs", metavar="RUN", nargs="+", help="run directories, two or more")
    _json(command)
    _common(command)

    command = add(
        "evaluate", "MODEL", "measure a trained model again, on the same data or on other data",
        "polycontrast evaluate runs/mine\npolycontrast evaluate runs/mine --data other.csv --json",
    )  # fmt: skip
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument("--data", metavar="NAME|PATH", help=f"{_DATA}; default: what it was trained on")
    _device_flag(command)
    _json(command)
    _common(command)

    for name, summary in (
        ("embed", "write the representation of every sample as a table"),
        ("predict", "write forecasts, scores or labels as a table"),
    ):
        file = "embedding.parquet" if name == "embed" else "forecast.parquet"
        command = add(name, "MODEL", summary, f"polycontrast {name} runs/mine --data my.csv --out {file}")
        command.add_argument("model", metavar="MODEL", help=model)
        command.add_argument("--data", metavar="NAME|PATH", required=True, help=_DATA)
        command.add_argument("--out", metavar="FILE.parquet", required=True, help="the table to write")
        _common(command)

    command = add(
        "report", "RUN", "write RUN/report.html, one page that needs no network", "polycontrast report runs/mine"
    )
    command.add_argument("run", metavar="RUN", help="a run directory")
    _common(command)

    command = add(
        "plugin", "new NAME DIR | check DOMAIN", "write a plugin of your own, or check an installed one",
        "polycontrast plugin new acme-lidar ./acme-lidar\npolycontrast plugin check lidar",
        about="'new' writes a working distribution; 'check' runs the conformance checks on every method of a domain "
        "with its demo data, each stage cut to 3 steps.",
    )  # fmt: skip
    command.add_argument("action", choices=("new", "check"), help="what to do")
    command.add_argument("name", metavar="NAME|DOMAIN", help="the new distribution, or the domain to check")
    command.add_argument("folder", metavar="DIR", nargs="?", help="where the new distribution is written")
    _json(command)
    _common(command)

    command = add(
        "doctor", "", "what works on this machine, and what to install",
        "polycontrast doctor\npolycontrast doctor --json",
    )  # fmt: skip
    _json(command)
    _common(command)
    return top, commands


def _method(command: argparse.ArgumentParser) -> None:
    command.add_argument("method", metavar="METHOD", help="an id such as timeseries/ti-mae, or its name if unique")


def _what(command: argparse.ArgumentParser) -> None:
    _method(command)
    command.add_argument("--data", metavar="NAME|PATH", help=f"{_DATA}; default: demo")
    command.add_argument(
        "--config", metavar="NAME|FILE",
        help="one of the method's presets, or a YAML file, e.g. the config.yaml of an earlier run",
    )  # fmt: skip
    command.add_argument(
        "--set", metavar="key=value", action="append", default=[],
        help="change a setting; may be repeated and take several (--set a=1 b.c=2); "
        "stronger than --config, which is stronger than what the dataset brings",
    )  # fmt: skip


def _how(command: argparse.ArgumentParser) -> None:
    _device_flag(command)
    command.add_argument("--precision", choices=("no", "bf16", "fp16"), help="mixed precision (engine.precision)")
    command.add_argument(
        "--max-steps", type=_whole(1), metavar="N", help="at most N optimiser steps per stage (engine.max_steps)"
    )


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object as the last line of standard output")


def _device_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", type=_device, metavar="D", help="cpu, cuda, cuda:1, mps; default: the best there is"
    )


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("-h", "--help", action="store_true", help="print this")
    command.add_argument("--debug", action="store_true", help="print the traceback when something fails")
