"""A mean over many parts with the memory of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Part = Callable[[Tensor | None], tuple[Tensor, Tensor]]
"""From the shared tensor to the sum of a part and the number of its summands."""


def mean_over_parts(parts: Sequence[Part], parameters: Sequence[nn.Parameter], shared: Tensor | None = None) -> Tensor:
    """``sum of sums / sum of counts``, with gradients, holding the activations of one part at a time.

    A part is differentiated as soon as it is computed, so nothing is computed twice (as it would be with
    checkpointing) and the result behaves like any scalar loss afterwards, except that it has no second derivative.

    Args:
        parts: functions of ``shared``; evaluated in order.
        parameters: everything else that the parts depend on and that may learn.
        shared: a tensor that all parts start from; its gradient flows on to what made it.

    Returns:
        A scalar; 0 if nothing was counted.
    """
    learns = [p for p in parameters if p.requires_grad]
    if len(parts) == 1 or not torch.is_grad_enabled() or not learns:
        sums, counts = zip(*(part(shared) for part in parts), strict=True)
        return sum(sums) / sum(counts).clamp(min=1)

    leaf = None if shared is None else shared.detach().requires_grad_(shared.requires_grad)
    inputs: list[Tensor] = [*learns, *([leaf] if leaf is not None and leaf.requires_grad else [])]
    gradients: list[Tensor | None] = [None] * len(inputs)
    total, count = inputs[0].new_zeros(()), inputs[0].new_zeros(())
    for part in parts:
        value, n = part(leaf)
        # The sum and not the mean is differentiated: half precision would lose the gradients of a mean.
        with torch.autocast(value.device.type, enabled=False):
            new = torch.autograd.grad(value, inputs, allow_unused=True)
        gradients = [a if b is None else b if a is None else a.add_(b) for a, b in zip(gradients, new, strict=True)]
        total, count = total + value.detach(), count + n
    count = count.clamp(min=1)
    known = [(t, g / count) for t, g in zip(inputs, gradients, strict=True) if g is not None]
    through = [shared if t is leaf else t for t, _ in known]
    return _Known.apply(total / count, [g for _, g in known], *through)


class _Known(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (None, None, *(g * outer[0] for g in ctx.gradients))
