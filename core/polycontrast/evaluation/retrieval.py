"""Retrieval with any number of relevant items per query, in tiles, with ties that no sorting order can decide.

A tie is a difference of scores within a few roundings. Counted *pessimistically* (the default), items that are not
relevant come first among equals: embeddings that are all the same then score as badly as they should. By
*expectation*, every number is its mean over all orders of the tied items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polycontrast.evaluation.rows import TILE, Tile, one_per_row, prepared, same_width, spans

Ties = Literal["pessimistic", "expected"]
_ROUNDINGS = 8.0


@dataclass(frozen=True)
class Ranks:
    """Where the best relevant item of each query stands."""

    above: Tensor
    """(N,) items that are not relevant and score higher than the best relevant one."""
    tied: Tensor
    """(N,) items that are not relevant and score as high."""
    best: Tensor
    """(N,) relevant items that score as high as the best, at least 1."""
    relevant: Tensor
    """(N,) relevant items, R; 0 where a query has none, and then the rest means nothing."""

    def first(self, ties: Ties) -> Tensor:
        """(N,) float64 rank of the first relevant item, from 1."""
        if ties == "pessimistic":
            return (1 + self.above + self.tied).double()
        return 1 + self.above.double() + self.tied.double() / (self.best.double() + 1)

    def found(self, k: int, ties: Ties) -> Tensor:
        """(N,) float64 probability that a relevant item is among the first k; 0 or 1 unless tied items decide."""
        if ties == "pessimistic":
            return (self.above + self.tied < k).double()
        # Of tied + best items in random order, none of the first m is relevant: C(tied, m) / C(tied + best, m).
        tied, best = self.tied.double(), self.best.double()
        m = (k - self.above.double()).clamp_min(0.0).minimum(tied)
        miss = _log_choose(tied, m) - _log_choose(tied + best, m)
        hit = -torch.expm1(miss)
        hit = torch.where(k - self.above > self.tied, 1.0, hit)
        return torch.where(self.above >= k, 0.0, hit)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


@dataclass(frozen=True)
class _Task:
    """Rows, who is relevant to whom, and who is left out."""

    query: Tensor
    gallery: Tensor
    query_ids: Tensor
    gallery_ids: Tensor
    own: tuple[Tensor, Tensor] | None
    tile: Tile
    width: float
    """Scores this near are equal."""

    def tiles(self) -> Sequence[slice]:
        return list(spans(len(self.gallery), self.tile[1]))

    def scores(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Scores of a tile, -inf where an item is left out, and which items are relevant."""
        scores = self.query[rows] @ self.gallery[columns].T
        relevant = self.query_ids[rows, None] == self.gallery_ids[None, columns]
        if self.own is not None:
            own = self.own[0][rows, None] == self.own[1][None, columns]
            scores.masked_fill_(own, -torch.inf)
            relevant &= ~own
        return scores, relevant


def _task(
    query: Tensor, gallery: Tensor | None, query_ids: Tensor | None, gallery_ids: Tensor | None,
    own: tuple[Tensor, Tensor] | None, normalize: bool, tile: Tile,
) -> _Task:  # fmt: skip
    query = prepared(query, "query", normalize)
    if gallery is None:
        if query_ids is None or gallery_ids is not None or own is not None:
            raise ValueError("without a gallery, give query_ids alone: what shares an id with the query is relevant")
        position = torch.arange(len(query), device=query.device)
        gallery, gallery_ids, own = query, query_ids, (position, position)
    else:
        gallery = prepared(gallery, "gallery", normalize).to(query)
        same_width(query, gallery, "query and gallery")
        if (query_ids is None) != (gallery_ids is None):
            raise ValueError("query_ids and gallery_ids must be given together")
        if query_ids is None or gallery_ids is None:
            if len(query) != len(gallery):
                raise ValueError(
                    f"{len(query)} queries and {len(gallery)} items are no pairs; give query_ids and gallery_ids"
                )
            query_ids = gallery_ids = torch.arange(len(query))
    assert gallery_ids is not None
    if own is not None:
        own = one_per_row(own[0], query, "left_out[0]"), one_per_row(own[1], gallery, "left_out[1]")
    largest = float(query.square().sum(1).max().sqrt() * gallery.square().sum(1).max().sqrt())
    return _Task(
        query, gallery, one_per_row(query_ids, query, "query_ids"), one_per_row(gallery_ids, gallery, "gallery_ids"),
        own, tile, _ROUNDINGS * torch.finfo(query.dtype).eps * largest,
    )  # fmt: skip


