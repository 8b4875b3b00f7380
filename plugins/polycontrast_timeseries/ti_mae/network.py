"""The Ti-MAE network: one convolution as embedding, an encoder that reads visible steps only, a narrow decoder.

Shapes: B samples, R rows (several masks of each sample), L steps, V visible steps, m channels in, o channels out,
D encoder width, E decoder width. Source: arXiv 2301.08871, section 3 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@lru_cache(maxsize=64)
def _sinusoidal(length: int, width: int, base: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        step = torch.arange(length, dtype=torch.float64).unsqueeze(1)
        angle = step / base ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        table = torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :width]
        return table.to(device=device, dtype=dtype)


def sinusoidal_positions(
    length: int,
    width: int,
    *,
    base: float = 10000.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Fixed position code, (length, width): ``sin(t / base^(2i/width))`` in column 2i, the cosine in column 2i + 1.

    The table is shared between calls; do not write into it. An odd width lacks the last cosine.
    Source: Vaswani et al. 2017, section 3.5.
    """
    return _sinusoidal(length, width, float(base), torch.device(device), dtype)


class Block(nn.Module):
    """Pre-norm transformer block: ``z + attention(norm(z))``, then ``z + mlp(norm(z))``, (R, T, width) to the same.

    Args:
        width: of the tokens.
        heads: of the attention; divides ``width``.
        ff_multiplier: width of the hidden layer of the MLP, in units of ``width``.
        dropout: after the attention and after the MLP.
    """

    def __init__(self, width: int, heads: int, ff_multiplier: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, ff_multiplier * width)
        self.contract = nn.Linear(ff_multiplier * width, width)

    def forward(self, z: Tensor, valid: Tensor | None = None) -> Tensor:
        """``valid`` (R, T) bool: the tokens that may be attended to. None: all."""
        z = z + F.dropout(self.out(self._attend(self.attention_norm(z), valid)), self.dropout, self.training)
        return z + F.dropout(self.contract(F.gelu(self.expand(self.mlp_norm(z)))), self.dropout, self.training)

    def _attend(self, z: Tensor, valid: Tensor | None) -> Tensor:
        qkv = self.qkv(z).unflatten(2, (3, self.heads, -1))
        size = qkv.shape[-1]
        if size < 16 and z.device.type == "cpu":
            # Zeros change no product, and torch's kernel for the CPU takes two thirds of the time from 16 on.
            qkv = F.pad(qkv, (0, 16 - size))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mask = None if valid is None else valid[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=size**-0.5)
        return attended[..., :size].transpose(1, 2).flatten(2)


@dataclass(frozen=True, slots=True)
class View:
    """What the encoder sees of R rows, and how answers go back to the scale of the data."""

    tokens: Tensor
    """(R, V, D)."""
    keep: Tensor
    """(R, V) int64, positions of the tokens."""
    valid: Tensor | None = None
    """(R, V) bool, tokens that hold a value. None: all."""
    mean: Tensor | None = None
    """(R, 1, m) mean of the visible values, if the network normalises each row."""
    std: Tensor | None = None
    """(R, 1, m) their standard deviation."""


