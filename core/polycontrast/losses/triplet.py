"""Triplets from labels: every way to choose them, without ever holding N x N x N numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from polycontrast.losses.common import (
    Distributed,
    Loss,
    LossConfig,
    LossOutput,
    Mode,
    Peers,
    Reduction,
    Tile,
    check_choice,
    check_finite_rows,
    check_rows,
    check_vector,
    finish,
    full_precision,
    unit_rows,
)
from polycontrast.losses.rowwise import Plan, distances, everyone, everyones, lengths, pieces, plan, total

Miner = Literal["all", "hard", "semihard", "easy", "easy_positive", "distance_weighted"]
Distance = Literal["euclidean", "squared", "cosine"]
TripletReduction = Literal["mean_nonzero", "mean", "sum", "none"]
Triplets = tuple[Tensor, Tensor, Tensor]

_CHUNK = 65536
_NEAREST, _FARTHEST = 0.5, 1.4  # of distance-weighted sampling: cut-off of the weights, and of the negatives


@full_precision
def triplet(
    x: Tensor,
    y: Tensor | None = None,
    *,
    labels: Tensor | None = None,
    margin: float | None = 0.2,
    miner: Miner = "semihard",
    triplets: Triplets | None = None,
    miner_margin: float | None = None,
    distance: Distance = "euclidean",
    swap: bool = False,
    weights: Tensor | None = None,
    normalize: bool = True,
    reduction: TripletReduction = "mean_nonzero",
    generator: torch.Generator | None = None,
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``[m + D_ap - D_an]_+`` over triplets of an anchor, a row of its label and a row of another.

    Miners, with ``gap = D_an - D_ap``: ``all``; ``semihard``: ``0 < gap <= miner_margin``; ``easy``: ``gap >
    miner_margin``; ``hard``: one triplet per anchor, its farthest positive and nearest negative; ``easy_positive``:
    nearest positive and nearest negative; ``distance_weighted``: for each positive pair a negative drawn with the
    inverse density of distances on the sphere (Wu et al., 2017). ``all``, ``semihard`` and ``easy`` cost O(N^2 log N).

    Args:
        x: rows, ``(N, d)``.
        y: a second view of the same samples, ``(N, d)``: 2N rows, the labels twice.
        labels: ``(N,)`` integers; -100 is no one's positive. Default: the two views of a sample belong together.
        margin: ``m``; None is the soft margin ``log(1 + exp(D_ap - D_an))``.
        miner: see above.
        triplets: anchors, positives and negatives to use instead of a miner; indices of this process's rows.
        miner_margin: default ``margin``.
        distance: ``euclidean``, its square, or ``cosine`` (one minus it).
        swap: use the smaller of ``D_an`` and ``D_pn``.
        weights: per anchor.
        normalize: rows of unit length.
        reduction: ``mean_nonzero`` over the triplets with a loss, 0 if there are none; ``mean`` over those mined;
            ``sum``; ``none``: the sum of each anchor.
        generator: of ``distance_weighted``.
        return_dict: with diagnostics; similarity is minus the distance.
        check_finite: raise at NaN or infinity in the rows.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows of a block.
        distributed: rows of all processes are positives and negatives.
    """
    check_rows("x", x)
    check_choice("reduction", reduction, ("mean_nonzero", "mean", "sum", "none"))
    check_choice("miner", miner, ("all", "hard", "semihard", "easy", "easy_positive", "distance_weighted"))
    check_choice("distance", distance, ("euclidean", "squared", "cosine"))
    if labels is None and (y is None or Peers(distributed).size > 1):
        if y is None and triplets is None:
            raise ValueError("triplet needs labels=..., or a second view y of the same samples")
        labels = everyone(x.new_zeros(len(x), 1), distributed).offset + torch.arange(len(x), device=x.device)
    if labels is None:
        labels = torch.arange(len(x), device=x.device)
    check_vector("labels", labels, len(x))
    if y is not None:
        check_rows("y", y, width=x.shape[1], rows=x.shape[0])
        labels = torch.cat([labels, labels])
    if weights is not None:
        check_vector("weights", weights, len(labels))
    if check_finite:
        check_finite_rows(x=x, y=y)
    rows = (x,) if y is None else (x, y)
    u = torch.cat([unit_rows(z, normalize, differentiable_twice=True) for z in rows])
    everywhere, offset = everyone(u, distributed)
    batch = _Batch(
        u, everywhere, labels, everyones(labels, distributed), offset, distance,
        margin, (margin or 0.0) if miner_margin is None else miner_margin, swap,
        plan(len(u), len(everywhere), u, mode, tile), return_dict,
    )  # fmt: skip

    if triplets is not None:
        a, p, n = triplets
        found = _of_triplets(batch, (a, p + offset, n + offset), u.new_zeros(6))
    elif miner in ("hard", "easy_positive", "distance_weighted"):
        found = _of_triplets(batch, *_mine(batch, miner, generator))
    else:
        found = _of_ranges(batch, miner)
    loss = _reduce(found, reduction, weights, distributed)
    if not return_dict:
        return loss
    return finish(loss, True, rows=rows, diagnostics=_facts(found))


