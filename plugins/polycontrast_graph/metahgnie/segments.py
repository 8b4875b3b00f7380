"""Incidences of a hypergraph, sorted once both ways, and attention over them without a dense matrix.

All pairs of one hyperedge (or of one node) lie side by side, so that a softmax over them is a few passes over
contiguous memory, and a weighted sum of rows is a gather fused with a reduction. Pairs are handled in blocks of about
``chunk_size``; what a block computes is computed again in the backward pass instead of being kept, so peak memory
beyond inputs, outputs and one number per pair and head does not grow with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 8192
"""Pairs per block that fill, but do not overflow, the cache of a CPU core; a GPU likes 100 times as many."""


@dataclass(frozen=True)
class Segments:
    """Pairs (row, column) sorted by row, and the same pairs sorted by column.

    Made by :meth:`of`. A row is what a softmax runs over: its pairs are ``ptr[row]`` to ``ptr[row + 1]``.
    """

    ptr: Tensor
    """(R + 1,) where the pairs of each row begin."""
    row: Tensor
    """(P,) row of each pair, ascending."""
    column: Tensor
    """(P,) column of each pair."""
    back_ptr: Tensor
    """(C + 1,) where the pairs of each column begin in the other order."""
    back: Tensor
    """(P,) the pairs in the other order."""
    longest: int
    """Pairs of the longest row."""

    @classmethod
    def of(cls, row: Tensor, column: Tensor, rows: int, columns: int) -> Segments:
        """Sort pairs.

        Args:
            row: (P,) int64 below ``rows``.
            column: (P,) int64 below ``columns``.
            rows: number of rows, R.
            columns: number of columns, C.
        """
        # Within a row by column: then the order in which pairs were given changes no sum.
        order = torch.argsort(row * columns + column)
        row, column = row[order], column[order]
        counts = torch.bincount(row, minlength=rows)
        back = torch.argsort(column, stable=True)
        return cls(
            ptr=_starts(counts), row=row, column=column, back_ptr=_starts(torch.bincount(column, minlength=columns)),
            back=back, longest=int(counts.max()) if len(counts) else 0,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """R."""
        return len(self.ptr) - 1

    @property
    def columns(self) -> int:
        """C."""
        return len(self.back_ptr) - 1

    def __len__(self) -> int:
        """P."""
        return len(self.row)

    def counts(self) -> Tensor:
        """(R,) pairs of each row."""
        return self.ptr.diff()

    def to(self, device: torch.device) -> Segments:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("ptr", "row", "column", "back_ptr", "back")}
        return Segments(**moved, longest=self.longest)

    def blocks(self, chunk_size: int | None) -> Iterator[tuple[int, int, int, int]]:
        """Stretches (first row, last row + 1, first pair, last pair + 1) of about ``chunk_size`` pairs.

        A row is never cut: a block is longer only where a single row is. None: one block.
        """
        if chunk_size is None or len(self) <= chunk_size:
            yield 0, self.rows, 0, len(self)
            return
        wanted = torch.arange(0, len(self), chunk_size, device=self.ptr.device)
        rows = [*torch.searchsorted(self.ptr, wanted).unique().tolist(), self.rows]
        pairs = self.ptr[rows].tolist()
        for k in range(len(rows) - 1):
            if rows[k] < rows[k + 1]:
                yield rows[k], rows[k + 1], pairs[k], pairs[k + 1]


def _starts(counts: Tensor) -> Tensor:
    return F.pad(counts.cumsum(0), (1, 0))


def segment_softmax(e: Tensor, ptr: Tensor, row: Tensor, *, eps: float = 0.0) -> Tensor:
    """Softmax over the pairs of each row, ``exp(e - max) / (sum + eps)``. The backward pass needs the result alone.

    Args:
        e: (P, H) scores of pairs sorted by row.
        ptr: (R + 1,) where rows begin.
        row: (P,) row of each pair.
        eps: added to the denominator.

    Returns:
        (P, H), each row's pairs summing to 1.
    """
    return _SegmentSoftmax.apply(e, ptr, row, eps)


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, ptr: Tensor, row: Tensor, eps: float) -> Tensor:
        alpha = e.clone()
        _softmax_(alpha, ptr, row, eps)
        ctx.save_for_backward(alpha, ptr, row)
        return alpha

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        alpha, ptr, row = ctx.saved_tensors
        return _softmax_backward(alpha, grad.clone(), ptr, row), None, None, None


def _reduce(x: Tensor, ptr: Tensor, how: str) -> Tensor:
    """(P, ...) sorted by row to (R, ...); an empty row gives 0 for sums and -inf for maxima."""
    return torch.segment_reduce(x, how, offsets=ptr, axis=0)


def _softmax_(e: Tensor, ptr: Tensor, row: Tensor, eps: float) -> Tensor:
    """In place; returns ``max + log(sum + eps)`` (R, H), from which weights can be made again."""
    top = _reduce(e, ptr, "max")
    e.sub_(top.index_select(0, row)).exp_()
    total = _reduce(e, ptr, "sum").add_(eps)
    e.div_(total.index_select(0, row))
    return top.add_(total.log_())


def _softmax_backward(alpha: Tensor, grad: Tensor, ptr: Tensor, row: Tensor) -> Tensor:
    """``alpha (grad - sum over the row of alpha grad)``; overwrites ``grad``."""
    grad.mul_(alpha)
    mean = _reduce(grad, ptr, "sum")
    return grad.sub_(alpha * mean.index_select(0, row))


def segment_sum(values: Tensor, segments: Segments) -> Tensor:
    """Sum of the rows of ``values`` that each row of ``segments`` is paired with: (C, K) to (R, K)."""
    return _SegmentSum.apply(values, segments)


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, s: Segments) -> Tensor:
        ctx.segments = s
        return _bag(values, s.column, s.ptr)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        s: Segments = ctx.segments
        return _bag(grad.contiguous(), s.row.index_select(0, s.back), s.back_ptr), None


def _bag(values: Tensor, index: Tensor, ptr: Tensor, weight: Tensor | None = None) -> Tensor:
    """``out[r] = sum over p in row r of weight[p] values[index[p]]``, gathered and summed in one pass."""
    if len(index) == 0:
        return values.new_zeros(len(ptr) - 1, values.shape[1])
    return F.embedding_bag(index, values, ptr, mode="sum", per_sample_weights=weight, include_last_offset=True)


def _heads_bag(values: Tensor, index: Tensor, ptr: Tensor, weight: Tensor) -> Tensor:
    """:func:`_bag` by head: values (C, H, D) and weight (P, H) to (R, H, D)."""
    parts = [_bag(values[:, h].contiguous(), index, ptr, weight[:, h].contiguous()) for h in range(values.shape[1])]
    return torch.stack(parts, 1)


def _dots(left: Tensor, left_at: Tensor, right: Tensor, right_at: Tensor, chunk_size: int | None) -> Tensor:
    """(P, H): inner products of ``left[left_at]`` and ``right[right_at]``, both (., H, D)."""
    out = left.new_empty(len(left_at), left.shape[1])
    size = chunk_size or max(len(left_at), 1)
    for i in range(0, len(left_at), size):
        part = left.index_select(0, left_at[i : i + size])
        part.mul_(right.index_select(0, right_at[i : i + size]))
        torch.sum(part, -1, out=out[i : i + size])
    return out


def attend(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, *, scale: float, chunk_size: int | None = CHUNK
) -> tuple[Tensor, Tensor]:
    """Dot-product attention of every row over its columns.

    Args:
        query: (R, H, D), one per row.
        key: (C, H, D), one per column.
        value: (C, H, D), one per column.
        segments: the pairs.
        scale: multiplies the inner products.
        chunk_size: pairs per block; changes nothing but memory and speed.

    Returns:
        (R, H, D), zero for a row without pairs, and the weights (P, H), which carry no gradient.
    """
    return _Attend.apply(query, key, value, segments, scale, chunk_size)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, s: Segments, scale: float, chunk_size: int | None
    ) -> tuple[Tensor, Tensor]:
        alpha = _dots(query, s.row, key, s.column, chunk_size).mul_(scale)
        _softmax_(alpha, s.ptr, s.row, 0.0)
        ctx.save_for_backward(query, key, value, alpha)
        ctx.how = s, scale, chunk_size
        ctx.mark_non_differentiable(alpha)
        return _heads_bag(value, s.column, s.ptr, alpha), alpha

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        query, key, value, alpha = ctx.saved_tensors
        s, scale, chunk_size = ctx.how
        back_row = s.row.index_select(0, s.back)
        grad_e = _softmax_backward(alpha, _dots(grad, s.row, value, s.column, chunk_size), s.ptr, s.row).mul_(scale)
        grad_query = _heads_bag(key, s.column, s.ptr, grad_e) if ctx.needs_input_grad[0] else None
        grad_key = _heads_bag(query, back_row, s.back_ptr, grad_e.index_select(0, s.back))
        grad_value = _heads_bag(grad, back_row, s.back_ptr, alpha.index_select(0, s.back))
        return grad_query, grad_key, grad_value, None, None, None


def additive_attend(
    score: Tensor, type_score: Tensor, value: Tensor, segments: Segments, kind: Tensor, *, slope: float, eps: float,
    dropout: float = 0.0, seed: int = 0, chunk_size: int | None = CHUNK,
) -> Tensor:  # fmt: skip
    """Attention of every row over its columns by ``LeakyReLU(score[column] + type_score[kind[row]])``, by head.

    Args:
        score: (C, H), one number per column and head.
        type_score: (T, H), one per kind of row and head: computed once per kind, never once per row.
        value: (C, H, W).
        segments: the pairs.
        kind: (R,) kind of each row.
        slope: of the leaky rectifier.
        eps: added to the denominator of the softmax.
        dropout: share of weights set to zero, the rest scaled up.
        seed: of the dropout, so that the backward pass can draw it again.
        chunk_size: pairs per block; changes nothing but memory and speed, and which weights drop out.

    Returns:
        (R, H, W), zero for a row without pairs.
    """
    how = (segments, kind, slope, eps, dropout, seed, chunk_size)
    return _AdditiveAttend.apply(score, type_score, value, *how)


class _AdditiveAttend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, score: Tensor, type_score: Tensor, value: Tensor, s: Segments, kind: Tensor, slope: float,
        eps: float, dropout: float, seed: int, chunk_size: int | None,
    ) -> Tensor:  # fmt: skip
        out = value.new_empty(s.rows, *value.shape[1:])
        shift = score.new_empty(s.rows, score.shape[1])  # max + log(sum + eps): all that backward needs
        both = torch.cat([score, value.flatten(1)], 1)  # gathered in one go
        for number, (a, b, i, j) in enumerate(s.blocks(chunk_size)):
            ptr, row = s.ptr[a : b + 1] - i, s.row[i:j] - a
            e, v = both.index_select(0, s.column[i:j]).split([score.shape[1], both.shape[1] - score.shape[1]], 1)
            e = F.leaky_relu(e + type_score.index_select(0, kind[a:b]).index_select(0, row), slope, inplace=True)
            top = _reduce(e, ptr, "max")
            e.sub_(top.index_select(0, row)).exp_()
            total = _reduce(e, ptr, "sum").add_(eps)
            if dropout:
                e.mul_(_kept(e, dropout, seed + number))
            weighted = v.unflatten(1, value.shape[1:]) * e.unsqueeze(2)
            out[a:b] = _reduce(weighted, ptr, "sum").div_(total.unsqueeze(2))
            shift[a:b] = top.add_(total.log_())
        ctx.save_for_backward(score, type_score, value, kind, shift, out)
        ctx.how = s, slope, dropout, seed, chunk_size
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        score, type_score, value, kind, shift, out = ctx.saved_tensors
        s, slope, dropout, seed, chunk_size = ctx.how
        heads, width = value.shape[1:]
        by_both, by_type = score.new_zeros(len(score), heads + heads * width), torch.zeros_like(type_score)
        both = torch.cat([score, value.flatten(1)], 1)
        # The sum over a row of alpha times its gradient is <grad, out>, known before any pair is looked at.
        rows = torch.cat([shift, (grad * out).sum(2), grad.flatten(1)], 1)
        for number, (a, b, i, j) in enumerate(s.blocks(chunk_size)):
            ptr, row, column = s.ptr[a : b + 1] - i, s.row[i:j] - a, s.column[i:j]
            e, v = both.index_select(0, column).split([heads, heads * width], 1)
            e = F.leaky_relu(e + type_score.index_select(0, kind[a:b]).index_select(0, row), slope, inplace=True)
            down, mean, upstream = rows[a:b].index_select(0, row).split([heads, heads, heads * width], 1)
            alpha = (e - down).exp_()
            pairs = alpha.new_empty(j - i, heads + heads * width)
            kept = alpha * _kept(alpha, dropout, seed + number) if dropout else alpha
            by_value = pairs[:, heads:].unflatten(1, (heads, width))
            torch.mul(upstream.unflatten(1, (heads, width)), kept.unsqueeze(2), out=by_value)
            # alpha (mask <grad, value> - mean), the first part as <by_value, value>.
            grad_e = pairs[:, heads:] * v if width == 1 else (by_value * v.unflatten(1, (heads, width))).sum(2)
            grad_e.sub_(alpha.mul_(mean))
            pairs[:, :heads] = torch.ops.aten.leaky_relu_backward(grad_e, e, slope, True)
            by_both.index_add_(0, column, pairs)
            by_type.index_add_(0, kind[a:b], _reduce(pairs[:, :heads].contiguous(), ptr, "sum"))
        return by_both[:, :heads], by_type, by_both[:, heads:].unflatten(1, (heads, width)), *[None] * 7


def _kept(like: Tensor, rate: float, seed: int) -> Tensor:
    """0 or 1 / (1 - rate), the same for the same seed."""
    return keep(like, rate, torch.Generator(like.device).manual_seed(seed)).to(like.dtype).div_(1 - rate)


def keep(like: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """(...) bool, false with probability ``rate``; on a CPU in steps of 2^-16, as 64 random bits serve 4 entries."""
    if like.device.type != "cpu":
        return torch.empty(like.shape, dtype=torch.bool, device=like.device).bernoulli_(1 - rate, generator=generator)
    count = like.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return (bits.view(torch.int16)[:count] >= round(rate * 2**16) - 2**15).view(like.shape)


def drop(x: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout. On a CPU several times as fast as torch's, whose random numbers cost more than a linear map."""
    if not training or rate == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    return _Drop.apply(x, rate)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        kept = keep(x, rate)
        ctx.save_for_backward(kept)
        ctx.rate = rate
        return torch.where(kept, x, 0.0).mul_(1 / (1 - rate))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return torch.where(ctx.saved_tensors[0], grad, 0.0).mul_(1 / (1 - ctx.rate)), None


