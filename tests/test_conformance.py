"""Our own methods pass the checks that strangers' plugins pass. A method whose extra is missing is skipped."""

from __future__ import annotations

import pytest

from polycontrast.plugins import default
from polycontrast.testing import Case, conformance

SMALL = {
    "core/simclr": {"engine.batch_size": 32},
    "graph/metahgnie": {},
    "rl/taco": {"engine.batch_size": 8},
    "timeseries/autotcl": {"engine.batch_size": 8},
    "timeseries/st-ssdl": {"engine.batch_size": 8, "compare": []},
    "timeseries/ti-mae": {"engine.batch_size": 8, "n_masks": 2},
}
"""Settings by method that make a training of three steps quick. Every method of this distribution is here."""


def test_every_method_of_ours_is_checked():
    ours = {name for name, entry in default().methods.items() if entry.owner.split()[0] == "polycontrast"}
    assert ours == SMALL.keys()


@conformance([Case(name, set=settings) for name, settings in SMALL.items()])
def test_conformance(case, check, tmp_path):
    if missing := default().method(case.method).missing():
        pytest.skip(f"extra missing: {', '.join(missing)}")
    check(case, tmp_path)
