"""Losses without negatives against loops and against the codes they should find."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polycontrast.losses.prediction import (
    BYOL,
    DINO,
    byol,
    dino,
    moved_centre,
    nnclr,
    simsiam,
    sinkhorn,
    swav,
)
from polycontrast.losses.rowwise import nearest
from support.loss_checks import WALKS, assert_same, check_gradients, gradients, rows, unit, walk_id


def cosines(p: Tensor, z: Tensor) -> Tensor:
    return (unit(p) * unit(z).detach()).sum(1)


class TestByolAndSimSiam:
    def test_one_assignment_and_both(self) -> None:
        p_x, z_y, p_y, z_x = (rows(6, 4, k) for k in range(4))
        one, other = cosines(p_x, z_y), cosines(p_y, z_x)
        assert_same(byol(p_x, z_y), (2 - 2 * one).mean(), p_x)
        both = (2 - 2 * one).mean() + (2 - 2 * other).mean()
        assert_same(byol(p_x, z_y, p_y, z_x), both, p_x, p_y)
        assert_same(simsiam(p_x, z_y), -one.mean(), p_x)
        assert_same(simsiam(p_x, z_y, p_y, z_x), -(one.mean() + other.mean()) / 2, p_x, p_y)

    @pytest.mark.parametrize("loss", [byol, simsiam])
    def test_targets_get_no_gradient(self, loss: Any) -> None:
        p, z = rows(6, 4), rows(6, 4, 1)
        loss(p, z).backward()
        assert z.grad is None
        assert p.grad is not None

    def test_weights_and_reductions(self) -> None:
        p, z, w = rows(6, 4), rows(6, 4, 1), torch.rand(6, dtype=torch.float64)
        values = 2 - 2 * cosines(p, z)
        assert_same(byol(p, z, weights=w), (w * values).sum() / w.sum(), p)
        assert_same(byol(p, z, reduction="sum"), values.sum(), p)
        assert_same(byol(p, z, reduction="none"), values, p)
        assert_same(BYOL(reduction="sum")(p, z), values.sum(), p)

    def test_rows_as_they_are(self) -> None:
        p, z = rows(6, 4), rows(6, 4, 1)
        assert_same(byol(p, z, normalize=False), (p - z.detach()).square().sum(1).mean(), p)
        assert_same(simsiam(p, z, normalize=False), -(p * z.detach()).sum(1).mean(), p)

    def test_zero_row_and_diagnostics(self) -> None:
        p, z = rows(5, 3, grad=False), rows(5, 3, 1)
        p[1] = 0
        p.requires_grad_()
        found = byol(p, z, return_dict=True)
        assert isinstance(found, dict)
        assert int(found["n_zero_rows"]) == 1
        assert float(found["positive_similarity"]) == pytest.approx(1 - float(found["loss"].detach()) / 2)
        gradient = gradients(found["loss"], p)[0]
        assert gradient.isfinite().all()
        assert not gradient[1].any()

    def test_gradcheck_and_refusals(self) -> None:
        z = rows(4, 3, 1)
        for loss in (byol, simsiam):
            check_gradients(lambda p: loss(p, z), rows(4, 3))  # noqa: B023
        with pytest.raises(ValueError, match="both p_y and z_x"):
            byol(z, z, z)


class TestSinkhorn:
    def plain(self, scores: Tensor, epsilon: float, iterations: int) -> Tensor:
        """Not in log space, as in the paper's listing."""
        q = (scores / epsilon).exp().T
        q /= q.sum()
        k, b = q.shape
        for _ in range(iterations):
            q /= q.sum(1, keepdim=True)
            q /= k
            q /= q.sum(0, keepdim=True)
            q /= b
        return (q * b).T

    @pytest.mark.parametrize("iterations", [1, 3, 10])
    def test_as_in_the_paper(self, iterations: int) -> None:
        scores = rows(12, 5, grad=False)
        ours = sinkhorn(scores, epsilon=0.3, iterations=iterations)
        torch.testing.assert_close(ours, self.plain(scores, 0.3, iterations))

    def test_marginals(self) -> None:
        codes = sinkhorn(rows(30, 6, grad=False), epsilon=0.5, iterations=200)
        torch.testing.assert_close(codes.sum(1), torch.ones(30).double())
        torch.testing.assert_close(codes.sum(0), torch.full((6,), 5.0).double(), rtol=1e-6, atol=1e-6)

    def test_it_does_not_overflow(self) -> None:
        scores = rows(64, 16, dtype=torch.float32, grad=False)
        assert self.plain(scores * 3, 0.01, 3).isnan().any()
        for dtype in (torch.float32, torch.float16):
            codes = sinkhorn((scores * 3).to(dtype), epsilon=0.01)
            assert codes.isfinite().all()
            torch.testing.assert_close(codes.sum(1), torch.ones(64))

    def test_no_iterations(self) -> None:
        scores = rows(3, 4, grad=False)
        torch.testing.assert_close(sinkhorn(scores, iterations=0), (scores / 0.05).softmax(1))


