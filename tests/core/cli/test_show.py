"""``list`` and ``info``."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import sysconfig
from pathlib import Path

CPU_SECONDS = 0.6
"""Twice the promise, for a machine that is busy; a script measures the promise itself."""


def cpu_of(command):
    """Processor seconds of the quickest of three calls."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def test_list_answers_in_a_blink():
    seconds = cpu_of([Path(sysconfig.get_path("scripts")) / "polycontrast", "list", "--json"])
    bare = cpu_of([sys.executable, "-c", "pass"])
    print(f"list --json: {seconds:.3f} s of processor time, of which {bare:.3f} s for Python")
    assert seconds < CPU_SECONDS


def test_list_imports_nothing_heavy(run):
    assert run("list").heavy == []
    assert run("list", "--json").heavy == []


def test_list_json(run):
    done = run("list", "--json")
    found = json.loads(done.stdout)
    plugins = {plugin["domain"]: plugin for plugin in found["plugins"]}
    assert plugins["toy"] == {
        "domain": "toy",
        "owner": "acme-toy 1.2",
        "state": "ready",
        "hint": "",
        "methods": [
            {"id": "toy/closed", "summary": "Reads no files.", "paper": "", "state": "ready", "hint": ""},
            {"id": "toy/pair", "summary": "Two looks at one point.", "paper": "arXiv:0000.00000", "state": "ready",
             "hint": ""},
        ],
    }  # fmt: skip
    command = 'pip install "acme-needy[deep]"'
    assert (plugins["needy"]["state"], plugins["needy"]["hint"]) == ("not installed", command)
    assert plugins["needy"]["methods"][0]["state"] == "not installed"
    assert plugins["needy"]["methods"][0]["hint"] == command
    assert plugins["wreck"]["state"] == "broken"
    assert {"owner": "acme-broken 2.3.0", "error": "No module named 'acme_not_there'"} in found["broken"]
    assert found["clashes"] == []


def test_list_for_a_person(run):
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["method", "state", "summary"]
    assert any(" ".join(line.split()) == "toy/pair ready Two looks at one point." for line in lines)
    assert any(line.startswith("needy/dive") and " not installed " in line for line in lines)
    assert '  pip install "acme-needy[deep]"' in lines
    assert any(line.startswith("acme-broken 2.3.0") and "No module named 'acme_not_there'" in line for line in lines)


def test_info_json(run):
    done = run("info", "pair", "--json")
    about = json.loads(done.stdout)
    assert about["id"] == "toy/pair"
    assert about["owner"] == "acme-toy 1.2"
    assert (about["headline"], about["higher_is_better"]) == ("accuracy", True)
    assert about["terms"] == [{"name": "contrastive", "kind": "contrastive", "weight": 1.0}]
    fields = {field["path"]: field for field in about["fields"]}
    doc = "Width of the embedding."
    assert fields["dim"] == {"path": "dim", "type": "int", "default": 8, "required": False, "doc": doc}
    assert fields["engine.batch_size"]["default"] == 64
    assert {p["name"]: p["doc"] for p in about["presets"]} == {
        "demo": "A few seconds on one core.",
        "quick": "Two epochs.",
    }
    assert about["presets"][1]["values"] == {"engine": {"epochs": 2}}
    assert about["datasets"][0]["name"] == "demo"
    assert about["datasets"][0]["licence"] == "CC0-1.0"
    assert about["reads_files"] is True
    assert "torch" not in done.heavy


def test_info_of_a_method_that_is_not_installed(run):
    done = run("info", "needy/dive")
    assert 'not installed: pip install "acme-needy[deep]"' in done.stdout
    assert "temperature" in done.stdout
    assert "torch" not in done.heavy


def test_info_for_a_person(run):
    text = run("info", "toy/pair").stdout
    for part in (
        "arXiv:0000.00000",
        "Width of the embedding.",
        "Two epochs.",
        "CC0-1.0",
        "accuracy (higher is better)",
    ):
        assert part in text


def test_no_traceback_when_the_reader_leaves(site, tmp_path):
    # The shell's pipe, because the writer must outlive the reader.
    script = f"{sys.executable} -m polycontrast list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


def test_standard_output_that_is_full_or_closed(tmp_path):
    for end, code, error in ((">/dev/full", "1", "cannot write to standard output"), (">&-", "0", "")):
        script = f"{sys.executable} -m polycontrast list {end}; echo $? >&2"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
        *lines, status = done.stderr.splitlines()
        assert status == code
        assert len(lines) <= 1
        assert error in "".join(lines)
