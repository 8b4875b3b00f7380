"""InfoNCE: one-way, symmetric (CLIP), with hard negatives, further terms in the denominator, and several positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polycontrast.losses import ring, tiles
from polycontrast.losses.block import Block, Sums, diagnostics
from polycontrast.losses.common import (
    Distributed,
    LogitsConfig,
    LogitsDtype,
    Loss,
    LossOutput,
    Mode,
    Peers,
    Reduction,
    Tile,
    check_choice,
    check_finite_rows,
    check_rows,
    check_vector,
    finish,
    full_precision,
    norm_floor,
    poison,
    reduce_anchors,
    resolve_scale,
    unit_rows,
    warn_once,
)
from polycontrast.losses.filters import Filter, Role
from polycontrast.losses.scores import Score, transform
from polycontrast.losses.targets import Backwards, ByLabel, Dense, Pairs, Targets

Layout = Literal["blocked", "interleaved"]
Backend = Literal["gather", "ring"]
Direction = Literal["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc", "positive_to_positive"]
_DIRECTIONS = ("query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc", "positive_to_positive")
_DOCS: tuple[Role, ...] = ("positive", "negative")


@full_precision
def infonce(
    x: Tensor,
    y: Tensor,
    *,
    negatives: Tensor | None = None,
    layout: Layout = "blocked",
    positives: Tensor | None = None,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    symmetric: bool = True,
    directions: Sequence[str] | None = None,
    partition: Literal["joint", "per_direction"] = "joint",
    direction_weights: tuple[float, float] = (0.5, 0.5),
    hardness: float = 0.0,
    hardness_on: Literal["none", "in_batch", "hard", "all"] = "none",
    filters: Sequence[Filter] = (),
    log_weights: Tensor | None = None,
    score: Score = "cosine",
    weight: Tensor | None = None,
    temperature: float | Tensor | None = 0.07,
    scale: float | Tensor | nn.Module | None = None,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
    backend: Backend = "gather",
) -> LossOutput:
    """``l_i = -S_i,p(i) + log sum_j exp S_ij`` with ``S = scale <u, v>``, averaged over anchors and directions.

    Args:
        x: ``(N, d)`` anchors (queries).
        y: ``(M, d)`` candidates (docs); row i of the first N is the positive of anchor i (``blocked``), or row
            ``i (h + 1)`` (``interleaved``, h hard negatives after each positive). Or ``(N, K, d)``: each anchor has K
            candidates of its own and no others, the first of which (or that of ``positives``) is the positive; one way.
        negatives: ``(K, d)`` further candidates for every anchor (K = h N: block by block the hard negatives of
            anchors 0 to N-1), or ``(N, h, d)`` private ones that only their own anchor sees.
        layout: how ``y`` holds its hard negatives.
        positives: ``(N,)`` number of each anchor's positive in ``y``; or ``(P, 2)`` pairs of anchor and candidate; or a
            boolean or real ``(N, M)`` mask. With several positives their logits are averaged (``supcon``'s ``out``).
            In several processes numbers and pairs mean rows of this process; a mask has the rows of this process and
            the candidates of all, in order of rank, ``(N, M of all)``.
        labels: ``(N,)`` classes of the pairs, or one vector for each side: all candidates of the class are positives.
        symmetric: also every candidate's positive among the anchors.
        directions: instead of ``symmetric``: query_to_doc and any of doc_to_query, query_to_query, doc_to_doc,
            positive_to_positive. Own docs and self pairs are left out of the last three.
        partition: ``joint``, one denominator over all directions; ``per_direction``, the mean of one loss for each of
            query_to_doc and doc_to_query.
        direction_weights: of x to y and y to x.
        hardness: ``hardness * stopgrad(cosine)`` is added to the scaled logits of negatives; not divided by
            temperature.
        hardness_on: which negatives: ``in_batch`` (all but the anchor's own hard ones), ``hard`` (those), ``all``.
        filters: what is no negative, see :mod:`polycontrast.losses.filters`.
        log_weights: ``(M,)`` constants added to the logits of the candidates, e.g. minus the log of their frequency.
        score: ``cosine``, ``dot`` (rows as they are), ``bilinear``, ``l2`` (minus the squared distance), or a function
            that transforms rows and candidates; ``normalize`` comes first.
        weight: ``(d, d)`` of the bilinear score.
        temperature: ``1 / scale``.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        normalize: rows of unit length first.
        weights: ``(N,)`` weights of the anchors (of the pairs, in both directions).
        reduction: ``mean``, ``sum``, ``none`` (``(2, N)`` for two directions, else ``(N,)``).
        return_dict: also the terms and diagnostics.
        check_finite: raise at the first row with NaN or infinity.
        mode: ``auto``, ``plain``, ``stored``, ``tiled``.
        tile: rows and columns of a tile.
        logits_dtype: ``"bfloat16"`` or ``"float16"`` multiplies rows in half precision; all else stays in float32.
        distributed: ``"auto"`` takes candidates from all processes.
        backend: ``gather``: every process holds all candidates, N d numbers. ``ring``: they travel round the processes
            and none holds more than two parts, for one more matrix product; pairs only.

    Raises:
        ValueError: shapes or options that do not fit together.
    """
    check_choice("backend", backend, ("gather", "ring"))
    check_choice("layout", layout, ("blocked", "interleaved"))
    check_choice("hardness_on", hardness_on, ("none", "in_batch", "hard", "all"))
    check_rows("x", x)
    check_rows("y", y, dims=(2, 3), width=None if score == "bilinear" or not isinstance(score, str) else x.shape[1])
    if check_finite:
        check_finite_rows(x=x, y=y, negatives=negatives)
    if weights is not None:
        check_vector("weights", weights, len(x))
    two_sided = symmetric if directions is None else False
    names: list[str] = ["query_to_doc", "doc_to_query"] if two_sided else list(directions or ["query_to_doc"])
    for name in names:
        check_choice("directions", name, _DIRECTIONS)
    if directions is not None and partition == "per_direction" and set(names) - {"query_to_doc", "doc_to_query"}:
        raise ValueError(
            "partition='per_direction' takes query_to_doc and doc_to_query only: the others have no positive"
        )
    if "query_to_doc" not in names:
        raise ValueError(f"directions={names} lacks query_to_doc, which holds the positive")
    separate = two_sided or (partition == "per_direction" and "doc_to_query" in names)

    unit = normalize and score != "dot"
    twice = y.ndim == 3 or tiles.writes_down(mode, len(x), len(y))
    peers = Peers(distributed)
    u = unit_rows(x, unit, norm_floor(x.dtype), differentiable_twice=twice)
    v = unit_rows(y, unit, norm_floor(y.dtype), differentiable_twice=twice)
    extra = None if negatives is None else unit_rows(negatives, unit, differentiable_twice=twice)
    s = resolve_scale(temperature, scale, u)
    how: dict[str, Any] = {"mode": mode, "tile": tile, "logits_dtype": logits_dtype}
    if backend == "ring" or y.ndim == 3:
        further = {"negatives": negatives, "labels": labels, "directions": directions, "log_weights": log_weights,
                   "hardness": hardness or None, "positives": positives if y.ndim == 2 else None,
                   "filters": filters or None if y.ndim == 3 else None}  # fmt: skip
        found = [name for name, value in further.items() if value is not None]
        if y.ndim == 2:
            _check_pairs_only(found, score, len(x), len(y))
        else:
            _check_own_only(found, two_sided, positives, y, len(x))
    several = labels is not None or (positives is not None and (positives.ndim == 2 or positives.is_floating_point()))
    if y.ndim == 3:
        values, sums = _of_their_own(u, v, positives, s, score, weight)
        used, own = [None], None
    elif backend == "ring" and peers.size > 1:
        a, b = transform(score, u, v, weight)
        masks = tuple(f.mask(("query",), ("positive",), peers) for f in filters)
        values, sums = ring.paired(a, b, s, masks, two_sided=two_sided, observe=return_dict, how=how)
        used, own = [None] * len(values), None
    else:
        cast = _Cast(u, v, extra, positives if not several else None, layout, len(x) == len(y) or several, peers)
        if cast.alone:
            warn_once("a batch of one pair has no negatives: its InfoNCE loss is 0 and nothing is learnt from it")
        even = names == ["query_to_doc"] and cast.private is None and weights is None and reduction != "none"
        run = _Run(
            cast,
            s,
            score,
            weight,
            tuple(filters),
            hardness if hardness_on != "none" else 0.0,
            hardness_on,
            log_weights,
            return_dict,
            how,
            even,
            peers,
        )
        if several:
            targets = _targets(positives, labels, cast, peers)
            values, used, sums, own = run.several(targets, two_sided)
        else:
            values, sums, own = run.paired(names, separate)
            used = [None] * len(values)
    poisoned = (u, v) if filters or several else ()
    shares = [1.0] if len(values) == 1 else list(direction_weights)
    values = [poison(value, *poisoned) for value in values]
    parts = [
        reduce_anchors(value, reduction, weights=weights, used=mask, distributed=distributed)
        for value, mask in zip(values, used, strict=True)
    ]
    if reduction == "none":
        loss = parts[0] if len(parts) == 1 else torch.stack(parts)
    else:
        loss = sum((w * part for w, part in zip(shares, parts, strict=True)), torch.zeros_like(parts[0]))
    if not return_dict:
        return loss
    terms = {} if len(parts) == 1 else {"x_to_y": parts[0], "y_to_x": parts[1]}
    facts = diagnostics(sums, s, positive=own, used=used[0])
    return finish(loss, True, rows=(x, y), scale=s, terms=terms, diagnostics=facts)


class _Cast:
    """Who is who: the anchors of this process, the candidates of all, and where the positives and own negatives are."""

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        extra: Tensor | None,
        index: Tensor | None,
        layout: Layout,
        whole: bool,
        peers: Peers,
    ) -> None:
        n = len(u)
        here = torch.arange(n, device=u.device)
        self.query, self.private = u, None
        hard = 0
        if index is None and not whole:  # y holds hard negatives
            if n == 0 or len(v) % n:
                raise ValueError(
                    f"y has {len(v)} rows for {n} anchors: give N, (h + 1) N rows, or positives=(N,) indices"
                )
            hard = len(v) // n - 1
        hard = peers.most(hard, u) if index is None else 0
        self.order: Tensor | None = None
        free: Tensor | None = None
        if hard and layout == "interleaved":
            groups = v.view(n, hard + 1, v.shape[1])
            v, free = groups[:, 0], groups[:, 1:].flatten(0, 1)
        elif hard:
            v, free = v[:n], v[n:]
        if extra is not None:
            if extra.ndim == 3:
                if extra.shape[0] != n:
                    raise ValueError(
                        f"private negatives must have shape (N, h, d) with N={n}, got {tuple(extra.shape)}"
                    )
                self.private = extra
            else:
                check_rows("negatives", extra, width=v.shape[1])
                free = extra if free is None else torch.cat([free, extra])
        self.docs = v
        self.extra = free
        first = peers.offset(v)
        docs = peers.rows(v)
        total = len(docs)
        if index is not None:
            if (
                index.shape != (n,)
                or index.is_floating_point()
                or (n and not 0 <= int(index.min()) <= int(index.max()) < len(v))
            ):
                raise ValueError(
                    f"positives must be {n} whole numbers from 0 to {len(v) - 1}, got shape {tuple(index.shape)}"
                )
            self.positive = index.long() + first
        else:
            self.positive = here + first
        self.own: tuple[Tensor, ...] = ()
        if free is not None:
            start = total + peers.offset(free)
            docs = torch.cat([docs, peers.rows(free)])
            if hard and layout == "interleaved":
                self.own = tuple(start + here * hard + k for k in range(hard))
            elif n and len(free) % n == 0:
                self.own = tuple(start + here + k * n for k in range(len(free) // n))
        self.all_docs = docs
        self.n_docs = total
        self.first = first
        self.alone = len(docs) == 1 and self.private is None


class _Run:
    """One evaluation of the loss: its blocks of logits, by direction."""

    def __init__(
        self,
        cast: _Cast,
        s: Tensor,
        score: Score,
        weight: Tensor | None,
        filters: tuple[Filter, ...],
        hardness: float,
        hardness_on: str,
        log_weights: Tensor | None,
        observe: bool,
        how: dict[str, Any],
        even: bool,
        peers: Peers,
    ) -> None:
        self.cast, self.s, self.score, self.weight, self.filters = cast, s, score, weight, filters
        self.hardness, self.hardness_on, self.observe, self.peers = hardness, hardness_on, observe, peers
        self.how, self.even = how, even
        self.log_weights = None if log_weights is None else self._laid_out(log_weights)

    def _laid_out(self, log_weights: Tensor) -> Tensor:
        """Constants of the candidates in their order over processes."""
        n = len(self.cast.docs)
        rest = 0 if self.cast.extra is None else len(self.cast.extra)
        check_vector("log_weights", log_weights, n + rest)
        parts = [self.peers.facts(log_weights[:n])]
        if self.cast.extra is not None:
            parts.append(self.peers.facts(log_weights[n:]))
        return torch.cat(parts).to(self.s.dtype)

    def _block(self, a: Tensor, b: Tensor, block: Block, swap: bool = False) -> Sums:
        return tiles.evaluate(*self._scored(a, b, swap), self.s, block, **self.how)

    def _scored(self, a: Tensor, b: Tensor, swap: bool) -> tuple[Tensor, Tensor]:
        """Rows a and candidates b as they are multiplied; ``swap`` where a are docs, as scores tell sides apart."""
        if not swap:
            return transform(self.score, a, b, self.weight)
        b, a = transform(self.score, b, a, self.weight)
        return a, b

    def _masks(self, rows: Role, columns: tuple[Role, ...]) -> tuple[Any, ...]:
        return tuple(f.mask((rows,), columns, self.peers) for f in self.filters)

    @property
    def _docs(self) -> tuple[Role, ...]:
        return _DOCS[:1] if self.cast.extra is None else _DOCS

    def paired(self, names: list[str], separate: bool) -> tuple[list[Tensor], Sums, Tensor | None]:
        """Losses of anchors with one positive each, for one or two directions."""
        cast, peers = self.cast, self.peers
        n, device = len(cast.query), cast.query.device
        here = torch.arange(n, device=device)
        backwards = "doc_to_query" in names
        masks = self._masks("query", self._docs)
        mutual = all(mask.mutual for mask in masks) and not self.hardness
        if self.hardness and self.hardness_on == "hard" and not cast.own and cast.private is None:
            raise ValueError("hardness_on='hard' needs hard negatives: h N further rows")
        sums = self._block(
            cast.query,
            cast.all_docs,
            Block(
                positive=cast.positive,
                masks=masks,
                log_weights=self.log_weights,
                hardness=self.hardness,
                own=() if self.hardness_on == "all" else cast.own,
                only_own=self.hardness_on == "hard",
                columns=backwards and mutual,
                observe=self.observe,
                even=self.even,
            ),
        )
        positive = sums.positive
        if self.log_weights is not None:
            positive = positive + self.log_weights[cast.positive]
        rows = [sums.rows]
        if cast.private is not None:
            rows.append(self._private())
        if backwards:
            rows.append(self._backwards(sums if mutual else None))
        own_query = peers.offset(cast.query) + here
        if "query_to_query" in names:
            block = Block(dropped=(own_query,), masks=self._masks("query", ("query",)))
            rows.append(self._block(cast.query, peers.rows(cast.query), block).rows)
        if "doc_to_doc" in names:
            block = Block(dropped=(cast.positive, *cast.own), masks=self._masks("positive", self._docs))
            rows.append(self._block(self._positives(), cast.all_docs, block).rows)
        if "positive_to_positive" in names:
            block = Block(dropped=(cast.positive,), masks=self._masks("positive", ("positive",)))
            rows.append(self._block(self._positives(), cast.all_docs[: cast.n_docs], block).rows)
        if separate:
            back = rows.pop(2 if cast.private is not None else 1)
            value = positive if self.log_weights is None else sums.positive
            return [_merge(rows) - positive, back - (value if not mutual else positive)], sums, None
        return [_merge(rows) - positive], sums, None

    def _positives(self) -> Tensor:
        """Each anchor's positive, as a row of this process."""
        local = self.cast.positive - self.cast.first
        paired = len(self.cast.docs) == len(self.cast.query) and bool(
            (local == torch.arange(len(local), device=local.device)).all()
        )
        return self.cast.docs if paired else self.cast.docs[local]

    def _backwards(self, sums: Sums | None) -> Tensor:
        """Log-sum-exp over all anchors for the positive of each anchor."""
        cast, peers = self.cast, self.peers
        if sums is not None:  # one-sided: each process adds its anchors to the columns of all candidates
            return peers.logsumexp(sums.columns[: cast.n_docs])[cast.positive]
        own = torch.arange(len(cast.query), device=cast.query.device) + peers.offset(cast.query)
        masks = self._masks("positive", ("query",))
        hard = self.hardness if self.hardness_on != "hard" else 0.0
        block = Block(positive=own, masks=masks, hardness=hard)
        return self._block(self._positives(), peers.rows(cast.query), block, swap=True).rows

    def _private(self) -> Tensor:
        """Log-sum-exp over the candidates that only their own anchor sees."""
        cast = self.cast
        assert cast.private is not None
        cosines = _private_scores(cast.query, cast.private, self.score, self.weight)
        logits = cosines * self.s
        if self.hardness and self.hardness_on in ("all", "hard"):
            logits = logits + self.hardness * cosines.detach()
        return torch.logsumexp(logits, 1)

    def several(self, targets: tuple[Targets, Targets], two_sided: bool) -> tuple[Any, ...]:
        """Losses of anchors with any number of positives."""
        cast, peers = self.cast, self.peers
        if cast.private is not None or self.hardness:
            raise ValueError(
                "several positives do not go with private negatives or hardness: use one positive per anchor"
            )
        forward, backward = targets
        masks = self._masks("query", self._docs)
        one_sided = two_sided and all(mask.mutual for mask in masks)
        sums = self._block(
            cast.query,
            cast.all_docs,
            Block(masks=masks, log_weights=self.log_weights, columns=one_sided, observe=self.observe),
        )
        docs = cast.all_docs[: cast.n_docs]
        first, used, own = self._agreement(forward, cast.query, docs, sums.rows)
        extra = self.log_weights
        if extra is not None:  # a candidate's constant is part of its logit, also where it is a positive
            mean = forward.dot(torch.ones_like(first).unsqueeze(1), extra[: cast.n_docs].unsqueeze(1))
            first = first - torch.where(used, mean / forward.mass().clamp_min(1e-12), torch.zeros_like(mean))
        if not two_sided:
            return [first], [used], sums, own
        if isinstance(backward, Backwards) and self.score not in ("cosine", "dot", "bilinear"):
            raise ValueError(
                "a mask of positives over several processes goes both ways with score cosine, dot or bilinear only: "
                "give labels=, or symmetric=False"
            )
        queries = peers.rows(cast.query) if isinstance(backward, ByLabel) or not one_sided else cast.query
        if one_sided:
            mine = slice(cast.first, cast.first + len(cast.docs))
            lse = peers.logsumexp(sums.columns[: cast.n_docs])[mine]
            lse = lse if extra is None else lse - extra[mine]
        else:
            lse = self._block(cast.docs, queries, Block(masks=self._masks("positive", ("query",))), swap=True).rows
        known = queries if isinstance(backward, ByLabel) else cast.query
        second, used_back, _ = self._agreement(backward, cast.docs, known, lse, swap=True)
        return [first, second], [used, used_back], sums, own

    def _agreement(
        self, targets: Targets, a: Tensor, b: Tensor, lse: Tensor, swap: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``lse - mean over positives of S``, which anchors have a positive, and that mean."""
        a, b = self._scored(a, b, swap)
        mass = targets.mass().to(a.dtype)
        used = mass > 0
        own = self.s * targets.dot(a, b) / torch.where(used, mass, torch.ones_like(mass))
        return torch.where(used, lse, torch.zeros_like(lse)) - own, used, own


def _merge(rows: list[Tensor]) -> Tensor:
    """One denominator over several sets of candidates."""
    if len(rows) == 1:
        return rows[0]
    total = rows[0]
    for row in rows[1:]:  # -inf where a set is empty, which must pass zero gradient
        empty = row == -torch.inf
        total = torch.where(empty, total, torch.logaddexp(total, row.masked_fill(empty, 0.0)))
    return total


def _targets(
    positives: Tensor | None, labels: Tensor | tuple[Tensor, Tensor] | None, cast: _Cast, peers: Peers
) -> tuple[Targets, Targets]:
    """Weights over candidates for anchors, and over anchors for candidates."""
    n, m = len(cast.query), len(cast.docs)
    if labels is not None:
        left, right = labels if isinstance(labels, tuple) else (labels, labels)
        check_vector("labels of x", left, n)
        check_vector("labels of y", right, m)
        return ByLabel(left, peers.facts(right)), ByLabel(right, peers.facts(left))
    assert positives is not None
    pairs = positives.ndim == 2 and positives.shape[1] == 2 and positives.dtype == torch.int64
    if pairs and positives.shape != (n, cast.n_docs):
        i, j = positives.T
        if len(i) and not (0 <= int(i.min()) <= int(i.max()) < n and 0 <= int(j.min()) <= int(j.max()) < m):
            raise ValueError(
                f"pairs of positives must number anchors below {n} and candidates below {m} of this process; "
                "give a mask (N, M of all) or labels= for positives of other processes"
            )
        return Pairs(i, j + cast.first, n), Pairs(j, i, m)
    if positives.shape != (n, cast.n_docs):
        where = "" if peers.size == 1 else ", candidates of all processes in order of rank"
        raise ValueError(
            f"positives must be (N,), (P, 2) or a mask (N, M) = ({n}, {cast.n_docs}){where}, "
            f"got {tuple(positives.shape)}"
        )
    if peers.size == 1:
        return Dense(positives), Dense(positives.T)
    return Dense(positives), Backwards(positives, slice(cast.first, cast.first + m), peers)


def _private_scores(query: Tensor, private: Tensor, score: Score, weight: Tensor | None) -> Tensor:
    """``(n, h)`` scores of each anchor with the candidates that only it sees."""
    n, h, _ = private.shape
    a, b = transform(score, query, private.flatten(0, 1), weight)
    return torch.einsum("nd,nhd->nh", a, b.view(n, h, b.shape[1]))


def _of_their_own(
    u: Tensor, v: Tensor, positives: Tensor | None, s: Tensor, score: Score, weight: Tensor | None
) -> tuple[list[Tensor], Sums]:
    """InfoNCE of anchors with candidates of their own, ``(n, K, d)``; no anchor sees those of another."""
    logits = s * _private_scores(u, v, score, weight)
    n, k = logits.shape
    at = torch.zeros(n, 1, dtype=torch.int64, device=u.device) if positives is None else positives.long().unsqueeze(1)
    positive, rows = logits.gather(1, at).squeeze(1), torch.logsumexp(logits, 1)
    seen = logits.detach()
    best = seen.scatter(1, at, -torch.inf).amax(1)
    total, number = seen.sum(1) - positive.detach(), torch.full_like(best, k - 1)
    return [rows - positive], Sums(rows, rows[:0], positive, best, positive.detach(), total, number)


def _check_own_only(further: list[str], two_sided: bool, positives: Tensor | None, y: Tensor, n: int) -> None:
    """Raise a one-line ValueError unless candidates of their own stand alone."""
    if two_sided:
        raise ValueError("candidates of their own, y of shape (N, K, d), go one way: symmetric=False")
    if further:
        raise ValueError(f"candidates of their own, y of shape (N, K, d), go without {', '.join(further)}")
    if len(y) != n or y.shape[1] == 0:
        raise ValueError(f"candidates of their own must have shape (N, K, d) with N={n}, got {tuple(y.shape)}")
    if positives is not None:
        check_vector("positives", positives, n)
        if positives.is_floating_point() or (n and not 0 <= int(positives.min()) <= int(positives.max()) < y.shape[1]):
            raise ValueError(f"positives must be whole numbers from 0 to {y.shape[1] - 1}, one per row")


def _check_pairs_only(further: list[str], score: Score, n: int, m: int) -> None:
    """Raise a one-line ValueError unless there are pairs alone: only these travel round the processes."""
    if further:
        raise ValueError(f"backend='ring' is for pairs alone, without {', '.join(further)}; use backend='gather'")
    if n != m:
        raise ValueError(f"backend='ring' is for pairs alone, x and y have {n} and {m} rows; use backend='gather'")
    if score not in ("cosine", "dot", "bilinear"):
        raise ValueError("backend='ring' goes with score cosine, dot or bilinear; use backend='gather'")


@dataclass(frozen=True)
class InfoNCEConfig(LogitsConfig):
    """Options of :func:`infonce`."""

    temperature: float = 0.07
    symmetric: bool = True
    layout: Layout = "blocked"
    directions: tuple[str, ...] | None = None
    partition: Literal["joint", "per_direction"] = "joint"
    direction_weights: tuple[float, float] = (0.5, 0.5)
    hardness: float = 0.0
    hardness_on: Literal["none", "in_batch", "hard", "all"] = "none"
    score: str = "cosine"
    backend: Backend = "gather"


class InfoNCE(Loss):
    """:func:`infonce` as a module: ``InfoNCE(temperature=0.1)(x, y)``."""

    name: ClassVar[str] = "infonce"
    config_class: ClassVar[type[LogitsConfig]] = InfoNCEConfig
    function = staticmethod(infonce)
