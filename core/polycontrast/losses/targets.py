"""What an anchor should agree with: weights over candidates, and the mean logit under them without an N x N matrix.

``sum_j T_ij <a_i, b_j> = <a_i, (T b)_i>``: class sums for labels, a few rows for sparse targets, one matrix product for
dense ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from polycontrast.losses.common import Peers, row_dot
from polycontrast.losses.filters import IGNORE


class Targets(Protocol):
    """Weights ``T`` of rows over candidates."""

    def mass(self) -> Tensor:
        """``(n,)`` sum of each row of T."""
        ...

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """``(n,)`` values ``sum_j T_ij <a_i, b_j>``, differentiable in both."""
        ...


@dataclass
class Dense:
    """A matrix ``(n, m)``."""

    matrix: Tensor

    def mass(self) -> Tensor:
        """See :class:`Targets`."""
        return self.matrix.sum(1)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """See :class:`Targets`."""
        return row_dot(a, self.matrix.to(a.dtype) @ b)


@dataclass
class Sparse:
    """A few candidates per row: ``(n, k)`` indices and weights; weights of one candidate add up; index -1 is empty."""

    index: Tensor
    weight: Tensor

    def mass(self) -> Tensor:
        """See :class:`Targets`."""
        return torch.where(self.index >= 0, self.weight, torch.zeros_like(self.weight)).sum(1)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """See :class:`Targets`."""
        total = a.new_zeros(len(a))
        if not len(b):
            return total
        for index, weight in zip(self.index.T, self.weight.T, strict=True):
            part = weight.to(a.dtype) * row_dot(a, b[index.clamp_min(0)])
            total = total + torch.where(index >= 0, part, torch.zeros_like(part))
        return total


@dataclass
class Pairs:
    """Listed positives ``(row, column)``, each of weight one."""

    rows: Tensor
    columns: Tensor
    n: int

    def mass(self) -> Tensor:
        """See :class:`Targets`."""
        return torch.bincount(self.rows, minlength=self.n)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """See :class:`Targets`."""
        values = row_dot(a[self.rows], b[self.columns])
        return a.new_zeros(self.n).index_add(0, self.rows, values)


@dataclass
class Backwards:
    """The transpose of targets whose rows and anchors are spread over processes; for the candidates of this one.

    ``sum_i T_ij <b_j, a_i> = <b_j, (T^T a)_j>``, where every process adds its rows to ``T^T a``: N x d, never N x N.

    Args:
        matrix: ``(n, m)`` rows of this process, candidates of all.
        part: the candidates of this process among all.
        peers: the processes.
    """

    matrix: Tensor
    part: slice
    peers: Peers

    def mass(self) -> Tensor:
        """See :class:`Targets`."""
        return self.peers.sum(self.matrix.sum(0))[self.part]

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """See :class:`Targets`; ``b`` are the anchors of this process."""
        spread = self.matrix.to(b.dtype).T @ b
        return row_dot(a, self.peers.total(spread)[self.part])


class ByLabel:
    """Candidates with the row's label, each of weight one; the label -100 agrees with nothing.

    Args:
        rows: ``(n,)`` labels of the rows.
        columns: ``(m,)`` labels of the candidates.
        own: ``(n,)`` candidate that is the row itself and does not count; None where there is none.
    """

    def __init__(self, rows: Tensor, columns: Tensor, own: Tensor | None = None) -> None:
        _, classes = torch.cat([rows, columns]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        self.rows, self.columns = classes[: len(rows)], classes[len(rows) :]
        self.n_classes = int(classes.max()) + 1 if len(classes) else 0
        self.valid = rows != IGNORE
        self.own = own

    def mass(self) -> Tensor:
        """See :class:`Targets`."""
        count = torch.bincount(self.columns, minlength=self.n_classes)[self.rows]
        return torch.where(self.valid, count if self.own is None else count - 1, torch.zeros_like(count))

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """See :class:`Targets`."""
        sums = b.new_zeros(self.n_classes, b.shape[1]).index_add(0, self.columns, b)
        value = row_dot(a, sums[self.rows])
        if self.own is not None:
            value = value - row_dot(a, b[self.own])
        return torch.where(self.valid, value, torch.zeros_like(value))
