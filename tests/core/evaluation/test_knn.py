from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from polycontrast.evaluation import knn_accuracy, knn_classify, knn_votes, top_k


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_votes(query: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float, n_classes: int) -> Tensor:
    votes = torch.zeros(len(query), n_classes, dtype=torch.float64)
    for i, q in enumerate(query):
        similar = [(float(q @ b / (q.norm() * b.norm())), -j) for j, b in enumerate(bank)]
        for value, minus in sorted(similar, reverse=True)[:k]:
            votes[i, labels[-minus]] += math.exp(value / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 5, 17, 200])
@pytest.mark.parametrize("tile", [(1024, 8192), *product((1, 7), (1, 3, 16))])
def test_votes_are_those_of_a_loop(k: int, tile: tuple[int, int]) -> None:
    query, bank = normal(6, 4), normal(17, 4, seed=1)
    labels = torch.arange(17) % 3
    got = knn_votes(query, bank, labels, k=k, temperature=0.2, tile=tile)
    expected = slow_votes(query, bank, labels, k, 0.2, 3)
    assert torch.allclose(got / got.sum(1, keepdim=True), expected / expected.sum(1, keepdim=True), atol=1e-12)


@pytest.mark.parametrize("tile", [(9, 9), *product((2,), (1, 2, 3, 5))])
def test_equals_are_taken_in_order_of_position(tile: tuple[int, int]) -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    values, at = top_k(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), bank, 3, tile=tile)
    assert at.tolist() == [[0, 2, 3], [1, 4, 6]]
    assert torch.allclose(values, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.8]]))


def test_equal_votes_go_to_the_smaller_class() -> None:
    bank = torch.tensor([[1.0, 0.0]] * 4)
    labels = torch.tensor([3, 1, 1, 3])
    assert knn_classify(torch.tensor([[1.0, 0.0]]), bank, labels, n_classes=5).tolist() == [[1, 3, 0, 2, 4]]


def test_k_is_clipped_and_no_temperature_overflows() -> None:
    query, bank, labels = normal(5, 3), normal(8, 3, seed=1), torch.arange(8) % 2
    assert torch.equal(knn_votes(query, bank, labels, k=200), knn_votes(query, bank, labels, k=8))
    assert bool(torch.isfinite(knn_votes(query, bank, labels, temperature=1e-5)).all())
    nearest = knn_classify(query, bank, labels, temperature=1e-5, top=1)[:, 0]
    assert torch.equal(nearest, labels[top_k(query, bank, 1)[1][:, 0]])


def test_a_row_is_no_neighbour_of_itself() -> None:
    x = normal(6, 3)
    ids = torch.arange(6)
    values, at = top_k(x, x, 6, query_ids=ids, bank_ids=ids, tile=(2, 4))
    assert bool((at[:, :5] != ids[:, None]).all())
    assert bool((values[:, 5] == -torch.inf).all())
    alone = knn_votes(x[:1], x[:1], ids[:1], query_ids=ids[:1], bank_ids=ids[:1])
    assert alone.tolist() == [[0.0]]


def test_accuracy() -> None:
    centre = 3.0 * normal(4, 6)
    labels = torch.arange(80) % 4
    x = centre[labels] + normal(80, 6, seed=1)
    accuracy = knn_accuracy(x[:20], labels[:20], x[20:], labels[20:], k=10, over_processes=True)
    predicted = knn_classify(x[:20], x[20:], labels[20:], k=10)[:, 0]
    assert accuracy == float((predicted == labels[:20]).double().mean())
    assert accuracy > 0.6


def test_half_precision_and_another_dtype_of_the_bank() -> None:
    query, bank = normal(5, 8), normal(9, 8, seed=1)
    assert torch.equal(top_k(query.half(), bank.half(), 3)[1], top_k(query.half().double(), bank.half(), 3)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"bank_labels": torch.tensor([0, -1, 1])}, "bank_labels must be 0 or more, got -1"),
        ({"bank_labels": torch.tensor([0, 1])}, "bank_labels must be 3 whole numbers"),
        ({"n_classes": 1}, "bank_labels reach 1, but n_classes is 1"),
        ({"query_ids": torch.zeros(2, dtype=torch.int64)}, "must be given together"),
        ({"query": torch.ones(2, 5)}, "rows of one length, got 5 and 4"),
        ({"tile": (0, 1)}, "tile must be two positive numbers"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"query": torch.ones(2, 4), "bank": torch.ones(3, 4), "bank_labels": torch.tensor([0, 1, 1])} | change
    with pytest.raises(ValueError, match=message):
        knn_votes(**arguments)  # type: ignore[arg-type]
