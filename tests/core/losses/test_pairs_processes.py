"""Several processes train as one: values and gradients of the losses over pairs, equal and unequal local batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support import pair_cases

SIZES = [[9], [5, 4], [3, 3, 3], [4, 0, 5]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each process of each group computed."""
    folder = tmp_path_factory.mktemp("processes")
    tests = Path(pair_cases.__file__).parents[1]
    path = os.pathsep.join([str(tests), *sys.path])
    command = [sys.executable, "-m", "support.pair_cases"]
    running = [
        subprocess.Popen(
            [*command, str(rank), json.dumps(SIZES), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    try:
        for process in running:
            _, errors = process.communicate(timeout=150)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in running:
            process.kill()
    return {
        turn: [torch.load(folder / f"{turn}-{rank}.pt") for rank in range(len(sizes))]
        for turn, sizes in enumerate(SIZES)
    }


@pytest.fixture(scope="module")
def alone() -> list[dict[str, Any]]:
    """What one process computes on the whole batch of each group."""
    return [pair_cases.evaluate(slice(0, sum(sizes)), sum(sizes), sizes) for sizes in SIZES]


@pytest.mark.parametrize("turn", range(len(SIZES)), ids=["-".join(map(str, sizes)) for sizes in SIZES])
@pytest.mark.parametrize("name", pair_cases.CASES)
def test_as_one_process(
    found: dict[int, list[dict[str, Any]]], alone: list[dict[str, Any]], name: str, turn: int
) -> None:
    parts, whole = found[turn], alone[turn]
    world = len(parts)
    close: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(sum(p[f"{name}/value"] for p in parts) / world, whole[f"{name}/value"], **close)
    torch.testing.assert_close(sum(p[f"{name}/log_scale"] for p in parts) / world, whole[f"{name}/log_scale"], **close)
    for leaf in ("x", "y", "hard"):
        together = torch.cat([p[f"{name}/{leaf}"] for p in parts]) / world
        torch.testing.assert_close(together, whole[f"{name}/{leaf}"], **close)


@pytest.mark.parametrize("turn", range(len(SIZES)))
def test_cached_step(found: dict[int, list[dict[str, Any]]], turn: int) -> None:
    sizes = SIZES[turn]
    whole = pair_cases.cached(slice(0, sum(sizes)), sum(sizes), sizes)
    for part in found[turn]:
        for mine, expected in zip(part["cached"], whole, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
