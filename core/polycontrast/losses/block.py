"""A block of logits: rows against candidates, what is left out, and the form that writes down the whole matrix.

Every loss with an N x N matrix is made of a few vectors of such a block: the log-sum-exp of each row and of each
column, and the logit of each row's positive. :func:`polycontrast.losses.tiles.evaluate` computes them without ever
holding the matrix; :func:`plain` here is the same thing in ordinary operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class TileMask(Protocol):
    """Which logits are left out; never that of a row's positive."""

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns are the same items and leaving out (i, j) means leaving out (j, i)."""
        ...

    @property
    def mutual(self) -> bool:
        """Whether row i leaves out column j exactly when column j, as an anchor, leaves out row i."""
        ...

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Bool, ``(rows, columns)`` of the tile, True = left out."""
        ...


@dataclass(frozen=True)
class Block:
    """What is asked of the logits ``S_ij = scale <a_i, b_j>``.

    Attributes:
        positive: ``(n,)`` candidate that is each row's positive; -1 for none (its logit counts as 0).
        dropped: further ``(n,)`` index vectors; these logits are left out of all sums, e.g. the row itself.
        masks: logits that are left out, tile by tile.
        log_weights: ``(m,)`` or ``(n, m)`` constants added to the scaled logits.
        hardness: ``hardness stopgrad(<a_i, b_j>)`` is added to all logits but the positive's and those of ``own``.
        own: ``(n,)`` index vectors, e.g. of each row's own hard negatives.
        only_own: the hardness is added to those of ``own`` alone.
        similar: logits that diagnostics count as positives, beside that of ``positive``.
        same: the candidates are the rows themselves and everything left out is symmetric, so that half of the tiles do.
        columns: also the log-sum-exp of each column.
        observe: also what diagnostics need.
        half: rows and candidates are rounded to this before the product; sums and softmax stay in float32.
        even: all rows' log-sum-exps will get one and the same gradient (a mean without weights), so that it may be
            taken in the forward pass. A promise that makes it faster; when it is broken, slower, not wrong.
    """

    positive: Tensor | None = None
    dropped: tuple[Tensor, ...] = ()
    masks: tuple[TileMask, ...] = ()
    log_weights: Tensor | None = None
    hardness: float = 0.0
    own: tuple[Tensor, ...] = ()
    only_own: bool = False
    similar: TileMask | None = None
    same: bool = False
    columns: bool = False
    observe: bool = False
    half: torch.dtype | None = None
    even: bool = False


class Sums(NamedTuple):
    """Vectors of a block, differentiable, and the detached ones that diagnostics use (empty unless observed)."""

    rows: Tensor
    """``(n,)`` log-sum-exp over the candidates; -inf where none is left."""
    columns: Tensor
    """``(m,)`` log-sum-exp over the rows; empty unless asked for."""
    positive: Tensor
    """``(n,)`` logit of the positive; 0 where there is none."""
    best: Tensor
    """``(n,)`` greatest logit beside the positives."""
    best_positive: Tensor
    """``(n,)`` greatest logit of a positive."""
    total: Tensor
    """``(n,)`` sum of the logits beside the positives that were not left out."""
    number: Tensor
    """``(n,)`` how many these are."""


@dataclass(frozen=True)
class Softplus:
    """``sum_j softplus(sign S_ij + bias_i)`` instead of a log-sum-exp: pairs that are judged one by one."""

    sign: float = 1.0


