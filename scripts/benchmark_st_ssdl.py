#!/usr/bin/env python
"""What a training step of timeseries/st-ssdl costs, against a straightforward form of the same equations.

The reference below is what the paper's equations read like: a graph convolution that loops over supports and orders,
polynomials made anew in every call of a cell (or, "polynomials kept", once per forward), current and anchor window
encoded one after the other, the whole input through the graph at every step. Both have the same weights and give
the same forecasts, which is checked first. Forward, both terms, backward; in turn, best of several rounds.

    python scripts/benchmark_st_ssdl.py                       N = 207, hidden 128 and (16, 207, 32), one and two threads
    python scripts/benchmark_st_ssdl.py --sizes 16,883,64     others: batch, sensors, hidden
    python scripts/benchmark_st_ssdl.py --scale               2,000 sensors x 1 year from disk
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polycontrast_timeseries.st_ssdl import terms
from polycontrast_timeseries.st_ssdl.graph import Graph, static_mixer
from polycontrast_timeseries.st_ssdl.network import Encoded, GCRUCell, STSSDLNetwork

DEFAULT_SIZES = ["16,207,128", "16,207,32"]


class Reference:
    """The network, forward pass written out, over the weights of ours."""

    def __init__(self, network: STSSDLNetwork, support: Tensor, *, keep_polynomials: bool) -> None:
        self.network, self.support, self.keep = network, support, keep_polynomials
        self._kept: dict[int, list[Tensor]] = {}

    def polynomials(self, support: Tensor) -> list[Tensor]:
        """T_0, T_1, ... written out."""
        if self.keep and id(support) in self._kept:
            return self._kept[id(support)]
        eye = torch.eye(support.shape[-1], dtype=support.dtype)
        terms_ = [eye.expand_as(support), support]
        while len(terms_) < self.network.cheb_k:
            terms_.append(2 * support @ terms_[-1] - terms_[-2])
        self._kept[id(support)] = terms_
        return terms_

    def convolution(self, z: Tensor, supports: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """(B, N, C) to (B, N, outputs)."""
        parts = [term @ z for support in supports for term in self.polynomials(support)]
        return torch.cat(parts, -1) @ weight + bias

    def cell(self, cell: GCRUCell, x: Tensor, h: Tensor, supports: list[Tensor]) -> Tensor:
        """One step of the GRU."""
        gate = self.convolution(torch.cat([x, h], -1), supports, cell.gate.weight, cell.gate.bias)
        u, r = torch.sigmoid(gate).chunk(2, -1)
        new = torch.cat([x, u * h], -1)
        c = torch.tanh(self.convolution(new, supports, cell.candidate.weight, cell.candidate.bias))
        return r * h + (1 - r) * c

    def feature(self, value: Tensor, tod: Tensor) -> Tensor:
        """(B, N) and (B,) to (B, N, C)."""
        network, (batch, n) = self.network, value.shape
        slots = (tod * network.slots_per_day + 1e-3).long()
        return torch.cat(
            [
                network.input_projection(value.unsqueeze(-1)),
                network.tod_embedding[slots].unsqueeze(1).expand(-1, n, -1),
                network.node_embedding.expand(batch, -1, -1),
            ],
            -1,
        )

    def encode(self, window: Tensor, tod: Tensor) -> Tensor:
        """(B, T, N) to the last state (B, N, H)."""
        h = window.new_zeros(len(window), window.shape[2], self.network.hidden)
        for t in range(window.shape[1]):
            h = self.cell(self.network.encoder[0], self.feature(window[:, t], tod[:, t]), h, [self.support])
        return h

    def __call__(self, x: Tensor, anchor: Tensor, tod: Tensor, tod_out: Tensor) -> tuple[Tensor, Encoded]:
        """Forecasts and what was encoded."""
        self._kept.clear()
        network = self.network
        h = torch.stack([self.encode(x, tod), self.encode(anchor, tod)])
        encoded = Encoded(h, *network.prototypes(h))
        both = torch.cat([h, encoded.values], -1)
        embedding = network.hypernet(torch.cat([both[0], both[1]], -1))
        graph = torch.softmax(torch.relu(embedding @ embedding.transpose(1, 2)), -1)
        state, value, outputs = both[0], torch.zeros_like(x[:, 0]), []
        for t in range(tod_out.shape[1]):
            state = self.cell(network.decoder[0], self.feature(value, tod_out[:, t]), state, [graph])
            value = network.output(state).squeeze(-1)
            outputs.append(value)
        return torch.stack(outputs, 1), encoded


def case(batch: int, sensors: int, hidden: int, which: str, checkpoint: int | None) -> Callable[[], Tensor]:
    """A function that does one forward and backward pass and returns the forecasts."""
    torch.manual_seed(0)
    # those of METR-LA for its hidden width, else those of PEMS04
    value, node, tau = (3, 25, 20) if hidden == 128 else (32, 24, 40)
    network = STSSDLNetwork(
        sensors, hidden=hidden, value_dim=value, node_dim=node, tod_dim=tau, graph_dim=tau, checkpoint=checkpoint
    )
    # 4 % of the pairs are edges, as in METR-LA (1,722 of 42,849)
    near = torch.rand(sensors, sensors) * (torch.rand(sensors, sensors) < 0.02) + torch.eye(sensors)
    graph = Graph.of(((near + near.T) / 2).numpy())
    support = torch.from_numpy(graph.supports("sym")[0].toarray()).float()
    x, anchor, y = torch.randn(batch, 12, sensors), torch.randn(batch, 12, sensors), torch.randn(batch, 12, sensors)
    tod = torch.rand(batch, 12)
    mixer = static_mixer(graph, "sym", network.cheb_k, "auto", support)
    reference = Reference(network, support, keep_polynomials=which == "kept")

    def step() -> Tensor:
        network.zero_grad()
        out, encoded = network(x, anchor, tod, tod, mixer) if which == "ours" else reference(x, anchor, tod, tod)
        prototypes = network.prototypes.prototypes
        contrast = terms.contrast(encoded.queries[0].detach(), prototypes, encoded.indices[0])
        query_distance, prototype_distance = terms.distances(encoded, prototypes)
        deviation = terms.deviation(query_distance.detach(), prototype_distance)
        ((out - y).abs().mean() + 0.01 * contrast + deviation).backward()
        return out.detach()

    return step


WHICH = ("ours", "reference", "kept")


def compare(size: tuple[int, ...], threads: int, rounds: int, checkpoint: int | None) -> dict[str, Any]:
    """Seconds of a step of each, best of the rounds, which take turns."""
    torch.set_num_threads(threads)
    steps = {name: case(*size, name, checkpoint) for name in WHICH}
    outputs = {name: step() for name, step in steps.items()}  # warm-up, too
    for name in WHICH[1:]:
        torch.testing.assert_close(outputs[name], outputs["ours"], rtol=1e-3, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in WHICH}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    best = {name: min(found) for name, found in seconds.items()}
    return {
        "batch": size[0], "sensors": size[1], "hidden": size[2], "threads": threads,
        **{f"{name}_s": best[name] for name in WHICH},
        "ratio": best["ours"] / best["reference"], "ratio_kept": best["ours"] / best["kept"],
    }  # fmt: skip


def peak(size: tuple[int, ...], which: str, checkpoint: int | None) -> float:
    """Peak memory of one step in a process of its own, in GB, less that of the process before it."""
    command = [sys.executable, __file__, "--peak", which, "--sizes", ",".join(map(str, size))]
    command += ["--checkpoint", str(checkpoint)] if checkpoint else []
    # glibc keeps freed memory in pieces of up to 32 MB; this makes it give them back, so that use is what is measured
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def scale(sensors: int, rows: int, steps: int) -> dict[str, Any]:
    """Train on a generated panel that stays on disk; windows are gathered from the memory map."""
    from polycontrast.config import EngineConfig
    from polycontrast.engine import Engine, accelerator_for
    from polycontrast.runs import Run
    from polycontrast_timeseries.st_ssdl.config import PanelConfig, STSSDLConfig
    from polycontrast_timeseries.st_ssdl.method import STSSDL
    from polycontrast_timeseries.st_ssdl.panel import panel

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.npy"
        values = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, sensors))
        rng, day = np.random.default_rng(0), np.arange(288) / 288
        profile = (50 + 10 * np.sin(2 * np.pi * (day[:, None] + rng.random(sensors)))).astype(np.float32)
        for begin in range(0, rows, 288):
            part = values[begin : begin + 288]
            part[:] = profile[: len(part)] + 3 * rng.standard_normal(part.shape, dtype=np.float32)
        values.flush()
        del values, part
        i = np.arange(sensors)
        ends = np.concatenate([(i + k) % sensors for k in range(6)])
        graph = Graph.of_edges(sensors, np.tile(i, 6), ends, directed=False)
        data = panel(np.load(file, mmap_mode="r"), graph, PanelConfig(start="2024-01-01", step="5min"), name="scale")
        config = STSSDLConfig(
            hidden=16,
            prototype_dim=16,
            value_dim=8,
            node_dim=8,
            tod_dim=8,
            top_k=16,
            fill="anchor",
            checkpoint=4,
            engine=EngineConfig(batch_size=4, epochs=None, max_steps=steps, validate_epochs=None, watch=False),
        )
        began = time.perf_counter()
        method = STSSDL(config, STSSDL.inspect(config, data))
        method.examples(data, "train")
        prepared = time.perf_counter() - began
        known = {"method": STSSDL.id, "data": "x", "seed": 0, "config": {}}
        run = Run.create(Path(folder) / "run", config=known, environment={})
        marks: list[float] = []
        method.on_step_end = lambda stage, engine: marks.append(time.perf_counter())  # type: ignore[method-assign]
        Engine(method, data, run, accelerator_for("cpu", "no"), progress=False).run()
        state = sum(t.numel() * t.element_size() for t in method.state_dict().values())
        return {
            "sensors": sensors, "rows": rows, "panel_gb": rows * sensors * 4 / 1e9, "batch": 4,
            "scan_and_anchors_s": prepared, "state_gb": state / 1e9,
            "steps_per_s": (len(marks) - 1) / (marks[-1] - marks[0]), "anonymous_gb": _anonymous() / 1e9,
            "peak_rss_gb": _peak() / 1e9,
        }  # fmt: skip


def _peak() -> float:
    return _status("VmHWM")  # unlike ru_maxrss, not inherited from a larger process that started this one


def _anonymous() -> float:
    """Memory that is not a file's: pages of the memory map are the system's to take back."""
    return _status("RssAnon")


def _status(name: str) -> float:
    """Bytes that Linux reports of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) * 1024.0
    return float("nan")


