"""Masked errors in original units, over all predictions of a part at once: no means of batch means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polycontrast import distributed
from polycontrast_timeseries.st_ssdl.anchors import NULL_TOLERANCE


def hide_null(target: Tensor, null_value: float | None) -> Tensor:
    """NaN where a target is missing."""
    if null_value is None or null_value != null_value:
        return target
    return target.masked_fill((target - null_value).abs() <= NULL_TOLERANCE, torch.nan)


def masked_mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of ``|prediction - target|`` where the target is not NaN; 0 if it is NaN everywhere.

    Equals the code's ``mean(w |.|)`` with ``w = mask / mean(mask)``; in several processes, averaged over them, that of
    the whole batch.
    """
    seen = ~target.isnan()
    error = (prediction - target.masked_fill(~seen, 0.0)).abs() * seen
    count = seen.sum()
    if distributed.world_size() > 1:
        count = distributed.sum_over_processes(count.double()) / distributed.world_size()
    return error.sum() / count.clamp(min=1)


class MaskedErrors:
    """Sums of absolute, squared and relative errors by step ahead, in float64.

    Args:
        steps: steps ahead to report one by one; those beyond the forecasts are left out.
        mape_min: targets of at most this size are left out of the relative error, as zeros always are.
    """

    def __init__(self, steps: Sequence[int] = (3, 6, 12), *, mape_min: float = 0.0) -> None:
        self.steps, self.mape_min = tuple(steps), mape_min
        self._sums: Tensor | None = None

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add forecasts.

        Args:
            prediction: (B, T, N) in original units.
            target: (B, T, N), NaN where missing.
        """
        seen = ~target.isnan()
        target = target.double().masked_fill(~seen, 0.0)
        error = torch.where(seen, (prediction.detach().to(target) - target).abs(), 0.0)
        counts = target.abs() > self.mape_min
        relative = torch.where(counts, error / target.abs().masked_fill(~counts, 1.0), 0.0)
        parts = (error, error.square(), relative, seen.double(), (counts & seen).double())
        sums = torch.stack([part.sum((0, 2)) for part in parts]).cpu()
        self._sums = sums if self._sums is None else self._sums + sums

    def metrics(self) -> dict[str, float]:
        """``mae``, ``rmse`` and ``mape`` (a fraction) over all steps, and ``mae_3``, ... at single ones."""
        if self._sums is None:
            raise ValueError("no forecast was added")
        result = _means(self._sums.sum(1), "")
        for step in self.steps:
            if step <= self._sums.shape[1]:
                result |= _means(self._sums[:, step - 1], f"_{step}")
        return result


def _means(sums: Tensor, suffix: str) -> dict[str, float]:
    absolute, squared, relative, seen, counts = sums.tolist()
    nothing = 0.0  # As the code has it: a slice without a target has no error.
    return {
        f"mae{suffix}": absolute / seen if seen else nothing,
        f"rmse{suffix}": (squared / seen) ** 0.5 if seen else nothing,
        f"mape{suffix}": relative / counts if counts else nothing,
    }


def masked_errors(
    prediction: Tensor, target: Tensor, *, null_value: float | None = 0.0, steps: Sequence[int] = (3, 6, 12)
) -> dict[str, float]:
    """The metrics of forecasts (B, T, N) at once, targets with a missing marker."""
    errors = MaskedErrors(steps)
    errors.update(prediction, hide_null(target, null_value))
    return errors.metrics()
