"""The networks of DrQ-v2 and TACO, with the sizes and the initialisation of the official code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from polycontrast.errors import ConfigError

_CACHED_PIXELS = 1 << 17
"""On the CPU the encoder takes the batch in parts of about so many pixels, whose activations stay in the cache: a third
faster at 84 x 84, and nothing else changes."""


def orthogonal(module: nn.Module) -> None:
    """Initialise every layer of ``module``: orthogonal weights (gain sqrt 2 for convolutions, else 1), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, math.sqrt(2.0) if isinstance(layer, nn.Conv2d) else 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Encoder(nn.Module):
    """Convolutions without padding, each followed by a ReLU, flattened; no pooling and no norm.

    Args:
        shape: (C, H, W) of an image, stacked frames in C.
        channels: of each convolution.
        strides: of each convolution.
        kernel: edge of the kernels.

    Raises:
        ConfigError: the image is too small for these convolutions.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 32, 32, 32),
        strides: Sequence[int] = (2, 1, 1, 1),
        kernel: int = 3,
    ) -> None:
        super().__init__()
        before, *edges = shape
        layers: list[nn.Module] = []
        for width, stride in zip(channels, strides, strict=True):
            layers += [nn.Conv2d(before, width, kernel, stride), nn.ReLU(inplace=True)]
            before, edges = width, [(edge - kernel) // stride + 1 for edge in edges]
        if min(edges) < 1:
            raise ConfigError(f"images of {shape[1]} x {shape[2]} pixels are too small for {len(channels)} layers")
        self.convolutions = nn.Sequential(*layers)
        self.shape = tuple(shape)
        self.repr_dim: int = before * edges[0] * edges[1]
        """Length of the flat output."""
        orthogonal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) grey levels 0 to 255, uint8 or floating, to (B, repr_dim)."""
        size = max(_CACHED_PIXELS // (images.shape[-1] * images.shape[-2]), 1)
        if images.device.type != "cpu" or len(images) <= size:
            return self._encode(images)
        return torch.cat([self._encode(part) for part in images.split(size)])

    def _encode(self, images: Tensor) -> Tensor:
        scaled = images.to(next(self.parameters()).dtype, copy=True).div_(255.0).sub_(0.5)
        return self.convolutions(scaled).flatten(1)


def trunk(repr_dim: int, feature_dim: int) -> nn.Sequential:
    """Linear, LayerNorm, tanh: what actor, critic and TACO each put on the encoder."""
    return nn.Sequential(nn.Linear(repr_dim, feature_dim), nn.LayerNorm(feature_dim), nn.Tanh())


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class ActionEncoder(nn.Module):
    """One action to its code; for actions that are numbers 0 to n - 1, a table of codes.

    Args:
        action_dim: length of an action, or how many discrete actions there are.
        latent_dim: length of the code. None: ``floor(1.25 action_dim) + 1``, as in the official code.
        hidden: width of the hidden layer.
        discrete: whether actions are whole numbers.
    """

    def __init__(
        self, action_dim: int, latent_dim: int | None = None, hidden: int = 64, *, discrete: bool = False
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim or int(1.25 * action_dim) + 1
        self.discrete = discrete
        self.layers: nn.Module = (
            nn.Embedding(action_dim, self.latent_dim)
            if discrete
            else nn.Sequential(nn.Linear(action_dim, hidden), nn.Tanh(), nn.Linear(hidden, self.latent_dim))
        )

    def forward(self, action: Tensor) -> Tensor:
        """(..., A) in [-1, 1], or (...) int64 when discrete, to (..., latent_dim)."""
        return self.layers(action)


class Actor(nn.Module):
    """Mean of the policy. Its parts are ``trunk`` and ``policy``."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int = 50, hidden: int = 1024) -> None:
        super().__init__()
        self.trunk = trunk(repr_dim, feature_dim)
        self.policy = mlp((feature_dim, hidden, hidden, action_dim))

    def forward(self, h: Tensor) -> Tensor:
        """(B, repr_dim) to (B, A) in [-1, 1]."""
        return torch.tanh(self.policy(self.trunk(h)))


class Critic(nn.Module):
    """Two values of a state and an action, given as it is or as its code. Its parts: ``trunk``, ``q1``, ``q2``."""

    def __init__(self, repr_dim: int, action_dim: int, feature_dim: int = 50, hidden: int = 1024) -> None:
        super().__init__()
        self.trunk = trunk(repr_dim, feature_dim)
        self.q1 = mlp((feature_dim + action_dim, hidden, hidden, 1))
        self.q2 = mlp((feature_dim + action_dim, hidden, hidden, 1))

    def forward(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """(B, repr_dim) and (B, L) to two of (B, 1)."""
        both = torch.cat([self.trunk(h), u], 1)
        return self.q1(both), self.q2(both)


ACTION_LIMIT = 1.0 - 1e-6
"""A sampled action is clamped to plus or minus this."""


def sample_action(mean: Tensor, std: float, noise: Tensor, clip: float | None = None) -> Tensor:
    """``mean`` plus scaled noise, kept within the box, with the gradient of ``mean`` passed straight through.

    Args:
        mean: (B, A).
        std: deviation of the noise.
        noise: (B, A) standard normal numbers.
        clip: bound on the scaled noise. None: none, as when acting.

    Source: the truncated normal of DrQ-v2.
    """
    scaled = noise * std
    if clip is not None:
        scaled = scaled.clamp(-clip, clip)
    free = mean + scaled
    return free + (free.clamp(-ACTION_LIMIT, ACTION_LIMIT) - free).detach()


def log_probability(mean: Tensor, std: float, action: Tensor) -> Tensor:
    """(B, 1): of ``action`` under the normal distribution before clipping and clamping, as DrQ-v2 logs it."""
    z = (action - mean) / std
    return -(0.5 * z.square() + math.log(std) + 0.5 * math.log(2.0 * math.pi)).sum(-1, keepdim=True)
