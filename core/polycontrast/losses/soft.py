"""InfoNCE with soft targets: mixup, distillation, graded relevance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polycontrast.losses import tiles
from polycontrast.losses.block import Block, diagnostics
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
from polycontrast.losses.scores import Score, transform
from polycontrast.losses.targets import Dense, Sparse, Targets

SparseTargets = tuple[Tensor, Tensor]
"""``(n, k)`` numbers of candidates (-1: none) and their weights."""


@full_precision
def infonce_soft(
    x: Tensor,
    y: Tensor,
    targets: Tensor | SparseTargets,
    targets_back: Tensor | SparseTargets | None = None,
    *,
    normalize_targets: bool = True,
    direction_weights: tuple[float, float] = (0.5, 0.5),
    filters: Sequence[Filter] = (),
    score: Score = "cosine",
    weight: Tensor | None = None,
    temperature: float | Tensor | None = 0.07,
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
    """``l_i = -sum_j T_ij (S_ij - r_i)``, ``r_i = log sum_j exp S_ij``: cross-entropy against the targets T.

    Args:
        x: ``(N, d)`` anchors.
        y: ``(M, d)`` candidates.
        targets: ``(N, M)`` weights >= 0, or sparse ``(index, weight)`` of shape ``(N, k)`` each
            (:func:`mixup_targets`);
            weights of one candidate add up. In several processes a matrix has the candidates of all, in order of rank;
            sparse indices number those of this process.
        targets_back: the same for candidates over anchors; adds the second direction. Not the transpose of ``targets``
            unless that is given.
        normalize_targets: rows of T divided by their sum; rows of zeros are left out of the mean.
        direction_weights: of x to y and y to x, when there are two.
        filters: what is no candidate; see :mod:`polycontrast.losses.filters`. Filtered candidates must have no weight.
        score: as in :func:`infonce`.
        weight: of the bilinear score.
        temperature: ``1 / scale``.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        normalize: rows of unit length first.
        weights: ``(N,)`` weights of the anchors (N = M for two directions).
        reduction: ``mean``, ``sum``, ``none`` (``(2, N)`` for two directions).
        return_dict: also the terms and diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile.
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"`` takes candidates from all processes.

    Raises:
        ValueError: shapes that do not fit together.
    """
    check_rows("x", x)
    check_rows("y", y)
    if check_finite:
        check_finite_rows(x=x, y=y)
    if weights is not None:
        check_vector("weights", weights, len(x))
    peers = Peers(distributed)
    unit = normalize and score != "dot"
    twice = tiles.writes_down(mode, len(x), len(y))
    u = unit_rows(x, unit, norm_floor(x.dtype), differentiable_twice=twice)
    v = unit_rows(y, unit, norm_floor(y.dtype), differentiable_twice=twice)
    s = resolve_scale(temperature, scale, u)
    candidates = peers.rows(v)
    masks = tuple(f.mask(("query",), ("positive",), peers) for f in filters)
    two_sided = targets_back is not None
    how: dict[str, Any] = {"mode": mode, "tile": tile, "logits_dtype": logits_dtype}
    forward = _as_targets("targets", targets, len(u), len(candidates), peers.offset(v), u)
    a, b = transform(score, u, candidates, weight)
    one_pass = two_sided and all(mask.mutual for mask in masks)
    sums = tiles.evaluate(a, b, s, Block(masks=masks, columns=one_pass, observe=return_dict), **how)
    sides = [_side(forward, a, b, s, sums.rows, normalize_targets)]
    if targets_back is not None:
        first = peers.offset(v)
        queries = peers.rows(u)
        back = _as_targets("targets_back", targets_back, len(v), len(queries), peers.offset(u), u)
        b2, a2 = transform(score, queries, v, weight)
        if one_pass:
            lse = peers.logsumexp(sums.columns)[first : first + len(v)]
        else:
            reverse = tuple(f.mask(("positive",), ("query",), peers) for f in filters)
            lse = tiles.evaluate(a2, b2, s, Block(masks=reverse), **how).rows
        sides.append(_side(back, a2, b2, s, lse, normalize_targets))
    poisoned = (u, v) if masks else ()
    parts = [
        reduce_anchors(poison(value, *poisoned), reduction, weights=weights, used=used, distributed=distributed)
        for value, used, _ in sides
    ]
    if len(parts) == 1:
        loss = parts[0]
    elif reduction == "none":
        loss = torch.stack(parts)
    else:
        loss = direction_weights[0] * parts[0] + direction_weights[1] * parts[1]
    if not return_dict:
        return loss
    terms = {} if len(parts) == 1 else {"x_to_y": parts[0], "y_to_x": parts[1]}
    facts: dict[str, Tensor | float | None] = dict(diagnostics(sums, s, positive=sides[0][2], used=sides[0][1]))
    facts.update(accuracy=None, negative_similarity=None)  # with soft targets no candidate is simply negative
    return finish(loss, True, rows=(x, y), scale=s, terms=terms, diagnostics=facts)


def _as_targets(name: str, given: Tensor | SparseTargets, n: int, m: int, first: int, like: Tensor) -> Targets:
    if isinstance(given, Tensor):
        if given.shape != (n, m):
            raise ValueError(f"{name} must have shape (rows, candidates) = {(n, m)}, got {tuple(given.shape)}")
        return Dense(given.detach().to(like))
    index, weight = given
    if index.shape != weight.shape or index.ndim != 2 or len(index) != n:
        raise ValueError(
            f"sparse {name} must be index and weight of shape ({n}, k), got {tuple(index.shape)}, {tuple(weight.shape)}"
        )
    return Sparse(torch.where(index >= 0, index + first, index), weight.detach().to(like))


def _side(
    targets: Targets, a: Tensor, b: Tensor, s: Tensor, lse: Tensor, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the anchors, which of them count, and the mean logit under the targets."""
    mass = targets.mass().to(a.dtype)
    used = mass > 0
    dot = s * targets.dot(a, b)
    total = torch.where(used, mass, torch.ones_like(mass))
    mean = dot / total
    lse = torch.where(used, lse, torch.zeros_like(lse))
    return (lse - mean, used, mean) if normalize else (lse * mass - dot, torch.ones_like(used), mean)


