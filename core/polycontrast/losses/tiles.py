"""Log-sum-exps of all logits without the matrix: tile by tile, exact, with exact gradients.

One pass over the tiles gives the log-sum-exp ``r_i`` of each row and ``c_j`` of each column. Only the rows, the
candidates, ``r`` and ``c`` are saved. Backward makes each tile again and turns it into the gradient of its logits,

    G_ij = dL/dr_i exp(S_ij - r_i) + dL/dc_j exp(S_ij - c_j) + dL/dS_i,p(i) [j = p(i)],

which two matrix products take to the rows and candidates. The scale gets ``sum_i <a_i, (G b)_i>``.

Where all logits of a tile lie within reach of one shift ``k``, one exponential in place serves rows and columns;
elsewhere each axis has its own maxima (a column far below all row maxima would underflow to -inf).

``stored`` is the same with the tiles kept between forward and backward: three matrix products instead of four.
``tiled`` keeps as many as fit in 32 MB and twice the size of the inputs, and makes the others again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polycontrast.losses.block import Block, Softplus, Sums, plain, plain_softplus, unobserved
from polycontrast.losses.common import SECOND_DERIVATIVE, LogitsDtype, Mode, Tile, check_choice, half_dtype, row_dot
from polycontrast.losses.grid import Grid, add_product, tile_shape

BOUND = 40.0
"""Largest possible ``|S_ij|`` for which no shift is needed: 1e6 terms of exp(40) and exp(-40) fit float32."""
REACH = 50.0
"""Largest distance between row and column maxima of a tile for which one shift serves all."""
PLAIN_ROWS = 512
"""Up to here ``auto`` writes down the matrix."""
MEMORY_BUDGET = 64 * 2**20
"""Bytes of logits up to which ``auto`` keeps all of them between forward and backward."""
TILED_BUDGET = 32 * 2**20
"""Bytes of logits that ``tiled`` keeps between forward and backward, besides as many as two copies of the inputs
have; it makes the others again."""
_LOG2_E = 1 / math.log(2)


def choose_mode(mode: Mode, n: int, m: int, itemsize: int) -> Mode:
    """What ``auto`` means for ``n`` rows and ``m`` candidates: plain when small, stored while it fits, else tiled."""
    check_choice("mode", mode, ("auto", "plain", "stored", "tiled"))
    if mode != "auto":
        return mode
    if max(n, m) < PLAIN_ROWS:
        return "plain"
    return "stored" if n * m * itemsize <= MEMORY_BUDGET else "tiled"


def writes_down(mode: Mode, n: int, m: int) -> bool:
    """Whether the whole matrix is used, so that all must be differentiable twice, or compiled."""
    return choose_mode(mode, n, m, 4) == "plain" or torch.compiler.is_compiling()


def _exp_(tile: Tensor) -> Tensor:
    """Exponential in place; of large float32 tiles as a power of two, in a third of the time, as exact as its input."""
    large = tile.dtype == torch.float32 and tile.numel() >= 4096
    return tile.mul_(_LOG2_E).exp2_() if large else tile.exp_()


def _shift(tile: Tensor, columns: bool) -> tuple[float | None, Tensor, Tensor | None]:
    """One shift that serves all lines of a tile, or None; the maxima of the rows and columns."""
    row_top = tile.amax(1)
    column_top = tile.amax(0) if columns else None
    if tile.device.type != "cpu":  # asking would stop the device
        return None, row_top, column_top
    tops = row_top if column_top is None else torch.cat([row_top, column_top])
    high = float(tops.max())
    low = float(torch.where(tops == -torch.inf, high, tops).min())
    return (high if high - low <= REACH else None), row_top, column_top


def _finite(top: Tensor) -> Tensor:
    return torch.where(top == -torch.inf, torch.zeros_like(top), top)


def _forward_tile(
    tile: Tensor, shift: float | None, fast: bool, columns: bool
) -> tuple[Tensor, Tensor | None, float | None]:
    """Sums of exponentials (fast) or their logarithms along both axes; the tile becomes ``exp(S - shift)``."""
    if fast:
        _exp_(tile)
        return tile.sum(1), tile.new_ones(len(tile)) @ tile if columns else None, 0.0
    shift, row_top, column_top = _shift(tile, columns)
    if shift is not None and shift > -torch.inf:
        _exp_(tile.sub_(shift))
        down = (tile.new_ones(len(tile)) @ tile).log_().add_(shift) if columns else None
        return tile.sum(1).log_().add_(shift), down, shift
    row_top = _finite(row_top)
    across = _exp_(tile - row_top.unsqueeze(1)).sum(1).log_().add_(row_top)
    if column_top is None:
        return across, None, None
    column_top = _finite(column_top)
    return across, _exp_(tile - column_top).sum(0).log_().add_(column_top), None


def _factor(line: tuple[Tensor, Tensor], shift: float, fast: bool) -> Tensor:
    value, grad = line
    if fast:  # by the sum itself: its logarithm has lost digits that a converged batch needs
        return grad / value
    # where no logit of this tile reaches the line, its exponentials are 0 and the factor must only stay finite
    return grad * (shift - value).clamp_(max=80.0).exp_()


_Line = tuple[Tensor, Tensor]
"""Sum of exponentials (fast) or log-sum-exp of each row or column, and the gradient of its log-sum-exp."""


def _backward_tile(
    tile: Tensor, shift: float | None, fast: bool, across: _Line, down: _Line | None, space: Tensor | None
) -> Tensor:
    """Turn ``exp(S - shift)``, or ``S`` itself when there is no shift, into the gradient of the logits, in place."""
    if shift is not None:
        factor = _factor(across, shift, fast).unsqueeze(1)
        if down is not None:
            factor = torch.add(factor, _factor(down, shift, fast), out=space)
        return tile.mul_(factor)
    r, gr = across
    extra = None
    if down is not None:
        extra = _exp_(torch.sub(tile, down[0], out=space)).mul_(down[1])
    _exp_(tile.sub_(r.unsqueeze(1))).mul_(gr.unsqueeze(1))
    return tile if extra is None else tile.add_(extra)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, block: Block, budget: float, shape: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        n, m = len(a), len(b)
        s = float(scale)
        grid = Grid(a, b, s, block, shape, -torch.inf)
        fast = _bound(a, b, abs(s) + abs(block.hardness), block) <= BOUND
        columns = block.columns or block.same
        start = 0.0 if fast else -torch.inf
        r = a.new_full((n,), start)
        c = r if block.same else a.new_full((m if columns else 0,), start)
        positive = a.new_zeros(n)
        seen = grid.seen() if block.observe else unobserved(a)
        kept: list[Tensor | None] = []
        shifts: list[float | None] = []
        for rows, cols in grid.tiles():
            space = grid.space(rows, cols)
            budget -= space.numel() * space.element_size()
            tile = grid.logits(rows, cols, torch.empty_like(space) if budget >= 0 else space)
            if grid.positive is not None:
                for lines, at in grid.places(grid.positive, rows, cols):
                    positive[lines] = tile[at]
            if block.observe:
                grid.observe(tile, rows, cols, seen)
            grid.leave_out(tile, rows, cols)
            both = columns and not (block.same and rows == cols)
            across, down, shift = _forward_tile(tile, None, fast, both)
            for side, total, part in ((rows, r, across), (cols, c, down)):
                if part is not None:
                    total[side] = total[side].add_(part) if fast else torch.logaddexp(total[side], part)
            shifts.append(shift)
            kept.append(tile if budget >= 0 else None)
        if block.same:
            c = a.new_zeros(0)
        ctx.save_for_backward(a, b, scale, r, c)
        ctx.block, ctx.shape, ctx.shifts, ctx.kept, ctx.fast = block, shape, shifts, kept, fast
        ctx.mark_non_differentiable(*seen)
        return *((r.log(), c.log()) if fast else (r, c)), positive, *seen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        a, b, scale, r, c = ctx.saved_tensors
        block: Block = ctx.block
        gr, gc, gp = grads[:3]
        empty = 0.0 if ctx.fast else -torch.inf
        r, gr = _no_empty(r, gr, empty)
        c, gc = (r, gr) if block.same else _no_empty(c, gc, empty)
        columns = block.columns or block.same

        def gradient(grid: Grid, number: int, rows: slice, cols: slice) -> Tensor:
            shift = ctx.shifts[number]
            tile: Tensor | None = ctx.kept[number]
            ctx.kept[number] = None  # used up: a second backward makes the tile again
            if tile is None:
                tile = grid.logits(rows, cols, grid.space(rows, cols))
                grid.leave_out(tile, rows, cols)
                if shift is not None:
                    tile = _exp_(tile if shift == 0 else tile.sub_(shift))
            space = grid.second(rows, cols) if columns else None
            down = (c[cols], gc[cols]) if columns else None
            _backward_tile(tile, shift, ctx.fast, (r[rows], gr[rows]), down, space)
            if grid.positive is not None:
                for lines, at in grid.places(grid.positive, rows, cols):
                    tile[at] += gp[lines]
            return tile

        out = _products(a, b, scale, block, ctx.shape, -torch.inf, gradient, ctx.needs_input_grad)
        return (*out, None, None, None)


def _no_empty(line: Tensor, grad: Tensor, empty: float) -> tuple[Tensor, Tensor]:
    """Lines with nothing left, whose sum or log-sum-exp is ``empty``, pass no gradient and need only be finite."""
    nothing = line == empty
    return line.masked_fill(nothing, 1.0), grad.masked_fill(nothing, 0.0)


def _products(
    a: Tensor, b: Tensor, scale: Tensor, block: Block, shape: tuple[int, int], neutral: float, gradient: Any, needs: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of rows, candidates and scale from the tiles' gradients."""
    need_a, need_b, need_scale = needs[:3]
    grid = Grid(a, b, float(scale), block, shape, neutral)
    da = torch.zeros_like(a) if need_a or block.same or (need_scale and not need_b) else None
    db = None if block.same else torch.zeros_like(b) if need_b else None
    for number, (rows, cols) in enumerate(grid.tiles()):
        g = gradient(grid, number, rows, cols)
        if da is not None:
            add_product(da[rows], g, grid.b[cols])
        if block.same:
            if rows != cols and da is not None:
                add_product(da[cols], g.T, grid.a[rows])
        elif db is not None:
            add_product(db[cols], g.T, grid.a[rows])
    dscale = None
    if need_scale and da is not None:
        dscale = row_dot(a, da).sum() / (2 if block.same else 1)  # with same, each logit came by its row and its column
    elif need_scale and db is not None:
        dscale = row_dot(b, db).sum()
    s = float(scale)
    return da.mul_(s) if da is not None and need_a else None, None if db is None else db.mul_(s), dscale


