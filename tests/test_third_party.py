"""Strangers' plugins: pip-installed distributions that live outside this repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

TOY = Path(__file__).parent / "third_party" / "polycontrast-toy"

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
{more}
[project.entry-points."polycontrast.plugins"]
{domain} = "{package}:PLUGIN"
"""
MANIFEST = """
from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin
def method(name):
    return MethodSpec(name, "toy_plugin.method:Pair", "toy_plugin.config:PairConfig", "A copy.")
PLUGIN = Plugin(domain="{domain}", api={api}, extra="{extra}", methods=({methods}),
                datasets=(DatasetSpec("demo", "toy_plugin.data:demo", "Points.", ({names})),))
"""


def stranger(folder, name, version, domain, *, code="", methods=("pair",), api=(1, 0), extra="", more=""):
    """Source of a distribution with one plugin."""
    package = name.replace("-", "_")
    (folder / name / package).mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(
        PYPROJECT.format(name=name, version=version, domain=domain, package=package, more=more)
    )
    parts = {"methods": "".join(f"method({m!r})," for m in methods), "names": "".join(f"{m!r}," for m in methods)}
    (folder / name / package / "__init__.py").write_text(
        code + MANIFEST.format(domain=domain, api=api, extra=extra, **parts)
    )
    return folder / name


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder by distribution, each installed on its own with pip and without network."""
    base = tmp_path_factory.mktemp("strangers")
    sources = {
        "toy": TOY,
        "broken": stranger(base, "acme-lidar", "2.3.0", "lidar", code="import acme_lidar_native\n"),
        "clashing": stranger(base, "toy-copy", "1.0", "toy", methods=("pair", "triple")),
        "too-new": stranger(base, "acme-radar", "4.0", "radar", api=(1, 9)),
        "incomplete": stranger(
            base, "acme-sonar", "0.1", "sonar", methods=("ping",), extra="deep",
            more='[project.optional-dependencies]\ndeep = ["acme-sonar-driver>=2"]',
        ),
    }  # fmt: skip
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    # A copy, because building must leave nothing in this repository.
    subprocess.run(["cp", "-r", TOY, base / "toy"], check=True)
    sources["toy"] = base / "toy"
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", base / "wheels", *sources.values()], check=True)
    folders = {}
    for name, source in sources.items():
        distribution = "polycontrast-toy" if name == "toy" else source.name
        (wheel,) = (base / "wheels").glob(distribution.replace("-", "_") + "-*.whl")
        folders[name] = base / "site" / name
        subprocess.run([*pip, "install", *offline, "--target", folders[name], wheel], check=True)
    return folders


@pytest.fixture
def polycontrast(installed, tmp_path):
    """Run the command line in an environment that has some of the distributions."""
    command = Path(sysconfig.get_path("scripts")) / "polycontrast"

    def run(*words, having=("toy",), code=0):
        path = os.pathsep.join(str(installed[name]) for name in having)
        env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([command, *words], env=env, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == code, done.stderr
        return done

    return run


def answer(done):
    return json.loads(done.stdout.splitlines()[-1])


def listed(done):
    return {method["id"]: method for plugin in answer(done)["plugins"] for method in plugin["methods"]}


def error(done):
    """The one line that says what is wrong."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("polycontrast: error: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    return lines[0].removeprefix("polycontrast: error: ")


def test_it_is_listed_on_the_same_footing_as_ours(polycontrast):
    done = polycontrast("list", "--json")
    domains = {plugin["domain"]: plugin for plugin in answer(done)["plugins"]}
    assert domains["toy"]["state"] == "ready"
    assert domains["toy"]["owner"] == "polycontrast-toy 0.3.0"
    assert domains["timeseries"].keys() == domains["toy"].keys()
    assert listed(done)["toy/pair"]["state"] == "ready"
    about = answer(polycontrast("info", "pair", "--json"))
    assert about["owner"] == "polycontrast-toy 0.3.0"
    assert about["headline"] == "accuracy"
    assert [preset["name"] for preset in about["presets"]] == ["demo"]
    assert {"dim", "temperature", "engine.batch_size"} <= {field["path"] for field in about["fields"]}


