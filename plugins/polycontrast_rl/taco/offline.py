"""Learning from a recorded replay memory: TD3+BC and behaviour cloning, each with or without TACO.

The paper's section 5.2 adds the auxiliary loss, the shared action encoder and the image encoder to offline algorithms
unchanged; no code was released for it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from polycontrast.data import Batch
from polycontrast_rl.taco.drqv2 import Agent, Draws, Minimise, critic_loss, step_auxiliary, target_value, value_facts


def td3_bc_update(
    agent: Agent, batch: Batch, draws: Draws, *, smoothing: float, clip: float, alpha: float, minimise: Minimise
) -> dict[str, Tensor]:
    """One update of TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860) on images, with TACO if the agent has it.

    The critic is DrQ-v2's with smoothed target actions; the actor minimises ``-lambda Q(o, pi(o)) + (pi(o) - a)^2``
    with ``lambda = alpha / mean |Q|``, on features without gradient to the encoder.

    Args:
        agent: what learns.
        batch: see :func:`polycontrast_rl.taco.drqv2.update`.
        draws: random numbers.
        smoothing: deviation of the noise on target actions.
        clip: bound on that noise.
        alpha: weight of the value against imitation.
        minimise: called with ``critic``, ``actor`` and, with TACO, ``auxiliary``.

    Returns:
        Numbers to log.
    """
    h = agent.encoder(draws.view(0, batch["obs"]))
    with torch.no_grad():
        h_next = agent.encoder(draws.view(1, batch["next_obs"]))
    y = target_value(agent, batch, h_next, draws.target_noise, smoothing, clip)
    loss, q1, q2 = critic_loss(agent, h, batch["action"], y)
    minimise({"critic": loss}, "critic")
    h = h.detach()
    mean = agent.actor(h)
    value = torch.min(*agent.critic(h, agent.code(mean)))
    scale = alpha / value.detach().abs().mean().clamp_min(1e-6)
    minimise({"actor": -scale * value.mean(), "bc": functional.mse_loss(mean, batch["action"])}, "actor")
    agent.target.update(agent.critic)
    return value_facts(batch, y, q1, q2) | step_auxiliary(agent, batch, draws, minimise)


def bc_update(agent: Agent, batch: Batch, draws: Draws, *, minimise: Minimise) -> dict[str, Tensor]:
    """One update of behaviour cloning: ``(pi(o) - a)^2``, which also trains the encoder, and TACO if the agent has it.

    ``minimise`` is called with ``actor``, whose optimiser must own the encoder too, and ``auxiliary``.
    """
    mean = agent.actor(agent.encoder(draws.view(0, batch["obs"])))
    minimise({"bc": functional.mse_loss(mean, batch["action"])}, "actor")
    return step_auxiliary(agent, batch, draws, minimise)
