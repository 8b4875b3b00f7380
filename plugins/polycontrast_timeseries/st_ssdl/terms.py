"""The two self-supervised terms. As in the code, both move the prototypes alone unless told otherwise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from polycontrast import losses
from polycontrast_timeseries.st_ssdl.network import Encoded

TRIPLET_EPS = 1e-6
"""Added to every difference before its length is taken, as torch's TripletMarginLoss does in the code."""


def contrast(
    queries: Tensor,
    prototypes: Tensor,
    indices: Tensor,
    *,
    kind: Literal["triplet", "triplet_squared", "infonce"] = "triplet",
    margin: float = 0.5,
    temperature: float = 0.1,
) -> Tensor:
    """Pull queries and their nearest prototypes together, push the second nearest away.

    Args:
        queries: (..., d); detached by the caller if they must not move.
        prototypes: (M, d).
        indices: (..., 2) numbers of the positive and the negative prototype.
        kind: triplet: ``[margin + |q - p| - |q - n|]_+`` with Euclidean lengths; triplet_squared: squared ones;
            infonce: cross-entropy of the positive among all M, on cosines over ``temperature``.
        margin: of the triplets.
        temperature: of infonce.

    Returns:
        The mean over queries.
    """
    q, at = queries.reshape(-1, queries.shape[-1]), indices.reshape(-1, 2)
    if kind == "infonce":
        value = losses.infonce(
            q, prototypes, positives=at[:, 0], symmetric=False, temperature=temperature, distributed=False
        )
    else:
        squared = kind == "triplet_squared"
        rows = torch.cat([q if squared else q + TRIPLET_EPS, prototypes])
        positive, negative = (at + len(q)).unbind(1)
        value = losses.triplet(
            rows, triplets=(torch.arange(len(q), device=q.device), positive, negative), margin=margin,
            distance="squared" if squared else "euclidean", normalize=False, reduction="mean", distributed=False,
        )  # fmt: skip
    assert isinstance(value, Tensor)
    return value


def distances(encoded: Encoded, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distances (B, N) of the queries of window and anchor, and of their nearest prototypes."""
    current, anchor = prototypes[encoded.indices[..., 0]]
    return (encoded.queries[0] - encoded.queries[1]).abs().sum(-1), (current - anchor).abs().sum(-1)


def deviation(query_distance: Tensor, prototype_distance: Tensor) -> Tensor:
    """``mean |D_q - D_p|``."""
    return (query_distance - prototype_distance).abs().mean()


def teacher_probability(batches: float, decay: float | None) -> float:
    """Probability ``k / (k + exp(i / k))`` with which a label is fed back at batch i; 0 without a decay."""
    if decay is None:
        return 0.0
    exponent = batches / decay - math.log(decay)
    return 1.0 / (1.0 + math.exp(exponent)) if exponent < 700 else 0.0