class TestSwAV:
    def expected(self, high: list[Tensor], low: list[Tensor], codes: list[Tensor]) -> Tensor:
        crops, out = [*high, *low], []
        for h in range(len(high)):
            for c, crop in enumerate(crops):
                if c != h:
                    out.append(-(codes[h] * (crop / 0.2).log_softmax(1)).sum(1))
        return torch.stack(out).mean(0)

    def test_against_the_loop(self) -> None:
        high, low = [rows(6, 4, k) for k in range(2)], [rows(6, 4, k) for k in range(2, 5)]
        codes = [sinkhorn(s.detach(), epsilon=0.1, iterations=2) for s in high]
        values = self.expected(high, low, codes)
        options: dict[str, Any] = {"temperature": 0.2, "epsilon": 0.1, "iterations": 2}
        assert_same(swav(high, low, **options), values.mean(), *high, *low)
        assert_same(swav(high, low, reduction="none", **options), values, *high, *low)

    def test_queue(self) -> None:
        high = [rows(4, 3, k) for k in range(2)]
        queue = [rows(9, 3, k + 10, grad=False) for k in range(2)]
        codes = [sinkhorn(torch.cat([q, s.detach()]))[9:] for q, s in zip(queue, high, strict=True)]
        ours = swav(high, queue=queue, temperature=0.2)
        assert_same(ours, self.expected(high, [], codes).mean(), *high)

    def test_gradcheck(self) -> None:
        """The codes are constants: differences must hold them fixed."""
        low = rows(4, 3, 5)
        high = [rows(4, 3, k, grad=False) for k in range(2)]
        check_gradients(lambda low: swav(high, [low]), low)

    def test_diagnostics_and_refusals(self) -> None:
        same = torch.eye(4, dtype=torch.float64)
        found = swav([same, same], return_dict=True)
        assert float(found["accuracy"]) == 1.0  # type: ignore[index]
        with pytest.raises(ValueError, match="needs a high-resolution crop and another"):
            swav([same])
        with pytest.raises(ValueError, match=r"one queue of scores per high-resolution crop \(2\), got 1"):
            swav([same, same], queue=[same])


