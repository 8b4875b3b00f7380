"""Named optimisers whose learning rate is a pure function of the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from polycontrast import schedules
from polycontrast.config import OptimiserConfig
from polycontrast.errors import ConfigError
from polycontrast.method import OptimiserSpec


def schedule(config: OptimiserConfig, step: int, total: int) -> float:
    """Learning rate of a step.

    Linear warm-up from ``lr / warmup_steps`` over ``warmup_steps``, then constant, or a half cosine or straight line
    down to ``min_lr``, which is reached at step ``total``, or times ``gamma`` at each of the milestones.

    Args:
        config: rate, warm-up and shape.
        step: steps taken before, from 0.
        total: steps of the stage.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "multistep":
        return config.lr * config.gamma ** sum(step >= share * total for share in config.milestones)
    shape = schedules.cosine if config.schedule == "cosine" else schedules.linear
    return shape(config.lr, config.min_lr, step - config.warmup_steps, max(total - config.warmup_steps, 1))


class NamedOptimiser:
    """A torch optimiser with its parameters, schedule and config."""

    def __init__(self, name: str, spec: OptimiserSpec) -> None:
        self.name = name
        self.config = spec.config
        groups: list[dict[str, Any]] = [
            dict(g) if isinstance(g, dict) else {"params": [g]}
            for g in (spec.parameters if _grouped(spec) else [{"params": list(spec.parameters)}])
        ]
        self._factors = [float(g.pop("lr", 1.0)) for g in groups]
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]
        if not self.parameters:
            raise ConfigError(f"optimiser {name!r} has nothing to learn: all its parameters are frozen")
        self.torch = _build(self.config, groups)

    def set_learning_rate(self, step: int, total: int) -> float:
        """Set the rate of a step on all groups and return it."""
        lr = schedule(self.config, step, total)
        for group, factor in zip(self.torch.param_groups, self._factors, strict=True):
            group["lr"] = lr * factor
        return lr

    def state_dict(self) -> Mapping[str, Any]:
        """State of the torch optimiser."""
        return self.torch.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the torch optimiser."""
        self.torch.load_state_dict(dict(state))


def _grouped(spec: OptimiserSpec) -> bool:
    return len(spec.parameters) > 0 and isinstance(spec.parameters[0], dict)


def _build(config: OptimiserConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    adam = {**common, "betas": config.betas, "eps": config.eps}
    match config.name:  # fused: one kernel over all parameters instead of a Python loop
        case "adam":
            return torch.optim.Adam(groups, **adam, fused=True)  # type: ignore[arg-type]
        case "adamw":
            return torch.optim.AdamW(groups, **adam, fused=True)  # type: ignore[arg-type]
        case "radam":
            return torch.optim.RAdam(groups, **adam)  # type: ignore[arg-type]
        case "sgd":
            return torch.optim.SGD(groups, **common, momentum=config.momentum, fused=True)  # type: ignore[arg-type]
