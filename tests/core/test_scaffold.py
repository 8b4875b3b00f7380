"""``plugin new`` writes a distribution that works as it is; ``plugin check`` tells what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polycontrast.errors import InputError
from polycontrast.scaffold import scaffold
from polycontrast.testing import CHECKS


@pytest.fixture(scope="module")
def lidar(tmp_path_factory) -> Path:
    """A new distribution, as pip would make it visible."""
    folder = tmp_path_factory.mktemp("new") / "acme-lidar"
    scaffold("acme-lidar", folder)
    info = folder / "src" / "acme_lidar-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-lidar\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[polycontrast.plugins]\nlidar = acme_lidar:PLUGIN\n")
    return folder


def run(lidar: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(lidar / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *words], env=env, cwd=lidar, text=True, capture_output=True)


def test_a_new_plugin_is_found_trained_and_beats_its_floor(lidar):
    done = run(lidar, "polycontrast", "train", "lidar/pair", "--out", "run", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["accuracy"] > result["baselines"]["untrained"]["accuracy"] + 0.1


def test_its_own_tests_are_green(lidar):
    done = run(lidar, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert f"{len(CHECKS)} passed" in done.stdout


def test_plugin_check_passes_and_tells_what_was_broken(lidar):
    done = run(lidar, "polycontrast", "plugin", "check", "lidar")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(CHECKS)} checks, 0 failed, 0 known failures, 0 skipped\n"

    config = lidar / "src" / "acme_lidar" / "config.py"
    text = config.read_text()
    config.write_text(text.replace('    """Width of the embedding."""\n', ""))
    done = run(lidar, "polycontrast", "plugin", "check", "lidar", "--json")
    config.write_text(text)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["failed"] == 1
    assert [check["message"] for check in answer["checks"] if check["state"] == "failed"] == [
        "no text under width; write what it is and where its default comes from"
    ]


@pytest.mark.parametrize("name", ["Acme", "acme_lidar", "1lidar", "acme-", "class", "acme-1", ""])
def test_names_that_pip_or_python_would_not_take(name, tmp_path):
    with pytest.raises(InputError, match="is no name for a plugin"):
        scaffold(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        scaffold("acme-lidar", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
