"""VSE and VSE++: hinges over the in-batch negatives of both directions of a pair (Faghri et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

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
    reduce_anchors,
    unit_rows,
)
from polycontrast.losses.rowwise import Plan, everyone, everyones, pieces, plan

Negatives = Literal["hardest", "sum", "mean"]


@full_precision
def vse(
    x: Tensor,
    y: Tensor,
    *,
    margin: float | Tensor = 0.2,
    negatives: Negatives = "hardest",
    step: int | None = None,
    warmup_steps: int = 0,
    exclude_ids: Tensor | None = None,
    weights: Tensor | None = None,
    direction_weights: tuple[float, float] = (1.0, 1.0),
    normalize: bool = True,
    reduction: Reduction = "sum",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``sum_i max_{j != i} [m + C_ij - C_ii]_+  +  sum_j max_{i != j} [m + C_ij - C_jj]_+`` with ``C`` the cosines.

    Args:
        x: rows, ``(N, d)``; row i belongs to row i of ``y``.
        y: rows, ``(N, d)``.
        margin: ``m``, or one per pair, ``(N,)``, e.g. smaller where a pair is doubtful.
        negatives: ``hardest`` is VSE++; of equal maxima the first gets the gradient. ``sum`` adds the hinges of all
            negatives, ``mean`` divides that by the number of columns N.
        step: steps taken before. ``hardest`` takes the sum while ``step < warmup_steps``: the hardest negatives of an
            untrained encoder make it collapse.
        warmup_steps: see ``step``.
        exclude_ids: ``(N,)``, pairs of one id are no negatives of each other, e.g. the captions of one image.
        weights: per pair, ``(N,)``, or per direction and pair, ``(2, N)``.
        direction_weights: of the two sums.
        normalize: cosines, else inner products.
        reduction: ``sum`` is the reference; ``mean`` divides it by N (by the sum of weights); ``none`` is ``(2, N)``.
        return_dict: with terms ``x_to_y`` and ``y_to_x`` and diagnostics.
        check_finite: raise at NaN or infinity in the rows.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows, or rows and columns, of a tile.
        distributed: rows of all processes are candidates.
    """
    check_rows("x", x)
    check_rows("y", y, width=x.shape[1], rows=x.shape[0])
    check_choice("negatives", negatives, ("hardest", "sum", "mean"))
    if warmup_steps and step is None:
        raise ValueError(f"vse: warmup_steps={warmup_steps} needs step=..., the number of steps taken before")
    if isinstance(margin, Tensor) and margin.ndim:
        check_vector("margin", margin, len(x))
    if exclude_ids is not None:
        check_vector("exclude_ids", exclude_ids, len(x))
    if check_finite:
        check_finite_rows(x=x, y=y)
    if negatives == "hardest" and step is not None and step < warmup_steps:
        negatives = "sum"
    u, v = (unit_rows(z, normalize, differentiable_twice=True) for z in (x, y))
    margins = (margin.to(u) if isinstance(margin, Tensor) else u.new_tensor(margin)).expand(len(u))
    positive = torch.linalg.vecdot(u, v)
    ids = torch.arange(len(u), device=u.device) if exclude_ids is None else exclude_ids

    if Peers(distributed).size == 1 and not len(u):
        values = torch.stack([u.sum(1), v.sum(1)])
        loss = values if reduction == "none" else values.sum()
        return finish(loss, return_dict, rows=(x, y), diagnostics={"n_anchors": 0})
    if Peers(distributed).size == 1:
        walk = plan(len(u), len(u), u, mode, tile, whole_rows=False)
        candidates = _Candidates(v, ids, 0)
        rows, columns = _hinges(
            u, candidates, positive, margins, ids, negatives, exclude_ids is None, walk, both=True, observe=return_dict
        )
    else:  # either direction has its own anchors here and its candidates everywhere
        sides = [_all(z, ids, exclude_ids is not None, distributed) for z in (u, v)]
        walk = plan(len(u), len(sides[0].rows), u, mode, tile, whole_rows=False)
        rows, columns = (
            _hinges(
                a, c, positive, margins, ids, negatives, exclude_ids is None, walk, both=False, observe=return_dict
            )[0]
            for a, c in ((u, sides[1]), (v, sides[0]))
        )
    values = torch.stack([rows.value, columns.value])
    if weights is not None:
        weights = weights.to(values)
    if reduction == "none":
        return finish(reduce_anchors(values, "none", weights=weights), return_dict, rows=(x, y))
    terms = [
        reduce_anchors(side, reduction, weights=w, distributed=distributed)
        for side, w in zip(values, [None, None] if weights is None else weights.expand(2, -1), strict=True)
    ]
    loss = direction_weights[0] * terms[0] + direction_weights[1] * terms[1]
    if not return_dict:
        return loss
    return finish(
        loss,
        True,
        rows=(x, y),
        terms={"x_to_y": terms[0], "y_to_x": terms[1]},
        diagnostics={
            "accuracy": (positive > rows.highest).to(u.dtype).mean(),
            "positive_similarity": positive.mean(),
            "negative_similarity": rows.similarity.sum() / rows.number.sum().clamp_min(1),
            "n_anchors": len(u),
        },
    )


class _Candidates(NamedTuple):
    rows: Tensor
    ids: Tensor
    offset: int


class _Side(NamedTuple):
    """By anchor."""

    value: Tensor
    highest: Tensor
    """Similarity of the hardest negative."""
    place: Tensor
    """Which that is."""
    similarity: Tensor
    """Sum over the negatives."""
    number: Tensor
    """How many they are."""


