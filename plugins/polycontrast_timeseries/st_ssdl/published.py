"""Figures of the paper's result table: masked MAE, RMSE and MAPE (a fraction here)."""

from __future__ import annotations

_STEPS: dict[str, dict[str, dict[int, tuple[float, float, float]]]] = {
    "metr-la": {
        "paper, ST-SSDL": {3: (2.60, 5.02, 6.62), 6: (2.96, 6.04, 7.92), 12: (3.37, 7.17, 9.48)},
    },
    "pems-bay": {
        "paper, ST-SSDL": {3: (1.26, 2.65, 2.60), 6: (1.57, 3.59, 3.49), 12: (1.86, 4.34, 4.35)},
    },
    "pemsd7m": {
        "paper, ST-SSDL": {3: (2.02, 3.83, 4.74), 6: (2.57, 5.18, 6.40), 12: (3.08, 6.38, 7.96)},
    },
}
_ABSOLUTE: dict[str, dict[str, tuple[float, float, float]]] = {
    "metr-la": {"GWNet": (2.69, 3.08, 3.51), "STID": (2.82, 3.19, 3.55), "MegaCRN": (2.62, 3.01, 3.48)},
    "pems-bay": {"GWNet": (1.30, 1.63, 1.99), "STID": (1.31, 1.64, 1.91), "MegaCRN": (1.28, 1.60, 1.89)},
    "pemsd7m": {"GWNet": (2.13, 2.74, 3.33), "STID": (2.11, 2.68, 3.19), "MegaCRN": (2.05, 2.67, 3.27)},
}
_AVERAGES: dict[str, dict[str, tuple[float, ...]]] = {
    "pems04": {"paper, ST-SSDL": (18.08, 29.64, 12.36), "paper, STID": (18.38,), "paper, MegaCRN": (18.69,)},
    "pems07": {"paper, ST-SSDL": (19.19, 32.51, 8.11), "paper, STID": (19.61,), "paper, MegaCRN": (19.70,)},
    "pems08": {"paper, ST-SSDL": (13.86, 23.10, 9.17), "paper, STID": (14.21,), "paper, MegaCRN": (14.83,)},
}
_SIZES = {
    (207, 34272): "metr-la", (325, 52116): "pems-bay", (228, 12672): "pemsd7m",
    (307, 16992): "pems04", (883, 28224): "pems07", (170, 17856): "pems08",
}  # fmt: skip
"""Sensors and rows, by which a dataset is known whatever its file is called."""


def table(sensors: int, rows: int) -> dict[str, dict[str, float]]:
    """By label; empty unless sensors and rows are those of one of the paper's datasets."""
    dataset = _SIZES.get((sensors, rows))
    if dataset is None:
        return {}
    if dataset in _AVERAGES:
        return {label: _named(figures, "") for label, figures in _AVERAGES[dataset].items()}
    found = {
        label: {k: v for step, figures in by_step.items() for k, v in _named(figures, f"_{step}").items()}
        for label, by_step in _STEPS[dataset].items()
    }
    for label, figures in _ABSOLUTE[dataset].items():
        found[f"paper, {label}"] = {f"mae_{step}": v for step, v in zip((3, 6, 12), figures, strict=True)}
    return found


def _named(figures: tuple[float, ...], suffix: str) -> dict[str, float]:
    named = dict(zip((f"mae{suffix}", f"rmse{suffix}", f"mape{suffix}"), figures, strict=False))
    return {k: v / 100 if k.startswith("mape") else v for k, v in named.items()}