# ---- mixup -------------------------------------------------------------------------------------------------------


def mix_rows(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """``b_i x_i + (1 - b_i) x_partner(i)``.

    Args:
        x: ``(N, ...)`` inputs.
        partner: ``(N,)`` number of the row that is mixed in.
        share: ``(N,)`` weight b of the row itself; 1 leaves it as it is.
    """
    b = share.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))
    return b * x + (1 - b) * x[partner]


def mixup_targets(partner: Tensor, share: Tensor, *, transposed: bool = False) -> SparseTargets:
    """Targets of rows mixed by :func:`mix_rows`: ``b_i`` at i plus ``1 - b_i`` at partner(i), added up.

    Args:
        partner: ``(N,)`` number of the row that is mixed in; a permutation if ``transposed``.
        share: ``(N,)`` weight b of the row itself.
        transposed: the transpose, for the second direction; its rows need not sum to one.
    """
    here = torch.arange(len(partner), device=partner.device)
    if not transposed:
        return torch.stack([here, partner], 1), torch.stack([share, 1 - share], 1)
    mixed_into = torch.empty_like(partner)
    mixed_into[partner] = here
    return torch.stack([here, mixed_into], 1), torch.stack([share, (1 - share)[mixed_into]], 1)


@dataclass(frozen=True)
class SoftInfoNCEConfig(LogitsConfig):
    """Options of :func:`infonce_soft`."""

    temperature: float = 0.07
    normalize_targets: bool = True
    direction_weights: tuple[float, float] = (0.5, 0.5)
    score: str = "cosine"


class SoftInfoNCE(Loss):
    """:func:`infonce_soft` as a module."""

    name: ClassVar[str] = "infonce_soft"
    config_class: ClassVar[type[LogitsConfig]] = SoftInfoNCEConfig
    function = staticmethod(infonce_soft)
