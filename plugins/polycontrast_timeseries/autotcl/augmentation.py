"""What the view of a series keeps and how it is rescaled: the learned factorisation, and fixed views beside it.

``x = x* + dx`` with the informative part ``x* = h(x) x``, and the view ``v* = g(x) x*`` (paper, section 3). h in [0, 1]
is relaxed to a gate that is drawn anew for every view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from polycontrast.data import normal, uniform
from polycontrast_timeseries.autotcl.encoder import CoSTEncoder

TimeRule = Literal["near_alike", "code"]


class Factors(NamedTuple):
    """What the augmenter says of a series, each (B, T, C)."""

    logit: Tensor
    """Of ``keep``."""
    keep: Tensor
    """h: the probability that a value is informative."""
    scale: Tensor
    """g: positive."""


class Augmenter(nn.Module):
    """An encoder of its own with two linear maps: ``h = sigmoid(linear(e))``, ``g = sigmoid(linear'(e))``.

    Args:
        channels: C.
        hidden: width of the encoder.
        depth: its last dilation is 2^depth.
        dim: features of the encoder.
        kernels: of its causal head; empty: none.
    """

    def __init__(self, channels: int, *, hidden: int, depth: int, dim: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = CoSTEncoder(channels, dim, hidden=hidden, depth=depth, kernels=kernels)
        self.keep = nn.Linear(dim, channels)
        self.scale = nn.Linear(dim, channels)

    def forward(self, x: Tensor) -> Factors:
        """(B, T, C), without gaps."""
        return self.factors(self.encoder(x))

    def factors(self, features: Tensor) -> Factors:
        """From the features of the encoder, (B, T, ``dim``)."""
        logit = self.keep(features)
        return Factors(logit, logit.sigmoid(), self.scale(features).sigmoid())


def gate(
    logit: Tensor,
    noise: Tensor | None,
    *,
    bias: float = 0.05,
    gamma: float = -0.05,
    zeta: float = 1.0,
    temperature: float = 1.0,
    hard: bool = True,
    threshold: float = 0.5,
) -> Tensor:
    """A relaxed Bernoulli variable with stretched ends (Maddison et al. 2017, Louizos et al. 2018), in [0, 1].

    ``s = sigmoid((log e - log(1 - e) + logit) / temperature)`` with ``e = (2 bias - 1) u + 1 - bias``, then
    ``clip(s (zeta - gamma) + gamma, 0, 1)``.

    Args:
        logit: of the probability to be 1. The authors' code gives the probability itself here.
        noise: u, uniform in [0, 1). None: no noise, ``s = sigmoid(logit)``.
        bias: keeps e away from 0 and 1.
        gamma: where 0 is stretched to; at most 0.
        zeta: where 1 is stretched to; at least 1.
        temperature: of the relaxation.
        hard: 1 above the threshold, else 0, with the gradient of the relaxed value (straight through).
        threshold: of ``hard``.

    Returns:
        Of the shape of ``logit``.
    """
    if noise is None:
        soft = logit.sigmoid()
    else:
        # Without a bias, a draw of exactly 0 would be infinite.
        e = ((2.0 * bias - 1.0) * noise + (1.0 - bias)).clamp(1e-7, 1.0 - 1e-7)
        soft = ((torch.logit(e) + logit) / temperature).sigmoid()
    soft = (soft * (zeta - gamma) + gamma).clamp(0.0, 1.0)
    return soft + ((soft > threshold).to(soft.dtype) - soft).detach() if hard else soft


def over_budget(keep: Tensor, budget: float) -> Tensor:
    """``relu(mean over series and steps of sum over channels of h - budget)``: how much too much is kept."""
    return (keep.sum(2).mean() - budget).relu()


def consistency(keep: Tensor, anchor: Tensor, other: Tensor, *, rule: TimeRule = "near_alike", gap: int = 1) -> Tensor:
    """Neighbouring steps shall be kept alike, far ones differently.

    ``near_alike``, as the paper says it: ``|h_a - h_(a-1)| + |h_a - h_(a+1)|`` plus, of another step o of the same
    series, ``1 - |h_a - h_o|`` if it is more than ``gap`` away and ``|h_a - h_o|`` if not. ``code``, as the authors'
    code has it: every anchor in every series, and the term of o with the opposite sense, far meaning
    ``o - a > gap``.

    Args:
        keep: h, (B, T, C), T at least 3.
        anchor: a, (B,) int64 from 1 to T - 2.
        other: o, (B,) int64 from 0 to T - 1.
        rule: which.
        gap: steps.

    Returns:
        Mean over series (pairs of series and anchor), and channels.
    """
    if rule == "code":
        here, before, after, there = (keep[:, at] for at in (anchor, anchor - 1, anchor + 1, other))  # (B, B, C)
        alike = other - anchor > gap
    else:
        rows = torch.arange(len(keep), device=keep.device)
        here, before, after, there = (keep[rows, at] for at in (anchor, anchor - 1, anchor + 1, other))  # (B, C)
        alike = (other - anchor).abs() <= gap
    difference = (here - there).abs()
    term = torch.where(alike.unsqueeze(1), difference, 1.0 - difference)
    return (term + (here - before).abs() + (here - after).abs()).mean()


def draw_steps(draw: Tensor, length: int, *, stream: int) -> tuple[Tensor, Tensor]:
    """An anchor and another step per series for :func:`consistency`, each (B,) int64."""
    u = uniform(draw, 2, stream=stream).double()
    return 1 + (u[:, 0] * (length - 2)).long(), (u[:, 1] * length).long()


def jittered(x: Tensor, draw: Tensor, strength: float, *, stream: int) -> Tensor:
    """Normal noise of deviation ``strength`` on every value."""
    return x + strength * normal(draw, x[0].numel(), stream=stream).view_as(x).to(x.dtype)


def rescaled(x: Tensor, draw: Tensor, strength: float, *, stream: int) -> Tensor:
    """Every channel of every series times ``1 + N(0, strength)``."""
    return x * (1.0 + strength * normal(draw, x.shape[2], stream=stream).unsqueeze(1).to(x.dtype))


def cropped(x: Tensor, draw: Tensor, strength: float, *, stream: int) -> Tensor:
    """Only a run of steps is left, the rest is 0; ``strength`` is the share that goes."""
    length = x.shape[1]
    kept = max(1, round(length * (1.0 - strength)))
    start = (uniform(draw, 1, stream=stream).double() * (length - kept + 1)).long()
    at = torch.arange(length, device=x.device)
    return x * ((at >= start) & (at < start + kept)).unsqueeze(2)


FIXED = {"jitter": jittered, "scaling": rescaled, "cropping": cropped}
"""Views without anything to learn."""


__all__ = [
    "FIXED", "Augmenter", "Factors", "consistency", "cropped", "draw_steps", "gate", "jittered", "over_budget",
    "rescaled",
]  # fmt: skip
