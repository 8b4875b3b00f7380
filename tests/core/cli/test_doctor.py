"""``doctor``."""

from __future__ import annotations

import json

import pytest

from polycontrast.cli import doctor, main


def test_doctor_json(run):
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert found["core"] == {"missing": [], "error": None, "fix": ""}
    assert found["torch"]["version"]
    assert found["cores"] >= 1
    assert found["disk"]["free_gb"] > 0
    assert found["trackers"].keys() == {"tensorboard", "wandb"}
    domains = {domain["domain"]: domain for domain in found["domains"]}
    assert domains["toy"]["state"] == "ready"
    assert domains["needy"]["missing"] == ["surely-absent>=2"]
    assert domains["needy"]["hint"] == 'pip install "acme-needy[deep]"'
    # Of the plugins that are installed whole; rl looks for a renderer.
    assert [c for c in found["checks"] if c["domain"] != "rl"] == [
        {"domain": "toy", "name": "codec", "ok": True, "detail": "libtoy 3"},
        {"domain": "toy", "name": "decoder", "ok": False, "detail": "install libdecode1"},
    ]
    (broken,) = [b for b in found["broken"] if b["owner"] == "acme-broken 2.3.0"]
    assert broken["error"].startswith("No module named 'acme_not_there' (")
    assert broken["error"].endswith("acme_broken/__init__.py, line 1)")
    # It is looked at from outside, because a torch that does not fit the processor ends its process.
    assert "torch" not in done.heavy


@pytest.fixture
def quick(here, monkeypatch):
    """Without the process that imports torch."""
    state = {"torch": ({"version": "2", "threads": 1, "cuda": None, "devices": [], "mps": False}, None), "missing": []}
    monkeypatch.setattr(doctor, "_torch", lambda: state["torch"])
    monkeypatch.setattr(doctor, "_core_missing", lambda: state["missing"])
    return state


def test_doctor_for_a_person(quick, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "The core works."
    assert "install libdecode1" in out
    for part in ("needy", "missing: surely-absent>=2", "acme-broken 2.3.0", "none, the CPU is used"):
        assert part in out


def test_a_core_that_lacks_something(quick, capsys):
    quick["missing"] = ["safetensors>=0.5"]
    assert main(["doctor"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == 'The core does not work: safetensors>=0.5 missing. To fix: pip install "safetensors>=0.5"'


def test_a_torch_that_does_not_start(quick, capsys):
    quick["torch"] = (None, "importing torch failed: OSError: libfoo.so")
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["torch"]) == (False, None)
    assert found["core"]["error"] == "importing torch failed: OSError: libfoo.so"


@pytest.mark.parametrize(
    ("probe", "torch", "error"),
    [
        ("print('{\"version\": \"2\"}', flush=True); raise KeyError('x')", {"version": "2"},
         "importing polycontrast.api failed: KeyError: 'x'"),
        ("import os; os.abort()", None, "importing torch failed: it ended with code -6"),
        ("import time; time.sleep(9)", None, "torch did not start"),
    ],
)  # fmt: skip
def test_the_process_that_imports_torch(monkeypatch, probe, torch, error):
    monkeypatch.setattr(doctor, "_PROBE", probe)
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 2)
    found, why = doctor._torch()
    assert found == torch
    assert why is not None
    assert why.startswith(error)
