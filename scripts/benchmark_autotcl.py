#!/usr/bin/env python
"""What timeseries/autotcl costs beside a straightforward implementation of the same equations, in one process, in turn.

The reference writes down what the paper says: eight causal convolutions whose results are averaged, all taps of every
dilated convolution, a series and its view encoded one after the other, and every window encoded as a whole to keep its
last step. Both share weights, optimisers and draws, and the results are compared.

    python scripts/benchmark_autotcl.py                 small: hidden 32, out_dim 64
    python scripts/benchmark_autotcl.py --size paper    hidden 64, out_dim 320 (minutes)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycontrast_timeseries.autotcl.augmentation import gate, over_budget
from polycontrast_timeseries.autotcl.config import AutoTCLConfig
from polycontrast_timeseries.autotcl.encoder import CoSTEncoder, last_step
from polycontrast_timeseries.autotcl.method import AutoTCL

SIZES = {
    # rows of a batch, steps, windows to represent
    "small": {"hidden": 32, "out_dim": 64, "aug_hidden": 32, "batch": 16, "windows": 64},
    "paper": {"hidden": 64, "out_dim": 320, "aug_hidden": 64, "batch": 32, "windows": 16},
}


class Straightforward(nn.Module):
    """The encoder as it is written down, with the weights of ours."""

    def __init__(self, ours: CoSTEncoder) -> None:
        super().__init__()
        self.input, self.blocks = ours.input, ours.blocks
        assert ours.head is not None
        self.convolutions = nn.ModuleList()
        for weight, bias in zip(ours.head.weights, ours.head.biases, strict=True):
            k, width, _ = weight.shape
            convolution = nn.Conv1d(width, width, k, padding=k - 1)
            convolution.weight = nn.Parameter(weight.detach().permute(2, 1, 0).contiguous())
            convolution.bias = nn.Parameter(bias.detach().clone())
            self.convolutions.append(convolution)

    def trunk(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, O, T)."""
        x = self.input(x).transpose(1, 2)
        for block in self.blocks:
            x = block.conv2(F.gelu(block.conv1(F.gelu(x)))) + block.project(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, O)."""
        z, length = self.trunk(x), x.shape[1]
        return torch.stack([c(z)[..., :length] for c in self.convolutions]).mean(0).transpose(1, 2)


class Minimiser:
    """What a step asks of the engine, and nothing else."""

    def __init__(self, method: AutoTCL) -> None:
        self.stage_step = 0
        self.method = method
        self.groups = {"main": list(method.encoder.parameters()), "augmenter": list(method.augmenter.parameters())}
        self.optimisers = {name: torch.optim.AdamW(g, lr=1e-5, fused=True) for name, g in self.groups.items()}

    def minimise(self, terms: dict[str, Tensor], optimiser: str = "main") -> None:
        """Weigh, sum, differentiate, step."""
        torch.stack([self.method.weight(name) * value for name, value in terms.items()]).sum().backward(
            inputs=self.groups[optimiser]
        )
        self.optimisers[optimiser].step()
        self.optimisers[optimiser].zero_grad()

    def log(self, values: dict[str, Tensor]) -> None:
        """Nobody reads it."""


def reference_step(method: AutoTCL, encoder: Straightforward, optimisers: dict, x: Tensor, groups: dict) -> None:
    """One step of the paper's algorithm, a line per equation."""
    c, augmenter = method.config, method.augmenter
    factors = augmenter(x)
    view = factors.scale * gate(factors.logit, torch.rand_like(x), bias=c.gumbel_bias, gamma=-c.stretch) * x
    with torch.no_grad():
        whole = encoder.trunk(x).amax(2)
    both = torch.cat([whole, encoder.trunk(view).amax(2)])
    square = torch.cdist(both, both).square()
    n = len(both)
    base = (square.sum() / (n * n - n)).detach() / 4
    kernel = torch.stack([torch.exp(-square / (base * 2**i)) for i in range(5)]).sum(0)
    b = len(x)
    mmd = (kernel[:b, :b] + kernel[b:, b:] - 2 * kernel[:b, b:]).mean()
    (mmd + c.beta_mask * over_budget(factors.keep, c.mask_budget)).backward(inputs=groups["augmenter"])
    optimisers["augmenter"].step()
    optimisers["augmenter"].zero_grad()

    with torch.no_grad():
        factors = augmenter(x)
        view = factors.scale * gate(factors.logit, torch.rand_like(x), bias=c.gumbel_bias, gamma=-c.stretch) * x
    z, of_view = encoder(x), encoder(view)
    u, v = F.normalize(z.amax(1), dim=1), F.normalize(of_view.amax(1), dim=1)
    loss = F.cross_entropy(u @ v.T, torch.arange(b))
    k, size = c.segments, x.shape[1] // c.segments
    s = F.normalize(z, dim=2)[:, : k * size].unflatten(1, (k, size)).amax(2)
    scores = s @ s.transpose(1, 2)
    at = torch.arange(k)
    near = (at.unsqueeze(1) - at).abs() <= 1
    near[0, 2] = near[-1, -3] = True
    positive = torch.cat([at[1:], at[-2:-1]])
    candidates = ~near
    candidates[at, positive] = True
    local = F.cross_entropy(
        scores.masked_fill(~candidates, -torch.inf).flatten(0, 1), positive.repeat(b)
    )  # fmt: skip
    (loss + c.alpha_local * local).backward(inputs=groups["main"])
    optimisers["main"].step()
    optimisers["main"].zero_grad()


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Print a row for the training step and one for the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=5, help="times that both are measured, in turn (default: 5)")
    parser.add_argument("--steps", type=int, default=257, help="length of a training series (default: 257)")
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[args.size]
    config = AutoTCLConfig(
        hidden=size["hidden"], out_dim=size["out_dim"], aug_hidden=size["aug_hidden"], averaging="none"
    )
    method = AutoTCL(config, {"channels": [f"c{i}" for i in range(8)]}).train()
    reference = Straightforward(method.new_encoder())
    engine = Minimiser(method)
    groups = {"main": list(reference.parameters()), "augmenter": engine.groups["augmenter"]}
    optimisers = {name: torch.optim.AdamW(g, lr=1e-5, fused=True) for name, g in groups.items()}
    x = torch.randn(size["batch"], args.steps, 8)
    batch = {"x": x, "draw": torch.arange(len(x))}
    windows = torch.randn(size["windows"], 201, 8)

    with torch.no_grad():  # before any step they are the same network
        whole = reference(windows)[:, -1]
        difference = float((last_step(method.encoder, windows) - whole).abs().max())
    if difference > 1e-5:
        raise SystemExit(f"the two disagree by {difference}")

    def evaluate_all(encoder: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            return encoder(windows)

    works = {
        "training step": (
            lambda: method.step(batch, engine),  # type: ignore[arg-type]
            lambda: reference_step(method, reference, optimisers, x, groups),
        ),
        "evaluation": (
            lambda: evaluate_all(lambda w: last_step(method.encoder, w)),
            lambda: evaluate_all(lambda w: reference(w)[:, -1]),
        ),
    }
    for name, (ours, theirs) in works.items():
        ours()
        theirs()
        rows = [(seconds(ours), seconds(theirs)) for _ in range(args.rounds)]
        best, straight = (min(column) for column in zip(*rows, strict=True))
        row = {
            "what": name, "size": args.size, "threads": 1, "ms": 1e3 * best, "straightforward_ms": 1e3 * straight,
            "times_faster": straight / best, "difference": difference,
        }  # fmt: skip
        if args.json:
            print(json.dumps(row))
        else:
            print(
                f"{name}, {args.size}: {row['ms']:.0f} ms, straightforward {row['straightforward_ms']:.0f} ms, "
                f"{row['times_faster']:.1f} times as fast; last steps differ by {difference:.1e}"
            )


if __name__ == "__main__":
    main()
