"""The groups of settings that every method shares: ``data.``, ``optimiser.`` and ``engine.``.

A method's own config derives from :class:`MethodConfig`, adds its fields and gives the groups the defaults
of its paper. Nothing here imports torch, so that ``polycontrast info`` and a mistyped key answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How examples are read and split. Domains derive their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """One optimiser and its learning-rate schedule."""

    name: Literal["adam", "adamw", "radam", "sgd"] = "adamw"
    """Optimiser of torch.optim."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decay of the weights, as the chosen optimiser defines it (decoupled for adamw)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Moment decays of the adam family."""
    eps: float = 1e-8
    """Term added to the denominator by the adam family."""
    momentum: float = 0.0
    """Momentum of sgd."""
    schedule: Literal["constant", "cosine", "linear", "multistep"] = "constant"
    """Course of the learning rate after the warm-up; a pure function of the optimiser step."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises linearly from zero."""
    min_lr: float = 0.0
    """Learning rate at the end of a cosine or linear schedule."""
    milestones: tuple[float, ...] = ()
    """Shares of the stage after which the rate of a multistep schedule is multiplied by ``gamma``."""
    gamma: float = 0.1
    """Factor of a multistep schedule."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"lr must be positive, got {self.lr}")
        if self.weight_decay < 0 or self.warmup_steps < 0 or self.min_lr < 0:
            raise ConfigError("weight_decay, warmup_steps and min_lr must not be negative")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ConfigError(f"milestones must be growing shares between 0 and 1, got {list(self.milestones)}")
        if not self.gamma > 0:
            raise ConfigError(f"gamma must be positive, got {self.gamma}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The training loop."""

    batch_size: int = 64
    """Examples per optimiser step, over all processes together: the same config gives the same curve
    on one process or on eight. Must be divisible by processes times ``accumulate``."""
    accumulate: int = 1
    """Parts into which a batch is cut, one after the other, to save memory. Exact for losses that are
    means over samples; a contrastive term sees only the negatives of its part."""
    epochs: int | None = 10
    """Passes over the data of a stage that does not state its own length."""
    max_steps: int | None = None
    """Upper bound of optimiser steps in every stage; schedules end there. None: no bound."""
    clip_norm: float | None = None
    """Gradients are scaled down to this norm, per call of ``minimise``. None: off."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights; the average is what is validated, evaluated
    and saved. None: off."""
    nonfinite: Literal["raise", "skip", "ignore"] = "raise"
    """What to do when a loss is NaN or infinite: stop with an error, leave out that optimiser step
    (on all processes alike), or go on."""
    validate_epochs: int | None = 1
    """Epochs between two looks at the validation part. None: never by epoch."""
    validate_steps: int | None = None
    """Optimiser steps between two looks at the validation part. None: never by step."""
    log_steps: int = 10
    """Optimiser steps per line of metrics.jsonl; a line holds the means since the line before."""
    checkpoint_seconds: float = 5.0
    """Least time between two checkpoints. It is stretched so that writing them stays below 2 % of the time."""
    checkpoint_steps: int | None = None
    """Write a checkpoint every so many optimiser steps as well. None: by time alone."""
    keep_checkpoints: int = 2
    """Checkpoints kept, newest first."""
    watch: bool = True
    """Whether a few embeddings are looked at now and then, to warn when they have become all the same (collapse)."""
    workers: int = 0
    """Processes that prepare batches. 0: the training process itself."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers beside metrics.jsonl, each used through accelerate and needing its own package."""

    def __post_init__(self) -> None:
        positive = {
            "batch_size": self.batch_size, "accumulate": self.accumulate, "epochs": self.epochs,
            "max_steps": self.max_steps, "clip_norm": self.clip_norm, "log_steps": self.log_steps,
            "validate_epochs": self.validate_epochs, "validate_steps": self.validate_steps,
            "checkpoint_steps": self.checkpoint_steps, "keep_checkpoints": self.keep_checkpoints,
        }  # fmt: skip
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be positive, got {value}")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema must lie between 0 and 1, got {self.ema}")
        if self.workers < 0 or self.checkpoint_seconds < 0:
            raise ConfigError("workers and checkpoint_seconds must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """What every method can be told. Methods derive from it and add their own fields."""

    off: tuple[str, ...] = ()
    """Terms of the loss that are switched off (weight 0, computation skipped)."""
    data: DataConfig = field(default_factory=DataConfig)
    """How examples are read and split."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser and its schedule."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """The training loop."""
