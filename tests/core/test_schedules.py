"""Schedules against their closed forms."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from polycontrast import schedules
from polycontrast.schedules import Schedule


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential", "gaussian"])
def test_from_start_to_end_and_no_further(shape: str) -> None:
    f = Schedule(shape, start=0.9, end=0.1, steps=40)  # type: ignore[arg-type]
    first = 0.9 if shape != "gaussian" else 0.9 - 0.8 * math.exp(-5)
    assert f(0) == pytest.approx(first)
    assert f(40) == f(41) == f(10**6) == pytest.approx(0.1)
    values = [f(k) for k in range(41)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 41


def test_closed_forms_half_way() -> None:
    assert schedules.linear(0.0, 2.0, 3, 4) == pytest.approx(1.5)
    assert schedules.cosine(0.99, 1.0, 5, 20) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 4) + 1) / 2)
    assert schedules.exponential(1.0, 16.0, 1, 4) == pytest.approx(2.0)
    assert schedules.gaussian(0.0, 3.0, 1, 2) == pytest.approx(3 * math.exp(-5 / 4))
    assert schedules.cyclic(1.0, 0.1, 7, 14) == pytest.approx(0.1)
    assert schedules.cyclic(1.0, 0.1, 28, 14) == pytest.approx(1.0)


def test_delay_and_constant() -> None:
    f = Schedule("linear", 1.0, 3.0, steps=10, delay=5)
    assert [f(0), f(5), f(10), f(15)] == [1.0, 1.0, 2.0, 3.0]
    assert Schedule(start=0.3)(10**9) == 0.3
    assert schedules.progress(4, 10, delay=5) == 0.0


def test_piecewise() -> None:
    points = [(2, 1.0), (4, 3.0), (10, 0.0)]
    assert [schedules.piecewise(points, k) for k in (0, 2, 3, 4, 7, 10, 99)] == [1.0, 1.0, 2.0, 3.0, 1.5, 0.0, 0.0]


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential", "gaussian", "cyclic"])
def test_no_steps(shape: str) -> None:
    expected = 0.5 if shape == "cyclic" else 0.7
    assert Schedule(shape, 0.5, 0.7, steps=0)(0) == pytest.approx(expected)  # type: ignore[arg-type]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="one sign"):
        Schedule("exponential", 0.0, 1.0, steps=3)
    with pytest.raises(ValueError, match="unknown shape 'square'"):
        Schedule("square")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="growing steps"):
        schedules.piecewise([(3, 1.0), (3, 2.0)], 0)
    with pytest.raises(ValueError, match="growing steps"):
        schedules.piecewise([], 0)


def test_it_is_plain_data() -> None:
    f = Schedule("cosine", 0.9, 1.0, steps=7)
    assert Schedule(**asdict(f)) == f
