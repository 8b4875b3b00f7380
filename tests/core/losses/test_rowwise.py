"""Blocks of rows and distances that keep their digits; what is compiled has no graph breaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polycontrast import losses
from polycontrast.losses.rowwise import distances, plan
from support.loss_checks import check_gradients, gradients, rows


def test_near_and_equal_rows_in_float32() -> None:
    x = rows(40, 16, dtype=torch.float32, grad=False) * 30
    y = x.clone()
    y[10:20] += 1e-3 * rows(10, 16, 1, dtype=torch.float32, grad=False)
    y[20:] = rows(20, 16, 2, dtype=torch.float32, grad=False)
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    ours = distances(x, y)
    theirs = torch.cdist(exact, y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=0)
    assert not ours.diagonal()[:10].any()
    by_cdist, by_us = gradients(theirs, exact)[0], gradients(ours, x)[0]
    torch.testing.assert_close(by_us.double(), by_cdist, rtol=1e-4, atol=1e-4)


def test_distances_gradcheck() -> None:
    check_gradients(distances, rows(4, 3), rows(5, 3, 1))


def test_a_nan_row_is_far_from_everything_by_nan() -> None:
    for dtype in (torch.float32, torch.float64):
        x = rows(4, 3, dtype=dtype, grad=False)
        x[1, 0] = torch.nan
        x.requires_grad_()
        apart = distances(x, x.detach())
        assert apart[1].isnan().all()
        assert gradients(apart, x)[0][1].isnan().any()


def test_auto_keeps_little() -> None:
    like = torch.zeros(1)
    assert not plan(256, 256, like, "auto", None).recompute
    assert plan(256, 256, like, "auto", None).rows == 256
    big = plan(100_000, 100_000, like, "auto", None)
    assert big.recompute
    assert big.rows * 100_000 <= 2**20
    with pytest.raises(ValueError, match="tile must be at least 1, got 0"):
        plan(3, 3, like, "tiled", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vicreg", "barlow", "align_uniform", "byol", "simsiam", "rnc", "supcon_kernel", "triplet", "vse"]
)
def test_plain_compiles_in_one_graph(name: str) -> None:
    function = losses.get(name).function
    options: dict[str, Any] = {}
    if name in ("align_uniform", "rnc", "supcon_kernel", "triplet", "vse"):
        options["mode"] = "plain"
    if name in ("rnc", "supcon_kernel", "triplet"):
        options["labels"] = torch.arange(8) % 3
    x, y = rows(8, 4), rows(8, 4, 1)
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: function(x, y, **options), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled(x, y), x)[0], gradients(function(x, y, **options), x)[0])
