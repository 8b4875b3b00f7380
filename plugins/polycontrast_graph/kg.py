"""A knowledge graph as arrays, checked when it is made; no torch, no Python object per edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from polycontrast.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

Int = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class KnowledgeGraph:
    """N entities, E typed edges, what is said and known about them.

    Make one with :meth:`from_arrays`, which checks; the plain constructor trusts its arguments.
    """

    edge_index: Int
    """(2, E) int64: head and tail of every triple."""
    edge_type: Int
    """(E,) int64 relation of every triple."""
    relation_names: tuple[str, ...]
    y: Float32
    """(N,) float32 log(1 + score), NaN where there is no label."""
    ids: Sequence[str] | None = None
    """(N,) names that the source gives its nodes, all different. None: the position."""
    names: Sequence[str] | None = None
    """(N,) names for people. None: the ids."""
    text: Sequence[str] | None = None
    """(N,) text about each node, empty where there is none."""
    node_type: Int | None = None
    """(N,) int64."""
    node_type_names: tuple[str, ...] = ()
    x_struct: Float32 | None = None
    """(N, ds) structural features that the data bring."""
    x_text: Float32 | None = None
    """(N, dt) text features that the data bring."""
    name: str = "graph"
    """What errors and results call it."""
    notes: tuple[str, ...] = field(default=(), repr=False)
    """What a person should know about how it was read."""

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.y)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.shape[1]

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a node has a score."""
        return np.isfinite(self.y)

    def id(self, node: int) -> str:
        """What the source calls a node."""
        return str(node) if self.ids is None else str(self.ids[node])

    def label(self, node: int) -> str:
        """What people call a node."""
        return self.id(node) if self.names is None or not self.names[node] else str(self.names[node])

    @classmethod
    def from_arrays(
        cls,
        head: npt.ArrayLike,
        relation: npt.ArrayLike,
        tail: npt.ArrayLike,
        *,
        num_nodes: int,
        relation_names: Sequence[str] | None = None,
        score: npt.ArrayLike | None = None,
        y: npt.ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        text: Sequence[str] | None = None,
        node_type: npt.ArrayLike | None = None,
        node_type_names: Sequence[str] = (),
        x_struct: npt.ArrayLike | None = None,
        x_text: npt.ArrayLike | None = None,
        name: str = "graph",
        labels: bool = True,
        duplicates: Literal["drop", "refuse"] = "drop",
        inverse: Literal["drop", "keep"] = "drop",
        place: Callable[[int], str] = "edge {}".format,
    ) -> KnowledgeGraph:
        """A checked graph.

        Args:
            head: (E,) positions of nodes, and
            tail: (E,) likewise.
            relation: (E,) positions in ``relation_names``.
            num_nodes: N.
            relation_names: None: "0", "1", ... Each must have an edge.
            score: (N,) raw scores, at least 0; NaN without label. ``y`` is their log(1 + score).
            y: (N,) in place of ``score``, already on the scale to be learned.
            ids: (N,), see the fields, as are
            names: (N,)
            text: (N,)
            node_type: (N,)
            node_type_names: one per type
            x_struct: (N, ds)
            x_text: (N, dt) and
            name: what errors call the graph.
            labels: whether at least one label is needed.
            duplicates: drop triples that occur twice, with a note, or refuse them.
            inverse: drop relations that hold exactly the turned edges of an earlier one, with a note, or keep them.
            place: how a person finds an edge, from its position.

        Raises:
            DataError: arrays that do not fit, ids that occur twice, edges to nodes that do not exist, negative or
                infinite scores, no label, a relation without edges.
        """
        notes: list[str] = []
        heads, tails, types = (
            _whole(part, what, name) for part, what in ((head, "heads"), (tail, "tails"), (relation, "relations"))
        )
        if num_nodes < 1:
            raise DataError(f"{name} has no nodes; add some")
        if not len(heads) == len(types) == len(tails):
            sizes = f"{len(heads)}, {len(types)} and {len(tails)}"
            raise DataError(f"{name}: heads, relations and tails must be as many, got {sizes}")
        edges = np.stack([heads, tails])
        if not len(types):
            raise DataError(f"{name} has no edges; add triples of head, relation and tail")
        outside = (edges < 0) | (edges >= num_nodes)
        if outside.any():
            at = int(outside.any(axis=0).argmax())
            node = int(edges[0 if outside[0, at] else 1, at])
            raise DataError(
                f"{name}, {place(at)}: node {node} does not exist, nodes are 0 .. {num_nodes - 1}; "
                f"add it or remove the {int(outside.any(axis=0).sum())} dangling edges"
            )
        relations = tuple(map(str, relation_names)) if relation_names is not None else None
        types, relations = _check_relations(types, relations, name, place)
        edges, types = _without_duplicates(edges, types, relations, num_nodes, duplicates, name, place, notes)
        if inverse == "drop":
            edges, types, relations = _without_inverses(edges, types, relations, num_nodes, notes)
        label = _labels(score, y, num_nodes, name, labels)
        for what, column in (("ids", ids), ("names", names), ("text", text)):
            if column is not None and len(column) != num_nodes:
                raise DataError(f"{name}: {len(column)} {what} for {num_nodes} nodes; give one per node")
        if ids is not None and len(set(ids)) < num_nodes:
            seen: set[str] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"{name}: two nodes have the id {twice!r}; ids must be different")
        if text is not None and (empty := sum(not t for t in text)):
            if empty == num_nodes:
                text = None
                notes.append("no node has a text: its text features are zero")
            else:
                notes.append(f"{empty} of {num_nodes} nodes have no text: their text features are zero")
        return cls(
            edge_index=edges, edge_type=types, relation_names=relations, y=label, ids=ids, names=names, text=text,
            node_type=None if node_type is None else _whole(node_type, "node types", name),
            node_type_names=tuple(node_type_names),
            x_struct=_features(x_struct, "x_struct", num_nodes, name),
            x_text=_features(x_text, "x_text", num_nodes, name),
            name=name, notes=tuple(notes),
        )  # fmt: skip

    def with_labels(self, y: npt.ArrayLike) -> KnowledgeGraph:
        """The same graph with other labels, (N,) with NaN where there is none."""
        return replace(self, y=np.asarray(y, dtype=np.float32))

    # ---- PyTorch Geometric -----------------------------------------------------------------------------------

    def to_heterodata(self) -> HeteroData:
        """The same as ``torch_geometric.data.HeteroData``.

        Every node type holds ``num_nodes``, ``node_id`` (position here), ``y`` and, where known, ``name``, ``text``,
        ``x_struct`` and ``x_text``; every (type, relation, type) an ``edge_index``.
        """
        import torch
        from torch_geometric.data import HeteroData

        data = HeteroData()
        kinds = np.zeros(self.num_nodes, np.int64) if self.node_type is None else self.node_type
        kind_names = self.node_type_names or tuple(
            ["node"] if self.node_type is None else map(str, range(int(kinds.max()) + 1))
        )
        local = np.empty(self.num_nodes, np.int64)
        for kind, kind_name in enumerate(kind_names):
            at = np.flatnonzero(kinds == kind)
            local[at] = np.arange(len(at))
            store = data[kind_name]
            store.num_nodes = len(at)
            store.node_id = torch.from_numpy(at)
            store.y = torch.from_numpy(self.y[at])
            for what in ("x_struct", "x_text"):
                if (value := getattr(self, what)) is not None:
                    store[what] = torch.from_numpy(value[at])
            for what, values in (("id", self.ids), ("name", self.names), ("text", self.text)):
                if values is not None:
                    store[what] = [values[i] for i in at.tolist()]
        head, tail = self.edge_index
        relations, n = len(self.relation_names), len(kind_names)
        key = (self.edge_type * n + kinds[head]) * n + kinds[tail]
        order = np.argsort(key, kind="stable")
        present, first = np.unique(key[order], return_index=True)
        assert len(present) == 0 or int(present[-1]) < relations * n * n
        for value, at in zip(present.tolist(), np.split(order, first[1:]), strict=True):
            triple = (kind_names[value // n % n], self.relation_names[value // n // n], kind_names[value % n])
            data[triple].edge_index = torch.from_numpy(np.stack([local[head[at]], local[tail[at]]]))
        return data

    @classmethod
    def from_heterodata(cls, data: HeteroData, *, name: str = "HeteroData", **options: Any) -> KnowledgeGraph:
        """A graph from ``torch_geometric.data.HeteroData``.

        Args:
            data: its node types may hold ``score`` (raw, at least 0) or ``y`` (taken as it is), NaN without label;
                ``node_id`` (position in the result; without it, the types follow each other), ``id``, ``name``,
                ``text``, ``x_struct`` and ``x_text``. What a type lacks is missing for its nodes. Relations of one
                name are one relation, whatever they join.
            name: what errors call it.
            options: passed to :meth:`from_arrays`.

        Raises:
            DataError: as :meth:`from_arrays`.
        """
        kinds = list(data.node_types)
        sizes = [int(data[kind].num_nodes or 0) for kind in kinds]
        total = sum(sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        spots = {kind: np.arange(starts[i], starts[i + 1]) for i, kind in enumerate(kinds)}
        if kinds and all("node_id" in data[kind] for kind in kinds):
            spots = {kind: data[kind].node_id.cpu().numpy() for kind in kinds}
            if not np.array_equal(np.sort(np.concatenate(list(spots.values()))), np.arange(total)):
                raise DataError(f"{name}: node_id must number the nodes of all types from 0 to {total - 1}")

        def column(what: str, fill: Any) -> Any:
            parts = {kind: data[kind][what] for kind in kinds if what in data[kind]}
            if not parts:
                return None
            if isinstance(fill, str):
                texts: list[str] = [fill] * total
                for kind, part in parts.items():
                    for spot, value in zip(spots[kind].tolist(), part, strict=True):
                        texts[spot] = str(value)
                return texts
            shape = next(iter(parts.values())).shape[1:]
            values = np.full((total, *shape), fill, dtype=np.float32)
            for kind, part in parts.items():
                if tuple(part.shape) != (len(spots[kind]), *shape):
                    raise DataError(
                        f"{name}: {what} of {kind!r} has shape {tuple(part.shape)}; all types need one width"
                    )
                values[spots[kind]] = part.cpu().numpy()
            return values

        relations: dict[str, int] = {}
        heads, types, tails = [], [], []
        for source, relation, target in data.edge_types:
            index = data[source, relation, target].edge_index.cpu().numpy()
            for row, kind in ((0, source), (1, target)):
                if index.shape[1] and not (index[row].min() >= 0 and index[row].max() < len(spots[kind])):
                    raise DataError(
                        f"{name}: an edge of {relation!r} names a {kind!r} that does not exist, there are "
                        f"{len(spots[kind])}; add it or remove the edge"
                    )
            heads.append(spots[source][index[0]])
            tails.append(spots[target][index[1]])
            types.append(np.full(index.shape[1], relations.setdefault(relation, len(relations))))
        if not heads:
            raise DataError(f"{name} has no edges; add triples of head, relation and tail")
        kind_of = np.empty(total, np.int64)
        for i, kind in enumerate(kinds):
            kind_of[spots[kind]] = i
        score, y = column("score", np.nan), column("y", np.nan)
        ids = column("id", "") if all("id" in data[kind] for kind in kinds) else None
        return cls.from_arrays(
            np.concatenate(heads), np.concatenate(types), np.concatenate(tails), num_nodes=total,
            relation_names=list(relations), score=score, y=None if score is not None else y, ids=ids,
            names=column("name", ""), text=column("text", ""), node_type=kind_of, node_type_names=kinds,
            x_struct=column("x_struct", 0.0), x_text=column("x_text", 0.0), name=name, **options,
        )  # fmt: skip


# ---- checks --------------------------------------------------------------------------------------------------------


def _whole(values: npt.ArrayLike, what: str, name: str) -> Int:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name}: {what} must be a list of whole numbers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _features(values: npt.ArrayLike | None, what: str, num_nodes: int, name: str) -> Float32 | None:
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or len(array) != num_nodes:
        raise DataError(f"{name}: {what} has shape {array.shape}; give one row for each of the {num_nodes} nodes")
    if not np.isfinite(array).all():
        row = int((~np.isfinite(array)).any(axis=1).argmax())
        raise DataError(f"{name}: {what} of node {row} is not finite; mend or zero it")
    return array


def _labels(score: npt.ArrayLike | None, y: npt.ArrayLike | None, num_nodes: int, name: str, needed: bool) -> Float32:
    given = y if score is None else score
    values = np.full(num_nodes, np.nan) if given is None else np.asarray(given, dtype=np.float64)
    if values.shape != (num_nodes,):
        raise DataError(f"{name}: scores have shape {values.shape}; give one for each of the {num_nodes} nodes")
    if np.isinf(values).any():
        at = int(np.isinf(values).argmax())
        raise DataError(f"{name}: the score of node {at} is infinite; mend it or leave it out")
    if score is not None:
        if (values < 0).any():
            at = int((values < 0).argmax())
            raise DataError(
                f"{name}: the score of node {at} is negative ({values[at]:g}); scores are counts or the like, at "
                "least 0, as log(1 + score) is learned"
            )
        values = np.log1p(values)
    if needed and not np.isfinite(values).any():
        raise DataError(f"{name}: no node has a score; training needs some")
    return values.astype(np.float32)


def _check_relations(
    types: Int, names: tuple[str, ...] | None, name: str, place: Callable[[int], str]
) -> tuple[Int, tuple[str, ...]]:
    known = int(types.max()) + 1 if names is None else len(names)
    outside = (types < 0) | (types >= known)
    if outside.any():
        at = int(outside.argmax())
        raise DataError(f"{name}, {place(at)}: relation {types[at]} does not exist, relations are 0 .. {known - 1}")
    names = names or tuple(map(str, range(known)))
    if len(set(names)) < known:
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise DataError(f"{name}: two relations are called {twice!r}; rename one")
    without = np.flatnonzero(np.bincount(types, minlength=known) == 0)
    if len(without):
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise DataError(f"{name}: relation {names[int(without[0])]!r}{more} has no edges; remove it or add its edges")
    return types, names


def _without_duplicates(
    edges: Int, types: Int, relations: tuple[str, ...], num_nodes: int, mode: str, name: str,
    place: Callable[[int], str], notes: list[str],
) -> tuple[Int, Int]:  # fmt: skip
    # (relation, head) and tail as two keys: one number could overflow.
    outer = types * num_nodes + edges[0]
    order = np.lexsort((edges[1], outer))
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (np.diff(outer[order]) == 0) & (np.diff(edges[1][order]) == 0)
    if not again.any():
        return edges, types
    count = int(again.sum())
    if mode == "refuse":
        at = int(order[again].min())
        raise DataError(
            f"{name}, {place(at)}: the triple ({edges[0, at]}, {relations[types[at]]}, {edges[1, at]}) occurs twice, "
            f"{count} do; remove them or set data.duplicates=drop"
        )
    # lexsort is stable, so of equal triples the first in the file stays.
    keep = np.ones(len(order), dtype=bool)
    keep[order[again]] = False
    notes.append(f"{count} duplicated triples were dropped")
    return edges[:, keep], types[keep]


def _without_inverses(
    edges: Int, types: Int, relations: tuple[str, ...], num_nodes: int, notes: list[str]
) -> tuple[Int, Int, tuple[str, ...]]:
    """Leave out each relation whose edges are those of an earlier one, turned around."""
    count = len(relations)
    sizes = np.bincount(types, minlength=count)
    forward, backward = (_fingerprints(types, a, b, count) for a, b in (edges, edges[::-1]))
    partner = {(int(sizes[r]), int(forward[r])): r for r in reversed(range(count))}
    dropped: dict[int, int] = {}
    for r in range(count):
        earlier = partner.get((int(sizes[r]), int(backward[r])))
        if earlier is None or earlier >= r or earlier in dropped:
            continue
        of, mine = edges[:, types == earlier], edges[::-1, types == r]
        if np.array_equal(of[:, np.lexsort(of)], mine[:, np.lexsort(mine)]):
            dropped[r] = earlier
    if not dropped:
        return edges, types, relations
    stays = np.array([r not in dropped for r in range(count)])
    keep = stays[types]
    names = ", ".join(f"{relations[r]!r} of {relations[e]!r}" for r, e in list(dropped.items())[:4])
    notes.append(f"{len(dropped)} relations are the inverse of another and were left out (data.inverse): {names}")
    renumbered = np.cumsum(stays) - 1
    return edges[:, keep], renumbered[types[keep]], tuple(n for n, s in zip(relations, stays, strict=True) if s)


def _fingerprints(types: Int, first: Int, second: Int, count: int) -> npt.NDArray[np.uint64]:
    """One number per relation that does not depend on the order of its edges."""
    from polycontrast_graph.grouping import mixed

    sums = np.zeros(count, dtype=np.uint64)
    np.add.at(sums, types, mixed(mixed(first.astype(np.uint64)) + second.astype(np.uint64)))
    return sums


__all__ = ["KnowledgeGraph"]
