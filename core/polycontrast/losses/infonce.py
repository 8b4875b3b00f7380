"""InfoNCE: one-way, symmetric (CLIP), with hard negatives, further terms in the denominator, and several positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polycontrast.losses import tiles
from polycontrast.losses.block import Block, Sums, diagnostics
from polycontrast.losses.common import (
    Distributed,
    Loss,
    LossConfig,
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
from polycontrast.losses.targets import ByLabel, Dense, Pairs, Targets

Layout = Literal["blocked", "interleaved"]
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
    distributed: Distributed = "auto",
) -> LossOutput:
    """``l_i = -S_i,p(i) + log sum_j exp S_ij`` with ``S = scale <u, v>``, averaged over anchors and directions.

    Args:
        x: ``(N, d)`` anchors (queries).
        y: ``(M, d)`` candidates (docs); row i of the first N is the positive of anchor i (``blocked``), or row
            ``i (h + 1)`` (``interleaved``, h hard negatives after each positive).
        negatives: ``(K, d)`` further candidates for every anchor (K = h N: block by block the hard negatives of
            anchors 0 to N-1), or ``(N, h, d)`` private ones that only their own anchor sees.
        layout: how ``y`` holds its hard negatives.
        positives: ``(N,)`` number of each anchor's positive in ``y``; or ``(P, 2)`` pairs of anchor and candidate; or a
            boolean or real ``(N, M)`` mask. With several positives their logits are averaged (``supcon``'s ``out``).
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
        distributed: ``"auto"`` takes candidates from all processes.

    Raises:
        ValueError: shapes or options that do not fit together.
    """
    check_choice("layout", layout, ("blocked", "interleaved"))
    check_choice("hardness_on", hardness_on, ("none", "in_batch", "hard", "all"))
    check_rows("x", x)
    check_rows("y", y, width=None if score == "bilinear" or not isinstance(score, str) else x.shape[1])
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
    twice = tiles.writes_down(mode, len(x), len(y))
    peers = Peers(distributed)
    u = unit_rows(x, unit, norm_floor(x.dtype), differentiable_twice=twice)
    v = unit_rows(y, unit, norm_floor(y.dtype), differentiable_twice=twice)
    extra = None if negatives is None else unit_rows(negatives, unit, differentiable_twice=twice)
    s = resolve_scale(temperature, scale, u)
    several = labels is not None or (positives is not None and (positives.ndim == 2 or positives.is_floating_point()))
    cast = _Cast(u, v, extra, positives if not several else None, layout, len(x) == len(y) or several, peers)
    if cast.alone:
        warn_once("a batch of one pair has no negatives: its InfoNCE loss is 0 and nothing is learnt from it")
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
        mode,
        tile,
        peers,
    )
    poisoned = (u, v) if filters or several else ()
    if several:
        targets = _targets(positives, labels, len(x), len(y), peers)
        values, used, sums, own = run.several(targets, two_sided)
    else:
        values, sums, own = run.paired(names, separate)
        used = [None] * len(values)
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
        mode: Mode,
        tile: Tile,
        peers: Peers,
    ) -> None:
        self.cast, self.s, self.score, self.weight, self.filters = cast, s, score, weight, filters
        self.hardness, self.hardness_on, self.observe, self.peers = hardness, hardness_on, observe, peers
        self.how: dict[str, Any] = {"mode": mode, "tile": tile}
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
        """Scores of rows a and candidates b; ``swap`` where a are docs, for scores that tell the sides apart."""
        if swap:
            b, a = transform(self.score, b, a, self.weight)
        else:
            a, b = transform(self.score, a, b, self.weight)
        return tiles.evaluate(a, b, self.s, block, **self.how)

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
        n, h, _ = cast.private.shape
        a, b = transform(self.score, cast.query, cast.private.flatten(0, 1), self.weight)
        cosines = torch.einsum("nd,nhd->nh", a, b.view(n, h, b.shape[1]))
        logits = cosines * self.s
        if self.hardness and self.hardness_on in ("all", "hard"):
            logits = logits + self.hardness * cosines.detach()
        return torch.logsumexp(logits, 1)

    def several(self, targets: tuple[Targets, Targets | None], two_sided: bool) -> tuple[Any, ...]:
        """Losses of anchors with any number of positives."""
        cast, peers = self.cast, self.peers
        if cast.private is not None or self.hardness:
            raise ValueError(
                "several positives do not go with private negatives or hardness: use one positive per anchor"
            )
        forward, backward = targets
        masks = self._masks("query", self._docs)
        columns = two_sided and peers.size == 1 and all(mask.mutual for mask in masks)
        sums = self._block(
            cast.query,
            cast.all_docs,
            Block(masks=masks, log_weights=self.log_weights, columns=columns, observe=self.observe),
        )
        first, used, own = self._agreement(forward, cast.query, cast.all_docs[: cast.n_docs], sums.rows)
        if not two_sided:
            return [first], [used], sums, own
        if backward is None:
            raise ValueError("a mask of positives over several processes goes one way: symmetric=False")
        queries = peers.rows(cast.query)
        if columns:
            lse = sums.columns[: cast.n_docs]
        else:
            lse = self._block(cast.docs, queries, Block(masks=self._masks("positive", ("query",))), swap=True).rows
        second, used_back, _ = self._agreement(backward, cast.docs, queries, lse)
        return [first, second], [used, used_back], sums, own

    def _agreement(self, targets: Targets, a: Tensor, b: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``lse - mean over positives of S``, which anchors have a positive, and that mean."""
        a, b = transform(self.score, a, b, self.weight)
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
    positives: Tensor | None, labels: Tensor | tuple[Tensor, Tensor] | None, n: int, m: int, peers: Peers
) -> tuple[Targets, Targets | None]:
    """Weights over candidates for anchors, and over anchors for candidates."""
    if labels is not None:
        left, right = labels if isinstance(labels, tuple) else (labels, labels)
        check_vector("labels of x", left, n)
        check_vector("labels of y", right, m)
        return ByLabel(left, peers.facts(right)), ByLabel(right, peers.facts(left))
    assert positives is not None
    if (
        positives.ndim == 2
        and positives.shape[1] == 2
        and positives.dtype == torch.int64
        and (n, m) != tuple(positives.shape)
    ):
        if peers.size > 1:
            raise ValueError(
                "pairs of positives number the candidates of one process: give labels= in several processes"
            )
        i, j = positives.T
        return Pairs(i, j, n), Pairs(j, i, m)
    if positives.ndim != 2 or positives.shape[0] != n or (peers.size == 1 and positives.shape[1] != m):
        raise ValueError(f"positives must be (N,), (P, 2) or a mask (N, M) = ({n}, {m}), got {tuple(positives.shape)}")
    back = Dense(positives.T) if peers.size == 1 else None
    return Dense(positives), back


@dataclass(frozen=True)
class InfoNCEConfig(LossConfig):
    """Options of :func:`infonce`."""

    temperature: float = 0.07
    learnable_temperature: bool = False
    symmetric: bool = True
    layout: Layout = "blocked"
    directions: tuple[str, ...] | None = None
    partition: Literal["joint", "per_direction"] = "joint"
    direction_weights: tuple[float, float] = (0.5, 0.5)
    hardness: float = 0.0
    hardness_on: Literal["none", "in_batch", "hard", "all"] = "none"
    score: str = "cosine"
    normalize: bool = True
    mode: Mode = "auto"


class InfoNCE(Loss):
    """:func:`infonce` as a module: ``InfoNCE(temperature=0.1)(x, y)``."""

    name: ClassVar[str] = "infonce"
    config_class: ClassVar[type[LossConfig]] = InfoNCEConfig
    function = staticmethod(infonce)
