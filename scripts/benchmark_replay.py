#!/usr/bin/env python
"""What environments and the replay of rl/taco cost.

    python scripts/benchmark_replay.py render      images per CPU second of dm_control's own rendering and of ours
    python scripts/benchmark_replay.py replay      writing and sampling 84 x 84 frames, disk and anonymous memory
    python scripts/benchmark_replay.py pixels      the tasks drawn by NumPy

Rendering runs all variants of a task in one process, in turn, best of several rounds, and compares their pixels on the
same states. The replay is filled with --rows transitions (default 100000, 2.1 GB of disk) in --folder and what
1000000 would take is extrapolated. --json prints the rows as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def best(call: Callable[[], Any], rounds: int, inner: int, clock: Callable[[], float]) -> float:
    """Seconds of one call: the best mean over ``inner`` calls of several rounds."""
    found = np.inf
    for _ in range(rounds):
        begin = clock()
        for _ in range(inner):
            call()
        found = min(found, (clock() - begin) / inner)
    return float(found)


# ---- rendering ---------------------------------------------------------------------------------------------------


def render(tasks: list[str], size: int, rounds: int) -> list[Row]:
    """Stock dm_control, which makes a camera for every image, and our three qualities, on the same states."""
    from dm_control import suite

    from polycontrast_rl.dmc import DmControl

    rows = []
    by_name = {f"{domain}_{name}": (domain, name) for domain, name in suite.ALL_TASKS}
    for task in tasks:
        camera = 2 if task.startswith("quadruped") else 0
        stock = suite.load(*by_name[task], task_kwargs={"random": 0})
        stock.task.random.seed(1)
        stock.reset()
        variants: dict[str, Callable[[], Any]] = {
            "stock": lambda: stock.physics.render(size, size, camera_id=camera).transpose(2, 0, 1)  # noqa: B023
        }
        ours = {q: DmControl(task, size, size, (), q) for q in ("exact", "balanced", "fast")}
        for quality, simulator in ours.items():
            simulator.begin(1)
            variants[quality] = simulator.draw
        pixels: dict[str, list[Any]] = {name: [] for name in variants}
        rng = np.random.default_rng(0)
        for _ in range(5):  # the same five states
            action = rng.uniform(-1, 1, ours["exact"].action_dim).astype(np.float32)
            spec = stock.action_spec()
            for _ in range(5):
                stock.step(spec.minimum + (action.astype(float) + 1) / 2 * (spec.maximum - spec.minimum))
                for simulator in ours.values():
                    simulator.step(action)
            for name, draw in variants.items():
                pixels[name].append(np.array(draw(), np.int64))
        cost = dict.fromkeys(variants, np.inf)
        for _ in range(rounds):
            for name, draw in variants.items():
                cost[name] = min(cost[name], best(draw, 1, 3 if name in ("stock", "exact") else 20, time.process_time))
        for name in variants:
            difference = np.abs(np.stack(pixels[name]) - np.stack(pixels["stock"]))
            rows.append({
                "task": task, "rendering": name, "cpu_ms": cost[name] * 1e3, "images_per_cpu_second": 1 / cost[name],
                "speed": cost["stock"] / cost[name], "mean_difference": float(difference.mean()),
                "pixels_differing_by_8": float((difference.max(1) >= 8).mean()),
            })  # fmt: skip
        stock.physics.free()
        for simulator in ours.values():
            simulator.close()
    return rows


def pixels(size: int, rounds: int) -> list[Row]:
    """A step of 32 drawn environments, per environment."""
    from polycontrast_rl.config import EnvConfig
    from polycontrast_rl.environments import make

    rows = []
    for task in ("pixels:point-mass", "pixels:reacher"):
        envs = make(EnvConfig(task=task, height=size, width=size, action_repeat=1), 32, 0)
        envs.reset()
        action = np.zeros(envs.action_space.shape, np.float32)
        seconds = best(lambda: envs.step(action), rounds, 20, time.process_time)  # noqa: B023
        rows.append({"task": task, "size": size, "cpu_ms_per_step": seconds / 32 * 1e3})
    return rows


# ---- replay ------------------------------------------------------------------------------------------------------


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def replay(rows: int, size: int, batch: int, folder: Path | None, rounds: int) -> list[Row]:
    """Fill, checkpoint, sample; disk and memory."""
    from polycontrast_rl.replay import ReplayBuffer

    parent = Path(tempfile.mkdtemp(dir=folder))
    try:
        before = anonymous_mb()
        buffer = ReplayBuffer(1_000_000, (3, size, size), 6, path=parent / "replay")
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (64, 1, 3, size, size), dtype=np.uint8)
        action, reward = np.zeros((1, 6), np.float32), np.ones(1)
        none = np.zeros(1, bool)
        buffer.add(images[0])
        begin = time.process_time()
        for t in range(rows):
            buffer.add(images[t % 64], action, reward, none, none | (t % 500 == 499))
        writing = (time.process_time() - begin) / rows
        saving = best(buffer.state_dict, 1, 1, time.perf_counter)
        draws = iter(range(10**9))

        def sample(k: int) -> Any:
            return buffer.sample(batch, 3, k, 0.99, next(draws))

        for _ in range(rows // batch):  # every page once, as far as memory goes
            sample(3)
        warm = {}
        for k in (3, 1):
            taken = []
            for _ in range(rounds * 20):
                begin, cpu = time.perf_counter(), time.process_time()
                sample(k)
                taken.append((time.perf_counter() - begin, time.process_time() - cpu))
            warm[k] = 1e3 * np.array([*np.median(taken, axis=0), np.min(taken, axis=0)[0]])
        disk = sum(file.stat().st_blocks * 512 for file in (parent / "replay").iterdir())
        return [{
            "transitions": rows, "disk_gb": disk / 1e9, "anonymous_mb": anonymous_mb() - before,
            "disk_gb_of_1000000": disk / 1e9 * 1e6 / rows, "write_cpu_ms": writing * 1e3, "state_dict_ms": saving * 1e3,
            "batch": batch, "sample_ms_best": float(warm[3][2]), "sample_ms_median": float(warm[3][0]),
            "sample_cpu_ms": float(warm[3][1]), "sample_cpu_ms_k1": float(warm[1][1]),
        }]  # fmt: skip
    finally:
        shutil.rmtree(parent)


def show(rows: list[Row]) -> None:
    """A table."""
    names = list(rows[0])
    cells = [names, *([f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("render", "replay", "pixels"))
    parser.add_argument("--tasks", default="cartpole_swingup,reacher_hard,walker_walk,quadruped_run")
    parser.add_argument("--size", type=int, default=None, help="pixels per edge (default 84, drawn tasks 32)")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=None, help="where the replay is written (default: temporary)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.what == "render":
        from polycontrast_rl import rendering

        rendering.choose()
        rows = render(given.tasks.split(","), given.size or 84, given.rounds)
    elif given.what == "replay":
        rows = replay(given.rows, given.size or 84, given.batch, given.folder, given.rounds)
    else:
        rows = pixels(given.size or 32, given.rounds)
    if given.json:
        print(json.dumps({"machine": os.uname().machine, "python": sys.version.split()[0], "rows": rows}))
    else:
        show(rows)


if __name__ == "__main__":
    main()
