"""Why a node has its score: what each of its hyperedges contributes, and whether taking it away proves that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import wilcoxon
from torch import Tensor

from polycontrast.data import derive_seed
from polycontrast.errors import DataError, did_you_mean
from polycontrast_graph.metahgnie.network import MetaHGNIENetwork, SemanticLayer, StructuralLayer
from polycontrast_graph.metahgnie.segments import Incidence

if TYPE_CHECKING:
    from polycontrast_graph.metahgnie.method import MetaHGNIE

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

_ROWS = 65_536
"""Memberships whose messages are in memory at a time."""


@dataclass(frozen=True)
class Reason:
    """One hyperedge of a node."""

    name: str
    """E.g. "with term hip hop"."""
    contribution: float
    """By how much the score would fall, to first order, without it."""
    size: int
    """Members."""
    members: tuple[str, ...]
    """The fellow members with the highest scores."""


@dataclass(frozen=True)
class Explanation:
    """A score taken apart."""

    node: str
    name: str
    score: float
    """log(1 + raw score)."""
    low: float
    high: float
    struct: float
    """Score of the structure channel alone."""
    text: float
    """Score of the semantic channel alone."""
    struct_share: float
    """Share of the structure channel in what the hyperedges contribute, by absolute value; 0 to 1."""
    ridge: float | None
    """Prediction of the ridge regression, where one helps."""
    network_share: float
    """Share of the network where it is blended with ridge, or weight of its correction; 1 without ridge."""
    reasons: tuple[Reason, ...]
    """Hyperedges of the largest contributions, either way."""


@dataclass(frozen=True)
class DeletionTest:
    """Whether taking away the first hyperedges of a node moves its score more than taking away others."""

    nodes: int
    k: int
    top: float
    """Mean movement without the k first, in units of the score."""
    random: float
    """Mean movement without k others."""
    p: float
    """Of a one-sided Wilcoxon signed-rank test over the nodes."""


def contributions(
    network: MetaHGNIENetwork, x_struct: Tensor, x_text: Tensor, graph: Incidence
) -> tuple[Tensor, Tensor]:
    """By how much the score of a node would fall, to first order, if it left a hyperedge.

    A node joins the messages g of its hyperedges to o; without one of them it has o - d. The contribution is the inner
    product of d with the gradient of the score by o. For a softmax d is alpha / (1 - alpha) (g - o), for a mean over n
    (g - o) / (n - 1), for a sum g.

    Returns:
        Two of (P,), for structure and text, in the order of ``graph.memberships``.
    """
    seen: dict[str, Tensor] = {}
    training = network.training
    network.eval()
    with torch.enable_grad():
        # An input that wants a gradient, so that every step from there on is recorded.
        out = network(x_struct.detach().requires_grad_(), x_text.detach().requires_grad_(), graph, seen)
        wanted = [seen["struct_joined"], seen["text_joined"]]
        # In evaluation mode the last joined vector of a node reaches its own score alone.
        by_struct, by_text = torch.autograd.grad(out.score.sum(), wanted)
    network.train(training)
    node, edge, degree = graph.memberships.row, graph.memberships.column, graph.degree
    aggr = cast(StructuralLayer, network.struct_layers[-1]).node_aggr
    heads = cast(SemanticLayer, network.text_layers[-1]).shape[0]
    weight = x_text.new_ones(len(node), heads)
    several = degree[node] > 1
    weight[several] = seen["text_weight"]
    struct, text = x_struct.new_empty(len(node)), x_text.new_empty(len(node))
    for i in range(0, len(node), _ROWS):
        at, e, w = node[i : i + _ROWS], edge[i : i + _ROWS], weight[i : i + _ROWS]
        many, n = several[i : i + _ROWS].unsqueeze(1), degree[at].unsqueeze(1).to(x_struct.dtype)
        g, o = seen["struct_message"][e], seen["struct_joined"][at]
        if aggr == "mean":
            d = torch.where(many, (g - o) / (n - 1).clamp_min(1), g)
        elif aggr == "sqrt":
            d = torch.where(many, o - (o * n.sqrt() - g) / (n - 1).clamp_min(1).sqrt(), g)
        else:
            d = g
        struct[i : i + _ROWS] = (by_struct[at] * d).sum(1)
        g, o = seen["text_message"][e], seen["text_joined"][at]
        odds = (w / (1 - w).clamp_min(1e-6)).repeat_interleave(g.shape[1] // heads, 1)
        text[i : i + _ROWS] = (by_text[at] * torch.where(many, odds * (g - o), g)).sum(1)
    return struct.detach(), text.detach()


def membership_contributions(method: MetaHGNIE, fold: int | None = None) -> tuple[Float, Float]:
    """:func:`contributions` to the final score of every node, in the order of ``view.incidence.memberships``.

    Args:
        method: with a graph.
        fold: by position; None: mean over the folds.
    """
    view, found = method.view, []
    for f in range(len(method.networks)) if fold is None else [fold]:
        parts = contributions(method.network(f), view.x_struct, view.x_text, view.incidence)
        found.append([float(method.share[f] * method.unit[f]) * part.double().cpu().numpy() for part in parts])
    struct, text = (np.mean(part, axis=0) for part in zip(*found, strict=True))
    return struct, text


def find(method: MetaHGNIE, node: int | str) -> int:
    """Position of a node given by position or id."""
    kg = method.view.kg
    if isinstance(node, str):
        ids = [str(i) for i in kg.ids] if kg.ids is not None else [str(i) for i in range(kg.num_nodes)]
        if node not in ids:
            raise DataError(f"{kg.name} has no node {node!r}.{did_you_mean(node, ids[:100_000])}")
        return ids.index(node)
    if not 0 <= node < kg.num_nodes:
        raise DataError(f"{kg.name} has no node {node}; nodes are 0 .. {kg.num_nodes - 1}")
    return int(node)


def explain(method: MetaHGNIE, node: int | str, k: int = 5) -> Explanation:
    """Why a node has its score.

    Args:
        method: with a graph.
        node: position or id.
        k: hyperedges that are named.
    """
    n = find(method, node)
    view, fold = method.view, method.fold_of(n)
    kg, h, s = view.kg, view.hypergraph, view.incidence.memberships
    scores, half = method.scores(), float(method.radii()[n])
    struct, text = (part[int(s.ptr[n]) : int(s.ptr[n + 1])] for part in membership_contributions(method, fold))
    edges = view.incidence.given[s.column[int(s.ptr[n]) : int(s.ptr[n + 1])]].cpu().numpy()
    total = struct + text
    reasons = []
    for i in np.argsort(-np.abs(total), kind="stable")[:k].tolist():
        members = h.members(int(edges[i]))
        fellows = members[members != n]
        best = fellows[np.argsort(-scores[fellows], kind="stable")[:3]]
        name = h.name(int(edges[i]), kg.label)
        reasons.append(Reason(name, float(total[i]), len(members), tuple(kg.label(int(m)) for m in best)))
    alone = method.channel_scores(fold)
    loud = np.abs(struct).sum(), np.abs(text).sum()
    return Explanation(
        node=kg.id(n), name=kg.label(n), score=float(scores[n]), low=float(scores[n] - half),
        high=float(scores[n] + half), struct=float(alone.struct[n]), text=float(alone.text[n]),
        struct_share=float(loud[0] / (sum(loud) or 1.0)), ridge=method.ridge_score(fold, n),
        network_share=float(method.share[fold]), reasons=tuple(reasons),
    )  # fmt: skip


def deletion_test(method: MetaHGNIE, nodes: int, k: int, seed: int) -> DeletionTest:
    """See :meth:`MetaHGNIE.deletion_test`. Each deletion is carried out: the neighbourhood is computed again."""
    view, s = method.view, method.view.incidence.memberships
    rng = np.random.default_rng(derive_seed(seed, "deletion"))
    able = np.flatnonzero(view.incidence.degree.cpu().numpy() >= 2 * k)
    if len(able) < 10:
        raise DataError(f"{view.kg.name}: only {len(able)} nodes are in {2 * k} hyperedges or more; lower k")
    chosen = np.sort(rng.choice(able, min(nodes, len(able)), replace=False))
    total = np.abs(np.sum(membership_contributions(method, 0), axis=0))
    ptr, given = s.ptr.cpu().numpy(), view.incidence.given.cpu().numpy()
    column = given[s.column.cpu().numpy()]
    moved: list[tuple[float, float]] = []
    for n in chosen.tolist():
        edges, weight = column[ptr[n] : ptr[n + 1]], total[ptr[n] : ptr[n + 1]]
        order = np.argsort(-weight, kind="stable")
        others = rng.choice(order[k:], k, replace=False)
        before, *after = (_score(method, n, gone) for gone in (np.zeros(0, np.int64), edges[order[:k]], edges[others]))
        moved.append((abs(after[0] - before), abs(after[1] - before)))
    top, random = np.array(moved).T
    p = float(wilcoxon(top, random, alternative="greater").pvalue) if np.any(top != random) else 1.0
    return DeletionTest(len(chosen), k, float(top.mean()), float(random.mean()), p)


def _score(method: MetaHGNIE, node: int, without: Int) -> float:
    """Network score of a node in the first fold, some hyperedges taken away."""
    view = method.view
    near = view.sampler.draw(np.array([node]), method.config.layers, without=without)
    at = torch.from_numpy(near.nodes).to(method.device)
    network = method.network(0)
    with method.evaluating(network):
        out = network(view.x_struct[at], view.x_text[at], near.incidence.to(method.device))
    return float(method.scaled(0, out)[0][0])


__all__ = [
    "DeletionTest", "Explanation", "Reason", "contributions", "deletion_test", "explain", "membership_contributions",
]  # fmt: skip
