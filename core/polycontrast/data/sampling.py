"""The order of samples and the randomness of each, as pure functions of (seed, epoch, sample id).

Neither depends on batch size, worker count or number of processes, so a run that is killed and resumed, or
spread over eight processes, sees what the uninterrupted single process would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polycontrast.errors import ConfigError


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


# splitmix64 (Steele, Lea & Flood 2014) on torch's wrapping int64, hence the masks after arithmetic shifts.
_GOLDEN, _C1, _C2 = _signed(0x9E3779B97F4A7C15), _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _C1
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _C2
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any parts; the same parts give the same seed on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def draws(seed: int, ids: Tensor) -> Tensor:
    """One key of randomness per sample.

    Args:
        seed: from :func:`derive_seed`, usually of (run seed, stage, epoch).
        ids: (B,) int64 stable sample ids.

    Returns:
        (B,) int64, to be handed to :func:`uniform` or :func:`normal`.
    """
    return _mix(_mix(ids.to(torch.int64) * _GOLDEN + seed) + _GOLDEN)


def uniform(draw: Tensor, n: int, *, stream: int = 0) -> Tensor:
    """n uniform numbers in [0, 1) per sample.

    Args:
        draw: (B,) int64 keys, as in ``batch["draw"]``.
        n: numbers per sample.
        stream: tells apart several uses of one key, e.g. mask and crop.

    Returns:
        (B, n) float32 on the device of ``draw``, 24 random bits each.
    """
    counter = torch.arange(1, n + 1, device=draw.device, dtype=torch.int64) * _GOLDEN
    offset = _signed(stream * _C1 % (1 << 64))  # torch refuses a Python number beyond int64
    bits = _mix(_mix(draw + offset).unsqueeze(1) + counter)
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def normal(draw: Tensor, n: int, *, stream: int = 0) -> Tensor:
    """n standard normal numbers per sample, (B, n) float32, by the Box-Muller transform of :func:`uniform`."""
    u = uniform(draw, 2 * n, stream=stream)
    radius = torch.sqrt(-2.0 * torch.log1p(-u[:, :n]))
    return radius * torch.cos((2.0 * torch.pi) * u[:, n:])


@dataclass(frozen=True, kw_only=True)
class ResumableSampler:
    """Batches of positions of one epoch, for one of several processes, from any batch onwards.

    The permutation depends on (seed, epoch) alone. A global batch is cut into equal contiguous parts, one per
    process. In training an incomplete last batch is dropped: repeated samples would be false negatives.

    Args:
        size: number of examples.
        batch_size: global batch size, over all processes. Reduced to ``size`` if there are fewer examples.
        seed: of the permutation; ``shuffle=False`` keeps the stored order.
        start: batches of this epoch that were consumed before (resume).
        drop_last: leave out the last batch when it is not full.
    """

    size: int
    batch_size: int
    seed: int = 0
    epoch: int = 0
    start: int = 0
    rank: int = 0
    world: int = 1
    shuffle: bool = True
    drop_last: bool = True

    def __post_init__(self) -> None:
        if self.batch_size % self.world:
            raise ConfigError(
                f"engine.batch_size {self.batch_size} is not divisible by the number of processes, {self.world}"
            )

    @property
    def _batch(self) -> int:
        return self.batch_size if self.size >= self.batch_size else max(self.size // self.world, 1) * self.world

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.size // self._batch if self.drop_last else -(-self.size // self._batch)

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.arange(self.size)
        share = self._batch // self.world
        for b in range(self.start, len(self)):
            part = order[b * self._batch : (b + 1) * self._batch]
            yield part[self.rank * share : (self.rank + 1) * share].tolist()
