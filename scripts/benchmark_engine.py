#!/usr/bin/env python
"""What the engine costs: training steps of timeseries/ti-mae against a bare PyTorch loop over the same network.

Both train the same network on windows of the same series in one process, in turn, with the engine's defaults on
(logging, progress, checkpoints); the bare loop has nothing of that. Best of several rounds.

    python scripts/benchmark_engine.py                 demo size, one and two threads
    python scripts/benchmark_engine.py --size paper    64 windows of 300 steps, 7 channels, 30 masks (minutes)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from polycontrast.config import EngineConfig
from polycontrast.data import ResumableSampler
from polycontrast.engine import Engine, accelerator_for
from polycontrast.runs import Run
from polycontrast_timeseries.series import SeriesDataset, from_frame
from polycontrast_timeseries.ti_mae.config import TiMAEConfig
from polycontrast_timeseries.ti_mae.method import TiMAE

SIZES = {
    "demo": {"context": 96, "horizons": (24,), "n_masks": 2, "channels": 5, "batch": 32, "steps": 60},
    "paper": {"context": 200, "horizons": (100,), "n_masks": 30, "channels": 7, "batch": 64, "steps": 2},
}


def series(channels: int) -> SeriesDataset:
    """Seasons and noise, 3000 rows."""
    rng = np.random.default_rng(0)
    t = np.arange(3000)[:, None]
    values = np.sin(2 * np.pi * t / 24 + rng.random(channels)) + 0.3 * rng.standard_normal((3000, channels))
    return from_frame(values, TiMAEConfig().data, name="seasons", purpose="train")


def engine_seconds(config: TiMAEConfig, data: SeriesDataset, steps: int) -> float:
    """Seconds per step of the engine, everything that happens between the first and the last step included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        run = Run.create(path, config={"method": TiMAE.id, "data": "x", "seed": 0, "config": {}}, environment={})
        method = TiMAE(config, TiMAE.inspect(config, data))
        engine = Engine(method, data, run, accelerator_for("cpu", "no"))
        marks: list[float] = []
        on_step_end = method.on_step_end
        method.on_step_end = lambda stage, engine: (marks.append(time.perf_counter()), on_step_end(stage, engine))  # type: ignore[method-assign]
        engine.run()
    return (marks[-1] - marks[0]) / steps


def bare_seconds(config: TiMAEConfig, data: SeriesDataset, steps: int) -> float:
    """Seconds per step of the loop that a paper's appendix would print, over the same network and masks."""
    torch.manual_seed(0)
    network = TiMAE(config, TiMAE.inspect(config, data)).network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    length, chunk = config.context + max(config.horizons), config.masks_per_chunk or 1
    windows = data.windows("train", context=config.context, horizon=max(config.horizons))
    visible = int(length * (1 - config.mask_ratio))
    batches = ResumableSampler(size=len(windows), batch_size=config.engine.batch_size)
    marks: list[float] = []
    for positions in batches:
        x = windows[positions]["x"]
        rows = torch.arange(len(x)).repeat(chunk)
        optimiser.zero_grad()
        for start in range(0, config.n_masks, chunk):
            masks = min(chunk, config.n_masks - start)
            at = rows[: masks * len(x)]
            keep = torch.rand(len(at), length).argsort(1)[:, :visible]
            view = network.view(x, keep, at)
            error = (network.decode(network.encode(view), view, length) - x[at]).square().mean(2)
            hidden = torch.ones(len(at), length).scatter_(1, keep, 0.0)
            ((error * hidden).sum() / hidden.sum() * masks / config.n_masks).backward()
        optimiser.step()
        marks.append(time.perf_counter())
        if len(marks) > steps:
            break
    return (marks[-1] - marks[0]) / steps


def main() -> None:
    """Print a row per number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--rounds", type=int, default=7, help="times that both are measured, in turn (default: 7)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    args = parser.parse_args()
    size = SIZES[args.size]
    engine = EngineConfig(batch_size=size["batch"], epochs=None, max_steps=size["steps"] + 1)
    config = TiMAEConfig(
        context=size["context"], horizons=size["horizons"], n_masks=size["n_masks"], head_epochs=0, engine=engine
    )
    data = series(size["channels"])
    for threads in args.threads:
        torch.set_num_threads(threads)
        bare_seconds(config, data, 1)  # warm-up
        rows = [
            (engine_seconds(config, data, size["steps"]), bare_seconds(config, data, size["steps"]))
            for _ in range(args.rounds)
        ]
        ours, bare = (min(column) for column in zip(*rows, strict=True))
        row = {
            "size": args.size,
            "threads": threads,
            "engine_ms": 1e3 * ours,
            "bare_ms": 1e3 * bare,
            "ratio": ours / bare,
        }
        if args.json:
            print(json.dumps(row))
        else:
            print(
                f"{args.size}, {threads} thread{'s' * (threads > 1)}: engine {row['engine_ms']:.1f} ms a step, "
                f"bare loop {row['bare_ms']:.1f} ms, ratio {row['ratio']:.3f}"
            )


if __name__ == "__main__":
    main()
