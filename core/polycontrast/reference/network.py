"""Small encoders, heads, and the branch of both that a teacher follows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polycontrast import distributed


class Perceptron(nn.Module):
    """Two layers on all values of a row, e.g. 64-256-64."""

    def __init__(self, shape: Sequence[int], hidden: int, width: int) -> None:
        super().__init__()
        values = int(torch.Size(shape).numel())
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(values, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, width)."""
        return self.layers(x)  # type: ignore[no-any-return]


class ConvNet(nn.Module):
    """Two convolutions and a linear map, for images from about 8 x 8 pixels."""

    def __init__(self, shape: Sequence[int], hidden: int, width: int) -> None:
        super().__init__()
        channels = shape[0] if len(shape) == 3 else 1
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, hidden, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * hidden, width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W) or (B, C, H, W) to (B, width)."""
        return self.layers(x.unsqueeze(1) if x.ndim == 3 else x)  # type: ignore[no-any-return]


class BatchNorm(nn.BatchNorm1d):
    """Batch norm whose batch is that of all processes together, so that their number changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        n = distributed.sum_over_processes(torch.tensor(float(len(x)), device=x.device))
        mean = distributed.sum_with_gradient(x.sum(0)) / n
        var = distributed.sum_with_gradient((x - mean).square().sum(0)) / n
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * n / (n - 1).clamp_min(1), self.momentum)
        return (x - mean) * (var + self.eps).rsqrt() * self.weight + self.bias


class Head(nn.Sequential):
    """A projection head or predictor. Without its batch norm BYOL and SimSiam collapse."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        # Neither layer has a bias: batch norm takes the first away, and so do vicreg and barlow the second.
        super().__init__(
            nn.Linear(width, hidden, bias=False), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, out, bias=False)
        )


class Branch(nn.Module):
    """Encoder and projection head."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to what the objective sees."""
        return self.projector(self.encoder(x))  # type: ignore[no-any-return]
