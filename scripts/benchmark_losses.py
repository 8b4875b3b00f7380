#!/usr/bin/env python
"""What the losses cost: time, CPU time, peak memory and arithmetic rate, beside plain PyTorch and other libraries.

All methods of one size run forward and backward in one process, in turn, best of several rounds; peak memory (above the
inputs; gradients and copies included) is measured in a process of its own for each. Libraries take part when they are
installed: open_clip, lightly, pytorch_metric_learning, sentence_transformers; those that need cubic or very much
memory stop at sizes they can hold (pytorch_metric_learning is measured at N = 128). A library whose loss is not that
of the plain one is an error, not a row.

    python scripts/benchmark_losses.py               N = 1024 and 4096, under 3 minutes
    python scripts/benchmark_losses.py --full        also 16384 and 32768
    python scripts/benchmark_losses.py --json        the rows as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

TEMPERATURE = 0.07
PEERS = ("open_clip", "lightly", "pytorch_metric_learning", "sentence_transformers")
ENOUGH = 10.0
"""Seconds after which a method of one size is not run once more."""


@dataclass
class Row:
    """One line of the table."""

    method: str
    n: int
    d: int
    threads: int
    seconds: float | None
    cpu_seconds: float | None
    peak_mb: float | None
    ratio: float | None
    """Seconds over those of the plain loss of the same kind."""
    gflops: float | None
    """Rate counted on 8 N^2 d (symmetric), 16 N^2 d (NT-Xent) or 6 N^2 d (VSE) operations."""


def methods() -> dict[str, tuple[str, int, Callable[[], Callable]]]:  # type: ignore[type-arg]
    """By name: what it is compared with, the largest N it takes, how to make it (a function of x and y)."""
    import torch
    from torch.nn import functional as F

    from polycontrast.losses import infonce, ntxent, vse

    def plain_infonce():  # type: ignore[no-untyped-def]
        def loss(x, y):  # type: ignore[no-untyped-def]
            logits = F.normalize(x) @ F.normalize(y).T / TEMPERATURE
            target = torch.arange(len(x))
            return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

        return loss

    def plain_ntxent():  # type: ignore[no-untyped-def]
        """The usual four blocks of logits."""

        def loss(x, y):  # type: ignore[no-untyped-def]
            u, v = F.normalize(x), F.normalize(y)
            n = len(u)
            diagonal = torch.eye(n, dtype=torch.bool)
            uu, uv, vu, vv = u @ u.T / TEMPERATURE, u @ v.T / TEMPERATURE, v @ u.T / TEMPERATURE, v @ v.T / TEMPERATURE
            uu = uu[~diagonal].view(n, n - 1)
            vv = vv[~diagonal].view(n, n - 1)
            logits = torch.cat([torch.cat([uv, uu], 1), torch.cat([vu, vv], 1)])
            return F.cross_entropy(logits, torch.arange(n).repeat(2))

        return loss

    def plain_vse():  # type: ignore[no-untyped-def]
        def loss(x, y):  # type: ignore[no-untyped-def]
            cosines = F.normalize(x) @ F.normalize(y).T
            own, diagonal = cosines.diagonal(), torch.eye(len(x), dtype=torch.bool)
            hinges = (0.2 + cosines - own.unsqueeze(1)).relu().masked_fill(diagonal, 0.0).sum()
            return hinges + (0.2 + cosines - own).relu().masked_fill(diagonal, 0.0).sum()

        return loss

    def ours(function, **options):  # type: ignore[no-untyped-def]
        options = options if function is vse else {"temperature": TEMPERATURE, **options}
        return lambda: lambda x, y: function(x, y, **options)

    def open_clip():  # type: ignore[no-untyped-def]
        from open_clip.loss import ClipLoss

        loss = ClipLoss()
        return lambda x, y: loss(F.normalize(x), F.normalize(y), torch.tensor(1 / TEMPERATURE))

    def lightly():  # type: ignore[no-untyped-def]
        from lightly.loss import NTXentLoss

        return NTXentLoss(TEMPERATURE)

    def metric_learning():  # type: ignore[no-untyped-def]
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

        return SelfSupervisedLoss(NTXentLoss(TEMPERATURE))

    def sentence_transformers():  # type: ignore[no-untyped-def]
        import sentence_transformers
        from torch import nn

        class Rows(nn.Module):
            def forward(self, features):  # type: ignore[no-untyped-def]
                return {"sentence_embedding": features["rows"]}

        if int(sentence_transformers.__version__.split(".")[0]) >= 6:
            from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

            both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
            loss = MultipleNegativesRankingLoss(Rows(), scale=1 / TEMPERATURE, **both)
        else:
            from sentence_transformers.losses import MultipleNegativesSymmetricRankingLoss

            loss = MultipleNegativesSymmetricRankingLoss(Rows(), scale=1 / TEMPERATURE)
        return lambda x, y: loss([{"rows": x}, {"rows": y}], torch.empty(0))

    many = 2**31
    found = {
        "plain": ("plain", 16384, plain_infonce),
        "infonce": ("plain", many, ours(infonce)),
        "infonce tiled": ("plain", many, ours(infonce, mode="tiled")),
        "open_clip": ("plain", 8192, open_clip),
        "sentence_transformers": ("plain", 8192, sentence_transformers),
        "four-block ntxent": ("four-block ntxent", 4096, plain_ntxent),
        "ntxent": ("four-block ntxent", 16384, ours(ntxent)),
        "lightly ntxent": ("four-block ntxent", 4096, lightly),
        "pytorch_metric_learning ntxent": ("four-block ntxent", 128, metric_learning),
        "plain vse sum": ("plain vse sum", 4096, plain_vse),
        "vse sum": ("plain vse sum", 16384, ours(vse, negatives="sum")),
    }
    absent = {
        name for name in found
        if (package := name.split()[0]) in PEERS
        and find_spec(package) is None
    }  # fmt: skip
    return {name: entry for name, entry in found.items() if name not in absent}


def peak_mb(method: str, n: int, d: int, threads: int) -> float | None:
    """Peak memory above the inputs of one method, in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", method, "--n", str(n), "--d", str(d), "--threads", str(threads)]
    # each block in a mapping of its own, so that freed memory does not count
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def _status_mb(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}: peak memory is measured on Linux only")


