"""Any file or folder that this domain reads."""

from __future__ import annotations

from pathlib import Path

from polycontrast.config import MethodConfig
from polycontrast.data import Purpose
from polycontrast_timeseries.cases import CaseDataset, holds_cases, read_cases
from polycontrast_timeseries.series import SeriesDataset, read_series


def read(path: Path, config: MethodConfig, seed: int, purpose: Purpose) -> SeriesDataset | CaseDataset:
    """Labelled cases from a ``.ts`` file or a folder with ``NAME_TRAIN.ts``; from everything else, a series."""
    reader = read_cases if holds_cases(path) else read_series
    return reader(path, config, seed, purpose)
