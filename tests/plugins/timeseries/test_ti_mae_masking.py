from __future__ import annotations

import pytest
import torch

pytest.importorskip("pandas")

from polycontrast.data import draws, uniform
from polycontrast_timeseries.ti_mae.masking import (
    block_mask,
    complementary_masks,
    draw_masks,
    future_mask,
    hidden_steps,
    periodic_mask,
    random_mask,
    visible_steps,
)

KINDS = ("random", "periodic", "block", "future", "mixed")


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return draws(seed, torch.arange(n))


def masks_by_row(groups, samples: int, masks: int, length: int) -> torch.Tensor:
    """(masks, samples, L) hidden steps; rows of a group are in order of mask, then sample."""
    result = torch.full((samples, masks, length), -1)
    seen = [0] * samples
    for rows, keep in groups:
        for row, hidden in zip(rows.tolist(), hidden_steps(keep, length), strict=True):
            result[row, seen[row]] = hidden.long()
            seen[row] += 1
    assert seen == [masks] * samples
    return result


@pytest.mark.parametrize(
    ("length", "ratio", "kept"), [(20, 0.75, 5), (300, 0.75, 75), (7, 0.5, 3), (3, 0.99, 1), (9, 0, 9)]
)
def test_visible_steps(length, ratio, kept):
    assert visible_steps(length, ratio) == kept


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 0.9])
@pytest.mark.parametrize("kind", ["random", "periodic", "block"])
def test_masks_hide_as_many_steps_as_they_should(kind, ratio):
    ((rows, keep),) = draw_masks(keys(40), 31, masks=range(3), kind=kind, ratio=ratio)
    assert keep.shape == (120, visible_steps(31, ratio))
    assert (hidden_steps(keep, 31).sum(1) == 31 - keep.shape[1]).all()  # no step twice
    assert rows.tolist() == list(range(40)) * 3


def test_random_mask_is_uniform():
    hidden = hidden_steps(random_mask(uniform(keys(4000), 20), 0.75), 20).float()
    assert torch.allclose(hidden.mean(0), torch.full((20,), 0.75), atol=0.03)


def test_periodic_mask_is_evenly_spaced():
    keep = periodic_mask(torch.tensor([0.0, 0.5, 0.999]), 12, 0.75)
    assert keep.tolist() == [[0, 4, 8], [2, 6, 10], [3, 7, 11]]


def test_block_mask_hides_one_run():
    keep = block_mask(torch.tensor([0.0, 0.5, 0.999]), 8, 0.75)
    assert keep.tolist() == [[6, 7], [0, 7], [0, 1]]


def test_future_mask_hides_the_horizon():
    assert hidden_steps(future_mask(2, 6, 2), 6).long().tolist() == [[0, 0, 0, 0, 1, 1]] * 2
    ((_, keep),) = draw_masks(keys(3), 10, masks=range(2), kind="future", horizon=4)
    assert keep.tolist() == [list(range(6))] * 6


def test_missing_steps_are_shown_last():
    missing = torch.zeros(50, 20, dtype=torch.bool)
    missing[:, 3:18] = True
    keep = random_mask(uniform(keys(50), 20), 0.75, missing)
    assert {0, 1, 2, 18, 19} == set(keep.unique().tolist())


def test_complementary_masks_show_each_step_once():
    keep = complementary_masks(uniform(keys(5), 20), 0.75)
    assert keep.shape == (4, 5, 5)
    assert (torch.stack([hidden_steps(k, 20) for k in keep]).sum(0) == 3).all()
    rest = complementary_masks(uniform(keys(5), 22), 0.75)
    hidden = torch.stack([hidden_steps(k, 22) for k in rest]).sum(0)
    assert ((hidden == 3) | (hidden == 2)).all()


def test_forecast_ratio_is_a_share_of_the_masks():
    groups = draw_masks(keys(500), 12, masks=range(4), forecast_ratio=0.3, horizon=4)
    assert len(groups) == 2
    (_, random), (_, future) = groups
    assert random.shape[1] == 3
    assert future.shape[1] == 8
    assert len(random) + len(future) == 2000
    assert abs(len(future) / 2000 - 0.3) < 0.04


def test_mixed_throws_lots():
    groups = draw_masks(keys(800), 12, masks=range(1), kind="mixed", horizon=4)
    hidden = hidden_steps(groups[0][1], 12)
    assert abs(len(groups[1][0]) / 800 - 0.25) < 0.05
    runs = (hidden[:, 1:] != hidden[:, :-1]).sum(1)
    assert ((runs <= 2).float().mean() > 0.3).item()  # blocks
    spread = hidden_steps(periodic_mask(torch.linspace(0, 0.999, 50), 12, 0.75), 12).unique(dim=0)
    periodic = (hidden.unsqueeze(1) == spread).all(2).any(1).float().mean()
    assert 0.25 < periodic < 0.45


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_depends_on_its_sample_alone(kind):
    """Not on the rest of the batch, nor on how many masks are drawn at once."""
    how = {"kind": kind, "ratio": 0.6, "forecast_ratio": 0.2, "horizon": 5}
    whole = masks_by_row(draw_masks(keys(12), 15, masks=range(4), **how), 12, 4, 15)
    pair = masks_by_row(draw_masks(keys(12)[6:8], 15, masks=range(4), **how), 2, 4, 15)
    for a, b in zip(whole[6:8], pair, strict=True):
        assert sorted(map(tuple, a.tolist())) == sorted(map(tuple, b.tolist()))
    one = masks_by_row(draw_masks(keys(12), 15, masks=range(2, 3), **how), 12, 1, 15)
    assert all(any(torch.equal(one[i, 0], whole[i, j]) for j in range(4)) for i in range(12))


@pytest.mark.parametrize(("kind", "at_least"), [("random", 100), ("periodic", 4), ("block", 20), ("mixed", 30)])
def test_masks_differ_between_samples_and_masks(kind, at_least):
    keep = draw_masks(keys(20), 100, masks=range(5), kind=kind, ratio=0.75, horizon=25)[0][1]
    assert len(keep.unique(dim=0)) >= at_least
