"""Whole runs through the command line, killed and spread over processes. Minutes: run with ``-m slow``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas")

SMALL = [
    "context=48", "horizons=[12]", "head_context=24", "n_masks=2", "dropout=0.0", "engine.epochs=4", "head_epochs=4",
    "engine.log_steps=1",
]  # fmt: skip
PYTHON = [sys.executable, "-m"]


def train(out: Path, *more: str, launch: list[str] = PYTHON, settings: list[str] = SMALL) -> list[str]:
    sets = [word for setting in settings for word in ("--set", setting)]
    return [*launch, "polycontrast", "train", "timeseries/ti-mae", "--device", "cpu", "--out", str(out), *sets, *more]


def finished(out: Path) -> tuple[dict[str, Any], bytes, list[dict[str, Any]]]:
    result = json.loads((out / "result.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    numbers = {k: result[k] for k in ("metrics", "baselines", "steps")}
    return numbers, (out / "model" / "model.safetensors").read_bytes(), curves


def being_written(out: Path) -> bool:
    folder = out / "checkpoints"
    return folder.is_dir() and any(p.name.endswith(".tmp") for p in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("often", [False, True], ids=["default interval", "every step"])
def test_killed_at_ten_moments_it_ends_the_same(tmp_path: Path, often: bool) -> None:
    settings = (
        [*SMALL, "engine.epochs=12", "engine.checkpoint_steps=1"] if often else ["dropout=0.1", "engine.epochs=48"]
    )
    subprocess.run(train(tmp_path / "whole", settings=settings), check=True, capture_output=True)
    draw, out, kills, writes = random.Random(0), tmp_path / "killed", 0, 0
    while kills < 10:
        # Its own standard error: a progress line means that training has begun.
        process = subprocess.Popen(
            train(out, "--resume", settings=settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        begun = time.monotonic()
        while not (out / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        wait = draw.uniform(4, 14)
        end = time.monotonic() + wait
        while time.monotonic() < end and process.poll() is None:
            if kills % 2 and time.monotonic() - begun > wait / 2 and being_written(out):
                writes += 1
                break
            time.sleep(0.0005)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    subprocess.run(train(out, "--resume", settings=settings), check=True, capture_output=True)
    print(f"{kills} kills, {writes} during a write")
    assert kills >= (5 if often else 10)
    assert finished(out) == finished(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_two_processes_have_the_curve_of_one(tmp_path: Path, launcher: str) -> None:
    subprocess.run(train(tmp_path / "one", "--max-steps", "30"), check=True, capture_output=True)
    launch = {
        # accelerate starts several processes without a GPU only under this name
        "accelerate": [*PYTHON, "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"],
        "torchrun": [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
    }[launcher]
    subprocess.run(
        train(tmp_path / "two", "--max-steps", "30", launch=launch), check=True, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["processes"] == 2
    one, two = (
        [row["train/loss"] for row in finished(tmp_path / name)[2] if "train/loss" in row] for name in ("one", "two")
    )
    assert len(one) == 60
    assert two == pytest.approx(one, abs=1e-5)
