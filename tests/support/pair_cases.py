"""Losses over pairs of two views and a scale, run in one process and in several by ``test_pairs_processes``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polycontrast import distributed
from polycontrast.losses import (
    CachedStep,
    Duplicates,
    Guide,
    dcl,
    dclw,
    infonce,
    infonce_debiased,
    infonce_soft,
    mixup_targets,
    moco,
    ntxent,
    siglip,
    supcon,
)

Facts = dict[str, Tensor]
Case = Callable[[Tensor, Tensor, Tensor, Facts], Any]


def _queue() -> Tensor:
    return torch.randn(13, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def _stacked(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y], 1)


def _tiled(tile: int = 3) -> dict[str, Any]:
    return {"mode": "tiled", "tile": tile}


def _guide(f: Facts) -> Guide:
    return Guide(f["guide"], f["guide"].roll(1, 1), f["guide"].roll(2, 1), margin=0.05)


def _pairs(f: Facts) -> Tensor:
    """Each anchor's own candidate and that of its partner."""
    here = torch.arange(len(f["partner"]))
    return torch.cat([torch.stack([here, here], 1), torch.stack([here, f["partner"]], 1)])


ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
CASES: dict[str, Case] = {
    "infonce": lambda x, y, s, f: infonce(x, y, scale=s),
    "infonce tiled": lambda x, y, s, f: infonce(x, y, scale=s, **_tiled()),
    "infonce stored": lambda x, y, s, f: infonce(x, y, scale=s * 60, mode="stored", tile=2),
    "infonce weights": lambda x, y, s, f: infonce(x, y, scale=s, weights=f["weights"], direction_weights=(0.2, 0.8)),
    "infonce sum": lambda x, y, s, f: infonce(x, y, scale=s, reduction="sum"),
    "infonce one way": lambda x, y, s, f: infonce(x, y, scale=s, symmetric=False, **_tiled()),
    "hard negatives": lambda x, y, s, f: infonce(x, y, negatives=f["hard"], scale=s, symmetric=False),
    "hard negatives both ways": lambda x, y, s, f: infonce(x, y, negatives=f["hard"], scale=s, **_tiled()),
    "hard negatives in y": lambda x, y, s, f: infonce(x, torch.cat([y, f["hard"]]), scale=s, symmetric=False),
    "hard negatives interleaved": lambda x, y, s, f: infonce(
        x, _stacked(y, f["hard"]).flatten(0, 1), layout="interleaved", scale=s, **_tiled()
    ),
    "private negatives": lambda x, y, s, f: infonce(x, y, negatives=_stacked(f["hard"], y.flip(1)), scale=s),
    "hardness": lambda x, y, s, f: infonce(x, y, negatives=f["hard"], scale=s, hardness=2.0, hardness_on="in_batch"),
    "joint directions": lambda x, y, s, f: infonce(
        x, y, negatives=f["hard"], scale=s, directions=ALL_DIRECTIONS, **_tiled()
    ),
    "infonce labels": lambda x, y, s, f: infonce(x, y, labels=f["labels"], scale=s, **_tiled()),
    "infonce duplicates": lambda x, y, s, f: infonce(x, y, scale=s, filters=[Duplicates(f["labels"])], **_tiled()),
    "infonce guide": lambda x, y, s, f: infonce(
        x,
        y,
        negatives=f["hard"],
        scale=s,
        filters=[_guide(f)],
        directions=("query_to_doc", "query_to_query", "positive_to_positive"),
    ),
    "infonce guide both ways": lambda x, y, s, f: infonce(x, y, scale=s, filters=[_guide(f)]),
    "infonce mask": lambda x, y, s, f: infonce(x, y, positives=f["mask"], scale=s),
    "infonce mask tiled": lambda x, y, s, f: infonce(
        x, y, positives=f["shares"], scale=s, weights=f["weights"], filters=[Duplicates(f["labels"])], **_tiled()
    ),
    "infonce mask one way": lambda x, y, s, f: infonce(x, y, positives=f["mask"], scale=s, symmetric=False),
    "infonce mask guide": lambda x, y, s, f: infonce(x, y, positives=f["mask"], scale=s, filters=[_guide(f)]),
    "candidates of their own": lambda x, y, s, f: infonce(
        x, _stacked(y, f["hard"]), positives=f["labels"] % 2, scale=s, symmetric=False
    ),
    "infonce pairs": lambda x, y, s, f: infonce(x, y, positives=_pairs(f), scale=s, **_tiled()),
    "infonce log weights": lambda x, y, s, f: infonce(
        x, y, labels=f["labels"], scale=s, log_weights=f["weights"].log(), **_tiled()
    ),
    "ring": lambda x, y, s, f: infonce(x, y, scale=s, backend="ring"),
    "ring steep": lambda x, y, s, f: infonce(x, y, scale=s * 60, backend="ring", mode="stored", tile=2),
    "ring tiled": lambda x, y, s, f: infonce(
        x, y, scale=s, backend="ring", weights=f["weights"], direction_weights=(0.2, 0.8), **_tiled()
    ),
    "ring one way": lambda x, y, s, f: infonce(
        x, y, scale=s, symmetric=False, reduction="sum", backend="ring", **_tiled()
    ),
    "ring duplicates": lambda x, y, s, f: infonce(
        x, y, scale=s, filters=[Duplicates(f["labels"])], backend="ring", **_tiled()
    ),
    "infonce l2": lambda x, y, s, f: infonce(x, y, scale=s / 5, score="l2", normalize=False),
    "ntxent": lambda x, y, s, f: ntxent(x, y, scale=s),
    "ntxent tiled": lambda x, y, s, f: ntxent(
        x, y, scale=s, weights=f["weights"], filters=[Duplicates(f["labels"])], **_tiled()
    ),
    "dcl": lambda x, y, s, f: dcl(x, y, scale=s, **_tiled()),
    "dclw": lambda x, y, s, f: dclw(x, y, scale=s),
    "debiased": lambda x, y, s, f: infonce_debiased(x, y, scale=s, tau_plus=0.05, beta=0.7, **_tiled()),
    "supcon": lambda x, y, s, f: supcon(_stacked(x, y), f["labels"], scale=s, weights=f["weights"], **_tiled()),
    "supcon one view": lambda x, y, s, f: supcon(x, f["labels"], scale=s) + 0 * y.sum(),
    "supcon in": lambda x, y, s, f: supcon(_stacked(x, y), f["labels"], scale=s, average="in", anchors="first_view"),
    "supcon per positive": lambda x, y, s, f: supcon(
        _stacked(x, y), f["labels"], scale=s, average="per_positive", **_tiled()
    ),
    "supcon views": lambda x, y, s, f: supcon(_stacked(x, y), scale=s, empty="zero"),
    "supcon no positives": lambda x, y, s, f: supcon(x, f["none"], scale=s) + 0 * y.sum(),
    "soft": lambda x, y, s, f: infonce_soft(
        x,
        y,
        *(mixup_targets(f["partner"], f["weights"] / 2, transposed=t) for t in (False, True)),
        scale=s,
        normalize_targets=False,
        **_tiled(),
    ),
    "siglip": lambda x, y, s, f: siglip(x, y, scale=s, bias=s - 4, **_tiled()),
    "siglip labels": lambda x, y, s, f: siglip(x, y, labels=f["labels"], scale=s, bias=-2.0),
    "moco": lambda x, y, s, f: moco(x, y, _queue(), scale=s, **_tiled()) + 0 * y.sum(),
}


