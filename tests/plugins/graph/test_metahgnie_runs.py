"""Whole runs of the demo. Minutes: run with ``-m slow``."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch_geometric")

import polycontrast


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_demo_beats_its_floors_and_needs_its_hyperedges(seed: int, tmp_path: Path) -> None:
    def spearman(name: str, *settings: str) -> polycontrast.Result:
        return polycontrast.train("graph/metahgnie", set=settings, seed=seed, out=tmp_path / name, progress=False)

    whole = spearman("whole")
    assert whole.seconds < 120
    for floor in whole.floors:
        assert whole.metrics["spearman"] > whole.baselines[floor]["spearman"] + 0.1
    assert whole.metrics["spearman"] > spearman("alone", "hypergraph.builder=none").metrics["spearman"] + 0.05
