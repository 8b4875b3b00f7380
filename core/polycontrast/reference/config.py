"""Settings of core/simclr. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.config import DataConfig, EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.errors import ConfigError

Objective = Literal[
    "ntxent", "infonce", "dcl", "dclw", "infonce_debiased", "siglip", "sigmoid", "supcon", "triplet", "vse",
    "align_uniform", "vicreg", "barlow", "byol", "simsiam", "moco", "nnclr",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveConfig:
    """The objective that two views of a batch are given to."""

    objective: Objective = "ntxent"
    """A loss of polycontrast.losses. byol and simsiam bring a predictor, byol and moco a slow teacher, moco and nnclr
    a queue; supcon needs labels; sigmoid is siglip."""
    temperature: float = 0.5
    """Divides cosine similarities, where the objective has a temperature; siglip learns its own. SimCLR: 0.5 for small
    images."""
    uniformity: float = 1.0
    """Weight of the uniformity in align_uniform; 0 leaves the alignment of views alone, which collapses."""
    teacher: float = 0.99
    """Share of its weights that the teacher of byol and moco keeps per step; rises to 1 along a cosine for byol."""
    queue: int = 4096
    """Rows that the queue of moco and nnclr remembers."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")
        if self.uniformity < 0:
            raise ConfigError(f"uniformity must not be negative, got {self.uniformity}")
        if not 0 <= self.teacher < 1:
            raise ConfigError(f"teacher must lie in [0, 1), got {self.teacher}")
        if self.queue < 1:
            raise ConfigError(f"queue must be at least 1, got {self.queue}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayConfig(DataConfig):
    """How arrays are read, split and seen."""

    label: str = "label"
    """Array of an .npz file or column of a table that holds the class of each row, if there is one."""
    validation: float = 0.2
    """Share of rows on which neighbours and probe strengths are chosen."""
    test: float = 0.2
    """Share of rows that are measured."""
    scale: Literal["auto", "feature", "global", "none"] = "auto"
    """Bring values to mean 0 and deviation 1 by the training rows: each feature by itself, or all alike. auto: each by
    itself for vectors, all alike for images."""
    noise: float = 0.0
    """Deviation of normal noise through which rows are seen when they are measured, by every method alike, in units of
    the scaled values. For demonstrations."""

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            raise ConfigError(
                f"validation and test must be shares that leave rows to train on, got {self.validation}, {self.test}"
            )
        if self.noise < 0:
            raise ConfigError(f"noise must not be negative, got {self.noise}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Two altered views of each sample, an encoder, a projection head that only training needs, an objective."""

    objective: Objective | None = None
    """Short for contrastive.objective. None: that one."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """The objective."""

    network: Literal["auto", "mlp", "conv"] = "auto"
    """Encoder: a multi-layer perceptron on all values, or a small convolutional network on images. auto: by the shape
    of a row."""
    hidden: int = 256
    """Width of the hidden layer of the perceptron, or of the last convolution."""
    width: int = 64
    """Width of the embedding."""
    projection: int = 64
    """Width of what the objective sees, after the projection head. 0: no head, the objective sees the embedding."""
    predictor: bool | None = None
    """Whether a predictor stands between the branches. None: where the objective is made
    for it: byol, simsiam and nnclr."""

    noise: float = 0.3
    """Deviation of the normal noise of a view, in units of the scaled values."""
    drop: float = 0.0
    """Share of values of a view that are set to 0, the mean."""
    shift: int = 0
    """Most pixels by which a view of an image is moved, up or down and left or right."""

    knn_k: tuple[int, ...] = (5, 20, 200)
    """Numbers of neighbours of the weighted vote; the best on validation rows is used, for baselines alike."""
    knn_temperature: float = 0.1
    """Temperature of the votes."""

    data: ArrayConfig = field(default_factory=ArrayConfig)
    """How arrays are read, split and seen."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(name="adamw", lr=2e-3, weight_decay=1e-4, schedule="cosine")
    )
    """The optimiser and its schedule."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=256, epochs=100))
    """The training loop."""

    @property
    def chosen(self) -> Objective:
        """The objective, however it was given."""
        return self.objective or self.contrastive.objective

    @property
    def predicts(self) -> bool:
        """Whether there is a predictor."""
        return self.chosen in ("byol", "simsiam", "nnclr") if self.predictor is None else self.predictor

    def __post_init__(self) -> None:
        for name in ("hidden", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("projection", "noise", "shift"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.drop < 1:
            raise ConfigError(f"drop must lie in [0, 1), got {self.drop}")
        if not self.knn_k or min(self.knn_k) < 1 or not self.knn_temperature > 0:
            raise ConfigError("knn_k must be one or more positive numbers and knn_temperature positive")
