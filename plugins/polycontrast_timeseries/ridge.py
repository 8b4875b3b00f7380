"""Ridge regression in closed form, and the protocol by which representations are judged in forecasting.

Of every step t the representation is mapped linearly to the next H values; the penalty is chosen on the validation
part by RMSE + MAE (TS2Vec, CoST, AutoTCL). The fit is on the training part alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Float = npt.NDArray[np.float64]

ALPHAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Penalties of the protocol."""

_NUMBERS = 1 << 23
"""Numbers that a block of targets may hold."""


def ridge_path(
    gram: Float, cross: Float, mean_x: Float, mean_y: Float, penalties: Sequence[float]
) -> Iterator[tuple[Float, Float]]:
    """Weights (D, M) and intercept (M,) of ``sum |y - x w - b|^2 + penalty |w|^2`` for every penalty.

    One eigendecomposition serves them all.

    Args:
        gram: centred, ``sum (x - mean_x)(x - mean_x)^T``, (D, D).
        cross: likewise with y, (D, M).
        mean_x: (D,).
        mean_y: (M,).
        penalties: non-negative.
    """
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ cross
    for penalty in penalties:
        weight = vectors @ (turned / (values.clip(min=0.0) + penalty)[:, None])
        yield weight, mean_y - mean_x @ weight


def samples(features: Tensor, data: Tensor, horizon: int, *, drop: int = 0) -> tuple[Tensor, Tensor]:
    """Representations and the values that follow them.

    Args:
        features: of every step, (T, D).
        data: (T, M).
        horizon: H, less than T.
        drop: first steps to leave out.

    Returns:
        (n, D) and (n, H, M), n = T - H - drop; a view, no copy.
    """
    future = data[drop + 1 :].unfold(0, horizon, 1).transpose(1, 2)
    return features[drop : len(features) - horizon], future


@dataclass(frozen=True)
class RidgeHead:
    """A fitted linear map from a representation to a forecast."""

    weight: Tensor
    """(D, H * M), float64."""
    bias: Tensor
    """(H * M,)"""
    alpha: float
    """The penalty that was chosen."""
    horizon: int

    def predict(self, features: Tensor) -> Tensor:
        """(n, D) to (n, H, M), standardised."""
        flat = features.to(self.weight) @ self.weight + self.bias
        return flat.unflatten(1, (self.horizon, -1))


def fit_ridge(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], alphas: Sequence[float] = ALPHAS) -> RidgeHead:
    """Fit on training samples, choose the penalty by RMSE + MAE on validation samples. No refit on both.

    Args:
        train: representations (n, D) and futures (n, H, M), without gaps.
        val: likewise; NaN in the futures is left out.
        alphas: penalties, of which the first of equally good ones is taken.
    """
    x, y = train
    horizon = y.shape[1]
    x = x.double()
    mean_x = x.mean(0)
    centred = x - mean_x
    cross = torch.zeros(x.shape[1], y[0].numel(), dtype=torch.float64)
    total_y = torch.zeros(y[0].numel(), dtype=torch.float64)
    size = max(1, _NUMBERS // y[0].numel())
    for part, future in zip(centred.split(size), y.split(size), strict=True):
        rows = future.flatten(1).double()
        cross += part.T @ rows
        total_y += rows.sum(0)
    mean_y = total_y / len(x)
    path = ridge_path((centred.T @ centred).numpy(), cross.numpy(), mean_x.numpy(), mean_y.numpy(), alphas)
    best: tuple[float, RidgeHead] | None = None
    for alpha, (weight, bias) in zip(alphas, path, strict=True):
        head = RidgeHead(torch.from_numpy(weight), torch.from_numpy(bias), alpha, horizon)
        error = _rmse_plus_mae(head, *val)
        if best is None or error < best[0]:
            best = error, head
    assert best is not None
    return best[1]


def _rmse_plus_mae(head: RidgeHead, x: Tensor, y: Tensor) -> float:
    squared, absolute, count = 0.0, 0.0, 0
    size = max(1, _NUMBERS // y[0].numel())
    for part, truth in zip(x.split(size), y.split(size), strict=True):
        seen = ~truth.isnan()
        error = torch.where(seen, head.predict(part) - truth.double(), 0.0)
        squared += float(error.square().sum())
        absolute += float(error.abs().sum())
        count += int(seen.sum())
    return (squared / max(count, 1)) ** 0.5 + absolute / max(count, 1)


Parts = Mapping[str, Tensor]
"""By part ``train``, ``val`` and ``test``."""


__all__ = ["ALPHAS", "Parts", "RidgeHead", "fit_ridge", "ridge_path", "samples"]
