"""The encoder of AutoTCL: dilated convolutions (the trunk), then a mean of causal ones (the trend head of CoST).

Everything here maps (B, T, C) to (B, T, O), and is exact: what is left out are products with padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycontrast.errors import ConfigError, one_line

KERNELS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Lengths of the causal convolutions."""

_SHORT = 64
"""Steps, and half the taps, below which the causal convolution is one by definition."""


@runtime_checkable
class HasLast(Protocol):
    """An encoder that knows a quicker way to the representation of the last step."""

    def last(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, O), equal to ``self(x)[:, -1]``."""
        ...


@runtime_checkable
class HasTrunk(Protocol):
    """An encoder with features below its head, on which the augmentation may be judged."""

    def trunk(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, O)."""
        ...


class CoSTEncoder(nn.Module):
    """A linear layer, ``depth + 1`` residual blocks of dilated convolutions, and a :class:`CausalMean`.

    The trend half of CoST (Woo et al., ICLR 2022), as AutoTCL uses it. The trunk is padded with zeros on both sides, so
    a step sees its future: representations to forecast from are made of windows that end at their step. A causal one,
    padded on the left, is our addition.

    Args:
        channels: C.
        out_dim: O.
        hidden: width of all blocks but the last.
        depth: block i = 0 to ``depth`` has dilation 2^i.
        kernels: of the head, lengths in steps. Empty: no head.
        causal: whether the trunk looks back only.
    """

    def __init__(
        self, channels: int, out_dim: int = 320, *, hidden: int = 64, depth: int = 10, kernels: Sequence[int] = KERNELS,
        causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [hidden] * (depth + 1) + [out_dim]
        self.input = nn.Linear(channels, hidden)
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], 2**i, project=widths[i] != widths[i + 1] or i == depth, causal=causal)
            for i in range(depth + 1)
        )
        self.head = CausalMean(out_dim, kernels) if kernels else None

    def trunk(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Features below the head.

        Args:
            x: (B, T, C).
            steps: how many of the last steps are wanted. None: all.

        Returns:
            (B, T, O), or (B, steps, O).
        """
        length = x.shape[1]
        wanted = min(steps or length, length)
        x = self.input(x).transpose(1, 2)
        for module in self.blocks:
            block = cast(Block, module)
            if block.dilation >= length:  # from here on steps do not see each other
                x = x[..., -wanted:]
            x = block(x, length)
        return x[..., -wanted:].transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, O)."""
        features = self.trunk(x)
        return features if self.head is None else self.head(features)

    def last(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, O): the trunk where the head looks, and the head at the last step alone."""
        if self.head is None:
            return self.trunk(x, 1)[:, 0]
        return self.head.last(self.trunk(x, self.head.taps))


class Block(nn.Module):
    """``x + conv(gelu(conv(gelu(x))))`` with two dilated convolutions of three taps; (B, C, T) to (B, O, T)."""

    def __init__(self, channels: int, out: int, dilation: int, *, project: bool, causal: bool = False) -> None:
        super().__init__()
        self.dilation = dilation
        self.causal = causal
        self.conv1 = nn.Conv1d(channels, out, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(out, out, 3, padding=dilation, dilation=dilation)
        self.project = nn.Conv1d(channels, out, 1) if project else nn.Identity()

    def forward(self, x: Tensor, length: int) -> Tensor:
        """``length`` is that of the whole series, of which ``x`` may be the end."""
        y = self._convolve(self.conv1, F.gelu(x), length)
        return self._convolve(self.conv2, F.gelu(y), length) + self.project(x)

    def _convolve(self, conv: nn.Conv1d, x: Tensor, length: int) -> Tensor:
        if self.dilation >= length:  # the other taps meet nothing but padding
            own = 2 if self.causal else 1
            return F.conv1d(x, conv.weight[..., own : own + 1], conv.bias)
        if self.causal:
            return F.conv1d(F.pad(x, (2 * self.dilation, 0)), conv.weight, conv.bias, dilation=self.dilation)
        return conv(x)


class CausalMean(nn.Module):
    """The mean of causal convolutions of several lengths, (B, T, O) to (B, T, O), computed as a single one.

    A convolution is linear in its kernel, so the mean of the results is the result of the mean of the kernels, each
    padded to the longest. That one runs by Fourier transforms of blocks, written as matrix products.

    Args:
        width: O.
        kernels: lengths in steps; tap ``k - 1`` is the step itself.
    """

    def __init__(self, width: int, kernels: Sequence[int] = KERNELS) -> None:
        super().__init__()
        self.taps = max(kernels)
        bounds = [1.0 / math.sqrt(k * width) for k in kernels]  # as nn.Conv1d begins
        # (taps, in, out): kernels are then added and multiplied without moving them.
        self.weights = nn.ParameterList(
            torch.empty(k, width, width).uniform_(-b, b) for k, b in zip(kernels, bounds, strict=True)
        )
        self.biases = nn.ParameterList(torch.empty(width).uniform_(-b, b) for b in bounds)

    def kernel(self) -> Tensor:
        """(taps, in, out), the mean of the padded kernels; the last tap is the step itself."""
        ordered = sorted(self.weights, key=len)
        total, ends = ordered[0], len(ordered[0])
        for weight in ordered[1:]:
            total = torch.cat([weight[: len(weight) - ends], weight[len(weight) - ends :] + total])
            ends = len(weight)
        return total / len(ordered)

    def bias(self) -> Tensor:
        """(out,)."""
        return torch.stack(list(self.biases)).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        """Every step from itself and the ``taps - 1`` before it."""
        kernel = self.kernel()
        if x.shape[1] < _SHORT or 2 * self.taps < _SHORT:
            past = F.pad(x.transpose(1, 2), (self.taps - 1, 0))
            return F.conv1d(past, kernel.permute(2, 1, 0), self.bias()).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):  # half precision is too coarse for Fourier transforms
            return causal_convolution(x.to(kernel.dtype), kernel) + self.bias()

    def last(self, x: Tensor) -> Tensor:
        """The last step alone, (B, O)."""
        seen = min(self.taps, x.shape[1])
        return x[:, -seen:].flatten(1) @ self.kernel()[-seen:].flatten(0, 1) + self.bias()


def causal_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """``y_t = sum_j x_(t - K + 1 + j) kernel_j`` with zeros before the first step, by overlap-save.

    Series are cut into blocks that overlap by K - 1 steps; a Fourier transform turns the convolution within a block
    into one matrix product per frequency. Transforms are products with a real matrix: blocks are short, and matrix
    products are what machines do best.

    Args:
        x: (B, T, I).
        kernel: (K, I, O); the last tap is the step itself.

    Returns:
        (B, T, O).
    """
    length, taps = x.shape[1], len(kernel)
    # A block of n steps gives n - taps + 1 results; longer ones waste less but have more frequencies.
    n = min(_next_size(length + taps - 1), _next_size(4 * taps))
    step = n - taps + 1
    blocks = -(-length // step)
    past = F.pad(x.transpose(1, 2), (taps - 1, blocks * step - length))
    cut = past.unfold(2, n, step)  # (B, I, blocks, n)
    forth, back = _fourier(n, x.dtype, x.device)
    waves = (cut.reshape(-1, n) @ forth).view(len(x), -1, blocks, 2, n // 2 + 1)
    rows = waves.permute(4, 3, 0, 2, 1).flatten(1, 3)  # (F, 2 B blocks, I): real over imaginary parts
    # Tap j is the lag K - 1 - j: a signal read backwards.
    real, imaginary = (forth[:taps].flip(0).T @ kernel.flatten(1)).view(2, -1, *kernel.shape[1:])
    by_real, by_imaginary = (rows @ real).chunk(2, 1), (rows @ imaginary).chunk(2, 1)
    answer = torch.stack([by_real[0] - by_imaginary[1], by_real[1] + by_imaginary[0]])
    result = back[taps - 1 :] @ answer.flatten(2).flatten(0, 1)  # (step, B blocks O)
    result = result.unflatten(1, (len(x), blocks, -1)).permute(1, 2, 0, 3)
    return result.reshape(len(x), blocks * step, -1)[:, :length]


def _next_size(n: int) -> int:
    """The next multiple of 16."""
    return -(-n // 16) * 16


def _fourier(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, 2 F) and (2 F -> n): real signals to real and imaginary parts of their F = n/2 + 1 frequencies, and back."""
    at = torch.arange(n, dtype=torch.float64)
    angle = (2.0 * torch.pi / n) * (at.unsqueeze(1) * at[: n // 2 + 1] % n)
    share = torch.full((n // 2 + 1,), 2.0 / n, dtype=torch.float64)
    share[[0, -1]] = 1.0 / n  # n is even
    forth = torch.cat([angle.cos(), -angle.sin()], dim=1)
    back = torch.cat([share * angle.cos(), -share * angle.sin()], dim=1)
    return forth.to(device, dtype), back.to(device, dtype)


class TransformerEncoder(nn.Module):
    """A plain Transformer over time steps with sinusoidal positions, causal: (B, T, C) to (B, T, O).

    Args:
        channels: C.
        out_dim: O.
        hidden: width.
        depth: layers.
        heads: attention heads.
    """

    def __init__(self, channels: int, out_dim: int = 320, *, hidden: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.input = nn.Linear(channels, hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.output = nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, O)."""
        length, width = x.shape[1], self.input.out_features
        half = torch.arange((width + 1) // 2, device=x.device)
        angle = torch.arange(length, device=x.device).unsqueeze(1) * 10000.0 ** (-2.0 * half / width)
        positions = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width].to(x.dtype)
        future = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        return self.output(self.layers(self.input(x) + positions, mask=future, is_causal=True))


def build(
    backbone: str, channels: int, out_dim: int, *, hidden: int, depth: int, kernels: Sequence[int], causal: bool = False
) -> nn.Module:
    """The encoder that a config names.

    Args:
        backbone: ``cost``, ``dilated`` (its trunk alone, the encoder of TS2Vec), ``transformer``, or
            ``package.module:name`` of a class or function that is called with C and O.
        channels: C.
        out_dim: O.
        hidden: as in :class:`CoSTEncoder`.
        depth: likewise.
        kernels: likewise.
        causal: likewise.

    Raises:
        ConfigError: there is no such encoder, or it does not map (B, T, C) to (B, T, O).
    """
    if ":" in backbone:
        made = _imported(backbone)(channels, out_dim)
        if not isinstance(made, nn.Module):
            raise ConfigError(f"backbone {backbone!r} gave a {type(made).__name__}; it must give a torch.nn.Module")
        _check(backbone, made, channels, out_dim)
        return made
    if backbone == "transformer":
        return TransformerEncoder(channels, out_dim, hidden=hidden, depth=depth)
    kernels = kernels if backbone == "cost" else ()
    return CoSTEncoder(channels, out_dim, hidden=hidden, depth=depth, kernels=kernels, causal=causal)


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        return cast(Callable[..., Any], getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"backbone {name!r} cannot be imported ({one_line(error)}); check the name") from error


def _check(name: str, encoder: nn.Module, channels: int, out_dim: int) -> None:
    training = encoder.training
    with torch.no_grad():
        found = encoder.eval()(torch.zeros(2, 24, channels))
    encoder.train(training)
    if not isinstance(found, Tensor) or found.shape != (2, 24, out_dim):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"backbone {name!r} maps (2, 24, {channels}) to {shape}; it must give (2, 24, {out_dim}), out_dim features "
            "per step"
        )


def last_step(encoder: nn.Module, x: Tensor) -> Tensor:
    """The representation of the last step, (B, T, C) to (B, O), by the quickest way that the encoder knows."""
    return encoder.last(x) if isinstance(encoder, HasLast) else encoder(x)[:, -1]


def pooled(z: Tensor, seen: Tensor | None = None) -> Tensor:
    """The maximum over time, (B, T, O) to (B, O); of the steps that are ``seen`` (B, T) where that is given."""
    if seen is not None:
        hidden = ~seen & seen.any(1, keepdim=True)  # a series without any value is not hidden
        z = z.masked_fill(hidden.unsqueeze(2), -torch.inf)
    return z.amax(1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


__all__ = [
    "KERNELS", "CausalMean", "CoSTEncoder", "HasLast", "HasTrunk", "TransformerEncoder", "build",
    "causal_convolution", "evaluating", "last_step", "pooled",
]  # fmt: skip
