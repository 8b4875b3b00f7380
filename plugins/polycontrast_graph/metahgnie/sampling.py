"""Neighbourhoods of a few nodes, as graphs of their own; numpy only, no compiled add-on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from polycontrast_graph.grouping import mixed
from polycontrast_graph.metahgnie.segments import Incidence

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbourhood:
    """Part of a hypergraph in which the outputs of some nodes can be computed."""

    nodes: Int
    """(n,) nodes of the whole graph, the seeds first."""
    seeds: int
    """Number of seeds."""
    incidence: Incidence
    """Over the n nodes."""


class NeighbourSampler:
    """Draws hyperedges of nodes and members of hyperedges.

    Args:
        hyperedge_index: (2, P) node and hyperedge.
        hyperedge_type: (M,).
        nodes: N.
        kinds: number of types.
    """

    def __init__(self, hyperedge_index: Int, hyperedge_type: Int, nodes: int, kinds: int) -> None:
        node, edge = hyperedge_index
        self._kind, self._kinds = hyperedge_type, kinds
        self._edges_of = _Rows.of(node, edge, nodes)
        self._members_of = _Rows.of(edge, node, len(hyperedge_type))

    def draw(
        self, seeds: Int, layers: int, fan_out: tuple[int, int] = (0, 0), key: int = 0, without: Int | None = None
    ) -> Neighbourhood:
        """The neighbourhood that ``layers`` layers reach.

        What is drawn is a function of the key and the node or hyperedge alone, whatever the other seeds are. With no
        bounds, the outputs of the seeds are those in the whole graph.

        Args:
            seeds: nodes, none twice.
            layers: hops from node over hyperedge to node.
            fan_out: hyperedges per node and members per hyperedge, 0 for all. The node through which a hyperedge was
                found is always a member.
            key: of the draw.
            without: hyperedges that are taken away.
        """
        known = np.zeros(self._edges_of.count, dtype=bool)
        known[seeds] = True
        asked = np.zeros(self._members_of.count, dtype=bool)
        nodes, frontier = [seeds], seeds
        pairs: list[tuple[Int, Int]] = []
        for _ in range(layers):
            source, edge = self._edges_of.some(frontier, fan_out[0], key)
            if without is not None:
                stays = ~np.isin(edge, without)
                source, edge = source[stays], edge[stays]
            pairs.append((source, edge))
            new = np.unique(edge[~asked[edge]])
            asked[new] = True
            pairs.append(self._members_of.some(new, fan_out[1], key)[::-1])
            frontier = np.unique(pairs[-1][0])
            frontier = frontier[~known[frontier]]
            known[frontier] = True
            nodes.append(frontier)
        all_nodes = np.concatenate(nodes)
        local = np.empty(self._edges_of.count, dtype=np.int64)
        local[all_nodes] = np.arange(len(all_nodes))
        node, edge = (np.concatenate(part) for part in zip(*pairs, strict=True))
        edges, edge = np.unique(edge, return_inverse=True)
        code = np.unique(edge * len(all_nodes) + local[node])
        index = np.stack([code % len(all_nodes), code // len(all_nodes)])
        incidence = Incidence.of(
            torch.from_numpy(index), torch.from_numpy(self._kind[edges]), len(all_nodes), self._kinds
        )
        return Neighbourhood(all_nodes, len(seeds), incidence)


@dataclass(frozen=True)
class _Rows:
    """Compressed rows of a sparse matrix."""

    pointer: Int
    item: Int

    @classmethod
    def of(cls, row: Int, item: Int, count: int) -> _Rows:
        order = np.lexsort((item, row))
        return cls(np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))]), item[order])

    @property
    def count(self) -> int:
        return len(self.pointer) - 1

    def some(self, rows: Int, most: int, key: int) -> tuple[Int, Int]:
        """Pairs of the given rows, at most ``most`` of each; 0: all."""
        size = self.pointer[rows + 1] - self.pointer[rows]
        total = int(size.sum())
        begin = np.repeat(self.pointer[rows] - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
        row, item = np.repeat(rows, size), self.item[begin + np.arange(total)]
        if not most or total == 0 or int(size.max()) <= most:
            return row, item
        lot = mixed(mixed(row.astype(np.uint64) + np.uint64(key % 2**63)) + item.astype(np.uint64))
        group = np.repeat(np.arange(len(rows)), size)
        order = np.lexsort((lot, group))
        place = np.arange(total) - np.repeat(np.cumsum(size) - size, size)
        chosen = np.sort(order[place < most])
        return row[chosen], item[chosen]


__all__ = ["NeighbourSampler", "Neighbourhood"]
