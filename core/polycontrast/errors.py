"""Every error that polycontrast raises on purpose.

Whoever catches one can rely on two things: ``str(error)`` is one line that says what is wrong, where,
and how to mend it; and ``error.exit_code`` is what the command line ends with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PolycontrastError(Exception):
    """The work failed although the call was right (exit code 1)."""

    exit_code = 1


class TrainingError(PolycontrastError):
    """Training cannot go on, e.g. a loss that is not finite."""


class InputError(PolycontrastError):
    """The call or what it was given is wrong (exit code 2)."""

    exit_code = 2


class ConfigError(InputError):
    """An unknown key, a value of the wrong type or out of range."""


class DataError(InputError):
    """Input data that cannot be used: missing file, wrong column, NaN, too few rows, ..."""


class PluginError(InputError):
    """A plugin or method that is unknown, broken, clashing or written for another API version."""


class MissingDependency(PluginError, ImportError):
    """A method whose extra is not installed. The message holds the command that installs it."""


class RunError(InputError):
    """A directory that is no run, or one that must not be overwritten."""


class CheckpointError(InputError):
    """A checkpoint or saved model that is damaged or belongs to something else."""


class Interrupted(PolycontrastError):
    """A signal ended the work after a checkpoint was written."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with a leading space when a known name is near, else the empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def reason(error: BaseException) -> str:
    """An error on one line; its type is named where the message alone would not tell."""
    text = one_line(error)
    if text and isinstance(error, PolycontrastError | ImportError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(error: object) -> str:
    """The message of any error, which may hold line breaks, on one line."""
    return " ".join(str(error).split())
