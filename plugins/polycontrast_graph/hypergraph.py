"""Hypergraphs of a knowledge graph: which entities stand in one relational context, and what context that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from polycontrast.errors import DataError
from polycontrast_graph.config import HypergraphConfig, MetaPath
from polycontrast_graph.grouping import capped, pointers, same_sets, unique_pairs
from polycontrast_graph.kg import KnowledgeGraph

Int = npt.NDArray[np.int64]

ISOLATED = "isolated"
"""Type of the hyperedge of a node that is in no other."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Hypergraph:
    """M typed hyperedges over N nodes with P memberships."""

    hyperedge_index: Int
    """(2, P) int64, row 0 node, row 1 hyperedge, as in PyTorch Geometric; sorted by hyperedge, then node; no pair
    occurs twice and no hyperedge is empty."""
    hyperedge_type: Int
    """(M,) int64."""
    type_names: tuple[str, ...]
    """What each type is; types without a hyperedge are allowed, so that they mean the same in every graph."""
    anchor: Int
    """(M,) int64: the node that a hyperedge hangs on (see its builder), member or not. With the type it tells a
    hyperedge apart from all others of a builder."""
    num_nodes: int
    """N."""

    @property
    def num_hyperedges(self) -> int:
        """M."""
        return len(self.hyperedge_type)

    @property
    def sizes(self) -> Int:
        """(M,) members of each hyperedge."""
        return np.bincount(self.hyperedge_index[1], minlength=self.num_hyperedges)

    @property
    def degrees(self) -> Int:
        """(N,) hyperedges of each node."""
        return np.bincount(self.hyperedge_index[0], minlength=self.num_nodes)

    def members(self, hyperedge: int) -> Int:
        """Nodes of a hyperedge, sorted."""
        low, high = np.searchsorted(self.hyperedge_index[1], [hyperedge, hyperedge + 1])
        return self.hyperedge_index[0, low:high]

    def name(self, hyperedge: int, label: Callable[[int], str] = str) -> str:
        """What a hyperedge is, in words: its type and the name of its anchor, e.g. "with term hip hop"."""
        return f"{self.type_names[self.hyperedge_type[hyperedge]]} {label(int(self.anchor[hyperedge]))}"

    def with_types(self, names: Sequence[str], unknown: int | None = None) -> Hypergraph:
        """The same with the numbering of types of another hypergraph, e.g. the one a model was trained on.

        Args:
            names: types in that order.
            unknown: number of a type that is not among them. None: refuse.

        Raises:
            DataError: a type that has hyperedges is not among ``names``.
        """
        at = {name: i for i, name in enumerate(names)}
        used = np.bincount(self.hyperedge_type, minlength=len(self.type_names)) > 0
        strange = [n for n, u in zip(self.type_names, used, strict=True) if u and n not in at]
        if strange and unknown is None:
            raise DataError(f"hyperedges of type {strange[0]!r} are unknown to the model; train it on this graph")
        number = [at.get(name, -1 if unknown is None else unknown) for name in self.type_names]
        return replace(self, hyperedge_type=np.array(number)[self.hyperedge_type], type_names=tuple(names))


class HypergraphBuilder(Protocol):
    """Makes the hyperedges of a graph."""

    def __call__(self, kg: KnowledgeGraph) -> Hypergraph:
        """In O(E log E), without a Python object per edge or member pair."""
        ...


