"""Two views of each sample, every other row a candidate: NT-Xent, its decoupled forms, debiased and hard negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycontrast.losses import tiles
from polycontrast.losses.block import Block, Sums, diagnostics
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
    warn_once,
)
from polycontrast.losses.filters import Filter, Role

_ROLES: tuple[Role, Role] = ("query", "positive")
Scale = float | Tensor | nn.Module | None


class _Views:
    """The 2N rows, their candidates, and where each row finds itself and its other view."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        temperature: float | Tensor | None,
        scale: Scale,
        normalize: bool,
        filters: Sequence[Filter],
        weights: Tensor | None,
        check_finite: bool,
        mode: Mode,
        tile: Tile,
        logits_dtype: LogitsDtype,
        distributed: Distributed,
    ) -> None:
        check_rows("x", x)
        check_rows("y", y, width=x.shape[1], rows=len(x))
        if check_finite:
            check_finite_rows(x=x, y=y)
        if weights is not None:
            check_vector("weights", weights, len(x))
        self.peers = peers = Peers(distributed)
        self.how: dict[str, Any] = {"mode": mode, "tile": tile, "logits_dtype": logits_dtype}
        twice = tiles.writes_down(mode, len(x), len(y))
        self.u = unit_rows(x, normalize, norm_floor(x.dtype), differentiable_twice=twice)
        self.v = unit_rows(y, normalize, norm_floor(y.dtype), differentiable_twice=twice)
        self.rows = torch.cat([self.u, self.v])
        self.s = resolve_scale(temperature, scale, self.u)
        n = len(x)
        if peers.size > 1:
            first = peers.offset(x)
            left = peers.rows(self.u)
            self.pairs = len(left)
            self.candidates = torch.cat([left, peers.rows(self.v)])
        else:
            first, self.pairs, self.candidates = 0, n, self.rows
        here = first + torch.arange(n, device=x.device)
        self.itself = torch.cat([here, self.pairs + here])
        self.other = torch.cat([self.pairs + here, here])
        self.masks = tuple(f.mask(_ROLES, _ROLES, peers) for f in filters)
        self.same = peers.size == 1 and all(mask.symmetric for mask in self.masks)

    def sums(self, *, negatives_only: bool = False, scale: Tensor | None = None, observe: bool = False) -> Sums:
        """Log-sum-exp over all rows but the anchor, with or without its positive."""
        block = Block(
            positive=self.other,
            dropped=(self.itself, self.other) if negatives_only else (self.itself,),
            masks=self.masks,
            same=self.same,
            observe=observe,
        )
        return tiles.evaluate(self.rows, self.candidates, self.s if scale is None else scale, block, **self.how)

    def need_two(self, name: str) -> None:
        if self.pairs < 2:
            raise ValueError(
                f"{name} needs at least 2 pairs, got {self.pairs}: without its positive an anchor has no candidates"
            )

    def finish(
        self,
        values: Tensor,
        sums: Sums,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        reduction: Reduction,
        return_dict: bool,
        distributed: Distributed,
        seen_at: Tensor | None = None,
    ) -> LossOutput:
        """Reduce ``(2N,)`` values of anchors; ``seen_at`` is the scale of the observed sums."""
        if self.masks:
            values = poison(values, self.rows)
        loss = reduce_anchors(values.view(2, -1), reduction, weights=weights, distributed=distributed)
        if not return_dict:
            return loss
        return finish(
            loss,
            True,
            rows=(x, y),
            scale=self.s,
            diagnostics=diagnostics(sums, seen_at if seen_at is not None else self.s),
        )


