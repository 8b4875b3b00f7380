"""Scores that are an inner product of transformed rows, so that every way of computing a loss serves them all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polycontrast.losses.common import check_choice

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Rows and candidates to the pair whose inner products are the scores: ``(n, d), (m, d) -> (n, e), (m, e)``."""
Score = str | Transform
NAMES = ("cosine", "dot", "bilinear", "l2")


def bilinear(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """``x W y`` with ``weight`` ``(d_x, d_y)``."""
    return x, y @ weight.T


def negative_squared_l2(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``-|x - y|^2 = 2 <x, y> - |x|^2 - |y|^2``, around the candidates' mean to keep digits."""
    centre = y.detach().mean(0) if len(y) else 0.0
    x, y = x - centre, y - centre
    ones = [torch.ones_like(t[:, :1]) for t in (x, y)]
    left = torch.cat([2 * x, (x * x).sum(1, keepdim=True), ones[0]], 1)
    right = torch.cat([y, -ones[1], -(y * y).sum(1, keepdim=True)], 1)
    return left, right


def transform(score: Score, x: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows and candidates as they enter the product.

    Args:
        score: ``cosine`` and ``dot`` (nothing to do), ``bilinear`` (needs ``weight``), ``l2``, or a function of rows
            and
            candidates, e.g. with a metric of its own per row: ``concat(w x, ...)``.
        x: ``(n, d)`` anchors.
        y: ``(m, d)`` candidates.
        weight: ``(d_x, d_y)`` of the bilinear score.
    """
    if not isinstance(score, str):
        return score(x, y)
    check_choice("score", score, NAMES)
    if score == "bilinear":
        if weight is None or tuple(weight.shape) != (x.shape[1], y.shape[1]):
            found = None if weight is None else tuple(weight.shape)
            raise ValueError(f"score='bilinear' needs weight of shape {(x.shape[1], y.shape[1])}, got {found}")
        return bilinear(x, y, weight.to(x.dtype))
    return negative_squared_l2(x, y) if score == "l2" else (x, y)
