"""Settings of TACO. Imports no torch.

"The paper" is Zheng et al., "TACO: Temporal Latent Action-Driven Contrastive Loss for Visual Reinforcement Learning",
arXiv 2306.13229; "the code" is its official code, which stands on that of DrQ-v2 (arXiv 2107.09645). Defaults are those
of the code for tasks of medium difficulty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polycontrast.config import EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.errors import ConfigError
from polycontrast_rl.config import EnvConfig, ReplayConfig
from polycontrast_rl.taco.schedule import scheduled

AUXILIARY = ("taco", "curl", "reward")
"""Terms of the auxiliary loss. With all of them off the method is DrQ-v2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveConfig:
    """The objective of the taco and curl terms."""

    objective: Literal["infonce", "siglip", "triplet", "vse"] = "infonce"
    """A loss of polycontrast.losses on the bilinear scores. Paper: infonce, in one direction, without temperature."""
    symmetric: bool = False
    """Whether infonce is also asked in the other direction. Not in the paper."""
    in_episode_negatives: bool = False
    """Whether the present frame counts as one more wrong answer for the frame K steps ahead. After Premier-TACO
    (arXiv 2402.06187); not in the paper."""
    key_momentum: float | None = None
    """Momentum of an average of the weights that encodes what is compared with. Paper: none, the weights themselves
    without gradient."""

    def __post_init__(self) -> None:
        if self.key_momentum is not None and not 0 <= self.key_momentum < 1:
            raise ConfigError(f"key_momentum must lie in [0, 1), got {self.key_momentum}")
        if self.objective != "infonce" and (self.symmetric or self.in_episode_negatives):
            raise ConfigError(f"symmetric and in_episode_negatives need objective infonce, not {self.objective}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TacoConfig(MethodConfig):
    """DrQ-v2 with TACO's auxiliary loss. ``off=[taco,curl,reward]`` is DrQ-v2."""

    algorithm: Literal["drqv2", "td3+bc", "bc"] = "drqv2"
    """drqv2 acts in its environment and learns; td3+bc and bc learn from a recording (``--data FOLDER``)."""
    frames: int = 3_100_000
    """Simulator steps of the whole training, over all environments. Code: 1.1 M for easy, 3.1 M for medium, 30.1 M for
    hard tasks."""
    seed_frames: int = 4000
    """Of these, simulator steps with uniformly random actions before the first update. Code: 4000."""
    envs: int = 1
    """Environments that are stepped together. The number of updates per step does not depend on it. Code: 1."""
    update_every: int = 2
    """Steps of an agent (of ``data.action_repeat`` frames) per update. Code: 2."""
    updates: int = 100_000
    """Updates of td3+bc and bc. Paper: not stated for images."""

    lookahead: int = 3
    """K, the steps over which TACO looks ahead. Code: 3; paper: 1 or 3 by task."""
    n_step: int = 3
    """Rewards that the critic's target sums up. Code: 3, and 1 for walker."""
    discount: float = 0.99
    """Of a reward one agent step later. Code: 0.99."""
    reward_horizon: Literal["n_step", "lookahead"] = "n_step"
    """What the reward term predicts: the critic's n-step reward, as in the code, or that over exactly K steps. The same
    where both are equal."""
    schedule: str = "linear(1.0,0.1,500000)"
    """Deviation of the exploration noise by agent steps: a number, linear(start,end,steps) or
    step_linear(start,middle,steps,end,steps). Code: over 100 k, 500 k, 2 M steps for easy, medium, hard tasks."""
    clip: float = 0.3
    """Bound on that noise in the losses. Code: 0.3."""
    target_rate: float = 0.01
    """Share of the critic that its target takes over per update. Code: 0.01."""
    actor_rate: float = 1.0
    """Learning rate of the actor in units of ``optimiser.lr``. Code: 1. At high rates a smaller one keeps the actor out
    of a corner of the box before the critic knows anything."""
    shift: int = 4
    """Largest random displacement of an image in pixels; each is moved on its own. Code: 4."""
    smoothing: float = 0.2
    """Deviation of the noise on target actions in td3+bc. arXiv 2106.06860: 0.2."""
    alpha: float = 2.5
    """Weight of the value against imitation in td3+bc. arXiv 2106.06860: 2.5."""

    channels: tuple[int, ...] = (32, 32, 32, 32)
    """Channels of the 3 x 3 convolutions of the encoder. Code: four times 32."""
    strides: tuple[int, ...] = (2, 1, 1, 1)
    """Their strides. Code: 2, 1, 1, 1."""
    feature: int = 50
    """Width of the trunks behind the encoder, and of TACO's z. Code: 50 (DrQ-v2: 100 for humanoid)."""
    hidden: int = 1024
    """Width of all MLPs. Code: 1024."""
    latent_action: int | None = None
    """Length of an action code. None: floor(1.25 A) + 1 for actions of length A, as in the code."""

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """The objective of the taco and curl terms."""
    taco_weight: float = 1.0
    """Weight of predicting the frame K steps ahead from actions. Code: 1."""
    curl_weight: float = 1.0
    """Weight of finding the other view of a frame. Code: 1."""
    reward_weight: float = 1.0
    """Weight of predicting the reward. Code: 1."""
    update: Literal["paper", "merged", "fast"] = "paper"
    """paper: one Adam for the critic and one for the auxiliary loss, both over encoder and action encoder, one after
    the other; merged: one Adam on the sum of both; fast: merged, and every image is encoded once, so that TACO shares
    the critic's random shifts. Only paper is the code's."""

    eval_frames: int = 10_000
    """Simulator steps between two evaluations while training. Code: 10 k."""
    eval_episodes: int = 10
    """Episodes of an evaluation, with the mean action, in environments of their own. Code: 10."""
    test_episodes: int = 10
    """Episodes of the final evaluation, with other starts than those during training."""
    videos: bool = False
    """Whether the first episode of every evaluation is kept as a video in the run directory."""

    data: EnvConfig = field(default_factory=EnvConfig)
    """The environment."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """The replay memory."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(name="adam", lr=1e-4))
    """Every optimiser: critic, actor, auxiliary loss. Code: Adam, 1e-4 (DrQ-v2: 8e-5 for humanoid)."""
    engine: EngineConfig = field(
        default_factory=lambda: EngineConfig(batch_size=1024, epochs=None, log_steps=50, checkpoint_seconds=60.0)
    )
    """The training loop. Code: batches of 1024 with TACO, 256 without."""

    def __post_init__(self) -> None:
        at_least_one = (
            "frames", "envs", "update_every", "updates", "lookahead", "n_step", "feature", "hidden", "latent_action",
            "eval_frames", "eval_episodes", "test_episodes",
        )  # fmt: skip
        for name in at_least_one:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("seed_frames", "shift", "clip", "smoothing", "alpha", "taco_weight", "curl_weight",
                     "reward_weight"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.discount <= 1:
            raise ConfigError(f"discount must lie in (0, 1], got {self.discount}")
        if not self.actor_rate > 0:
            raise ConfigError(f"actor_rate must be positive, got {self.actor_rate}")
        if not 0 < self.target_rate <= 1:
            raise ConfigError(f"target_rate must lie in (0, 1], got {self.target_rate}")
        if not self.channels or len(self.channels) != len(self.strides):
            raise ConfigError(
                f"channels and strides must be of one length, got {list(self.channels)} and {list(self.strides)}"
            )
        if min(*self.channels, *self.strides) < 1:
            raise ConfigError("channels and strides must be at least 1")
        if self.engine.batch_size < 2 and self.auxiliary:
            raise ConfigError("engine.batch_size must be at least 2: one sample has no negatives to learn from")
        if self.algorithm != "drqv2" and self.update != "paper":
            raise ConfigError(f"update={self.update} belongs to drqv2, not to {self.algorithm}")
        if self.update == "fast" and not self.auxiliary:
            raise ConfigError("update=fast shares images with the auxiliary loss, but its terms are all off")
        scheduled(self.schedule, 0)

    def weighs(self, term: str) -> bool:
        """Whether a term of the auxiliary loss counts."""
        return term not in self.off and getattr(self, f"{term}_weight") > 0

    @property
    def auxiliary(self) -> bool:
        """Whether there is an auxiliary loss; without one this is DrQ-v2."""
        return any(self.weighs(term) for term in AUXILIARY)
