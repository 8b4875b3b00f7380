"""Charts of the report that several methods of this domain draw."""

from __future__ import annotations

import numpy as np
import torch

from polycontrast.method import Chart
from polycontrast_timeseries.forecasting import Forecast
from polycontrast_timeseries.series import SeriesDataset

_CHANNELS = 3


def forecasts_against_truth(dataset: SeriesDataset, context: int, horizon: int, forecast: Forecast) -> list[Chart]:
    """Truth and forecast, in original units, of the window in the middle of the test part.

    Args:
        dataset: what was forecast.
        context: rows that are known; twice the horizon of them are shown at most.
        horizon: steps ahead.
        forecast: contexts (1, context, C), standardised, and the horizon to (1, horizon, targets).

    Returns:
        A chart for each of the first, middle and last target channels.
    """
    windows = dataset.windows("test", context=context, horizon=horizon)
    at = len(windows) // 2
    x = windows[[at]]["x"]
    with torch.no_grad():
        told = forecast(x[:, :context], horizon)[0].double().numpy()
    shown = min(context, 2 * horizon)
    first = int(windows.starts[at]) + context
    since = f", from {dataset.times[first]}" if dataset.times is not None else f", from row {first}"
    ahead = np.arange(1 - shown, horizon + 1)
    charts = []
    for i in dict.fromkeys(np.linspace(0, len(dataset.targets) - 1, _CHANNELS).round().astype(int).tolist()):
        channel = dataset.targets[i]
        truth = dataset.values[first - shown : first + horizon, channel]
        answer = np.full(len(ahead), np.nan)
        answer[shown:] = told[:, i] * dataset.std[channel] + dataset.mean[channel]
        lines = {"truth": truth.tolist(), "forecast": answer.tolist()}
        charts.append(
            Chart(title=f"{dataset.channels[channel]}{since}", x=ahead.tolist(), lines=lines, x_unit="steps ahead")
        )
    return charts


__all__ = ["forecasts_against_truth"]
