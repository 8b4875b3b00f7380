"""Graphs that grow after training: new entities are scored, new edges change the scores they reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from polycontrast.errors import DataError, did_you_mean
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.metahgnie import ridge
from polycontrast_graph.metahgnie.graph import View

if TYPE_CHECKING:
    from polycontrast_graph.metahgnie.method import MetaHGNIE

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Triple = tuple[str, str, str]


def score_new(method: MetaHGNIE, nodes: Sequence[str], edges: Sequence[Triple], text: Sequence[str] | None) -> pa.Table:
    """See :meth:`MetaHGNIE.score_new`."""
    if not nodes:
        raise DataError("nodes: name at least one new entity")
    known = method.view.kg.num_nodes
    kg, touched = extended(method.view.kg, nodes, edges, text)
    view, _ = method.view.grown(kg, touched, method.config, method.info)
    fresh = np.arange(known, kg.num_nodes)
    score = np.mean([scores_at(method, view, fresh, f) for f in range(len(method.networks))], axis=0)
    half = float(method.radius.mean())
    return pa.table(
        {"node_id": list(nodes), "score": score, "estimate": np.expm1(score), "low": score - half, "high": score + half}
    )


def insert(method: MetaHGNIE, edges: Sequence[Triple]) -> Int:
    """See :meth:`MetaHGNIE.insert`."""
    kg, touched = extended(method.view.kg, [], edges, None)
    before = [method.channel_scores(f) for f in range(len(method.networks))]
    helped = [method.ridge_scores(f) for f in range(len(method.networks))] if method.config.baseline != "none" else []
    view, first = method.view.grown(kg, touched, method.config, method.info)
    reached = view.reached(first, method.config.layers - 1)
    method.replace_view(view)
    for fold, old in enumerate(before):
        method.keep_channel_scores(fold, old.with_rows(reached, network_rows(method, view, reached, fold)))
    for fold, rows in enumerate(helped):
        new = rows.copy()
        new[touched] = _ridge_rows(method, view, touched, fold)
        method.keep_ridge_scores(fold, new)
    return reached


def extended(
    kg: KnowledgeGraph, nodes: Sequence[str], edges: Sequence[Triple], text: Sequence[str] | None
) -> tuple[KnowledgeGraph, Int]:
    """A graph with more entities and edges, and the entities that are new or have new edges.

    Raises:
        DataError: an id exists already or twice, or an edge names an entity or relation that does not exist.
    """
    ids = [kg.id(i) for i in range(kg.num_nodes)]
    at = {name: i for i, name in enumerate(ids)}
    for i, name in enumerate(nodes):
        if name in at:
            raise DataError(f"nodes, entry {i}: {name!r} exists already; give new entities ids of their own")
        at[name] = kg.num_nodes + i
    if text is not None and len(text) != len(nodes):
        raise DataError(f"{len(text)} texts for {len(nodes)} new entities; give one each, empty where there is none")
    relations = {name: i for i, name in enumerate(kg.relation_names)}
    new = np.empty((3, len(edges)), dtype=np.int64)
    for i, edge in enumerate(edges):
        if len(edge) != 3:
            raise DataError(f"edges, entry {i}: {edge!r} is not a triple of head, relation and tail")
        for place, (word, names, what) in enumerate(
            zip(edge, (at, relations, at), ("entity", "relation", "entity"), strict=True)
        ):
            if word not in names:
                near = did_you_mean(str(word), list(names)[:100_000])
                raise DataError(f"edges, entry {i}: there is no {what} {word!r}.{near}")
            new[place, i] = names[word]
    count = kg.num_nodes + len(nodes)
    more = [""] * len(nodes)
    grown = KnowledgeGraph.from_arrays(
        np.concatenate([kg.edge_index[0], new[0]]), np.concatenate([kg.edge_type, new[1]]),
        np.concatenate([kg.edge_index[1], new[2]]), num_nodes=count, relation_names=kg.relation_names,
        y=np.concatenate([kg.y, np.full(len(nodes), np.nan)]), ids=[*ids, *nodes],
        names=None if kg.names is None else [*kg.names, *nodes],
        text=None if kg.text is None else [*kg.text, *(text or more)],
        x_struct=_padded(kg.x_struct, len(nodes)), x_text=_padded(kg.x_text, len(nodes)), name=kg.name,
        labels=False, inverse="keep",
    )  # fmt: skip
    return grown, np.union1d(np.arange(kg.num_nodes, count), new[[0, 2]])


def scores_at(method: MetaHGNIE, view: View, nodes: Int, fold: int) -> Float:
    """(n,) final scores of some nodes, from their neighbourhoods alone."""
    score = network_rows(method, view, nodes, fold)[0]
    if method.config.baseline == "none":
        return score
    return method.joined(score, _ridge_rows(method, view, nodes, fold), float(method.share[fold]))


def network_rows(method: MetaHGNIE, view: View, nodes: Int, fold: int) -> tuple[Float, Float, Float]:
    """Scores of network, structure channel and semantic channel of some nodes, from their neighbourhoods alone."""
    near = view.sampler.draw(nodes, method.config.layers)
    at = torch.from_numpy(near.nodes).to(method.device)
    network = method.network(fold)
    with method.evaluating(network):
        out = network(view.x_struct[at], view.x_text[at], near.incidence.to(method.device))
    score, struct, text = (part[: near.seeds] for part in method.scaled(fold, out))
    return score, struct, text


def _ridge_rows(method: MetaHGNIE, view: View, nodes: Int, fold: int) -> Float:
    return ridge.apply(method.design_rows(view, nodes), method.ridge[fold].cpu().numpy())


def _padded(x: npt.NDArray[np.float32] | None, rows: int) -> npt.NDArray[np.float32] | None:
    return None if x is None else np.concatenate([x, np.zeros((rows, x.shape[1]), np.float32)])


__all__ = ["extended", "insert", "network_rows", "score_new", "scores_at"]