def make_builder(
    config: HypergraphConfig, kg: KnowledgeGraph, *, paths: Iterable[MetaPath] | None = None
) -> CompositeBuilder:
    """The builder that a config names. Nodes which it leaves out get a hyperedge of their own.

    Args:
        config: see there.
        kg: where meta-paths are looked for, unless the config or ``paths`` gives them.
        paths: those of a trained model, so that types mean the same for another graph.
    """
    from polycontrast_graph.metapaths import MetaPathBuilder, discover_metapaths

    star = RelationStarBuilder(
        include_anchor=config.include_anchor, min_size=config.min_size, max_size=config.max_size,
        oversize=config.oversize,
    )  # fmt: skip
    parts: list[HypergraphBuilder] = []
    if config.builder == "relation-set":
        parts.append(RelationSetBuilder(type_mode=config.type_mode))
    if config.builder in ("relation-star", "star+paths"):
        parts.append(star)
    if config.builder in ("meta-path", "star+paths"):
        found = tuple(paths) if paths is not None else config.paths
        if not found and paths is None:
            found = discover_metapaths(
                kg, max_len=config.path_length, top=config.top, min_support=config.min_support,
                # With stars, a path back by the relation it came by would be the same hyperedge again.
                there_and_back=config.builder == "meta-path",
            )  # fmt: skip
        along = MetaPathBuilder(
            found, anchor=config.anchor, include_anchor=config.include_anchor, min_size=config.min_size,
            max_size=config.max_size, oversize=config.oversize,
        )  # fmt: skip
        parts.append(along)
    return CompositeBuilder(parts)


def paths_of(builder: HypergraphBuilder) -> tuple[MetaPath, ...]:
    """The meta-paths of a builder and its parts, to be saved with a model."""
    if isinstance(builder, CompositeBuilder):
        return tuple(path for part in builder.builders for path in paths_of(part))
    return tuple(getattr(builder, "paths", ()))


# ---- builders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RelationSetBuilder:
    """Nodes that touch the same relations, as head or as tail, are one hyperedge: a partition, as in the official code.

    Hyperedges are in order of first appearance; nodes without an edge share one. The type is the set of relations of
    the edges among the members. The anchor is the first member.

    Args:
        type_mode: "all": every edge among the members counts; "last": of the edges that join a pair of members, in
            either direction, only the last one in the order of the triples, as in the official code.
    """

    type_mode: Literal["all", "last"] = "all"

    def __call__(self, kg: KnowledgeGraph) -> Hypergraph:
        """See the class."""
        n, relations = kg.num_nodes, len(kg.relation_names)
        head, tail = kg.edge_index
        touched = unique_pairs(np.concatenate([head, tail]), np.concatenate([kg.edge_type, kg.edge_type]), relations)
        group, first = same_sets(*touched, n)
        m = len(first)

        within = np.flatnonzero((group[head] == group[tail]) & (head != tail))
        if self.type_mode == "last":
            low, high = np.minimum(head, tail)[within], np.maximum(head, tail)[within]
            order = np.lexsort((high, low))
            last = np.ones(len(order), dtype=bool)
            last[:-1] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
            within = within[order[last]]
        owner, item = unique_pairs(group[head[within]], kg.edge_type[within], relations)
        # A set of one node has no pair at all; tell it from one whose members are not joined.
        single = np.flatnonzero(np.bincount(group, minlength=m) == 1)
        owner, item = np.concatenate([owner, single]), np.concatenate([item, np.full(len(single), relations)])
        order = np.lexsort((item, owner))
        owner, item = owner[order], item[order]
        kind, representative = same_sets(owner, item, m)
        start = pointers(owner, m)
        words = [*kg.relation_names, "-"]
        names = tuple(
            _set_name([words[i] for i in item[start[r] : start[r + 1]].tolist()]) for r in representative.tolist()
        )
        order = np.argsort(group, kind="stable")
        return Hypergraph(
            hyperedge_index=np.stack([order, group[order]]), hyperedge_type=kind, type_names=names, anchor=first,
            num_nodes=n,
        )  # fmt: skip


def _set_name(relations: list[str]) -> str:
    if relations == ["-"]:
        return "alone with its relations:"
    joined = f"joined by {', '.join(relations)}" if relations else "not joined"
    return f"same relations ({joined}) as"


