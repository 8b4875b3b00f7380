"""Settings of Ti-MAE. Imports no torch.

"The paper" is Li et al., "Ti-MAE: Self-Supervised Masked Time Series Autoencoders", arXiv 2301.08871. It has no
official code; where it is silent, the field says so and what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.config import EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.errors import ConfigError
from polycontrast_timeseries.config import SeriesConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TiMAEConfig(MethodConfig):
    """Masked auto-encoder over time steps. Defaults are the paper's."""

    context: int = 200
    """Time steps that a forecast is made from. Paper: 200 in the ablations, not stated for table 1."""
    horizons: tuple[int, ...] = (100,)
    """Forecast lengths that are measured, all by one model. A training window is the context and the longest
    of them."""
    stride: int = 1
    """Rows between the starts of two training windows. Paper: not stated."""

    mask_ratio: float = 0.75
    """Share of time steps hidden in pre-training. Paper: 0.75 (ablation 0.45 to 0.9)."""
    n_masks: int = 30
    """Masks per window and optimiser step, their losses averaged. Paper: "sampling time" 30, read here as one step
    on 30 masks. 4 is a good choice without a GPU."""
    mask_type: Literal["random", "future", "periodic", "block", "mixed"] = "random"
    """Which steps are hidden: any, the forecast horizon, all but equally spaced ones, one run of steps, or one of the
    four by lot. Paper: random; the others are its ablation."""
    forecast_ratio: float = 0.0
    """Share of masks that hide the horizon instead, so that pre-training sees forecasts too. Not in the paper."""
    masks_per_chunk: int | None = None
    """Masks whose activations are in memory at the same time. Changes nothing but memory and speed. None: 1 on the
    CPU, where that is also the fastest, and 8 elsewhere."""

    width: int = 64
    """Width of the encoder. Paper: 64."""
    layers: int = 2
    """Blocks of the encoder. Paper: 2."""
    heads: int = 4
    """Attention heads of the encoder. Paper: 4."""
    decoder_width: int = 32
    """Width of the decoder. Paper: 32 (ablation 16 to 128)."""
    decoder_layers: int = 2
    """Blocks of the decoder. Paper: 2 (ablation 1 to 4)."""
    decoder_heads: int = 4
    """Attention heads of the decoder. Paper: 4."""
    ff_multiplier: int = 4
    """Width of the MLPs in units of the width of their stack. Paper: not stated; 4 as usual."""
    dropout: float = 0.1
    """Dropout after attention and MLP, and before the decoder's blocks. Paper: 0.1."""
    embed_kernel: int = 3
    """Taps of the embedding convolution. Paper: 3. It runs before the masking, so that a visible step has seen its
    hidden neighbours; 1 removes that leak, and so does ``leak_free``."""
    leak_free: bool = False
    """Whether the embedding reads visible steps only, divided by their share among its taps. Not in the paper."""
    positions: bool = True
    """Whether the encoder adds sinusoidal positions. Paper: yes (ablation without)."""
    revin: bool = False
    """Whether every window is brought to mean 0 and deviation 1 by its visible steps, and the output taken back.
    Not in the paper; recommended where the level drifts, as in ETT and exchange rates."""

    head_epochs: int = 10
    """Passes of the second stage, a linear forecast head on the encoder. 0: no such stage. Paper: not stated."""
    head_context: int = 96
    """Time steps that the head sees, none hidden. Paper: 96."""
    head_layout: Literal["flatten", "factored"] = "flatten"
    """flatten: one linear layer from all tokens to all steps and channels; factored: one over time, then one over
    features, with far fewer weights. Paper: a linear layer, layout not stated."""
    head_optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(name="adam", lr=1e-3, schedule="cosine")
    )
    """Optimiser of the second stage. Paper: not stated; as in pre-training."""
    head_patience: int | None = 3
    """Looks at the validation part without improvement after which the head is done. None: never."""
    fine_tune: bool = False
    """Whether the encoder learns along with the head. The decoder no longer fits it then, and forecasts come from
    the head. Paper: frozen."""

    pooling: Literal["mean", "max", "best"] = "best"
    """How the tokens of a series become its representation. best: by cross-validation on the training part when
    series are classified, otherwise mean. Paper: the better of mean and max."""
    feature_positions: Literal["with", "without", "best"] = "best"
    """Whether representations for classification are computed with positions; the paper gains up to 0.37 of accuracy
    without them on shapes. best: by cross-validation on the training part."""

    data: SeriesConfig = field(default_factory=SeriesConfig)
    """How series are read and split."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(name="adam", lr=1e-3, schedule="cosine"))
    """The optimiser and its schedule. Paper: Adam, 1e-3, cosine decay."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=64, epochs=10))
    """The training loop. Paper: batches of 64, 10 epochs."""

    def __post_init__(self) -> None:
        at_least_one = (
            "context", "stride", "n_masks", "masks_per_chunk", "width", "heads", "decoder_width", "decoder_heads",
            "ff_multiplier", "embed_kernel", "head_context",
        )  # fmt: skip
        for name in at_least_one:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("layers", "decoder_layers", "head_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.horizons or min(self.horizons) < 1:
            raise ConfigError(f"horizons must be one or more positive numbers of steps, got {list(self.horizons)}")
        if len(set(self.horizons)) < len(self.horizons):
            raise ConfigError(f"horizons must differ from each other, got {list(self.horizons)}")
        for name in ("mask_ratio", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.forecast_ratio <= 1:
            raise ConfigError(f"forecast_ratio must lie in [0, 1], got {self.forecast_ratio}")
        if self.embed_kernel % 2 == 0:
            raise ConfigError(f"embed_kernel must be odd, got {self.embed_kernel}")
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ConfigError(f"{width} {getattr(self, width)} must be divisible by {heads} {getattr(self, heads)}")
        if self.head_patience is not None and self.head_patience < 1:
            raise ConfigError(f"head_patience must be positive, got {self.head_patience}")
        if self.fine_tune and not self.head_epochs:
            raise ConfigError("fine_tune needs a head; set head_epochs to at least 1")
