"""Whole runs of st-ssdl through the command line. Minutes: run with ``-m slow``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pandas")

PYTHON = [sys.executable, "-m"]


def train(out: Path, *more: str, launch: list[str] = PYTHON) -> list[str]:
    sets = ["compare=[]", "engine.log_steps=1", "engine.epochs=2", "engine.checkpoint_steps=1"]
    words = [word for setting in sets for word in ("--set", setting)]
    return [*launch, "polycontrast", "train", "timeseries/st-ssdl", "--device", "cpu", "--out", str(out), *words, *more]


def curve(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(tmp_path: Path) -> None:
    subprocess.run(train(tmp_path / "one", "--max-steps", "8"), check=True, capture_output=True)
    launch = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    subprocess.run(
        train(tmp_path / "two", "--max-steps", "8", launch=launch), check=True, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == 8
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_killed_it_ends_the_same(tmp_path: Path) -> None:
    subprocess.run(train(tmp_path / "whole"), check=True, capture_output=True)
    draw, out, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 4:
        process = subprocess.Popen(train(out, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = (out / "metrics.jsonl").stat().st_size if (out / "metrics.jsonl").exists() else 0
        while process.poll() is None:
            file = out / "metrics.jsonl"
            if file.exists() and file.stat().st_size > seen:
                time.sleep(draw.uniform(0.1, 1.0))
                break
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(train(out, "--resume"), check=True, capture_output=True)
    assert kills >= 2
    assert curve(out) == curve(tmp_path / "whole")
    names = ("metrics", "baselines")
    ends = [json.loads((place / "result.json").read_text()) for place in (out, tmp_path / "whole")]
    assert [ends[0][n] for n in names] == [ends[1][n] for n in names]
    model = "model/model.safetensors"
    assert (out / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