def print_peak(method: str, n: int, d: int, threads: int) -> None:
    """Print the peak of one method; runs in the process that :func:`peak_mb` starts."""
    import torch

    torch.set_num_threads(threads)
    loss = methods()[method][2]()
    small = [torch.randn(64, d, requires_grad=True) for _ in range(2)]
    loss(*small).backward()  # what libraries allocate once does not count
    x, y = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    before = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    loss(x, y).backward()
    print(_status_mb("VmHWM") - before)


def check(made: dict, x, y) -> None:  # type: ignore[no-untyped-def, type-arg]
    """Raise a ValueError unless every method computes the loss it is compared with."""
    values = {name: float(loss(x[:64].detach(), y[:64].detach())) for name, (_, loss) in made.items()}
    for name, (base, _) in made.items():
        if base in values and abs(values[name] - values[base]) > 1e-4 * abs(values[base]):
            raise ValueError(
                f"{name} gives {values[name]:.6f} where {base} gives {values[base]:.6f}: not the same loss"
            )


def measure(n: int, d: int, threads: int, rounds: int, memory: bool, only: str | None) -> list[Row]:
    """All methods of one size, or those compared with ``only``, in turn; with "plain" ours and no library."""
    import torch

    torch.set_num_threads(threads)
    chosen = {name: entry for name, entry in methods().items() if n <= entry[1] and only in (None, entry[0])}
    if only == "plain":
        chosen = {name: entry for name, entry in chosen.items() if name.split()[0] not in PEERS}
    made = {name: (base, build()) for name, (base, _, build) in chosen.items()}
    x, y = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    check(made, x, y)
    best: dict[str, tuple[float, float]] = {}
    spent = dict.fromkeys(made, 0.0)
    for _ in range(rounds):
        for name, (_, loss) in made.items():
            if spent[name] > ENOUGH:
                continue
            x.grad = y.grad = None
            wall, cpu = time.perf_counter(), time.process_time()
            loss(x, y).backward()
            seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            spent[name] += seconds
            old = best.get(name, (float("inf"), float("inf")))
            best[name] = (min(seconds, old[0]), min(cpu_seconds, old[1]))
    rows = []
    few = ("plain", "infonce", "pytorch_metric_learning ntxent")  # what small sizes take is soon said
    for name, (base, _) in made.items():
        seconds, cpu = best[name]
        work = (16 if "ntxent" in name else 6 if "vse" in name else 8) * n * n * d
        ratio = seconds / best[base][0] if base in best else None
        peak = peak_mb(name, n, d, threads) if memory and (n > 1024 or name in few) else None
        rows.append(Row(name, n, d, threads, seconds, cpu, peak, ratio, work / seconds / 1e9))
    return rows


