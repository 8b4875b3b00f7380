"""The tiles of a block of logits: their shape, their buffer, what is in them and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polycontrast.losses.block import Block
from polycontrast.losses.common import Tile

_TILES = {"cpu": (512, 2048), "cuda": (4096, 8192)}
_MIXED = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
"""Whether ``torch.mm`` takes ``out_dtype``."""
_TALL = 4096
"""More rows than these make tiles twice as tall: candidates and gradients pass the cache half as often."""


def tile_shape(tile: Tile, a: Tensor, square: bool) -> tuple[int, int]:
    """Rows and columns of a tile."""
    if tile is None:
        rows, columns = _TILES.get(a.device.type, _TILES["cuda"])
        if square or len(a) > _TALL:
            rows *= 2
    else:
        rows, columns = (tile, tile) if isinstance(tile, int) else tile
    if square:
        columns = rows
    if rows < 1 or columns < 1:
        raise ValueError(f"tile must be positive numbers of rows and columns, got {tile}")
    return rows, columns


def operand(x: Tensor, half: torch.dtype | None) -> Tensor:
    """Rows as they enter a product: half where asked.

    A CPU, and a torch before 2.8, would round each logit to half, too. There the rows are rounded and multiplied in
    their own precision, which gives the numbers of a half product that accumulates in float32, but none of its speed.
    """
    if half is None:
        return x
    rounded = x.to(half)
    return rounded if x.is_cuda and _MIXED else rounded.to(x.dtype)


def add_product(out: Tensor, g: Tensor, rows: Tensor) -> None:
    """``out += g @ rows``, in half where the rows are; the gradient then comes to full size first, or it underflows."""
    if rows.dtype == out.dtype:
        out.addmm_(g, rows)
    else:
        top = g.abs().amax().clamp_min(torch.finfo(g.dtype).tiny)
        out.add_(torch.mm((g / top).to(rows.dtype), rows, out_dtype=out.dtype).mul_(top))


@dataclass
class Places:
    """Where the entries ``(i, index_i)`` of one index vector lie in tiles."""

    index: Tensor
    first: int
    last: int

    @classmethod
    def of(cls, index: Tensor) -> Places:
        """Those of one index vector."""
        low, high = (int(v) for v in torch.aminmax(index)) if len(index) else (0, -1)
        return cls(index, low, high)

    def within(self, lines: slice, across: slice) -> tuple[Tensor, Tensor, Tensor] | None:
        """Lines, their numbers in the tile, and the number of ``index`` in the tile across; None when there is none."""
        if self.last < across.start or self.first >= across.stop:
            return None
        part = self.index[lines]
        inside = ((part >= across.start) & (part < across.stop)).nonzero().squeeze(1)
        if not len(inside):
            return None
        return inside + lines.start, inside, part[inside] - across.start


class Grid:
    """The tiles of a block and the logits in them."""

    def __init__(
        self, a: Tensor, b: Tensor, scale: float, block: Block, shape: tuple[int, int], neutral: float
    ) -> None:
        self.a = operand(a, block.half)
        self.b = self.a if b is a else operand(b, block.half)
        self.scale, self.block, self.shape, self.neutral = scale, block, shape, neutral
        self.positive = None if block.positive is None else Places.of(block.positive)
        self.dropped = [Places.of(index) for index in block.dropped]
        self.own = [Places.of(index) for index in block.own]
        self.buffer = a.new_empty(min(shape[0], len(a)) * min(shape[1], len(b)))
        self.spare: Tensor | None = None

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each tile, row by row; with ``same`` those on and above the diagonal."""
        n, m = len(self.a), len(self.b)
        rows, columns = self.shape
        for i in range(0, n, rows):
            for j in range(i if self.block.same else 0, m, columns):
                yield slice(i, min(i + rows, n)), slice(j, min(j + columns, m))

    def space(self, rows: slice, columns: slice) -> Tensor:
        """The buffer as a contiguous tile."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return self.buffer[: height * width].view(height, width)

    def second(self, rows: slice, columns: slice) -> Tensor:
        """Another tile, to work in."""
        if self.spare is None:
            self.spare = torch.empty_like(self.buffer)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return self.spare[: height * width].view(height, width)

    def places(self, where: Places, rows: slice, columns: slice) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """Rows of the block and their entries ``(line, column)`` of this tile."""
        found = where.within(rows, columns)
        if found is not None:
            yield found[0], (found[1], found[2])
        if self.block.same:  # the entry (j, index_j) below the diagonal is seen at (index_j, j)
            found = where.within(columns, rows)
            if found is not None:
                yield found[0], (found[2], found[1])

    def logits(self, rows: slice, columns: slice, out: Tensor) -> Tensor:
        """The tile's scaled logits, hardness included, nothing left out yet."""
        hardness, everywhere = self.block.hardness, not self.block.only_own
        steep = self.scale + hardness if everywhere else self.scale
        left, right = self.a[rows], self.b[columns].T
        if left.dtype == out.dtype:
            torch.addmm(out, left, right, beta=0, alpha=steep, out=out)
        else:
            torch.mm(left, right, out_dtype=out.dtype, out=out).mul_(steep)
        if hardness:
            factor = self.scale / steep if everywhere else 1 + hardness / self.scale
            spared = [*self.own, self.positive] if everywhere else self.own
            for where in spared:
                for _, at in () if where is None else self.places(where, rows, columns):
                    out[at] *= factor
        return out

    def leave_out(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Set what is left out to the value that adds nothing; add the log-weights."""
        weights = self.block.log_weights
        if weights is not None:
            tile += weights[columns] if weights.ndim == 1 else weights[rows, columns]
        self.hide(tile, rows, columns)

    def hide(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Set what is left out to the value that adds nothing."""
        for mask in self.block.masks:
            part = mask.tile(rows, columns)
            for _, at in () if self.positive is None else self.places(self.positive, rows, columns):
                part[at] = False
            tile.masked_fill_(part, self.neutral)
        for where in self.dropped:
            for _, at in self.places(where, rows, columns):
                tile[at] = self.neutral

    def observe(self, tile: Tensor, rows: slice, columns: slice, seen: tuple[Tensor, ...]) -> None:
        """Greatest logit beside the positives and among them, sum and number of those beside them."""
        best, best_positive, total, count = seen
        positives = torch.full_like(tile, -torch.inf)
        others = tile.clone()
        self.hide(others, rows, columns)
        if self.block.similar is not None:
            similar = self.block.similar.tile(rows, columns)
            for where in self.dropped:
                for _, at in self.places(where, rows, columns):
                    similar[at] = False
            positives = torch.where(similar, tile, positives)
            others.masked_fill_(similar, self.neutral)
        if self.positive is not None:
            for _, at in self.places(self.positive, rows, columns):
                positives[at] = tile[at]
                others[at] = self.neutral
        out = others == self.neutral
        counted = (~out).to(tile.dtype)
        flat = others.masked_fill(out, 0.0)
        others.masked_fill_(out, -torch.inf)
        for lines, dim in self.sides(rows, columns):
            best[lines] = torch.maximum(best[lines], others.amax(dim))
            best_positive[lines] = torch.maximum(best_positive[lines], positives.amax(dim))
            total[lines] += flat.sum(dim)
            count[lines] += counted.sum(dim)

    def sides(self, rows: slice, columns: slice) -> list[tuple[slice, int]]:
        """The anchors of a tile and the dimension over which their candidates lie."""
        return [(rows, 1), (columns, 0)] if self.block.same and rows != columns else [(rows, 1)]

    def seen(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where :meth:`observe` writes."""
        n = len(self.a)
        low = self.a.new_full((n,), -torch.inf)
        return low, low.clone(), self.a.new_zeros(n), self.a.new_zeros(n)
