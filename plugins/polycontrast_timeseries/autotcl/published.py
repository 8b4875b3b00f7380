"""Figures of the AutoTCL paper (arXiv 2402.10434). Imports no torch.

ETT with 12, 4 and 4 months, ridge regression on the representation of the last step, standardised values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Table = Mapping[str, Mapping[str, float]]

_HORIZONS = (24, 48, 168, 336, 720)
_ETTH1 = ((0.037, 0.148), (0.054, 0.176), (0.078, 0.210), (0.093, 0.231), (0.120, 0.272))
_MEANS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "S": {
        "AutoTCL, paper": (0.076, 0.207), "AutoTCL, comment in the code": (0.080, 0.213), "CoST": (0.091, 0.228),
        "InfoTS": (0.091, 0.227), "TS2Vec": (0.110, 0.252), "TNC": (0.150, 0.303), "Informer": (0.186, 0.347),
        "N-BEATS": (0.218, 0.375), "TCN": (0.263, 0.431),
    },
    "M": {"AutoTCL, paper": (0.656, 0.590), "CoST": (0.650, 0.585)},
}  # fmt: skip
"""Means over the five horizons for ETTh1, MSE and MAE; of others than AutoTCL as its paper gives them."""


def forecasts(name: str, *, is_etth: bool, univariate: bool, horizons: Sequence[int]) -> dict[str, dict[str, float]]:
    """Published errors on ETTh1 by label; means only for exactly the paper's horizons.

    Args:
        name: of the data, a name or a path.
        is_etth: whether the data have the columns of the ETT files and are hourly.
        univariate: whether the series is the oil temperature alone.
        horizons: that were measured.
    """
    if not is_etth or "h2" in Path(name).stem.lower():
        return {}
    found: dict[str, dict[str, float]] = {}
    if univariate:
        by_horizon = dict(zip(_HORIZONS, _ETTH1, strict=True))
        for h in horizons:
            if h in by_horizon:
                mse, mae = by_horizon[h]
                found.setdefault("AutoTCL, paper", {}).update({f"mse_{h}": mse, f"mae_{h}": mae})
    if tuple(horizons) == _HORIZONS:
        for label, (mse, mae) in _MEANS["S" if univariate else "M"].items():
            found.setdefault(label, {}).update({"mse": mse, "mae": mae})
    return found
