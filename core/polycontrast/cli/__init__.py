"""The command line: reads a call, hands it to :mod:`polycontrast.api`, prints the answer.

Importing this package is cheap; each command imports what it needs, and torch only once the call has been checked.
Exit codes: 0 done, 1 the work failed, 2 the call or the input was wrong, 130 and 143 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from polycontrast.cli import output
from polycontrast.errors import PolycontrastError, one_line

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``polycontrast``. None: those of the process.

    Returns:
        The exit code. Nothing is raised, not even by ``--help``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        code = _run(words)
        output.flush()
    except output.ReaderLeft:
        # ``polycontrast list | head``: whoever reads has seen enough. Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _trace(debug)
        return _complain("interrupted", 128 + signal.SIGINT)
    except PolycontrastError as error:
        _trace(debug)
        return _complain(f"error: {one_line(error)}", error.exit_code)
    except Exception as error:  # noqa: BLE001  the last line of defence: a person sees one line, not a traceback
        _trace(debug)
        hint = "" if debug else " (run again with --debug for the traceback)"
        text = one_line(error)
        name = type(error).__name__
        return _complain(f"internal error: {f'{name}: {text}' if text else name}{hint}", 1)
    return code


def _run(words: list[str]) -> int:
    from polycontrast.cli import parser

    try:
        arguments = parser.parse(words)
    except SystemExit as ended:  # how argparse ends after --help, --version and a wrong call
        return ended.code if isinstance(ended.code, int) else 2
    if arguments.command in ("list", "info"):
        from polycontrast.cli import show

        return show.run(arguments)
    if arguments.command == "doctor":
        from polycontrast.cli import doctor

        return doctor.run(arguments)
    if arguments.command == "plugin":
        from polycontrast.cli import plugin

        return plugin.run(arguments)
    from polycontrast.cli import work

    return work.run(arguments, words)


def _complain(text: str, code: int) -> int:
    print(f"polycontrast: {text}", file=sys.stderr)
    return code


def _trace(debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
