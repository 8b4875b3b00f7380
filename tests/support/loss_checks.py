"""What the tests of the losses share: rows, ways to walk, gradient checks, and several processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WALKS: list[dict[str, Any]] = [
    {"mode": "plain"},
    *({"mode": mode, "tile": tile} for mode, tile in itertools.product(("stored", "tiled"), (1, 3, 7, 64))),
]
"""Every mode and tile in which a loss with an N x N must give the same."""


def walk_id(walk: dict[str, Any]) -> str:
    return "-".join(map(str, walk.values()))


def rows(n: int, d: int, seed: int = 0, *, grad: bool = True, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return x.requires_grad_(grad)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def gradients(loss: Any, *inputs: Tensor, again: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(loss.sum(), inputs, allow_unused=True, retain_graph=again)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]


def assert_same(ours: Any, theirs: Any, *inputs: Tensor, tolerance: float = 1e-11) -> None:
    """Values and gradients; ``theirs`` may be compared again."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    mine = gradients(ours, *inputs)
    for i, (got, expected) in enumerate(zip(mine, gradients(theirs, *inputs, again=True), strict=True)):
        message = f"gradient of input {i}"
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, msg=lambda m, t=message: f"{t}: {m}")


def check_gradients(loss: Callable[..., Any], *inputs: Tensor, twice: bool = True) -> None:
    """First and second derivatives against differences."""
    assert torch.autograd.gradcheck(loss, inputs)
    if twice:
        assert torch.autograd.gradgradcheck(loss, inputs)
