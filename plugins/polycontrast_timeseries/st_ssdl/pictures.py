"""Charts of a trained model on its test part: forecasts against truth, deviation over time, prototypes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from polycontrast.method import Chart
from polycontrast_timeseries.st_ssdl.baselines import future_anchors
from polycontrast_timeseries.st_ssdl.panel import PanelDataset, PanelWindows

if TYPE_CHECKING:
    from polycontrast_timeseries.st_ssdl.method import STSSDL

_SENSORS = 3
_ROWS = 600
"""Test rows at most over which deviations and prototypes are shown."""


def charts(method: STSSDL, windows: PanelWindows) -> list[Chart]:
    """Forecasts of the first, middle and last sensor; the deviation of the first; prototypes."""
    found = forecasts(method, windows)
    if method.config.plain:
        return found
    rows = slice(int(windows.starts[0]), min(int(windows.starts[-1]) + windows.t_in, int(windows.starts[0]) + _ROWS))
    return [*found, deviation(method, windows, rows), prototypes(method, windows.data, rows)]


def _some(windows: PanelWindows) -> list[int]:
    return list(dict.fromkeys(np.linspace(0, len(windows.data.sensors) - 1, _SENSORS).round().astype(int).tolist()))


def forecasts(method: STSSDL, windows: PanelWindows) -> list[Chart]:
    """Truth, forecast and anchor of the window in the middle."""
    batch = next(iter(method.batches(_One(windows, len(windows) // 2))))
    with torch.no_grad():
        told = method.predict(batch)[0].double().cpu().numpy()
    anchor = torch.cat([batch["anchor"].cpu(), future_anchors(windows, {"id": batch["id"].cpu()})], 1)[0].numpy()
    truth = torch.cat([batch["x"], batch["y"]], 1)[0].double().cpu().numpy()
    ahead = np.arange(1 - windows.t_in, windows.t_out + 1)
    since = windows.data.clock.times(np.array([int(batch["id"]) + windows.t_in]))[0]
    made = []
    for i in _some(windows):
        lines = {"truth": truth[:, i], "forecast": np.r_[np.full(windows.t_in, np.nan), told[:, i]]}
        lines["anchor"] = anchor[:, i]
        shown = {name: line.tolist() for name, line in lines.items()}
        title = f"{windows.data.sensors[i]}, from {since}"
        made.append(Chart(title=title, x=ahead.tolist(), lines=shown, x_unit="steps ahead"))
    return made


def deviation(method: STSSDL, windows: PanelWindows, rows: slice) -> Chart:
    """Deviation score of the first sensor in every window."""
    part = _part(windows.data, rows)
    scores = method.deviation(part)["deviation"].to_numpy().reshape(-1, len(part.sensors))[:, 0].tolist()
    title = f"Deviation of {part.sensors[0]} from its history"
    return Chart(title=title, x=list(range(len(scores))), lines={"deviation": scores}, x_unit="steps of the test part")


def prototypes(method: STSSDL, data: PanelDataset, rows: slice) -> Chart:
    """Mean windows of the four prototypes that are nearest most often."""
    profile = method.prototype_profile(_part(data, rows))
    often = profile.drop_duplicates("prototype").nlargest(4, "windows")
    often = often[often["windows"] > 0]
    lines = {
        f"prototype {p} ({n} windows)": profile.loc[profile["prototype"] == p, "current"].tolist()
        for p, n in zip(often["prototype"], often["windows"], strict=True)
    }
    steps = profile["step"].unique().tolist()
    return Chart(title="Mean windows by nearest prototype", x=steps, lines=lines, x_unit="step")


def _part(data: PanelDataset, rows: slice) -> PanelDataset:
    """Some rows, at their own times."""
    clock = data.clock
    start = None if clock.start is None else clock.start + rows.start * clock.step
    return replace(data, values=data.values[rows], events=None, clock=replace(clock, start=start))


class _One:
    """One window."""

    def __init__(self, windows: PanelWindows, at: int) -> None:
        self.windows, self.at = windows, at

    def __len__(self) -> int:
        return 1

    def __getitem__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        return self.windows[[self.at]]
