"""How the matrix products of a block are made: in half precision where asked, and ahead of backward where possible."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from polycontrast import losses
from polycontrast.losses import (
    Duplicates,
    grid,
    infonce,
    infonce_soft,
    moco,
    nnclr,
    ntxent,
    siglip,
    supcon,
    supcon_kernel,
    tiles,
)
from polycontrast.losses.block import Block
from support.loss_checks import assert_same, gradients, rows

N, D = 24, 16
LABELS = torch.arange(N) % 5
Function = Callable[..., Any]

# ---- half precision ----------------------------------------------------------------------------------------------

HALF: dict[str, Function] = {
    "infonce": infonce,
    "one way": lambda x, y, **k: infonce(x, y, symmetric=False, **k),
    "labels": lambda x, y, **k: infonce(x, y, labels=LABELS, **k),
    "hardness": lambda x, y, **k: infonce(x, y, hardness=2.0, hardness_on="all", **k),
    "infonce_soft": lambda x, y, **k: infonce_soft(x, y, torch.eye(N) + 0.1, **k),
    "ntxent": ntxent,
    "dcl": losses.dcl,
    "dclw": losses.dclw,
    "infonce_debiased": losses.infonce_debiased,
    "supcon": lambda x, y, **k: supcon(torch.stack([x, y], 1), LABELS, **k),
    "per positive": lambda x, y, **k: supcon(torch.stack([x, y], 1), LABELS, average="per_positive", **k),
    "siglip": siglip,
    "moco": lambda x, y, **k: moco(x, y, rows(40, D, 5, grad=False, dtype=torch.float32), **k) + 0 * y.sum(),
    "nnclr": nnclr,
}
WALKS: list[dict[str, Any]] = [{"mode": "plain"}, {"mode": "stored", "tile": 7}, {"mode": "tiled", "tile": 7}]


@pytest.mark.parametrize("half", [torch.bfloat16, "float16"], ids=str)
@pytest.mark.parametrize("name", HALF)
def test_half_is_near_full_precision_in_every_mode(name: str, half: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILED_BUDGET", 0)
    x, y = rows(N, D, dtype=torch.float32), rows(N, D, 1, dtype=torch.float32)
    rounding = 2.0**-8 if half is torch.bfloat16 else 2.0**-11
    full = HALF[name](x, y, scale=8.0)
    expected = gradients(full, x, y, again=True)
    for walk in WALKS:
        found = HALF[name](x, y, scale=8.0, logits_dtype=half, **walk)
        assert found.dtype == torch.float32
        assert not torch.equal(found, full)
        # a logit moves by at most 8 times twice the rounding of a unit row
        torch.testing.assert_close(found, full, rtol=0, atol=16 * rounding)
        for got, wanted in zip(gradients(found, x, y), expected, strict=True):
            assert float((got - wanted).norm()) <= 16 * rounding * float(wanted.norm())


@pytest.mark.parametrize("walk", WALKS, ids=lambda w: w["mode"])
def test_half_rounds_rows_and_not_logits(walk: dict[str, Any]) -> None:
    """Logits near 100 have steps of 0.5 in bfloat16; rows that bfloat16 holds exactly must give exact ones."""
    x = (rows(N, D, grad=False, dtype=torch.float32) * 8).round() / 32
    y = (x + torch.eye(N, D)).mul(32).round() / 32
    x, y = x.requires_grad_(), y.requires_grad_()
    full = infonce(x, y, scale=30.0, normalize=False, **walk)
    half = infonce(x, y, scale=30.0, normalize=False, logits_dtype="bfloat16", **walk)
    assert_same(half, full, x, y, tolerance=1e-5)


def test_half_is_asked_for_by_name_or_dtype_and_refused_where_it_makes_no_sense() -> None:
    x, y = rows(N, D, dtype=torch.float32), rows(N, D, 1, dtype=torch.float32)
    by_name = infonce(x, y, logits_dtype="bfloat16")
    assert torch.equal(by_name, infonce(x, y, logits_dtype=torch.bfloat16))  # type: ignore[arg-type]
    assert torch.equal(by_name, losses.InfoNCE(logits_dtype="bfloat16")(x, y))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        infonce(x, y, logits_dtype="bfloat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="these are float64: leave it out"):
        infonce(x.double(), y.double(), logits_dtype="bfloat16")


@pytest.mark.parametrize("name", losses.names())
def test_configs_offer_what_their_functions_take(name: str) -> None:
    module = losses.get(name)
    taken = set(inspect.signature(module.function).parameters)
    offered = {f.name for f in fields(module.config_class)}
    for option in ("mode", "tile", "logits_dtype", "distributed", "normalize", "backend"):
        if name == "dino" or (name, option) in {("vicreg", "normalize"), ("barlow", "normalize")}:
            continue
        assert (option in taken) == (option in offered), option
    assert ("learnable_temperature" in offered) <= ("scale" in taken)


def test_learnt_temperatures() -> None:
    x, y = rows(N, D), rows(N, D, 1)
    for name in losses.names():
        if "learnable_temperature" in {f.name for f in fields(losses.get(name).config_class)}:
            module = losses.get(name)(learnable_temperature=True)
            assert next(n for n, _ in module.named_parameters()) == "scale.log_scale"
    for module, given in ((losses.SupConKernel, {"labels": LABELS}), (losses.NNCLR, {})):
        loss = module(learnable_temperature=True)
        loss(x, y, **given).backward()
        assert float(loss.scale.log_scale.grad) != 0
    fixed = supcon_kernel(x, y, labels=LABELS, temperature=0.1)
    torch.testing.assert_close(losses.SupConKernel(learnable_temperature=True)(x, y, labels=LABELS), fixed)


# ---- gradients ahead of backward ---------------------------------------------------------------------------------


class Count:
    """Tiles of logits that were made, and products with their gradients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logits = self.products = 0
        made, add = grid.Grid.logits, grid.add_product

        def logits(own: Any, *given: Any) -> Tensor:
            self.logits += 1
            return made(own, *given)

        def add_product(*given: Any) -> None:
            self.products += 1
            add(*given)

        monkeypatch.setattr(grid.Grid, "logits", logits)
        monkeypatch.setattr(tiles, "add_product", add_product)


