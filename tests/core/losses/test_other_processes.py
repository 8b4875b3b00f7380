"""Several processes give the value and the gradients of one on the whole batch; queues stay alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support import loss_cases

SIZES = [(4, 4), (6, 1), (5, 0), (3, 3, 3), (2, 5, 1), (0, 4, 3)]
"""Rows of each process."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all sizes, from processes that are started once."""
    path = tmp_path_factory.mktemp("together")
    search = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "support.loss_cases", str(rank), json.dumps(SIZES), str(path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(max(map(len, SIZES)))
    ]
    for process in running:
        _, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors[-3000:]
    return path


def of(folder: Path, turn: int) -> list[dict[str, Tensor]]:
    return [torch.load(folder / f"{turn}-{rank}.pt", weights_only=True) for rank in range(len(SIZES[turn]))]


@pytest.fixture(scope="module", params=range(len(SIZES)), ids=["-".join(map(str, sizes)) for sizes in SIZES])
def results(request: pytest.FixtureRequest, folder: Path) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    n = sum(SIZES[request.param])
    return of(folder, request.param), loss_cases.evaluate(slice(0, n), n)


@pytest.mark.parametrize("case", loss_cases.CASES)
def test_processes_are_as_one(results: tuple[list[dict[str, Tensor]], dict[str, Tensor]], case: str) -> None:
    found, alone = results
    mean = torch.stack([part[f"{case}/value"] for part in found]).mean(0)
    torch.testing.assert_close(mean, alone[f"{case}/value"], rtol=1e-12, atol=1e-12)
    for side in ("x", "y"):
        # what a shared parameter would get: the mean over processes
        together = torch.cat([part[f"{case}/{side}"] for part in found]) / len(found)
        torch.testing.assert_close(together, alone[f"{case}/{side}"], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("turn", range(len(SIZES)))
def test_queues_are_alike_and_in_order_of_rank(folder: Path, turn: int) -> None:
    n = sum(SIZES[turn])
    expected = loss_cases.queues(slice(0, n), n)
    for part in of(folder, turn):
        assert part["queue"].equal(expected)
        assert bool(part["drifted"])
