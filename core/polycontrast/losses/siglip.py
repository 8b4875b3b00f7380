"""The sigmoid loss: every pair judged on its own, no denominator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polycontrast.losses import tiles
from polycontrast.losses.block import Block, Softplus, diagnostics
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
    unit_rows,
)
from polycontrast.losses.filters import Filter
from polycontrast.losses.scale import LogitScale
from polycontrast.losses.targets import ByLabel, Dense


@full_precision
def siglip(
    x: Tensor,
    y: Tensor,
    *,
    positives: Tensor | None = None,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    bias: float | Tensor | None = None,
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
    """``L = -(1/N) sum_ij log sigmoid(z_ij (S_ij + b))``, z = +1 on positives, -1 elsewhere: sum of pairs / N.

    (SigLIP, arXiv 2303.15343.)

    Args:
        x: ``(N, d)`` anchors.
        y: ``(M, d)`` candidates; row i is the positive of anchor i unless said otherwise.
        positives: ``(N, M)`` mask, or weights in [0, 1] as soft labels of the pairs; in several processes ``(N, M of
            all)``.
        labels: ``(N,)`` classes, or one vector for each side: pairs of one class are positive.
        bias: b; default that of the :class:`LogitScale`, else -10.
        filters: pairs that are left out; see :mod:`polycontrast.losses.filters`.
        temperature: ``1 / scale``.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        normalize: rows of unit length first.
        weights: ``(N,)`` weights of the anchors.
        reduction: ``mean`` over anchors of the sum over candidates, ``sum``, ``none`` (``(N,)``).
        return_dict: also diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile.
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"`` takes candidates from all processes.

    Raises:
        ValueError: shapes that do not fit together.
    """
    check_rows("x", x)
    check_rows("y", y, width=x.shape[1], rows=len(x) if positives is None and labels is None else None)
    if check_finite:
        check_finite_rows(x=x, y=y)
    if weights is not None:
        check_vector("weights", weights, len(x))
    peers = Peers(distributed)
    twice = tiles.writes_down(mode, len(x), len(y))
    u = unit_rows(x, normalize, norm_floor(x.dtype), differentiable_twice=twice)
    v = unit_rows(y, normalize, norm_floor(y.dtype), differentiable_twice=twice)
    s = resolve_scale(temperature, scale, u)
    if bias is None:
        bias = scale.bias if isinstance(scale, LogitScale) and scale.bias is not None else -10.0
    shift = bias.to(u).reshape(()) if isinstance(bias, Tensor) else torch.tensor(bias, dtype=u.dtype, device=u.device)
    n = len(x)
    candidates = peers.rows(v)
    masks = tuple(f.mask(("query",), ("positive",), peers) for f in filters)
    index = None
    targets: Dense | ByLabel | None = None
    if labels is not None:
        left, right = labels if isinstance(labels, tuple) else (labels, labels)
        check_vector("labels of x", left, n)
        check_vector("labels of y", right, len(y))
        targets = ByLabel(left, peers.facts(right))
    elif positives is not None:
        if positives.shape != (n, len(candidates)):
            raise ValueError(f"positives must be a mask (N, M) = {(n, len(candidates))}, got {tuple(positives.shape)}")
        targets = Dense(positives.to(u))
    else:
        index = peers.offset(v) + torch.arange(n, device=x.device)
    how: dict[str, Any] = {"mode": mode, "tile": tile, "logits_dtype": logits_dtype}
    block = Block(positive=index, masks=masks, observe=return_dict)
    sums = tiles.evaluate_softplus(u, candidates, s, shift.expand(n), Softplus(), block, **how)
    if targets is None:
        values = sums.rows - (sums.positive + shift)
        own = None
    else:
        mass = targets.mass().to(u.dtype)
        dot = s * targets.dot(u, candidates)
        values = sums.rows - (dot + shift * mass)
        own = dot / mass.clamp_min(1e-12)
    if masks:
        values = poison(values, u, v)
    loss = reduce_anchors(values, reduction, weights=weights, distributed=distributed)
    if not return_dict:
        return loss
    facts: dict[str, Tensor | float | None] = dict(diagnostics(sums, s, positive=own))
    if own is not None:
        facts.update(accuracy=None, negative_similarity=None)
    return finish(loss, True, rows=(x, y), scale=s, diagnostics=facts)


@dataclass(frozen=True)
class SigLIPConfig(LogitsConfig):
    """Options of :func:`siglip`."""

    temperature: float = 0.1
    bias: float = -10.0
    learnable_temperature: bool = True


class SigLIP(Loss):
    """:func:`siglip` as a module; scale and bias are learned unless ``learnable_temperature=False``."""

    name: ClassVar[str] = "siglip"
    config_class: ClassVar[type[LogitsConfig]] = SigLIPConfig
    function = staticmethod(siglip)

    def make_scale(self) -> nn.Module | None:
        """Scale and bias in one module."""
        assert isinstance(self.config, SigLIPConfig)
        learnt = self.config.learnable_temperature
        return LogitScale(self.config.temperature, bias=self.config.bias) if learnt else None

    def arguments(self) -> dict[str, Any]:
        """The learned bias wins over the configuration's, which is where it began."""
        values = super().arguments()
        if self.scale is not None:
            values.pop("bias")
        return values
