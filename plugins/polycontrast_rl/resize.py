"""Images at another size."""

from __future__ import annotations

from functools import cache

import numpy as np

from polycontrast_rl.columns import Array


def resize(picture: Array, height: int, width: int) -> Array:
    """An image (h, w, C) uint8 at another size, each new pixel the mean of the area that it covers."""
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    rows, columns = _shares(picture.shape[0], height), _shares(picture.shape[1], width)
    wide = np.tensordot(rows, picture.astype(np.float32), axes=(1, 0))  # (height, w, C)
    return (np.einsum("hwc,vw->hvc", wide, columns, optimize=True) + 0.5).astype(np.uint8)


@cache
def _shares(old: int, new: int) -> Array:
    """(new, old) share that each old pixel has in a new one."""
    edges, pixels = np.arange(new + 1) * old / new, np.arange(old)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(covered, 0)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)
