"""Figures of the Ti-MAE paper (arXiv 2301.08871), tables 1 to 3 and the appendix. Imports no torch.

Its forecasts are on 60 % / 20 % / 20 % of all rows ("ETTh", taken here as ETTh1) and on 70 % / 10 % / 20 % of the
exchange rates, standardised. The usual borders of ETT, which are the default here, are 12, 4 and 4 months.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Table = Mapping[str, Mapping[int, tuple[float | None, float | None]]]
"""By label and horizon: mean squared and mean absolute error."""

_ETT: Table = {
    "Ti-MAE, paper": {
        12: (0.263, 0.346), 24: (0.352, 0.392), 48: (0.398, 0.417), 96: (0.427, 0.430), 128: (0.449, 0.444),
        168: (0.509, 0.459), 100: (0.440, None),
    },
    "CoST, paper": {12: (0.337, None), 24: (0.383, None), 48: (0.434, None), 96: (0.523, None), 128: (0.574, None),
                    168: (0.633, None)},
    "TS2Vec, paper": {12: (0.582, None), 24: (0.590, None), 48: (0.624, None), 96: (0.681, None), 128: (0.719, None),
                      168: (0.762, None)},
    "FEDformer, paper": {96: (0.419, 0.448)},
    "Autoformer, paper": {96: (0.605, 0.566)},
    "Informer, paper": {96: (0.958, 0.716)},
}  # fmt: skip
_ETT_FROZEN: Table = {
    "Ti-MAE, paper": {
        12: (0.283, 0.338), 24: (0.343, 0.382), 48: (0.371, 0.394), 96: (0.404, 0.407), 128: (0.427, 0.421),
        168: (0.446, 0.436),
    }
}  # fmt: skip
_ETT_TARGET: Table = {
    "Ti-MAE, paper": {24: (0.031, 0.134), 48: (0.048, 0.167), 168: (0.076, 0.207), 336: (0.097, 0.240)}
}
_EXCHANGE: Table = {
    "Ti-MAE, paper": {24: (0.070, None), 48: (0.126, None), 96: (0.170, None), 128: (0.221, None), 168: (0.215, None),
                      196: (0.212, None)},
}  # fmt: skip
_EXCHANGE_FROZEN: Table = {
    "Ti-MAE, paper": {24: (0.028, None), 48: (0.044, None), 96: (0.081, None), 128: (0.111, None), 168: (0.144, None),
                      196: (0.166, None)},
}  # fmt: skip
_UCR = {
    "ItalyPowerDemand": (0.967, 0.932), "GunPoint": (0.993, 0.973), "ArrowHead": (0.874, 0.794),
    "OSULeaf": (0.736, 0.851), "ACSF1": (0.820, 0.870), "PickupGestureWiimoteZ": (0.840, 0.800),
}  # fmt: skip
"""Accuracy of Ti-MAE and of TS2Vec."""


def forecasts(
    name: str, channels: Sequence[str], targets: Sequence[int], horizons: Sequence[int], *, is_etth: bool
) -> dict[str, dict[str, float]]:
    """Published errors for these horizons: ``mse_H`` and ``mae_H``, of frozen encoders ``frozen_mse_H``, ...

    Args:
        name: of the data, a name or a path.
        channels: channels in.
        targets: positions of those that are forecast.
        horizons: steps ahead.
        is_etth: whether the data have the columns of the ETT files and are hourly.
    """
    everything = len(targets) == len(channels)
    direct: Table = {}
    frozen: Table = {}
    if is_etth and "h2" not in Path(name).stem.lower():
        direct, frozen = (_ETT, _ETT_FROZEN) if everything else (_ETT_TARGET, {})
    elif len(channels) == 8 and everything and "exchange" in Path(name).name.lower():
        direct, frozen = _EXCHANGE, _EXCHANGE_FROZEN
    found: dict[str, dict[str, float]] = {}
    for prefix, table in (("", direct), ("frozen_", frozen)):
        for label, by_horizon in table.items():
            for h in horizons:
                for metric, value in zip(("mse", "mae"), by_horizon.get(h, (None, None)), strict=True):
                    if value is not None:
                        found.setdefault(label, {})[f"{prefix}{metric}_{h}"] = value
    return found


def accuracies(name: str) -> dict[str, dict[str, float]]:
    """Published accuracies on a set of the UCR archive, by its name or a path that holds it."""
    for part in (Path(name).stem.removesuffix("_TRAIN"), Path(name).parent.name):
        if part in _UCR:
            ours, ts2vec = _UCR[part]
            return {"Ti-MAE, paper": {"accuracy": ours}, "TS2Vec, paper": {"accuracy": ts2vec}}
    return {}
