"""A folder of made-up distributions, and the command line run in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOY_PACKAGE = Path(__file__).parents[2] / "third_party" / "polycontrast-toy" / "toy_plugin"

MANIFEST = """
from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

PLUGIN = Plugin(
    domain="toy",
    api=(1, 0),
    methods=(
        MethodSpec("pair", "toy_plugin.method:Pair", "toy_plugin.config:PairConfig", "Two looks at one point.",
                   paper="arXiv:0000.00000", reader="acme_toy.data:read"),
        MethodSpec("closed", "toy_plugin.method:Pair", "toy_plugin.config:PairConfig", "Reads no files."),
    ),
    datasets=(
        DatasetSpec("demo", "acme_toy.data:demo", "Generated clusters.", ("pair",), preset="demo", licence="CC0-1.0"),
        DatasetSpec("plain", "acme_toy.data:demo", "The same, without a preset.", ("pair",)),
    ),
    checks="acme_toy.codec:look",
)
"""
DATA = """
from toy_plugin.data import demo as clusters

def demo(config, seed, purpose):
    print("a plugin that prints")
    return clusters(config, seed, purpose)

def read(path, config, seed, purpose):
    if path.suffix == ".bug":
        raise TypeError("two words\\nover two lines")
    return clusters(config, seed, purpose)
"""
CODEC = """
from polycontrast.plugins import Check

def look():
    return [Check("codec", True, "libtoy 3"), Check("decoder", False, "install libdecode1")]
"""
NEEDY = """
from polycontrast.plugins import MethodSpec, Plugin

PLUGIN = Plugin("needy", (1, 0), extra="deep", checks="nowhere:look",
                methods=(MethodSpec("dive", "toy_plugin.method:Pair", "toy_plugin.config:PairConfig", "Needs more."),))
"""

# After the work of main(): the heavy modules that were imported, as the last line of standard error.
PROBE = """
import sys
from polycontrast.cli import main
code = main(sys.argv[1:])
heavy = ("torch", "numpy", "pandas", "pyarrow", "rich", "accelerate", "sklearn", "yaml", "huggingface_hub")
print("heavy:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


def distribution(site: Path, name: str, version: str, domain: str, modules: dict[str, str], metadata: str = "") -> None:
    """Write what pip would leave of a small distribution."""
    package = name.replace("-", "_")
    for module, text in modules.items():
        file = site / package / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
    (info / "entry_points.txt").write_text(f"[polycontrast.plugins]\n{domain} = {package}:PLUGIN\n")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder for sys.path with a working plugin, one that lacks a package and one that does not load."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(TOY_PACKAGE, folder / "toy_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "toy_plugin" / "presets" / "quick.yaml").write_text("# Two epochs.\nengine:\n  epochs: 2\n")
    distribution(folder, "acme-toy", "1.2", "toy", {"__init__": MANIFEST, "data": DATA, "codec": CODEC})
    lacks = 'Provides-Extra: deep\nRequires-Dist: surely-absent>=2; extra == "deep"\n'
    distribution(folder, "acme-needy", "0.9", "needy", {"__init__": NEEDY}, lacks)
    distribution(folder, "acme-broken", "2.3.0", "wreck", {"__init__": "import acme_not_there\n"})
    return folder


@pytest.fixture
def run(site, tmp_path):
    """Run the command line in a process of its own, in an empty folder.

    The answer has ``heavy``, the expensive modules that were imported on the way.
    """

    def call(*words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("RANK", None)
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *words], env=env, cwd=tmp_path, text=True, capture_output=True
        )
        *lines, last = done.stderr.splitlines()
        assert last.startswith("heavy:"), done.stderr
        done.stderr = "\n".join(lines)
        done.heavy = last.split()[1:]
        assert code is None or done.returncode == code, done.stderr
        return done

    return call


@pytest.fixture
def here(site, tmp_path, monkeypatch):
    """The same distributions in this process; the current directory is an empty folder."""
    from polycontrast import plugins

    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    plugins.refresh()
    yield tmp_path
    monkeypatch.undo()
    plugins.refresh()


@pytest.fixture
def cli(here, capsys):
    """Run the command line in this process; the answer is (standard output, standard error)."""

    from polycontrast.cli import main

    def call(*words, code=0):
        capsys.readouterr()
        got = main(list(words))
        out, err = capsys.readouterr()
        assert got == code, err
        return out, err

    return call
