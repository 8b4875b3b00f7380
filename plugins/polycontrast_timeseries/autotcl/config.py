"""Settings of AutoTCL. Imports no torch.

"The paper" is Zheng et al., "Parametric Augmentation for Time Series Contrastive Learning", ICLR 2024, arXiv
2402.10434, "the code" its authors' implementation. Where they differ the field says which is the default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.config import EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.errors import ConfigError, did_you_mean
from polycontrast_timeseries.config import SeriesConfig

BACKBONES = ("cost", "dilated", "transformer")
Objective = Literal[
    "infonce", "ntxent", "dcl", "dclw", "infonce_debiased", "siglip", "sigmoid", "triplet", "vicreg", "barlow",
    "align_uniform", "hierarchical", "l1out",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveConfig:
    """The objective between a series and its view."""

    objective: Objective = "infonce"
    """A loss of polycontrast.losses on vectors pooled over time; "hierarchical" is TS2Vec's on all steps, "l1out" the
    leave-one-out bound of the code. The paper: infonce."""
    temperature: float = 1.0
    """Divides similarities, where the objective has a temperature; siglip learns its own. Code: 1."""
    symmetric: bool = False
    """Whether infonce also looks from the views to the series. Code: no."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"contrastive.temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTCLConfig(MethodConfig):
    """An encoder, and an augmentation that is learned against it. Defaults are the code's for univariate ETTh1."""

    backbone: str = "cost"
    """Encoder: "cost", dilated convolutions and causal ones above them (the paper's); "dilated", the former alone
    (TS2Vec's); "transformer"; or "package.module:name" of your own, called with channels and out_dim, that maps
    (B, T, C) to (B, T, out_dim)."""
    hidden: int = 64
    """Width of the encoder's blocks. Code: 64."""
    out_dim: int = 320
    """Width of a representation. Code: 320."""
    depth: int = 10
    """Last dilation of the encoder is 2^depth; for "transformer" the number of layers. Code: 10."""
    kernels: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    """Lengths of the causal convolutions. Code: these."""
    causal: bool = False
    """Whether the dilated convolutions look back only. One pass over a whole series then represents all its steps, and
    evaluation is hundreds of times as fast. Not in the paper."""

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """The contrast between series and view (term "global")."""
    alpha_local: float = 0.3
    """Weight of the contrast between segments of a series (term "local"). Code: 0.3 for ETTh1."""
    segments: int = 16
    """Segments of a series in that contrast. Code: 16. Series with fewer steps have as many segments as steps."""
    temperature_local: float = 1.0
    """Divides their similarities. Code: 1."""
    local_batch: Literal["all", "first"] = "all"
    """Series of a batch that count in it. The code takes the first alone, by a slip."""

    aug_mode: Literal["pri", "adversarial", "jitter", "scaling", "cropping", "none"] = "pri"
    """The view: learned by the principle of relevant information (the paper's), learned to make the contrast as hard as
    possible, drawn without learning, or the series itself."""
    aug_hidden: int = 64
    """Width of the augmentation network. Code: 64."""
    aug_depth: int = 3
    """Its last dilation is 2^aug_depth. Code: 3, whatever its configs list."""
    aug_dim: int = 16
    """Features from which mask and scale are made. Code: 16."""
    aug_head: bool = True
    """Whether it has causal convolutions too, like the encoder. They smooth the mask over the past. Code: yes."""
    gate_input: Literal["logit", "code"] = "logit"
    """What the gate takes: the logit of h, as the paper means it; or h itself, as in the code, which keeps every value
    with a probability between 0.5 and 0.73."""
    hard_mask: bool = True
    """Whether a value is kept or not, rather than in part. Code: yes for ETTh1."""
    gumbel_bias: float = 0.05
    """Keeps the noise of the gate away from 0 and 1. Code: 0.05 for ETTh1."""
    stretch: float = 0.05
    """How far the gate is stretched below 0. Code: 0.05 for ETTh1."""
    gate_temperature: float = 1.0
    """Of the relaxed Bernoulli variable. Code: 1."""
    augment_covariates: bool = True
    """Whether calendar channels are masked and rescaled too. Code: yes."""
    prior_features: Literal["trunk", "trend"] = "trunk"
    """Features that the views of the principle of relevant information are compared on: below the causal convolutions,
    as in the code, whose settings were found that way, or above them. Other encoders have one kind."""
    beta_mask: float = 0.003
    """Weight of what h keeps above the budget (term "budget"). Code: 0.003 for univariate ETTh1."""
    mask_budget: float = 0.4
    """Budget: mean over steps of the sum of h over channels. Code: 0.4."""
    lambda_time: float = 0.0
    """Weight of the consistency of h over time (term "consistency"). Code: 0 in six of ten configs."""
    time_reg: Literal["near_alike", "code"] = "near_alike"
    """near_alike: neighbours alike, far steps different, as the paper says; code: as the code has it, the reverse for
    far steps."""
    ratio_step: int = 1
    """The augmentation learns in every so many steps. Code: 1 for ETTh1."""
    fixed_strength: float = 0.3
    """Of jitter and scaling, and the share that cropping takes away."""

    max_len: int = 257
    """Steps of a training series; a section of the data is cropped to it at random. Code: 257 for ETTh1."""
    stride: int | None = None
    """Rows between the starts of training sections. None: sections do not overlap, as in the code, so that a year of
    hours has 33 of them and an epoch one step. Smaller numbers make longer epochs."""
    averaging: Literal["swa", "none"] = "swa"
    """Which weights are evaluated: the mean of those after every step and the initial ones, as in the code; or the
    last. For an exponential average set "none" and engine.ema."""
    select: bool = False
    """Whether the weights with the best forecasts of the validation part are kept. The code takes the last."""

    context: int = 201
    """Steps of the window from whose last step a forecast is made. Code: 201."""
    horizons: tuple[int, ...] = (24, 48, 168, 336, 720)
    """Forecast lengths that are measured, a ridge regression for each. Paper: these for hourly data."""
    covariates: Literal["auto", "on", "off"] = "auto"
    """Whether minute, hour, day of week, month and year, month and week of the timestamps are channels too. auto: if
    there are timestamps. Code: yes."""

    data: SeriesConfig = field(default_factory=SeriesConfig)
    """How series are read and split."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(name="adamw", lr=3e-5, weight_decay=0.01)
    )
    """Optimiser of the encoder. Code: AdamW, 3e-5 for univariate ETTh1, torch's default decay."""
    augmenter_optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(name="adamw", lr=0.01, weight_decay=0.01)
    )
    """Optimiser of the augmentation network. Code: AdamW, 0.01 for univariate ETTh1, torch's default decay."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=32, epochs=115, validate_epochs=None))
    """The training loop. Code: batches of 32, 115 epochs for univariate ETTh1, no look at the validation part."""

    @property
    def learns_views(self) -> bool:
        """Whether there is an augmentation network."""
        return self.aug_mode in ("pri", "adversarial")

    def __post_init__(self) -> None:
        at_least_one = (
            "hidden", "out_dim", "aug_hidden", "aug_dim", "ratio_step", "max_len", "context", "stride"
        )  # fmt: skip
        for name in at_least_one:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("depth", "aug_depth", "alpha_local", "beta_mask", "mask_budget", "lambda_time", "stretch"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("temperature_local", "gate_temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.backbone not in BACKBONES and ":" not in self.backbone:
            raise ConfigError(
                f"backbone {self.backbone!r} is unknown; there are {', '.join(BACKBONES)}, or package.module:name of "
                "your own." + did_you_mean(self.backbone, BACKBONES)
            )
        if self.segments < 4:
            raise ConfigError(f"segments must be at least 4, to leave a negative, got {self.segments}")
        if not 0 <= self.gumbel_bias < 0.5:
            raise ConfigError(f"gumbel_bias must lie in [0, 0.5), got {self.gumbel_bias}")
        if not 0 <= self.fixed_strength < 1:
            raise ConfigError(f"fixed_strength must lie in [0, 1), got {self.fixed_strength}")
        for name in ("horizons", "kernels"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be one or more positive numbers, all different, got {list(values)}")
        if self.causal and self.backbone not in ("cost", "dilated"):
            raise ConfigError(f"causal is for the backbones cost and dilated, not for {self.backbone}")
        if self.averaging == "swa" and self.engine.ema is not None:
            raise ConfigError("engine.ema and averaging=swa are two averages of the weights; set averaging=none")
        if self.select and not (self.engine.validate_epochs or self.engine.validate_steps):
            raise ConfigError("select needs looks at the validation part; set engine.validate_epochs")
