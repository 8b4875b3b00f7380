"""What is built from this folder, and whether what is installed still agrees with it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Set
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = (ROOT / "core", ROOT / "plugins")
PACKAGES = {
    "polycontrast",
    "polycontrast_graph",
    "polycontrast_rl",
    "polycontrast_speech",
    "polycontrast_timeseries",
    "polycontrast_vision_language",
}
DISTRIBUTIONS = packages_distributions()
DOMAINS = {"graph", "rl", "speech", "timeseries", "vision-language"}


def build(kind: str, source: Path, out: Path) -> Path:
    """One sdist or wheel, built offline with the build backend of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, bytes]:
    return contents(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    (name,) = (name for name in wheel if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel[name].decode())


def test_the_wheel_brings_these_packages_and_no_other_name(wheel):
    assert {name.split("/")[0] for name in wheel} == {*PACKAGES, f"polycontrast-{PROJECT['version']}.dist-info"}


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    packed = {name for name in wheel if ".dist-info/" not in name}
    there = {
        file.relative_to(folder).as_posix()
        for folder in SOURCES
        for package in PACKAGES
        for file in (folder / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed == there
    assert "polycontrast/py.typed" in packed
    assert "polycontrast_timeseries/ti_mae/presets/demo.yaml" in packed


def test_the_licence_goes_along(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    (text,) = (data for name, data in wheel.items() if name.endswith("/licenses/LICENSE"))
    assert b"Apache License" in text


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for needed in ("README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "scripts/test", "tests/skips.py"):
        assert (folder / needed).is_file()
    assert contents(build("wheel", folder, tmp_path / "again")) == wheel


def test_the_extras_are_those_of_the_domains(metadata):
    assert set(metadata.get_all("Provides-Extra")) == {*DOMAINS, "all", "dev"}
    assert set(PROJECT["entry-points"]["polycontrast.plugins"]) == {"core", *DOMAINS}


def test_all_covers_every_domain():
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.name == "polycontrast"
    assert everything.extras == DOMAINS


OPTIONAL = {"graph": {"transformers"}, "rl": {"h5py", "tensordict", "transformers"}, "timeseries": {"h5py"}}
"""Modules by domain that only some files or settings need. They are imported where they are used, and a
MissingDependency says what to install."""


def imported(folder: Path, optional: Set[str] = frozenset()) -> set[str]:
    """Distributions whose modules are imported somewhere below a folder."""
    modules: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module.split(".")[0])
    modules -= sys.stdlib_module_names | PACKAGES | {"_typeshed"} | optional
    unknown = {module for module in modules if module not in DISTRIBUTIONS}
    assert not unknown
    return {canonical(DISTRIBUTIONS[module][0]) for module in modules}


def declared(lines: list[str]) -> set[str]:
    return {canonical(Requirement(line).name) for line in lines}


def test_the_core_requires_what_it_imports_and_no_more():
    # testing.conformance makes tests of pytest, so whoever calls it has pytest.
    assert imported(ROOT / "core") - {"pytest"} == declared(PROJECT["dependencies"])


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_an_extra_covers_what_its_plugin_imports(domain):
    allowed = declared(PROJECT["dependencies"]) | declared(PROJECT["optional-dependencies"][domain])
    folder = ROOT / "plugins" / f"polycontrast_{domain.replace('-', '_')}"
    assert imported(folder, OPTIONAL.get(domain, set())) <= allowed


def test_constraints_are_one_version_each_and_allowed():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = [Requirement(line) for line in lines]
    assert all(len(list(r.specifier)) == 1 and str(r.specifier).startswith("==") and r.url is None for r in pinned)
    version_by_name = {canonical(r.name): str(r.specifier)[2:] for r in pinned}
    assert len(version_by_name) == len(pinned)
    wanted = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, wanted):
        if requirement.name != "polycontrast":
            assert requirement.specifier.contains(version_by_name[canonical(requirement.name)]), requirement


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_what_is_installed_agrees_with_pyproject():
    again = "pyproject.toml has changed since polycontrast was installed: run `pip install -e .` again"
    installed = distribution("polycontrast")
    points = {
        group: {point.name: point.value for point in installed.entry_points.select(group=group)}
        for group in ("polycontrast.plugins", "console_scripts")
    }
    assert points == {**PROJECT["entry-points"], "console_scripts": PROJECT["scripts"]}, again
    assert installed.version == PROJECT["version"], again
    assert set(installed.metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"]), again


@pytest.mark.parametrize("line", ["import core.polycontrast", "from plugins import polycontrast_graph"])
def test_the_folders_are_no_packages(line):
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", "--stdin-filename", "x.py", "-"]
    done = subprocess.run(ruff, input=line + "\n", cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1
    assert "is a folder, not a package" in done.stdout
