"""``train``, ``evaluate``, ``embed``, ``predict`` and ``report`` on a toy method."""

from __future__ import annotations

import json
import signal
import sys

import pyarrow.parquet as pq
import pytest

from polycontrast import api
from polycontrast.cli import main, output
from polycontrast.errors import Interrupted, TrainingError

QUICK = ["--max-steps", "2", "--device", "cpu"]


def last_json(out):
    return json.loads(out.splitlines()[-1])


def test_train_prints_one_object_and_keeps_standard_output_clean(cli, here):
    out, err = cli("train", "pair", *QUICK, "--out", "run", "--seed", "3", "--json")
    (line,) = out.splitlines()
    result = json.loads(line)
    wanted = {"run", "method", "dataset", "preset", "seed", "steps", "seconds", "headline", "higher_is_better",
              "metrics", "baselines", "floors"}  # fmt: skip
    assert wanted <= result.keys()
    assert (result["run"], result["method"], result["dataset"], result["preset"]) == ("run", "toy/pair", "demo", "demo")
    assert (result["seed"], result["steps"]) == (3, 2)
    assert result["warnings"] == []
    assert "a plugin that prints" in err
    assert "toy/pair on demo, preset demo, engine.max_steps=2, seed 3" in err
    assert json.loads((here / "run" / "environment.json").read_text())["command"][:3] == [
        "polycontrast",
        "train",
        "pair",
    ]


def test_what_the_watch_told_is_in_the_result_and_the_report(cli, here, monkeypatch):
    monkeypatch.setattr("polycontrast.engine.watch.CollapseWatch.warnings", ["collapse watch at step 2: all alike"])
    out, _ = cli("train", "pair", *QUICK, "--out", "run", "--json")
    assert last_json(out)["warnings"] == ["collapse watch at step 2: all alike"]
    assert json.loads((here / "run" / "result.json").read_text())["warnings"] == last_json(out)["warnings"]
    assert "collapse watch at step 2: all alike" in (here / "run" / "report.html").read_text()
    assert last_json(cli("evaluate", "run", "--json")[0])["warnings"] == []


def test_train_for_a_person(cli, here):
    out, _ = cli("train", "pair", *QUICK, "--out", "run")
    assert "toy/pair" in out
    assert "untrained" in out
    assert out.splitlines()[-1] == "run: run   report: run/report.html"
    assert (here / "run" / "report.html").is_file()


def test_settings_reach_the_run_in_their_order(cli, here):
    # preset demo: epochs 6; config quick: epochs 2; --set wins over both
    def saved(*words):
        out, _ = cli("train", "pair", "--dry-run", "--json", *words)
        answer = last_json(out)
        return answer["config"]["engine"]["epochs"], answer["preset"]

    assert saved("--data", "plain") == (20, "")
    assert saved() == (6, "demo")
    assert saved("--config", "quick") == (2, "demo+quick")
    assert saved("--config", "quick", "--set", "engine.epochs=3") == (3, "demo+quick")
    (here / "my.yaml").write_text("engine: {epochs: 4}\n")
    assert saved("--config", "my.yaml") == (4, "demo+my.yaml")
    assert saved("--set", "engine.epochs=5", "dim=2") == (5, "demo")
    assert [p.name for p in here.iterdir()] == ["my.yaml"]


def test_a_dry_run_creates_nothing(cli, here):
    out, _ = cli("train", "pair", "--dry-run", "--out", "run", "--set", "dim=4")
    for part in ("toy/pair", "demo", "run (not created)", "dim: 4", "parameters", "80"):
        assert part in out
    assert list(here.iterdir()) == []


def test_the_config_of_a_run_can_be_used_again(cli, here):
    cli("train", "pair", *QUICK, "--data", "plain", "--set", "dim=3", "--out", "first", "--json")
    out, _ = cli("train", "pair", "--config", "first/config.yaml", "--dry-run", "--json")
    again = last_json(out)
    assert (again["config"]["dim"], again["dataset"]) == (3, "plain")
    assert again["config"]["engine"]["max_steps"] == 2
    _, err = cli("train", "closed", "--config", "first/config.yaml", code=2)
    assert "first/config.yaml is the config of a run of 'toy/pair', not of 'toy/closed'" in err