def _bound(a: Tensor, b: Tensor, scale: float, block: Block) -> float:
    """No logit is larger than this."""
    if not len(a) or not len(b):
        return 0.0
    longest = [float(torch.linalg.vector_norm(x, dim=1).max()) for x in (a, b)]
    extra = 0.0 if block.log_weights is None else float(block.log_weights.abs().max())
    bound = scale * longest[0] * longest[1] + extra
    return bound if bound == bound else torch.inf


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor,
        form: Softplus,
        block: Block,
        shape: tuple[int, int],
    ) -> tuple[Tensor, ...]:
        n = len(a)
        grid = Grid(a, b, float(scale), block, shape, -form.sign * torch.inf)
        total, positive = a.new_zeros(n), a.new_zeros(n)
        seen = grid.seen() if block.observe else unobserved(a)
        for rows, cols in grid.tiles():
            tile = grid.logits(rows, cols, grid.space(rows, cols))
            if grid.positive is not None:
                for lines, at in grid.places(grid.positive, rows, cols):
                    positive[lines] = tile[at]
            if block.observe:
                grid.observe(tile, rows, cols, seen)
            grid.leave_out(tile, rows, cols)
            total[rows] += F.softplus(tile.mul_(form.sign).add_(bias[rows].unsqueeze(1))).sum(1)
        ctx.save_for_backward(a, b, scale, bias)
        ctx.form, ctx.block, ctx.shape = form, block, shape
        ctx.mark_non_differentiable(*seen)
        return total, positive, *seen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        a, b, scale, bias = ctx.saved_tensors
        sign = ctx.form.sign
        g, gp = grads[:2]
        dbias = torch.zeros_like(bias)

        def gradient(grid: Grid, number: int, rows: slice, cols: slice) -> Tensor:
            tile = grid.logits(rows, cols, grid.space(rows, cols))
            grid.leave_out(tile, rows, cols)
            tile.mul_(sign).add_(bias[rows].unsqueeze(1)).sigmoid_().mul_(g[rows].unsqueeze(1))
            dbias[rows] += tile.sum(1)
            tile.mul_(sign)
            if grid.positive is not None:
                for lines, at in grid.places(grid.positive, rows, cols):
                    tile[at] += gp[lines]
            return tile

        neutral = -sign * torch.inf
        out = _products(a, b, scale, ctx.block, ctx.shape, neutral, gradient, ctx.needs_input_grad)
        return (*out, dbias, None, None, None)


