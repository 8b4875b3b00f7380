"""How a representation lies in its space: alignment, uniformity, effective rank, similarities, collapse.

Sources: Wang & Isola 2020 (alignment, uniformity), Garrido et al. 2023 (RankMe), Chen & He 2021 (the deviation per
dimension as a sign of collapse), Jing et al. 2022 (dimensional collapse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polycontrast.evaluation.rows import checked, one_per_row, prepared, spans, unit_rows

_ROWS = 4096
"""Rows per piece where a sum over rows is built in float64."""
COLLAPSED = 0.1
"""Deviation per dimension, in units of that of evenly spread rows, below which a representation has collapsed."""


def alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0, normalize: bool = True) -> float:
    """Mean of ``|x_i - y_i| ** alpha`` over positive pairs; 0 is best.

    Args:
        x: (N, D).
        y: (N, D), row i the positive of row i of ``x``.
        alpha: power of the distance.
        normalize: on unit rows, where the square lies in [0, 4].
    """
    x, y = prepared(x, "x", normalize), prepared(y, "y", normalize)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    return float((x - y).norm(dim=1).double().pow(alpha).mean())


def uniformity(x: Tensor, *, t: float = 2.0, normalize: bool = True, tile: int = 1024) -> float:
    """``log mean exp(-t |x_i - x_j|^2)`` over pairs i < j; the lower, the more evenly spread, 0 if all are equal.

    Exact, in tiles above the diagonal: O(tile ** 2) memory.

    Args:
        x: (N, D), N at least 2.
        t: as in the paper 2; some libraries use 1.
        normalize: on unit rows.
        tile: rows and columns of a tile.
    """
    x = prepared(x, "x", normalize)
    n = len(x)
    if n < 2:
        raise ValueError("uniformity needs at least 2 rows, got 1")
    square = x.square().sum(1)
    parts: list[Tensor] = []
    for rows in spans(n, tile):
        for columns in spans(n, tile):
            if columns.start < rows.start:
                continue
            distance = square[rows, None] + square[None, columns] - 2.0 * (x[rows] @ x[columns].T)
            exponent = distance.clamp_min_(0.0).mul_(-t)
            if columns.start == rows.start:
                i = torch.arange(len(exponent), device=x.device)
                exponent.masked_fill_(i[:, None] >= i[None, :], -torch.inf)
            parts.append(exponent.logsumexp((0, 1)).double())
    return float(torch.stack(parts).logsumexp(0)) - math.log(n * (n - 1) / 2)


def effective_rank(x: Tensor, *, normalize: bool = False, centre: bool = False) -> float:
    """RankMe: the exponential of the entropy of the singular values, from 1 to min(N, D).

    Computed from the D x D (or N x N) matrix of products in float64. The paper adds 1e-7 to every share before the
    logarithm; here shares of zero count nothing.

    Args:
        x: (N, D). The paper takes representations as they are, of at least some thousand samples.
        normalize: on unit rows.
        centre: subtract the mean row first.

    Returns:
        0.0 if every row is zero (or, centred, all are equal).
    """
    x = prepared(x, "x", normalize)
    mean = x.double().mean(0) if centre else None
    if len(x) < x.shape[1]:
        whole = x.double() - mean if mean is not None else x.double()
        products = whole @ whole.T
    else:
        products = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64, device=x.device)
        for rows in spans(len(x), _ROWS):
            part = x[rows].double() - mean if mean is not None else x[rows].double()
            products.addmm_(part.T, part)
    return _entropy_rank(torch.linalg.eigvalsh(products))


def _entropy_rank(eigenvalues: Tensor) -> float:
    largest = eigenvalues.max()
    if not bool(largest > 0):
        return 0.0
    noise = torch.finfo(torch.float64).eps * len(eigenvalues)
    singular = (eigenvalues / largest).where(eigenvalues > noise * largest, 0.0).sqrt()
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def mean_similarities(
    x: Tensor, y: Tensor | None = None, *, labels: Tensor | None = None, normalize: bool = True
) -> dict[str, float]:
    """Mean similarity of positive and of negative pairs, exactly, from sums of rows: O(N D).

    Args:
        x: (N, D).
        y: (N, D), row i the positive of row i of ``x`` and every other row a negative.
        labels: (N,) whole numbers, instead of ``y``: pairs of one label are positive, all others negative.
        normalize: cosine similarity; otherwise the dot product.

    Returns:
        ``positive`` and ``negative``; NaN where there is no such pair.
    """
    x = prepared(x, "x", normalize).double()
    n = len(x)
    if (y is None) == (labels is None):
        raise ValueError("give either y, the positives, or labels")
    if y is not None:
        y = prepared(y, "y", normalize).double()
        if x.shape != y.shape:
            raise ValueError(f"x and y must have the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
        same = float((x * y).sum())
        everything = float(x.sum(0) @ y.sum(0))
        n_same, n_other = n, n * (n - 1)
    else:
        assert labels is not None
        _, group, size = torch.unique(one_per_row(labels, x, "labels"), return_inverse=True, return_counts=True)
        per_group = x.new_zeros((len(size), x.shape[1])).index_add_(0, group, x)
        itself = float(x.square().sum())
        same = float(per_group.square().sum()) - itself
        everything = float(x.sum(0).square().sum()) - itself
        n_same = int((size * (size - 1)).sum())
        n_other = n * (n - 1) - n_same
    return {
        "positive": same / n_same if n_same else math.nan,
        "negative": (everything - same) / n_other if n_other else math.nan,
    }


def spread(x: Tensor) -> Tensor:
    """Deviation of every dimension of the unit rows, (D,) float64; about ``1 / sqrt(D)`` if they are spread evenly.

    Args:
        x: (N, D).
    """
    x = unit_rows(checked(x, "x")).double()
    return x.std(0, unbiased=False)


@dataclass(frozen=True, slots=True)
class Collapse:
    """What :func:`collapse` found."""

    rows: int
    dim: int
    std: float
    """Mean over dimensions of the deviation of unit rows, in units of ``1 / sqrt(dim)``: 0 when all rows point the same
    way, 1 when they are spread evenly. The alarm is at 0.1."""
    effective_rank: float
    """Of the rows as they are, see :func:`effective_rank`."""
    directions: float
    """Effective rank of the centred unit rows: how many directions tell rows apart."""
    similarity: float
    """Mean cosine similarity of two different rows."""
    nonfinite: int
    """Rows with NaN or infinity; left out of everything else."""

    @property
    def complete(self) -> bool:
        """Whether all rows are practically the same."""
        return self.std < COLLAPSED

    @property
    def on_a_line(self) -> bool:
        """Whether rows differ in one direction only, although there is room for more."""
        return not self.complete and self.dim >= 8 and self.rows >= 16 and self.directions < 1.5

    @property
    def collapsed(self) -> bool:
        """Whether there is reason to worry."""
        return self.nonfinite > 0 or self.complete or self.on_a_line

    def explain(self) -> str:
        """One paragraph for a person: what is the matter, what it means, what to try."""
        numbers = (
            f"two different examples have a similarity of {self.similarity:.3f} on average, the spread is "
            f"{self.std:.3f} of an even one"
        )
        directions = f"{self.directions:.1f} of {self.dim} directions are in use"
        if self.nonfinite:
            return (
                f"{self.nonfinite} of {self.rows} representations contain NaN or infinity: nothing can be read from "
                "them. Lower optimiser.lr or set engine.clip_norm."
            )
        if self.complete:
            return (
                f"the representation has collapsed: nearly every example gets the same embedding ({numbers}). "
                "The loss may look excellent, but the embeddings cannot tell examples apart. What to try: an objective "
                "with negatives (ntxent, infonce) or with a spread term (vicreg); for byol and simsiam, keep the "
                "predictor and the stop-gradient; a lower learning rate; a larger batch."
            )
        if self.on_a_line:
            return (
                f"the representation has collapsed onto a line: examples differ in one direction only ({directions}). "
                "What to try: a term that decorrelates (vicreg, barlow), a higher temperature, weaker weight decay, "
                "a projection head in training."
            )
        return f"no sign of collapse: {numbers}, {directions}."


def collapse(x: Tensor) -> Collapse:
    """Whether a representation has collapsed, and the numbers that say so.

    Complete collapse: the deviation per dimension of the unit rows is below ``0.1 / sqrt(D)`` on average.

    Args:
        x: (N, D), some hundred different samples, N at least 2. Numbers that are not finite are reported, not raised.
    """
    if x.ndim != 2 or len(x) < 2 or x.shape[1] == 0:
        raise ValueError(f"x must have shape (N, D) with N at least 2, got {tuple(x.shape)}")
    good = torch.isfinite(x).all(1)
    rows, dim = x.shape
    broken = rows - int(good.sum())
    x = x[good]
    if len(x) < 2:
        return Collapse(rows, dim, 0.0, 0.0, 0.0, 1.0, broken)
    unit = unit_rows(x).double()
    relative = float(unit.std(0, unbiased=False).mean()) * math.sqrt(dim)
    n = len(unit)
    similar = (float(unit.sum(0).square().sum()) - float(unit.square().sum())) / (n * (n - 1))
    return Collapse(
        rows, dim, relative, effective_rank(x), effective_rank(unit, centre=True), similar, broken
    )  # fmt: skip


__all__ = [
    "COLLAPSED", "Collapse", "alignment", "collapse", "effective_rank", "mean_similarities", "spread",
    "uniformity",
]  # fmt: skip
