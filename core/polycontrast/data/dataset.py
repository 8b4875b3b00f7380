"""What a method is trained and measured on.

A :class:`Dataset` is a name, its splits and the facts that produced them. A split is anything that is indexed
with a *list* of positions and answers with a whole batch: one gather instead of a Python loop over samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Batch = dict[str, Any]
"""Tensors by name, first dimension the batch. ``id`` holds the stable int64 id of every sample; the engine adds
``draw``, one int64 per sample, from which :func:`polycontrast.data.uniform` derives that sample's randomness."""

Purpose = Literal["train", "evaluate", "predict"]
"""Why data is opened: to predict or embed, a file needs no splits and no labels."""


@runtime_checkable
class Examples(Protocol):
    """A finite set of samples with stable ids."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: list[int]) -> Batch:
        """The batch of these samples, among it ``id`` (B,) int64."""
        ...


@dataclass(frozen=True)
class TensorExamples:
    """Examples held as tensors of equal first dimension. ``id`` defaults to the position."""

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        sizes = {name: len(t) for name, t in self.tensors.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"tensors must have equal first dimension, got {sizes}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, positions: list[int]) -> Batch:
        at = torch.as_tensor(positions, dtype=torch.int64)
        batch: Batch = {name: t[at] for name, t in self.tensors.items()}
        batch.setdefault("id", at)
        return batch


@dataclass(kw_only=True)
class Dataset:
    """Splits of one source of examples, and where they come from.

    Domains derive from it and add what their methods need (values in original units, scalers, a graph, ...).
    """

    name: str
    """The registered name, or the path it was read from."""
    splits: Mapping[str, Examples] = field(default_factory=dict)
    """``train``, ``val``, ``test``; ``all`` when opened to predict. A domain may leave it empty and cut
    its splits to each method's measure instead."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able facts that a number depends on (split, scaling, look-back): stored and printed with each result."""
    notes: Sequence[str] = ()
    """Lines a person should see, e.g. a choice that was made for them."""
    licence: str = ""
    citation: str = ""
