"""Weighted k-nearest-neighbour classification by cosine similarity, at any size of bank.

Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4; the
defaults are the usual ones of self-supervised learning.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polycontrast import distributed
from polycontrast.evaluation.rows import TILE, Tile, one_per_row, prepared, same_width, spans


def top_k(
    query: Tensor,
    bank: Tensor,
    k: int,
    *,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    tile: Tile = TILE,
) -> tuple[Tensor, Tensor]:
    """The k most similar rows of a bank for every query. Scores exist one tile at a time.

    Equal similarities are ordered by position in the bank, so the answer does not depend on the tile.

    Args:
        query: (N, D).
        bank: (M, D).
        k: neighbours; at most M are returned.
        normalize: cosine similarity; otherwise the dot product.
        query_ids: (N,) and
        bank_ids: (M,) whole numbers: a row of the bank with the query's own id is no neighbour of it.
        tile: query rows and bank rows per tile.

    Returns:
        Similarities (N, min(k, M)) in descending order and positions in the bank, int64. Where the ids leave fewer
        rows, the rest has similarity -inf.

    Raises:
        ValueError: shapes that do not fit, rows that are not finite, k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    query, bank = prepared(query, "query", normalize), prepared(bank, "bank", normalize).to(query.device)
    same_width(query, bank, "query and bank")
    if (query_ids is None) != (bank_ids is None):
        raise ValueError("query_ids and bank_ids must be given together")
    own = None
    if query_ids is not None and bank_ids is not None:
        own = one_per_row(query_ids, query, "query_ids"), one_per_row(bank_ids, bank, "bank_ids")
    bank = bank.to(query.dtype)
    k = min(k, len(bank))
    values = query.new_empty((len(query), k))
    positions = torch.empty((len(query), k), dtype=torch.int64, device=query.device)
    for rows in spans(len(query), tile[0]):
        best: tuple[Tensor, Tensor] | None = None
        for columns in spans(len(bank), tile[1]):
            scores = query[rows] @ bank[columns].T
            if own is not None:
                scores.masked_fill_(own[0][rows, None] == own[1][None, columns], -torch.inf)
            found, at = _largest(scores, k)
            at = at + columns.start
            if best is not None:  # earlier columns stand first, so a stable sort prefers them among equals
                found, at = torch.cat([best[0], found], 1), torch.cat([best[1], at], 1)
                found, order = found.sort(dim=1, descending=True, stable=True)
                found, at = found[:, :k], at.gather(1, order[:, :k])
            best = found, at
        assert best is not None
        values[rows], positions[rows] = best
    return values, positions


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of every row, equal ones by position; all of them if there are fewer."""
    if k >= scores.shape[1]:
        return scores.sort(dim=1, descending=True, stable=True)
    values, at = scores.topk(k, 1)
    # topk chooses among equals as it likes: where more entries than k reach the k-th value, choose again.
    unclear = (scores >= values[:, -1:]).sum(1) > k
    at, order = at.sort(1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    at = at.gather(1, order)
    if bool(unclear.any()):
        again, where = scores[unclear].sort(dim=1, descending=True, stable=True)
        values[unclear], at[unclear] = again[:, :k], where[:, :k]
    return values, at


def knn_votes(
    query: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    n_classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    tile: Tile = TILE,
) -> Tensor:
    """Votes of the k nearest neighbours for every class, each with weight ``exp(similarity / temperature)``.

    Args:
        query: (N, D).
        bank: (M, D).
        bank_labels: (M,) classes 0, 1, ...
        n_classes: C. None: the largest label plus one.
        k: neighbours, at most M.
        temperature: of the weights; positive.
        normalize: cosine similarity; otherwise the dot product.
        query_ids: see :func:`top_k`.
        bank_ids: see :func:`top_k`.
        tile: query rows and bank rows per tile.

    Returns:
        (N, C) float64, each row divided by the weight of its nearest neighbour, so that no temperature overflows.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    labels = one_per_row(bank_labels, bank, "bank_labels").to(query.device)
    if int(labels.min()) < 0:
        raise ValueError(f"bank_labels must be 0 or more, got {int(labels.min())}; leave unlabelled rows out")
    n_classes = int(labels.max()) + 1 if n_classes is None else n_classes
    if int(labels.max()) >= n_classes:
        raise ValueError(f"bank_labels reach {int(labels.max())}, but n_classes is {n_classes}")
    similarity, at = top_k(
        query, bank, k, normalize=normalize, query_ids=query_ids, bank_ids=bank_ids, tile=tile
    )  # fmt: skip
    similarity = similarity.double()
    weights = ((similarity - similarity[:, :1]) / temperature).exp().nan_to_num(0.0)  # -inf less -inf: no neighbour
    return weights.new_zeros((len(query), n_classes)).scatter_add_(1, labels[at], weights)


def knn_classify(
    query: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    top: int | None = None,
    n_classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    tile: Tile = TILE,
) -> Tensor:
    """Classes by descending vote, equal votes by the smaller class; arguments as in :func:`knn_votes`.

    Returns:
        (N, top) int64; ``top`` None: all classes. The first column is the prediction.
    """
    votes = knn_votes(
        query, bank, bank_labels, n_classes=n_classes, k=k, temperature=temperature, normalize=normalize,
        query_ids=query_ids, bank_ids=bank_ids, tile=tile,
    )  # fmt: skip
    return votes.argsort(dim=1, descending=True, stable=True)[:, :top]


def knn_accuracy(
    query: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    k: int = 200,
    temperature: float = 0.1,
    normalize: bool = True,
    query_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    over_processes: bool = False,
    tile: Tile = TILE,
) -> float:
    """Share of queries whose class the weighted vote of :func:`knn_classify` names, in [0, 1].

    Args:
        query: (N, D).
        query_labels: (N,) classes 0, 1, ...
        bank: (M, D).
        bank_labels: (M,).
        k: neighbours, at most M.
        temperature: of the weights.
        normalize: cosine similarity; otherwise the dot product.
        query_ids: see :func:`top_k`.
        bank_ids: see :func:`top_k`.
        over_processes: every process has the whole bank and its own, different queries: count them together.
        tile: query rows and bank rows per tile.
    """
    truth = one_per_row(query_labels, query, "query_labels")
    predicted = knn_classify(
        query, bank, bank_labels, top=1, k=k, temperature=temperature, normalize=normalize,
        query_ids=query_ids, bank_ids=bank_ids, tile=tile,
    )[:, 0]  # fmt: skip
    counts = torch.stack([(predicted == truth).sum(), torch.full_like(truth[0], len(truth))])
    right, of = (distributed.sum_over_processes(counts) if over_processes else counts).tolist()
    return float(right / of)