def _all(z: Tensor, ids: Tensor, filtered: bool, distributed: Distributed) -> _Candidates:
    rows, offset = everyone(z, distributed)
    numbers = torch.arange(len(rows), device=z.device)
    return _Candidates(rows, everyones(ids, distributed) if filtered else numbers, offset)


def _hinges(
    anchors: Tensor,
    candidates: _Candidates,
    positive: Tensor,
    margins: Tensor,
    ids: Tensor,
    negatives: Negatives,
    by_place: bool,
    walk: Plan,
    *,
    both: bool,
    observe: bool,
) -> tuple[_Side, _Side]:
    """Hinges of the rows, and of the columns if ``both`` (columns are then the partners of the rows)."""
    if by_place:
        ids = torch.arange(len(anchors), device=anchors.device) + candidates.offset
    hardest = negatives == "hardest"
    own = positive - margins
    other = own if both else candidates.rows.new_zeros(len(candidates.rows))
    rows = _Running(len(anchors), anchors)
    columns = _Running(len(candidates.rows) if both else 0, anchors)
    across_all = list(pieces(walk.columns, candidates.rows, other, candidates.ids))
    for top, (a, a_least, a_ids) in pieces(walk.rows, anchors, own, ids):
        for left, (c, c_least, c_ids) in across_all:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not hardest):
                along, across = walk.call(
                    _tile, a, c, a_least, c_least, a_ids, c_ids, 1 + both, not hardest, hardest or observe
                )
            rows.add(top, left, along)
            if both:
                columns.add(left, top, across)
    found = rows.side(), columns.side()
    if not hardest:
        share = 1.0 / len(candidates.rows) if negatives == "mean" and len(candidates.rows) else 1.0
        return tuple(side._replace(value=side.value * share) for side in found)  # type: ignore[return-value]
    # The maxima are known: their similarities again, with gradients, in O(N d).
    return (
        _of_hardest(found[0], anchors, candidates.rows, own),
        _of_hardest(found[1], candidates.rows, anchors, other) if both else found[1],
    )


def _tile(
    a: Tensor,
    c: Tensor,
    a_least: Tensor,
    c_least: Tensor,
    a_ids: Tensor,
    c_ids: Tensor,
    sides: int,
    sums: bool,
    look: bool,
) -> Any:
    """By row, and with two sides by column: the sum of hinges, and what the tile shows of its negatives.

    ``sums`` and ``look`` leave out what nobody asked for: either costs about as much as the product itself.
    """
    similarity = a @ c.T
    same = a_ids.unsqueeze(1) == c_ids
    negatives = similarity.masked_fill(same, -torch.inf)
    out: list[tuple[Tensor, ...] | None] = [None, None]
    for axis, least in ((1, a_least.unsqueeze(1)), (0, c_least))[:sides]:
        hinge = (negatives - least).relu_().sum(axis) if sums else torch.zeros_like(least).flatten()
        side: tuple[Tensor, ...] = (hinge,)
        if look:
            seen = similarity.detach()
            # NaN is a maximum and passes; what is no negative is the least
            highest, index = seen.masked_fill(same & ~seen.isnan(), -torch.inf).max(axis)
            side = (*side, highest, index, seen.masked_fill(same, 0.0).sum(axis), (~same).sum(axis))
        out[1 - axis] = side
    return tuple(out)


class _Running:
    """Joins the tiles along one axis."""

    def __init__(self, length: int, like: Tensor) -> None:
        self._hinges: dict[int, list[Tensor]] = {}
        self.highest = torch.full((length,), -torch.inf, dtype=like.dtype, device=like.device)
        self.index = torch.zeros(length, dtype=torch.int64, device=like.device)
        self.similarity, self.count = torch.zeros_like(self.highest), torch.zeros_like(self.index)
        self._like = like

    def add(self, at: int, other: int, tile: tuple[Tensor, ...]) -> None:
        hinge, *looked = tile
        part = slice(at, at + len(hinge))
        self._hinges.setdefault(at, []).append(hinge)
        if not looked:
            return
        highest, index, similarity, count = looked
        better = (highest > self.highest[part]) | highest.isnan()
        self.highest[part] = torch.where(better, highest, self.highest[part])
        self.index[part] = torch.where(better, index + other, self.index[part])
        self.similarity[part] += similarity
        self.count[part] += count

    def side(self) -> _Side:
        empty = self._like.sum(1)[:0]
        value = torch.cat([empty, *(torch.stack(parts).sum(0) for parts in self._hinges.values())])
        return _Side(value, self.highest, self.index, self.similarity, self.count)


def _of_hardest(side: _Side, anchors: Tensor, candidates: Tensor, least: Tensor) -> _Side:
    hardest = torch.linalg.vecdot(anchors, candidates[side.place]) if len(candidates) else least * 0
    hinge = (hardest - least).relu()
    return side._replace(value=torch.where(side.number > 0, hinge, torch.zeros_like(hinge)))


@dataclass(frozen=True)
class VSEConfig(LossConfig):
    """Options of :func:`vse`."""

    reduction: Reduction = "sum"
    margin: float = 0.2
    negatives: Negatives = "hardest"
    warmup_steps: int = 0
    direction_weights: tuple[float, float] = (1.0, 1.0)
    normalize: bool = True
    mode: Mode = "auto"
    tile: Tile = None
    distributed: Distributed = "auto"


class VSE(Loss):
    """:func:`vse` as a module."""

    name = "vse"
    config_class = VSEConfig
    function = staticmethod(vse)
