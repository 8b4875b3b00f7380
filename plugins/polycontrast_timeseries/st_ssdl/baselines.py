"""What an expert would try first on a panel of sensors, on the windows of the test part, in original units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from polycontrast.data import Batch
from polycontrast_timeseries import forecasting
from polycontrast_timeseries.st_ssdl.metrics import MaskedErrors
from polycontrast_timeseries.st_ssdl.panel import PanelDataset, PanelWindows

FLOORS = ("last_value", "historical_average", "repeat_window")
LARGEST = 1 << 25
"""Values of a panel up to which the linear forecasters, which hold it in memory, are fitted."""
_BLOCK = 1 << 22


def naive(windows: PanelWindows, errors: Callable[[], MaskedErrors]) -> dict[str, dict[str, float]]:
    """Forecasts without learning.

    - ``last_value`` of the window, repeated; the anchor where the window is empty,
    - ``historical_average``, the anchor of the steps to forecast,
    - ``anchor_residual``, that plus the last difference from the anchor,
    - ``repeat_window``, the last ``t_out`` values again ("historical inertia" in the literature).

    Where the data know their incidents, ``historical_average`` has the ``deviation_auc`` of the last difference.
    """
    found = {name: errors() for name in (*FLOORS, "anchor_residual")}
    differences: list[Tensor] = []
    size = max(1, _BLOCK // (len(windows.data.sensors) * (windows.t_in + windows.t_out)))
    for begin in range(0, len(windows), size):
        batch = windows[list(range(begin, min(begin + size, len(windows))))]
        anchors, future = batch["anchor"], future_anchors(windows, batch)
        x = torch.where(batch["x"].isnan(), last_seen(batch["x"], anchors), batch["x"])
        last = x[:, -1:]
        again = x[:, torch.arange(windows.t_out) % windows.t_in]
        forecasts = {
            "last_value": last.expand_as(future), "historical_average": future, "repeat_window": again,
            "anchor_residual": future + last - anchors[:, -1:],
        }  # fmt: skip
        for name, forecast in forecasts.items():
            found[name].update(forecast, batch["y"])
        differences.append((last - anchors[:, -1:])[:, 0].abs())
    result = {name: error.metrics() for name, error in found.items()}
    result["historical_average"] |= incident_auc(windows, torch.cat(differences))
    return result


def future_anchors(windows: PanelWindows, batch: Batch) -> Tensor:
    """(B, t_out, N) anchors of the steps to forecast, which know no more than the windows do."""
    rows = batch["id"].numpy()[:, None] + windows.t_in + np.arange(windows.t_out)
    slots = windows.data.clock.slots(rows, len(windows.anchors.table))
    found = windows.anchors.at(windows.data.values, rows, slots, until=rows[:, :1])
    return torch.from_numpy(np.asarray(found, dtype=np.float32))


def last_seen(x: Tensor, anchors: Tensor) -> Tensor:
    """(B, T, N) the last value up to each step; before the first, the first anchor."""
    steps = torch.arange(x.shape[1]).view(1, -1, 1)
    last = torch.where(x.isnan(), -1, steps).cummax(dim=1).values
    return torch.where(last < 0, anchors[:, :1], x.nan_to_num().gather(1, last.clamp_min(0)))


def linear(
    data: PanelDataset, t_in: int, t_out: int, errors: Callable[[], MaskedErrors], seed: int
) -> dict[str, dict[str, float]]:
    """``ridge`` and ``dlinear`` of :mod:`polycontrast_timeseries.forecasting`; nothing for very large panels.

    Each sensor is standardised by itself and gaps are filled with the last value, the better way for linear maps.
    """
    if data.values.size > LARGEST:
        return {}
    series = data.as_series(t_in, t_out)
    fits = {
        "ridge": forecasting.fit_ridge(series, t_in, (t_out,)),
        "dlinear": forecasting.fit_dlinear(series, t_in, (t_out,), seed=seed),
    }
    mean, std = (torch.from_numpy(part).float() for part in (series.mean, series.std))
    windows = series.windows("test", context=t_in, horizon=t_out)
    found = {name: errors() for name in fits}
    size = max(1, _BLOCK // (len(series.channels) * (t_in + t_out)))
    for begin in range(0, len(windows), size):
        block = windows[list(range(begin, min(begin + size, len(windows))))]["x"]
        for name, forecast in fits.items():
            prediction = forecast(block[:, :t_in], t_out)
            found[name].update(prediction * std + mean, block[:, t_in:] * std + mean)
    return {name: error.metrics() for name, error in found.items()}


def incident_auc(windows: PanelWindows, scores: Tensor) -> dict[str, float]:
    """Area under the ROC curve of scores (n, N) for incidents active at the last step of each window.

    Returns:
        ``{"deviation_auc": value}``, or nothing where the data know no incidents.
    """
    if windows.data.events is None:
        return {}
    active = windows.data.events[windows.starts + windows.t_in - 1]
    if active.all() or not active.any():
        return {}
    return {"deviation_auc": float(roc_auc_score(active.ravel(), scores.double().numpy().ravel()))}
