"""Two processes train as one: same batches, same gradients, same curve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.toys import Odd, Toy, ToyConfig, engine_for, weights

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dataclasses import replace
from support import toys
from polycontrast import distributed
from polycontrast.engine import accelerator_for
from polycontrast.runs import Run

method, path = getattr(toys, sys.argv[1]), Path(sys.argv[2])
engine_config = replace(toys.ToyConfig().engine, checkpoint_steps=4, **eval(sys.argv[3]))
config = replace(toys.ToyConfig(), dropout=0.0, engine=engine_config)
accelerator_for("cpu", "no")
if distributed.rank() == 0 and not Run.exists(path):
    Run.create(path, config={"method": method.id, "data": "x", "seed": 0, "config": {}}, environment={})
distributed.barrier()
engine = toys.engine_for(path, method, config)
engine.run()
if distributed.rank() == 0:
    torch.save(toys.weights(engine), path / "weights.pt")
"""


def train_together(path: Path, method: str, processes: int, changes: str = "{}") -> None:
    script = path.parent / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    support = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*launch, str(script), method, str(path), changes],
        env={**os.environ, "PYTHONPATH": support, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def curve(path: Path) -> list[float]:
    rows = (json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize("method", [Toy, Odd])
def test_two_processes_train_as_one(tmp_path: Path, method: type[Toy]) -> None:
    config = ToyConfig()
    alone = engine_for(tmp_path / "alone", method, replace(config, dropout=0.0))
    alone.run()
    train_together(tmp_path / "together", method.__name__, 2, '{"accumulate": 2}' if method is Toy else "{}")
    assert curve(tmp_path / "together") == pytest.approx(curve(tmp_path / "alone"), abs=1e-5)
    saved = torch.load(tmp_path / "together" / "weights.pt", weights_only=True)
    for name, value in weights(alone).items():
        torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=1e-5)
