"""Which time steps a masked auto-encoder may see, as pure functions of uniform noise.

Every mask is given by ``keep`` (R, V): the positions of the V visible steps of each of R rows, in the order in
which the encoder reads them (any order will do, positions are already added). The functions draw nothing
themselves, so a mask is reproduced from its noise alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polycontrast.data import uniform


def visible_steps(length: int, ratio: float) -> int:
    """Number of visible steps, ``int(length * (1 - ratio))`` and at least one (paper section 3.2)."""
    return max(int(length * (1 - ratio)), 1)


def random_mask(noise: Tensor, ratio: float, missing: Tensor | None = None) -> Tensor:
    """Hide a share of the steps, uniformly without replacement.

    Args:
        noise: (R, L) uniform numbers; the steps with the smallest ones stay visible, ties by position.
        ratio: share of hidden steps, in [0, 1).
        missing: (R, L) bool, steps without a value; they become visible only after all others.

    Returns:
        ``keep`` (R, V) int64 in ascending order of noise.
    """
    if missing is not None:
        noise = torch.where(missing, noise + 1, noise)
    return noise.argsort(dim=1, stable=True)[:, : visible_steps(noise.shape[1], ratio)]


def periodic_mask(phase: Tensor, length: int, ratio: float) -> Tensor:
    """Keep steps at equal distances.

    Args:
        phase: (R,) uniform numbers, shift of the first visible step within one period.
        length: steps per row, L.
        ratio: share of hidden steps.

    Returns:
        ``keep`` (R, V) int64, ascending.
    """
    kept = visible_steps(length, ratio)
    comb = (torch.arange(kept, device=phase.device) + phase.double().unsqueeze(1)) * (length / kept)
    return comb.long().clamp_(max=length - 1)


def block_mask(place: Tensor, length: int, ratio: float) -> Tensor:
    """Hide one run of neighbouring steps.

    Args:
        place: (R,) uniform numbers, where the hidden run begins among its possible places.
        length: steps per row, L.
        ratio: share of hidden steps.

    Returns:
        ``keep`` (R, V) int64, ascending.
    """
    kept = visible_steps(length, ratio)
    start = (place.double() * (kept + 1)).long().unsqueeze(1)
    steps = torch.arange(kept, device=place.device).expand(len(place), -1)
    return steps + (steps >= start) * (length - kept)


def future_mask(rows: int, length: int, horizon: int, *, device: torch.device | None = None) -> Tensor:
    """Hide the last ``horizon`` steps: the forecasting task itself. ``keep`` (rows, length - horizon), ascending."""
    return torch.arange(length - horizon, device=device).expand(rows, -1)


def complementary_masks(noise: Tensor, ratio: float) -> Tensor:
    """Random masks of which each step is visible in exactly one.

    Args:
        noise: (R, L) uniform numbers.
        ratio: share of hidden steps; the share in fact is that of the nearest whole number of masks.

    Returns:
        (M, R, V): the permutation that the noise sorts into, dealt out to M = ceil(1 / (1 - ratio)) masks, at least
        two. Each is a uniform random mask. L need not be a multiple of M: the rest is filled up from the front.
    """
    masks = max(math.ceil(1 / (1 - ratio)), 2)
    order = noise.argsort(dim=1, stable=True)
    rest = -order.shape[1] % masks
    return torch.cat([order, order[:, :rest]], 1).unflatten(1, (masks, -1)).transpose(0, 1)


def hidden_steps(keep: Tensor, length: int) -> Tensor:
    """(R, L) bool, true where a step is hidden: the complement of ``keep``."""
    hidden = torch.ones(len(keep), length, dtype=torch.bool, device=keep.device)
    return hidden.scatter_(1, keep, False)


def draw_masks(
    draw: Tensor,
    length: int,
    *,
    masks: range,
    kind: str = "random",
    ratio: float = 0.75,
    forecast_ratio: float = 0.0,
    horizon: int = 0,
    missing: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Masks number ``masks`` of a batch, as functions of each sample's key alone.

    Args:
        draw: (B,) int64 keys, see :func:`polycontrast.data.uniform`.
        length: steps per sample, L.
        masks: numbers of the masks to draw for every sample.
        kind: ``random``, ``periodic``, ``block``, ``future`` or ``mixed`` (each mask is one of the four).
        ratio: share of hidden steps of all but the future masks.
        forecast_ratio: share of (sample, mask) rows that get a future mask whatever the kind.
        horizon: steps that a future mask hides. 0: there are no future masks.
        missing: (B, L) bool, steps without a value.

    Returns:
        One or two pairs ``(rows, keep)``: (R,) the sample each row belongs to, and (R, V) its visible steps. Rows
        with a different number of visible steps cannot share a tensor, hence the pair for the future masks.
    """
    noise = torch.cat([uniform(draw, length + 3, stream=mask) for mask in masks])  # row = mask * B + sample
    noise, lot, place, share = noise[:, :length], noise[:, length], noise[:, length + 1], noise[:, length + 2]
    rows = torch.arange(len(draw), device=draw.device).repeat(len(masks))
    # ``mixed`` throws the lot into four parts: random, periodic, block, future.
    is_future = share < forecast_ratio
    is_future |= torch.full_like(is_future, kind == "future") | ((kind == "mixed") & (lot >= 0.75))
    is_future &= horizon > 0

    def keep_of(at: Tensor) -> Tensor:
        def random() -> Tensor:
            return random_mask(noise[at], ratio, None if missing is None else missing[rows[at]])

        if kind == "periodic":
            return periodic_mask(place[at], length, ratio)
        if kind == "block":
            return block_mask(place[at], length, ratio)
        if kind != "mixed":
            return random()
        part = lot[at].unsqueeze(1)
        regular = torch.where(part < 0.5, periodic_mask(place[at], length, ratio), block_mask(place[at], length, ratio))
        return torch.where((part < 0.25) | (part >= 0.75), random(), regular)

    groups = []
    if len(at := (~is_future).nonzero().squeeze(1)):
        groups.append((rows[at], keep_of(at)))
    if len(at := is_future.nonzero().squeeze(1)):
        groups.append((rows[at], future_mask(len(at), length, horizon, device=draw.device)))
    return groups
