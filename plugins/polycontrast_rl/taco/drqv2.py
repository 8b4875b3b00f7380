"""DrQ-v2, with TACO as an optional part: one update, in the order of the official code.

Yarats et al. 2022 (arXiv 2107.09645); Zheng et al. 2023 (arXiv 2306.13229).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from polycontrast.data import Batch, normal
from polycontrast.memory import EmaTeacher
from polycontrast_rl.taco.augmentation import draw_shifts, random_shift
from polycontrast_rl.taco.loss import TACOLoss
from polycontrast_rl.taco.networks import Actor, Critic, log_probability, orthogonal, sample_action

Minimise = Callable[[Mapping[str, Tensor], str], None]
"""Step the named optimiser on the sum of these terms."""

VIEWS = 5
"""Random shifts of one update, in this order: o_t and o_{t+n} of the critic; anchor, positive and o_{t+K} of TACO."""


class Agent(nn.Module):
    """Encoder, actor, critic, target critic and, with TACO, its loss and the action encoder that the critic shares.

    Args:
        encoder: images to (B, repr_dim).
        action_dim: A.
        feature_dim: width of the trunks.
        hidden: width of the MLPs.
        target_rate: share of the critic that the target takes over per update.
        taco: the auxiliary loss on the same encoder. None: plain DrQ-v2.
    """

    def __init__(
        self,
        encoder: nn.Module,
        action_dim: int,
        *,
        feature_dim: int = 50,
        hidden: int = 1024,
        target_rate: float = 0.01,
        taco: TACOLoss | None = None,
    ) -> None:
        super().__init__()
        width = int(encoder.repr_dim)  # type: ignore[arg-type]
        self.encoder = encoder
        self.taco = taco
        self.action_encoder = taco.action_encoder if taco is not None else None
        code = action_dim if self.action_encoder is None else self.action_encoder.latent_dim
        self.actor = Actor(width, action_dim, feature_dim, hidden)
        self.critic = Critic(width, code, feature_dim, hidden)
        orthogonal(self.actor)
        orthogonal(self.critic)
        self.target = EmaTeacher(self.critic, 1.0 - target_rate)

    def code(self, action: Tensor) -> Tensor:
        """What the critic sees of an action: its code u, or the action itself."""
        return action if self.action_encoder is None else self.action_encoder(action)

    @torch.no_grad()
    def act(self, obs: Tensor, std: float = 0.0, noise: Tensor | None = None) -> Tensor:
        """Actions (n, A) for observations (n, C, H, W): the mean, or with ``noise`` a draw around it, unclipped."""
        mean = self.actor(self.encoder(obs))
        return mean if noise is None else sample_action(mean, std, noise)

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic loss steps: critic, encoder, action encoder."""
        parts = (self.critic, self.encoder, self.action_encoder)
        return [p for part in parts if part is not None for p in part.parameters()]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one update."""

    shifts: Tensor
    """(VIEWS, B, 2) int64."""
    target_noise: Tensor
    """(B, A) standard normal, of the target's action."""
    actor_noise: Tensor
    """(B, A) standard normal, of the actor's action."""
    pad: int = 4

    @classmethod
    def of(cls, draw: Tensor, action_dim: int, pad: int) -> Draws:
        """From one key per sample, see :func:`polycontrast.data.draws`."""
        shifts = torch.stack([draw_shifts(draw, pad, stream=i) for i in range(VIEWS)])
        target, actor = (normal(draw, action_dim, stream=VIEWS + i) for i in range(2))
        return cls(shifts, target, actor, pad)

    def view(self, i: int, images: Tensor) -> Tensor:
        """The i-th shift."""
        return random_shift(images, self.shifts[i], self.pad)


def target_value(agent: Agent, batch: Batch, h_next: Tensor, noise: Tensor, std: float, clip: float) -> Tensor:
    """``R + D min_i Qbar_i(o', a')`` with a' the policy's action under clipped noise, (B, 1), without gradient."""
    with torch.no_grad():
        action = sample_action(agent.actor(h_next), std, noise, clip)
        return batch["reward"] + batch["discount"] * torch.min(*agent.target(h_next, agent.code(action)))


