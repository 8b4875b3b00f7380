"""Which candidates are no negatives: composable filters that work tile by tile, from vectors of ids.

A filter holds what it knows of the rows by role: ``query`` (the anchors), ``positive`` (their candidates; default:
the same as ``query``) and ``negative`` (extra candidates). A loss asks it for the mask between two lists of roles.
The true positive of an anchor is never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from polycontrast.losses.block import TileMask
from polycontrast.losses.common import Peers, check_choice, upcast

IGNORE = -100
"""The label or id that agrees with nothing, not even itself."""

Role = Literal["query", "positive", "negative"]


class Filter(Protocol):
    """What a loss asks of a filter."""

    def mask(self, rows: Sequence[Role], columns: Sequence[Role], peers: Peers) -> TileMask:
        """The mask between rows of this process and candidates of all."""
        ...


# ---- masks -------------------------------------------------------------------------------------------------------


@dataclass
class SameIds:
    """Left out where ids agree (or, with ``keep``, where they differ); the id -100 agrees with nothing.

    Args:
        rows: ``(n,)`` or ``(n, k)`` integers; with k ids, rows agree when any of the k does.
        columns: the same of the candidates.
        keep: leave out everything else instead.
    """

    rows: Tensor
    columns: Tensor
    keep: bool = False
    symmetric: bool = False
    mutual: bool = True

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """True = left out."""
        left, right = self.rows[rows], self.columns[columns]
        if left.ndim == 1:
            agree = (left.unsqueeze(1) == right) & (left != IGNORE).unsqueeze(1)
        else:
            agree = ((left.unsqueeze(1) == right) & (left != IGNORE).unsqueeze(1)).any(-1)
        return ~agree if self.keep else agree


@dataclass
class DenseMask:
    """A mask that somebody already has as a matrix, ``(n, m)``, True = left out."""

    matrix: Tensor
    symmetric: bool = False
    mutual: bool = True

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """True = left out."""
        return self.matrix[rows, columns].clone()


@dataclass
class PairMask:
    """Left out: listed pairs, sorted by row."""

    rows: Tensor
    columns: Tensor
    symmetric: bool = False
    mutual: bool = True

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """True = left out."""
        ends = torch.searchsorted(self.rows, self.rows.new_tensor([rows.start, rows.stop]))
        part = slice(int(ends[0]), int(ends[1]))
        i, j = self.rows[part] - rows.start, self.columns[part] - columns.start
        inside = (j >= 0) & (j < columns.stop - columns.start)
        mask = torch.zeros(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.bool, device=i.device)
        mask[i[inside], j[inside]] = True
        return mask


@dataclass
class _GuideMask:
    rows: Tensor
    columns: Tensor
    limit: Tensor
    symmetric: bool = False
    mutual: bool = False

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return self.rows[rows] @ self.columns[columns].T > self.limit[rows].unsqueeze(1)


# ---- filters -----------------------------------------------------------------------------------------------------


class _ByRole:
    """Tensors by role, gathered over processes in the order in which losses lay out candidates."""

    def __init__(self, query: Tensor, positive: Tensor | None, negative: Tensor | None) -> None:
        self._by_role = {"query": query, "positive": query if positive is None else positive, "negative": negative}

    def _of(self, roles: Sequence[Role], peers: Peers | None = None) -> Tensor:
        parts = []
        for role in roles:
            part = self._by_role[role]
            if part is None:
                raise ValueError(f"{type(self).__name__} knows nothing of the extra negatives: give it negative=...")
            parts.append(part.detach() if peers is None else peers.facts(part))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Duplicates(_ByRole):
    """Leave out candidates with the anchor's id: copies of one sample, or captions of one image.

    Args:
        query: ``(N,)`` ids, or ``(N, k)`` with several ids per row, one of which must agree; -100 agrees with nothing.
        positive: ids of the candidates, default the same.
        negative: ids of the extra negatives, where there are any.
    """

    def __init__(self, query: Tensor, positive: Tensor | None = None, negative: Tensor | None = None) -> None:
        super().__init__(query, positive, negative)

    def mask(self, rows: Sequence[Role], columns: Sequence[Role], peers: Peers) -> TileMask:
        """See :class:`Filter`."""
        return SameIds(self._of(rows), self._of(columns, peers), symmetric=list(rows) == list(columns))


class SameLabel(Duplicates):
    """Leave out candidates of the anchor's class; -100 agrees with nothing. Arguments as Duplicates."""