class TestDINO:
    def test_against_the_loop(self) -> None:
        student, teacher = [rows(5, 4, k) for k in range(4)], [rows(5, 4, k + 7) for k in range(2)]
        centre = torch.randn(4, dtype=torch.float64)
        terms = []
        for t in range(2):
            target = ((teacher[t].detach() - centre) / 0.07).softmax(1)
            terms += [-(target * (student[s] / 0.2).log_softmax(1)).sum(1) for s in range(4) if s != t]
        options: dict[str, Any] = {"centre": centre, "student_temperature": 0.2, "teacher_temperature": 0.07}
        ours = dino(student, teacher, **options)
        assert_same(ours, torch.stack(terms).mean(), *student)
        dino(student, teacher, **options).backward()  # type: ignore[union-attr]
        assert teacher[0].grad is None

    def test_low_temperature_in_float32(self) -> None:
        student, teacher = [rows(5, 4, k, dtype=torch.float32) for k in range(2)], [rows(5, 4, 9, dtype=torch.float32)]
        loss = dino(student, [t * 100 for t in teacher], student_temperature=1e-3, teacher_temperature=1e-3)
        assert loss.isfinite()  # type: ignore[union-attr]
        assert gradients(loss, student[1])[0].any()

    def test_centre(self) -> None:
        teacher = [rows(5, 4, k, grad=False) for k in range(2)]
        centre = torch.ones(1, 4, dtype=torch.float64)
        moved = moved_centre(centre, teacher, momentum=0.8)
        torch.testing.assert_close(moved, 0.8 * centre + 0.2 * torch.cat(teacher).mean(0, keepdim=True))
        assert moved_centre(centre, torch.zeros(0, 4)).equal(centre)

    def test_the_module_moves_its_centre_after_the_loss_and_saves_it(self) -> None:
        student, teacher = [rows(5, 4, k) for k in range(2)], [rows(5, 4, k + 7) for k in range(2)]
        module = DINO(outputs=4, centre_momentum=0.5).double()
        first, second = module(student, teacher), module(student, teacher)
        assert_same(first, dino(student, teacher), *student)
        centre = moved_centre(torch.zeros(4).double(), teacher, momentum=0.5)
        assert_same(second, dino(student, teacher, centre=centre), *student)
        resumed = DINO(outputs=4, centre_momentum=0.5).double()
        resumed.load_state_dict(module.state_dict())
        assert_same(resumed(student, teacher), module(student, teacher), *student)
        before = module.centre.clone()
        module.eval()(student, teacher)
        assert module.centre.equal(before)

    def test_entropy_tells_collapse(self) -> None:
        student = [torch.zeros(3, 8), torch.zeros(3, 8)]
        flat = dino(student, [torch.zeros(3, 8)], return_dict=True)
        peaked = dino(student, [torch.eye(8)[:3] * 100], return_dict=True)
        assert float(flat["teacher_entropy"]) == pytest.approx(math.log(8))  # type: ignore[index]
        assert float(peaked["teacher_entropy"]) == pytest.approx(0, abs=1e-6)  # type: ignore[index]

    def test_gradcheck_and_refusals(self) -> None:
        teacher = rows(3, 4, 9)
        check_gradients(lambda a, b: dino([a, b], [teacher]), rows(3, 4), rows(3, 4, 1))
        with pytest.raises(ValueError, match="two or more; got 1, 1"):
            dino(teacher, teacher)


class TestNNCLR:
    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    def test_neighbours_from_the_queue(self, walk: dict[str, Any]) -> None:
        x, y, queue = rows(6, 4), rows(6, 4, 1), rows(20, 4, 2, grad=False)
        found = torch.stack([queue[max(range(20), key=lambda j, u=u: float(u @ unit(queue)[j]))] for u in unit(x)])
        logits = unit(found) @ unit(y).T / 0.3
        expected = (logits.logsumexp(1) - logits.diagonal()).mean()
        assert_same(nnclr(x, y, queue=queue, temperature=0.3, **walk), expected, y)

    def test_nearest_in_pieces_and_first_of_equals(self) -> None:
        x, bank = rows(5, 3, grad=False), rows(11, 3, 1, grad=False).repeat(2, 1)
        for tile in (1, 4, 100):
            assert nearest(x, bank, tile=tile).equal((x @ bank[:11].T).argmax(1))

    def test_gradcheck_and_refusals(self) -> None:
        check_gradients(lambda x, y: nnclr(x, y, mode="plain"), rows(4, 3), rows(4, 3, 1))
        with pytest.raises(ValueError, match="no rows yet"):
            nnclr(rows(4, 3), rows(4, 3), queue=torch.zeros(0, 3))
