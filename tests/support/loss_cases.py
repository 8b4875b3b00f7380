"""Losses as functions of two views, run in one process and in several by ``test_other_processes``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from polycontrast import distributed
from polycontrast.errors import TrainingError
from polycontrast.losses.prediction import byol, dino, moved_centre, nnclr, simsiam, swav
from polycontrast.losses.regression import rnc, supcon_kernel
from polycontrast.losses.statistics import align_uniform, barlow, joint_entropy, mmd, vicreg
from polycontrast.losses.triplet import triplet
from polycontrast.losses.vse import vse
from polycontrast.memory import FeatureQueue

Facts = dict[str, Tensor]
"""Constants of the batch, one row per sample."""


def _queue() -> Tensor:
    return torch.randn(13, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


CASES: dict[str, Callable[[Tensor, Tensor, Facts], Any]] = {
    "vicreg": lambda x, y, f: vicreg(x, y),
    "vicreg sum": lambda x, y, f: vicreg(x, y, reduction="sum"),
    "barlow": lambda x, y, f: barlow(x, y),
    "align_uniform": lambda x, y, f: align_uniform(x, y, alpha=1.5),
    "align_uniform tiled": lambda x, y, f: align_uniform(x, y, mode="tiled", tile=3),
    "mmd": lambda x, y, f: mmd(x, y, mode="tiled", tile=3),
    "joint_entropy": lambda x, y, f: joint_entropy(x, y, mode="tiled", tile=3),
    "triplet all": lambda x, y, f: triplet(x, labels=f["labels"], miner="all") + 0 * y.sum(),
    "triplet semihard": lambda x, y, f: triplet(x, y, labels=f["labels"], mode="tiled", tile=3),
    "triplet hard": lambda x, y, f: triplet(x, y, labels=f["labels"], miner="hard", weights=f["weights"].repeat(2)),
    "triplet pairs": lambda x, y, f: triplet(x, y, miner="all", reduction="mean"),
    "triplet sum": lambda x, y, f: triplet(x, y, labels=f["labels"], reduction="sum"),
    "vse hardest": lambda x, y, f: vse(x, y, exclude_ids=f["labels"]),
    "vse sum": lambda x, y, f: vse(x, y, negatives="sum", reduction="mean", weights=f["weights"], mode="tiled", tile=3),
    "vse margins": lambda x, y, f: vse(x, y, negatives="mean", margin=f["weights"], reduction="mean"),
    "rnc": lambda x, y, f: rnc(x, y, labels=f["targets"]),
    "rnc tiled": lambda x, y, f: rnc(x, y, labels=f["labels"], weights=f["weights"].repeat(2), mode="tiled", tile=3),
    "supcon_kernel": lambda x, y, f: supcon_kernel(x, y, labels=f["targets"]),
    "supcon_kernel threshold": lambda x, y, f: supcon_kernel(x, labels=f["targets"], kernel="threshold") + 0 * y.sum(),
    "byol": lambda x, y, f: byol(x, y, weights=f["weights"]),
    "simsiam": lambda x, y, f: simsiam(x, y, y, x),
    "swav": lambda x, y, f: swav([x, y]),
    "dino": lambda x, y, f: dino([x, y], [y, x], centre=moved_centre(torch.zeros(4).double(), [x, y])),
    "nnclr": lambda x, y, f: nnclr(x, y, queue=_queue(), weights=f["weights"]),
}


def batch(n: int) -> tuple[Tensor, Tensor, Facts]:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    facts = {
        "labels": torch.randint(0, 4, (n,), generator=generator),
        "targets": torch.randn(n, generator=generator, dtype=torch.float64),
        "weights": torch.rand(n, generator=generator, dtype=torch.float64) + 0.1,
    }
    return x, y, facts


def evaluate(part: slice, n: int) -> dict[str, Tensor]:
    """Value and gradients of every case on some rows of the batch, as one row of numbers each: value, x's, y's."""
    out = {}
    for name, case in CASES.items():
        x, y, facts = batch(n)
        x, y = (z[part].clone().requires_grad_() for z in (x, y))
        loss = case(x, y, {key: value[part] for key, value in facts.items()})
        found = torch.autograd.grad(loss, (x, y), allow_unused=True)
        for_x, for_y = (torch.zeros_like(z) if g is None else g for g, z in zip(found, (x, y), strict=True))
        out[f"{name}/value"], out[f"{name}/x"], out[f"{name}/y"] = loss.detach(), for_x, for_y
    return out


def queues(part: slice, n: int) -> Tensor:
    """A queue that saw every process's rows, twice."""
    queue = FeatureQueue(7, 4, dtype=torch.float64, extra={"ids": torch.int64})
    x, y, _ = batch(n)
    for view in (x, y):
        queue.enqueue(view[part], ids=torch.arange(n)[part], later=True)
    return torch.cat([queue["ids"].unsqueeze(1), queue.features], 1)


def drifted() -> bool:
    """Whether queues that differ are noticed."""
    queue = FeatureQueue(7, 4, fill="random", seed=distributed.rank())
    try:
        queue.enqueue(torch.zeros(1, 4))
    except TrainingError:
        return True
    return False


def together(rank: int, all_sizes: list[list[int]], folder: Path) -> None:
    """One of several processes: sizes of the local batches by process, for each group of processes to form in turn."""
    torch.set_num_threads(1)
    for turn, sizes in enumerate(all_sizes):
        if rank >= len(sizes):
            continue
        meet = f"file://{folder / f'meet-{turn}'}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=len(sizes))
        part, n = slice(sum(sizes[:rank]), sum(sizes[: rank + 1])), sum(sizes)
        found = {**evaluate(part, n), "queue": queues(part, n), "drifted": torch.tensor(drifted())}
        torch.save(found, folder / f"{turn}-{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    together(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
