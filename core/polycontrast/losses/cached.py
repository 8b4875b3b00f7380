"""Large contrastive batches through an encoder that only holds a few samples at a time (gradient caching)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from polycontrast.losses.common import LossOutput


class CachedStep:
    """Encode in chunks that keep no activations, take the loss of the whole batch, encode each again in backward.

    The gradient is that of the whole batch at once: each chunk's second forward pass sees the random state of its first
    (dropout draws the same), and batch-norm statistics move once. Accumulating gradients over small batches is not the
    same: it has fewer negatives. Backward runs once over everything, so several processes exchange gradients once per
    step, however many chunks there are; GradScaler works as usual. (Gradient caching, arXiv 2101.06983.)

        step = CachedStep([image_encoder, text_encoder], loss=InfoNCE(), chunk=64)
        loss = step(images, texts)
        loss.backward()

    Args:
        encoders: one for each input, or one for all.
        loss: called with the embeddings of all inputs, and with what ``**options`` the step was called with.
        chunk: samples per forward pass.
    """

    def __init__(self, encoders: nn.Module | Sequence[nn.Module], loss: Callable[..., LossOutput], chunk: int) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be a positive number of samples, got {chunk}")
        self.encoders = [encoders] if isinstance(encoders, nn.Module) else list(encoders)
        self.loss, self.chunk = loss, chunk

    def __call__(self, *inputs: Any, **options: Any) -> LossOutput:
        """The loss of the whole batch.

        Args:
            *inputs: one for each encoder: a tensor, or a tuple, list or dict of tensors, with samples along dimension
                0.
            **options: for the loss.

        Raises:
            ValueError: numbers of inputs and encoders differ.
        """
        encoders = self.encoders * len(inputs) if len(self.encoders) == 1 else self.encoders
        if len(encoders) != len(inputs):
            raise ValueError(
                f"CachedStep has {len(self.encoders)} encoders for {len(inputs)} inputs: give one for each, or one"
            )
        return self.loss(*(self.embed(e, x) for e, x in zip(encoders, inputs, strict=True)), **options)

    def embed(self, encoder: nn.Module, inputs: Any) -> Tensor:
        """Embeddings of all samples; backward encodes each chunk again."""
        leaves, shape = tree_flatten(inputs)
        n = next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor))

        def part(start: int) -> Any:
            return tree_unflatten(
                [x[start : start + self.chunk] if isinstance(x, Tensor) else x for x in leaves], shape
            )

        parts = [
            checkpoint(_call, encoder, part(start), use_reentrant=False, context_fn=lambda: _contexts(encoder))
            for start in range(0, max(n, 1), self.chunk)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _call(encoder: nn.Module, x: Any) -> Any:
    return encoder(**x) if isinstance(x, dict) else encoder(x)


def _contexts(encoder: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _same_buffers(encoder)


@contextmanager
def _same_buffers(encoder: nn.Module) -> Iterator[None]:
    """Running statistics move in the first pass only."""
    before = [(buffer, buffer.clone()) for buffer in encoder.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