@full_precision
def ntxent(
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor | None = 0.5,
    scale: Scale = None,
    normalize: bool = True,
    filters: Sequence[Filter] = (),
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``-S_a,p(a) + log sum_{b != a} exp S_ab`` over the 2N rows of both views; the positive is the other view.

    Args:
        x: ``(N, d)`` one view.
        y: ``(N, d)`` the other.
        temperature: ``1 / scale``.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        normalize: rows of unit length first.
        filters: what is no negative, see :mod:`polycontrast.losses.filters`.
        weights: ``(N,)`` weights of the samples.
        reduction: ``mean`` over 2N anchors, ``sum``, ``none`` (``(2, N)``).
        return_dict: also diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile (square here).
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"`` takes candidates from all processes.

    Raises:
        ValueError: shapes that do not fit together.
    """
    views = _Views(
        x, y, temperature, scale, normalize, filters, weights, check_finite, mode, tile, logits_dtype, distributed
    )  # fmt: skip
    if views.pairs == 1:
        warn_once("a batch of one pair has no negatives: its NT-Xent loss is 0 and nothing is learnt from it")
    sums = views.sums(observe=return_dict)
    return views.finish(sums.rows - sums.positive, sums, x, y, weights, reduction, return_dict, distributed)


@full_precision
def dcl(
    x: Tensor,
    y: Tensor,
    *,
    temperature: float | Tensor | None = 0.1,
    scale: Scale = None,
    normalize: bool = True,
    filters: Sequence[Filter] = (),
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """Decoupled: ``-S_a,p(a) + log sum_{b != a, p(a)} exp S_ab``, the positive is not in the denominator.

    (arXiv 2110.06848.) Arguments as :func:`ntxent`.

    Raises:
        ValueError: fewer than two pairs, or shapes that do not fit together.
    """
    views = _Views(
        x, y, temperature, scale, normalize, filters, weights, check_finite, mode, tile, logits_dtype, distributed
    )  # fmt: skip
    views.need_two("dcl")
    sums = views.sums(negatives_only=True, observe=return_dict)
    return views.finish(sums.rows - sums.positive, sums, x, y, weights, reduction, return_dict, distributed)


@full_precision
def dclw(
    x: Tensor,
    y: Tensor,
    *,
    sigma: float = 0.5,
    temperature: float | Tensor | None = 0.1,
    scale: Scale = None,
    normalize: bool = True,
    filters: Sequence[Filter] = (),
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """:func:`dcl` whose positive counts ``w_i = 2 - N softmax_i(<u_i, v_i> / sigma)`` times, no gradient through w.

    Raises:
        ValueError: fewer than two pairs, or shapes that do not fit together.
    """
    views = _Views(
        x, y, temperature, scale, normalize, filters, weights, check_finite, mode, tile, logits_dtype, distributed
    )  # fmt: skip
    views.need_two("dclw")
    agreement = row_dot(views.u, views.v).detach() / sigma
    everywhere = views.peers.facts(agreement)
    w = 2 - views.pairs * (agreement - torch.logsumexp(everywhere, 0)).exp()
    sums = views.sums(negatives_only=True, observe=return_dict)
    values = sums.rows - w.repeat(2) * sums.positive
    return views.finish(values, sums, x, y, weights, reduction, return_dict, distributed)


@full_precision
def infonce_debiased(
    x: Tensor,
    y: Tensor,
    *,
    tau_plus: float = 0.1,
    beta: float = 0.0,
    temperature: float | Tensor | None = 0.5,
    scale: Scale = None,
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
    """NT-Xent with an estimate of true negatives and more weight on hard ones, in log space against overflow.

    With n = 2N - 2 negatives, ``p = exp S_pos`` and ``R = n sum w exp(S) / sum w``, ``w = exp(beta S)``:
    ``g = max((R - tau_plus n p) / (1 - tau_plus), n exp(-scale))``, loss ``-log(p / (p + g))``. (arXiv 2007.00224,
    2010.04592.) ``tau_plus=0, beta=0`` is NT-Xent. Other arguments as :func:`ntxent`.

    Args:
        x: ``(N, d)`` one view.
        y: ``(N, d)`` the other.
        tau_plus: share of false negatives among the negatives, in [0, 1).
        beta: how much hard negatives weigh; multiplies the logit ``cos / temperature``.
        temperature: ``1 / scale``.
        scale: instead of the temperature.
        normalize: rows of unit length first.
        weights: ``(N,)`` weights of the samples.
        reduction: as in NT-Xent.
        return_dict: also diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile.
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"`` takes candidates from all processes.

    Raises:
        ValueError: ``tau_plus`` out of range, or shapes that do not fit together.
    """
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus must be in [0, 1), got {tau_plus}")
    views = _Views(
        x, y, temperature, scale, normalize, (), weights, check_finite, mode, tile, logits_dtype, distributed
    )  # fmt: skip
    n, s = 2 * views.pairs - 2, views.s
    if n == 0:
        sums = views.sums(observe=return_dict)
        return views.finish(sums.rows - sums.positive, sums, x, y, weights, reduction, return_dict, distributed)
    steep = s * (1 + beta)
    sums = views.sums(negatives_only=True, scale=steep, observe=return_dict)
    log_r, positive = sums.rows, sums.positive / (1 + beta)
    if beta:
        log_r = log_r - views.sums(negatives_only=True, scale=s * beta).rows + math.log(n)
    floor = math.log(n) - s
    log_g = log_r - math.log1p(-tau_plus)
    if tau_plus:
        gap = math.log(tau_plus * n) + positive - log_r
        some = gap < 0
        log_g = log_g + torch.where(some, _log1mexp(torch.where(some, gap, -1.0)), -torch.inf)
    log_g = torch.where(log_g >= floor, log_g, floor)
    log_g = torch.where(log_r.isnan(), log_r, log_g)
    return views.finish(F.softplus(log_g - positive), sums, x, y, weights, reduction, return_dict, distributed, steep)


def _log1mexp(t: Tensor) -> Tensor:
    """``log(1 - exp(t))`` for negative t."""
    near = t > -math.log(2)
    return torch.where(
        near, (-torch.expm1(torch.where(near, t, -1.0))).log(), torch.log1p(-torch.where(near, -1.0, t).exp())
    )


@dataclass(frozen=True)
class NTXentConfig(LogitsConfig):
    """Options of :func:`ntxent`."""

    temperature: float = 0.5


class NTXent(Loss):
    """:func:`ntxent` as a module."""

    name: ClassVar[str] = "ntxent"
    config_class: ClassVar[type[LogitsConfig]] = NTXentConfig
    function = staticmethod(ntxent)


@dataclass(frozen=True)
class DCLConfig(NTXentConfig):
    """Options of :func:`dcl`."""

    temperature: float = 0.1


class DCL(Loss):
    """:func:`dcl` as a module."""

    name: ClassVar[str] = "dcl"
    config_class: ClassVar[type[LogitsConfig]] = DCLConfig
    function = staticmethod(dcl)


@dataclass(frozen=True)
class DCLWConfig(DCLConfig):
    """Options of :func:`dclw`."""

    sigma: float = 0.5


class DCLW(Loss):
    """:func:`dclw` as a module."""

    name: ClassVar[str] = "dclw"
    config_class: ClassVar[type[LogitsConfig]] = DCLWConfig
    function = staticmethod(dclw)


@dataclass(frozen=True)
class DebiasedConfig(NTXentConfig):
    """Options of :func:`infonce_debiased`."""

    tau_plus: float = 0.1
    beta: float = 0.0


class DebiasedInfoNCE(Loss):
    """:func:`infonce_debiased` as a module."""

    name: ClassVar[str] = "infonce_debiased"
    config_class: ClassVar[type[LogitsConfig]] = DebiasedConfig
    function = staticmethod(infonce_debiased)
