"""Made-up data with known parts, to try the methods without a download.

Parameters, phases and noise come from the seed. Nothing here is made for one method: linear baselines do well on the
series, nearest neighbours and logistic regression on the cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from polycontrast.config import MethodConfig
from polycontrast.data import Purpose, derive_seed
from polycontrast_timeseries.cases import CaseDataset
from polycontrast_timeseries.cases import from_arrays as cases_from_arrays
from polycontrast_timeseries.series import SeriesDataset, from_frame

Float = npt.NDArray[np.float64]


def demo_series(config: MethodConfig, seed: int, purpose: Purpose) -> SeriesDataset:
    """The dataset ``demo`` of forecasting: :func:`seasonal_frame` of 2000 hours and 5 channels."""
    return from_frame(seasonal_frame(seed=seed), config, name="demo", purpose=purpose)


def synthetic_trend(config: MethodConfig, seed: int, purpose: Purpose) -> SeriesDataset:
    """The synthetic set of Ti-MAE (Li et al. 2023) with its training parameters: :func:`trend_series`."""
    return from_frame(trend_series(seed=seed), config, name="synthetic-trend", purpose=purpose)


def demo_cases(config: MethodConfig, seed: int, purpose: Purpose) -> CaseDataset:
    """The dataset ``demo`` of classification: :func:`wave_cases` with 90 training and 300 test cases."""
    x_train, y_train = wave_cases(90, seed=derive_seed(seed, "train"))
    x_test, y_test = wave_cases(300, seed=derive_seed(seed, "test"))
    if purpose == "predict":
        return cases_from_arrays({"all": x_test}, {}, config, name="demo-cases", purpose=purpose)
    x, y = {"train": x_train, "test": x_test}, {"train": y_train, "test": y_test}
    return cases_from_arrays(x, y, config, name="demo-cases", purpose=purpose)


def motifs(config: MethodConfig, seed: int, purpose: Purpose) -> CaseDataset:
    """The dataset ``motifs``: :func:`motif_cases` with 200 training and 400 test cases."""
    made = {part: motif_cases(n, seed=derive_seed(seed, part)) for part, n in (("train", 200), ("test", 400))}
    x, y = {part: found[0] for part, found in made.items()}, {part: found[1] for part, found in made.items()}
    if purpose == "predict":
        return cases_from_arrays({"all": x["test"]}, {}, config, name="motifs", purpose=purpose)
    dataset = cases_from_arrays(x, y, config, name="motifs", purpose=purpose)
    dataset.informative = {part: found[2] for part, found in made.items()}
    return dataset


def seasonal_frame(*, steps: int = 2000, channels: int = 5, seed: int = 0) -> pd.DataFrame:
    """Hourly series of seasons, trend, level shifts and noise.

    Each channel is, before it is brought to units of its own,

    - a day with three harmonics of amplitudes 1, 1/2 and 1/4, each times U(0.5, 1) and with a random phase,
    - a cycle of 30 to 80 hours that all channels share, times N(0, 0.5), with a phase per channel,
    - a straight trend that rises or falls by up to 1 over the whole length,
    - level shifts of N(0, 0.5) at random hours, one in 400 on average,
    - first-order autoregressive noise (coefficient 0.5, standard deviation 0.3).

    Returns:
        ``steps`` rows with a DatetimeIndex and columns ``sensor_1``, ...
    """
    rng = np.random.default_rng(derive_seed(seed, "seasonal_frame"))
    t = np.arange(steps)[:, None]
    values: Float = np.zeros((steps, channels))
    for harmonic in (1, 2, 3):
        amplitude = rng.uniform(0.5, 1.0, channels) / 2 ** (harmonic - 1)
        values += amplitude * np.cos(2 * np.pi * (harmonic * t / 24 + rng.uniform(size=channels)))
    cycle = rng.uniform(30, 80)
    values += rng.normal(0.0, 0.5, channels) * np.cos(2 * np.pi * (t / cycle + rng.uniform(size=channels)))
    values += rng.uniform(-1.0, 1.0, channels) * t / steps
    shifts = np.where(rng.uniform(size=values.shape) < 1 / 400, rng.normal(0.0, 0.5, values.shape), 0.0)
    values += shifts.cumsum(axis=0)
    values += autoregressive(rng, values.shape, coefficient=0.5, spread=0.3)
    values = rng.uniform(20.0, 80.0, channels) + rng.uniform(2.0, 20.0, channels) * values
    return pd.DataFrame(
        values,
        index=pd.date_range("2024-01-01", periods=steps, freq="h"),
        columns=[f"sensor_{i + 1}" for i in range(channels)],
    )


def trend_series(*, a: float = 300.0, b: float = 3.0, steps: int = 400, seed: int = 0) -> Float:
    """Three cosines on a slope: y = cos(a t) + cos(a t / 2) + cos(a t / 4) + b t + N(0, 0.1), t from 0 to 1.

    The paper trains with a = 300 and b = 3 and tests the transfer to a = 600 and to b = 100.

    Returns:
        (steps, 1).
    """
    rng = np.random.default_rng(derive_seed(seed, "trend_series"))
    t = np.linspace(0.0, 1.0, steps)
    y = np.cos(a * t) + np.cos(a * t / 2) + np.cos(a * t / 4) + b * t + rng.normal(0.0, 0.1, steps)
    return np.asarray(y[:, None])


def wave_cases(n: int, *, length: int = 96, noise: float = 0.5, seed: int = 0) -> tuple[Float, npt.NDArray[np.int64]]:
    """Cases of three classes in two channels: a slow sine, a slow square wave, a fast sine.

    The slow waves have 3 periods in the first channel, the fast one 4; the second channel holds the same wave a
    quarter of a period later. Nuisance: a phase of up to a sixth of a period either way, an amplitude of U(0.5, 1.5),
    a level of N(0, 0.3) and white noise.

    Returns:
        (n, length, 2) float64 and (n,) int64 classes, equally many of each in random order.
    """
    rng = np.random.default_rng(derive_seed(seed, "wave_cases"))
    y = rng.permutation(np.arange(n) % 3)
    t = np.arange(length) / length
    periods = np.where(y == 2, 4, 3)[:, None, None]
    lag = np.array([0.0, 0.25])
    phase = rng.uniform(-1 / 6, 1 / 6, (n, 1, 1))
    wave = np.sin(2 * np.pi * (periods * t[:, None] + phase - lag))
    wave = np.where((y == 1)[:, None, None], np.sign(wave), wave * np.sqrt(2.0))
    x = rng.uniform(0.5, 1.5, (n, 1, 1)) * wave + rng.normal(0.0, 0.3, (n, 1, 2))
    return np.asarray(x + rng.normal(0.0, noise, x.shape)), y.astype(np.int64)


def motif_cases(
    n: int, *, length: int = 128, channels: int = 2, seed: int = 0
) -> tuple[Float, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Cases of two classes that differ in a motif of 32 steps: a chirp, or a pair of pulses.

    The motif lies at a random place, in every channel with a gain of U(0.5, 1.5) of its own. Elsewhere there are two
    bursts of 16 to 32 steps of first-order autoregressive noise (coefficient 0.7, standard deviation 1), which say
    nothing; everywhere white noise (standard deviation 0.2).

    Returns:
        (n, length, channels) float64; (n,) int64 classes, equally many of each in random order; (n, length) bool, true
        within the motif.
    """
    rng = np.random.default_rng(derive_seed(seed, "motif_cases"))
    y = rng.permutation(np.arange(n) % 2)
    size = 32
    t = np.arange(size) / size
    chirp = np.sqrt(2.0) * np.sin(2 * np.pi * (2 * t + 3 * t**2))
    pulses = 2.5 * (np.exp(-(((t - 0.25) / 0.06) ** 2)) - np.exp(-(((t - 0.75) / 0.06) ** 2)))
    x = rng.normal(0.0, 0.2, (n, length, channels))
    start = rng.integers(0, length - size + 1, n)
    at = np.arange(length)
    informative = (at >= start[:, None]) & (at < start[:, None] + size)
    for _ in range(2):
        span = rng.integers(16, 33, n)
        first = (rng.uniform(size=n) * (length - span + 1)).astype(np.int64)
        burst = (at >= first[:, None]) & (at < (first + span)[:, None]) & ~informative
        noise = autoregressive(rng, (length, n, channels), coefficient=0.7, spread=1.0).transpose(1, 0, 2)
        x += np.where(burst[..., None], noise, 0.0)
    gain = rng.uniform(0.5, 1.5, (n, 1, channels))
    motif = np.where((y == 0)[:, None], chirp, pulses)[..., None] * gain
    x[informative] += motif.reshape(-1, channels)
    return np.asarray(x), y.astype(np.int64), informative


def autoregressive(rng: np.random.Generator, shape: Any, *, coefficient: float, spread: float) -> Float:
    """Stationary first-order autoregressive noise down the first axis."""
    noise = rng.normal(0.0, spread, shape)
    innovation = np.sqrt(1 - coefficient**2)
    for row in range(1, shape[0]):
        noise[row] = coefficient * noise[row - 1] + innovation * noise[row]
    return np.asarray(noise)


__all__ = [
    "autoregressive", "demo_cases", "demo_series", "motif_cases", "motifs", "seasonal_frame", "synthetic_trend",
    "trend_series", "wave_cases",
]  # fmt: skip
