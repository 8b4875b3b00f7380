"""Made-up traffic: a weekly rhythm at the nodes of a geometric graph, and incidents that spread and fade."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from polycontrast.config import MethodConfig
from polycontrast.data import Purpose, derive_seed
from polycontrast_timeseries.generators import autoregressive
from polycontrast_timeseries.st_ssdl.config import PanelConfig
from polycontrast_timeseries.st_ssdl.graph import Graph
from polycontrast_timeseries.st_ssdl.panel import Clock, PanelDataset, panel

Float = npt.NDArray[np.float64]

_START, _STEP, _PER_DAY = pd.Timestamp("2024-01-01"), pd.Timedelta(minutes=30), 48


def demo_panel(config: MethodConfig, seed: int, purpose: Purpose) -> PanelDataset:
    """The dataset ``demo``: :func:`incident_panel` with 24 sensors and 8 weeks."""
    assert isinstance(config.data, PanelConfig)
    values, graph, events = incident_panel(seed=seed)
    sensors = [f"sensor_{i + 1}" for i in range(values.shape[1])]
    return panel(values, graph, config.data, name="demo", sensors=sensors, clock=Clock(_STEP, _START), events=events)


def incident_panel(*, sensors: int = 24, weeks: int = 8, seed: int = 0) -> tuple[Float, Graph, npt.NDArray[np.bool_]]:
    """Half-hourly speeds of sensors on a random geometric graph.

    - The level of a sensor is U(40, 70). Its weekly profile is the sum of three harmonics of the day with amplitudes
      of up to 25, 12 and 6 % and random phases; Saturday and Sunday have U(0.3, 0.7) of it.
    - Incidents begin at random sensors and times, one in twelve days at every sensor on average: a drop of 30 %, which
      reaches neighbours 2 or 3 steps later at 70 % of its size and fades in a straight line over 12 to 18 steps.
      Where several meet, the largest counts.
    - First-order autoregressive noise (coefficient 0.9, standard deviation 5 % of the level): days differ, so that the
      historical average is about as far from the truth as in real traffic.
    - 6 to 8 % of the values are missing, written as 0.

    Two sensors are joined if they are among each other's 4 nearest, with weight ``exp(-(d / sigma)^2)``, sigma the
    root mean square of those distances, plus 1 for a sensor with itself.

    Returns:
        Values (T, N), the graph, and where an incident takes more than 10 % of the value, (T, N).
    """
    rng = np.random.default_rng(derive_seed(seed, "incident_panel"))
    steps = weeks * 7 * _PER_DAY
    graph, near = _geometric(rng, sensors)
    level = rng.uniform(40.0, 70.0, sensors)

    t = np.arange(steps)[:, None] / _PER_DAY
    rhythm: Float = np.zeros((steps, sensors))
    for harmonic, amplitude in ((1, 0.25), (2, 0.12), (3, 0.06)):
        size = rng.uniform(0.5, 1.0, sensors) * amplitude
        rhythm += size * np.cos(2 * np.pi * (harmonic * t + rng.uniform(size=sensors)))
    weekend = np.where((t % 7) >= 5, rng.uniform(0.3, 0.7, sensors), 1.0)

    drop: Float = np.zeros((steps, sensors))
    for _ in range(rng.poisson(steps * sensors / (12 * _PER_DAY))):
        where, when, lasts = int(rng.integers(sensors)), int(rng.integers(steps)), int(rng.integers(12, 19))
        for sensor in (where, *near[where]):
            begin = when if sensor == where else when + int(rng.integers(2, 4))
            end = min(begin + lasts, steps)
            depth = 0.3 if sensor == where else 0.21
            fading = depth * (1.0 - np.arange(max(end - begin, 0)) / lasts)
            drop[begin:end, sensor] = np.maximum(drop[begin:end, sensor], fading)

    noise = autoregressive(rng, (steps, sensors), coefficient=0.9, spread=0.05)
    values = level * (1.0 + rhythm * weekend) * (1.0 - drop) + level * noise
    values[rng.uniform(size=values.shape) < rng.uniform(0.06, 0.08)] = 0.0
    return values, graph, drop > 0.1


def _geometric(rng: np.random.Generator, n: int, k: int = 4) -> tuple[Graph, list[Any]]:
    places = rng.uniform(size=(n, 2))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    among: npt.NDArray[np.bool_] = np.zeros((n, n), dtype=bool)
    np.put_along_axis(among, apart.argsort(1)[:, 1 : k + 1], True, 1)
    joined = among & among.T
    sigma = np.sqrt(np.square(apart[joined]).mean()) if joined.any() else 1.0
    weights = np.where(joined, np.exp(-((apart / sigma) ** 2)), 0.0) + np.eye(n)
    return Graph.of(weights), [np.flatnonzero(row) for row in joined]
