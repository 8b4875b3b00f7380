"""Contrast within a series and between two views of it, beside the objectives of the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from polycontrast import losses
from polycontrast.errors import DataError
from polycontrast.losses import infonce, unit_rows
from polycontrast.losses.block import TileMask
from polycontrast.losses.common import Peers
from polycontrast.losses.filters import Role
from polycontrast_timeseries.autotcl.config import ContrastiveConfig
from polycontrast_timeseries.autotcl.encoder import pooled

_ROWS = 512
"""Segments that are compared at once; those of different series never are."""
_NUMBERS = 1 << 22
"""Similarities in memory at once."""


class ViewContrast(nn.Module):
    """The objective between series and their views, by name.

    Args:
        config: which, and its temperature.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.loss: nn.Module | None = None
        if config.objective not in ("hierarchical", "l1out"):
            kind = losses.get(config.objective)
            options: dict[str, Any] = {}
            if config.objective not in ("siglip", "sigmoid"):  # their scale is learned
                options = {"temperature": config.temperature, "symmetric": config.symmetric}
            known = {f.name for f in fields(kind.config_class)}
            self.loss = kind(**{name: value for name, value in options.items() if name in known})

    def forward(self, z: Tensor, of_view: Tensor, seen: Tensor | None = None) -> Tensor:
        """Of (B, T, O) and (B, T, O); ``seen`` (B, T) are the steps that hold values."""
        if self.config.objective == "hierarchical":
            return hierarchical_contrast(z, of_view, temperature=self.config.temperature)
        x, y = pooled(z, seen), pooled(of_view, seen)
        if self.loss is None:
            return l1out_bound(x, y, temperature=self.config.temperature)
        return self.loss(x, y)

    def clamp_(self) -> None:
        """Keep a learned temperature within its bounds."""
        scale = getattr(self.loss, "scale", None)
        if isinstance(scale, losses.LogitScale):
            scale.clamp_()


# ---- between the segments of a series ------------------------------------------------------------------------------