def critic_loss(agent: Agent, h: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared errors of both values, and the values."""
    q1, q2 = agent.critic(h, agent.code(action))
    return functional.mse_loss(q1, target) + functional.mse_loss(q2, target), q1, q2


def actor_loss(agent: Agent, h: Tensor, noise: Tensor, std: float, clip: float) -> tuple[Tensor, Tensor, Tensor]:
    """``-mean min_i Q_i(sg o, a)``, and mean and draw of the policy. The encoder gets no gradient."""
    h = h.detach()
    mean = agent.actor(h)
    action = sample_action(mean, std, noise, clip)
    return -torch.min(*agent.critic(h, agent.code(action))).mean(), mean, action


def auxiliary_terms(agent: Agent, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    """TACO's terms on three new augmentations."""
    taco = agent.taco
    if taco is None:
        return {}
    return taco.losses(
        draws.view(2, batch["obs"]),
        batch["action_seq"],
        draws.view(4, batch["obs_k"]) if taco.use_taco else None,
        batch["reward_seq"],
        draws.view(3, batch["obs"]) if taco.use_curl or taco.in_episode_negatives else None,
    )


def update(
    agent: Agent, batch: Batch, draws: Draws, *, std: float, clip: float, minimise: Minimise, merged: bool = False
) -> dict[str, Tensor]:
    """One update of everything.

    Args:
        agent: what learns.
        batch: ``obs``, ``action``, ``action_seq``, ``reward``, ``discount``, ``next_obs``, ``obs_k`` of
            :meth:`polycontrast_rl.replay.ReplayBuffer.sample`, and ``reward_seq``, what the reward head predicts.
        draws: random numbers.
        std: deviation of the exploration noise now.
        clip: bound on that noise in both losses.
        minimise: called with ``critic``, ``actor`` and, with TACO, ``auxiliary``. Critic and auxiliary both own the
            encoder and the action encoder, with moments of their own.
        merged: one step on the sum of critic and auxiliary terms (``critic`` then owns everything but the actor).

    Returns:
        Numbers to log.
    """
    h = agent.encoder(draws.view(0, batch["obs"]))
    with torch.no_grad():
        h_next = agent.encoder(draws.view(1, batch["next_obs"]))
    y = target_value(agent, batch, h_next, draws.target_noise, std, clip)
    loss, q1, q2 = critic_loss(agent, h, batch["action"], y)
    extra = auxiliary_terms(agent, batch, draws) if merged else {}
    facts = {**value_facts(batch, y, q1, q2), **_pop_facts(extra)}
    minimise({"critic": loss, **extra}, "critic")

    # The critic is already updated; the features are those from before its step, as in the official code.
    facts |= step_actor(agent, h, draws, std, clip, minimise)
    agent.target.update(agent.critic)

    if not merged:
        return facts | step_auxiliary(agent, batch, draws, minimise)
    if agent.taco is not None:
        agent.taco.update_keys()
    return facts


def fast_update(
    agent: Agent, batch: Batch, draws: Draws, *, std: float, clip: float, minimise: Minimise
) -> dict[str, Tensor]:
    """:func:`update` merged, with images encoded once: the critic's views serve TACO too.

    Not the official code: TACO's anchor and key ahead share the shifts of the critic's images, and when n = K the
    critic's next frames are the frames K steps ahead.
    """
    taco = agent.taco
    assert taco is not None
    h = agent.encoder(draws.view(0, batch["obs"]))
    same = batch["next_obs"] is batch["obs_k"]
    with torch.no_grad():
        h_next = agent.encoder(draws.view(1, batch["next_obs"]))
        y_key = z_pos = None
        if taco.use_taco:
            ahead = draws.view(4, batch["obs_k"])
            y_key = taco.project(h_next) if same and taco.keys is None else taco.key(ahead)
        if taco.use_curl or taco.in_episode_negatives:
            z_pos = taco.key(draws.view(3, batch["obs"]))
    y = target_value(agent, batch, h_next, draws.target_noise, std, clip)
    loss, q1, q2 = critic_loss(agent, h, batch["action"], y)
    extra = taco.losses_of_codes(taco.project(h), batch["action_seq"], y_key, batch["reward_seq"], z_pos)
    facts = {**value_facts(batch, y, q1, q2), **_pop_facts(extra)}
    minimise({"critic": loss, **extra}, "critic")
    facts |= step_actor(agent, h, draws, std, clip, minimise)
    agent.target.update(agent.critic)
    taco.update_keys()
    return facts


def value_facts(batch: Batch, target: Tensor, q1: Tensor, q2: Tensor) -> dict[str, Tensor]:
    """What DrQ-v2 logs of the critic, under its names."""
    return {
        "batch_reward": batch["reward"].mean(), "critic_target_q": target.mean(), "critic_q1": q1.detach().mean(),
        "critic_q2": q2.detach().mean(),
    }  # fmt: skip


def step_actor(agent: Agent, h: Tensor, draws: Draws, std: float, clip: float, minimise: Minimise) -> dict[str, Tensor]:
    """The actor's part of an update."""
    loss, mean, action = actor_loss(agent, h, draws.actor_noise, std, clip)
    minimise({"actor": loss}, "actor")
    entropy = mean.shape[1] * (math.log(std) + 0.5 * math.log(2.0 * math.pi * math.e))
    return {
        "actor_logprob": log_probability(mean, std, action).detach().mean(), "actor_ent": torch.tensor(entropy),
    }  # fmt: skip


def step_auxiliary(agent: Agent, batch: Batch, draws: Draws, minimise: Minimise) -> dict[str, Tensor]:
    """TACO's part of an update, if the agent has one."""
    if agent.taco is None:
        return {}
    terms = auxiliary_terms(agent, batch, draws)
    facts = _pop_facts(terms)
    minimise(terms, "auxiliary")
    agent.taco.update_keys()
    return facts


def _pop_facts(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take what is no loss out of TACO's terms."""
    return {name: terms.pop(name) for name in ("accuracy", "curl_accuracy") if name in terms}
