"""Supervised contrastive learning: any number of positives per anchor, averaged outside or inside the logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polycontrast.losses import tiles
from polycontrast.losses.block import Block, Softplus, TileMask, diagnostics
from polycontrast.losses.common import (
    Distributed,
    LogitsConfig,
    LogitsDtype,
    Loss,
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
    norm_floor,
    poison,
    reduce_anchors,
    resolve_scale,
    row_dot,
    unit_rows,
)
from polycontrast.losses.filters import Filter, Role, SameIds
from polycontrast.losses.targets import ByLabel, Targets

Average = Literal["out", "in", "in_mean", "per_positive", "per_positive_anchor"]
_AVERAGES = ("out", "in", "in_mean", "per_positive", "per_positive_anchor")


@full_precision
def supcon(
    x: Tensor,
    labels: Tensor | None = None,
    *,
    positives: Tensor | None = None,
    average: Average = "out",
    empty: Literal["skip", "zero"] = "skip",
    anchors: Literal["all", "first_view"] = "all",
    base_temperature: float | None = None,
    filters: Sequence[Filter] = (),
    temperature: float | Tensor | None = 0.1,
    scale: float | Tensor | nn.Module | None = None,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``l_i = -(1/|P(i)|) sum_{p in P(i)} (S_ip - D_i)``, ``D_i = log sum_{a != i} exp S_ia``.

    Args:
        x: ``(N, d)``, or ``(N, V, d)`` with V views of each sample, all of which are rows.
        labels: ``(N,)`` classes; rows of the anchor's class are its positives; -100 has none and is nobody's. Without
            labels and mask the views of one sample are each other's positives (NT-Xent for V = 2).
        positives: instead: ``(N, N)`` mask, boolean or with real weights ``w_ip >= 0``; need not be symmetric; holds
            for
            all views; the row itself never counts. In several processes ``(N, N of all)``.
        average: ``out``; ``in``: ``D_i - log sum_p exp S_ip``; ``in_mean``: that plus ``log |P(i)|``;
            ``per_positive``: each
            positive alone against the negatives, mean over positive pairs; ``per_positive_anchor``: the same, mean over
            the pairs of an anchor and then over anchors.
        empty: anchors without positives: ``skip`` leaves them out of the mean, ``zero`` counts them as 0.
        anchors: ``all`` rows or those of the ``first_view``.
        base_temperature: multiplies the loss by ``temperature / base_temperature``; default by 1.
        filters: what is no negative, by ids of the N samples; see :mod:`polycontrast.losses.filters`. Positives are
            filtered like others.
        temperature: ``1 / scale``.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        normalize: rows of unit length first.
        weights: ``(N,)`` weights of the samples as anchors.
        reduction: ``mean``, ``sum``, ``none`` (``(N,)`` or ``(V, N)``; 0 for anchors without positives).
        return_dict: also diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile.
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"`` takes candidates from all processes.

    Raises:
        ValueError: shapes or options that do not fit together.
    """
    check_rows("x", x, dims=(2, 3))
    check_choice("average", average, _AVERAGES)
    check_choice("empty", empty, ("skip", "zero"))
    check_choice("anchors", anchors, ("all", "first_view"))
    if check_finite:
        check_finite_rows(x=x)
    n, n_views = len(x), x.shape[1] if x.ndim == 3 else 1
    if weights is not None:
        check_vector("weights", weights, n)
    if labels is not None and positives is not None:
        raise ValueError("give labels or a mask of positives, not both")
    if labels is None and positives is None and x.ndim == 2:
        raise ValueError("supcon needs labels=(N,), positives=(N, N), or several views (N, V, d)")
    peers = Peers(distributed)
    u = unit_rows(
        x, normalize, norm_floor(x.dtype), differentiable_twice=tiles.writes_down(mode, n * n_views, n * n_views)
    )
    by_view = list(u.unbind(1)) if x.ndim == 3 else [u]
    s = resolve_scale(temperature, scale, u)
    a = by_view[0] if n_views == 1 or anchors == "first_view" else torch.cat(by_view)
    n_rows = len(a)
    if peers.size == 1 and n_rows == n * n_views:
        b = a
    else:
        parts = [peers.rows(v) for v in by_view]
        b = parts[0] if n_views == 1 else torch.cat(parts)
    total = len(b) // n_views
    first = peers.offset(x)
    here = torch.arange(n_rows, device=x.device)
    itself = first + here if n == 0 else here // n * total + first + here % n
    repeats = n_rows // max(n, 1)

    agree: Targets
    if positives is not None:
        if positives.shape != (n, total):
            raise ValueError(f"positives must have shape (N, N) = {(n, total)}, got {tuple(positives.shape)}")
        mask = positives if positives.is_floating_point() else positives.to(a.dtype)
        agree = _Matrix(mask.to(a.dtype), itself, n_views, repeats)
        is_positive: TileMask = _MatrixMask(positives != 0, False)
        is_negative: TileMask = _MatrixMask(positives != 0, True)
    else:
        if labels is None:
            labels = first + torch.arange(n, device=x.device)
        check_vector("labels", labels, n)
        left, right = labels.repeat(repeats), peers.facts(labels).repeat(n_views)
        agree = ByLabel(left, right, itself)
        mirrored = peers.size == 1 and n_rows == len(b)
        is_positive = SameIds(left, right, keep=True, symmetric=mirrored)
        is_negative = SameIds(left, right, symmetric=mirrored)
    mass = agree.mass().to(a.dtype)
    used = mass > 0
    safe_mass = torch.where(used, mass, torch.ones_like(mass))
    roles: tuple[Role, ...] = ("query",)
    masks = tuple(
        _Repeated(f.mask(roles, roles, peers), n, total) if n_views > 1 else f.mask(roles, roles, peers)
        for f in filters
    )
    same = b is a and all(m.symmetric for m in masks)
    how: dict[str, Any] = {"mode": mode, "tile": tile, "logits_dtype": logits_dtype}
    similar = _Not(is_positive)
    base = Block(dropped=(itself,), masks=masks, same=same, similar=similar, observe=return_dict)

    pair_weights: Tensor | None = None
    own = None
    if average in ("per_positive", "per_positive_anchor"):
        block = Block(dropped=(itself,), masks=(*masks, is_negative), same=same and is_negative.symmetric)
        against = tiles.evaluate(a, b, s, block, **how).rows
        block = Block(dropped=(itself,), masks=(is_positive,), similar=similar, observe=return_dict)
        sums = tiles.evaluate_softplus(a, b, s, against, Softplus(-1.0), block, **how)
        values = sums.rows / safe_mass
        if average == "per_positive":
            pair_weights = mass
    else:
        sums = tiles.evaluate(a, b, s, base, **how)
        denominator = torch.where(used, sums.rows, torch.zeros_like(sums.rows))
        if average == "out":
            own = s * agree.dot(a, b) / safe_mass
            values = denominator - own
        else:
            block = Block(dropped=(itself,), masks=(*masks, is_positive), same=same and is_positive.symmetric)
            inside = tiles.evaluate(a, b, s, block, **how).rows
            values = denominator - torch.where(used, inside, torch.zeros_like(inside))
            if average == "in_mean":
                values = values + safe_mass.log()
    if base_temperature is not None:
        values = values / (s * base_temperature)
    values = poison(values, u)  # an anchor without positives must not hide it
    every = None if weights is None else weights.to(values).repeat(repeats)
    if pair_weights is not None and reduction != "none":
        every = pair_weights if every is None else every * pair_weights
    values = torch.where(used | values.isnan(), values, torch.zeros_like(values))
    counted = torch.ones_like(used) if empty == "zero" else used
    loss = reduce_anchors(values, reduction, weights=every, counted=counted, distributed=distributed)
    if reduction == "none" and x.ndim == 3:
        loss = loss.view(repeats, n)
    if not return_dict:
        return loss
    if own is None and n:
        own = s * agree.dot(a.detach(), b.detach()) / safe_mass
    return finish(loss, True, rows=(x,), scale=s, diagnostics=diagnostics(sums, s, positive=own, used=used))