def batch(n: int, sizes: list[int]) -> tuple[Tensor, Tensor, Facts]:
    generator = torch.Generator().manual_seed(3)
    x, y, hard = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    partner, start = [], 0
    for size in sizes:  # partners within the rows of one process
        partner.append(torch.randperm(size, generator=torch.Generator().manual_seed(size)))
        start += size
    facts = {
        "hard": hard,
        "labels": torch.randint(0, 4, (n,), generator=generator),
        "none": torch.full((n,), -100),
        "weights": torch.rand(n, generator=generator, dtype=torch.float64) + 0.1,
        "guide": torch.randn(n, 3, generator=generator, dtype=torch.float64),
        "partner": torch.cat(partner),
        "mask": torch.rand(n, n, generator=generator) < 0.3,
        "shares": torch.relu(torch.rand(n, n, generator=generator, dtype=torch.float64) - 0.6),
    }
    return x, y, facts


def evaluate(part: slice, n: int, sizes: list[int]) -> dict[str, Tensor]:
    """Value and gradients of every case on some rows of the batch."""
    out = {}
    for name, case in CASES.items():
        x, y, facts = batch(n, sizes)
        facts = {key: value[part] for key, value in facts.items()}
        if part == slice(0, n):  # numbers of the local batch become those of the whole
            starts = torch.repeat_interleave(
                torch.tensor([sum(sizes[:k]) for k in range(len(sizes))]), torch.tensor(sizes)
            )
            facts["partner"] = facts["partner"] + starts
        x, y = (z[part].clone().requires_grad_() for z in (x, y))
        facts["hard"].requires_grad_()
        log_scale = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
        loss = case(x, y, log_scale.exp(), facts)
        leaves = {"x": x, "y": y, "hard": facts["hard"], "log_scale": log_scale}
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        out[f"{name}/value"] = loss.detach()
        for (leaf, tensor), gradient in zip(leaves.items(), found, strict=True):
            out[f"{name}/{leaf}"] = torch.zeros_like(tensor) if gradient is None else gradient
    return out


def cached(part: slice, n: int, sizes: list[int]) -> list[Tensor]:
    """Averaged gradients of an encoder and a temperature after a cached step, and how many exchanges that took."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    log_scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    x, y, _ = batch(n, sizes)
    step = CachedStep(encoder, infonce, chunk=2)
    loss = step(x[part], y[part], scale=log_scale.exp())
    assert isinstance(loss, Tensor)
    loss.backward()
    parameters = [*encoder.parameters(), log_scale]
    distributed.average_gradients(parameters)
    return [p.grad for p in parameters if p.grad is not None]


def together(rank: int, all_sizes: list[list[int]], folder: Path) -> None:
    """One of several processes: sizes of the local batches by process, for each group of processes to form in turn."""
    torch.set_num_threads(1)
    for turn, sizes in enumerate(all_sizes):
        if rank >= len(sizes):
            continue
        meet = f"file://{folder / f'meet-{turn}'}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=len(sizes))
        part, n = slice(sum(sizes[:rank]), sum(sizes[: rank + 1])), sum(sizes)
        found: dict[str, Any] = evaluate(part, n, sizes)
        found["cached"] = cached(part, n, sizes)
        torch.save(found, folder / f"{turn}-{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    together(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
