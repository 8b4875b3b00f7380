"""Losses made of batch statistics, over all processes: VICReg, Barlow Twins, alignment and uniformity, MMD, entropy.

None has anchors, so there is no ``reduction="none"``: ``mean`` is the published value. With ``W`` processes each
computes its share, the statistics are summed with gradient, and all get the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    finish,
    full_precision,
    unit_rows,
    upcast,
)
from polycontrast.losses.rowwise import (
    Plan,
    count_rows_everywhere,
    distances,
    everyone,
    lengths,
    nothing,
    pieces,
    plan,
    total,
)


@full_precision
def vicreg(
    x: Tensor,
    y: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    target: float = 1.0,
    eps: float = 1e-4,
    variance_average: Literal["mean", "sum"] = "mean",
    normalize: bool = False,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``25 mse(x, y) + 25 var + 1 cov`` (Bardes et al., 2022).

    ``mse`` is the mean over all entries. ``var = mean_k [target - sqrt(Var_k + eps)]_+`` with the unbiased variance of
    column k, averaged over the two branches. ``cov = sum_{k != l} Cov_kl^2 / d``, with N - 1, summed over the branches.

    Args:
        x: rows, ``(N, d)``.
        y: rows, ``(N, d)``.
        invariance: weight of mse.
        variance: weight of var.
        covariance: weight of cov.
        target: standard deviation below which a column is pushed apart.
        eps: within the root.
        variance_average: ``sum`` adds the branches' var as solo-learn and PyGCL do; the authors' code takes the mean.
        normalize: rows of unit length (not in the paper).
        reduction: ``mean``, or ``sum``: N times it.
        return_dict: with terms ``invariance``, ``variance`` and ``covariance``, unweighted.
        check_finite: raise at NaN or infinity.
        distributed: statistics of all processes.

    Raises:
        ValueError: one row has no variance.
    """
    check_choice("variance_average", variance_average, ("mean", "sum"))
    x_, y_, n = _pair("vicreg", x, y, normalize, reduction, check_finite, distributed)
    d = x.shape[1]
    terms = {"invariance": total((x_ - y_).square().sum(), distributed) / (n * d)}
    spread, shared = [], []
    for z in (x_, y_):
        centred = z - total(z.sum(0), distributed) / n
        squares = total(centred.T @ centred, distributed) / (n - 1)
        own = squares.diagonal()
        spread.append((target - (own + eps).sqrt()).relu().mean())
        shared.append((squares - own.diag()).square().sum() / d)
    terms["variance"] = (spread[0] + spread[1]) * (0.5 if variance_average == "mean" else 1.0)
    terms["covariance"] = shared[0] + shared[1]
    loss = invariance * terms["invariance"] + variance * terms["variance"] + covariance * terms["covariance"]
    return finish(loss * _times(reduction, n), return_dict, rows=(x, y), terms=terms, diagnostics={"n_anchors": n})


