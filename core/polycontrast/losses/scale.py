"""The logit scale as a parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_SCALE = 100.0


class LogitScale(nn.Module):
    """``scale = exp(log_scale)``, learnable, kept between 1 and 100.

    Call :meth:`clamp_` after each optimiser step: a clamp in the forward pass would stop the gradient at the bound
    for ever. The parameter wants no weight decay (:meth:`no_weight_decay` names it).

    Args:
        temperature: initial ``1 / scale``; 0.07 for softmax losses, 0.1 for the sigmoid loss.
        bias: initial logit bias, used by the sigmoid loss only (-10 there); None for none.
        learnable: False keeps scale and bias fixed.
        max_scale: upper bound of the scale.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        bias: float | None = None,
        learnable: bool = True,
        max_scale: float = MAX_SCALE,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learnable)
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)

    def forward(self) -> Tensor:
        """The scale, 0-d."""
        return self.log_scale.exp()

    @property
    def temperature(self) -> float:
        """``1 / scale`` as a number."""
        return math.exp(-float(self.log_scale.detach()))

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the parameter back to [0, log max_scale], in place; call after each optimiser step."""
        self.log_scale.clamp_(0.0, math.log(self.max_scale))

    def no_weight_decay(self) -> list[str]:
        """Names of parameters that must not decay."""
        return [name for name, _ in self.named_parameters()]

    def extra_repr(self) -> str:
        """What the module prints of itself."""
        learnt = "learnable" if self.log_scale.requires_grad else "fixed"
        return f"temperature={self.temperature:.4g}, {learnt}, max_scale={self.max_scale:g}"
