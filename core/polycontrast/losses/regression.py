"""Contrast for continuous labels: order in the labels becomes order, or closeness, among the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from polycontrast.losses.common import (
    Distributed,
    Loss,
    LossConfig,
    LossOutput,
    MatrixConfig,
    Mode,
    Reduction,
    Tile,
    check_choice,
    check_finite_rows,
    check_rows,
    check_vector,
    finish,
    full_precision,
    reduce_anchors,
    resolve_scale,
    unit_rows,
    upcast,
    warn_once,
)
from polycontrast.losses.rowwise import Plan, distances, everyone, everyones, pieces, plan

Similarity = Literal["euclidean", "squared", "cosine", "dot"]
Kernel = Literal["gaussian", "laplace", "cauchy", "threshold"]


@full_precision
def rnc(
    x: Tensor,
    y: Tensor | None = None,
    *,
    labels: Tensor,
    temperature: float | Tensor | None = 2.0,
    scale: float | Tensor | nn.Module | None = None,
    similarity: Similarity = "euclidean",
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """Rank-N-Contrast (Zha et al., 2023): j is nearer to i than every row whose label is at least as far from i's.

    ``l_i = -1/(n-1) sum_{j != i} [ s_ij - log sum_{k != i, d(i,k) >= d(i,j)} exp s_ik ]`` with ``s = -|x_i - x_j| / t``
    and ``d`` the L1 distance of labels; equal distances share one set. Each row is sorted by label distance and summed
    from the far end: O(n^2 log n), where the reference takes O(n^3).

    Args:
        x: rows, ``(N, d)``, by default as they are: not normalised.
        y: a second view of the same samples, ``(N, d)``: n = 2N rows, the labels twice.
        labels: ``(N,)`` or ``(N, k)`` real numbers.
        temperature: ``t``.
        scale: ``1 / t`` instead.
        similarity: minus the ``euclidean`` distance or its square; ``cosine``; or inner product, ``dot``.
        weights: per anchor.
        normalize: rows of unit length.
        reduction: over anchors.
        return_dict: with diagnostics.
        check_finite: raise at NaN or infinity in the rows.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows of a block.
        distributed: rows of all processes are compared.
    """
    check_choice("similarity", similarity, ("euclidean", "squared", "cosine", "dot"))
    views = _views(x, y, labels, normalize or similarity == "cosine", check_finite, distributed)
    s = resolve_scale(temperature, scale, views.u)
    walk = plan(len(views.u), len(views.everywhere), views.u, mode, tile)

    def block(u: Tensor, everywhere: Tensor, label: Tensor, place: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        score = s * _similarity(u, everywhere, similarity)
        apart = torch.cdist(label, views.all_labels, p=1.0)
        # The anchor itself comes first in its row and is then cut off.
        apart = apart.scatter(1, place.unsqueeze(1), -1.0)
        apart, order = apart.sort(dim=1, stable=True)
        apart, score = apart[:, 1:].contiguous(), score.gather(1, order[:, 1:])
        from_here_on = score.flip(1).logcumsumexp(1).flip(1)
        first_of_equals = torch.searchsorted(apart, apart)
        values = (from_here_on.gather(1, first_of_equals) - score).mean(1)
        return values, torch.ones_like(values, dtype=torch.bool)

    return _over_rows(block, views, s, walk, weights, reduction, return_dict, distributed)


@full_precision
def supcon_kernel(
    x: Tensor,
    y: Tensor | None = None,
    *,
    labels: Tensor,
    temperature: float | Tensor | None = 0.1,
    scale: float | Tensor | nn.Module | None = None,
    kernel: Kernel = "gaussian",
    sigma: float = 1.0,
    similarity: Similarity = "cosine",
    weights: Tensor | None = None,
    normalize: bool = True,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """SupCon whose positives weigh by how near their labels are (y-aware InfoNCE, Dufumier et al., 2021).

    ``l_i = -sum_{j != i} w_ij (S_ij - log sum_{k != i} exp S_ik)``, ``w_ij = K(labels_i - labels_j)`` divided by its
    sum over the row.

    Args:
        x: rows, ``(N, d)``.
        y: a second view of the same samples, ``(N, d)``: 2N rows, the labels twice.
        labels: ``(N,)`` or ``(N, k)`` real numbers.
        temperature: of the similarities.
        scale: ``1 / temperature`` instead.
        kernel: of the Euclidean label distance d. ``gaussian``: ``exp(-d^2 / 2 sigma^2)``; ``laplace``:
            ``exp(-d / sigma)``; ``cauchy``: ``1 / (1 + d^2 / sigma^2)``; ``threshold``: 1 up to ``sigma``, else 0,
            where a row without positives does not count.
        sigma: width of the kernel.
        similarity: as in :func:`rnc`.
        weights: per anchor.
        normalize: rows of unit length.
        reduction: over anchors.
        return_dict: with diagnostics.
        check_finite: raise at NaN or infinity in the rows.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows of a block.
        distributed: rows of all processes are compared.
    """
    check_choice("kernel", kernel, ("gaussian", "laplace", "cauchy", "threshold"))
    check_choice("similarity", similarity, ("euclidean", "squared", "cosine", "dot"))
    if not sigma > 0 and not (kernel == "threshold" and sigma == 0):
        raise ValueError(f"supcon_kernel: sigma must be positive, got {sigma}")
    views = _views(x, y, labels, normalize, check_finite, distributed)
    s = resolve_scale(temperature, scale, views.u)
    walk = plan(len(views.u), len(views.everywhere), views.u, mode, tile)

    def block(u: Tensor, everywhere: Tensor, label: Tensor, place: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        score = s * _similarity(u, everywhere, similarity)
        log_weight = _log_kernel(distances(label, views.all_labels), kernel, sigma)
        log_weight = log_weight.scatter(1, place.unsqueeze(1), -torch.inf)
        positive = (log_weight > -torch.inf).any(1, keepdim=True)
        weight = torch.where(positive, log_weight, 0.0).softmax(1).to(score.dtype)  # never underflows to a row of zeros
        score = score.scatter(1, place.unsqueeze(1), -torch.inf)
        log_p = score - score.logsumexp(1, keepdim=True)
        terms = torch.where(weight > 0, weight * log_p, torch.where(log_p.isnan(), log_p, 0.0))
        return -terms.sum(1), positive.squeeze(1)

    return _over_rows(block, views, s, walk, weights, reduction, return_dict, distributed)


# ---- inside ------------------------------------------------------------------------------------------------------


class _Views(NamedTuple):
    rows: tuple[Tensor, ...]
    u: Tensor
    everywhere: Tensor
    labels: Tensor
    all_labels: Tensor
    place: Tensor
    """Of each row in ``everywhere``."""


def _views(
    x: Tensor, y: Tensor | None, labels: Tensor, normalize: bool, check_finite: bool, distributed: Distributed
) -> _Views:
    check_rows("x", x)
    if labels.shape[:1] != x.shape[:1] or labels.ndim > 2:
        raise ValueError(f"labels must have shape ({len(x)},) or ({len(x)}, k), one per row, got {tuple(labels.shape)}")
    rows: tuple[Tensor, ...] = (x,)
    if y is not None:
        check_rows("y", y, width=x.shape[1], rows=x.shape[0])
        rows, labels = (x, y), torch.cat([labels, labels])
    if check_finite:
        check_finite_rows(x=x, y=y)
    labels = upcast(labels) if labels.is_floating_point() else labels.double()
    labels = labels.unsqueeze(1) if labels.ndim == 1 else labels
    u = torch.cat([unit_rows(z, normalize, differentiable_twice=True) for z in rows])
    everywhere, offset = everyone(u, distributed)
    place = torch.arange(len(u), device=u.device) + offset
    return _Views(rows, u, everywhere, labels, everyones(labels, distributed), place)


def _similarity(u: Tensor, v: Tensor, similarity: Similarity) -> Tensor:
    if similarity in ("cosine", "dot"):
        return u @ v.T
    apart = distances(u, v)
    return -apart if similarity == "euclidean" else -apart.square()


def _log_kernel(apart: Tensor, kernel: Kernel, sigma: float) -> Tensor:
    match kernel:
        case "gaussian":
            return -0.5 * (apart / sigma).square()
        case "laplace":
            return -apart / sigma
        case "cauchy":
            return -(apart / sigma).square().log1p()
        case "threshold":
            return torch.where(apart <= sigma, 0.0, -torch.inf)


def _over_rows(
    block: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    views: _Views,
    s: Tensor,
    walk: Plan,
    weights: Tensor | None,
    reduction: Reduction,
    return_dict: bool,
    distributed: Distributed,
) -> LossOutput:
    """Values of all anchors, a block of rows at a time."""
    if weights is not None:
        check_vector("weights", weights, len(views.u))
    if len(views.everywhere) < 2:
        warn_once("a contrast of one row with itself is 0: the batch has no second row")
        values, used = views.u.sum(1) * 0.0, torch.ones(len(views.u), dtype=torch.bool, device=views.u.device)
    else:
        parts = [
            walk.call(block, u, views.everywhere, label, place, s)
            for _, (u, label, place) in pieces(walk.rows, views.u, views.labels, views.place)
        ]
        values, used = (torch.cat(side) for side in zip(*parts, strict=True))
    loss = reduce_anchors(values, reduction, weights=weights, used=used, distributed=distributed)
    return finish(loss, return_dict, rows=views.rows, scale=s, diagnostics={"n_anchors": used.sum()})


@dataclass(frozen=True)
class RnCConfig(LossConfig):
    """Options of :func:`rnc`. Its temperature is not learnt: rows are raw, so their length already is."""

    temperature: float = 2.0
    similarity: Similarity = "euclidean"
    normalize: bool = False
    mode: Mode = "auto"
    tile: Tile = None
    distributed: Distributed = "auto"


class RnC(Loss):
    """:func:`rnc` as a module."""

    name = "rnc"
    config_class = RnCConfig
    function = staticmethod(rnc)


@dataclass(frozen=True)
class SupConKernelConfig(MatrixConfig):
    """Options of :func:`supcon_kernel`."""

    temperature: float = 0.1
    kernel: Kernel = "gaussian"
    sigma: float = 1.0
    similarity: Similarity = "cosine"


class SupConKernel(Loss):
    """:func:`supcon_kernel` as a module."""

    name = "supcon_kernel"
    config_class = SupConKernelConfig
    function = staticmethod(supcon_kernel)
