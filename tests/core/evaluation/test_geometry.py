from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from polycontrast.evaluation import alignment, collapse, effective_rank, mean_similarities, spread, uniformity


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alignment() -> None:
    x, y = normal(9, 4), normal(9, 4, seed=1)
    u, v = F.normalize(x), F.normalize(y)
    assert alignment(x, y) == pytest.approx(float((2 - 2 * (u * v).sum(1)).mean()), rel=1e-12)
    assert alignment(x, x) == 0.0
    assert alignment(x, -x) == pytest.approx(4.0)
    with pytest.raises(ValueError, match=r"same shape, got \(9, 4\) and \(8, 4\)"):
        alignment(x, y[:8])


@pytest.mark.parametrize("tile", [1, 3, 7, 64])
@pytest.mark.parametrize("t", [1.0, 2.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_uniformity_is_that_of_the_whole_matrix(tile: int, t: float, normalize: bool) -> None:
    x = normal(23, 5)
    u = F.normalize(x) if normalize else x
    expected = (-t * torch.pdist(u).square()).exp().mean().log()
    assert uniformity(x, t=t, tile=tile, normalize=normalize) == pytest.approx(float(expected), rel=1e-12)


def test_uniformity_of_equal_and_of_few_rows() -> None:
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2 rows"):
        uniformity(torch.ones(1, 3))


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (9000, 5)])
@pytest.mark.parametrize("centre", [True, False])
def test_effective_rank_is_that_of_the_singular_values(n: int, d: int, centre: bool) -> None:
    x = normal(n, d) * torch.linspace(0.1, 3.0, d) + 1.0
    singular = torch.linalg.svdvals(x - x.mean(0) if centre else x)
    p = singular / singular.sum()
    expected = float(torch.special.entr(p).sum().exp())
    assert effective_rank(x, centre=centre) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_of_plain_cases() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7.0)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(9, 4)) == 0.0
    assert effective_rank(torch.ones(9, 4), centre=True) == 0.0


def test_mean_similarities_are_those_of_all_pairs() -> None:
    x, y = normal(7, 3), normal(7, 3, seed=1)
    s = F.normalize(x) @ F.normalize(y).T
    off = ~torch.eye(7, dtype=torch.bool)
    got = mean_similarities(x, y)
    assert got["positive"] == pytest.approx(float(s.diagonal().mean()))
    assert got["negative"] == pytest.approx(float(s[off].mean()))

    labels = torch.tensor([4, 4, 0, 0, 0, 9, 9])
    s = F.normalize(x) @ F.normalize(x).T
    same = labels[:, None] == labels
    got = mean_similarities(x, labels=labels)
    assert got["positive"] == pytest.approx(float(s[same & off].mean()))
    assert got["negative"] == pytest.approx(float(s[~same].mean()))
    assert math.isnan(mean_similarities(x, labels=torch.arange(7))["positive"])
    with pytest.raises(ValueError, match="either y"):
        mean_similarities(x)


def test_spread_of_even_rows() -> None:
    x = normal(5000, 16)
    assert spread(x).shape == (16,)
    assert float(spread(x).mean()) == pytest.approx(0.25, rel=0.02)


def test_a_healthy_representation() -> None:
    found = collapse(normal(500, 16))
    assert not found.collapsed
    assert found.std == pytest.approx(1.0, abs=0.02)
    assert found.directions > 15
    assert abs(found.similarity) < 0.01
    assert found.explain().startswith("no sign of collapse")


def test_complete_collapse_explains_itself() -> None:
    found = collapse(torch.ones(1, 16) + 0.01 * normal(300, 16))
    assert found.complete
    assert found.collapsed
    assert found.similarity > 0.99
    text = found.explain()
    assert "\n" not in text
    for word in ("collapsed", "nearly every example gets the same embedding", "What to try", "vicreg", "stop-gradient"):
        assert word in text


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-15, 1e15])
def test_constants_have_collapsed(value: float) -> None:
    x = torch.full((20, 8), value)
    assert collapse(x).complete
    assert collapse(x).std == pytest.approx(0.0, abs=1e-6)


def test_the_alarm_is_at_a_tenth_of_an_even_spread() -> None:
    direction = torch.zeros(32, dtype=torch.float64)
    direction[0] = 1.0
    noise = normal(4000, 32)
    for size, complete in ((0.08, True), (0.13, False)):
        x = direction + size * F.normalize(noise)
        assert collapse(x).complete is complete
        assert (float(spread(x).mean()) < 0.1 / math.sqrt(32)) is complete


def test_rows_on_a_line_have_collapsed() -> None:
    x = normal(100, 1) @ normal(1, 16, seed=1) + 1e-3 * normal(100, 16, seed=2)
    found = collapse(x)
    assert found.on_a_line
    assert "onto a line" in found.explain()
    two = normal(100, 2) @ normal(2, 16, seed=1)
    assert not collapse(two).collapsed
    assert not collapse(normal(100, 2)).collapsed  # no room for more than two


def test_broken_rows_are_reported() -> None:
    x = normal(10, 4)
    x[3] = torch.nan
    found = collapse(x)
    assert found.nonfinite == 1
    assert found.collapsed
    assert "1 of 10 representations contain NaN" in found.explain()
    assert collapse(torch.full((4, 4), torch.nan)).nonfinite == 4
    with pytest.raises(ValueError, match="N at least 2"):
        collapse(x[:1])
