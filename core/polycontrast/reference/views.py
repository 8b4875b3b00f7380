"""Altered views of rows and images, drawn per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from polycontrast.data import normal, uniform


def noisy(x: Tensor, draw: Tensor, std: float, *, stream: int) -> Tensor:
    """Normal noise added.

    Args:
        x: (B, ...).
        draw: (B,) keys of randomness, ``batch["draw"]``.
        std: of the noise.
        stream: different streams give different noise.
    """
    return x + std * normal(draw, x[0].numel(), stream=stream).view_as(x) if std else x


def dropped(x: Tensor, draw: Tensor, share: float, *, stream: int) -> Tensor:
    """A share of the values set to 0; arguments as in :func:`noisy`."""
    if not share:
        return x
    return x * (uniform(draw, x[0].numel(), stream=stream).view_as(x) >= share)


def shifted(x: Tensor, draw: Tensor, most: int, fill: float | Tensor, *, stream: int) -> Tensor:
    """Images moved by up to ``most`` pixels in either direction of both axes.

    Args:
        x: (B, ..., H, W).
        draw: (B,) keys.
        most: pixels.
        fill: what comes in at the border.
        stream: see :func:`noisy`.
    """
    if not most:
        return x
    height, width = x.shape[-2:]
    step = (uniform(draw, 2, stream=stream) * (2 * most + 1)).long() - most
    shape = (len(x), *(1,) * (x.ndim - 3))
    rows = (torch.arange(height, device=x.device) + step[:, :1]).view(*shape, height, 1)
    columns = (torch.arange(width, device=x.device) + step[:, 1:]).view(*shape, 1, width)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(-2)
    moved = x.flatten(-2).gather(-1, flat.expand(*x.shape[:-2], -1)).view_as(x)
    return torch.where(inside, moved, fill)
