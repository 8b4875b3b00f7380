"""Log-sum-exps over the pairs of all processes, of which no process ever holds more than two parts.

The candidates travel round the processes, one step at a time. Each process multiplies its rows with the part that is
there, and adds to the log-sum-exps of the columns that travel along; after a whole round the part is home again.
Backward sends it round once more, with its log-sum-exps, their gradients, and the gradient that it collects. As
``r = log sum_k exp r_k`` over parts k, each part's share of a row's gradient is ``exp(r_k - r)``: so a part needs
nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polycontrast import distributed as processes
from polycontrast.losses import tiles
from polycontrast.losses.block import Block, Sums, TileMask, unobserved
from polycontrast.losses.common import SECOND_DERIVATIVE


@dataclass
class _Shifted:
    """A mask over all candidates, seen from one part of them."""

    mask: TileMask
    first: int
    symmetric: bool = False

    @property
    def mutual(self) -> bool:
        return self.mask.mutual

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return self.mask.tile(rows, slice(columns.start + self.first, columns.stop + self.first))


@dataclass
class _Round:
    """What is asked, and whose part is here at each step."""

    counts: list[int]
    masks: Sequence[TileMask]
    columns: bool
    observe: bool
    how: dict[str, Any]

    def blocks(self, rows: Tensor) -> Iterator[tuple[Block | None, int]]:
        """The block of each step, None where it is empty; and how many candidates come next."""
        me, world = processes.rank(), len(self.counts)
        here = torch.arange(len(rows), device=rows.device)
        for step in range(world):
            home = (me - step) % world
            first, count = sum(self.counts[:home]), self.counts[home]
            block = Block(
                positive=here if home == me else torch.full_like(here, -1),
                masks=tuple(_Shifted(mask, first) for mask in self.masks),
                columns=self.columns,
                observe=self.observe,
            )
            yield block if len(rows) and count else None, self.counts[(home - 1) % world]


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, trip: _Round) -> tuple[Tensor, ...]:
        width = b.shape[1]
        r, positive = a.new_full((len(a),), -torch.inf), a.new_zeros(len(a))
        best, best_positive, total, number = (r.clone(), r.clone(), positive.clone(), positive.clone())
        parcel = torch.cat([b, b.new_full((len(b), 1), -torch.inf)], 1)
        for block, coming in trip.blocks(a):
            if block is not None:
                sums = tiles.evaluate(a, parcel[:, :width].contiguous(), scale, block, **trip.how)
                r = torch.logaddexp(r, sums.rows)
                positive += sums.positive
                if trip.columns:
                    parcel[:, width] = torch.logaddexp(parcel[:, width], sums.columns)
                if trip.observe:
                    best = torch.maximum(best, sums.best)
                    best_positive = torch.maximum(best_positive, sums.best_positive)
                    total, number = total + sums.total, number + sums.number
            parcel = processes.pass_on(parcel, coming)
        c = parcel[:, width].clone() if trip.columns else b.new_zeros(0)
        ctx.save_for_backward(a, b, scale, r, c)
        ctx.trip = trip
        seen = (best, best_positive, total, number) if trip.observe else unobserved(a)
        ctx.mark_non_differentiable(*seen)
        return r, c, positive, *seen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        a, b, scale, r, c = ctx.saved_tensors
        trip: _Round = ctx.trip
        gr, gc, gp = grads[:3]
        width = b.shape[1]
        da, dscale = torch.zeros_like(a), torch.zeros_like(scale)
        travels = [b, torch.zeros_like(b)]
        travels += [c.unsqueeze(1), gc.unsqueeze(1)] if trip.columns else []
        parcel = torch.cat(travels, 1)
        for block, coming in trip.blocks(a):
            if block is not None:
                leaves = [t.detach().requires_grad_() for t in (a, parcel[:, :width].contiguous(), scale)]
                with torch.enable_grad():
                    sums = tiles.evaluate(leaves[0], leaves[1], leaves[2], block, **trip.how)
                ends, shares = [sums.rows, sums.positive], [_share(sums.rows, r, gr), gp]
                if trip.columns:
                    ends.append(sums.columns)
                    shares.append(_share(sums.columns, parcel[:, -2], parcel[:, -1]))
                for_rows, for_candidates, for_scale = torch.autograd.grad(ends, leaves, shares)
                da += for_rows
                dscale += for_scale
                parcel[:, width : 2 * width] += for_candidates
            parcel = processes.pass_on(parcel, coming)
        return da, parcel[:, width : 2 * width].clone(), dscale, None


def _share(part: Tensor, whole: Tensor, grad: Tensor) -> Tensor:
    """Of the gradient of a log-sum-exp, what goes to one of its parts."""
    part = part.detach()
    return torch.where(part == -torch.inf, torch.zeros_like(grad), grad * (part - whole).exp())


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _evaluate(
    a: Tensor, b: Tensor, scale: Tensor, masks: Sequence[TileMask], *, columns: bool, observe: bool, how: dict[str, Any]
) -> Sums:
    """The vectors of the block between all rows and all candidates of all processes, for the rows of this one.

    Args:
        a: ``(n, d)`` rows of this process; row i of ``b`` is the positive of row i.
        b: ``(n, d)`` candidates of this process.
        scale: 0-d.
        masks: what is left out, between rows of this process and candidates of all.
        columns: also the log-sum-exps of this process's candidates over the rows of all.
        observe: also what diagnostics need.
        how: mode, tile and logits_dtype of :func:`tiles.evaluate`.
    """
    trip = _Round(processes.sizes(b), masks, columns, observe, how)
    return Sums(*_Ring.apply(a, b, scale, trip))  # type: ignore[no-untyped-call]


def paired(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    masks: Sequence[TileMask],
    *,
    two_sided: bool,
    observe: bool,
    how: dict[str, Any],
) -> tuple[list[Tensor], Sums]:
    """InfoNCE of each anchor, in one direction or both, and the vectors that diagnostics use. Arguments as above."""
    if two_sided and not all(mask.mutual for mask in masks):
        raise ValueError("backend='ring' takes filters that leave out both ways alike; Guide needs backend='gather'")
    sums = _evaluate(a, b, scale, masks, columns=two_sided, observe=observe, how=how)
    lines = [sums.rows, sums.columns] if two_sided else [sums.rows]
    return [line - sums.positive for line in lines], sums