# ---- masks of several views --------------------------------------------------------------------------------------


@dataclass
class _Not:
    """A mask the other way round."""

    mask: TileMask
    symmetric: bool = False
    mutual: bool = False

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return ~self.mask.tile(rows, columns)


@dataclass
class _MatrixMask:
    """Left out: what a matrix of positives holds (``negatives_only``) or lacks; the same for all views."""

    matrix: Tensor
    negatives_only: bool
    symmetric: bool = False
    mutual: bool = False

    def tile(self, rows: slice, columns: slice) -> Tensor:
        n, m = self.matrix.shape
        i = torch.arange(rows.start, rows.stop, device=self.matrix.device) % max(n, 1)
        j = torch.arange(columns.start, columns.stop, device=self.matrix.device) % max(m, 1)
        part = self.matrix[i][:, j]
        return part if self.negatives_only else ~part


@dataclass
class _Repeated:
    """A mask of samples, for all their views."""

    mask: TileMask
    n: int
    m: int

    @property
    def symmetric(self) -> bool:
        return self.mask.symmetric

    @property
    def mutual(self) -> bool:
        return self.mask.mutual

    def tile(self, rows: slice, columns: slice) -> Tensor:
        parts = []
        for i in _pieces(rows, self.n):
            parts.append(torch.cat([self.mask.tile(i, j) for j in _pieces(columns, self.m)], 1))
        return torch.cat(parts)


def _pieces(lines: slice, period: int) -> list[slice]:
    """A range as ranges within ``range(period)``, repeated."""
    pieces, start = [], lines.start
    while start < lines.stop:
        stop = min(lines.stop, (start // period + 1) * period)
        pieces.append(slice(start % period, start % period + stop - start))
        start = stop
    return pieces


@dataclass
class _Matrix:
    """A matrix of positives that holds for all views, the row itself left out."""

    matrix: Tensor
    itself: Tensor
    n_views: int
    repeats: int

    def _own(self) -> Tensor:
        n, m = self.matrix.shape
        at = self.itself[:n] % max(m, 1)
        return self.matrix.gather(1, at.unsqueeze(1)).squeeze(1).repeat(self.repeats) if n else self.matrix.new_zeros(0)

    def mass(self) -> Tensor:
        return self.n_views * self.matrix.sum(1).repeat(self.repeats) - self._own()

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        samples = b.view(self.n_views, -1, b.shape[1]).sum(0)
        value = row_dot(a, (self.matrix @ samples).repeat(self.repeats, 1))
        return value - self._own() * row_dot(a, b[self.itself])


# ---- module ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SupConConfig(LogitsConfig):
    """Options of :func:`supcon`."""

    temperature: float = 0.1
    average: Average = "out"
    empty: Literal["skip", "zero"] = "skip"
    anchors: Literal["all", "first_view"] = "all"
    base_temperature: float | None = None


class SupCon(Loss):
    """:func:`supcon` as a module: ``SupCon(average="in")(x, labels)``."""

    name: ClassVar[str] = "supcon"
    config_class: ClassVar[type[LogitsConfig]] = SupConConfig
    function = staticmethod(supcon)
