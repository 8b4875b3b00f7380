"""``polycontrast plugin new``: a distribution with one working method, ready to be changed. Imports no torch."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from polycontrast.errors import InputError
from polycontrast.files import atomic_directory

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "ci.sh": "ci.sh",
    "__init__.py": "src/$package/__init__.py",
    "config.py": "src/$package/config.py",
    "data.py": "src/$package/data.py",
    "method.py": "src/$package/method.py",
    "demo.yaml": "src/$package/presets/demo.yaml",
    "test_conformance.py": "tests/test_conformance.py",
}
"""Where each file of the template goes."""


def scaffold(name: str, folder: Path) -> list[Path]:
    """Write a distribution whose domain is the last word of its name.

    Args:
        name: of the distribution, such as ``acme-lidar``; its package is ``acme_lidar``, its domain ``lidar``.
        folder: where to; must not exist, or be empty.

    Returns:
        The files that were written.

    Raises:
        InputError: a name that pip or Python would not take, or a folder that holds something.
    """
    package, domain = name.replace("-", "_"), name.rpartition("-")[2]
    if not _NAME.fullmatch(name) or keyword.iskeyword(package) or not domain[0].isalpha():
        raise InputError(f"{name!r} is no name for a plugin; write lower-case words and hyphens, as in acme-lidar")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty; choose another directory")
    words = {"name": name, "package": package, "domain": domain}
    source = files("polycontrast.scaffold") / "template"
    with atomic_directory(folder) as temporary:
        for file, place in _FILES.items():
            target = temporary / Template(place).substitute(words)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (source / f"{file}.txt").read_text(encoding="utf-8")
            target.write_text(Template(text).substitute(words), encoding="utf-8")
    return [folder / Template(place).substitute(words) for place in _FILES.values()]
