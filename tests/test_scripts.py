"""The set-up behind scripts/test and scripts/demo, with a Python whose venv and pip are made of cardboard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PYTHON = f"""#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
"-m pip") echo "$@" >>"$CALLS"; eval "$PIP";;
*) exec {sys.executable} "$@";;
esac
"""
NO_NETWORK = "echo \"WARNING: Retrying after connection broken by 'NewConnectionError(...)'\"; exit 1"


class Checkout:
    """A copy of what the set-up reads, in a folder with a blank in its name."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "a checkout"
        self.venv = self.root / ".venv"
        self.calls = tmp_path / "calls"
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        self.root.mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        self.program("python3.11", PYTHON)
        (self.root / "scripts" / "probe").write_text(
            'set -euo pipefail\nsource "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"\nuse_environment "$1"\n'
        )

    def program(self, name: str, text: str) -> Path:
        file = self.bin / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.root / name
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    def set_up(self, extras="timeseries", *, pip="exit 0", python="", code=0) -> list[str]:
        """What the person sees."""
        env = {"PATH": f"{self.bin}:/usr/bin:/bin", "PYTHON": str(python), "CALLS": str(self.calls), "PIP": pip}
        command = ["bash", self.root / "scripts" / "probe", extras]
        done = subprocess.run(command, env=env, cwd="/", text=True, capture_output=True)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        return done.stderr.splitlines()

    @property
    def installs(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_second_run_finds_everything_in_place(checkout):
    first = checkout.set_up()
    assert [line.split()[0] for line in first] == ["Making", "Installing", "Installed"]
    assert "--editable .[timeseries]" in checkout.calls.read_text()
    assert checkout.set_up() == []
    assert checkout.installs == 1


def test_the_whole_set_serves_the_demo_too(checkout):
    checkout.set_up("all,dev")
    assert checkout.set_up("timeseries") == []
    assert checkout.installs == 1


def test_a_larger_set_is_added(checkout):
    checkout.set_up("timeseries")
    checkout.set_up("all,dev")
    assert checkout.installs == 2
    assert checkout.set_up("timeseries") == checkout.set_up("all,dev") == []


def test_changed_requirements_are_installed_and_other_settings_are_not(checkout):
    checkout.set_up()
    checkout.edit("pyproject.toml", "line-length = 120", "line-length = 100")
    assert checkout.set_up() == []
    checkout.edit("pyproject.toml", '"rich>=13"', '"rich>=14"')
    checkout.set_up()
    assert checkout.installs == 2
    checkout.edit("constraints.txt", "rich==", "rich==1")
    checkout.set_up()
    assert checkout.installs == 3


@pytest.mark.parametrize("named", [True, False])
def test_an_old_python(checkout, named):
    old = '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n'
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        checkout.program(name, old)
    given = checkout.bin / "python3" if named else ""
    (line,) = checkout.set_up(python=given, code=1)
    assert line.startswith("scripts/probe: Python 3.11 or newer is needed, found Python 3.9.2 (as ")
    assert line.endswith("install one, or set PYTHON=/path/to/python")
    assert not checkout.venv.exists()


def test_a_stub_in_front_of_a_good_python(checkout):
    (checkout.bin / "python3.11").rename(checkout.bin / "python3.12")
    checkout.program("python3.11", "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    checkout.set_up()
    assert checkout.installs == 1


def test_a_python_without_venv(checkout):
    python = checkout.program(
        "bare", f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac\n'
    )
    (line,) = checkout.set_up(python=python, code=1)
    assert "apt install python3-venv" in line


def test_a_full_disk_beforehand(checkout):
    checkout.program("df", "#!/bin/sh\necho Filesystem\necho 'x 9 9 3000000 9% /'\n")
    (line,) = checkout.set_up(code=1)
    assert line.startswith("scripts/probe: the disk is too full: 2 GB are free in ")
    assert not checkout.venv.exists()


@pytest.mark.parametrize(
    ("pip", "says"),
    [
        ("echo 'ERROR: [Errno 28] No space left on device'; exit 1", "the disk is full; free "),
        (NO_NETWORK, "no network: pip could not reach the package index; "),
        ("echo 'ERROR: No matching distribution found for torch'; exit 1", "pip failed: No matching distribution "),
        ("exit 9", "pip failed: no reason given "),
    ],
)
def test_what_pip_stumbles_over_is_one_line_and_the_next_run_starts_anew(checkout, pip, says):
    *_, last = checkout.set_up(pip=pip, code=1)
    assert last.startswith(f"scripts/probe: {says}")
    assert last.endswith(f"(pip's words: {checkout.venv / 'setup.log'})")
    first, *_ = checkout.set_up()
    assert first == "An earlier set-up did not end; making .venv anew."
    assert checkout.set_up() == []


def test_without_network_an_environment_that_was_whole_stays(checkout):
    checkout.set_up()
    (checkout.venv / "mine").touch()
    checkout.edit("pyproject.toml", '"rich>=13"', '"rich>=14"')
    checkout.set_up(pip=NO_NETWORK, code=1)
    checkout.set_up()
    assert (checkout.venv / "mine").exists()


def test_killed_in_the_middle(checkout):
    checkout.set_up(pip="kill -9 $PPID", code=-9)
    first, *_ = checkout.set_up()
    assert first == "An earlier set-up did not end; making .venv anew."


def test_a_moved_checkout(checkout):
    checkout.set_up()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    first, *_ = checkout.set_up()
    assert first == "The folder was moved or copied; making .venv anew."


def test_an_environment_made_by_hand_is_used(checkout):
    (checkout.venv / "bin").mkdir(parents=True)
    shutil.copy(checkout.bin / "python3.11", checkout.venv / "bin" / "python")
    (checkout.venv / "mine").touch()
    checkout.set_up()
    assert (checkout.venv / "mine").exists()
    assert checkout.set_up() == []


def test_every_script_can_be_run():
    for name in ("scripts/test", "scripts/demo", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)
        subprocess.run(["bash", "-n", ROOT / name], check=True)