@dataclass(frozen=True)
class RelationStarBuilder:
    """The heads of one relation and one tail are a hyperedge, and so are the tails of one relation and one head.

    The anchor is that tail or head. The types are "with R" (heads) and "R of" (tails) for every relation R.

    Args:
        include_anchor: whether the anchor is a member.
        min_size: least members, the anchor not counted.
        max_size: most members, the anchor not counted; None: no bound.
        oversize: "sample": a fixed sample of the members of larger ones; "drop": none of them.
    """

    include_anchor: bool = True
    min_size: int = 2
    max_size: int | None = None
    oversize: Literal["sample", "drop"] = "sample"

    def __call__(self, kg: KnowledgeGraph) -> Hypergraph:
        """See the class."""
        n = kg.num_nodes
        head, tail = kg.edge_index
        hub = np.concatenate([(2 * kg.edge_type) * n + tail, (2 * kg.edge_type + 1) * n + head])
        hub, member = unique_pairs(hub, np.concatenate([head, tail]), n)
        names = tuple(name for r in kg.relation_names for name in (f"with {r}", f"{r} of"))
        return from_hubs(hub, member, names, n, self.include_anchor, self.min_size, self.max_size, self.oversize)


def from_hubs(
    hub: Int, member: Int, type_names: tuple[str, ...], num_nodes: int, include_anchor: bool, min_size: int,
    max_size: int | None, oversize: str,
) -> Hypergraph:  # fmt: skip
    """Hyperedges from sorted pairs of hub and member, where a hub is ``type * num_nodes + anchor``."""
    own = hub % num_nodes == member
    hub, member = hub[~own], member[~own]  # An anchor is no member on the strength of an edge to itself.
    hubs, number, size = np.unique(hub, return_inverse=True, return_counts=True)
    stays = size >= min_size
    if max_size is not None and oversize == "drop":
        stays &= size <= max_size
    keep = stays[number]
    if max_size is not None and oversize == "sample":
        keep &= capped(number, member, len(hubs), max_size)
    renumbered = np.cumsum(stays) - 1
    hyperedge, member = renumbered[number[keep]], member[keep]
    hubs = hubs[stays]
    if include_anchor:
        hyperedge = np.concatenate([hyperedge, np.arange(len(hubs))])
        member = np.concatenate([member, hubs % num_nodes])
    hyperedge, member = unique_pairs(hyperedge, member, num_nodes)
    return Hypergraph(
        hyperedge_index=np.stack([member, hyperedge]), hyperedge_type=hubs // num_nodes, type_names=type_names,
        anchor=hubs % num_nodes, num_nodes=num_nodes,
    )  # fmt: skip


@dataclass(frozen=True)
class CompositeBuilder:
    """The hyperedges of several builders, and one of its own, of type "isolated", for each node in none of them."""

    builders: Sequence[HypergraphBuilder]

    def __call__(self, kg: KnowledgeGraph) -> Hypergraph:
        """See the class."""
        parts = [build(kg) for build in self.builders]
        index, types, anchors = [np.zeros((2, 0), np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        names: list[str] = []
        m = 0
        for part in parts:
            index.append(part.hyperedge_index + np.array([[0], [m]]))
            types.append(part.hyperedge_type + len(names))
            anchors.append(part.anchor)
            names += part.type_names
            m += part.num_hyperedges
        covered = np.zeros(kg.num_nodes, dtype=bool)
        for pairs in index:
            covered[pairs[0]] = True
        alone = np.flatnonzero(~covered)
        index.append(np.stack([alone, m + np.arange(len(alone))]))
        types.append(np.full(len(alone), len(names)))
        anchors.append(alone)
        return Hypergraph(
            hyperedge_index=np.concatenate(index, axis=1), hyperedge_type=np.concatenate(types),
            type_names=(*names, ISOLATED), anchor=np.concatenate(anchors), num_nodes=kg.num_nodes,
        )  # fmt: skip


__all__ = [
    "ISOLATED", "CompositeBuilder", "Hypergraph", "HypergraphBuilder", "RelationSetBuilder", "RelationStarBuilder",
    "from_hubs", "make_builder", "paths_of",
]  # fmt: skip