def local_contrast(z: Tensor, start: Tensor, *, segments: int = 16, temperature: float = 1.0) -> Tensor:
    """Each of k contiguous segments of a series against its successor, among all segments but its neighbours.

    Steps are normalised, cut into k segments of T // k, and pooled by their maximum (InfoTS, Luo et al. 2023). The
    positive of segment i is i + 1, of the last one the last but one. No candidates are the segment itself and its
    neighbours, at both ends the next one too: every segment has k - 3 negatives.

    Args:
        z: (B, T, O).
        start: first step of the first segment, (B,) int64 or one for all, at most ``T - k (T // k)``.
        segments: k, at least 4.
        temperature: divides similarities.

    Returns:
        (B,) means over segments.

    Raises:
        DataError: fewer steps than segments.
    """
    batch, length, width = z.shape
    size = length // segments
    if size < 1:
        raise DataError(f"series of {length} steps cannot be cut into {segments} segments; lower segments")
    z = F.normalize(z, dim=2)
    at = start.view(-1, 1).to(z.device) + torch.arange(segments * size, device=z.device)
    cut = z.gather(1, at.expand(batch, -1).unsqueeze(2).expand(-1, -1, width))
    maxima = cut.view(batch, segments, size, width).amax(2)
    successor = torch.arange(1, segments + 1, device=z.device)
    successor[-1] = segments - 2
    values = []
    for part in maxima.split(max(1, _ROWS // segments)):
        rows = part.flatten(0, 1)
        first = torch.arange(0, len(rows), segments, device=z.device)
        outside = _Segments(segments, torch.arange(len(rows), device=z.device))
        value = infonce(
            rows, rows, positives=(first.unsqueeze(1) + successor).flatten(), symmetric=False, normalize=False,
            temperature=temperature, filters=[outside], reduction="none", distributed=False,
        )  # fmt: skip
        values.append(cast(Tensor, value).view(-1, segments).mean(1))
    return torch.cat(values)


@dataclass
class _Segments:
    """Leaves out segments of other series, the anchor itself and its neighbours."""

    segments: int
    row: Tensor
    """(n,), 0 to n - 1."""
    symmetric: bool = False
    mutual: bool = False

    def mask(self, rows: Sequence[Role], columns: Sequence[Role], peers: Peers) -> TileMask:
        return self

    def tile(self, rows: slice, columns: slice) -> Tensor:
        i, j = self.row[rows], self.row[columns]
        k = self.segments
        here, there = (i % k).unsqueeze(1), j % k
        near = (here - there).abs() <= 1
        near |= ((here == 0) & (there == 2)) | ((here == k - 1) & (there == k - 3))
        return near | ((i // k).unsqueeze(1) != j // k)


# ---- between two views, step by step -------------------------------------------------------------------------------


def hierarchical_contrast(
    x: Tensor, y: Tensor, *, temperature: float = 1.0, alpha: float = 0.5, temporal_from: int = 0, pool: int = 2
) -> Tensor:
    """The loss of TS2Vec (Yue et al. 2022): instances and steps are told apart at every scale of time.

    ``alpha`` times :func:`instance_contrast` plus ``1 - alpha`` times :func:`temporal_contrast`, at full length and
    after every pooling of ``pool`` steps by their maximum, averaged over levels. A single step has no temporal part.

    Args:
        x: one view, (B, T, O), not normalised.
        y: the other.
        temperature: divides products.
        alpha: weight of the instances.
        temporal_from: first level with a temporal part.
        pool: steps.
    """
    total, level = x.new_zeros(()), 0
    while True:
        if alpha:
            total = total + alpha * instance_contrast(x, y, temperature=temperature)
        if alpha != 1 and level >= temporal_from and x.shape[1] > 1:
            total = total + (1 - alpha) * temporal_contrast(x, y, temperature=temperature)
        level += 1
        if x.shape[1] == 1:
            return total / level
        x, y = (F.max_pool1d(v.transpose(1, 2), min(pool, v.shape[1])).transpose(1, 2) for v in (x, y))


def instance_contrast(x: Tensor, y: Tensor, *, temperature: float = 1.0) -> Tensor:
    """NT-Xent over the series of a batch at each step, products not normalised; mean over steps. 0 for one series."""
    return _ntxent_in_groups(x.transpose(0, 1), y.transpose(0, 1), temperature)


def temporal_contrast(x: Tensor, y: Tensor, *, temperature: float = 1.0) -> Tensor:
    """NT-Xent over the steps of each series, products not normalised; mean over series. 0 for one step."""
    return _ntxent_in_groups(x, y, temperature)


def _ntxent_in_groups(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """NT-Xent within each of G groups of N pairs, (G, N, O) both: the core's is for one group."""
    groups, n = x.shape[:2]
    if n == 1:
        return x.new_zeros(())

    def part(a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([a, b], dim=1)
        scores = z @ z.transpose(1, 2) / temperature
        own = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        rest = scores.masked_fill(own, -torch.inf).logsumexp(2)
        positive = torch.diagonal(scores, offset=n, dim1=1, dim2=2)
        return (rest - positive.repeat(1, 2)).sum()

    size = max(1, _NUMBERS // (4 * n * n))
    pieces = zip(x.split(size), y.split(size), strict=True)
    if groups <= size:
        return part(x, y) / (2 * n * groups)
    return torch.stack([checkpoint(part, a, b, use_reentrant=False) for a, b in pieces]).sum() / (2 * n * groups)


def l1out_bound(
    x: Tensor, y: Tensor, *, temperature: float = 1.0, positive_eps: float = 1e-5, negative_eps: float = 1e-6
) -> Tensor:
    """Leave-one-out bound on the information that two views share (Poole et al. 2019), as the authors' code has it.

    Over the 2B normalised rows, ``-log (exp s_ip / sum over others of exp s_ij)``: the positive is not among the
    candidates. The core's ``dcl`` is the same without the two small constants.

    Args:
        x: (B, O).
        y: (B, O); row i belongs to row i of ``x``.
        temperature: divides similarities.
        positive_eps: added above.
        negative_eps: added below.
    """
    z = unit_rows(torch.cat([x, y]), True)
    n = len(x)
    scores = z @ z.T / temperature
    own = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    scores = scores - scores.masked_fill(own, -torch.inf).amax(1, keepdim=True).detach()
    partner = own.roll(n, 1)
    above = scores[partner].exp() + positive_eps
    below = scores.exp().masked_fill(own | partner, 0.0).sum(1) + negative_eps
    return (below.log() - above.log()).mean()


__all__ = [
    "ViewContrast", "hierarchical_contrast", "instance_contrast", "l1out_bound", "local_contrast", "temporal_contrast",
]  # fmt: skip