def test_resume_of_a_finished_run_prints_its_result(cli, here):
    first = last_json(cli("train", "pair", *QUICK, "--out", "run", "--resume", "--json")[0])
    assert last_json(cli("train", "pair", *QUICK, "--out", "run", "--resume", "--json")[0]) == first
    _, err = cli("train", "pair", *QUICK, "--out", "run", code=2)
    assert "holds a run already" in err


def test_seeds(cli, here):
    answer = last_json(cli("train", "pair", *QUICK, "--seeds", "2", "--out", "runs", "--json")[0])
    assert [run["seed"] for run in answer["runs"]] == [0, 1]
    assert answer["summary"]["accuracy"].keys() == {"mean", "std"}
    out, _ = cli("train", "pair", *QUICK, "--seeds", "2", "--out", "runs", "--resume")
    assert out.splitlines()[-1].startswith("run: runs/s1")
    assert "seeds 0, 1" in out


def test_use_of_a_trained_model(cli, here):
    result = last_json(cli("train", "pair", *QUICK, "--out", "run", "--json")[0])
    again = last_json(cli("evaluate", "run", "--device", "cpu", "--json")[0])
    assert again["metrics"] == result["metrics"]
    assert "untrained" in cli("evaluate", "run/model", "--device", "cpu")[0]

    out, _ = cli("embed", "run", "--data", "plain", "--out", "e.parquet")
    assert out == "e.parquet: 128 rows, columns id, embedding\n"
    assert pq.read_table(here / "e.parquet").num_rows == 128
    _, err = cli("predict", "run", "--data", "plain", "--out", "p.parquet", code=2)
    assert err.splitlines()[-1] == "polycontrast: error: toy/pair has no task output to predict; use embed"
    assert not (here / "p.parquet").exists()

    (here / "run" / "report.html").unlink()
    assert cli("report", "run")[0] == "run/report.html\n"
    assert (here / "run" / "report.html").is_file()


def test_a_bug_in_a_plugin_is_one_line(cli, here):
    (here / "x.bug").write_text("")
    words = ("train", "pair", *QUICK, "--data", "x.bug", "--out", "run")
    _, err = cli(*words, code=1)
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        "polycontrast: internal error: TypeError: two words over two lines (run again with --debug for the traceback)"
    )
    _, err = cli(*words, "--debug", code=1)
    assert "Traceback" in err
    assert err.splitlines()[-1] == "polycontrast: internal error: TypeError: two words over two lines"
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "polycontrast: interrupted"),
        (Interrupted("stopped at step 3", signal.SIGTERM), 143, "polycontrast: error: stopped at step 3"),
        (Interrupted("stopped at step 3", signal.SIGINT), 130, "polycontrast: error: stopped at step 3"),
        (TrainingError("the loss is NaN"), 1, "polycontrast: error: the loss is NaN"),
        (BrokenPipeError(32, "Broken pipe"), 1, "polycontrast: internal error: BrokenPipeError: [Errno 32] Broken pipe "
                                                "(run again with --debug for the traceback)"),
    ],
)  # fmt: skip
def test_how_work_ends(cli, monkeypatch, error, code, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(api, "train", fail)
    _, err = cli("train", "pair", code=code)
    assert err.splitlines()[-1] == line


def test_only_the_first_process_answers(cli, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    out, err = cli("train", "pair", "--dry-run")
    assert out == ""
    assert "toy/pair on demo" not in err


def test_what_json_does_not_know(capsys):
    import numpy as np

    output.write_json(
        {"nan": float("nan"), "inf": [float("-inf")], "np": np.float32(0.5), "row": np.arange(2), 1: None}
    )
    assert json.loads(capsys.readouterr().out) == {"nan": None, "inf": [None], "np": 0.5, "row": [0, 1], "1": None}


def test_main_without_arguments_reads_those_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["polycontrast", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("polycontrast ")
