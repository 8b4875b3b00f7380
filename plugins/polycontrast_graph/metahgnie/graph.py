"""A knowledge graph as the network takes it, and what of it changes when the graph grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polycontrast_graph.features import FeatureMaker, content_key, log_degree, make_features, relation_counts
from polycontrast_graph.grouping import mixed
from polycontrast_graph.hypergraph import Hypergraph, make_builder
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.metahgnie.config import MetaHGNIEConfig
from polycontrast_graph.metahgnie.sampling import NeighbourSampler
from polycontrast_graph.metahgnie.segments import Incidence

Int = npt.NDArray[np.int64]


@dataclass(eq=False)
class View:
    """A graph, its features and its hypergraph."""

    kg: KnowledgeGraph
    hypergraph: Hypergraph
    x_struct: Tensor
    """(N, ds)."""
    x_text: Tensor
    """(N, dt)."""
    maker: FeatureMaker

    @classmethod
    def of(
        cls, kg: KnowledgeGraph, config: MetaHGNIEConfig, info: Mapping[str, Any], maker: FeatureMaker | None = None
    ) -> View:
        """The view of a graph.

        Args:
            kg: the graph.
            config: how.
            info: of the method: paths and types of its hypergraph, and what graph its features were made for.
            maker: of the features. None, or when the graph is that one: features are made, or found in the cache.
        """
        hypergraph = hypergraph_of(kg, config, info)
        if maker is None or content_key(kg, config.features, 0) == info["graph"]:
            x_struct, x_text, maker = make_features(kg, config.features)
        else:
            x_struct, x_text = maker.apply(kg)
        if not x_text.shape[1]:
            x_text = np.zeros((len(x_text), 1), np.float32)  # nobody says anything
        return cls(kg, hypergraph, torch.from_numpy(x_struct), torch.from_numpy(x_text), maker)

    @cached_property
    def incidence(self) -> Incidence:
        """The whole hypergraph, sorted."""
        h = self.hypergraph
        return Incidence.of(
            torch.from_numpy(h.hyperedge_index), torch.from_numpy(h.hyperedge_type), h.num_nodes, len(h.type_names)
        )

    @cached_property
    def sampler(self) -> NeighbourSampler:
        """Neighbourhoods of this hypergraph."""
        h = self.hypergraph
        return NeighbourSampler(h.hyperedge_index, h.hyperedge_type, h.num_nodes, len(h.type_names))

    @cached_property
    def y(self) -> Tensor:
        """(N,) labels, NaN without one."""
        return torch.from_numpy(self.kg.y)

    def to(self, device: torch.device) -> View:
        """The same with its tensors on a device; this one if they are there."""
        if self.x_struct.device == device:
            return self
        moved = View(self.kg, self.hypergraph, self.x_struct.to(device), self.x_text.to(device), self.maker)
        moved.__dict__["incidence"], moved.__dict__["y"] = self.incidence.to(device), self.y.to(device)
        return moved

    def grown(
        self, kg: KnowledgeGraph, touched: Int, config: MetaHGNIEConfig, info: Mapping[str, Any]
    ) -> tuple[View, Int]:
        """The view of this graph after it grew, with everything that was learned from it as it was.

        Singular vectors and texts of known nodes stay; their counts and degrees follow their edges; new nodes get the
        features that the maker gives them.

        Args:
            kg: the known nodes in their order, then new ones.
            touched: the new nodes, and the known ones that have other edges than before.
            config: how.
            info: see :meth:`of`.

        Returns:
            The view, and the nodes that the first layer may see otherwise than before.
        """
        known = self.kg.num_nodes
        hypergraph = hypergraph_of(kg, config, info)
        x_struct = _extended(self.x_struct, kg.num_nodes)
        x_struct[touched] = torch.from_numpy(self._structure(kg, touched)).to(x_struct)
        x_text = _extended(self.x_text, kg.num_nodes)
        if kg.num_nodes > known:
            if config.features.text == "given":
                rows = np.asarray(kg.x_text)[known:]
            else:
                rows = self.maker.text.apply(None if kg.text is None else list(kg.text[known:]), kg.num_nodes - known)
            if rows.shape[1]:
                x_text[known:] = torch.from_numpy(rows).to(x_text)
        view = View(kg, hypergraph, x_struct, x_text, self.maker)
        return view, np.union1d(view.reached(touched, 1), _moved(self.hypergraph, hypergraph))

    def _structure(self, kg: KnowledgeGraph, nodes: Int) -> npt.NDArray[np.float32]:
        """Structural features of some nodes of a graph that grew."""
        parts, column, known = [], 0, nodes < self.kg.num_nodes
        for part in self.maker.config.structure:
            if part == "svd":
                rows = self.maker.spectral.apply(kg, nodes)
                before = self.x_struct[torch.from_numpy(nodes[known]), column : column + rows.shape[1]]
                rows[known] = before.cpu().numpy()
            elif part == "counts":
                rows = relation_counts(kg, self.maker.relation_names)[nodes].toarray()
            elif part == "degree":
                rows = log_degree(kg)[nodes]
            else:
                rows = np.asarray(kg.x_struct)[nodes]
            parts.append(rows)
            column += rows.shape[1]
        return np.concatenate(parts, axis=1)

    def reached(self, nodes: Int, hops: int) -> Int:
        """Nodes within so many steps from node over hyperedge to node, the given ones among them."""
        node, edge = self.hypergraph.hyperedge_index
        inside = np.zeros(self.kg.num_nodes, dtype=bool)
        inside[nodes] = True
        for _ in range(hops):
            asked = np.zeros(self.hypergraph.num_hyperedges, dtype=bool)
            asked[edge[inside[node]]] = True
            inside[node[asked[edge]]] = True
        return np.flatnonzero(inside)


def hypergraph_of(kg: KnowledgeGraph, config: MetaHGNIEConfig, info: Mapping[str, Any]) -> Hypergraph:
    """The hypergraph of a graph, its types numbered as in ``info``."""
    build = make_builder(config.hypergraph, kg, paths=[tuple(path) for path in info["paths"]])
    return build(kg).with_types(info["types"])


def _extended(x: Tensor, rows: int) -> Tensor:
    """A copy with rows of zeros at the end."""
    return torch.cat([x, x.new_zeros(rows - len(x), x.shape[1])])


def _moved(before: Hypergraph, after: Hypergraph) -> Int:
    """Members, then or now, of the hyperedges that are not the same in both."""
    sets = [_fingerprints(h) for h in (before, after)]
    moved = []
    for h, mine, others in zip((before, after), sets, reversed(sets), strict=True):
        changed = ~np.isin(mine, others)
        moved.append(h.hyperedge_index[0][changed[h.hyperedge_index[1]]])
    return np.unique(np.concatenate(moved))


def _fingerprints(h: Hypergraph) -> npt.NDArray[np.uint64]:
    """One number per hyperedge for its type, its anchor and the set of its members."""
    node, edge = h.hyperedge_index
    total = mixed(mixed(h.hyperedge_type.astype(np.uint64)) + h.anchor.astype(np.uint64))
    np.add.at(total, edge, mixed(node.astype(np.uint64)))
    return total


__all__ = ["View", "hypergraph_of"]
