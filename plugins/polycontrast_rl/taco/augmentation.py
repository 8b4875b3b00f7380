"""Random shift of images, exact on uint8."""

from __future__ import annotations

import torch
from torch import Tensor

from polycontrast.data import uniform


def draw_shifts(draw: Tensor, pad: int, *, stream: int) -> Tensor:
    """Shifts (B, 2) int64, uniform on 0 to ``2 pad``, horizontal first; one per key of ``draw`` and stream."""
    return (uniform(draw, 2, stream=stream) * (2 * pad + 1)).long()


def random_shift(x: Tensor, shift: Tensor, pad: int = 4) -> Tensor:
    """Repeat the border ``pad`` times around every image and crop back at its own offset.

    DrQ-v2 samples a shifted grid bilinearly, which is this crop in exact arithmetic and off by up to 3e-3 grey levels
    in float32.

    Args:
        x: (B, C, H, W) images of any dtype.
        shift: (B, 2) int64 in 0 to ``2 pad``: columns, then rows. ``pad`` leaves an image where it is.
        pad: largest displacement in pixels. 0 returns ``x``.

    Returns:
        (B, C, H, W), a new tensor of the dtype of ``x``.

    Source: Yarats et al. 2022 (DrQ-v2), arXiv 2107.09645, section 3.1.
    """
    if pad == 0:
        return x
    b, c, h, w = x.shape
    wide = w + 2 * pad
    lines = x.new_empty(b * c * h, wide)
    flat = x.reshape(-1, w)
    lines[:, pad:-pad] = flat
    lines[:, :pad] = flat[:, :1]
    lines[:, -pad:] = flat[:, -1:]
    # Every line of the result is w neighbours in memory: one gather of whole lines instead of one of pixels.
    row = (torch.arange(h, device=x.device) + shift[:, 1:] - pad).clamp_(0, h - 1)
    first = torch.arange(b * c, device=x.device).view(b, c, 1) * h
    start = (first + row.unsqueeze(1)) * wide + shift[:, :1].unsqueeze(1)
    windows = lines.view(-1).as_strided((lines.numel() - w + 1, w), (1, 1))
    return windows.index_select(0, start.flatten()).view(x.shape)