def _ranks(task: _Task) -> Ranks:
    n, device = len(task.query), task.query.device
    counts = torch.zeros((4, n), dtype=torch.int64, device=device)
    for rows in spans(n, task.tile[0]):
        best = task.query.new_full((rows.stop - rows.start,), -torch.inf)
        for columns in task.tiles():
            scores, relevant = task.scores(rows, columns)
            best = torch.maximum(best, scores.masked_fill(~relevant, -torch.inf).amax(1))
        for columns in task.tiles():
            scores, relevant = task.scores(rows, columns)
            high = scores > (best + task.width)[:, None]
            near = (scores >= (best - task.width)[:, None]) & ~high & (scores > -torch.inf)
            parts = (high & ~relevant, near & ~relevant, near & relevant, relevant)
            counts[:, rows] += torch.stack([part.sum(1) for part in parts])
    above, tied, at_best, relevant_items = counts
    return Ranks(above, tied, at_best, relevant_items)


def ranks(
    query: Tensor,
    gallery: Tensor | None = None,
    *,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    left_out: tuple[Tensor, Tensor] | None = None,
    normalize: bool = True,
    tile: Tile = TILE,
) -> Ranks:
    """Where the best relevant item of each query stands; arguments as in :func:`retrieval`."""
    return _ranks(_task(query, gallery, query_ids, gallery_ids, left_out, normalize, tile))


def retrieval(
    query: Tensor,
    gallery: Tensor | None = None,
    *,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    left_out: tuple[Tensor, Tensor] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    map_at_r: bool = False,
    ndcg: Sequence[int] = (),
    ties: Ties = "pessimistic",
    normalize: bool = True,
    tile: Tile = TILE,
) -> dict[str, float]:
    """How well queries find their relevant items in a gallery, by cosine similarity. No score matrix is held.

    Args:
        query: (N, D).
        gallery: (M, D). None: the queries search among themselves, never finding themselves.
        query_ids: (N,) and
        gallery_ids: (M,) whole numbers (class, image, sample): an item is relevant to a query with the same id. None:
            row i of the gallery is the one relevant item of query i.
        left_out: ids (N,) and (M,) of another kind, e.g. of the sample or the camera: an item with the query's id is
            left out for that query, neither found nor missed.
        ks: ranks K of R@K.
        map_at_r: also mAP@R: the average precision over the first R ranks, R the number of relevant items (Musgrave
            et al. 2020).
        ndcg: ranks K of nDCG@K with gain 1 and discount 1 / log2(1 + rank).
        ties: ``pessimistic`` or ``expected``, see the module.
        normalize: cosine similarity; otherwise the dot product.
        tile: query rows and gallery rows per tile.

    Returns:
        ``R@K`` in percent (a relevant item is among the first K), ``median_rank`` (rounded down, as VSE++ does) and
        ``mean_rank`` of the first relevant item from 1, ``mAP@R`` and ``nDCG@K`` in [0, 1], and ``queries``, the
        number of queries that have a relevant item; the others do not count.

    Raises:
        ValueError: shapes or ids that do not fit, rows that are not finite, or no query has a relevant item.
    """
    if ties not in ("pessimistic", "expected"):
        raise ValueError(f"ties must be 'pessimistic' or 'expected', got {ties!r}")
    if any(k < 1 for k in (*ks, *ndcg)):
        raise ValueError(f"ranks must be at least 1, got ks={list(ks)} and ndcg={list(ndcg)}")
    task = _task(query, gallery, query_ids, gallery_ids, left_out, normalize, tile)
    at = _ranks(task)
    counted = at.relevant > 0
    if not bool(counted.any()):
        raise ValueError("no query has a relevant item; check query_ids and gallery_ids")
    first = at.first(ties)[counted]
    out = {f"R@{k}": 100.0 * float(at.found(k, ties)[counted].mean()) for k in ks}
    out["median_rank"] = float((first.quantile(0.5) if len(first) < 1 << 24 else first.median()).floor())
    out["mean_rank"] = float(first.mean())
    if map_at_r or ndcg:
        out |= _listed(task, at.relevant, counted, map_at_r, tuple(ndcg), ties)
    out["queries"] = float(counted.sum())
    return out


