"""Batch-statistic losses against their definitions written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from polycontrast.losses.statistics import (
    VICReg,
    align_uniform,
    barlow,
    joint_entropy,
    mmd,
    uniformity,
    vicreg,
)
from support.loss_checks import WALKS, assert_same, check_gradients, gradients, rows, unit, walk_id


def covariance(z: Tensor) -> Tensor:
    n, d = z.shape
    mean = z.mean(0)
    return torch.stack([
        torch.stack([sum((z[i, a] - mean[a]) * (z[i, b] - mean[b]) for i in range(n)) / (n - 1) for b in range(d)])  # type: ignore[misc]
        for a in range(d)
    ])  # fmt: skip


class TestVICReg:
    @pytest.mark.parametrize("average", ["mean", "sum"])
    def test_against_the_loop(self, average: Any) -> None:
        x, y = rows(6, 4), rows(6, 4, 1)
        var = cov = x.sum() * 0
        for z in (x, y):
            c = covariance(z)
            var = var + sum((1.1 - (c[k, k] + 1e-3).sqrt()).relu() for k in range(4)) / 4
            cov = cov + sum(c[a, b] ** 2 for a in range(4) for b in range(4) if a != b) / 4
        var = var / 2 if average == "mean" else var
        expected = 3 * (x - y).square().mean() + 5 * var + 7 * cov
        options: dict[str, Any] = {"eps": 1e-3, "target": 1.1, "variance_average": average}
        ours = vicreg(x, y, invariance=3, variance=5, covariance=7, **options)
        assert_same(ours, expected, x, y)

    def test_terms_and_reduction(self) -> None:
        x, y = rows(6, 4), rows(6, 4, 1)
        found = vicreg(x, y, return_dict=True)
        assert isinstance(found, dict)
        weighted = 25 * found["invariance"] + 25 * found["variance"] + found["covariance"]
        torch.testing.assert_close(found["loss"], weighted)
        torch.testing.assert_close(vicreg(x, y, reduction="sum"), 6 * found["loss"])
        assert int(found["n_anchors"]) == 6

    def test_standard_columns_cost_nothing(self) -> None:
        x = torch.linalg.qr(torch.cat([torch.ones(8, 1), rows(8, 3, grad=False, dtype=torch.float32)], 1))[0][
            :, 1:
        ].double()
        x = x * math.sqrt(7) * 1.01
        assert vicreg(x, x).item() == pytest.approx(0, abs=1e-10)

    def test_collapse_has_a_finite_gradient(self) -> None:
        x = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
        loss = vicreg(x, x)
        assert loss.item() == pytest.approx(25 * (1 - 0.01))
        assert gradients(loss, x)[0].isfinite().all()


class TestBarlow:
    @pytest.mark.parametrize("unbiased", [False, True])
    def test_against_the_loop(self, unbiased: bool) -> None:
        x, y = rows(6, 4), rows(6, 4, 1)

        def standard(z: Tensor) -> Tensor:
            return (z - z.mean(0)) / (z.var(0, unbiased=unbiased) + 1e-5).sqrt()

        a, b = standard(x), standard(y)
        c = torch.stack(
            [torch.stack([sum(a[i, k] * b[i, m] for i in range(6)) / 6 for m in range(4)]) for k in range(4)]
        )  # type: ignore[misc]
        expected = sum((1 - c[k][k]) ** 2 for k in range(4)) + 0.25 * sum(
            c[k][m] ** 2 for k in range(4) for m in range(4) if k != m
        )
        assert_same(barlow(x, y, off_diagonal=None, unbiased=unbiased), expected, x, y)
        half = barlow(x, y, off_diagonal=0.25, unbiased=unbiased, loss_scale=0.5)
        assert_same(half, expected / 2, x, y)

    def test_constant_column(self) -> None:
        x, y = rows(6, 4, grad=False), rows(6, 4, 1)
        x[:, 2] = 3.0
        x.requires_grad_()
        assert gradients(barlow(x, y), x)[0].isfinite().all()


@pytest.mark.parametrize("loss", [vicreg, barlow, align_uniform])
class TestBatchStatistics:
    def test_one_row(self, loss: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="needs a batch of at least 2, got 1"):
            loss(rows(1, 3), rows(1, 3, 1))

    def test_no_value_per_row(self, loss: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="has no value per row"):
            loss(rows(4, 3), rows(4, 3, 1), reduction="none")

    def test_nan_is_not_hidden(self, loss: Callable[..., Any]) -> None:
        x, y = rows(5, 3, grad=False), rows(5, 3, 1)
        x[1, 1] = torch.nan
        found = loss(x, y, return_dict=True)
        assert found["loss"].isnan()
        assert int(found["n_nonfinite"]) == 1
        with pytest.raises(ValueError, match="first is row 1"):
            loss(x, y, check_finite=True)

    def test_half_precision_is_upcast(self, loss: Callable[..., Any]) -> None:
        x, y = rows(8, 3, dtype=torch.bfloat16, grad=False), rows(8, 3, 1, dtype=torch.bfloat16, grad=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = loss(x, y)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss(x.float(), y.float()))

    def test_gradcheck(self, loss: Callable[..., Any]) -> None:
        for normalize in (False, True):
            check_gradients(lambda x, y: loss(x, y, normalize=normalize), rows(5, 3), rows(5, 3, 1))  # noqa: B023

    def test_frozen_side_and_strides(self, loss: Callable[..., Any]) -> None:
        x, y = rows(3, 5), rows(5, 3, 1, grad=False)
        loss(x.T, y).backward()
        assert x.grad is not None
        assert y.grad is None


class TestAlignUniform:
    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    @pytest.mark.parametrize(("alpha", "t"), [(2.0, 2.0), (1.0, 5.0)])
    def test_against_the_loop(self, walk: dict[str, Any], alpha: float, t: float) -> None:
        x, y = rows(8, 3), rows(8, 3, 1)
        u, v = unit(x), unit(y)

        def unif(z: Tensor) -> Tensor:
            pairs = [(-t * (z[i] - z[j]).square().sum()).exp() for i in range(8) for j in range(i + 1, 8)]
            return torch.stack(pairs).mean().log()

        expected = ((u - v).norm(dim=1) ** alpha).mean() + 0.7 / 2 * (unif(u) + unif(v))
        assert_same(align_uniform(x, y, alpha=alpha, t=t, lam=0.7, **walk), expected, x, y)
        assert_same(uniformity(x, t=t, **walk), unif(u), x)

    def test_equal_rows(self) -> None:
        x = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
        for alpha in (1.0, 2.0):
            loss = align_uniform(x, x, alpha=alpha)
            assert loss.item() == pytest.approx(0, abs=1e-14)
            assert gradients(loss, x)[0].abs().max() < 1e-12

    def test_far_rows_do_not_underflow(self) -> None:
        x = (rows(6, 3, dtype=torch.float32, grad=False) * 100).requires_grad_()
        value = uniformity(x, t=3.0, normalize=False)
        nearest = torch.pdist(x.double().detach()).min() ** 2
        assert value.item() == pytest.approx(float(-3.0 * nearest - math.log(15)), rel=1e-4)
        assert gradients(value, x)[0].isfinite().all()

    def test_zero_row(self) -> None:
        x = rows(5, 3, grad=False)
        x[2] = 0
        x.requires_grad_()
        gradient = gradients(align_uniform(x, rows(5, 3, 1)), x)[0]
        assert gradient.isfinite().all()
        assert not gradient[2].any()


class TestMMD:
    @pytest.mark.parametrize("walk", WALKS[::2], ids=walk_id)
    @pytest.mark.parametrize("unbiased", [False, True])
    def test_against_the_loop(self, walk: dict[str, Any], unbiased: bool) -> None:
        x, y = rows(5, 3), (rows(7, 3, 1, grad=False) + 0.5).requires_grad_()
        z = torch.cat([x, y]).detach()
        base = sum((a - b).square().sum() for a in z for b in z) / (12 * 11)

        def k(a: Tensor, b: Tensor) -> Tensor:
            square = (a - b).square().sum()
            return sum((-square / (base * 2.0**q)).exp() for q in (-2, -1, 0, 1, 2))  # type: ignore[return-value]

        def mean(p: Tensor, q: Tensor, same: bool) -> Tensor:
            pairs = [k(a, b) for i, a in enumerate(p) for j, b in enumerate(q) if not (unbiased and same and i == j)]
            return torch.stack(pairs).mean()

        expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
        assert_same(mmd(x, y, unbiased=unbiased, **walk), expected, x, y)

    def test_same_sets_and_equal_rows(self) -> None:
        x = rows(5, 3)
        assert mmd(x, x).item() == pytest.approx(0, abs=1e-14)
        ones = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
        assert gradients(mmd(ones, ones), ones)[0].isfinite().all()

    def test_gradcheck_and_refusals(self) -> None:
        check_gradients(lambda x, y: mmd(x, y, bandwidth=1.5), rows(4, 2), rows(3, 2, 1))
        with pytest.raises(ValueError, match="needs two rows on either side, got 1 and 3"):
            mmd(rows(1, 2), rows(3, 2), unbiased=True)


class TestJointEntropy:
    @pytest.mark.parametrize("walk", WALKS[::2], ids=walk_id)
    def test_against_the_eigenvalues(self, walk: dict[str, Any]) -> None:
        """Order 2: -log sum of squared eigenvalues of the normalised kernel matrix."""
        x, y = rows(6, 3), rows(6, 2, 1)

        def kernel(z: Tensor, sigma: float) -> Tensor:
            square = (z[:, None] - z[None]).square().sum(-1)
            return (-square / (2 * sigma**2)).exp()

        joint = kernel(x, 0.8) * kernel(y, 1.7) / 6
        expected = -torch.linalg.eigvalsh(joint).square().sum().log()
        assert_same(joint_entropy(x, y, sigma=(0.8, 1.7), **walk), expected, x, y, tolerance=1e-9)

    def test_bounds(self) -> None:
        assert joint_entropy(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
        assert joint_entropy(rows(5, 3) * 1e4).item() == pytest.approx(math.log(5))

    def test_gradcheck_and_refusals(self) -> None:
        check_gradients(lambda x, y: joint_entropy(x, y), rows(4, 2), rows(4, 3, 1))
        with pytest.raises(ValueError, match="one sigma or one per view; got 1 and 2"):
            joint_entropy(rows(4, 2), sigma=(1.0, 2.0))
        with pytest.raises(ValueError, match="view 1 has 3 rows where 4"):
            joint_entropy(rows(4, 2), rows(3, 2))


def test_the_module() -> None:
    x, y = rows(6, 4), rows(6, 4, 1)
    module = VICReg(variance_average="sum", covariance=2.0)
    assert_same(module(x, y), vicreg(x, y, variance_average="sum", covariance=2.0), x, y)
    with pytest.raises(ValueError, match="Did you mean 'covariance'"):
        VICReg(covarience=1.0)