def test_one_way_makes_every_tile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = Count(monkeypatch)
    x, y = rows(N, D), rows(N, D, 1)
    n_tiles = 3 * 4
    infonce(x, y, symmetric=False, mode="tiled", tile=(8, 6)).sum().backward()
    assert (count.logits, count.products) == (n_tiles, 2 * n_tiles)
    with torch.no_grad():
        infonce(x, y, symmetric=False, normalize=False, mode="tiled", tile=(8, 6))
    assert (count.logits, count.products) == (2 * n_tiles, 2 * n_tiles)
    monkeypatch.setattr(tiles, "TILED_BUDGET", 0)  # a row of tiles does not fit: nothing is kept, all made again
    infonce(x, y, symmetric=False, mode="tiled", tile=(8, 6)).sum().backward()
    assert (count.logits, count.products) == (4 * n_tiles, 4 * n_tiles)


@pytest.mark.parametrize("scale", [3.0, 200.0])
@pytest.mark.parametrize("tile", [1, 7, (5, 64), 64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum"},
        {"filters": [Duplicates(LABELS)]},
        {"log_weights": torch.linspace(-1, 1, N)},
        {"hardness": 2.0, "hardness_on": "all"},
    ],
    ids=str,
)
def test_ahead_is_exact(options: dict[str, Any], tile: Any, scale: float) -> None:
    x, y = rows(N, D), rows(N, D, 1)
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    options = {"symmetric": False, "scale": s, **options}
    plain = infonce(x, y, mode="plain", **options)
    assert_same(infonce(x, y, mode="tiled", tile=tile, **options), plain, x, y, s, tolerance=1e-10)
    frozen = infonce(x, y.detach(), mode="tiled", tile=tile, **options)
    torch.testing.assert_close(gradients(frozen, x)[0], gradients(plain, x, again=True)[0], rtol=1e-10, atol=1e-12)
    only_scale = infonce(x.detach(), y.detach(), mode="tiled", tile=tile, **options)
    torch.testing.assert_close(gradients(only_scale, s)[0], gradients(plain, s)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [3.0, 200.0])
def test_a_broken_promise_of_even_gradients_is_slower_and_not_wrong(scale: float) -> None:
    a, b = rows(N, D), rows(N + 3, D, 1)
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    uneven = torch.linspace(0.5, 2, N, dtype=torch.float64)
    found = {}
    for even in (False, True):
        block = Block(positive=torch.arange(N), even=even)
        sums = tiles.evaluate(a, b, s, block, mode="tiled", tile=7)
        found[even] = gradients(uneven @ (sums.rows - 2 * sums.positive), a, b, s)
    for mine, expected in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_ahead_goes_backward_twice_and_refuses_second_derivatives() -> None:
    x, y = rows(N, D), rows(N, D, 1)
    loss = infonce(x, y, symmetric=False, mode="tiled", tile=7)
    assert isinstance(loss, Tensor)
    first, second = gradients(loss, x, y, again=True), gradients(loss, x, y)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    loss = infonce(x, y, symmetric=False, mode="tiled", tile=7, normalize=False)
    with pytest.raises(RuntimeError, match="mode='plain'"):
        torch.autograd.grad(loss, x, create_graph=True)  # type: ignore[arg-type]