def machine_gflops(threads: int, d: int) -> float:
    """Rate of matrix products of the tile's shape, 512 x d by d x 2048."""
    import torch

    torch.set_num_threads(threads)
    a, b, out = torch.randn(512, d), torch.randn(2048, d), torch.empty(512, 2048)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b.T, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * 512 * 2048 * d / best / 1e9


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="also N = 16384 and 32768")
    parser.add_argument("--json", action="store_true", help="rows as JSON on standard output")
    parser.add_argument("--sizes", help="other sizes, e.g. 2048,8192")
    parser.add_argument("--d", type=int, help="width of the rows (default 256, and 512 for some)")
    parser.add_argument("--threads", type=int, help="threads (default 1, and 2 for N = 4096)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="best of this many (default 5; slow ones stop after 10 s)"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    call = parser.parse_args()
    if call.peak_of:
        print_peak(call.peak_of, call.n, call.d, call.threads)
        return
    d, threads = call.d or 256, call.threads or 1
    pairs, views = "plain", "four-block ntxent"
    if call.sizes:
        plan = [(int(n), d, threads, None) for n in call.sizes.split(",")]
    else:
        plan = [(128, d, threads, views)] if find_spec("pytorch_metric_learning") else []
        plan += [(1024, d, threads, None), (4096, d, threads, None)]
        plan += [(1024, 512, threads, pairs), (4096, 512, threads, pairs)] if not call.d else []
        plan += [(4096, d, 2, pairs)] if not call.threads and (os.cpu_count() or 1) > 1 else []
        plan += [(16384, d, threads, None), (32768, d, threads, None)] if call.full else []
    rows: list[Row] = []
    rates: dict[tuple[int, int], float] = {}
    for n, width, used, only in plan:
        rates[used, width] = max(rates.get((used, width), 0), machine_gflops(used, width))
        rounds = call.rounds if n <= 4096 else min(call.rounds, 2)
        memory = only != pairs and not call.no_memory
        rows += measure(n, width, used, rounds, memory, only)
        rates[used, width] = max(rates[used, width], machine_gflops(used, width))
    if call.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    heads = ("N", 7), ("d", 5), ("threads", 8), ("seconds", 9), ("CPU s", 8), ("peak MB", 9), ("ratio", 7)
    print(f"{'method':32}" + "".join(f"{name:>{width}}" for name, width in (*heads, ("GFLOP/s", 9), ("of peak", 9))))
    for row in rows:
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        share = (row.gflops or 0) / rates[row.threads, row.d]
        print(
            f"{row.method:32}{row.n:7}{row.d:5}{row.threads:8}{row.seconds:9.3f}{row.cpu_seconds:8.3f}"
            f"{peak:>9}{ratio:>7}{row.gflops:9.1f}{share:9.0%}"
        )


if __name__ == "__main__":
    main()
