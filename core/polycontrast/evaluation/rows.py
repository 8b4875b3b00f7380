"""What every measure needs of its rows: unit length, finite numbers, each sample once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from polycontrast import distributed

Tile = tuple[int, int]
TILE: Tile = (1024, 8192)
"""Query rows and bank rows whose scores are in memory at the same time: 32 MB in float32."""


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length one, without gradient; half precision becomes float32, and a row of zeros stays one.

    Args:
        x: (N, D).
    """
    x = _wide(x.detach())
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)


def checked(x: Tensor, name: str) -> Tensor:
    """The rows without gradient, in float32 or float64.

    Args:
        x: (N, D).
        name: of the argument, for the error.

    Raises:
        ValueError: not a matrix with at least one row, or numbers that are not finite.
    """
    if x.ndim != 2 or len(x) == 0 or x.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, D) with N and D at least 1, got {tuple(x.shape)}")
    x = _wide(x.detach())
    bad = ~torch.isfinite(x).all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(f"{name} has {int(bad.sum())} rows with NaN or infinity, the first at row {row}")
    return x


def prepared(x: Tensor, name: str, normalize: bool) -> Tensor:
    """:func:`checked`, then of unit length if asked for."""
    x = checked(x, name)
    return unit_rows(x) if normalize else x


def same_width(x: Tensor, y: Tensor, names: str) -> None:
    """Raise a ValueError unless both have rows of one length."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{names} must have rows of one length, got {x.shape[1]} and {y.shape[1]}")


def one_per_row(values: Tensor, x: Tensor, name: str) -> Tensor:
    """Labels or ids (N,) int64 on the device of the rows they belong to.

    Raises:
        ValueError: not one whole number per row.
    """
    if values.shape != (len(x),) or values.is_floating_point() or values.is_complex():
        raise ValueError(
            f"{name} must be {len(x)} whole numbers, one per row, got shape {tuple(values.shape)} of {values.dtype}"
        )
    return values.to(x.device, torch.int64)


def spans(n: int, size: int) -> Iterator[slice]:
    """0..n in pieces of ``size``, the last one shorter."""
    if size < 1:
        raise ValueError(f"tile must be two positive numbers, got {size}")
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def unique_rows(ids: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Each sample once: the first row of every id, in ascending order of id.

    For what was gathered from batches that were filled up with repeated samples.

    Args:
        ids: (N,) whole numbers.
        tensors: first dimension N.

    Returns:
        The ids and the tensors, first dimension the number of different ids.
    """
    sizes = {len(t) for t in (ids, *tensors)}
    if len(sizes) > 1:
        raise ValueError(f"ids and tensors must have the same first dimension, got {sorted(sizes)}")
    order = ids.argsort(stable=True)
    ordered = ids[order]
    first = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    first[1:] = ordered[1:] != ordered[:-1]
    keep = order[first]
    return tuple(t[keep.to(t.device)] for t in (ids, *tensors))


def gathered(ids: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, each sample once, in ascending order of id; the same in every process."""
    return unique_rows(*(distributed.gather(t) for t in (ids, *tensors)))


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the deviation of one value is 0."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return float(numbers.mean()), float(numbers.std()) if len(values) > 1 else 0.0


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
