"""Losses over pairs against slow loops, closed forms and differences; every mode and tile; the edge cases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from polycontrast import losses
from polycontrast.losses import (
    Duplicates,
    Guide,
    Listed,
    LogitScale,
    Neighbours,
    SameLabel,
    dcl,
    dclw,
    infonce,
    infonce_debiased,
    infonce_soft,
    mix_rows,
    mixup_targets,
    moco,
    ntxent,
    siglip,
    supcon,
    tiles,
)
from support.loss_checks import WALKS, assert_same, check_gradients, gradients, rows, unit, walk_id

N, D, S = 6, 4, 3.0
LABELS = torch.tensor([0, 1, 0, 2, 1, -100])
walks = pytest.mark.parametrize("walk", WALKS, ids=walk_id)


def lse(values: list[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(values), 0)


def cosines(x: Tensor, y: Tensor) -> Tensor:
    return unit(x) @ unit(y).T


# ---- slow references: one anchor at a time, as the formulas are written -------------------------------------------


def slow_infonce(
    x: Tensor, y: Tensor, extra: Tensor | None = None, skip: Callable[[int, int], bool] = lambda i, j: False
) -> Tensor:
    logits = S * cosines(x, y if extra is None else torch.cat([y, extra]))
    n = len(x)
    there = [
        lse([logits[i, j] for j in range(logits.shape[1]) if j == i or not skip(i, j)]) - logits[i, i] for i in range(n)
    ]
    back = [lse([logits[j, i] for j in range(n) if j == i or not skip(j, i)]) - logits[i, i] for i in range(n)]
    return torch.stack([torch.stack(there), torch.stack(back)])


def slow_ntxent(x: Tensor, y: Tensor, *, with_positive: bool = True) -> Tensor:
    z = torch.cat([x, y])
    logits, n = S * cosines(z, z), len(x)
    out = []
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        out.append(lse([logits[i, j] for j in range(2 * n) if j != i and (with_positive or j != p)]) - logits[i, p])
    return torch.stack(out).view(2, n)


def slow_supcon(z: Tensor, positive: Callable[[int, int], float], average: str) -> tuple[Tensor, Tensor]:
    """Values, and how many (or what weight of) positives."""
    logits, n = S * cosines(z, z), len(z)
    values, masses = [], []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        mine = [j for j in others if positive(i, j)]
        mass = float(sum(positive(i, j) for j in mine))
        masses.append(mass)
        if not mine:
            values.append(0 * logits[i, 0])
            continue
        everyone = lse([logits[i, j] for j in others])
        if average == "out":
            values.append(sum(positive(i, j) * (everyone - logits[i, j]) for j in mine) / mass)
        elif average.startswith("in"):
            extra = math.log(len(mine)) if average == "in_mean" else 0.0
            values.append(everyone - lse([logits[i, j] for j in mine]) + extra)
        else:
            negatives = [logits[i, j] for j in others if j not in mine]
            values.append(sum(lse([logits[i, p], *negatives]) - logits[i, p] for p in mine) / len(mine))
    return torch.stack(values), torch.tensor(masses, dtype=torch.float64)


@walks
class TestAgainstLoops:
    def test_infonce(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        expected = slow_infonce(x, y)
        assert_same(infonce(x, y, scale=S, reduction="none", **walk), expected, x, y)
        assert_same(infonce(x, y, scale=S, **walk), expected.mean(), x, y)
        assert_same(infonce(x, y, scale=S, reduction="sum", **walk), expected.sum() / 2, x, y)
        assert_same(infonce(x, y, scale=S, symmetric=False, **walk), expected[0].mean(), x, y)
        w = torch.rand(N, dtype=torch.float64)
        weighted = 0.3 * (w * expected[0]).sum() / w.sum() + 0.7 * (w * expected[1]).sum() / w.sum()
        assert_same(infonce(x, y, scale=S, weights=w, direction_weights=(0.3, 0.7), **walk), weighted, x, y)

    def test_infonce_without_normalisation(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        logits = 5 * x @ y.T
        expected = (logits.logsumexp(1) - logits.diagonal()).mean()
        assert_same(infonce(x, y, temperature=0.2, normalize=False, symmetric=False, **walk), expected, x, y)
        assert_same(infonce(x, y, temperature=0.2, score="dot", symmetric=False, **walk), expected, x, y)

    def test_scores(self, walk: dict[str, Any]) -> None:
        x, y, w = rows(N, D), rows(N, D + 1, 1), rows(D, D + 1, 2)
        logits = S * x @ w @ y.T
        expected = (logits.logsumexp(1) + logits.logsumexp(0) - 2 * logits.diagonal()).mean() / 2
        assert_same(infonce(x, y, scale=S, score="bilinear", weight=w, normalize=False, **walk), expected, x, y, w)
        y = rows(N, D, 1)
        logits = -S * (x.unsqueeze(1) - y).square().sum(2)
        expected = (logits.logsumexp(1) + logits.logsumexp(0) - 2 * logits.diagonal()).mean() / 2
        assert_same(infonce(x, y, scale=S, score="l2", normalize=False, **walk), expected, x, y)

    def test_metric_of_each_row(self, walk: dict[str, Any]) -> None:
        """A score with a weight per row and dimension: two products in one."""
        x, y, m = rows(N, D), rows(N, D, 1), rows(N, D, 2)
        logits = -S * (m.unsqueeze(1) * (x.unsqueeze(1) - y).square()).sum(2)
        expected = (logits.logsumexp(1) - logits.diagonal()).mean()

        def score(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cat([2 * m * a, -m, -(m * a * a)], 1), torch.cat([b, b * b, torch.ones_like(b)], 1)

        options: dict[str, Any] = {"scale": S, "normalize": False, "symmetric": False}
        assert_same(infonce(x, y, score=score, **options, **walk), expected, x, y, m)

    def test_hard_negatives(self, walk: dict[str, Any]) -> None:
        x, y, extra = rows(N, D), rows(N, D, 1), rows(2 * N, D, 2)
        expected = slow_infonce(x, y, extra).mean()
        assert_same(infonce(x, y, negatives=extra, scale=S, **walk), expected, x, y, extra)
        assert_same(infonce(x, torch.cat([y, extra]), scale=S, **walk), expected, x, y, extra)
        interleaved = torch.stack([y, extra[:N], extra[N:]], 1).flatten(0, 1)
        assert_same(infonce(x, interleaved, layout="interleaved", scale=S, **walk), expected, x, y, extra)

    def test_private_negatives(self, walk: dict[str, Any]) -> None:
        x, y, extra = rows(N, D), rows(N, D, 1), rows(2 * N, D, 2)
        own = extra.view(N, 2, D)
        shared, private = S * cosines(x, y), S * torch.einsum("nd,nhd->nh", unit(x), unit(extra).view(N, 2, D))
        expected = (torch.cat([shared, private], 1).logsumexp(1) - shared.diagonal()).mean()
        assert_same(infonce(x, y, negatives=own, symmetric=False, scale=S, **walk), expected, x, y, extra)

    def test_any_positive(self, walk: dict[str, Any]) -> None:
        """Fewer anchors than candidates, positives anywhere."""
        x, y = rows(N, D), rows(N + 3, D, 1)
        index = torch.tensor([8, 0, 3, 3, 7, 1])
        logits = S * cosines(x, y)
        expected = (logits.logsumexp(1) - logits[torch.arange(N), index]).mean()
        assert_same(infonce(x, y, positives=index, symmetric=False, scale=S, **walk), expected, x, y)
        pairs = torch.stack([torch.arange(N), index], 1)
        assert_same(infonce(x, y, positives=pairs, symmetric=False, scale=S, **walk), expected, x, y)

    def test_several_positives(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        logits = S * cosines(x, y)
        mask = (LABELS.unsqueeze(1) == LABELS) & (LABELS != -100).unsqueeze(1)
        total = []
        for m, log_z in ((mask, logits.logsumexp(1)), (mask.T, logits.logsumexp(0))):
            mean = (logits if m is mask else logits.T).mul(m).sum(1)[:5] / m.sum(1)[:5]
            total.append((log_z[:5] - mean).mean())
        expected = (total[0] + total[1]) / 2
        assert_same(infonce(x, y, labels=LABELS, scale=S, **walk), expected, x, y)
        assert_same(infonce(x, y, positives=mask, scale=S, **walk), expected, x, y)
        assert_same(infonce(x, y, positives=mask.nonzero(), scale=S, **walk), expected, x, y)

    def test_filters(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        ids = torch.tensor([5, 6, 5, 7, 8, 6])
        copies = slow_infonce(x, y, skip=lambda i, j: bool(ids[i] == ids[j])).mean()
        for given in (Duplicates(ids), SameLabel(ids), Listed(ids.unsqueeze(1) == ids)):
            assert_same(infonce(x, y, scale=S, filters=[given], **walk), copies, x, y)
        several = Duplicates(torch.stack([ids, torch.arange(6) % 3], 1))
        expected = slow_infonce(x, y, skip=lambda i, j: bool(ids[i] == ids[j]) or i % 3 == j % 3).mean()
        assert_same(infonce(x, y, scale=S, filters=[several], **walk), expected, x, y)
        nodes = torch.tensor([10, 11, 12, 13, 12, 15])
        edges = torch.tensor([[10, 12], [12, 10], [11, 15], [15, 11], [99, 10]]).T
        linked = {(a, b) for a, b in edges.T.tolist()}
        expected = slow_infonce(x, y, skip=lambda i, j: (int(nodes[i]), int(nodes[j])) in linked).mean()
        assert_same(infonce(x, y, scale=S, filters=[Neighbours(edges, nodes)], **walk), expected, x, y)
        both = slow_infonce(
            x, y, skip=lambda i, j: (int(nodes[i]), int(nodes[j])) in linked or bool(ids[i] == ids[j])
        ).mean()
        assert_same(infonce(x, y, scale=S, filters=[Neighbours(edges, nodes), Duplicates(ids)], **walk), both, x, y)

    def test_guide_both_ways(self, walk: dict[str, Any]) -> None:
        """Each direction has the threshold of its own anchor."""
        x, y, gx, gy = rows(N, D), rows(N, D, 1), rows(N, 3, 2, grad=False), rows(N, 3, 3, grad=False)
        g, logits = cosines(gx, gy), S * cosines(x, y)
        limit = g.diagonal() - 0.1
        off = ~torch.eye(N, dtype=torch.bool)
        there = logits.masked_fill((g > limit.unsqueeze(1)) & off, -math.inf).logsumexp(1)
        back = logits.T.masked_fill((limit.unsqueeze(1) < g.T) & off, -math.inf).logsumexp(1)
        expected = ((there + back) / 2 - logits.diagonal()).mean()
        assert_same(infonce(x, y, scale=S, filters=[Guide(gx, gy, margin=0.1)], **walk), expected, x, y)

    def test_log_weights(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        w = torch.randn(N, dtype=torch.float64)
        logits = S * cosines(x, y) + w
        expected = (logits.logsumexp(1) - logits.diagonal()).mean()
        assert_same(infonce(x, y, scale=S, symmetric=False, log_weights=w, **walk), expected, x, y)

    def test_hardness(self, walk: dict[str, Any]) -> None:
        x, y, extra = rows(N, D), rows(N, D, 1), rows(N, D, 2)
        eye, none = torch.eye(N, dtype=torch.bool), torch.zeros(N, N, dtype=torch.bool)
        chosen = {
            "all": torch.cat([~eye, ~none], 1),
            "in_batch": torch.cat([~eye, ~eye], 1),
            "hard": torch.cat([none, eye], 1),
        }
        cos = cosines(x, torch.cat([y, extra]))
        for on, mask in chosen.items():
            logits = S * cos + 4.0 * cos.detach() * mask
            expected = (logits.logsumexp(1) - logits.diagonal()).mean()
            options: dict[str, Any] = {"negatives": extra, "hardness": 4.0, "hardness_on": on, "symmetric": False}
            assert_same(infonce(x, y, scale=S, **options, **walk), expected, x, y, extra)

    def test_ntxent_and_dcl(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        assert_same(ntxent(x, y, scale=S, reduction="none", **walk), slow_ntxent(x, y), x, y)
        w = torch.rand(N, dtype=torch.float64)
        expected = (w * slow_ntxent(x, y)).sum() / w.sum() / 2
        assert_same(ntxent(x, y, scale=S, weights=w, **walk), expected, x, y)
        decoupled = slow_ntxent(x, y, with_positive=False)
        assert_same(dcl(x, y, scale=S, **walk), decoupled.mean(), x, y)
        agreement = cosines(x, y).diagonal()
        v = (2 - N * (agreement / 0.3).softmax(0)).detach()
        expected = (decoupled + S * agreement * (1 - v)).mean()
        assert_same(dclw(x, y, scale=S, sigma=0.3, **walk), expected, x, y)

    def test_ntxent_without_duplicates(self, walk: dict[str, Any]) -> None:
        """Copies of a sample are neither negatives nor lost as positives."""
        x, y = rows(N, D), rows(N, D, 1)
        ids = torch.tensor([0, 1, 2, 1, 4, 5])
        z, n = torch.cat([x, y]), N
        logits = S * cosines(z, z)
        values = []
        for i in range(2 * n):
            p = (i + n) % (2 * n)
            values.append(
                lse([logits[i, j] for j in range(2 * n) if j == p or (j != i and ids[j % n] != ids[i % n])])
                - logits[i, p]
            )
        assert_same(ntxent(x, y, scale=S, filters=[Duplicates(ids)], **walk), torch.stack(values).mean(), x, y)

    def test_debiased(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        z, n = torch.cat([x, y]), 2 * N - 2
        e = (S * cosines(z, z)).exp()
        for tau_plus, beta in ((0.0, 0.0), (0.1, 0.0), (0.2, 1.5), (0.6, 0.5)):
            values = []
            for i in range(2 * N):
                p = (i + N) % (2 * N)
                negatives = torch.stack([e[i, j] for j in range(2 * N) if j not in (i, p)])
                w = negatives**beta
                r = (w * negatives).sum() / w.mean()
                g = ((r - tau_plus * n * e[i, p]) / (1 - tau_plus)).clamp_min(n * math.exp(-S))
                values.append(-(e[i, p] / (e[i, p] + g)).log())
            expected = torch.stack(values).mean()
            assert_same(infonce_debiased(x, y, scale=S, tau_plus=tau_plus, beta=beta, **walk), expected, x, y)

    @pytest.mark.parametrize("average", ["out", "in", "in_mean", "per_positive", "per_positive_anchor"])
    def test_supcon(self, walk: dict[str, Any], average: Any) -> None:
        z = rows(N, D)
        values, mass = slow_supcon(z, lambda i, j: float(LABELS[i] == LABELS[j] != -100), average)
        share = mass if average == "per_positive" else (mass > 0).double()
        options: dict[str, Any] = {"scale": S, "average": average, **walk}
        assert_same(supcon(z, LABELS, **options), (values * share).sum() / share.sum(), z)
        assert_same(supcon(z, LABELS, reduction="none", **options), values, z)
        mask = (LABELS.unsqueeze(1) == LABELS) & (LABELS != -100)
        assert_same(supcon(z, positives=mask, **options), (values * share).sum() / share.sum(), z)

    @pytest.mark.parametrize("average", ["out", "in"])
    def test_supcon_views(self, walk: dict[str, Any], average: Any) -> None:
        x = rows(3 * N, D).view(N, 3, D).detach().requires_grad_()
        z = x.transpose(0, 1).flatten(0, 1)
        values, mass = slow_supcon(z, lambda i, j: float(LABELS[i % N] == LABELS[j % N] != -100), average)
        used = (mass > 0).double()
        options: dict[str, Any] = {"scale": S, "average": average, **walk}
        assert_same(supcon(x, LABELS, **options), (values * used).sum() / used.sum(), x)
        assert_same(supcon(x, LABELS, empty="zero", **options), values.mean(), x)
        first = supcon(x, LABELS, anchors="first_view", base_temperature=0.5, **options)
        assert_same(first, (values * used)[:N].sum() / used[:N].sum() / (S * 0.5), x)
        expected = slow_supcon(z, lambda i, j: float(i % N == j % N), average)[0].view(3, N)
        assert_same(supcon(x, reduction="none", **options), expected, x)

    def test_supcon_weights(self, walk: dict[str, Any]) -> None:
        """Real-valued positives that are not symmetric, over several views."""
        x = rows(2 * N, D).view(N, 2, D).detach().requires_grad_()
        w = torch.rand(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round(decimals=1)
        w[2] = 0
        z = x.transpose(0, 1).flatten(0, 1)
        values, mass = slow_supcon(z, lambda i, j: float(w[i % N, j % N]), "out")
        assert_same(supcon(x, positives=w, scale=S, **walk), values.sum() / (mass > 0).sum(), x)

    def test_soft(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N + 2, D, 1)
        t, back = torch.rand(N, N + 2, dtype=torch.float64), torch.rand(N + 2, N, dtype=torch.float64)
        t[3] = 0
        logits = S * cosines(x, y)
        values = -((t / t.sum(1, keepdim=True).clamp_min(1e-9)) * logits.log_softmax(1)).sum(1)
        assert_same(infonce_soft(x, y, t, scale=S, **walk), values.sum() / (N - 1), x, y)
        raw = -(t * logits.log_softmax(1)).sum(1).mean()
        assert_same(infonce_soft(x, y, t, scale=S, normalize_targets=False, **walk), raw, x, y)
        other = -((back / back.sum(1, keepdim=True)) * logits.T.log_softmax(1)).sum(1).mean()
        options: dict[str, Any] = {"direction_weights": (0.4, 0.6)}
        expected = 0.4 * values.sum() / (N - 1) + 0.6 * other
        assert_same(infonce_soft(x, y, t, back, scale=S, **options, **walk), expected, x, y)

    def test_mixup(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        perm, b = torch.tensor([3, 1, 0, 2, 5, 4]), torch.tensor([0.3, 0.5, 1.0, 0.2, 0.9, 0.6], dtype=torch.float64)
        dense = torch.diag(b)
        dense[torch.arange(N), perm] += 1 - b
        assert dense[1, 1] == 1  # mixed with itself
        index, weight = mixup_targets(perm, b)
        back = mixup_targets(perm, b, transposed=True)
        logits = S * cosines(x, y)
        expected = -((dense * logits.log_softmax(1)).sum(1) + (dense.T * logits.T.log_softmax(1)).sum(1)).mean() / 2
        options: dict[str, Any] = {"normalize_targets": False, "scale": S}
        assert_same(infonce_soft(x, y, (index, weight), back, **options, **walk), expected, x, y)
        mixed = mix_rows(x, perm, b)
        assert torch.equal(mixed[1], x[1])
        torch.testing.assert_close(mixed[0], 0.3 * x[0] + 0.7 * x[3])

    def test_siglip(self, walk: dict[str, Any]) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        t = S * cosines(x, y) - 1.5
        z = 2 * torch.eye(N, dtype=torch.float64) - 1
        expected = -(z * t).sigmoid().log().sum(1)
        assert_same(siglip(x, y, scale=S, bias=-1.5, reduction="none", **walk), expected, x, y)
        assert_same(siglip(x, y, scale=S, bias=-1.5, **walk), expected.mean(), x, y)
        mask = (LABELS.unsqueeze(1) == LABELS) & (LABELS != -100)
        expected = -((2 * mask.double() - 1) * t).sigmoid().log().sum() / N
        assert_same(siglip(x, y, positives=mask, scale=S, bias=-1.5, **walk), expected, x, y)
        assert_same(siglip(x, y, labels=LABELS, scale=S, bias=-1.5, **walk), expected, x, y)
        ids = torch.tensor([5, 6, 5, 7, 8, 6])
        keep = (ids.unsqueeze(1) != ids) | torch.eye(N, dtype=torch.bool)
        expected = -((z * t).sigmoid().log() * keep).sum() / N
        assert_same(siglip(x, y, filters=[Duplicates(ids)], scale=S, bias=-1.5, **walk), expected, x, y)

    def test_moco(self, walk: dict[str, Any]) -> None:
        q, k, queue = rows(N, D), rows(N, D, 1), rows(9, D, 2)
        own = S * (unit(q) * unit(k)).sum(1, keepdim=True)
        logits = torch.cat([own, S * cosines(q, queue)], 1)
        expected = (logits.logsumexp(1) - logits[:, 0]).mean()
        ours = moco(q, k, queue, scale=S, **walk)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(gradients(ours, q)[0], gradients(expected, q)[0])
        assert all((g == 0).all() for g in gradients(moco(q, k, queue, scale=S, **walk), k, queue))
        left = moco(q, k, queue, scale=S, filters=[Duplicates(torch.arange(N), negative=torch.arange(9))], **walk)
        logits = logits.masked_fill(torch.cat([torch.zeros(N, 1), torch.eye(N, 9)], 1).bool(), -math.inf)
        torch.testing.assert_close(left, (logits.logsumexp(1) - logits[:, 0]).mean())


# ---- differences -------------------------------------------------------------------------------------------------

W = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) + 0.1
SMOOTH: dict[str, Callable[..., Any]] = {
    "infonce": lambda x, y, s, **k: infonce(x, y, scale=s.exp(), weights=W, **k),
    "infonce labels": lambda x, y, s, **k: infonce(x, y, labels=LABELS, temperature=s.exp(), **k),
    "infonce filters": lambda x, y, s, **k: infonce(x, y, scale=s.exp(), filters=[Duplicates(LABELS)], **k),
    "infonce joint": lambda x, y, s, **k: infonce(
        x, y, scale=s.exp(), directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"), **k
    ),
    "ntxent": lambda x, y, s, **k: ntxent(x, y, scale=s.exp(), weights=W, **k),
    "dcl": lambda x, y, s, **k: dcl(x, y, temperature=s.exp(), **k),
    "debiased": lambda x, y, s, **k: infonce_debiased(x, y, scale=s.exp(), tau_plus=0.05, beta=0.5, **k),
    "supcon": lambda x, y, s, **k: supcon(torch.stack([x, y], 1), LABELS, scale=s.exp(), weights=W, **k),
    "supcon in": lambda x, y, s, **k: supcon(torch.stack([x, y], 1), LABELS, temperature=s.exp(), average="in", **k),
    "supcon base": lambda x, y, s, **k: supcon(
        torch.stack([x, y], 1), LABELS, scale=s.exp(), base_temperature=0.5, **k
    ),
    "supcon per positive": lambda x, y, s, **k: supcon(
        torch.stack([x, y], 1), LABELS, scale=s.exp(), average="per_positive", **k
    ),
    "soft": lambda x, y, s, **k: infonce_soft(x, y, W.repeat(N, 1), torch.outer(W, W), scale=s.exp(), **k),
    "siglip": lambda x, y, s, **k: siglip(x, y, scale=s.exp(), bias=s, weights=W, **k),
    "moco": lambda x, y, s, **k: moco(x, y.detach(), y.detach().flip(0), scale=s.exp(), **k),
}
SECOND = {"infonce", "ntxent", "supcon", "siglip", "debiased"}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(
    "walk", [{"mode": "plain"}, {"mode": "stored", "tile": 4}, {"mode": "tiled", "tile": (4, 3)}], ids=walk_id
)
def test_gradients_are_those_of_differences(name: str, walk: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILED_BUDGET", 0)
    s = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    twice = walk["mode"] == "plain" and name in SECOND
    y = rows(N, D, 1, grad=name != "moco")
    check_gradients(lambda *t: SMOOTH[name](*t, **walk), rows(N, D), y, s, twice=twice)


@pytest.mark.parametrize("mode", ["stored", "tiled"])
def test_second_derivatives_say_what_to_do(mode: Any) -> None:
    x, y = rows(N, D), rows(N, D, 1)
    with pytest.raises(RuntimeError, match="mode='plain'"):
        torch.autograd.grad(infonce(x, y, mode=mode), x, create_graph=True)


@pytest.mark.parametrize("mode", ["stored", "tiled"])
@pytest.mark.parametrize("scale", [5.0, 300.0, 3000.0])
def test_backward_twice(mode: Any, scale: float) -> None:
    """Kept tiles are used up by the first backward pass and made again by the second."""
    x, y = rows(N, D), rows(N, D, 1)
    for loss in (infonce(x, y, scale=scale, mode=mode, tile=4), ntxent(x, y, scale=scale, mode=mode, tile=4)):
        first = torch.autograd.grad(loss, (x, y), retain_graph=True)
        for a, b in zip(first, torch.autograd.grad(loss, (x, y)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ---- edge cases (section 5 of the specification) ------------------------------------------------------------------

PAIRS: dict[str, Callable[..., Any]] = {
    "infonce": infonce, "ntxent": ntxent, "supcon": lambda x, y, **k: supcon(torch.stack([x, y], 1), **k),
}  # fmt: skip
MODES = pytest.mark.parametrize("mode", ["plain", "stored", "tiled"])
NAMES = pytest.mark.parametrize("name", PAIRS)


@MODES
class TestEdgeCases:
    @NAMES
    def test_one_pair(self, name: str, mode: Any) -> None:
        x, y = rows(1, D, dtype=torch.float32), rows(1, D, 1, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = PAIRS[name](x, y, mode=mode)
        assert abs(float(loss)) < 1e-6
        assert all(float(g.abs().max()) < 1e-6 for g in gradients(loss, x, y))

    def test_one_pair_without_a_denominator(self, mode: Any) -> None:
        for loss in (dcl, dclw):
            with pytest.raises(ValueError, match="at least 2 pairs"):
                loss(rows(1, D), rows(1, D), mode=mode)

    def test_all_rows_equal(self, mode: Any) -> None:
        x = torch.ones(N, D, dtype=torch.float64, requires_grad=True)
        for loss, expected in ((infonce, math.log(N)), (ntxent, math.log(2 * N - 1))):
            value = loss(x, x, mode=mode)
            assert float(value) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]
            assert float(gradients(value, x)[0].abs().max()) < 1e-12

    @NAMES
    def test_zero_row(self, name: str, mode: Any) -> None:
        x, y = rows(N, D), rows(N, D, 1)
        with torch.no_grad():
            x[2] = 0
        loss = PAIRS[name](x, y, mode=mode, return_dict=True)
        assert loss["n_zero_rows"] == 1
        g = gradients(loss["loss"], x)[0]
        assert g.isfinite().all()
        assert (g[2] == 0).all()
        assert (g[0] != 0).any()

    @NAMES
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_not_finite(self, name: str, mode: Any, bad: float) -> None:
        x, y = rows(N, D, grad=False), rows(N, D, 1)
        x[3, 1] = bad
        found = PAIRS[name](x, y, mode=mode, return_dict=True)
        assert found["loss"].isnan()
        assert found["n_nonfinite"] == 1
        with pytest.raises(ValueError, match="row 3"):
            PAIRS[name](x, y, mode=mode, check_finite=True)

    def test_filters_hide_no_nan(self, mode: Any) -> None:
        x, y = rows(N, D), rows(N, D, 1, grad=False)
        y[0, 0] = math.nan
        everything = Listed(torch.ones(N, N))
        assert infonce(
            x[1:], y, positives=torch.arange(1, N), symmetric=False, filters=[Listed(torch.ones(N - 1, N))], mode=mode
        ).isnan()
        assert ntxent(x, y, filters=[Duplicates(torch.zeros(N, dtype=torch.long))], mode=mode).isnan()
        assert siglip(x, y, filters=[everything], mode=mode).isnan()

    def test_no_positives(self, mode: Any) -> None:
        x = rows(N, D)
        for average in ("out", "in", "in_mean", "per_positive", "per_positive_anchor"):
            for labels in (torch.full((N,), -100), torch.arange(N)):
                found = supcon(x, labels, average=average, mode=mode, return_dict=True)  # type: ignore[arg-type]
                assert isinstance(found, dict)
                assert float(found["loss"]) == 0
                assert found["loss"].requires_grad
                assert found["n_anchors"] == 0
                assert (gradients(found["loss"], x)[0] == 0).all()

    def test_one_class(self, mode: Any) -> None:
        x = rows(N, D)
        labels = torch.zeros(N, dtype=torch.long)
        assert float(supcon(x, labels, mode=mode)) > 0  # type: ignore[arg-type]
        loss = supcon(x, labels, average="per_positive", mode=mode)
        assert float(loss) == 0  # type: ignore[arg-type]
        assert (gradients(loss, x)[0] == 0).all()

    @NAMES
    def test_opposite_positives_at_low_temperature(self, name: str, mode: Any) -> None:
        x = rows(64, 16, dtype=torch.float32)
        loss = PAIRS[name](x, -x.detach(), temperature=0.005, mode=mode, tile=16)
        assert 100 < float(loss) < 450
        g = gradients(loss, x)[0]
        assert g.isfinite().all()
        assert float(g.abs().max()) > 1e-4

    @NAMES
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half(self, name: str, mode: Any, dtype: torch.dtype) -> None:
        x, y = (rows(40, 16, seed, grad=False).to(dtype) for seed in (0, 1))
        half, full = (
            PAIRS[name](x, y, scale=100.0, mode=mode),
            PAIRS[name](x.float(), y.float(), scale=100.0, mode=mode),
        )
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=1e-5, atol=1e-5)
        if name == "supcon":
            return  # autocast refuses to stack, before the loss is reached
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(PAIRS[name](x, y, scale=100.0, mode=mode), full, rtol=1e-5, atol=1e-5)

    def test_empty_batch(self, mode: Any) -> None:
        x, y = rows(0, D), rows(0, D)
        for loss in (
            infonce(x, y, mode=mode),
            ntxent(x, y, mode=mode),
            siglip(x, y, mode=mode),
            supcon(x, torch.arange(0), mode=mode),
        ):
            assert float(loss) == 0  # type: ignore[arg-type]
            gradients(loss, x)

    def test_columns_far_below_row_maxima(self, mode: Any) -> None:
        """A candidate that no anchor comes near still has a log-sum-exp; one exponential with row maxima loses it."""
        x = torch.eye(3, dtype=torch.float32).requires_grad_()
        y = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [-1.0, -1.0, -1.0]])
        logits = 100 * x.detach().double() @ torch.nn.functional.normalize(y.double()).T
        expected = (logits.logsumexp(1) + logits.logsumexp(0) - 2 * logits.diagonal()).mean() / 2
        loss = infonce(x, y, scale=100.0, mode=mode)
        torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=0)
        x64 = x.detach().double().requires_grad_()
        reference = infonce(x64, y.double(), scale=100.0, mode="plain")
        torch.testing.assert_close(gradients(loss, x)[0], gradients(reference, x64)[0].float(), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("scale", [1.0, 30.0, 100.0, 1000.0])
    def test_float32_keeps_up_with_float64(self, mode: Any, scale: float) -> None:
        """Row and column maxima far apart: fast path, one shift, and shifts of their own."""
        x, y = rows(90, 8), rows(90, 8, 1)
        for loss in (infonce, ntxent):
            exact = loss(x, y, scale=scale, mode="plain")
            a, b = (z.detach().float().requires_grad_() for z in (x, y))
            ours = loss(a, b, scale=scale, mode=mode, tile=32)
            torch.testing.assert_close(ours, exact.float(), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
            for g, e in zip(gradients(ours, a, b), gradients(exact, x, y), strict=True):
                torch.testing.assert_close(g, e.float(), rtol=0, atol=1e-4 * float(e.abs().max()))

    @pytest.mark.parametrize("agreement", [0.0, 1.0, 10.0])
    def test_usual_tiles(self, mode: Any, agreement: float) -> None:
        """More rows than one usual tile has, float32, from chance to a converged batch."""
        x, y = rows(1100, 16), rows(1100, 16, 1)
        y = (y + agreement * x).detach().requires_grad_()
        for loss in (infonce, ntxent, dcl):
            exact = loss(x, y, scale=14.0, mode="plain")
            a, b = (z.detach().float().requires_grad_() for z in (x, y))
            ours = loss(a, b, scale=14.0, mode=mode)
            torch.testing.assert_close(ours, exact.float(), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
            for g, e in zip(gradients(ours, a, b), gradients(exact, x, y), strict=True):
                torch.testing.assert_close(g, e.float(), rtol=0, atol=1e-4 * float(e.abs().max()))

    def test_frozen_side_and_strides(self, mode: Any) -> None:
        wide, y = rows(N, 2 * D), rows(N, D, 1, grad=False)
        strided = wide[:, ::2]
        assert_same(infonce(strided, y, scale=S, mode=mode), slow_infonce(strided, y).mean(), wide)
        x = rows(N, D, grad=False)
        log_scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)  # only the temperature learns
        loss = infonce(x, y, scale=log_scale.exp(), mode=mode)
        logits = cosines(x, y) * log_scale.exp()
        expected = (logits.logsumexp(1) + logits.logsumexp(0) - 2 * logits.diagonal()).mean() / 2
        assert_same(loss, expected, log_scale)

    def test_duplicate_columns(self, mode: Any) -> None:
        x = rows(N, D)
        y = rows(2, D, 1)
        assert_same(
            infonce(x, y[[0, 1, 0, 1, 0, 0]], scale=S, mode=mode), slow_infonce(x, y[[0, 1, 0, 1, 0, 0]]).mean(), x, y
        )

    def test_same_bits_again(self, mode: Any) -> None:
        x, y = rows(70, D, dtype=torch.float32), rows(70, D, 1, dtype=torch.float32)
        first, second = (gradients(infonce(x, y, mode=mode, tile=32), x, y) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@walks
@pytest.mark.parametrize("name", PAIRS)
def test_diagnostics_are_alike_in_every_mode(name: str, walk: dict[str, Any]) -> None:
    x, y = rows(N, D, grad=False), rows(N, D, 1, grad=False)
    ids = torch.tensor([5, 6, 5, 7, 8, 6])
    for options in ({}, {"filters": [Duplicates(ids)]}):
        found = PAIRS[name](x, y, return_dict=True, **options, **walk)
        expected = PAIRS[name](x, y, return_dict=True, mode="plain", **options)
        assert set(found) >= {"loss", "accuracy", "positive_similarity", "negative_similarity", "scale", "n_anchors"}
        for key, value in expected.items():
            torch.testing.assert_close(found[key].double(), value.double(), msg=key)
    if name == "infonce":
        cos = cosines(x, y)
        found = infonce(x, y, return_dict=True, **walk)
        assert isinstance(found, dict)
        off = cos[~torch.eye(N, dtype=torch.bool)]
        torch.testing.assert_close(found["accuracy"].double(), (cos.argmax(1) == torch.arange(N)).double().mean())
        torch.testing.assert_close(found["positive_similarity"], cos.diagonal().mean())
        torch.testing.assert_close(found["negative_similarity"], off.mean())


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_logit_scale() -> None:
    scale = LogitScale(0.07)
    assert float(scale()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(9.0)
    scale().backward()
    assert float(scale.log_scale.grad) > 0  # type: ignore[arg-type]
    scale.clamp_()
    assert float(scale()) == pytest.approx(100)
    assert not LogitScale(learnable=False).log_scale.requires_grad
    assert LogitScale(0.1, bias=-10.0).no_weight_decay() == ["log_scale", "bias"]


def test_modules_are_their_functions() -> None:
    x, y = rows(N, D), rows(N, D, 1)
    assert torch.equal(losses.get("infonce")(temperature=0.3)(x, y), infonce(x, y, temperature=0.3))
    assert torch.equal(losses.get("supcon")(average="in")(x, LABELS), supcon(x, LABELS, average="in"))
    assert losses.get("sigmoid") is losses.SigLIP
    module = losses.InfoNCE(learnable_temperature=True)
    assert [n for n, _ in module.named_parameters()] == ["scale.log_scale"]
    module(x, y).backward()
    assert module.scale.log_scale.grad is not None
    assert {n for n, _ in losses.SigLIP().named_parameters()} == {"scale.log_scale", "scale.bias"}
    assert float(losses.SigLIP()(x, y)) == pytest.approx(float(siglip(x, y)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Did you mean 'temperature'"):
        losses.InfoNCE(temperatur=1)
    with pytest.raises(ValueError, match=r"Did you mean 'ntxent'"):
        losses.get("ntxnet")


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = rows(N, D), rows(N, D, 1)
    facts = (
        losses.InfoNCE(temperature=0.1)(x, y),
        losses.InfoNCE(temperature=0.1).explain(x, y, negatives=rows(2 * N, D)),
    )
    assert facts[1]["candidates_per_anchor"] == 3 * N
    assert facts[1]["temperature"] == pytest.approx(0.1)
    assert "candidates per anchor: 18" in capsys.readouterr().out
    assert losses.NTXent().explain(x, y)["candidates_per_anchor"] == 2 * N - 1
    assert losses.SupCon().explain(x, LABELS)["positives_per_anchor"] == pytest.approx((4 + 4 + 1) / N - 1)
    assert losses.MoCo().explain(x, y, rows(9, D))["candidates_per_anchor"] == 10
    for name in losses.names():
        losses.get(name)().explain(x, y, rows(9, D))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: infonce(rows(4, 3), rows(4, 2)), "share one width"),
        (lambda: infonce(rows(4, 3), rows(6, 3)), "6 rows for 4 anchors"),
        (lambda: infonce(rows(4, 3).long(), rows(4, 3)), "floating point"),
        (lambda: infonce(rows(4, 3), rows(4, 3), temperature=0.0), "must be positive"),
        (lambda: infonce(rows(4, 3), rows(4, 3), mode="tile"), "Did you mean 'tiled'"),
        (lambda: infonce(rows(4, 3), rows(4, 3), weights=torch.ones(3)), "4 entries"),
        (lambda: infonce(rows(4, 3), rows(4, 3), directions=("query_to_query",)), "lacks query_to_doc"),
        (lambda: infonce(rows(4, 3), rows(4, 3), positives=torch.arange(5)), "4 whole numbers"),
        (lambda: supcon(rows(4, 3)), "needs labels"),
        (lambda: supcon(rows(4, 3), torch.arange(3)), "4 entries"),
        (lambda: infonce_debiased(rows(4, 3), rows(4, 3), tau_plus=1.0), "tau_plus"),
        (lambda: infonce(rows(4, 3), rows(4, 3), tile=0, mode="tiled"), "positive numbers"),
        (lambda: infonce(rows(4, 3), rows(4, 3), score="bilinear"), "needs weight"),
    ],
)
def test_errors_are_one_line(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_plain_compiles_in_one_graph() -> None:
    x, y = rows(8, D, dtype=torch.float32), rows(8, D, 1, dtype=torch.float32)
    for loss in (infonce, ntxent, siglip):
        compiled = torch.compile(lambda x, y, loss=loss: loss(x, y, mode="plain"), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, y), loss(x, y, mode="plain"))


def test_mode_by_size() -> None:
    assert tiles.choose_mode("auto", 511, 511, 4) == "plain"
    assert tiles.choose_mode("auto", 4096, 4096, 4) == "stored"
    assert tiles.choose_mode("auto", 16384, 16384, 4) == "tiled"
