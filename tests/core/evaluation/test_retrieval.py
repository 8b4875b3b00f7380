from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from polycontrast.evaluation import caption_retrieval, class_embeddings, ranks, retrieval, zero_shot

TILES = [(1024, 8192), *product((1, 3, 7), (1, 3, 7))]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(order: list[bool], ks: tuple[int, ...], n_relevant: int) -> dict[str, float]:
    """Of one query, whose sorted list says which items are relevant."""
    hits = np.array(order, dtype=float)
    first = int(hits.argmax()) + 1
    out = {f"R@{k}": 100.0 * (first <= k) for k in ks} | {"mean_rank": first}
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    out["mAP@R"] = float((precision * hits)[:n_relevant].sum() / n_relevant)
    discount = 1 / np.log2(1 + np.arange(1, len(hits) + 1))
    for k in ks:
        out[f"nDCG@{k}"] = float((hits * discount)[:k].sum() / discount[: min(k, n_relevant)].sum())
    return out


def slow(scores: Tensor, relevant: Tensor, ks: tuple[int, ...], how: str) -> dict[str, float]:
    """By sorting, and over all orders of tied items if the expectation is asked for."""
    rows = []
    for score, good in zip(scores.tolist(), relevant.tolist(), strict=True):
        if not any(good):
            continue
        values = sorted(set(score), reverse=True)
        runs = [sorted(g for s, g in zip(score, good, strict=True) if s == v) for v in values]
        if how == "pessimistic":
            rows.append(numbers([g for run in runs for g in run], ks, sum(good)))
            continue
        choices = product(*map(permutations, runs))
        orders = [numbers([g for run in choice for g in run], ks, sum(good)) for choice in choices]
        rows.append({name: float(np.mean([o[name] for o in orders])) for name in orders[0]})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("ties", ["pessimistic", "expected"])
def test_many_to_many_without_ties(tile: tuple[int, int], ties: str) -> None:
    query, gallery = normal(9, 4), normal(17, 4, seed=1)
    ids = torch.arange(9) % 4, torch.arange(17) % 5
    got = retrieval(
        query, gallery, query_ids=ids[0], gallery_ids=ids[1], ks=(1, 3, 5), map_at_r=True, ndcg=(1, 3, 5),
        ties=ties, tile=tile,  # type: ignore[arg-type]
    )  # fmt: skip
    scores = F.normalize(query) @ F.normalize(gallery).T
    for name, value in slow(scores, ids[0][:, None] == ids[1], (1, 3, 5), "pessimistic").items():
        assert got[name] == pytest.approx(value, rel=1e-12), name
    assert got["queries"] == 9


@pytest.mark.parametrize("tile", [(1024, 8192), (1, 1), (2, 3), (7, 5)])
@pytest.mark.parametrize("ties", ["pessimistic", "expected"])
@pytest.mark.parametrize("seed", range(4))
def test_ties_are_never_luck(tile: tuple[int, int], ties: str, seed: int) -> None:
    """Few different scores, so that runs of equals abound; the reference goes through all of their orders."""
    random = np.random.default_rng(seed)
    one = torch.tensor([[1.0]], dtype=torch.float64)
    gallery = torch.from_numpy(random.integers(0, 3, (7, 1)).astype(float))
    good = torch.from_numpy(random.integers(0, 2, 7))
    good[0] = 1
    got = retrieval(
        one, gallery, query_ids=torch.tensor([1]), gallery_ids=good, ks=(1, 2, 3, 6), map_at_r=True,
        ndcg=(1, 2, 3, 6), ties=ties, normalize=False, tile=tile,  # type: ignore[arg-type]
    )  # fmt: skip
    for name, value in slow(gallery.T, good[None] == 1, (1, 2, 3, 6), ties).items():
        assert got[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_embeddings_score_like_chance_or_worse(dtype: torch.dtype) -> None:
    x = torch.ones(50, 33, dtype=dtype) / 3
    worst = retrieval(x, x, ks=(1, 10), tile=(7, 13))
    assert (worst["R@1"], worst["R@10"], worst["mean_rank"], worst["median_rank"]) == (0.0, 0.0, 50.0, 50.0)
    chance = retrieval(x, x, ks=(1, 10, 50), ties="expected", map_at_r=True, tile=(7, 13))
    assert chance["R@1"] == pytest.approx(2.0)
    assert chance["R@10"] == pytest.approx(20.0)
    assert chance["R@50"] == pytest.approx(100.0)
    assert chance["mean_rank"] == pytest.approx(25.5)
    assert chance["mAP@R"] == pytest.approx(0.02)


def test_a_perfect_match() -> None:
    x = normal(20, 8)
    got = retrieval(x, x, ks=(1,), map_at_r=True, ndcg=(10,))
    assert got == {
        "R@1": 100.0, "median_rank": 1.0, "mean_rank": 1.0, "mAP@R": pytest.approx(1.0),
        "nDCG@10": pytest.approx(1.0), "queries": 20.0,
    }  # fmt: skip


def test_without_a_gallery_no_query_finds_itself() -> None:
    x, labels = normal(12, 4), torch.arange(12) % 3
    scores = F.normalize(x) @ F.normalize(x).T
    scores.fill_diagonal_(-9.0)
    good = (labels[:, None] == labels) & ~torch.eye(12, dtype=torch.bool)
    got = retrieval(x, query_ids=labels, map_at_r=True, tile=(5, 4))
    for name, value in slow(scores, good, (1, 5, 10), "pessimistic").items():
        assert name.startswith("nDCG") or got[name] == pytest.approx(value), name


def test_what_shares_the_other_id_is_left_out() -> None:
    """As in person re-identification: the same camera's pictures of the person do not count."""
    query = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5]])
    ids, camera = torch.tensor([7, 2, 7]), torch.tensor([0, 0, 1])
    got = ranks(query, gallery, query_ids=torch.tensor([7]), gallery_ids=ids, left_out=(torch.tensor([0]), camera))
    assert (got.above.tolist(), got.relevant.tolist()) == ([0], [1])