def mine(
    x: Tensor,
    labels: Tensor,
    *,
    miner: Miner = "semihard",
    margin: float = 0.2,
    distance: Distance = "euclidean",
    normalize: bool = True,
    generator: torch.Generator | None = None,
    tile: Tile = None,
) -> Triplets:
    """Indices of the anchors, positives and negatives that a miner of :func:`triplet` takes, in ascending order.

    For looking at them, and as ``triplets=`` of another loss. ``all``, ``semihard`` and ``easy`` may be N^3 many.
    """
    u = unit_rows(x.detach(), normalize)
    walk = plan(len(u), len(u), u, "stored", tile)
    batch = _Batch(u, u, labels, labels, 0, distance, margin, margin, False, walk, False)
    if miner in ("hard", "easy_positive", "distance_weighted"):
        return _mine(batch, miner, generator)[0]
    taken = []
    for start, (part, _) in pieces(walk.rows, u, labels):
        apart = batch.distances(part, u)
        positive, negative = batch.pairs(start, len(part))
        for i in range(len(part)):
            p, n = positive[i].nonzero().squeeze(1), negative[i].nonzero().squeeze(1)
            gap = apart[i, n] - apart[i, p].unsqueeze(1)
            low = {"all": -math.inf, "semihard": 0.0, "easy": margin}[miner]
            at = ((gap > low) & (gap <= (margin if miner == "semihard" else math.inf))).nonzero()
            taken.append(torch.stack([torch.full_like(at[:, 0], start + i), p[at[:, 0]], n[at[:, 1]]]))
    a, p, n = torch.cat(taken, 1) if taken else labels.new_zeros(3, 0)
    return a, p, n


