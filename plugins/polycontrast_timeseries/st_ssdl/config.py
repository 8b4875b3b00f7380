"""Settings of ST-SSDL and of the panels of sensors that it reads. Imports no torch.

"The paper" is Gao et al., "How Different from the Past? Spatio-Temporal Time Series Forecasting with Self-Supervised
Deviation Learning", NeurIPS 2025, arXiv 2510.04908; "the code" is what its authors published. Defaults are those for
METR-LA; the other datasets of the paper are presets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.config import DataConfig, EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelConfig(DataConfig):
    """How a panel of sensors and its graph are read and split.

    Parts are shares of the windows in order of time: round(share of test), round(share of training), and the rest for
    validation, as in the DCRNN lineage. One mean and one deviation over all sensors, of the training inputs.
    """

    graph: str | None = None
    """File of the graph: adjacency matrix (.csv, .npz, .npy, .pkl of DCRNN), list of distances or edges (.csv, .rel),
    or ``edge_index`` (.npz, .npy). None: a file of a usual name in the folder that is read, else no graph."""
    directed: bool = False
    """Whether edges of a list lead one way only. Matrices are taken as they are."""
    edges: Literal["auto", "distance", "weight", "equal"] = "auto"
    """What the third column of a list holds. distance: becomes exp(-(d / sigma)^2); equal: every edge counts 1. auto:
    by its name (cost, distance, length: distance; else weight)."""
    sigma: float | None = None
    """Width of that kernel. None: standard deviation of the listed distances, as in DCRNN."""
    threshold: float = 0.1
    """Weights of distances below this are no edges, as in DCRNN."""
    train_ratio: float = 0.7
    """Share of the windows for training: 0.7 (METR-LA, PEMS-BAY) or 0.6 (PEMS03, 04, 07, 08, D7M)."""
    val_ratio: float = 0.1
    """Share of the windows for validation: 0.1 or 0.2; what remains is the test part."""
    null_value: float | None = 0.0
    """Value that means missing, within 5e-5; NaN always does. None: only NaN."""
    mape_min: float = 0.0
    """Targets of at most this size are left out of the percentage error alone."""
    time_column: str | None = None
    """Column with the timestamps. None: the first that holds dates, if any."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the first line of a text file names the sensors. "auto": unless it holds numbers."""
    start: str | None = None
    """Time of the first row of files without timestamps. None: Monday 00:00, which only shifts the slots."""
    step: str | None = None
    """Spacing of the rows of files without timestamps, e.g. 5min. None: 5min."""
    channel: int = 0
    """Channel that is forecast, of files with several (time, sensor, channel)."""
    max_sensors: int | None = None
    """Read only the first so many sensors. None: all."""

    def __post_init__(self) -> None:
        if not (0 < self.train_ratio < 1 and 0 < self.val_ratio < 1 and self.train_ratio + self.val_ratio < 1):
            raise ConfigError(
                "data.train_ratio and data.val_ratio must be positive and leave a share for the test part, "
                f"got {self.train_ratio} and {self.val_ratio}"
            )
        if self.sigma is not None and not self.sigma > 0:
            raise ConfigError(f"data.sigma must be positive, got {self.sigma}")
        if self.threshold < 0 or self.mape_min < 0 or self.channel < 0:
            raise ConfigError("data.threshold, data.mape_min and data.channel must not be negative")
        if self.max_sensors is not None and self.max_sensors < 1:
            raise ConfigError(f"data.max_sensors must be positive, got {self.max_sensors}")


