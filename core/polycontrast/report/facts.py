"""What a run says about itself besides its numbers, from its files and from the installed plugins."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from polycontrast import config as configs
from polycontrast import plugins
from polycontrast.errors import PolycontrastError

if TYPE_CHECKING:
    from polycontrast.runs import Run


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def default_settings(method: str) -> dict[str, Any] | None:
    """The method's defaults by dotted name, or None if the method is not installed here."""
    try:
        return flat(configs.to_dict(plugins.default().method(method).config_class()()))
    except (PolycontrastError, ImportError, TypeError):
        return None


def paper(method: str) -> str:
    """DOI, arXiv id or address of the method's paper; empty if unknown or the method is not installed here."""
    try:
        return plugins.default().method(method).spec.paper
    except (PolycontrastError, ImportError):
        return ""


def paper_address(identifier: str) -> str:
    """Where a DOI or arXiv id leads; empty for anything else."""
    text = identifier.strip()
    if text.startswith(("https://", "http://")):
        return text
    low = text.lower()
    if low.startswith("arxiv:"):
        return f"https://arxiv.org/abs/{text[6:].strip()}"
    if low.startswith("doi:") or text.startswith("10."):
        return f"https://doi.org/{text.removeprefix('doi:').removeprefix('DOI:').strip()}"
    digits = text.partition("v")[0].replace(".", "", 1)
    return f"https://arxiv.org/abs/{text}" if digits.isdigit() and text[4:5] == "." else ""


def started_with(environment: Mapping[str, Any]) -> str:
    """The command that was typed, quoted for a shell; empty if it is not known."""
    words = [str(word) for word in environment.get("command") or ()]
    if not words:
        return ""
    program = PurePath(words[0])
    if program.name == "__main__.py" and program.parent.name == "polycontrast":
        words[:1] = ["python", "-m", "polycontrast"]
    elif program.name in ("polycontrast", "polycontrast.exe"):
        words[0] = "polycontrast"
    elif program.suffix == ".py":
        words[:1] = ["python", words[0]]
    return shlex.join(words)


def repeat_command(run: Run) -> str:
    """The command that repeats the run from its own config, into a directory of its own."""
    asked = run.config
    words = ["polycontrast", "train", asked["method"], "--config", run.path / "config.yaml", "--seed", asked["seed"]]
    return shlex.join(str(word) for word in words)


def install_command(environment: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """What installs the versions the run used; empty if they are not known."""
    versions = environment.get("versions") or {}
    # A local part as in 2.11.0+cpu names a build that the package index does not have.
    pins = [f"{name}=={str(versions[name]).partition('+')[0]}" for name in names or versions if name in versions]
    return f"pip install {shlex.join(pins)}" if pins else ""


def date(environment: Mapping[str, Any]) -> tuple[str, str]:
    """Start of the run as ISO time and as words; both empty if it is not known."""
    iso = str(environment.get("started") or "")
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return "", iso
    return iso, f"{when.day} {when:%B %Y, %H:%M}"


def duration(seconds: object) -> str:
    """``8.2 s``, ``1 min 32 s``, ``2 h 05 min``; empty if it is no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e10:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def plain(value: object) -> str:
    """A setting for reading."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "(empty)"
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {plain(v)}" for k, v in value.items()) or "(empty)"
    return str(value) if value != "" else "(empty)"