def test_it_trains_evaluates_and_embeds(polycontrast, tmp_path):
    result = answer(polycontrast("train", "toy/pair", "--out", "run", "--json", "--device", "cpu"))
    assert (result["method"], result["dataset"], result["preset"]) == ("toy/pair", "demo", "demo")
    assert result["steps"] == 6 * (512 // 64)
    assert result["floors"] == ["untrained"]
    assert result["metrics"]["accuracy"] > max(baseline["accuracy"] for baseline in result["baselines"].values())
    assert (tmp_path / "run" / "report.html").is_file()

    again = answer(polycontrast("evaluate", "run", "--json", "--device", "cpu"))
    assert again["metrics"] == result["metrics"]

    polycontrast("embed", "run", "--data", "demo", "--out", "embedding.parquet")
    table = pq.read_table(tmp_path / "embedding.parquet")
    assert table.num_rows == 128
    assert len(table["embedding"][0]) == 8


def test_neighbours_that_do_not_load_do_no_harm(polycontrast):
    having = ("toy", "broken", "too-new", "incomplete")
    done = polycontrast("list", "--json", having=having)
    found = answer(done)
    methods = listed(done)
    assert {broken["owner"] for broken in found["broken"]} == {"acme-lidar 2.3.0", "acme-radar 4.0"}
    assert methods["toy/pair"]["state"] == "ready"
    assert methods["sonar/ping"]["state"] == "not installed"
    domains = {plugin["domain"] for plugin in found["plugins"]}
    assert {"graph", "rl", "speech", "timeseries", "vision-language"} <= domains
    few = ("--max-steps", "2", "--device", "cpu", "--out", "run", "--json")
    done = polycontrast("train", "toy/pair", *few, having=having)
    assert answer(done)["steps"] == 2


def test_a_broken_import_is_told_with_its_owner(polycontrast):
    done = polycontrast("train", "lidar/pair", having=("toy", "broken"), code=2)
    assert "acme-lidar 2.3.0" in error(done)
    assert "No module named 'acme_lidar_native'" in error(done)
    assert "polycontrast doctor" in error(done)


def test_a_newer_api_says_what_to_upgrade(polycontrast):
    message = (
        "acme-radar 4.0 was written for plugin API 1.9; this polycontrast speaks 1.0. To fix: upgrade polycontrast."
    )
    done = polycontrast("train", "radar/pair", having=("toy", "too-new"), code=2)
    assert message in error(done)
    found = answer(polycontrast("list", "--json", having=("toy", "too-new")))
    assert found["broken"] == [{"owner": "acme-radar 4.0", "error": message}]


def test_a_clash_disables_that_id_alone(polycontrast):
    having = ("toy", "clashing")
    done = polycontrast("train", "toy/pair", having=having, code=2)
    assert "toy/pair" in error(done)
    assert "polycontrast-toy 0.3.0" in error(done)
    assert "toy-copy 1.0" in error(done)
    done = polycontrast("list", "--json", having=having)
    assert answer(done)["clashes"] == [{"method": "toy/pair", "owners": ["polycontrast-toy 0.3.0", "toy-copy 1.0"]}]
    assert listed(done)["toy/triple"]["state"] == "ready"
    assert answer(polycontrast("info", "toy/triple", "--json", having=having))["owner"] == "toy-copy 1.0"


def test_a_missing_extra_says_the_command(polycontrast):
    command = 'pip install "acme-sonar[deep]"'
    done = polycontrast("train", "sonar/ping", having=("toy", "incomplete"), code=2)
    assert "sonar/ping" in error(done)
    assert "acme-sonar-driver>=2" in error(done)
    assert command in error(done)
    assert listed(polycontrast("list", "--json", having=("toy", "incomplete")))["sonar/ping"]["hint"] == command