@dataclass(frozen=True, slots=True, kw_only=True)
class STSSDLConfig(MethodConfig):
    """Graph-convolutional recurrent forecaster with self-supervised deviation learning."""

    t_in: int = 12
    """Steps of the current window and of its anchor. Paper: 12."""
    t_out: int = 12
    """Steps to forecast. Paper: 12."""
    report_steps: tuple[int, ...] = (3, 6, 12)
    """Steps ahead that are reported one by one. Paper: 3, 6, 12. Those beyond ``t_out`` are left out."""

    hidden: int = 128
    """Width of the encoder, H. Paper: 128 (METR-LA, PEMS-BAY), 32, 64 or 12."""
    layers: int = 1
    """Stacked cells of encoder and of decoder. Paper: 1."""
    cheb_k: int = 3
    """Terms of the graph polynomial, T_0 = I to T_{K-1}. Code: 3."""
    prototypes: int = 20
    """Prototypes, M. Code: 20 (16 for PEMSD7M)."""
    prototype_dim: int = 64
    """Width of queries and prototypes, d. Code: 64."""
    value_dim: int = 3
    """Width of the embedded value. Code: 3 (METR-LA) to 64."""
    node_dim: int = 25
    """Width of the embedding of a sensor. Code: 25 (METR-LA), 16 to 24."""
    tod_dim: int = 20
    """Width of the embedding of the time of day. Code: 20 (METR-LA), 16 to 40."""
    adaptive_dim: int = 0
    """Width of the free embedding of (step, sensor). Code: 0 in every official run."""
    graph_dim: int | None = None
    """Width of the node embedding that makes the decoder's graph. None: ``tod_dim``, as in the code."""
    use_embeddings: bool = True
    """Whether values, sensors and times are embedded. Otherwise the encoder sees the value alone, the decoder value
    and time of day. Code: on."""
    adjacency: Literal["sym", "transition", "double_transition", "scaled_laplacian", "identity"] = "sym"
    """How the given graph is normalised. Code: "sym", of a directed graph the transpose. Without a graph it is
    "identity"."""
    top_k: int | None = None
    """Edges per sensor that the decoder's own graph keeps; the softmax is over those. None: all, as in the code. Saves
    memory and time beyond some 500 sensors."""
    encoder: Literal["auto", "dense", "sparse"] = "auto"
    """How the given graph is multiplied. auto: sparse beyond 1000 sensors, and on a CPU where less than 8 % of the
    pairs are edges. Changes nothing but memory and speed."""
    checkpoint: int | None = None
    """Time steps after which activations are forgotten and computed again in backward: less memory for a third more
    time. None: all are kept."""
    plain: bool = False
    """Leave out anchor, prototypes and the learned graph: a plain GCRU encoder-decoder over the given graph."""

    lambda_contrast: float = 0.01
    """Weight of the contrast of prototypes. Code: 0.01 (METR-LA, PEMS-BAY, 04, 07), 0.1 (08, D7M)."""
    lambda_deviation: float = 1.0
    """Weight of the deviation loss. Code: 1, but 0.01 for PEMS04."""
    contrast: Literal["triplet", "triplet_squared", "infonce"] = "triplet"
    """Contrast of a query with its nearest (positive) and second nearest prototype: Euclidean triplet as in the code,
    squared distances, or InfoNCE over all prototypes."""
    margin: float = 0.5
    """Margin of the triplets. Code: 0.5."""
    temperature: float = 0.1
    """Of InfoNCE, on cosine similarities. The code has such an option but does not use it."""
    contrast_branches: Literal["current", "both"] = "current"
    """Whose queries are contrasted. Code: those of the current window."""
    stop_grad_query: bool = True
    """Whether contrast and deviation loss move the prototypes alone. Code: yes."""
    teacher_decay: float | None = 2000.0
    """Scheduled sampling: the label is fed back with probability k / (k + exp(i / k)) at batch i. Code: 2000 (METR-LA),
    8000 (PEMS-BAY), 6000, 4000 (D7M). None: never."""

    anchor_period: Literal["week", "day"] | int = "week"
    """Season whose slots are averaged; a number of steps for others. Code: week."""
    anchor_fit: Literal["train", "train+val"] = "train"
    """Rows that the averages are taken over. The code takes about 80 % of the days, so that validation targets are
    inside; "train+val" is nearest to that."""
    anchor_mode: Literal["fixed", "expanding", "ewm"] = "fixed"
    """fixed: one average per slot; expanding: of the observations before the step alone; ewm: the same with weights
    that fade. Code: fixed."""
    anchor_decay: float = 0.5
    """Share of its weight that an observation keeps per period in mode ewm."""
    fill: Literal["null", "anchor", "mean"] = "null"
    """What a missing input becomes: 0 in original units, as in the code, its anchor, or the mean."""

    compare: tuple[Literal["plain", "off"], ...] = ()
    """Networks trained beside, after the run and with its epochs, as strong baselines: a plain GCRU; the same network
    without its two auxiliary terms."""
    patience: int | None = 30
    """Looks at the validation part without improvement after which training ends. Code: 30, or 20 (PEMS07, 08)."""

    data: PanelConfig = field(default_factory=PanelConfig)
    """How the panel and its graph are read and split."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            name="adam", lr=0.01, eps=1e-3, schedule="multistep", milestones=(0.25, 0.35)
        )
    )
    """The optimiser. Code: Adam with eps 1e-3, rate 0.01 or 0.001, a tenth of it after 50 and 70 of 200 epochs."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=64, epochs=200, clip_norm=5.0))
    """The training loop. Code: 200 epochs, batches of 64 (METR-LA, PEMS-BAY) or 16, gradients clipped at 5."""

    def __post_init__(self) -> None:
        at_least_one = (
            "t_in", "t_out", "hidden", "layers", "cheb_k", "prototype_dim", "value_dim", "node_dim", "tod_dim",
            "graph_dim", "top_k", "checkpoint", "patience",
        )  # fmt: skip
        for name in at_least_one:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.prototypes < 2:
            raise ConfigError(f"prototypes must be at least 2, a positive and a negative, got {self.prototypes}")
        for name in ("adaptive_dim", "lambda_contrast", "lambda_deviation", "margin"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")
        if self.teacher_decay is not None and not self.teacher_decay > 0:
            raise ConfigError(f"teacher_decay must be positive, got {self.teacher_decay}")
        if not 0 < self.anchor_decay <= 1:
            raise ConfigError(f"anchor_decay must lie in (0, 1], got {self.anchor_decay}")
        if isinstance(self.anchor_period, int) and self.anchor_period < 1:
            raise ConfigError(f"anchor_period must be week, day or a number of steps, got {self.anchor_period}")
        if min(self.report_steps, default=1) < 1:
            raise ConfigError(f"report_steps must be positive, got {list(self.report_steps)}")