class _Ahead(torch.autograd.Function):
    """Log-sum-exps of rows, with their gradients made in the forward pass: three matrix products, nothing kept.

    Once the tiles of a row of tiles are there, so are its log-sum-exps, and with them ``P = exp(S - r)``. If all r_i
    get one gradient g, those of rows and candidates are ``g P b`` and ``g P^T a``, whatever g turns out to be.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, block: Block, shape: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        need_a, need_b, need_scale = ctx.needs_input_grad[:3]
        n, m = len(a), len(b)
        grid = Grid(a, b, float(scale), block, shape, -torch.inf)
        fast = _bound(a, b, abs(grid.scale) + abs(block.hardness), block) <= BOUND
        r = a.new_full((n,), 0.0 if fast else -torch.inf)
        positive, seen = a.new_zeros(n), grid.seen() if block.observe else unobserved(a)
        pa = torch.zeros_like(a) if need_a or need_scale else None
        pb = torch.zeros_like(b) if need_b else None
        space = a.new_empty(min(shape[0], n) * m)
        for start in range(0, n, shape[0]):
            rows = slice(start, min(start + shape[0], n))
            height = rows.stop - rows.start
            done: list[tuple[slice, Tensor, float | None]] = []
            for left in range(0, m, shape[1]):
                cols = slice(left, min(left + shape[1], m))
                tile = space[height * left : height * cols.stop].view(height, cols.stop - left)
                grid.logits(rows, cols, tile)
                if grid.positive is not None:
                    for lines, at in grid.places(grid.positive, rows, cols):
                        positive[lines] = tile[at]
                if block.observe:
                    grid.observe(tile, rows, cols, seen)
                grid.leave_out(tile, rows, cols)
                across, _, shift = _forward_tile(tile, None, fast, False)
                r[rows] = r[rows].add_(across) if fast else torch.logaddexp(r[rows], across)
                done.append((cols, tile, shift))
            line = _no_empty(r[rows], torch.ones_like(r[rows]), 0.0 if fast else -torch.inf)
            for cols, tile, shift in done if pa is not None or pb is not None else ():
                share = _backward_tile(tile, shift, fast, line, None, None)
                if pa is not None:
                    add_product(pa[rows], share, grid.b[cols])
                if pb is not None:
                    add_product(pb[cols], share.T, grid.a[rows])
        ctx.save_for_backward(a, b, scale, pa, pb)
        ctx.block, ctx.shape = block, shape
        ctx.mark_non_differentiable(*seen)
        return r.log() if fast else r, a.new_zeros(0), positive, *seen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        a, b, scale, pa, pb = ctx.saved_tensors
        g, _, gp = grads[:3]
        if len(g) and bool((g != g[0]).any()):  # the promise is broken: once more, the long way
            return (*_again(ctx, g, gp), None, None)
        need_a, _, need_scale = ctx.needs_input_grad[:3]
        g = g[:1] if len(g) else g.new_zeros(1)
        da = None if pa is None else pa * g
        db = None if pb is None else pb * g
        if ctx.block.positive is not None and len(b):
            at = ctx.block.positive.clamp_min(0)
            gp = gp.masked_fill(ctx.block.positive < 0, 0.0).unsqueeze(1)
            if da is not None:
                da.addcmul_(gp, b[at])
            if db is not None:
                db.index_add_(0, at, gp * a)
        dscale = row_dot(a, da).sum() if need_scale and da is not None else None
        return (
            da.mul_(scale) if da is not None and need_a else None,
            None if db is None else db.mul_(scale),
            dscale,
            None,
            None,
        )


def _again(ctx: Any, *grads: Tensor) -> list[Tensor | None]:
    """Gradients of rows, candidates and scale by the ordinary way, which makes every tile twice more."""
    leaves = [
        t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors[:3], ctx.needs_input_grad, strict=False)
    ]
    with torch.enable_grad():
        sums = _evaluate(*leaves, ctx.block, 0.0, ctx.shape)
        found = torch.autograd.grad((sums.rows, sums.positive), [t for t in leaves if t.requires_grad], grads)
    each = iter(found)
    return [next(each) if t.requires_grad else None for t in leaves]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _evaluate_ahead(a: Tensor, b: Tensor, scale: Tensor, block: Block, shape: tuple[int, int]) -> Sums:
    return Sums(*_Ahead.apply(a, b, scale, block, shape))  # type: ignore[no-untyped-call]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _evaluate(a: Tensor, b: Tensor, scale: Tensor, block: Block, budget: float, shape: tuple[int, int]) -> Sums:
    return Sums(*_LogSumExp.apply(a, b, scale, block, budget, shape))  # type: ignore[no-untyped-call]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _evaluate_softplus(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, form: Softplus, block: Block, shape: tuple[int, int]
) -> Sums:
    total, positive, *extra = _SoftplusSum.apply(a, b, scale, bias, form, block, shape)  # type: ignore[no-untyped-call]
    return Sums(total, a.new_zeros(0), positive, *extra)


def evaluate(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    block: Block,
    *,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
) -> Sums:
    """Log-sum-exps and positives of a block.

    Args:
        a: ``(n, d)`` rows as they enter the product (already of unit length where wanted).
        b: ``(m, d)`` candidates; with ``block.same`` the rows themselves.
        scale: 0-d.
        block: what is asked, what is left out.
        mode: ``plain`` (whole matrix, twice differentiable), ``stored`` (tiles are kept), ``tiled``, ``auto``.
        tile: rows and columns of a tile; default by device.
        logits_dtype: half precision in which rows and candidates are multiplied, see :func:`operand` of the grid.
    """
    block = replace(block, half=half_dtype(logits_dtype, a))
    mode = choose_mode(mode, len(a), len(b), a.element_size())
    if mode == "plain":
        return plain(a, b, scale, block)
    inputs = 0 if block.same else a.numel() + b.numel()
    budget = torch.inf if mode == "stored" else TILED_BUDGET and TILED_BUDGET + 2 * inputs * a.element_size()
    shape = tile_shape(tile, a, block.same)
    rows_at_once = min(shape[0], len(a)) * len(b) * a.element_size()
    wanted = block.even and not (block.columns or block.same) and torch.is_grad_enabled()
    ahead = wanted and mode == "tiled" and rows_at_once <= budget
    sums: Sums = _evaluate_ahead(a, b, scale, block, shape) if ahead else _evaluate(a, b, scale, block, budget, shape)
    return sums


def evaluate_softplus(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    form: Softplus,
    block: Block,
    *,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
) -> Sums:
    """``sum_j softplus(sign S_ij + bias_i)`` of each row in ``rows``; ``stored`` is ``tiled`` here."""
    block = replace(block, half=half_dtype(logits_dtype, a))
    mode = choose_mode(mode, len(a), len(b), a.element_size())
    if mode == "plain":
        return plain_softplus(a, b, scale, bias, form, block)
    sums: Sums = _evaluate_softplus(a, b, scale, bias, form, block, tile_shape(tile, a, False))
    return sums
