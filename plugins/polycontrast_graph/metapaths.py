"""Hyperedges from meta-paths, and which paths are frequent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from polycontrast.errors import ConfigError, did_you_mean
from polycontrast_graph.config import MetaPath, check_path
from polycontrast_graph.grouping import capped
from polycontrast_graph.hypergraph import Hypergraph, from_hubs
from polycontrast_graph.kg import KnowledgeGraph

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MetaPathBuilder:
    """What the instances of a path meet at one anchor is a hyperedge.

    From an anchor, the path is followed hop by hop; a node counts when a whole instance leads through it. The type is
    the path, the anchor the node in the middle, at the start or at the end.

    Args:
        paths: each a sequence of steps, ``relation>`` from head to tail or ``relation<`` back.
        anchor: "pivot": the middle (of an odd length, the earlier of the two), where hyperedges stay as small as the
            neighbourhoods they join; "start" and "end": these.
        include_anchor: whether the anchor is a member.
        min_size: least members, the anchor not counted.
        max_size: most members, and most nodes that one hop keeps of one anchor. None: no bound, which from "start" or
            "end" can take memory that grows with the square of a hub.
        oversize: "sample": a fixed sample of the members of larger ones; "drop": none of them. Hops are sampled either
            way, so that "drop" counts what is left after the hop before.
    """

    paths: Sequence[MetaPath]
    anchor: Literal["pivot", "start", "end"] = "pivot"
    include_anchor: bool = True
    min_size: int = 2
    max_size: int | None = 1000
    oversize: Literal["sample", "drop"] = "sample"

    def __call__(self, kg: KnowledgeGraph) -> Hypergraph:
        """See the class.

        Raises:
            ConfigError: a path names a relation that the graph does not have.
        """
        steps, n = _Steps(kg), kg.num_nodes
        hubs, members = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for kind, path in enumerate(self.paths):
            hub, member = self._pairs(steps, path)
            hubs.append(kind * n + hub)
            members.append(member)
        hub, member = np.concatenate(hubs), np.concatenate(members)
        names = tuple(f"along {' '.join(path)} {_WHERE[self.anchor]}" for path in self.paths)
        return from_hubs(hub, member, names, n, self.include_anchor, self.min_size, self.max_size, self.oversize)

    def _pairs(self, steps: _Steps, path: MetaPath) -> tuple[Int, Int]:
        """Anchor and every node that its instances lead through, sorted, each pair once."""
        matrices = [steps.matrix(step) for step in path]
        middle = {"pivot": len(path) // 2, "start": 0, "end": len(path)}[self.anchor]
        # From the anchor on, and from the anchor back.
        after = self._reach(matrices[middle:])
        before = self._reach([m.T.tocsr() for m in matrices[:middle][::-1]])
        whole = np.ones(len(steps.kg.y), dtype=bool)
        for arm in (after, before):
            if arm:
                whole &= np.diff(arm[-1].indptr) > 0
        union = sum(after + before, sp.csr_matrix(matrices[0].shape, dtype=np.int32))
        union.data *= np.repeat(whole, np.diff(union.indptr))
        union.eliminate_zeros()
        union.sort_indices()
        return np.repeat(np.arange(union.shape[0]), np.diff(union.indptr)), union.indices.astype(np.int64)

    def _reach(self, matrices: list[sp.csr_matrix]) -> list[sp.csr_matrix]:
        """Per hop, (N, N): which nodes whole instances reach from each node."""
        complete = np.ones(matrices[0].shape[0] if matrices else 0, dtype=bool)
        kept = []
        for matrix in reversed(matrices):
            matrix = _columns(matrix, complete)
            kept.append(matrix)
            complete = np.diff(matrix.indptr) > 0
        hops: list[sp.csr_matrix] = []
        for matrix in reversed(kept):
            hop = matrix if not hops else hops[-1] @ matrix
            hops.append(self._cap(_binary(hop)))
        return hops

    def _cap(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        if self.max_size is None or not len(matrix.indices) or int(np.diff(matrix.indptr).max()) <= self.max_size:
            return matrix
        owner = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        most = self.max_size if self.oversize == "sample" else self.max_size + 1
        keep = capped(owner, matrix.indices.astype(np.int64), matrix.shape[0], most)
        return sp.csr_matrix((matrix.data[keep], (owner[keep], matrix.indices[keep])), shape=matrix.shape)


_WHERE = {"pivot": "through", "start": "from", "end": "to"}


def discover_metapaths(
    kg: KnowledgeGraph,
    *,
    max_len: int = 2,
    top: int = 8,
    min_support: int = 50,
    there_and_back: bool = True,
) -> tuple[MetaPath, ...]:
    """The most frequent paths of each length from 2 to ``max_len``.

    Instances are counted without enumerating them, and those that only turn around at once, x to z to x, not at all.
    A path and its reverse are one, the one that comes first in the order of relations. Longer paths prolong the
    frequent shorter ones.

    Args:
        kg: where to look.
        max_len: steps of the longest path, at least 2.
        top: paths per length.
        min_support: least instances.
        there_and_back: whether paths count that return by the relation they came by, such as ``term> term<``.

    Returns:
        The paths, shorter first, then by the number of instances.
    """
    steps = _Steps(kg)
    names, arrive, leave = steps.names, steps.arrive, steps.leave
    # Rows: first step, columns: second. Both ends of an edge are steps, so reverse(s) is s with its last bit flipped.
    instances = np.asarray((arrive.T @ leave).todense())
    kinds = np.arange(len(names))
    instances[kinds, kinds ^ 1] -= np.asarray(arrive.sum(axis=0)).ravel()
    found: list[MetaPath] = []
    beam: list[tuple[int, ...]] = []
    pairs = np.argwhere(instances >= min_support).tolist()
    counts: list[tuple[tuple[int, ...], float]] = [((a, b), float(instances[a, b])) for a, b in pairs]
    for length in range(2, max_len + 1):
        if length > 2:
            counts = []
            for path in beam:
                ends = steps.instances(path) @ leave
                ends[path[-1] ^ 1] = 0.0  # Turning around: counted without telling x to z to x apart.
                counts += [((*path, int(s)), float(ends[s])) for s in np.flatnonzero(ends >= min_support)]
        best: dict[tuple[int, ...], float] = {}
        for path, count in counts:
            back = tuple(step ^ 1 for step in reversed(path))
            if there_and_back or back != path:
                best.setdefault(min(path, back), count)
        beam = sorted(best, key=lambda p: (-best[p], p))[:top]
        found += [tuple(names[step] for step in path) for path in beam]
        beam = sorted({*beam, *(tuple(step ^ 1 for step in reversed(p)) for p in beam)})
    return tuple(found)


class _Steps:
    """The 2 R steps of a graph: relation r forward is step 2 r, back 2 r + 1."""

    def __init__(self, kg: KnowledgeGraph) -> None:
        self.kg = kg
        self.names = [f"{r}{d}" for r in kg.relation_names for d in "><"]
        self.start = {name: i for i, name in enumerate(self.names)}
        self.order = np.argsort(kg.edge_type, kind="stable")
        self.begin = np.searchsorted(kg.edge_type[self.order], np.arange(len(kg.relation_names) + 1))

    def matrix(self, step: str | int) -> sp.csr_matrix:
        """(N, N) boolean: from where the step leads where."""
        if isinstance(step, str):
            check_path((step,))
            if step not in self.start:
                raise ConfigError(
                    f"meta-path step {step!r}: {self.kg.name} has no relation {step[:-1]!r}."
                    + did_you_mean(step, self.start)
                )
            step = self.start[step]
        at = self.order[self.begin[step // 2] : self.begin[step // 2 + 1]]
        source, target = self.kg.edge_index[:: -1 if step % 2 else 1, at]
        n = self.kg.num_nodes
        return _binary(sp.csr_matrix((np.ones(len(at), np.int32), (source, target)), shape=(n, n)))

    def instances(self, path: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """(N,) instances of a path that end in each node; those that turn around count too."""
        ends = np.ones(self.kg.num_nodes)
        for step in path:
            ends = self.matrix(step).T.astype(np.float64) @ ends
        return ends

    def _counts(self, row: int) -> sp.csr_matrix:
        """(N, 2 R): steps that arrive at (row 0) or leave (row 1) each node."""
        ends, kinds = self.kg.edge_index, self.kg.edge_type
        # Forward, a step leaves the head and arrives at the tail; back, the other way round.
        first, second = (ends[1], ends[0]) if row == 0 else (ends[0], ends[1])
        nodes, steps = np.concatenate([first, second]), np.concatenate([2 * kinds, 2 * kinds + 1])
        shape = (self.kg.num_nodes, len(self.names))
        return sp.csr_matrix((np.ones(len(nodes)), (nodes, steps)), shape=shape)

    @cached_property
    def arrive(self) -> sp.csr_matrix:
        """(N, 2 R) steps of each kind that arrive."""
        return self._counts(0)

    @cached_property
    def leave(self) -> sp.csr_matrix:
        """(N, 2 R) steps of each kind that leave."""
        return self._counts(1)


def _binary(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix.sum_duplicates()
    matrix.data = np.ones(len(matrix.data), dtype=np.int32)
    return matrix


def _columns(matrix: sp.csr_matrix, keep: npt.NDArray[np.bool_]) -> sp.csr_matrix:
    """The entries in these columns."""
    if keep.all():
        return matrix
    result = matrix.copy()
    result.data *= keep[result.indices]
    result.eliminate_zeros()
    return result


__all__ = ["MetaPathBuilder", "discover_metapaths"]
