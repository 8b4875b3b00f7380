#!/usr/bin/env python
"""Learn to control something from images, and act with what was learnt.

    python scripts/rl.py                                                  # the demo, under two minutes
    python scripts/rl.py dmc:cartpole_swingup --config taco-cpu           # dm_control, two CPU cores
    python scripts/rl.py dmc:reacher_hard --config paper --out runs/hard  # the paper's sizes, for a GPU
    python scripts/rl.py gym:CarRacing-v3 --out runs/car                  # any gymnasium task with pictures

A second call with the same --out goes on where the first was stopped. This file is a template: copy it and change it.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import polycontrast
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.environments import make


def main() -> None:
    """Train, or go on; compare with baselines; play one episode with the trained method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", help="pixels:..., dmc:... or gym:... (default: the demo)")
    parser.add_argument("--config", help="preset or YAML file, e.g. taco-cpu or paper")
    parser.add_argument("--frames", type=int, help="simulator steps (default: the preset's)")
    parser.add_argument("--drqv2", action="store_true", help="without TACO's auxiliary loss")
    parser.add_argument("--out", type=Path, default=Path("runs/rl"), help="run directory (default: runs/rl)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    settings: dict[str, object] = {}
    if args.task:
        settings["data.task"] = args.task
    if args.frames:
        settings["frames"] = args.frames
    if args.drqv2:
        settings["off"] = ["taco", "curl", "reward"]
    result = polycontrast.train(
        "rl/taco", data="environment" if args.task else "demo", config=args.config, set=settings, seed=args.seed,
        out=args.out, resume=True,
    )  # fmt: skip

    print(f"\n{'':24}{result.headline:>10}")
    rows = {"rl/taco": result.metrics, **result.baselines, **result.published}
    for name, metrics in rows.items():
        print(f"{name:24}{metrics[result.headline]:10.1f}{'  (floor)' if name in result.floors else ''}")
    print(f"Learning curve: {args.out / 'eval.csv'}   report: {args.out / 'report.html'}")

    # The trained method itself: uint8 observations in, actions in [-1, 1] out.
    method = polycontrast.load(args.out)
    env: EnvConfig = method.config.data  # type: ignore[attr-defined]
    with closing(make(env, 1, seed=args.seed + 1, evaluation=True)) as envs:
        obs, _ = envs.reset()
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = envs.step(method.select_action(obs))  # type: ignore[operator]
            total, over = total + float(reward[0]), bool(terminated[0] or truncated[0])
    print(f"One more episode: return {total:.1f}")


if __name__ == "__main__":
    main()