# ---- several positives -------------------------------------------------------------------------------------------


def test_bilinear_scores_tell_sides_apart_with_several_positives() -> None:
    x, y, w = rows(N, D), rows(N, D, 1), rows(D, D, 2)
    logits = 3 * x @ w @ y.T
    mask = torch.rand(N, N, generator=torch.Generator().manual_seed(0)) < 0.2
    mask |= torch.eye(N, dtype=torch.bool)
    there = (logits.logsumexp(1) - (mask * logits).sum(1) / mask.sum(1)).mean()
    back = (logits.logsumexp(0) - (mask * logits).sum(0) / mask.sum(0)).mean()
    found = infonce(x, y, positives=mask, score="bilinear", weight=w, normalize=False, scale=3.0)
    assert_same(found, (there + back) / 2, x, y, w)


def test_constants_of_candidates_belong_to_positives_too() -> None:
    x, y, c = rows(N, D), rows(N, D, 1), torch.linspace(-2, 1, N, dtype=torch.float64)
    options: dict[str, Any] = {"log_weights": c, "normalize": False, "scale": 0.5}
    one = infonce(x, y, reduction="none", **options)
    for positives in (torch.eye(N), torch.stack([torch.arange(N)] * 2, 1)):
        assert_same(infonce(x, y, positives=positives, reduction="none", **options), one, x, y)


@pytest.mark.parametrize("positives", [None, torch.arange(N) % 5])
def test_candidates_of_their_own(positives: Tensor | None) -> None:
    x, y = rows(N, D), rows(N * 5, D, 1).detach().view(N, 5, D).requires_grad_()
    logits = 3 * torch.nn.functional.cosine_similarity(x.unsqueeze(1), y, dim=2)
    target = torch.zeros(N, dtype=torch.int64) if positives is None else positives
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    options: dict[str, Any] = {"positives": positives, "symmetric": False, "scale": 3.0}
    assert_same(infonce(x, y, reduction="none", **options), expected, x, y)
    found = infonce(x, y, return_dict=True, **options)
    assert_same(found["loss"], expected.mean(), x, y)  # type: ignore[index]
    assert float(found["accuracy"]) == pytest.approx(float((logits.argmax(1) == target).double().mean()))  # type: ignore[index]
    others = logits.sum() - logits.gather(1, target.unsqueeze(1)).sum()
    assert float(found["negative_similarity"]) == pytest.approx(float(others) / 3 / (4 * N))  # type: ignore[index]


def test_explain_counts_given_positives() -> None:
    x, y = rows(N, D), rows(N, D, 1)
    mask = torch.eye(N, dtype=torch.bool)
    mask[0] = True
    loss = losses.InfoNCE()
    assert loss.explain(x, y, positives=mask)["positives_per_anchor"] == pytest.approx((2 * N - 1) / N)
    assert loss.explain(x, y, positives=torch.zeros(2 * N, 2).long())["positives_per_anchor"] == 2
    assert loss.explain(x, rows(N * 5, D).view(N, 5, D))["candidates_per_anchor"] == 5
    assert losses.SupCon().explain(x, positives=mask)["positives_per_anchor"] == pytest.approx((N - 1) / N)
    assert losses.NNCLR().explain(x, y)["candidates_per_anchor"] == N


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"positives": torch.tensor([[0, 24]])}, "candidates below 24"),
        ({"positives": torch.ones(N, N + 1)}, r"a mask \(N, M\) = \(24, 24\)"),
        ({"backend": "ring", "negatives": torch.ones(3, D)}, "pairs alone, without negatives"),
        ({"backend": "ring", "labels": LABELS}, "without labels"),
        ({"backend": "ring", "score": "l2"}, "cosine, dot or bilinear"),
        ({"backend": "rings"}, "Did you mean 'ring'"),
    ],
)
def test_errors_are_one_line(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        infonce(rows(N, D), rows(N, D, 1), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("k", "options", "text"),
    [
        (N, {}, "symmetric=False"),
        (N, {"symmetric": False, "labels": LABELS, "filters": [Duplicates(LABELS)]}, "without labels, filters"),
        (N - 1, {"symmetric": False}, "with N=24"),
        (N, {"symmetric": False, "positives": torch.full((N,), 5)}, "from 0 to 4"),
        (N, {"symmetric": False, "positives": torch.eye(N)}, "one per row"),
    ],
)
def test_candidates_of_their_own_stand_alone(k: int, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        infonce(rows(N, D), rows(k * 5, D, 1).view(k, 5, D), **options)
    assert "\n" not in str(caught.value)