def unobserved(like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :class:`Sums` holds when nobody looks."""
    empty = like.new_zeros(0)
    return empty, empty, empty, empty


def diagnostics(
    sums: Sums, scale: Tensor, *, positive: Tensor | None = None, used: Tensor | None = None
) -> dict[str, Tensor]:
    """Accuracy, mean similarity of positives and of negatives, and the number of anchors.

    Args:
        sums: of a block that was observed.
        scale: 0-d.
        positive: ``(n,)`` mean logit of the positives of each row, where a row has several.
        used: bool, rows that count.
    """
    own = sums.positive.detach() if positive is None else positive.detach()
    used = torch.ones_like(own, dtype=torch.bool) if used is None else used
    n = used.sum().clamp_min(1)
    hits = (sums.best_positive > sums.best) & used
    return {
        "accuracy": hits.sum() / n,
        "positive_similarity": torch.where(used, own, torch.zeros_like(own)).sum() / n / scale.detach(),
        "negative_similarity": sums.total.sum() / sums.number.sum().clamp_min(1) / scale.detach(),
        "n_anchors": used.sum(),
    }


def _at(index: Tensor, m: int) -> Tensor:
    return index.unsqueeze(1) == torch.arange(m, device=index.device)


def left_out(block: Block, n: int, m: int) -> Tensor | None:
    """The whole mask of a block, or None when nothing is left out."""
    mask: Tensor | None = None
    for extra in block.masks:
        part = extra.tile(slice(0, n), slice(0, m))
        mask = part if mask is None else mask | part
    if mask is not None and block.positive is not None:
        mask = mask & ~_at(block.positive, m)
    for index in block.dropped:
        part = _at(index, m)
        mask = part if mask is None else mask | part
    return mask


def plain_logits(a: Tensor, b: Tensor, scale: Tensor, block: Block) -> tuple[Tensor, Tensor | None]:
    """All logits before anything is left out, and the mask of what is."""
    if block.half is not None:  # rounding passes the gradient as if it were not there
        a, b = (x + (x.to(block.half).to(x.dtype) - x).detach() for x in (a, b))
    cosines = a @ b.T
    logits = cosines * scale
    n, m = logits.shape
    if block.hardness:
        extra = block.hardness * cosines.detach()
        own = torch.zeros_like(extra, dtype=torch.bool)
        for index in block.own:
            own = own | _at(index, m)
        if block.only_own:
            extra = extra * own
        else:
            extra = extra.masked_fill(own if block.positive is None else own | _at(block.positive, m), 0.0)
        logits = logits + extra
    return logits, left_out(block, n, m)


def take_positive(logits: Tensor, positive: Tensor | None) -> Tensor:
    """Logit of each row's positive, 0 for none."""
    if positive is None or logits.shape[1] == 0:
        return logits.new_zeros(logits.shape[0])
    value = logits.gather(1, positive.clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.where(positive >= 0, value, torch.zeros_like(value))


def logsumexp(logits: Tensor, dim: int) -> Tensor:
    """Log-sum-exp that gives -inf with zero gradient, not NaN, where nothing is left."""
    if logits.shape[dim] == 0:
        return logits.sum(dim) - torch.inf
    top = logits.detach().amax(dim, keepdim=True)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    total = (logits - top).exp().sum(dim)
    empty = total == 0
    return torch.where(empty, -torch.inf, torch.where(empty, torch.ones_like(total), total).log() + top.squeeze(dim))


def _observe(logits: Tensor, mask: Tensor | None, block: Block) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, m = logits.shape
    logits = logits.detach()
    if not block.observe or not m:
        low = logits.new_full((n,), -torch.inf)
        return (low, low, logits.new_zeros(n), logits.new_zeros(n)) if block.observe else unobserved(logits)
    similar = torch.zeros_like(logits, dtype=torch.bool)
    if block.similar is not None:
        similar = similar | block.similar.tile(slice(0, n), slice(0, m))
        for index in block.dropped:
            similar = similar & ~_at(index, m)
    if block.positive is not None:
        similar = similar | _at(block.positive, m)
    out = similar if mask is None else similar | mask
    others = logits.masked_fill(out, -torch.inf)
    positives = logits.masked_fill(~similar, -torch.inf)
    return others.amax(1), positives.amax(1), logits.masked_fill(out, 0.0).sum(1), (~out).sum(1).to(logits.dtype)


def plain(a: Tensor, b: Tensor, scale: Tensor, block: Block) -> Sums:
    """The vectors of a block in ordinary operations, with the whole matrix in memory; differentiable twice."""
    logits, mask = plain_logits(a, b, scale, block)
    positive = take_positive(logits, block.positive)
    seen = _observe(logits, mask, block)
    if block.log_weights is not None:
        logits = logits + block.log_weights
    if mask is not None:
        logits = logits.masked_fill(mask, -torch.inf)
    columns = logsumexp(logits, 0) if block.columns else logits.new_zeros(0)
    return Sums(logsumexp(logits, 1), columns, positive, *seen)


def plain_softplus(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, form: Softplus, block: Block) -> Sums:
    """``sum_j softplus(sign S_ij + bias_i)`` per row in ordinary operations."""
    logits, mask = plain_logits(a, b, scale, block)
    positive = take_positive(logits, block.positive)
    values = F.softplus(form.sign * logits + bias.unsqueeze(1))
    if mask is not None:
        values = values.masked_fill(mask, 0.0)
    return Sums(values.sum(1), logits.new_zeros(0), positive, *_observe(logits, mask, block))