@dataclass(frozen=True)
class Incidence:
    """A typed hypergraph, ready for attention in both directions.

    Hyperedges with one member and nodes with one hyperedge leave a softmax nothing to choose; they are kept apart and
    handled in closed form (weight 1). Hyperedges are renumbered: those of two and more members come first.
    """

    nodes: int
    """N."""
    kinds: int
    """T, the number of types."""
    kind: Tensor
    """(M,) type of each hyperedge."""
    given: Tensor
    """(M,) number of each hyperedge as it was given."""
    memberships: Segments
    """Rows are nodes, columns hyperedges."""
    degree: Tensor
    """(N,) hyperedges of each node."""
    shared: Segments
    """Rows are the hyperedges of two and more members, columns positions in ``sharing``."""
    sharing: Tensor
    """The nodes in them."""
    alone: Tensor
    """The member of each hyperedge that has but one, in order."""
    choices: Segments
    """Rows are the nodes in two and more hyperedges, in the order of ``choosing``; columns positions in ``offered``."""
    choosing: Tensor
    """Those nodes."""
    offered: Tensor
    """The hyperedges that they are in."""
    decided: Tensor
    """The hyperedge of each node that is in but one, in order."""
    place: Tensor
    """(N,) where each node stands when the choosing are followed by the decided and a row for those in none."""

    @classmethod
    def of(cls, hyperedge_index: Tensor, hyperedge_type: Tensor, nodes: int, kinds: int | None = None) -> Incidence:
        """Sort a hypergraph.

        Args:
            hyperedge_index: (2, P) int64, node and hyperedge of each pair, in any order, none twice.
            hyperedge_type: (M,) int64. A hyperedge without members is left out.
            nodes: N.
            kinds: number of types. None: up to the highest that occurs.
        """
        node, edge = hyperedge_index
        size = torch.bincount(edge, minlength=len(hyperedge_type))
        many, one = (size > 1).nonzero().squeeze(1), (size == 1).nonzero().squeeze(1)
        given = torch.cat([many, one])
        number = torch.empty_like(hyperedge_type).index_copy_(0, given, torch.arange(len(given), device=given.device))
        edge = number[edge]
        memberships = Segments.of(node, edge, nodes, len(given))
        degree = memberships.counts()
        shared, sharing = _renumbered(Segments.of(edge, node, len(given), nodes), len(many))
        alone = torch.empty_like(one).index_copy_(0, edge[edge >= len(many)] - len(many), node[edge >= len(many)])
        choosing = (degree > 1).nonzero().squeeze(1)
        decided = memberships.column[memberships.ptr[:-1][degree == 1]]
        inside = degree[memberships.row] > 1
        offered, column = memberships.column[inside].unique(return_inverse=True)
        row = ((degree > 1).cumsum(0) - 1)[memberships.row[inside]]
        place = torch.where(degree > 1, (degree > 1).cumsum(0) - 1, len(choosing) + (degree == 1).cumsum(0) - 1)
        return cls(
            nodes=nodes, kind=hyperedge_type[given], given=given, memberships=memberships, degree=degree,
            kinds=kinds if kinds is not None else int(hyperedge_type.max()) + 1 if len(given) else 0,
            shared=shared, sharing=sharing, alone=alone,
            choices=Segments.of(row, column, len(choosing), len(offered)), choosing=choosing, offered=offered,
            decided=decided, place=torch.where(degree == 0, len(choosing) + len(decided), place),
        )  # fmt: skip

    @property
    def edges(self) -> int:
        """M."""
        return len(self.kind)

    def to(self, device: torch.device) -> Incidence:
        """The same on a device."""
        moved: dict[str, Any] = {k: v if isinstance(v, int) else v.to(device) for k, v in vars(self).items()}
        return Incidence(**moved)

    def at_nodes(self, choosing: Tensor, decided: Tensor) -> Tensor:
        """(N, ...) from what the choosing and the decided nodes get; zero for nodes in no hyperedge."""
        if len(choosing) == self.nodes:
            return choosing
        parts = [choosing, decided]
        if len(choosing) + len(decided) < self.nodes:
            parts.append(decided.new_zeros(1, *decided.shape[1:]))
        return torch.cat(parts).index_select(0, self.place)


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Some rows, given in ascending order; no copy when they are all."""
    return x if len(rows) == len(x) else x.index_select(0, rows)


def _renumbered(s: Segments, rows: int) -> tuple[Segments, Tensor]:
    """The first rows, their columns numbered without gaps, and what these were before."""
    end = int(s.ptr[rows])
    columns, column = s.column[:end].unique(return_inverse=True)
    return Segments.of(s.row[:end], column, rows, len(columns)), columns


__all__ = [
    "CHUNK", "Incidence", "Segments", "additive_attend", "attend", "drop", "keep", "segment_softmax", "segment_sum",
    "take",
]  # fmt: skip