class Guide(_ByRole):
    """Leave out candidates that a guide model finds about as similar to the anchor as its own positive.

    With guide similarity ``g`` (cosine) a candidate goes when ``g_ij > g_ii - margin`` (``absolute``) or
    ``g_ij > g_ii - margin |g_ii|`` (``relative``). ``g_ii`` is that of anchor and positive, in every block.
    (GISTEmbed, arXiv 2402.16829.)

    Args:
        query: ``(N, d)`` rows of the guide for the anchors; need no unit length.
        positive: for the positives.
        negative: for the extra negatives, where there are any.
        margin: how much less similar a candidate must be to stay.
        strategy: ``absolute`` or ``relative``.
    """

    def __init__(
        self,
        query: Tensor,
        positive: Tensor,
        negative: Tensor | None = None,
        *,
        margin: float = 0.0,
        strategy: str = "absolute",
    ) -> None:
        check_choice("strategy", strategy, ("absolute", "relative"))
        unit = [None if t is None else F.normalize(upcast(t.detach()), dim=-1) for t in (query, positive, negative)]
        own = (unit[0] * unit[1]).sum(-1)  # type: ignore[operator]
        self.limit = own - margin * (own.abs() if strategy == "relative" else 1.0)
        super().__init__(*unit)  # type: ignore[arg-type]

    def mask(self, rows: Sequence[Role], columns: Sequence[Role], peers: Peers) -> TileMask:
        """See :class:`Filter`."""
        return _GuideMask(self._of(rows), self._of(columns, peers), self.limit.repeat(len(rows)))


class Neighbours(_ByRole):
    """Leave out candidates that are neighbours of the anchor in a graph.

    Args:
        edges: ``(2, E)`` pairs of ids (anchor, neighbour); list both ways for an undirected graph.
        query: ``(N,)`` ids of the rows.
        positive: ids of the candidates, default the same.
        negative: ids of the extra negatives, where there are any.
    """

    def __init__(
        self, edges: Tensor, query: Tensor, positive: Tensor | None = None, negative: Tensor | None = None
    ) -> None:
        super().__init__(query, positive, negative)
        self.edges = edges

    def mask(self, rows: Sequence[Role], columns: Sequence[Role], peers: Peers) -> TileMask:
        """See :class:`Filter`."""
        left, sources = _occurrences(self.edges[0], self._of(rows))
        right, targets = _occurrences(self.edges[1][left], self._of(columns, peers))
        i, j = sources[right], targets
        order = i.argsort()
        return PairMask(i[order], j[order])


class Listed:
    """Leave out what a boolean matrix says, True = left out, between anchors and their candidates (no other roles).

    Args:
        matrix: ``(N, M)``, rows of this process, candidates of all.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.bool()

    def mask(self, rows: Sequence[Role], columns: Sequence[Role], peers: Peers) -> TileMask:
        """See :class:`Filter`."""
        return DenseMask(self.matrix)


def _occurrences(wanted: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs (a, b) with ``wanted[a] == ids[b]``."""
    ordered, order = ids.sort(stable=True)
    wanted = wanted.contiguous()
    first = torch.searchsorted(ordered, wanted)
    many = torch.searchsorted(ordered, wanted, right=True) - first
    a = torch.arange(len(wanted), device=ids.device).repeat_interleave(many)
    within = torch.arange(len(a), device=ids.device) - (many.cumsum(0) - many).repeat_interleave(many)
    return a, order[first.repeat_interleave(many) + within]
