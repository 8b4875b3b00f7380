"""The triplet family against loops over all triplets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polycontrast.losses.triplet import TripletLoss, mine, triplet
from polycontrast.losses.vse import VSE, vse
from support.loss_checks import WALKS, assert_same, check_gradients, gradients, rows, unit, walk_id

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, -100, 1, 2, -100])


def distance(a: Tensor, b: Tensor, kind: str = "euclidean") -> Tensor:
    match kind:
        case "euclidean":
            return (a - b).norm()
        case "squared":
            return (a - b).square().sum()
    return 1 - a @ b


def taken(miner: str, u: Tensor, labels: Tensor, margin: float, kind: str = "euclidean") -> list[tuple[int, int, int]]:
    """Triplets by a loop over all."""
    n = len(u)
    d = torch.stack([torch.stack([distance(u[i], u[j], kind) for j in range(n)]) for i in range(n)]).detach()
    same = (labels[:, None] == labels) & (labels[:, None] != -100)
    out = []
    for a in range(n):
        positives = [p for p in range(n) if p != a and same[a, p]]
        negatives = [k for k in range(n) if k != a and not same[a, k]]
        if miner in ("hard", "easy_positive"):
            if positives and negatives:
                choose = max if miner == "hard" else min
                p = choose(positives, key=lambda p, a=a: float(d[a, p]))
                out.append((a, p, min(negatives, key=lambda k, a=a: float(d[a, k]))))
            continue
        for p in positives:
            for k in negatives:
                gap = float(d[a, k] - d[a, p])
                if {"all": True, "semihard": 0 < gap <= margin, "easy": gap > margin}[miner]:
                    out.append((a, p, k))
    return out


def by_loop(
    z: Tensor, labels: Tensor, miner: str, *, margin: float | None, miner_margin: float = 0.2, kind: str = "euclidean",
    swap: bool = False, weights: Tensor | None = None, reduction: str = "mean_nonzero",
) -> Tensor:  # fmt: skip
    u = unit(z)
    total, count, nonzero = z.sum() * 0, 0.0, 0.0
    anchors = [z.sum() * 0] * len(z)
    for a, p, k in taken(miner, u, labels, miner_margin, kind):
        far = distance(u[a], u[k], kind)
        if swap:
            far = torch.minimum(far, distance(u[p], u[k], kind))
        gap = distance(u[a], u[p], kind) - far
        hinge = torch.nn.functional.softplus(gap) if margin is None else (margin + gap).relu()
        w = 1.0 if weights is None else float(weights[a])
        total, count, nonzero = total + w * hinge, count + w, nonzero + w * float(hinge > 0)
        anchors[a] = anchors[a] + w * hinge
    match reduction:
        case "none":
            return torch.stack(anchors)
        case "sum":
            return total
        case "mean":
            return total / max(count, 1e-300)
    return total / nonzero if nonzero else total


class TestTriplet:
    @pytest.mark.parametrize("miner", ["all", "hard", "semihard", "easy", "easy_positive"])
    @pytest.mark.parametrize("kind", ["euclidean", "squared", "cosine"])
    @pytest.mark.parametrize("margin", [0.2, 0.6, None])
    def test_against_the_loop(self, miner: Any, kind: Any, margin: float | None) -> None:
        z = rows(11, 4)
        expected = by_loop(z, LABELS, miner, margin=margin, kind=kind)
        for walk in (WALKS[0], WALKS[2], WALKS[6]):
            ours = triplet(z, labels=LABELS, miner=miner, margin=margin, miner_margin=0.2, distance=kind, **walk)
            assert_same(ours, expected, z)

    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    @pytest.mark.parametrize("miner", ["all", "hard", "semihard"])
    def test_every_walk(self, walk: dict[str, Any], miner: Any) -> None:
        z = rows(11, 4, 3)
        ours = triplet(z, labels=LABELS, miner=miner, margin=0.3, **walk)
        assert_same(ours, by_loop(z, LABELS, miner, margin=0.3, miner_margin=0.3), z)

    @pytest.mark.parametrize("miner", ["all", "hard", "semihard"])
    @pytest.mark.parametrize("margin", [0.4, None])
    def test_swap(self, miner: Any, margin: float | None) -> None:
        z = rows(11, 4, 1)
        ours = triplet(z, labels=LABELS, miner=miner, margin=margin, miner_margin=0.4, swap=True, mode="tiled", tile=3)
        assert_same(ours, by_loop(z, LABELS, miner, margin=margin, miner_margin=0.4, swap=True), z)

    @pytest.mark.parametrize("reduction", ["mean_nonzero", "mean", "sum", "none"])
    @pytest.mark.parametrize("miner", ["all", "hard", "easy"])
    def test_reductions_and_weights(self, reduction: Any, miner: Any) -> None:
        z, weights = rows(11, 4, 2), torch.rand(11, dtype=torch.float64) + 0.1
        ours = triplet(
            z, labels=LABELS, miner=miner, margin=0.5, miner_margin=0.2, weights=weights, reduction=reduction
        )
        expected = by_loop(z, LABELS, miner, margin=0.5, weights=weights, reduction=reduction)
        assert_same(ours, expected, z)

    def test_two_views_are_pairs_of_labels(self) -> None:
        x, y = rows(5, 3), rows(5, 3, 1)
        z = torch.cat([x, y])
        assert_same(triplet(x, y), triplet(z, labels=torch.arange(5).repeat(2)), x, y)

    def test_negatives_at_equal_distance(self) -> None:
        z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [0.0, 1.0], [0.0, -1.0], [1.0, 0.0]]).double()
        z.requires_grad_()
        labels = torch.tensor([0, 0, 1, 1, 1, 0])
        for miner in ("all", "semihard", "easy"):
            ours = triplet(z, labels=labels, miner=miner, margin=0.7, miner_margin=0.7)  # type: ignore[arg-type]
            assert_same(ours, by_loop(z, labels, miner, margin=0.7, miner_margin=0.7), z)

    @pytest.mark.parametrize("miner", ["all", "hard", "semihard", "easy", "easy_positive"])
    def test_mine(self, miner: Any) -> None:
        z = rows(11, 4, 5)
        found = torch.stack(mine(z, LABELS, miner=miner, margin=0.3, tile=4)).T
        assert [tuple(t) for t in found.tolist()] == taken(miner, unit(z), LABELS, 0.3)

    def test_distance_weighted_draws_near_negatives_more_often(self) -> None:
        # One anchor with a positive; negatives at distances 0.7 and 1.2: chances are the inverse densities.
        def at(distance: float) -> list[float]:
            cosine = 1 - distance**2 / 2
            return [cosine, math.sqrt(1 - cosine**2), 0.0, 0.0]

        z = torch.tensor([at(0.0), at(0.3), at(0.7), at(1.2)]).double()
        labels = torch.tensor([0, 0, 1, 2])
        generator = torch.Generator().manual_seed(0)
        drawn = [mine(z, labels, miner="distance_weighted", generator=generator) for _ in range(2000)]
        negatives = torch.cat([n[a == 0] for a, _, n in drawn])
        assert set(negatives.tolist()) == {2, 3}

        def inverse(d: float) -> float:
            return d**-2 * (1 - d * d / 4) ** -0.5

        share = float((negatives == 2).double().mean())
        assert share == pytest.approx(inverse(0.7) / (inverse(0.7) + inverse(1.2)), abs=0.03)

    def test_distance_weighted_takes_one_negative_per_positive_pair(self) -> None:
        z = rows(11, 4)
        generator = torch.Generator().manual_seed(1)
        a, p, n = mine(z, LABELS, miner="distance_weighted", generator=generator, tile=3)
        pairs = [(i, j) for i in range(11) for j in range(11) if i != j and LABELS[i] == LABELS[j] != -100]
        assert list(zip(a.tolist(), p.tolist(), strict=True)) == pairs
        assert not (LABELS[a] == LABELS[n]).any()
        one = triplet(z, labels=LABELS, miner="distance_weighted", generator=torch.Generator().manual_seed(1), tile=3)
        assert_same(one, triplet(z, labels=LABELS, triplets=(a, p, n)), z)

    @pytest.mark.parametrize("miner", ["all", "hard", "semihard"])
    @pytest.mark.parametrize("labels", [torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.full((4,), -100)])
    @pytest.mark.parametrize("reduction", ["mean_nonzero", "mean", "sum", "none"])
    def test_no_triplets(self, miner: Any, labels: Tensor, reduction: Any) -> None:
        z = rows(4, 3)
        ours = triplet(z, labels=labels, miner=miner, reduction=reduction)
        assert not ours.any()  # type: ignore[union-attr]
        assert not gradients(ours, z)[0].any()

    def test_an_empty_batch(self) -> None:
        z = rows(0, 3)
        for miner in ("all", "hard"):
            loss = triplet(z, labels=LABELS[:0], miner=miner)  # type: ignore[arg-type]
            assert loss.item() == 0.0  # type: ignore[arg-type]
            gradients(loss, z)

    def test_zero_and_equal_rows_have_finite_gradients(self) -> None:
        z = rows(6, 3, grad=False)
        z[0] = 0
        z[2] = z[1]
        z.requires_grad_()
        labels = torch.tensor([0, 0, 0, 1, 1, 1])
        for miner in ("all", "hard", "semihard"):
            (gradient,) = gradients(triplet(z, labels=labels, miner=miner), z)
            assert gradient.isfinite().all()
            assert not gradient[0].any()

    def test_nan_is_not_hidden(self) -> None:
        z = rows(6, 3, grad=False)
        z[3, 1] = torch.nan
        labels = torch.tensor([0, 0, 1, 1, 2, 2])
        for miner in ("all", "hard"):
            found = triplet(z, labels=labels, miner=miner, return_dict=True)  # type: ignore[arg-type]
            assert isinstance(found, dict)
            assert found["loss"].isnan()
            assert int(found["n_nonfinite"]) == 1
        with pytest.raises(ValueError, match="first is row 3"):
            triplet(z, labels=labels, check_finite=True)

    def test_diagnostics(self) -> None:
        z = rows(11, 4)
        u = unit(z).detach()
        found = [
            triplet(z, labels=LABELS, miner=m, return_dict=True, tile=t, mode="tiled")
            for m in ("all", "hard")
            for t in (2, 64)
        ]
        d = torch.cdist(u, u)
        same = (LABELS[:, None] == LABELS) & (LABELS != -100) & ~torch.eye(11, dtype=torch.bool)
        other = ~same & ~torch.eye(11, dtype=torch.bool)
        nearest = (d + torch.eye(11) * 9).argmin(1)
        anchors = same.any(1)
        for facts in found:
            assert isinstance(facts, dict)
            torch.testing.assert_close(facts["positive_similarity"], -d[same].mean())
            torch.testing.assert_close(facts["negative_similarity"], -d[other].mean())
            assert float(facts["accuracy"]) == pytest.approx(float(same[anchors, nearest[anchors]].double().mean()))
            assert int(facts["n_anchors"]) == int(anchors.sum())
        assert int(found[0]["n_triplets"]) == len(taken("all", u, LABELS, 0.2))

    @pytest.mark.parametrize("miner", ["all", "hard", "semihard", "easy_positive"])
    def test_gradcheck(self, miner: Any) -> None:
        z = rows(7, 3)
        for margin, swap in ((0.3, False), (None, False), (0.3, True)):
            check_gradients(lambda z: triplet(z, labels=LABELS[:7], miner=miner, margin=margin, swap=swap), z)  # noqa: B023
        tiled = {"mode": "tiled", "tile": 3}
        check_gradients(lambda z: triplet(z, labels=LABELS[:7], miner=miner, reduction="none", **tiled), z)

    def test_half_precision_is_upcast(self) -> None:
        z = rows(11, 4, dtype=torch.float16, grad=False)
        half, full = triplet(z, labels=LABELS), triplet(z.float(), labels=LABELS)
        assert half.dtype == torch.float32  # type: ignore[union-attr]
        torch.testing.assert_close(half, full)

    def test_no_cubic_memory(self) -> None:
        z, labels = rows(1500, 8, dtype=torch.float32), torch.arange(1500) % 3
        loss = triplet(z, labels=labels, miner="all", mode="tiled", tile=100)  # N^3/4.5 = 750 million triplets
        loss.backward()  # type: ignore[union-attr]
        assert z.grad is not None
        assert z.grad.isfinite().all()

    def test_the_module(self) -> None:
        z = rows(11, 4)
        module = TripletLoss(margin=0.4, miner="hard", reduction="sum")
        assert_same(module(z, labels=LABELS), triplet(z, labels=LABELS, margin=0.4, miner="hard", reduction="sum"), z)

    def test_refusals(self) -> None:
        z = rows(4, 3)
        with pytest.raises(ValueError, match="needs labels"):
            triplet(z)
        with pytest.raises(ValueError, match="'semihard'"):
            triplet(z, labels=LABELS[:4], miner="semi-hard")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="labels must be a vector with 4 entries"):
            triplet(z, labels=LABELS)


def vse_loop(x: Tensor, y: Tensor, margin: Tensor, negatives: str, ids: Tensor) -> Tensor:
    c = unit(x) @ unit(y).T
    n = len(x)
    sides = []
    for scores in (c, c.T):
        values = []
        for i in range(n):
            hinges = [(margin[i] + scores[i, j] - c[i, i]).relu() for j in range(n) if ids[i] != ids[j]]
            total = torch.stack([*hinges, c[i, i] * 0])
            value = total.max() if negatives == "hardest" else total.sum()
            values.append(value / n if negatives == "mean" else value)
        sides.append(torch.stack(values))
    return torch.stack(sides)


class TestVSE:
    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    @pytest.mark.parametrize("negatives", ["hardest", "sum", "mean"])
    def test_against_the_loop(self, negatives: Any, walk: dict[str, Any]) -> None:
        x, y = rows(8, 4), rows(8, 4, 1)
        expected = vse_loop(x, y, torch.full((8,), 0.2, dtype=torch.float64), negatives, torch.arange(8))
        assert_same(vse(x, y, negatives=negatives, **walk), expected.sum(), x, y)
        assert_same(vse(x, y, negatives=negatives, reduction="none", **walk), expected, x, y)

    @pytest.mark.parametrize("negatives", ["hardest", "sum"])
    def test_margins_ids_weights_and_directions(self, negatives: Any) -> None:
        x, y = rows(7, 4), rows(7, 4, 1)
        margin = torch.rand(7, dtype=torch.float64)
        weights = torch.rand(7, dtype=torch.float64)
        ids = torch.tensor([3, 3, 5, 1, 5, 5, 9])
        options: dict[str, Any] = {
            "margin": margin, "negatives": negatives, "exclude_ids": ids, "weights": weights,
            "direction_weights": (0.5, 2.0),
        }  # fmt: skip
        sides = vse_loop(x, y, margin, negatives, ids) * weights
        for walk in WALKS[::3]:
            ours = vse(x, y, **options, **walk)
            assert_same(ours, 0.5 * sides[0].sum() + 2 * sides[1].sum(), x, y)
            ours = vse(x, y, **options, **walk, reduction="mean")
            assert_same(ours, (0.5 * sides[0].sum() + 2 * sides[1].sum()) / weights.sum(), x, y)

    def test_warm_up_takes_the_sum(self) -> None:
        x, y = rows(6, 4), rows(6, 4, 1)
        assert_same(vse(x, y, step=4, warmup_steps=5), vse(x, y, negatives="sum"), x, y)
        assert_same(vse(x, y, step=5, warmup_steps=5), vse(x, y), x, y)
        assert_same(VSE(warmup_steps=5)(x, y, step=4), vse(x, y, negatives="sum"), x, y)
        with pytest.raises(ValueError, match=r"needs step=\.\.\."):
            vse(x, y, warmup_steps=5)

    @pytest.mark.parametrize("walk", WALKS, ids=walk_id)
    def test_the_first_of_equal_maxima_gets_the_gradient(self, walk: dict[str, Any]) -> None:
        x = torch.eye(4, dtype=torch.float64)
        y = torch.ones(4, 4, dtype=torch.float64) * 0.5
        y.requires_grad_()
        (gradient,) = gradients(vse(x, y, direction_weights=(1.0, 0.0), normalize=False, **walk), y)
        # anchor 0 takes column 1, the others column 0; each also pushes its own positive
        expected = torch.zeros(4, 4).double()
        for i in range(4):
            expected[1 if i == 0 else 0] += x[i]
            expected[i] -= x[i]
        torch.testing.assert_close(gradient, expected)

    def test_all_equal(self) -> None:
        x = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
        assert vse(x, x.detach()).item() == pytest.approx(2.0)  # type: ignore[arg-type]  # 5 anchors, 2 sides, margin

    def test_one_pair_and_none(self) -> None:
        for n in (0, 1):
            x, y = rows(n, 3), rows(n, 3, 1)
            for negatives in ("hardest", "sum"):
                loss = vse(x, y, negatives=negatives)  # type: ignore[arg-type]
                assert loss.item() == 0.0  # type: ignore[arg-type]
                assert not any(g.any() for g in gradients(loss, x, y))

    def test_zero_row_and_nan(self) -> None:
        x, y = rows(5, 3, grad=False), rows(5, 3, 1)
        x[2] = 0
        x.requires_grad_()
        (gradient,) = gradients(vse(x, y), x)
        assert gradient.isfinite().all()
        assert not gradient[2].any()
        with torch.no_grad():
            x[1, 1] = torch.nan
        for negatives in ("hardest", "sum"):
            found = vse(x, y, negatives=negatives, return_dict=True)  # type: ignore[arg-type]
            assert found["loss"].isnan()  # type: ignore[index]
            assert (int(found["n_nonfinite"]), int(found["n_zero_rows"])) == (1, 1)  # type: ignore[index]
        with pytest.raises(ValueError, match="x has 1 rows"):
            vse(x, y, check_finite=True)

    @pytest.mark.parametrize("negatives", ["hardest", "sum"])
    def test_diagnostics(self, negatives: Any) -> None:
        x, y = rows(8, 4), rows(8, 4, 1)
        c = (unit(x) @ unit(y).T).detach()
        off = ~torch.eye(8, dtype=torch.bool)
        found = vse(x, y, negatives=negatives, return_dict=True, mode="tiled", tile=3)
        assert isinstance(found, dict)
        assert float(found["accuracy"]) == pytest.approx(float((c.argmax(1) == torch.arange(8)).double().mean()))
        torch.testing.assert_close(found["negative_similarity"], c[off].mean())
        torch.testing.assert_close(found["positive_similarity"], c.diagonal().mean())
        torch.testing.assert_close(found["loss"], found["x_to_y"] + found["y_to_x"])

    @pytest.mark.parametrize("negatives", ["hardest", "sum"])
    def test_gradcheck(self, negatives: Any) -> None:
        x, y, margin = rows(5, 3), rows(5, 3, 1), torch.rand(5, dtype=torch.float64).requires_grad_()
        for walk in (WALKS[0], WALKS[6]):
            check_gradients(lambda x, y, m: vse(x, y, margin=m, negatives=negatives, **walk), x, y, margin)  # noqa: B023

    def test_frozen_side_gets_no_gradient(self) -> None:
        x, y = rows(5, 3), rows(5, 3, 1, grad=False)
        vse(x, y).backward()  # type: ignore[union-attr]
        assert y.grad is None
        assert x.grad is not None
