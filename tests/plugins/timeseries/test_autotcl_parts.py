"""Augmentation, contrast within and between views, ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("pandas")

from sklearn.linear_model import Ridge

from polycontrast.data import draws
from polycontrast.errors import DataError
from polycontrast_timeseries.autotcl import contrast
from polycontrast_timeseries.autotcl.augmentation import FIXED, Augmenter, consistency, draw_steps, gate, over_budget
from polycontrast_timeseries.autotcl.config import ContrastiveConfig
from polycontrast_timeseries.autotcl.contrast import (
    ViewContrast,
    hierarchical_contrast,
    instance_contrast,
    local_contrast,
    temporal_contrast,
)
from polycontrast_timeseries.ridge import ALPHAS, fit_ridge, samples


class TestGate:
    def test_of_a_probability_it_always_keeps_more_than_half(self) -> None:
        """The slip of the code: h as if it were a logit."""
        u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
        share = [float(gate(torch.full_like(u, h), u, bias=0.0, gamma=0.0).mean()) for h in (0.0, 1.0)]
        assert share == pytest.approx([0.5, 0.731], abs=0.02)

    def test_of_a_logit_it_keeps_with_that_probability(self) -> None:
        u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
        for h in (0.02, 0.3, 0.9):
            share = gate(torch.logit(torch.full_like(u, h)), u, bias=0.0, gamma=0.0).mean()
            assert float(share) == pytest.approx(h, abs=0.02)

    def test_hard_has_the_gradient_of_soft(self) -> None:
        u = torch.rand(50, dtype=torch.float64)
        found = []
        for hard in (True, False):
            logit = torch.linspace(-3, 3, 50, dtype=torch.float64, requires_grad=True)
            mask = gate(logit, u, hard=hard)
            assert not hard or set(mask.tolist()) <= {0.0, 1.0}
            found.append(torch.autograd.grad((mask * torch.arange(50)).sum(), logit)[0])
        torch.testing.assert_close(*found)

    def test_without_noise_and_at_its_ends(self) -> None:
        assert gate(torch.tensor([-9.0, 9.0]), None, hard=False).tolist() == pytest.approx([0.0, 1.0], abs=1e-3)
        assert torch.isfinite(gate(torch.zeros(2), torch.tensor([0.0, 1.0]), bias=0.0)).all()


def test_what_is_kept_above_the_budget() -> None:
    keep = torch.full((2, 5, 3), 0.3)
    assert float(over_budget(keep, 0.4)) == pytest.approx(0.5)
    assert float(over_budget(keep, 1.0)) == 0.0


class TestConsistency:
    def test_near_alike_by_hand(self) -> None:
        h = torch.tensor([[0.1, 0.2, 0.4, 0.9], [0.5, 0.5, 0.5, 0.5]]).unsqueeze(2)
        anchor, far, near = torch.tensor([1, 1]), torch.tensor([3, 3]), torch.tensor([2, 2])
        # |h1 - h0| + |h1 - h2|, plus 1 - |h1 - h3| or |h1 - h2|
        assert float(consistency(h, anchor, far)) == pytest.approx(np.mean([0.1 + 0.2 + 0.3, 1.0]))
        assert float(consistency(h, anchor, near)) == pytest.approx(np.mean([0.1 + 0.2 + 0.2, 0.0]))

    def test_it_is_least_where_neighbours_agree_and_far_steps_differ(self) -> None:
        steady = torch.cat([torch.zeros(1, 10, 1), torch.ones(1, 10, 1)], dim=1)
        restless = torch.arange(20).remainder(2).view(1, 20, 1).float()
        anchor, other = torch.tensor([4]), torch.tensor([15])
        assert consistency(steady, anchor, other) < consistency(restless, anchor, other)

    def test_drawn_steps_have_neighbours(self) -> None:
        anchor, other = draw_steps(draws(0, torch.arange(5000)), 9, stream=1)
        assert (int(anchor.min()), int(anchor.max())) == (1, 7)
        assert (int(other.min()), int(other.max())) == (0, 8)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_views_do_not_depend_on_the_batch(name: str) -> None:
    x, keys = torch.randn(6, 30, 2), draws(3, torch.arange(6))
    view = FIXED[name](x, keys, 0.3, stream=2)
    torch.testing.assert_close(FIXED[name](x[4:], keys[4:], 0.3, stream=2), view[4:])
    assert not torch.equal(view, x)
    if name == "cropping":
        assert ((view != 0).all(2).sum(1) == 21).all()


def test_augmenter_scales_and_keeps_between_0_and_1() -> None:
    factors = Augmenter(3, hidden=4, depth=1, dim=5, kernels=(1, 2))(torch.randn(2, 20, 3))
    assert factors.keep.shape == factors.scale.shape == (2, 20, 3)
    assert ((factors.scale > 0) & (factors.scale < 1)).all()
    torch.testing.assert_close(factors.logit.sigmoid(), factors.keep)


class TestContrast:
    def naive_local(self, z: torch.Tensor, start: int, k: int, t: float) -> float:
        size = len(z) // k
        z = F.normalize(z, dim=1)[start : start + k * size]
        pooled = torch.stack([z[i * size : (i + 1) * size].amax(0) for i in range(k)])
        values = []
        for i in range(k):
            positive = i + 1 if i + 1 < k else k - 2
            left_out = {i - 1, i, i + 1} | ({2} if i == 0 else set()) | ({k - 3} if i == k - 1 else set())
            others = [j for j in range(k) if j not in left_out]
            assert len(others) == k - 3
            scores = torch.stack([pooled[i] @ pooled[j] for j in [positive, *others]]) / t
            values.append(scores.logsumexp(0) - scores[0])
        return float(torch.stack(values).mean())

    def test_local(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        z = torch.randn(5, 50, 4, dtype=torch.float64)
        start = torch.tensor([0, 2, 1, 0, 2])
        want = [self.naive_local(z[i], int(start[i]), 6, 0.5) for i in range(5)]
        for rows in (512, 12):
            monkeypatch.setattr(contrast, "_ROWS", rows)
            assert local_contrast(z, start, segments=6, temperature=0.5).tolist() == pytest.approx(want, abs=1e-12)

    def test_too_few_steps(self) -> None:
        with pytest.raises(DataError, match="series of 5 steps cannot be cut into 6 segments"):
            local_contrast(torch.zeros(1, 5, 2), torch.zeros(1, dtype=torch.int64), segments=6)

    def test_in_groups_whatever_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        x, y = torch.randn(3, 8, 4, requires_grad=True), torch.randn(3, 8, 4)
        found = []
        for numbers in (1 << 22, 300):
            monkeypatch.setattr(contrast, "_NUMBERS", numbers)
            value = hierarchical_contrast(x, y)
            found.append((value.detach(), torch.autograd.grad(value, x)[0]))
        torch.testing.assert_close(*found)

    def test_one_series_and_one_step_have_no_contrast(self) -> None:
        assert float(instance_contrast(torch.randn(1, 4, 2), torch.randn(1, 4, 2))) == 0
        assert float(temporal_contrast(torch.randn(3, 1, 2), torch.randn(3, 1, 2))) == 0
        assert torch.isfinite(hierarchical_contrast(torch.randn(3, 1, 2), torch.randn(3, 1, 2)))

    @pytest.mark.parametrize(
        "name",
        ["infonce", "ntxent", "dcl", "dclw", "infonce_debiased", "siglip", "sigmoid", "triplet", "vicreg", "barlow",
         "align_uniform", "hierarchical", "l1out"],
    )  # fmt: skip
    def test_every_objective_prefers_the_right_view(self, name: str) -> None:
        torch.manual_seed(0)
        z = torch.randn(8, 5, 16)
        loss = ViewContrast(ContrastiveConfig(objective=name))  # type: ignore[arg-type]
        right, wrong = loss(z, z + 0.01 * torch.randn_like(z)), loss(z, z.roll(1, 0))
        assert float(right.detach()) < float(wrong.detach())
        loss.clamp_()


class TestRidge:
    def test_equals_scikit_learn_and_chooses_on_validation(self) -> None:
        rng = np.random.default_rng(0)
        x, w = rng.normal(size=(80, 6)), rng.normal(size=(6, 4))
        y = x @ w + rng.normal(size=(80, 4))
        x_val, x_new = rng.normal(size=(40, 6)), rng.normal(size=(9, 6))
        y_val = x_val @ w + rng.normal(size=(40, 4))

        def score(alpha: float) -> float:
            error = Ridge(alpha=alpha).fit(x, y).predict(x_val) - y_val
            return float(np.sqrt((error**2).mean()) + np.abs(error).mean())

        best = min(ALPHAS, key=score)
        t = torch.from_numpy
        head = fit_ridge((t(x), t(y).view(80, 2, 2)), (t(x_val), t(y_val).view(40, 2, 2)))
        assert head.alpha == best
        want = Ridge(alpha=best).fit(x, y).predict(x_new).reshape(9, 2, 2)
        torch.testing.assert_close(head.predict(t(x_new)), t(want), rtol=1e-9, atol=1e-9)

    def test_gaps_in_the_validation_part_are_left_out(self) -> None:
        torch.manual_seed(0)
        x, y, x_val, y_val = torch.randn(30, 3), torch.randn(30, 1, 1), torch.randn(10, 3), torch.randn(10, 1, 1)
        holes = torch.cat([y_val, torch.full((5, 1, 1), torch.nan)])
        one = fit_ridge((x, y), (x_val, y_val))
        other = fit_ridge((x, y), (torch.cat([x_val, 100 * torch.randn(5, 3)]), holes))
        assert one.alpha == other.alpha

    def test_samples_pair_a_step_with_what_follows(self) -> None:
        features, data = torch.arange(10.0).view(10, 1), torch.arange(10.0).view(10, 1)
        x, y = samples(features, data, 3, drop=2)
        assert x[:, 0].tolist() == [2, 3, 4, 5, 6]
        assert y[0, :, 0].tolist() == [3, 4, 5]
        assert y[-1, :, 0].tolist() == [7, 8, 9]