def _listed(
    task: _Task, n_relevant: Tensor, counted: Tensor, map_at_r: bool, ndcg: tuple[int, ...], ties: Ties
) -> dict[str, float]:
    """mAP@R and nDCG from the head of each query's list, some queries at a time.

    Every rank p gets the expected gain g_p and, with g items that are relevant among the n of its run of equals that
    starts after c items, r of them relevant, the expected precision of a relevant item there (McSherry & Najork 2008):
    ``(r + (p - c - 1) (g - 1) / (n - 1) + 1) / p``. Pessimistically, what is relevant stands last in its run.
    """
    sums: dict[str, Tensor] = {}
    for rows in spans(len(task.query), max(task.tile[0] // 4, 1)):
        if not bool(counted[rows].any()):
            continue
        total = n_relevant[rows]
        length = min(max(int(total.max()) if map_at_r else 0, max(ndcg, default=0)), len(task.gallery))
        gain, before = _gains(task, rows, length, ties)
        place = torch.arange(1, length + 1, device=gain.device, dtype=torch.float64)
        reached = counted[rows]
        if map_at_r:
            precision = gain * (before + 1) / place * (place <= total[:, None])
            value = precision.sum(1) / total.clamp_min(1)
            sums["mAP@R"] = sums.get("mAP@R", 0) + value[reached].sum()
        discount = 1 / torch.log2(1 + place)
        best = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
        for k in ndcg:
            ideal = best[total.clamp(max=min(k, length))]
            value = (gain[:, :k] * discount[:k]).sum(1) / ideal.clamp_min(1e-300)
            name = f"nDCG@{k}"
            sums[name] = sums.get(name, 0) + value[reached].sum()
    return {name: float(value / counted.sum()) for name, value in sums.items()}


def _gains(task: _Task, rows: slice, length: int, ties: Ties) -> tuple[Tensor, Tensor]:
    """Expected gain of each of the first ``length`` ranks, and the relevant items before it; both (n, length) float64.

    The latter is an expectation too, given that the item at the rank is relevant.
    """
    best: tuple[Tensor, Tensor] | None = None
    for columns in task.tiles():
        scores, relevant = task.scores(rows, columns)
        if ties == "pessimistic":
            scores = scores - relevant * task.width
        if best is not None:
            scores, relevant = torch.cat([best[0], scores], 1), torch.cat([best[1], relevant], 1)
        # Which of equal scores is taken does not matter: below, they share what all of them have.
        scores, order = scores.topk(min(length, scores.shape[1]), 1)
        best = scores, relevant.gather(1, order)
    assert best is not None
    scores, hit = best[0], best[1].double()
    if ties == "pessimistic":
        return hit, hit.cumsum(1) - hit
    # Runs of equal scores; the last one may go on behind the head of the list.
    new = torch.ones_like(hit, dtype=torch.bool)
    new[:, 1:] = scores[:, :-1] - scores[:, 1:] > task.width
    run = new.cumsum(1) - 1
    size = torch.zeros_like(hit).scatter_add_(1, run, torch.ones_like(hit))
    good = torch.zeros_like(hit).scatter_add_(1, run, hit)
    last = scores[:, -1:]
    in_all, good_in_all = torch.zeros_like(hit[:, :1]), torch.zeros_like(hit[:, :1])
    for columns in task.tiles():
        tile, relevant = task.scores(rows, columns)
        near = (tile - last).abs() <= task.width
        in_all += near.sum(1, keepdim=True)
        good_in_all += (near & relevant).sum(1, keepdim=True)
    end = run[:, -1:]
    size.scatter_(1, end, torch.maximum(size.gather(1, end), in_all))
    good.scatter_(1, end, torch.maximum(good.gather(1, end), good_in_all))
    started = (size.cumsum(1) - size).gather(1, run)
    good_before = (good.cumsum(1) - good).gather(1, run)
    size, good = size.gather(1, run), good.gather(1, run)
    place = torch.arange(hit.shape[1], device=hit.device, dtype=torch.float64)
    inside = (place - started) * (good - 1).clamp_min(0.0) / (size - 1).clamp_min(1.0)
    gain = (good / size.clamp_min(1.0)) * (scores > -torch.inf)
    return gain, good_before + inside


def caption_retrieval(
    images: Tensor,
    captions: Tensor,
    *,
    captions_per_image: int = 5,
    folds: int = 1,
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    normalize: bool = True,
    tile: Tile = TILE,
) -> dict[str, float]:
    """The VSE++ protocol: images with several captions each, both directions, the rank of the best caption counting.

    Args:
        images: (N, D), each image once.
        captions: (N * captions_per_image, D); those of image i stand together, in order of image.
        captions_per_image: usually 5.
        folds: the images are cut into so many equal parts, in order, and the numbers averaged. 5 on the 5000 images of
            COCO's test part is the "1K" protocol, 1 the "5K".
        ks: ranks K of R@K.
        ties: see :func:`retrieval`.
        normalize: cosine similarity; otherwise the dot product.
        tile: query rows and gallery rows per tile.

    Returns:
        ``i2t_R@K`` and ``t2i_R@K`` in percent, ``..._median_rank``, ``..._mean_rank``, and ``rsum``, the sum of all
        R@K.
    """
    if captions_per_image < 1 or len(captions) != captions_per_image * len(images):
        raise ValueError(
            f"{len(images)} images with {captions_per_image} captions each need {captions_per_image * len(images)} "
            f"captions, got {len(captions)}; give every image once"
        )
    if folds < 1 or len(images) % folds:
        raise ValueError(f"{len(images)} images cannot be cut into {folds} equal folds")
    size = len(images) // folds
    image_ids = torch.arange(size)
    caption_ids = image_ids.repeat_interleave(captions_per_image)
    sums: dict[str, float] = {}
    for fold in range(folds):
        seen = images[fold * size : (fold + 1) * size]
        told = captions[fold * size * captions_per_image : (fold + 1) * size * captions_per_image]
        for name, query, gallery, ids in (
            ("i2t", seen, told, (image_ids, caption_ids)), ("t2i", told, seen, (caption_ids, image_ids))
        ):  # fmt: skip
            numbers = retrieval(
                query, gallery, query_ids=ids[0], gallery_ids=ids[1], ks=ks, ties=ties, normalize=normalize, tile=tile
            )
            del numbers["queries"]
            for key, value in numbers.items():
                sums[f"{name}_{key}"] = sums.get(f"{name}_{key}", 0.0) + value / folds
    sums["rsum"] = sum(value for key, value in sums.items() if "_R@" in key)
    return sums


def class_embeddings(prompts: Tensor | Sequence[Tensor]) -> Tensor:
    """One embedding per class: the normalised mean of its normalised prompt embeddings.

    Args:
        prompts: (C, P, D), or a sequence of C tensors (P_c, D) where classes have different numbers of prompts.

    Returns:
        (C, D).
    """
    means = [prepared(p, f"prompts[{c}]", True).mean(0) for c, p in enumerate(prompts)]
    if not means:
        raise ValueError("prompts must hold at least one class")
    return prepared(torch.stack(means), "prompts", True)


def zero_shot(
    x: Tensor,
    labels: Tensor,
    classes: Tensor,
    *,
    ks: Sequence[int] = (1, 5),
    ties: Ties = "pessimistic",
    tile: Tile = TILE,
) -> dict[str, float]:
    """Classification by the nearest class embedding, by cosine similarity.

    Args:
        x: (N, D).
        labels: (N,) classes 0, 1, ...
        classes: (C, D) from :func:`class_embeddings`.
        ks: ``top1`` counts the true class among the first one, ...
        ties: see :func:`retrieval`.
        tile: rows and classes per tile.

    Returns:
        ``topK`` in [0, 1]; a K above the number of classes is left out.
    """
    labels = one_per_row(labels, x, "labels")
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise ValueError(f"labels must lie in 0..{len(classes) - 1}, got {int(labels.min())} to {int(labels.max())}")
    at = ranks(x, classes, query_ids=labels, gallery_ids=torch.arange(len(classes)), tile=tile)
    return {f"top{k}": float(at.found(k, ties).mean()) for k in ks if k <= len(classes)}


__all__ = ["Ranks", "Ties", "caption_retrieval", "class_embeddings", "ranks", "retrieval", "zero_shot"]
