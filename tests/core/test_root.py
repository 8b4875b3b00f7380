"""``import polycontrast``."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import polycontrast


def test_every_name_can_be_had():
    for name in polycontrast.__all__:
        assert getattr(polycontrast, name) is not None
    assert set(polycontrast.__all__) <= set(dir(polycontrast))


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse(Path(polycontrast.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {node.target.id for node in block.body if isinstance(node, ast.AnnAssign)}
    assert seen == set(polycontrast.__all__)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'polycontrast' has no attribute 'trian'"):
        _ = polycontrast.trian


def test_importing_it_costs_nothing():
    code = (
        "import polycontrast, sys; polycontrast.__version__, polycontrast.Plugin, polycontrast.MethodConfig; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'yaml', 'numpy', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import polycontrast, sys; sys.exit(polycontrast.train.__module__ != 'polycontrast.api')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
