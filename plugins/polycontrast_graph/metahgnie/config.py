"""Settings of MetaHGNIE. Imports no torch.

"The paper" is arXiv 2512.12477, of which the abstract, the README and the scripts were read; "the code" is its official
implementation. Where they differ, the field says which is followed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.config import EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.errors import ConfigError
from polycontrast_graph.config import FeatureConfig, GraphConfig, HypergraphConfig

Objective = Literal["infonce", "ntxent", "dcl", "siglip", "sigmoid", "vicreg", "barlow", "align_uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastConfig:
    """The objective that the two latent vectors of a node are given to."""

    objective: Objective = "infonce"
    """A loss of polycontrast.losses. Code: symmetric InfoNCE."""
    temperature: float = 0.5
    """Divides cosine similarities, where the objective has a temperature. Code: 0.5."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaHGNIEConfig(MethodConfig):
    """Two channels over a hypergraph, one score. Defaults are the paper's, or the code's where the paper is silent."""

    heads: int = 4
    """Heads of both channels, H. Scripts: 4, 8 or 16."""
    hidden: int = 20
    """Width of a head, D; the channels are H D wide. Scripts: 20."""
    layers: int = 1
    """Layers of each channel. Scripts: 1 or 2."""
    relation_width: int = 10
    """Width of the embedding of a hyperedge type. Code: 10."""
    dropout: float = 0.2
    """Dropout of inputs. Code: 0.2."""
    attention_dropout: float = 0.3
    """Dropout of attention weights of the structure channel. Code: 0.3; declared for the other channel, but not
    applied."""
    slope: float = 0.2
    """Slope of the leaky rectifier below zero. Code: 0.2."""
    input: Literal["heads", "linear"] = "heads"
    """First map of the structural features. heads: one small net per head, each back to the width of the features;
    linear: one map to the width of the channel, for wide features. Code: heads."""
    collapse: bool = True
    """Whether the columns of the structure channel are replaced by their mean between layers. Code: yes."""
    node_aggr: Literal["sum", "mean", "sqrt"] = "sum"
    """How the messages of a node's hyperedges are joined in the structure channel; a sum grows with their number, sqrt
    divides it by its root. Code: sum."""
    norm: Literal["batch", "layer", "none"] = "batch"
    """Normalisation in the semantic channel; layer suits sampled training. Code: batch, over all nodes."""
    centrality: Literal["none", "log_degree"] = "none"
    """Whether scores are rescaled by log(1 + hyperedges of the node). Code: present, but commented out."""
    no_text: bool = False
    """Whether nodes without text get a learned vector in place of zeros. Code: no."""

    fusion: Literal["adaptive", "fixed", "attention", "gate", "concat"] = "adaptive"
    """How the scores of the channels become one. adaptive: a learned share of the structure; fixed: a constant one;
    attention: a softmax of one affine map of each; gate: a sigmoid that mixes those maps; concat: a rectified affine
    map of both. Code: adaptive."""
    fusion_share: float = 0.2
    """Share of the structure, at the start or fixed. Code: 0.2."""
    fused_weight: float = 1.0
    """Weight of the squared error of the fused score."""
    aux_weight: float = 0.1
    """Weight of the squared error of each single channel. Code: half of beta = 0.2 each."""
    contrast_weight: float = 0.1
    """Weight of the contrast between the channels. Code: alpha = 0.1."""
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    """The contrast."""
    contrast_size: int | Literal["all"] = 2048
    """Labelled nodes that are contrasted in a step, drawn anew each time; "all" for parity. Paper: 2,000; the code
    overwrites it with all, but at most 20,000."""

    target: Literal["raw", "centred", "standard"] = "centred"
    """What the network learns: log(1 + score) as it is, less its mean over training nodes, or also divided by its
    deviation there, so that errors and contrast are on one scale. Code: raw, from 0, which spends hundreds of epochs on
    finding the mean."""
    baseline: Literal["none", "blend", "residual"] = "none"
    """Help from a ridge regression on words, relation counts, degree and the nodes that each is joined to. blend: the
    score is a mixture of network and ridge; residual: the network learns what cross-fitted ridge predictions leave
    over, and is added with a weight. Either weight is chosen on validation nodes. Code: none."""
    patience: int = 1000
    """Looks at the validation nodes without a better Spearman correlation after which a fold ends. Code: 1000."""
    coverage: float = 0.9
    """Share of scores that intervals hold, by split-conformal calibration. Not in the paper."""

    sampled: bool = False
    """Whether a step sees the neighbourhoods of ``engine.batch_size`` labelled nodes instead of the whole graph."""
    fan_out: tuple[int, int] = (16, 32)
    """Sampled: at most so many hyperedges of a node, and members of a hyperedge; 0 is no bound."""
    chunk_size: int | None = 8192
    """Incidences whose attention is in memory at a time; changes nothing but memory and speed. None: all. Around 8,192
    is fastest on a CPU, a GPU likes a million. The code has a setting of this name, without such an effect."""

    hypergraph: HypergraphConfig = field(default_factory=HypergraphConfig)
    """Which entities are hyperedges. Paper: those that meta-paths induce; the code: equal sets of relations."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """What is known of a node."""
    data: GraphConfig = field(default_factory=GraphConfig)
    """How graphs are read and split."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(name="adam", lr=5e-3, weight_decay=5e-4))
    """The optimiser. Code: Adam, 0.005, weight decay 5e-4."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=1024, epochs=10_000))
    """The training loop. Code: at most 10,000 epochs of the whole graph, bf16, a look at validation after each."""

    def __post_init__(self) -> None:
        for name in ("heads", "hidden", "layers", "relation_width", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.coverage < 1:
            raise ConfigError(f"coverage must lie between 0 and 1, got {self.coverage}")
        if min(self.fan_out) < 0:
            raise ConfigError(f"fan_out must not be negative, got {list(self.fan_out)}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be positive, got {self.chunk_size}")
        if self.contrast_size != "all" and self.contrast_size < 2:
            raise ConfigError(f"contrast_size must be at least 2, got {self.contrast_size}")
