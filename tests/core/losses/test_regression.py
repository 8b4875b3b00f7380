"""Rank-N-Contrast and kernel SupCon against triple loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polycontrast.losses.regression import RnC, SupConKernel, rnc, supcon_kernel
from support.loss_checks import WALKS, assert_same, check_gradients, gradients, rows, unit, walk_id

TIED = torch.tensor([1.0, 2.0, 1.0, 3.0, 2.0, 1.0, 5.0], dtype=torch.float64)


def score(a: Tensor, b: Tensor, similarity: str) -> Tensor:
    match similarity:
        case "euclidean":
            return -(a - b).norm()
        case "squared":
            return -(a - b).square().sum()
    return a @ b


def rnc_loop(z: Tensor, labels: Tensor, t: float, similarity: str = "euclidean") -> Tensor:
    """One value per anchor, by the definition."""
    n, labels = len(z), labels.reshape(len(labels), -1)
    if similarity == "cosine":
        z = unit(z)
    out = []
    for i in range(n):
        d = (labels - labels[i]).abs().sum(1)
        terms = []
        for j in range(n):
            if j != i:
                far = [score(z[i], z[k], similarity) / t for k in range(n) if k != i and d[k] >= d[j]]
                terms.append(torch.stack(far).logsumexp(0) - score(z[i], z[j], similarity) / t)
        out.append(torch.stack(terms).sum() / (n - 1))
    return torch.stack(out)


def kernel_loop(z: Tensor, labels: Tensor, t: float, kernel: str, sigma: float) -> tuple[Tensor, list[bool]]:
    u, n, labels = unit(z), len(z), labels.reshape(len(labels), -1)
    out, used = [], []
    for i in range(n):
        others = [k for k in range(n) if k != i]
        s = torch.stack([u[i] @ u[k] / t for k in others])
        d = torch.stack([(labels[i] - labels[k]).norm() for k in others])
        w = {
            "gaussian": (-(d**2) / (2 * sigma**2)).exp(), "laplace": (-d / sigma).exp(),
            "cauchy": 1 / (1 + d**2 / sigma**2), "threshold": (d <= sigma).double(),
        }[kernel]  # fmt: skip
        used.append(bool(w.sum() > 0))
        out.append(-(w * (s - s.logsumexp(0))).sum() / w.sum() if used[-1] else s.sum() * 0)
    return torch.stack(out), used


class TestRnC:
    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    @pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
    def test_tied_labels(self, walk: dict[str, Any], similarity: Any) -> None:
        z = rows(7, 3)
        expected = rnc_loop(z, TIED, 2.0, similarity)
        assert_same(rnc(z, labels=TIED, similarity=similarity, **walk), expected.mean(), z)
        ours = rnc(z, labels=TIED, similarity=similarity, reduction="none", **walk)
        assert_same(ours, expected, z)

    @pytest.mark.parametrize("similarity", ["squared", "dot"])
    def test_other_similarities(self, similarity: Any) -> None:
        z = rows(7, 3)
        ours = rnc(z, labels=TIED, similarity=similarity, temperature=0.7)
        assert_same(ours, rnc_loop(z, TIED, 0.7, similarity).mean(), z)

    def test_two_views_and_labels_of_several_columns(self) -> None:
        x, y, labels = rows(5, 3), rows(5, 3, 1), torch.randint(0, 3, (5, 2))
        expected = rnc_loop(torch.cat([x, y]), labels.double().repeat(2, 1), 2.0)
        assert_same(rnc(x, y, labels=labels), expected.mean(), x, y)

    def test_all_labels_equal_is_contrast_without_order(self) -> None:
        z = rows(6, 3)
        d = torch.cdist(z, z) / 2
        off = ~torch.eye(6, dtype=torch.bool)
        lse = (-d).masked_fill(~off, -torch.inf).logsumexp(1)
        expected = (lse - (-d * off).sum(1) / 5).mean()
        torch.testing.assert_close(rnc(z, labels=torch.ones(6)), expected)

    def test_all_rows_equal(self) -> None:
        z = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
        loss = rnc(z, labels=torch.arange(6.0))
        d = [[abs(i - k) for k in range(6) if k != i] for i in range(6)]
        expected = sum(math.log(sum(f >= e for f in row)) for row in d for e in row) / 30
        assert loss.item() == pytest.approx(expected)
        assert not gradients(loss, z)[0].any()

    def test_equal_rows_have_finite_gradients(self) -> None:
        z = rows(5, 3, grad=False)
        z[1] = z[0]
        z.requires_grad_()
        assert gradients(rnc(z, labels=torch.arange(5.0)), z)[0].isfinite().all()

    def test_one_row_one_pair_and_none(self) -> None:
        x, y = rows(1, 3), rows(1, 3, 1)
        assert rnc(x, y, labels=torch.zeros(1)).item() == pytest.approx(0)
        for n in (0, 1):
            z = rows(n, 3)
            loss = rnc(z, labels=torch.zeros(n))
            assert loss.item() == 0
            assert not gradients(loss, z)[0].any()

    def test_small_temperature_in_float32(self) -> None:
        z = (rows(64, 8, dtype=torch.float32, grad=False) * 10).requires_grad_()
        loss = rnc(z, labels=torch.arange(64.0), temperature=1e-3)
        assert loss.isfinite()  # type: ignore[union-attr]
        gradient = gradients(loss, z)[0]
        assert gradient.isfinite().all()
        assert gradient.any()

    def test_weights_and_temperature_gradient(self) -> None:
        z, weights = rows(7, 3), torch.rand(7, dtype=torch.float64)
        t = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        expected = (rnc_loop(z, TIED, t) * weights).sum() / weights.sum()  # type: ignore[arg-type]
        assert_same(rnc(z, labels=TIED, weights=weights, temperature=t), expected, z, t)

    def test_gradcheck(self) -> None:
        z, t = rows(6, 3), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        for walk in (WALKS[0], WALKS[6]):
            check_gradients(lambda z, t: rnc(z, labels=TIED[:6], temperature=t, **walk), z, t)  # noqa: B023

    def test_nan_is_not_hidden(self) -> None:
        z = rows(5, 3, grad=False)
        z[2, 0] = torch.nan
        found = rnc(z, labels=torch.arange(5.0), return_dict=True)
        assert isinstance(found, dict)
        assert found["loss"].isnan()
        assert int(found["n_nonfinite"]) == 1

    def test_the_module_and_refusals(self) -> None:
        z = rows(7, 3)
        assert_same(RnC(temperature=3.0)(z, labels=TIED), rnc(z, labels=TIED, temperature=3.0), z)
        with pytest.raises(ValueError, match=r"labels must have shape \(7,\) or \(7, k\)"):
            rnc(z, labels=TIED[:3])


class TestSupConKernel:
    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    @pytest.mark.parametrize("kernel", ["gaussian", "laplace", "cauchy", "threshold"])
    def test_against_the_loop(self, walk: dict[str, Any], kernel: Any) -> None:
        z = rows(7, 3)
        values, used = kernel_loop(z, TIED, 0.5, kernel, 0.8)
        assert sum(used) == (5 if kernel == "threshold" else 7)
        ours = supcon_kernel(z, labels=TIED, temperature=0.5, kernel=kernel, sigma=0.8, **walk)
        assert_same(ours, values.sum() / sum(used), z)

    def test_two_views_and_labels_of_several_columns(self) -> None:
        x, y, labels = rows(4, 3), rows(4, 3, 1), torch.randn(4, 2, dtype=torch.float64)
        values, _ = kernel_loop(torch.cat([x, y]), labels.repeat(2, 1), 0.1, "gaussian", 1.0)
        assert_same(supcon_kernel(x, y, labels=labels), values.mean(), x, y)

    def test_far_labels_do_not_underflow(self) -> None:
        z, labels = rows(3, 3), torch.tensor([0.0, 1e4, 3e4])
        loss = supcon_kernel(z, labels=labels, reduction="none")
        s = unit(z) @ unit(z).T / 0.1
        nearest = [
            s[0, [1, 2]].logsumexp(0) - s[0, 1],
            s[1, [0, 2]].logsumexp(0) - s[1, 0],
            s[2, :2].logsumexp(0) - s[2, 1],
        ]
        assert_same(loss, torch.stack(nearest), z)

    def test_no_positives(self) -> None:
        z = rows(4, 3)
        found = supcon_kernel(z, labels=torch.arange(4.0), kernel="threshold", sigma=0.5, return_dict=True)
        assert isinstance(found, dict)
        assert (found["loss"].item(), int(found["n_anchors"])) == (0.0, 0)
        assert not gradients(found["loss"], z)[0].any()

    def test_all_equal_is_log_of_the_rest(self) -> None:
        z = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
        loss = supcon_kernel(z, labels=torch.arange(6.0))
        assert loss.item() == pytest.approx(math.log(5))
        assert gradients(loss, z)[0].abs().max() < 1e-12

    def test_zero_row_and_nan(self) -> None:
        z = rows(5, 3, grad=False)
        z[2] = 0
        z.requires_grad_()
        gradient = gradients(supcon_kernel(z, labels=torch.arange(5.0)), z)[0]
        assert gradient.isfinite().all()
        assert not gradient[2].any()
        with torch.no_grad():
            z[0, 0] = torch.nan
        assert supcon_kernel(z, labels=torch.arange(5.0)).isnan()  # type: ignore[union-attr]

    def test_opposite_rows_at_a_low_temperature(self) -> None:
        x = rows(16, 8, dtype=torch.float32)
        loss = supcon_kernel(x, -x.detach(), labels=torch.arange(16.0), temperature=0.005, sigma=0.1)
        assert loss.isfinite()  # type: ignore[union-attr]
        gradient = gradients(loss, x)[0]
        assert gradient.isfinite().all()
        assert gradient.any()

    def test_gradcheck(self) -> None:
        z, t = rows(5, 3), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        for walk in (WALKS[0], WALKS[6]):
            check_gradients(lambda z, t: supcon_kernel(z, labels=TIED[:5], temperature=t, **walk), z, t)  # noqa: B023

    def test_the_module_and_refusals(self) -> None:
        z = rows(7, 3)
        ours = SupConKernel(temperature=0.3, sigma=2.0)(z, labels=TIED)
        assert_same(ours, supcon_kernel(z, labels=TIED, temperature=0.3, sigma=2.0), z)
        with pytest.raises(ValueError, match="sigma must be positive"):
            supcon_kernel(z, labels=TIED, sigma=0.0)
        with pytest.raises(ValueError, match="'gaussian'"):
            supcon_kernel(z, labels=TIED, kernel="gausian")  # type: ignore[arg-type]
