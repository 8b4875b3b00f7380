"""TACOLoss: the auxiliary loss of TACO as a part for any agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polycontrast import losses
from polycontrast.memory import EmaTeacher
from polycontrast_rl.taco.networks import ActionEncoder, mlp, orthogonal, trunk


class TACOLoss(nn.Module):
    """Predict the code of the frame K steps ahead from the code of this one and K action codes.

    With ``z = p(e(o_t))``, ``z' = sg p(e(o_t))`` under another shift, ``y = sg p(e(o_{t+K}))``, the action codes
    ``U`` and ``q = g([z, U])``::

        taco    mean_i of the cross entropy of q_i W y_j over j, with j = i the right one
        curl    the same with z_i W z'_j
        reward  (r([z, U]) - R)^2

    It knows nothing of the agent. Give ``action_encoder`` to the critic, call the module on batches of the replay
    memory, and step one optimiser over ``parameters()``, which hold those of the encoder, on the sum. The official code
    keeps that optimiser apart from the critic's, although both step the encoder.

    Args:
        encoder: (B, C, H, W) images of grey levels to (B, repr_dim). Shared with the agent.
        action_dim: length of an action; with ``discrete`` their number.
        K: steps ahead.
        latent_action_dim: length of an action code. None: ``floor(1.25 action_dim) + 1``.
        feature_dim: width of z.
        hidden: width of the hidden layers.
        use_curl: whether there is the curl term.
        use_reward: whether there is the reward term.
        repr_dim: width of what the encoder gives. None: its attribute ``repr_dim``.
        action_encoder: an existing one to share. None: a new one.
        action_hidden: width of a new action encoder.
        discrete: actions are numbers 0 to ``action_dim - 1``, and their codes a table.
        objective: a loss of polycontrast.losses for pairs, instead of the paper's ``infonce``.
        symmetric: also ask which q belongs to a y. Not in the paper.
        in_episode_negatives: the frame of now (z') is one more wrong answer for q, which makes it tell apart frames of
            one episode. After Premier-TACO (Zheng et al. 2024, arXiv 2402.06187), which draws one from around t+K.
        key_momentum: z' and y come from an average of the weights with this momentum; call :meth:`update_keys` after
            every step. None, as in the paper: from the weights themselves.

    Source: Zheng et al. 2023, arXiv 2306.13229, equations 3 to 6, with the terms of the official code.
    """

    def __init__(
        self,
        encoder: nn.Module,
        action_dim: int,
        K: int,
        latent_action_dim: int | None = None,
        feature_dim: int = 50,
        hidden: int = 1024,
        use_curl: bool = True,
        use_reward: bool = True,
        *,
        use_taco: bool = True,
        repr_dim: int | None = None,
        action_encoder: ActionEncoder | None = None,
        action_hidden: int = 64,
        discrete: bool = False,
        objective: str = "infonce",
        symmetric: bool = False,
        in_episode_negatives: bool = False,
        key_momentum: float | None = None,
    ) -> None:
        super().__init__()
        if K < 1:
            raise ValueError(f"K must be at least 1, got {K}")
        if objective != "infonce" and (symmetric or in_episode_negatives):
            raise ValueError(f"symmetric and in_episode_negatives belong to infonce, not to {objective}")
        width = repr_dim or int(encoder.repr_dim)  # type: ignore[arg-type]
        self.K, self.use_taco, self.use_curl, self.use_reward = K, use_taco, use_curl, use_reward
        self.encoder = encoder
        self.action_encoder: ActionEncoder | None = None
        codes = 0
        if use_taco or use_reward:
            self.action_encoder = action_encoder or ActionEncoder(
                action_dim, latent_action_dim, action_hidden, discrete=discrete
            )
            codes = K * self.action_encoder.latent_dim
            self.sequence = nn.Sequential(nn.Linear(codes, codes), nn.LayerNorm(codes), nn.Tanh())
        self.project = trunk(width, feature_dim)
        if use_taco:
            self.predict = mlp((feature_dim + codes, hidden, feature_dim))
        if use_reward:
            self.reward = mlp((feature_dim + codes, hidden, 1))
        for part in self.children():
            if part is not encoder and part is not action_encoder:
                orthogonal(part)
        # All positive, as in the official code; the first losses may exceed log B.
        self.W = nn.Parameter(torch.rand(feature_dim, feature_dim))
        self.symmetric, self.in_episode_negatives = symmetric, in_episode_negatives
        self.objective = None if objective == "infonce" else losses.get(objective)(**_plain_options(objective))
        self.keys = None if key_momentum is None else EmaTeacher(nn.Sequential(encoder, self.project), key_momentum)

    def forward(
        self,
        obs: Tensor,
        action_seq: Tensor,
        obs_K: Tensor,
        reward: Tensor | None = None,
        aug: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted losses by name: ``taco``, ``curl``, ``reward`` as far as there are.

        Args:
            obs: (B, C, H, W) frames of now, grey levels 0 to 255.
            action_seq: (B, K, A), or (B, K) int64 when discrete: the actions from now on.
            obs_K: (B, C, H, W) the frames K steps ahead.
            reward: (B, 1) what the reward head predicts.
            aug: a random augmentation, applied anew to each of the three. None: none.

        Returns:
            Scalars, means over B. ``accuracy`` holds how often q found its y, and is no loss: it has no gradient.
        """
        aug = aug or (lambda images: images)
        positive = aug(obs) if self.use_curl or self.in_episode_negatives else None
        return self.losses(aug(obs), action_seq, aug(obs_K) if self.use_taco else None, reward, positive)

    def losses(
        self,
        anchor: Tensor,
        action_seq: Tensor,
        ahead: Tensor | None,
        reward: Tensor | None,
        positive: Tensor | None,
    ) -> dict[str, Tensor]:
        """:meth:`forward` on images that are augmented already; ``positive`` is the second view of now."""
        with torch.no_grad():
            z_pos = None if positive is None else self.key(positive)
            y = None if ahead is None else self.key(ahead)
        return self.losses_of_codes(self.project(self.encoder(anchor)), action_seq, y, reward, z_pos)

    def losses_of_codes(
        self, z: Tensor, action_seq: Tensor, y: Tensor | None, reward: Tensor | None, z_pos: Tensor | None
    ) -> dict[str, Tensor]:
        """:meth:`losses` from codes: z with gradient, keys z' and y without."""
        found: dict[str, Tensor] = {}
        if self.use_taco or self.use_reward:
            known = torch.cat([z, self.sequence_code(action_seq)], 1)
        if self.use_taco:
            assert y is not None
            wrong = z_pos.unsqueeze(1) if self.in_episode_negatives and z_pos is not None else None
            found["taco"], found["accuracy"] = self.contrast(self.predict(known), y, wrong)
        if self.use_curl:
            assert z_pos is not None
            found["curl"], found["curl_accuracy"] = self.contrast(z, z_pos)
        if self.use_reward:
            if reward is None:
                raise ValueError("the reward term needs reward (B, 1)")
            found["reward"] = functional.mse_loss(self.reward(known), reward)
        return found

    def contrast(self, x: Tensor, y: Tensor, negatives: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The contrastive term of ``x`` (B, F) against ``y`` (B, F) under W, and how often each finds its own.

        No temperature, no unit length, one direction; the negatives are the rest of the batch, and ``negatives``
        (B, h, F) if given.
        """
        if self.objective is not None:
            out = self.objective(x @ self.W, y, return_dict=True)
        else:
            out = losses.infonce(
                x, y, score="bilinear", weight=self.W, temperature=1.0, normalize=False, symmetric=self.symmetric,
                negatives=negatives, return_dict=True,
            )  # fmt: skip
        return out["loss"], out["accuracy"]

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, B) scores ``x_i W y_j`` less the maximum of their row, which changes no cross entropy."""
        scores = x @ self.W @ y.T
        return scores - scores.amax(1, keepdim=True)

    def key(self, images: Tensor) -> Tensor:
        """Codes that are compared with, (B, F), without gradient."""
        return self.keys(images) if self.keys is not None else self.project(self.encoder(images)).detach()

    def sequence_code(self, action_seq: Tensor) -> Tensor:
        """U: the codes of K actions as one, (B, K L)."""
        assert self.action_encoder is not None
        return self.sequence(self.action_encoder(action_seq).flatten(1))

    @torch.no_grad()
    def update_keys(self) -> None:
        """Let the averaged weights follow, where there are any."""
        if self.keys is not None:
            self.keys.update(nn.Sequential(self.encoder, self.project))


def _plain_options(objective: str) -> dict[str, Any]:
    """Rows as they are and no temperature, as far as the objective can be told."""
    known = {f.name for f in fields(losses.get(objective).config_class)}
    return {k: v for k, v in {"normalize": False, "temperature": 1.0}.items() if k in known}