def test_queries_without_a_relevant_item_do_not_count() -> None:
    x = normal(4, 3)
    got = retrieval(x, x, query_ids=torch.tensor([0, 1, 2, 99]), gallery_ids=torch.arange(4), map_at_r=True)
    assert got["queries"] == 3
    assert got["mean_rank"] == 1.0
    with pytest.raises(ValueError, match="no query has a relevant item"):
        retrieval(x, x, query_ids=torch.arange(4) + 9, gallery_ids=torch.arange(4))


def test_captions_in_folds_are_the_mean_over_folds() -> None:
    images, captions = normal(12, 5), normal(36, 5, seed=1) + normal(12, 5).repeat_interleave(3, 0)
    whole = [
        caption_retrieval(images[i : i + 4], captions[3 * i : 3 * i + 12], captions_per_image=3) for i in (0, 4, 8)
    ]
    folds = caption_retrieval(images, captions, captions_per_image=3, folds=3, tile=(3, 7))
    for name, value in folds.items():
        assert value == pytest.approx(np.mean([w[name] for w in whole])), name
    assert folds["rsum"] == pytest.approx(sum(v for k, v in folds.items() if "R@" in k))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: retrieval(x, x[:3]), "4 queries and 3 items are no pairs"),
        (lambda x: retrieval(x), "without a gallery, give query_ids alone"),
        (lambda x: retrieval(x, x, query_ids=torch.arange(4)), "must be given together"),
        (lambda x: retrieval(x, x, ties="optimistic"), "ties must be 'pessimistic' or 'expected'"),
        (lambda x: retrieval(x, x, ks=(0,)), "ranks must be at least 1"),
        (lambda x: caption_retrieval(x, x), "4 images with 5 captions each need 20 captions, got 4"),
        (lambda x: caption_retrieval(x, x, captions_per_image=1, folds=3), "cannot be cut into 3 equal folds"),
        (lambda x: zero_shot(x, torch.tensor([0, 1, 2, 4]), x), r"labels must lie in 0..3, got 0 to 4"),
    ],
)
def test_what_is_refused(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(4, 3))


class TestZeroShot:
    def test_an_ensemble_is_the_normalised_mean_of_unit_prompts(self) -> None:
        prompts = normal(3, 4, 6) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
        expected = F.normalize(F.normalize(prompts, dim=2).mean(1))
        assert torch.allclose(class_embeddings(prompts), expected)
        assert torch.allclose(class_embeddings([*prompts[:2], prompts[2, :1]])[2], F.normalize(prompts[2, :1])[0])

    def test_top_k(self) -> None:
        x, classes, labels = normal(40, 8), normal(7, 8, seed=1), torch.arange(40) % 7
        order = (F.normalize(x) @ F.normalize(classes).T).argsort(1, descending=True)
        got = zero_shot(x, labels, classes, tile=(3, 2))
        for k in (1, 5):
            assert got[f"top{k}"] == pytest.approx(float((order[:, :k] == labels[:, None]).any(1).double().mean()))

    def test_few_classes_and_ties(self) -> None:
        x = torch.ones(6, 3)
        labels = torch.tensor([0, 1, 0, 1, 0, 1])
        assert zero_shot(x, labels, torch.ones(2, 3)) == {"top1": 0.0}
        assert zero_shot(x, labels, torch.ones(2, 3), ties="expected") == {"top1": pytest.approx(0.5)}