def main() -> None:
    """Print a row per size and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", help="batch,sensors,hidden", default=DEFAULT_SIZES)
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turn (default: 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--checkpoint", type=int, help="ours forgets activations after so many steps (less memory)")
    parser.add_argument("--scale", action="store_true", help="train on 2,000 sensors x 1 year instead")
    parser.add_argument("--scale-sensors", type=int, default=2000)
    parser.add_argument("--scale-rows", type=int, default=105_120)
    parser.add_argument("--scale-steps", type=int, default=8)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--peak", choices=WHICH, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    args = parser.parse_args()
    if args.scale:
        row = scale(args.scale_sensors, args.scale_rows, args.scale_steps)
        print(json.dumps(row) if args.json else ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
        return
    sizes = [tuple(int(n) for n in size.split(",")) for size in args.sizes]
    if args.peak:
        torch.set_num_threads(1)
        step = case(*sizes[0], args.peak, args.checkpoint)
        before = _peak()
        step()
        print((_peak() - before) / 1e9)
        return
    for size in sizes:
        memory = {} if args.no_memory else {f"{name}_gb": peak(size, name, args.checkpoint) for name in WHICH}
        for threads in args.threads:
            row = compare(size, threads, args.rounds, args.checkpoint) | memory
            if args.json:
                print(json.dumps(row), flush=True)
                continue
            print(
                f"(B, N, H) = {size}, {threads} thread{'s' * (threads > 1)}: ours {row['ours_s']:.2f} s, reference "
                f"{row['reference_s']:.2f} s (ratio {row['ratio']:.2f}), polynomials kept {row['kept_s']:.2f} s (ratio "
                f"{row['ratio_kept']:.2f})"
                + "".join(f", {name} {row[f'{name}_gb']:.2f} GB" for name in WHICH if f"{name}_gb" in row),
                flush=True,
            )


if __name__ == "__main__":
    main()
