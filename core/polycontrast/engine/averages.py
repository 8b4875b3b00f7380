"""The exponential moving average of a method's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """``average <- decay * average + (1 - decay) * weight`` after every optimiser step; buffers are copied.

    Args:
        module: whose floating-point parameters are averaged.
        decay: in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self.decay = decay
        self._average = {n: p.detach().clone() for n, p in module.named_parameters() if p.is_floating_point()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        now = dict(self._module.named_parameters())
        for name in now.keys() - self._average.keys():  # the architecture grew
            self._average[name] = now[name].detach().clone()
        torch._foreach_lerp_(list(self._average.values()), [now[n].detach() for n in self._average], 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the averages inside the block and its own weights again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep(self) -> None:
        """The module's weights become the averages, for good."""
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        now = dict(self._module.named_parameters())
        for name, average in self._average.items():
            mine = now[name].detach().clone()
            now[name].copy_(average)
            average.copy_(mine)

    def state_dict(self) -> Mapping[str, Tensor]:
        """The averages by parameter name."""
        return self._average

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages."""
        now = dict(self._module.named_parameters())
        self._average = {n: t.to(now[n].device).clone() for n, t in state.items()}