class _Batch(NamedTuple):
    u: Tensor
    everywhere: Tensor
    labels: Tensor
    all_labels: Tensor
    offset: int
    distance: Distance
    margin: float | None
    miner_margin: float
    swap: bool
    walk: Plan
    observe: bool

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        """Of all rows of ``x`` to all of ``y``."""
        if self.distance == "cosine":
            return 1.0 - x @ y.T
        apart = distances(x, y)
        return apart if self.distance == "euclidean" else apart.square()

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Of each row of ``x`` to the same row of ``y``."""
        if self.distance == "cosine":
            return 1.0 - (x * y).sum(1)
        return lengths(x - y) if self.distance == "euclidean" else (x - y).square().sum(1)

    def pairs(self, start: int, rows: int) -> tuple[Tensor, Tensor]:
        """Which columns are positives and negatives of a block of rows."""
        mine = self.labels[start : start + rows].unsqueeze(1)
        same = (mine == self.all_labels) & (mine != -100)
        place = torch.arange(start, start + rows, device=mine.device).unsqueeze(1) + self.offset
        self_ = place == torch.arange(len(self.all_labels), device=mine.device)
        return same & ~self_, ~same & ~self_

    def facts(self, apart: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Anchors with a positive, those whose nearest row is one; number and sum of positive, negative distances."""
        if not self.observe or not len(apart):
            return apart.new_zeros(6)
        apart = apart.detach()
        near, far = (apart.masked_fill(~mask, torch.inf).amin(1) for mask in (positive, negative))
        sums = [fact for mask in (positive, negative) for fact in (mask.sum(), torch.where(mask, apart, 0.0).sum())]
        return torch.stack([fact.to(apart) for fact in (positive.any(1).sum(), (near < far).sum(), *sums)])

    def hinge(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of triplets."""
        return F.softplus(positive - negative) if self.margin is None else (self.margin + positive - negative).relu()


class _Found(NamedTuple):
    """By anchor: sum of losses, number of triplets, number of those with a loss."""

    value: Tensor
    mined: Tensor
    nonzero: Tensor
    facts: Tensor
    """See :meth:`_Batch.facts`; zeros where triplets were given."""


# ---- triplets that are written down ------------------------------------------------------------------------------


def _of_triplets(batch: _Batch, triplets: Triplets, facts: Tensor) -> _Found:
    values = [batch.u.new_zeros(0)]
    for _, (a, p, n) in pieces(_CHUNK, *triplets):
        values.append(batch.walk.call(_hinges, batch, batch.u, batch.everywhere, a, p, n))
    value = torch.cat(values)
    # the sum of all rows times nothing: backward passes through the gathering also where nothing was mined
    none = batch.u.sum(1) * 0 + batch.everywhere.sum() * 0
    anchors = triplets[0]
    mined = torch.zeros_like(none).index_add_(0, anchors, torch.ones_like(value))
    active = torch.zeros_like(none).index_add_(0, anchors, (value > 0).to(value.dtype))
    return _Found(none.index_add(0, anchors, value), mined, active, facts)


def _hinges(batch: _Batch, u: Tensor, everywhere: Tensor, a: Tensor, p: Tensor, n: Tensor) -> Tensor:
    anchor, positive, negative = u[a], everywhere[p], everywhere[n]
    far = batch.between(anchor, negative)
    if batch.swap:
        far = torch.minimum(far, batch.between(positive, negative))
    return batch.hinge(batch.between(anchor, positive), far)


@torch.no_grad()
def _mine(batch: _Batch, miner: Miner, generator: torch.Generator | None) -> tuple[Triplets, Tensor]:
    found: list[Tensor] = []
    facts = batch.u.new_zeros(6)
    for start, (part, _) in pieces(batch.walk.rows, batch.u, batch.labels):
        apart = batch.distances(part, batch.everywhere)
        positive, negative = batch.pairs(start, len(part))
        facts += batch.facts(apart, positive, negative)
        if miner == "distance_weighted":
            found.append(_drawn(batch, apart, positive, negative, start, generator))
            continue
        usable = (positive.any(1) & negative.any(1)).nonzero().squeeze(1)
        if not len(usable):
            continue
        apart, positive, negative = apart[usable], positive[usable], negative[usable]
        if miner == "hard":
            p = apart.masked_fill(~positive, -torch.inf).argmax(1)
        else:
            p = apart.masked_fill(~positive, torch.inf).argmin(1)
        n = apart.masked_fill(~negative, torch.inf).argmin(1)
        found.append(torch.stack([usable + start, p, n]))
    a, p, n = torch.cat(found, 1) if found else batch.labels.new_zeros(3, 0)
    return (a, p, n), facts


def _drawn(
    batch: _Batch, apart: Tensor, positive: Tensor, negative: Tensor, start: int, generator: torch.Generator | None
) -> Tensor:
    """A negative for each positive pair, drawn with ``1 / q(D)``, ``q(D) = D^(d-2) (1 - D^2/4)^((d-3)/2)``."""
    width = batch.u.shape[1]
    if batch.distance == "cosine":
        apart = (2.0 * apart).clamp_min(0).sqrt()
    elif batch.distance == "squared":
        apart = apart.sqrt()
    near = apart.clamp_min(_NEAREST)
    inverse = (2.0 - width) * near.log() - 0.5 * (width - 3.0) * (1.0 - 0.25 * near.square()).clamp_min(1e-8).log()
    inverse = inverse.masked_fill(~negative | (apart >= _FARTHEST), -torch.inf)
    usable = positive.any(1) & (inverse > -torch.inf).any(1)
    pairs = (positive & usable.unsqueeze(1)).nonzero()
    if not len(pairs):
        return pairs.new_zeros(3, 0)
    a, p = pairs.unbind(1)
    draws = torch.zeros_like(a)
    chance = inverse.softmax(1).nan_to_num()
    rows, first = torch.unique_consecutive(a, return_inverse=True)
    most = int(torch.bincount(first).max())
    drawn = torch.multinomial(chance[rows], most, replacement=True, generator=generator)
    turn = torch.arange(len(a), device=a.device) - (first.diff(prepend=first[:1] - 1) > 0).nonzero().squeeze(1)[first]
    draws = drawn[first, turn]
    return torch.stack([a + start, p, draws])


# ---- all triplets within a range of gaps -------------------------------------------------------------------------


def _of_ranges(batch: _Batch, miner: Miner) -> _Found:
    parts: list[tuple[Tensor, ...]] = []
    function = _by_anchor if batch.margin is None or batch.swap else _by_rank
    for start, (part, _) in pieces(batch.walk.rows, batch.u, batch.labels):
        positive, negative = batch.pairs(start, len(part))
        parts.append(batch.walk.call(function, batch, miner, part, batch.everywhere, positive, negative))
    *sides, facts = zip(*parts, strict=True)
    value, mined, nonzero = (torch.cat(side) for side in sides)
    return _Found(value, mined, nonzero, torch.stack(facts).sum(0))


def _by_rank(
    batch: _Batch, miner: Miner, part: Tensor, everywhere: Tensor, positive: Tensor, negative: Tensor
) -> tuple[Tensor, ...]:
    """Sort each anchor's negatives. Those of one (anchor, positive) that count are a run; prefix sums give its sum.

    With the negatives in order ``D_1 <= D_2 ...`` and ``F_k`` the sum of the first k,
    ``sum_{low < k <= high} (m + D_p - D_k) = (high - low) (m + D_p) - (F_high - F_low)``.
    """
    assert batch.margin is not None
    apart = batch.distances(part, everywhere)
    order = apart.masked_fill(~negative, torch.inf).sort(1).values
    there = order < torch.inf
    prefix = F.pad(torch.where(there, order, 0.0).double().cumsum(1), (1, 0))
    reach = apart.detach()
    ranks = order.detach().contiguous()
    ends = negative.sum(1, keepdim=True)

    def rank(bound: Tensor, right: bool) -> Tensor:  # how many negatives are below, or at most, the bound
        return torch.minimum(torch.searchsorted(ranks, bound.contiguous(), right=right), ends)

    active = rank(reach + batch.margin, right=False)
    if miner == "all":
        low, high = torch.zeros_like(active), ends.expand_as(active)
    elif miner == "semihard":
        low, high = rank(reach, right=True), rank(reach + batch.miner_margin, right=True)
    else:
        low, high = rank(reach + batch.miner_margin, right=True), ends.expand_as(active)
    last = torch.maximum(torch.minimum(active, high), low)
    length = (last - low).to(apart.dtype)
    hinges = length * (batch.margin + apart) - (prefix.gather(1, last) - prefix.gather(1, low)).to(apart.dtype)
    hinges = torch.where(positive & (length > 0), hinges, torch.where(apart.isnan(), apart, 0.0))
    mined = torch.where(positive, high - low, 0).clamp_min(0).sum(1)
    nonzero = torch.where(positive, length, 0.0).sum(1)
    return hinges.sum(1), mined.to(apart.dtype), nonzero, batch.facts(apart, positive, negative)


def _by_anchor(
    batch: _Batch, miner: Miner, part: Tensor, everywhere: Tensor, positive: Tensor, negative: Tensor
) -> tuple[Tensor, ...]:
    """The same one anchor at a time, its positives by its negatives: for losses that are no straight line."""
    apart = batch.distances(part, everywhere)
    low = {"all": -math.inf, "semihard": 0.0, "easy": batch.miner_margin}[miner]
    high = batch.miner_margin if miner == "semihard" else math.inf
    out = []
    for row, is_positive, is_negative in zip(apart, positive, negative, strict=True):
        p, n = is_positive.nonzero().squeeze(1), is_negative.nonzero().squeeze(1)
        gap = (row[n] - row[p].unsqueeze(1)).detach()
        taken = (gap > low) & (gap <= high)
        far = row[n].unsqueeze(0)
        if batch.swap:
            far = torch.minimum(far, batch.distances(everywhere[p], everywhere[n]))
        hinge = torch.where(taken, batch.hinge(row[p].unsqueeze(1), far), 0.0)
        out.append(torch.stack([hinge.sum() + row.sum() * 0, taken.sum().to(row), (hinge > 0).sum().to(row)]))
    table = torch.stack(out) if out else apart.sum(1, keepdim=True).repeat(1, 3)
    mined, nonzero = table[:, 1:].detach().unbind(1)
    return table[:, 0], mined, nonzero, batch.facts(apart, positive, negative)


# ---- what comes out ----------------------------------------------------------------------------------------------


def _reduce(found: _Found, reduction: TripletReduction, weights: Tensor | None, distributed: Distributed) -> Tensor:
    w = torch.ones_like(found.value) if weights is None else weights.to(found.value)
    if reduction == "none":
        return found.value * w
    value = total((found.value * w).double().sum(), distributed)
    if reduction != "sum":
        count = found.nonzero if reduction == "mean_nonzero" else found.mined
        n = total((count * w).double().sum().detach(), distributed)
        value = value / torch.where(n == 0, 1.0, n)
    return value.to(found.value.dtype)


def _facts(found: _Found) -> dict[str, Tensor | float | None]:
    """Share of anchors whose nearest row has their label, mean similarities, and counts."""
    anchors, hits, n_positive, positives, n_negative, negatives = found.facts.unbind()
    return {
        "accuracy": hits / anchors.clamp_min(1),
        "positive_similarity": -positives / n_positive.clamp_min(1),
        "negative_similarity": -negatives / n_negative.clamp_min(1),
        "n_anchors": (found.mined > 0).sum(),
        "n_triplets": found.mined.sum(),
        "n_nonzero": found.nonzero.sum(),
    }


@dataclass(frozen=True)
class TripletConfig(LossConfig):
    """Options of :func:`triplet`."""

    reduction: Reduction | Literal["mean_nonzero"] = "mean_nonzero"  # type: ignore[assignment]
    margin: float | None = 0.2
    miner: Miner = "semihard"
    miner_margin: float | None = None
    distance: Distance = "euclidean"
    swap: bool = False
    normalize: bool = True
    mode: Mode = "auto"
    tile: Tile = None
    distributed: Distributed = "auto"


class TripletLoss(Loss):
    """:func:`triplet` as a module."""

    name = "triplet"
    config_class = TripletConfig
    function = staticmethod(triplet)
