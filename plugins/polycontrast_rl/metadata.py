"""``metadata.json`` of a replay folder: what was recorded, and in which sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polycontrast.errors import DataError
from polycontrast.files import write_text

_FORMAT = 1


def read_metadata(path: Path) -> dict[str, Any]:
    """What the folder of a replay says of itself: ``format``, ``sizes`` and ``environment``.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        found = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} holds no replay (no metadata.json)") from None
    except ValueError:
        raise DataError(f"{path / 'metadata.json'} is damaged: delete the folder {path}") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not isinstance(found.get("sizes"), dict):
        raise DataError(f"{path / 'metadata.json'} is not of a replay that this version reads")
    return found


def claim(path: Path, sizes: dict[str, Any], environment: dict[str, Any], *, readonly: bool) -> None:
    """Make a new folder for a replay, or see that an old one was made for the same.

    Args:
        path: the folder.
        sizes: of its rows.
        environment: fingerprint of what is recorded.
        readonly: make none.

    Raises:
        DataError: the folder holds something else, or a replay of another environment or of other sizes.
    """
    if not (path / "metadata.json").exists():
        if readonly:
            raise DataError(f"{path} holds no replay (no metadata.json)")
        if path.exists() and any(path.iterdir()):
            raise DataError(f"{path} exists and is not a replay: name another folder")
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": _FORMAT, "sizes": sizes, "environment": environment}, indent=2)
        write_text(path / "metadata.json", text + "\n")
        return
    theirs = read_metadata(path)
    _compare(path, "another environment", theirs.get("environment") or {}, environment)
    _compare(path, "other sizes", theirs["sizes"], sizes)


def _compare(path: Path, what: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    new = json.loads(json.dumps(new))  # tuples become lists, as in the file
    differs = [
        f"{key} {old.get(key)!r}, here {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    if differs:
        raise DataError(f"the replay in {path} is of {what} ({', '.join(differs)}): name another folder or delete it")
