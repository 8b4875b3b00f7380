"""InfoNCE against a queue of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from polycontrast.losses import tiles
from polycontrast.losses.block import Block, diagnostics
from polycontrast.losses.common import (
    Distributed,
    LogitsConfig,
    LogitsDtype,
    Loss,
    LossOutput,
    Mode,
    Peers,
    Reduction,
    Tile,
    check_finite_rows,
    check_rows,
    check_vector,
    finish,
    full_precision,
    norm_floor,
    poison,
    reduce_anchors,
    resolve_scale,
    row_dot,
    unit_rows,
    warn_once,
)
from polycontrast.losses.filters import Filter


@full_precision
def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    filters: Sequence[Filter] = (),
    temperature: float | Tensor | None = 0.2,
    scale: float | Tensor | nn.Module | None = None,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``l_i = -S(q_i, k_i) + log(exp S(q_i, k_i) + sum_j exp S(q_i, queue_j))``; no gradient to keys and queue.

    Enqueue the keys after the loss: the queue must not hold this batch. (MoCo, arXiv 1911.05722.)

    Args:
        query: ``(N, d)``.
        key: ``(N, d)`` of the slow encoder.
        queue: ``(K, d)`` valid rows of a queue, e.g. ``FeatureQueue.features``; K = 0 gives loss 0.
        filters: which rows of the queue are no negatives, by roles ``query`` and ``negative``.
        temperature: ``1 / scale``.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        normalize: rows of unit length first, those of the queue too.
        weights: ``(N,)`` weights of the queries.
        reduction: ``mean``, ``sum``, ``none``.
        return_dict: also diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile.
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"``: the mean is over the queries of all processes; every process uses the queue it is
            given.

    Raises:
        ValueError: shapes that do not fit together.
    """
    check_rows("query", query)
    check_rows("key", key, width=query.shape[1], rows=len(query))
    check_rows("queue", queue, width=query.shape[1])
    if check_finite:
        check_finite_rows(query=query, key=key, queue=queue)
    if weights is not None:
        check_vector("weights", weights, len(query))
    twice = tiles.writes_down(mode, len(query), len(queue))
    q = unit_rows(query, normalize, norm_floor(query.dtype), differentiable_twice=twice)
    k = unit_rows(key.detach(), normalize, norm_floor(key.dtype), differentiable_twice=twice).to(q.dtype)
    rows = unit_rows(queue.detach(), normalize, norm_floor(queue.dtype), differentiable_twice=twice).to(q.dtype)
    if len(rows) == 0:
        warn_once("the queue is empty: the MoCo loss is 0 and nothing is learnt from it")
    s = resolve_scale(temperature, scale, q)
    positive = s * row_dot(q, k)
    masks = tuple(f.mask(("query",), ("negative",), Peers(False)) for f in filters)
    block = Block(masks=masks, observe=return_dict)
    sums = tiles.evaluate(q, rows, s, block, mode=mode, tile=tile, logits_dtype=logits_dtype)
    empty = sums.rows == -torch.inf
    others = sums.rows.masked_fill(empty, 0.0)
    values = torch.where(empty, positive - positive, torch.logaddexp(positive, others) - positive)
    if masks:
        values = poison(values, q, k, rows)
    loss = reduce_anchors(values, reduction, weights=weights, distributed=distributed)
    if not return_dict:
        return loss
    sums = sums._replace(positive=positive, best_positive=positive.detach())
    return finish(loss, True, rows=(query, key), scale=s, diagnostics=diagnostics(sums, s))


@dataclass(frozen=True)
class MoCoConfig(LogitsConfig):
    """Options of :func:`moco`."""

    temperature: float = 0.2


class MoCo(Loss):
    """:func:`moco` as a module: ``MoCo()(query, key, queue.features)``."""

    name: ClassVar[str] = "moco"
    config_class: ClassVar[type[LogitsConfig]] = MoCoConfig
    function = staticmethod(moco)