@full_precision
def barlow(
    x: Tensor,
    y: Tensor,
    *,
    off_diagonal: float | None = 5e-3,
    loss_scale: float = 1.0,
    eps: float = 1e-5,
    unbiased: bool = False,
    normalize: bool = False,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``sum_k (1 - C_kk)^2 + lambda sum_{k != l} C_kl^2`` (Zbontar et al., 2021).

    ``C = z_x^T z_y / N`` with the columns of ``z`` standardised as batch norm does, ``(x - mean) / sqrt(Var + eps)``.

    Args:
        x: rows, ``(N, d)``.
        y: rows, ``(N, d)``.
        off_diagonal: ``lambda``; None is 1/d, as in PyGCL.
        loss_scale: factor of the whole; solo-learn has 0.025.
        eps: within the root.
        unbiased: variance with N - 1, as in PyGCL.
        normalize: rows of unit length (not in the paper).
        reduction: ``mean``, or ``sum``: N times it.
        return_dict: with terms ``diagonal`` and ``off_diagonal``, unweighted.
        check_finite: raise at NaN or infinity.
        distributed: statistics of all processes.

    Raises:
        ValueError: one row has no correlation.
    """
    x_, y_, n = _pair("barlow", x, y, normalize, reduction, check_finite, distributed)

    def standardised(z: Tensor) -> Tensor:
        centred = z - total(z.sum(0), distributed) / n
        spread = total(centred.square().sum(0), distributed) / (n - 1 if unbiased else n)
        return centred / (spread + eps).sqrt()

    correlation = total(standardised(x_).T @ standardised(y_), distributed) / n
    own = correlation.diagonal()
    terms = {"diagonal": (1.0 - own).square().sum(), "off_diagonal": (correlation - own.diag()).square().sum()}
    share = 1.0 / x.shape[1] if off_diagonal is None else off_diagonal
    loss = loss_scale * (terms["diagonal"] + share * terms["off_diagonal"])
    return finish(loss * _times(reduction, n), return_dict, rows=(x, y), terms=terms, diagnostics={"n_anchors": n})


@full_precision
def align_uniform(
    x: Tensor,
    y: Tensor,
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    lam: float = 1.0,
    normalize: bool = True,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``mean_i |u_i - v_i|^alpha + lam/2 (unif(u) + unif(v))``, ``unif(u) = log mean_{i<j} exp(-t |u_i - u_j|^2)``.

    Wang and Isola (2020). Their ``t`` is 2; lightly's default is 1.

    Args:
        x: rows, ``(N, d)``.
        y: rows, ``(N, d)``.
        alpha: power of the distance of a pair.
        t: sharpness of the kernel.
        lam: weight of uniformity.
        normalize: rows of unit length.
        reduction: ``mean``, or ``sum``: N times it.
        return_dict: with terms ``alignment`` and ``uniformity``, the mean of the two sides.
        check_finite: raise at NaN or infinity.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows, or rows and columns, of a tile.
        distributed: pairs of rows of all processes.

    Raises:
        ValueError: one row has no distances.
    """
    u, v, n = _pair("align_uniform", x, y, normalize, reduction, check_finite, distributed)
    square = (u - v).square().sum(1)
    apart = square if alpha == 2.0 else lengths(u - v) ** alpha
    terms = {"alignment": total(apart.sum(), distributed) / n}
    sides = [_uniformity(z, t, mode, tile, distributed) for z in (u, v)]
    terms["uniformity"] = 0.5 * (sides[0] + sides[1])
    loss = terms["alignment"] + lam * terms["uniformity"]
    similar = 1.0 - 0.5 * total(square.detach().sum(), distributed) / n if normalize else None
    facts = {"n_anchors": n, "positive_similarity": similar}
    return finish(loss * _times(reduction, n), return_dict, rows=(x, y), terms=terms, diagnostics=facts)


@full_precision
def uniformity(
    x: Tensor,
    *,
    t: float = 2.0,
    normalize: bool = True,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> Tensor:
    """``log mean_{i<j} exp(-t |u_i - u_j|^2)`` of one set of rows, ``(N, d)``; see :func:`align_uniform`."""
    check_rows("x", x)
    _rows("uniformity", x, distributed)
    return _uniformity(unit_rows(x, normalize, differentiable_twice=True), t, mode, tile, distributed)


@full_precision
def mmd(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: float | None = None,
    kernels: int = 5,
    factor: float = 2.0,
    unbiased: bool = False,
    normalize: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> Tensor:
    """Squared maximum mean discrepancy of two sets of rows (Gretton et al., 2012), with a sum of Gaussian kernels.

    ``mean k(x, x') + mean k(y, y') - 2 mean k(x, y)``, ``k = sum_q exp(-|a - b|^2 / b_q)`` with the bandwidths
    ``b_q = bandwidth factor^(q - kernels//2)``.

    Args:
        x: rows, ``(N, d)``.
        y: rows, ``(M, d)``; M may differ from N.
        bandwidth: default the mean squared distance of different rows of both sets together, without gradient.
        kernels: how many.
        factor: ratio of neighbouring bandwidths.
        unbiased: leave out the pairs of a row with itself.
        normalize: rows of unit length.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows, or rows and columns, of a tile.
        distributed: rows of all processes.

    Raises:
        ValueError: a side without rows, or with one and ``unbiased``.
    """
    check_rows("x", x)
    check_rows("y", y, width=x.shape[1])
    u, v = (unit_rows(z, normalize, differentiable_twice=True) for z in (x, y))
    n, m = (count_rows_everywhere(z, distributed) for z in (u, v))
    if min(n, m) < (2 if unbiased else 1):
        raise ValueError(f"mmd needs {'two rows' if unbiased else 'a row'} on either side, got {n} and {m}")
    if bandwidth is None:
        with torch.no_grad():  # sum over ordered pairs of |a - b|^2 = 2 N sum |a|^2 - 2 |sum a|^2, here around the mean
            z = torch.cat([u, v])
            centred = z - total(z.sum(0), distributed) / (n + m)
            spread = 2.0 * (n + m) * total(centred.square().sum(), distributed)
            width = (spread / max((n + m) ** 2 - (n + m), 1)).clamp_min(1e-12)
    else:
        width = u.new_tensor(bandwidth)
    widths = width * factor ** (torch.arange(kernels, device=u.device, dtype=u.dtype) - kernels // 2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = distances(a, b).square()
        return torch.stack([(-square / w).exp() for w in widths]).sum(0).sum()

    def mean(a: Tensor, b: Tensor, pairs: int, alike: float) -> Tensor:
        everywhere, _ = everyone(b, distributed)
        walk = plan(len(a), len(everywhere), a, mode, tile, whole_rows=False)
        columns = list(pieces(walk.columns, everywhere))
        sums = [walk.call(kernel, p, q) for _, (p,) in pieces(walk.rows, a) for _, (q,) in columns]
        return (total(torch.stack(sums).sum(), distributed) - alike) / pairs

    if unbiased:
        return (
            mean(u, u, n * (n - 1), n * kernels) + mean(v, v, m * (m - 1), m * kernels) - 2.0 * mean(u, v, n * m, 0.0)
        )
    return mean(u, u, n * n, 0.0) + mean(v, v, m * m, 0.0) - 2.0 * mean(u, v, n * m, 0.0)


@full_precision
def joint_entropy(
    *views: Tensor,
    sigma: float | Sequence[float] = 1.0,
    normalize: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    distributed: Distributed = "auto",
) -> Tensor:
    """Matrix-based Renyi entropy of order 2 of one or more views, in nats (Giraldo et al., 2015; Yu et al., 2019).

    ``-log (1/N^2) sum_ij prod_v k_v(i, j)^2`` with ``k_v = exp(-|a - b|^2 / 2 sigma_v^2)``: between 0 (all rows alike)
    and log N. Mutual information is the sum of the views' entropies less their joint one.

    Args:
        *views: rows of the same N samples, ``(N, d_v)``.
        sigma: width of the kernel, or one per view.
        normalize: rows of unit length.
        mode: memory, see :func:`polycontrast.losses.rowwise.plan`.
        tile: rows, or rows and columns, of a tile.
        distributed: rows of all processes.

    Raises:
        ValueError: no views, no rows, or views of different length.
    """
    sigmas = [float(sigma)] * len(views) if isinstance(sigma, int | float) else list(sigma)
    if not views or len(sigmas) != len(views):
        found = f"{len(views)} and {len(sigmas)}"
        raise ValueError(f"joint_entropy needs views, and one sigma or one per view; got {found}")
    for i, view in enumerate(views):
        check_rows(f"view {i}", view, rows=len(views[0]))
    scaled = [unit_rows(z, normalize, differentiable_twice=True) / s for z, s in zip(views, sigmas, strict=True)]
    # the product of Gaussian kernels is one Gaussian kernel of the views side by side
    z = torch.cat(scaled, 1)
    n = count_rows_everywhere(z, distributed)
    if n < 1:
        raise ValueError("joint_entropy needs at least one row")
    everywhere, _ = everyone(z, distributed)
    walk = plan(len(z), len(everywhere), z, mode, tile, whole_rows=False)

    def tile_sum(a: Tensor, b: Tensor) -> Tensor:
        return (-distances(a, b).square()).logsumexp(1)

    columns = list(pieces(walk.columns, everywhere))
    rows = [
        torch.stack([walk.call(tile_sum, a, b) for _, (b,) in columns]).logsumexp(0) for _, (a,) in pieces(walk.rows, z)
    ]
    # each row has itself, so its sum is at least 1: no shift is needed
    return 2.0 * math.log(n) - total(torch.cat(rows).exp().sum(), distributed).log()


# ---- inside ------------------------------------------------------------------------------------------------------


def _pair(
    name: str, x: Tensor, y: Tensor, normalize: bool, reduction: Reduction, check_finite: bool, distributed: Distributed
) -> tuple[Tensor, Tensor, int]:
    check_rows("x", x)
    check_rows("y", y, width=x.shape[1], rows=x.shape[0])
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        raise ValueError(f"{name} is a statistic of the batch and has no value per row: use reduction='mean' or 'sum'")
    if check_finite:
        check_finite_rows(x=x, y=y)
    n = _rows(name, x, distributed)
    if normalize:
        return unit_rows(x, differentiable_twice=True), unit_rows(y, differentiable_twice=True), n
    return upcast(x), upcast(y), n


def _rows(name: str, x: Tensor, distributed: Distributed) -> int:
    n = count_rows_everywhere(x, distributed)
    if n < 2:
        raise ValueError(f"{name} compares rows and needs a batch of at least 2, got {n}")
    return n


def _times(reduction: Reduction, n: int) -> int:
    return n if reduction == "sum" else 1


def _uniformity(u: Tensor, t: float, mode: Mode, tile: Tile, distributed: Distributed) -> Tensor:
    everywhere, offset = everyone(u, distributed)
    walk: Plan = plan(len(u), len(everywhere), u, mode, tile, whole_rows=False)
    place = torch.arange(len(u), device=u.device) + offset

    def part(a: Tensor, b: Tensor, first: Tensor, second: Tensor) -> Tensor:
        square = (a * a).sum(1, keepdim=True) + (b * b).sum(1) - 2.0 * a @ b.T
        later = first.unsqueeze(1) < second
        return (-t * square).masked_fill(~later, -torch.inf).flatten().logsumexp(0)

    columns = list(pieces(walk.columns, everywhere, torch.arange(len(everywhere), device=u.device)))
    exponents = [
        walk.call(part, a, b, first, second)
        for top, (a, first) in pieces(walk.rows, u, place)
        for left, (b, second) in columns
        if len(a) and left + len(b) - 1 > top + offset  # tiles below the diagonal have no pair
    ]
    n = len(everywhere)
    # a process whose rows come last may have no pair; it must still take part in backward
    local = torch.stack(exponents).logsumexp(0) if exponents else nothing(everywhere) - torch.inf
    return Peers(distributed).logsumexp(local) - math.log(n * (n - 1) / 2)


@dataclass(frozen=True)
class VICRegConfig(LossConfig):
    """Options of :func:`vicreg`."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    target: float = 1.0
    eps: float = 1e-4
    variance_average: Literal["mean", "sum"] = "mean"
    normalize: bool = False
    distributed: Distributed = "auto"


class VICReg(Loss):
    """:func:`vicreg` as a module."""

    name = "vicreg"
    config_class = VICRegConfig
    function = staticmethod(vicreg)


@dataclass(frozen=True)
class BarlowConfig(LossConfig):
    """Options of :func:`barlow`."""

    off_diagonal: float | None = 5e-3
    loss_scale: float = 1.0
    eps: float = 1e-5
    unbiased: bool = False
    normalize: bool = False
    distributed: Distributed = "auto"


class BarlowTwins(Loss):
    """:func:`barlow` as a module."""

    name = "barlow"
    config_class = BarlowConfig
    function = staticmethod(barlow)


@dataclass(frozen=True)
class AlignUniformConfig(LossConfig):
    """Options of :func:`align_uniform`."""

    alpha: float = 2.0
    t: float = 2.0
    lam: float = 1.0
    normalize: bool = True
    mode: Mode = "auto"
    tile: Tile = None
    distributed: Distributed = "auto"


class AlignUniform(Loss):
    """:func:`align_uniform` as a module."""

    name = "align_uniform"
    config_class = AlignUniformConfig
    function = staticmethod(align_uniform)
