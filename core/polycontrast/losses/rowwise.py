"""Rows in blocks, for the losses that need whole rows of the N x N matrix rather than tiles of a softmax.

A block is computed, reduced to one number per row, and computed again in backward (``tiled``), so that memory is that
of one block. Plain automatic differentiation does the rest: second derivatives work in every mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from polycontrast import distributed as processes
from polycontrast.losses.common import Distributed, Mode, Peers, Tile, check_choice

_PLAIN = 512 * 512
_STORED_BYTES = 64 * 2**20
_BLOCK = 512 * 2048
_EQUAL = 1e-13  # squared distances of float32 rows below this share of their squared lengths are rounding
_TEMPORARIES = 6  # arrays of the size of the matrix that such a loss keeps for backward


class Plan(NamedTuple):
    """How a matrix is walked through."""

    rows: int
    columns: int
    recompute: bool

    def call(self, function: Callable[..., Any], *tensors: Any) -> Any:
        """``function(*tensors)``, whose inside is forgotten and computed again in backward if so planned."""
        if not self.recompute or not torch.is_grad_enabled():
            return function(*tensors)
        return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def plan(rows: int, columns: int, like: Tensor, mode: Mode, tile: Tile, *, whole_rows: bool = True) -> Plan:
    """Sizes of blocks and whether they are computed again in backward.

    ``auto`` is ``plain`` (one block) up to 512 x 512, ``stored`` while autograd keeps less than 64 MB, else ``tiled``.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        like: for the size of an entry.
        mode: ``auto``, ``plain``, ``stored`` or ``tiled``.
        tile: rows of a block, or rows and columns. Default about a million entries.
        whole_rows: blocks have all columns, whatever ``tile`` says.
    """
    check_choice("mode", mode, ("auto", "plain", "stored", "tiled"))
    if tile is not None and min(tile if isinstance(tile, tuple) else (tile,)) < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")
    if mode == "auto":
        kept = rows * columns * like.element_size() * _TEMPORARIES
        mode = "plain" if rows * columns <= _PLAIN and tile is None else "stored" if kept <= _STORED_BYTES else "tiled"
    if mode == "plain":
        return Plan(max(rows, 1), max(columns, 1), False)
    if tile is None:
        wide = max(columns, 1) if whole_rows else 2048
        tall = max(_BLOCK // wide, 1)
    else:
        tall, wide = (tile, tile) if isinstance(tile, int) else tile
        wide = max(columns, 1) if whole_rows else wide
    return Plan(tall, wide, mode == "tiled")


def pieces(size: int, *tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The tensors' rows, ``size`` at a time, with the number of the first. One split: backward joins them once."""
    start = 0
    for parts in zip(*(torch.split(t, size) for t in tensors), strict=True):
        yield start, parts
        start += len(parts[0])


class Everyone(NamedTuple):
    """Rows of all processes, and where this process's begin."""

    rows: Tensor
    offset: int


def everyone(x: Tensor, distributed: Distributed) -> Everyone:
    """Rows of all processes, with gradients (which are summed over processes)."""
    peers = Peers(distributed)
    return Everyone(peers.rows(x), peers.offset(x))


def everyones(x: Tensor, distributed: Distributed) -> Tensor:
    """The same for labels and ids: without gradients."""
    return Peers(distributed).facts(x)


def count_rows_everywhere(x: Tensor, distributed: Distributed) -> int:
    """Rows of all processes."""
    peers = Peers(distributed)
    return len(x) if peers.size == 1 else int(peers.sum(torch.tensor(len(x), device=x.device)))


def total(x: Tensor, distributed: Distributed) -> Tensor:
    """The sum over processes, with gradients: every process returns the same, and its averaged gradient is exact."""
    return processes.sum_with_gradient(x) if Peers(distributed).size > 1 else x


class _Distances(torch.autograd.Function):
    """Near rows must not lose their digits to ``|x|^2 + |y|^2 - 2 x y``, in value and gradient.

    float32 on a CPU goes through float64 products, ten times as fast as differences; the rest takes differences.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        if x.dtype == torch.float32 and x.device.type == "cpu":
            a, b = x.double(), y.double()
            squares = (a * a).sum(1, keepdim=True), (b * b).sum(1)
            square = torch.addmm(squares[1], a, b.T, alpha=-2.0).add_(squares[0])
            square.masked_fill_(square < (squares[0] + squares[1]).mul_(_EQUAL), 0.0)
            distance = square.sqrt_().to(x.dtype)
        else:
            distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(x, y, distance)
        return distance

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, distance = ctx.saved_tensors
        apart = distance > 0
        weight = torch.where(apart, grad / torch.where(apart, distance, torch.ones_like(distance)), 0.0)
        weight = torch.where(distance.isnan(), distance, weight).double()  # a NaN distance stays one
        a, b = x.double(), y.double()
        for_x = weight.sum(1, keepdim=True) * a - weight @ b if ctx.needs_input_grad[0] else None
        for_y = weight.sum(0).unsqueeze(1) * b - weight.T @ a if ctx.needs_input_grad[1] else None
        return None if for_x is None else for_x.to(x.dtype), None if for_y is None else for_y.to(y.dtype)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances of all rows of ``x`` to all of ``y``, ``(N, M)``, with zero gradient at distance zero."""
    return _Distances.apply(x, y)  # type: ignore[no-any-return, no-untyped-call]


def nothing(*tensors: Tensor) -> Tensor:
    """A zero that backward reaches all tensors through, for a batch that has no term."""
    return torch.stack([t.sum() * 0.0 for t in tensors]).sum()


def lengths(x: Tensor) -> Tensor:
    """Euclidean length of every row, with zero gradient at the zero row."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return length


def nearest(x: Tensor, bank: Tensor, *, tile: int = 8192) -> Tensor:
    """Index of the row of ``bank`` with the largest product with each row of ``x``; of equals, the first.

    Raises:
        ValueError: the bank is empty.
    """
    if not len(bank):
        raise ValueError("nearest: the bank has no rows yet; fill the queue before the first step")
    best = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with torch.no_grad():
        for start, (part,) in pieces(tile, bank):
            value, at = (x @ part.to(x).T).max(dim=1)
            better = value > best
            best = torch.where(better, value, best)
            index = torch.where(better, at + start, index)
    return index