class TiMAENetwork(nn.Module):
    """Embedding, encoder and decoder.

    Args:
        channels: m, channels in.
        targets: positions of the o channels that are reconstructed. None: all.
        width: D.
        layers: blocks of the encoder.
        heads: attention heads of the encoder.
        decoder_width: E.
        decoder_layers: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        ff_multiplier: width of the MLPs, in units of the width of their stack.
        embed_kernel: taps of the embedding convolution, odd.
        leak_free: the convolution reads visible steps only and divides by their share among its taps.
        revin: each row is brought to mean 0 and deviation 1 by its visible steps, the output taken back.
        positions: whether the encoder adds positions.
        dropout: in all blocks, and before those of the decoder.
    """

    def __init__(
        self,
        channels: int,
        targets: Sequence[int] | None = None,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        decoder_width: int = 32,
        decoder_layers: int = 2,
        decoder_heads: int = 4,
        ff_multiplier: int = 4,
        embed_kernel: int = 3,
        leak_free: bool = False,
        revin: bool = False,
        positions: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.targets = list(range(channels) if targets is None else targets)
        self.leak_free, self.revin, self.positions, self.dropout = leak_free, revin, positions, dropout
        self.embedding = nn.Conv1d(channels, width, embed_kernel, padding=embed_kernel // 2)
        self.encoder = nn.ModuleList(Block(width, heads, ff_multiplier, dropout) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.bridge = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        self.decoder = nn.ModuleList(
            Block(decoder_width, decoder_heads, ff_multiplier, dropout) for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.output = nn.Linear(decoder_width, len(self.targets))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in (*self.encoder, *self.decoder):
            # Query, key and value are three layers that share a tensor. Taken as one they would begin smaller by a
            # third, and training would stay longer at the mean of the series.
            for weight in block.qkv.weight.detach().chunk(3):
                nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Reconstruct all of (B, L, m) from the steps ``keep`` (B, V): (B, L, o)."""
        view = self.view(x, keep)
        return self.decode(self.encode(view), view, x.shape[1])

    # ---- embedding -------------------------------------------------------------------------------------------

    def embed(self, x: Tensor, *, positions: bool | None = None) -> Tensor | None:
        """The tokens of all steps, (B, L, m) to (B, L, D), for as many masks as one likes.

        None if what a step embeds depends on which others are visible (``leak_free``, ``revin``). ``positions``
        overrides the setting of the network.
        """
        if self.leak_free or self.revin:
            return None
        tokens: Tensor = self.embedding(x.transpose(1, 2)).transpose(1, 2)
        add = self.positions if positions is None else positions
        return tokens + _positions(x.shape[1], tokens) if add else tokens

    def view(
        self,
        x: Tensor,
        keep: Tensor | None = None,
        rows: Tensor | None = None,
        *,
        missing: Tensor | None = None,
        embedded: Tensor | None = None,
        positions: bool | None = None,
    ) -> View:
        """Show the encoder some steps.

        Args:
            x: (B, L, m) values, 0 where one is missing.
            keep: (R, V) visible steps of each row. None: all steps.
            rows: (R,) the sample of each row. None: R is B.
            missing: (B, L, m) bool, values that are missing; a step that lacks one is not shown.
            embedded: what :meth:`embed` gave for ``x``, if it was called before.
            positions: whether to add positions. None: as the network is set.
        """
        (samples, length, _), device = x.shape, x.device
        if rows is None:
            rows = torch.arange(samples, device=device)
        if keep is None:
            keep = torch.arange(length, device=device).expand(len(rows), -1)
        at = (rows.unsqueeze(1) * length + keep).flatten()  # the visible steps among all steps of all samples
        valid = mean = std = None
        if missing is not None:
            valid = ~missing.any(2).flatten()[at].view_as(keep)
            valid[:, 0] |= ~valid.any(1)  # attention needs something to look at
        if self.revin:
            seen = x.flatten(0, 1)[at].unflatten(0, keep.shape)
            count = len(keep[0]) if valid is None else valid.sum(1).view(-1, 1, 1)
            share = 1.0 if valid is None else valid.unsqueeze(2)
            mean = (seen * share).sum(1, keepdim=True) / count
            std = (((seen - mean).square() * share).sum(1, keepdim=True) / count + 1e-5).sqrt()
        if embedded is None:
            embedded = self.embed(x, positions=positions)
        if embedded is None:
            tokens = self._embed_visible(x, keep, at, missing, valid, mean, std)
            if self.positions if positions is None else positions:
                tokens = tokens + _positions(length, tokens)[keep]
        else:
            tokens = embedded.flatten(0, 1).index_select(0, at).unflatten(0, keep.shape)
        return View(tokens, keep, valid, mean, std)

    def _embed_visible(
        self,
        x: Tensor,
        keep: Tensor,
        at: Tensor,
        missing: Tensor | None,
        valid: Tensor | None,
        mean: Tensor | None,
        std: Tensor | None,
    ) -> Tensor:
        """The embedding convolution at the visible steps of each row, of values that differ from row to row."""
        length, kernel = x.shape[1], self.embedding.kernel_size[0]

        def taps(z: Tensor, at: Tensor) -> Tensor:  # (N, L, c) to (R, V, c, kernel), zeros beyond the ends
            z = F.pad(z, (0, 0, kernel // 2, kernel // 2)).unfold(1, kernel, 1)
            return z.flatten(0, 1)[at].unflatten(0, keep.shape)

        values = taps(x, at)
        if mean is not None and std is not None:
            values = (values - mean.unsqueeze(3)) / std.unsqueeze(3)
        inside = taps(x.new_ones(1, length, 1), keep.flatten())
        counts, scale = inside, None
        if self.leak_free:
            shown = torch.ones_like(keep, dtype=x.dtype) if valid is None else valid.to(x.dtype)
            shown = x.new_zeros(len(keep), length, 1).scatter_(1, keep.unsqueeze(2), shown.unsqueeze(2))
            own = torch.arange(len(keep), device=x.device).unsqueeze(1) * length + keep
            counts = taps(shown, own.flatten())
            scale = inside.sum(3) / counts.sum(3).clamp(min=1)
        elif missing is not None:
            counts = inside * (1 - taps(missing.to(x.dtype), at))
        tokens = F.linear((values * counts).flatten(2), self.embedding.weight.flatten(1))
        bias = self.embedding.bias
        assert bias is not None
        return (tokens if scale is None else tokens * scale) + bias

    # ---- the two stacks --------------------------------------------------------------------------------------

    def encode(self, view: View) -> Tensor:
        """The latent tokens of what is visible, (R, V, D)."""
        z = view.tokens
        for block in self.encoder:
            z = block(z, view.valid)
        return self.encoder_norm(z)

    def decode(self, latent: Tensor, view: View, length: int) -> Tensor:
        """Fill in all of ``length`` steps, (R, length, o), the visible ones too.

        ``length`` may go beyond the steps that were embedded: that is a forecast.
        """
        z = self.bridge(latent)
        if view.valid is not None:
            z = torch.where(view.valid.unsqueeze(2), z, self.mask_token)
        rows = len(z)
        at = (torch.arange(rows, device=z.device).unsqueeze(1) * length + view.keep).flatten()
        z = self.mask_token.to(z.dtype).expand(rows * length, -1).index_copy(0, at, z.flatten(0, 1))
        z = z.unflatten(0, (rows, length))
        z = F.dropout(z + _positions(length, z), self.dropout, self.training)
        for block in self.decoder:
            z = block(z)
        return self.rescale(self.output(self.decoder_norm(z)), view)

    def rescale(self, out: Tensor, view: View) -> Tensor:
        """Take an output (R, T, o) back to the scale of the data, if the view was normalised."""
        if view.mean is None or view.std is None:
            return out
        return out * view.std[..., self.targets] + view.mean[..., self.targets]


def _positions(length: int, like: Tensor) -> Tensor:
    return sinusoidal_positions(length, like.shape[-1], device=like.device, dtype=like.dtype)
