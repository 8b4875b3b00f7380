"""Knowledge graphs from files, frames and PyTorch Geometric, with the literature's folds as their split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from polycontrast.config import MethodConfig
from polycontrast.data import Dataset, Examples, Purpose, TensorExamples
from polycontrast.data.readers import place
from polycontrast.errors import DataError, one_line
from polycontrast_graph.config import GraphConfig
from polycontrast_graph.folds import TEST, TRAIN, VAL, folds
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.tables import TABLES, TRIPLES, find, local_name, numbers, read_ntriples, read_words, words

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import HeteroData

HEAD = ("head", "subject", "source", "src", "h")
RELATION = ("relation", "predicate", "rel", "edge_type", "r")
TAIL = ("tail", "object", "target", "dst", "t")
ID = ("id", "node_id", "node", "entity")
_EDGE_FILES = ("edges", "triples")


@dataclass(kw_only=True, eq=False)
class GraphDataset(Dataset):
    """A knowledge graph and the parts of its labelled nodes in every fold."""

    kg: KnowledgeGraph
    parts: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, 0), np.int8))
    """(folds, N): 0 train, 1 validation, 2 test, -1 without label; no rows when opened to predict."""

    def nodes(self, split: str, fold: int = 0) -> npt.NDArray[np.int64]:
        """Nodes of ``train``, ``val`` or ``test`` in a fold, sorted."""
        return np.flatnonzero(self.parts[fold] == {"train": TRAIN, "val": VAL, "test": TEST}[split])

    def to_heterodata(self) -> HeteroData:
        """As :meth:`KnowledgeGraph.to_heterodata`, with ``train_mask``, ``val_mask`` and ``test_mask`` (n, folds)."""
        data = self.kg.to_heterodata()
        for kind in data.node_types:
            parts = torch.from_numpy(self.parts[:, data[kind].node_id.numpy()].T.copy())
            for name, value in (("train_mask", TRAIN), ("val_mask", VAL), ("test_mask", TEST)):
                data[kind][name] = parts == value
        return data


def read(path: Path, config: MethodConfig, seed: int, purpose: Purpose) -> GraphDataset:
    """The graph in a folder or file.

    A folder holds ``nodes`` and ``edges`` (or ``triples``), each tab separated, comma separated or Parquet, also
    gzipped; edges may be N-Triples (``.nt``). Or it has the layout of the collections of node importance:
    ``nodes.tsv.gz``, ``relations.json`` and ``graph.npz``. A single N-Triples file may hold everything: literals of the
    predicate ``data.score`` are scores, of ``label`` or ``name`` names, of ``data.text`` texts.

    Args:
        path: of the folder or file.
        config: of the method; its ``data`` is a :class:`GraphConfig`.
        seed: not used, a file is what it is.
        purpose: to predict, no node needs a score.

    Raises:
        DataError: something is missing or damaged; edges name nodes that do not exist; scores are negative, no number,
            or none at all; a relation has no edges.
    """
    return dataset_of(read_graph(path, _data(config), labels=purpose != "predict"), _data(config), str(path), purpose)


def dataset_of(
    kg: KnowledgeGraph,
    config: MethodConfig | GraphConfig | None = None,
    name: str = "graph",
    purpose: Purpose = "train",
) -> GraphDataset:
    """A dataset from a graph.

    Args:
        kg: the graph.
        config: how its labelled nodes are split; of the method or the data. None: the defaults.
        name: what results call it.
        purpose: to predict, there is one part, ``all``.

    Raises:
        DataError: there are too few labelled nodes for the folds.
    """
    data = _data(config)
    everything = {"id": torch.arange(kg.num_nodes), "y": torch.from_numpy(kg.y)}
    protocol = {"nodes": kg.num_nodes, "edges": kg.num_edges, "relations": len(kg.relation_names)}
    if purpose == "predict":
        return GraphDataset(
            name=name, kg=kg, splits={"all": TensorExamples(everything)}, protocol=protocol, notes=kg.notes
        )
    labelled = int(kg.labelled.sum())
    if labelled < 2 * data.folds:
        raise DataError(
            f"{name}: {labelled} nodes have a score, {data.folds} folds need at least {2 * data.folds}; label more or "
            "lower data.folds"
        )
    parts = folds(kg.labelled, count=data.folds, seed=data.split_seed)
    shown = 0 if data.fold == "all" else data.fold
    splits: dict[str, Examples] = {}
    for split, value in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        at = torch.from_numpy(np.flatnonzero(parts[shown] == value))
        splits[split] = TensorExamples({key: column[at] for key, column in everything.items()})
    protocol |= {"labelled": labelled, "folds": data.folds, "split_seed": data.split_seed}
    return GraphDataset(
        name=name, kg=kg, parts=parts, splits=splits, protocol={**protocol, "fold": data.fold}, notes=kg.notes
    )


def from_frames(
    nodes: pd.DataFrame, edges: pd.DataFrame, config: MethodConfig | GraphConfig | None = None, *,
    name: str = "frames", purpose: Purpose = "train",
) -> GraphDataset:  # fmt: skip
    """The graph in two frames.

    Args:
        nodes: ``id`` (else the first column), ``score`` (NaN without label) and, where known, ``name``, ``text``,
            ``type``, ``x_struct`` and ``x_text`` (a list or array of numbers per node).
        edges: ``head``, ``relation`` and ``tail``, the ends by id.
        config: as in :func:`dataset_of`.
        name: what errors and results call it.
        purpose: as in :func:`read`.

    Raises:
        DataError: as :func:`read`.
    """
    data = _data(config)
    tables = [pa.Table.from_pandas(frame, preserve_index=False) for frame in (nodes, edges)]
    kg = _joined(tables[0], tables[1], data, name, f"{name} (nodes)", f"{name} (edges)", purpose != "predict")
    return dataset_of(kg, data, name, purpose)


def from_heterodata(
    graph: HeteroData, config: MethodConfig | GraphConfig | None = None, *, name: str = "HeteroData",
    purpose: Purpose = "train",
) -> GraphDataset:  # fmt: skip
    """The graph in ``torch_geometric.data.HeteroData``, see :meth:`KnowledgeGraph.from_heterodata`."""
    data = _data(config)
    kg = KnowledgeGraph.from_heterodata(
        graph, name=name, labels=purpose != "predict", duplicates=data.duplicates, inverse=data.inverse
    )
    return dataset_of(kg, data, name, purpose)


class NIEFromTables:
    """A graph from two tables, in the ways that people of PyTorch Geometric and of this package take it.

    Args:
        nodes: file, see :func:`read`.
        edges: file.
        config: how it is read and split.

    Attributes:
        dataset: for the methods here.
        data: ``HeteroData`` with ``y`` and masks (n, folds).
    """

    def __init__(self, nodes: str | Path, edges: str | Path, config: GraphConfig | None = None) -> None:
        config = config or GraphConfig()
        kg = _from_files(Path(nodes), Path(edges), config, str(nodes), labels=True)
        self.dataset = dataset_of(kg, config, str(nodes))

    @property
    def data(self) -> HeteroData:
        """The graph with masks."""
        return self.dataset.to_heterodata()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> HeteroData:
        if index not in (0, -1):
            raise IndexError("there is one graph, number 0")
        return self.data


class FB15kNIE(NIEFromTables):
    """FB15k with page views as scores: 14,951 entities, the edges of FB15k-237 or of the full FB15k.

    Args:
        root: a folder that :func:`read` reads.
        config: how it is read and split.
    """

    num_nodes = 14_951

    def __init__(self, root: str | Path, config: GraphConfig | None = None) -> None:
        config = config or GraphConfig()
        kg = read_graph(Path(root), config)
        if kg.num_nodes != self.num_nodes:
            raise DataError(
                f"{root} has {kg.num_nodes} nodes, {type(self).__name__} has {self.num_nodes}; wrong folder"
            )
        self.dataset = dataset_of(kg, config, str(root))


class Music10kNIE(FB15kNIE):
    """MUSIC10K with the familiarity of artists as scores: 22,985 entities, 4,412 of them artists."""

    num_nodes = 22_985


# ---- files ---------------------------------------------------------------------------------------------------------


def read_graph(path: Path, config: GraphConfig | None = None, *, labels: bool = True) -> KnowledgeGraph:
    """The graph in a folder or file, without a split; see :func:`read`.

    Args:
        path: of the folder or file.
        config: how to read it.
        labels: whether a node must have a score.
    """
    config = config or GraphConfig()
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    if path.is_file():
        if path.name.lower().endswith(TRIPLES):
            return _from_ntriples(path, None, config, labels)
        if path.name.lower().endswith(TABLES):
            return _from_files(None, path, config, str(path), labels)
        raise DataError(
            f"{path} is of an unknown kind; give a folder, or triples ending in {', '.join(TRIPLES + TABLES)}"
        )
    nodes, packed = find(path, ["nodes"], TABLES), path / "graph.npz"
    if packed.is_file() and nodes is not None:
        return _from_packed(path, nodes, packed, config, labels)
    edges = find(path, _EDGE_FILES, (*TABLES, *TRIPLES))
    if edges is None:
        raise DataError(f"{path} has no edges; it needs a file edges.tsv, edges.parquet, triples.nt or the like")
    if edges.name.lower().endswith(TRIPLES):
        return _from_ntriples(edges, nodes, config, labels)
    return _from_files(nodes, edges, config, str(path), labels)


def _data(config: MethodConfig | GraphConfig | None) -> GraphConfig:
    if config is None:
        return GraphConfig()
    data = config if isinstance(config, GraphConfig) else config.data
    if not isinstance(data, GraphConfig):
        raise TypeError(f"config.data must be a GraphConfig, got {type(data).__name__}")
    return data


def _from_files(nodes: Path | None, edges: Path, config: GraphConfig, name: str, labels: bool) -> KnowledgeGraph:
    links, first = read_words(edges, [HEAD, RELATION, TAIL], width=3)
    if nodes is None:
        return _joined(None, links, config, name, "", str(edges), labels, None, first)
    about, line = _read_nodes(nodes, config)
    return _joined(about, links, config, name, str(nodes), str(edges), labels, line, first)


def _read_nodes(path: Path, config: GraphConfig) -> tuple[pa.Table, int | None]:
    return read_words(path, [ID, [config.score], ["name"], [config.valid], ["type"], config.text])


def _joined(
    nodes: pa.Table | None, edges: pa.Table, config: GraphConfig, name: str, node_file: str, edge_file: str,
    labels: bool, node_line: int | None = None, edge_line: int | None = None,
) -> KnowledgeGraph:  # fmt: skip
    """A graph from tables whose edges name nodes by id."""
    head, relation, tail = (
        words(edges, _column(edges, names, i, edge_file), edge_file, edge_line)
        for i, names in enumerate((HEAD, RELATION, TAIL))
    )
    if nodes is None:
        ids = pc.unique(pa.chunked_array([head, tail]))
        about: dict[str, Any] = {"names": None, "score": None}
    else:
        column = next((c for c in ID if c in nodes.column_names), nodes.column_names[0])
        ids = words(nodes, column, node_file, node_line)
        about = _about(nodes, config, node_file, node_line)
    ends = [pc.index_in(end, value_set=ids) for end in (head, tail)]
    strange = [pc.index(pc.is_null(end), True).as_py() for end in ends]
    if max(strange) >= 0:
        row = min(at for at in strange if at >= 0)
        word = (head if row == strange[0] else tail)[row].as_py()
        count = pc.sum(pc.cast(pc.or_(pc.is_null(ends[0]), pc.is_null(ends[1])), pa.int64())).as_py()
        raise DataError(
            f"{edge_file}, {place(edge_line, row)}: {word!r} is no node of {node_file}; add it or remove the {count} "
            "dangling edges"
        )
    kinds = relation.dictionary_encode()
    return KnowledgeGraph.from_arrays(
        ends[0].to_numpy(), kinds.indices.to_numpy(), ends[1].to_numpy(), num_nodes=len(ids), ids=ids.to_pylist(),
        relation_names=kinds.dictionary.to_pylist(), name=name, labels=labels, duplicates=config.duplicates,
        inverse=config.inverse, place=lambda row: place(edge_line, row), **about,
    )  # fmt: skip


def _column(table: pa.Table, names: Sequence[str], position: int, file: str) -> str:
    found = next((n for n in names if n in table.column_names), None)
    if found is None and table.column_names == ["c0", "c1", "c2"]:
        found = f"c{position}"
    if found is None:
        raise DataError(f"{file} has no column {names[0]!r}; it has {', '.join(table.column_names)}")
    return found


def _about(nodes: pa.Table, config: GraphConfig, file: str, line: int | None) -> dict[str, Any]:
    """What a node table says, as arguments of :meth:`KnowledgeGraph.from_arrays`."""
    score = None
    if config.score in nodes.column_names:
        score = np.array(numbers(nodes, config.score, file, line).to_numpy(zero_copy_only=False), dtype=np.float64)
        if config.valid in nodes.column_names:
            valid = numbers(nodes, config.valid, file, line).to_numpy(zero_copy_only=False)
            score[~(valid == 1)] = np.nan
        if (score < 0).any():
            row = int((score < 0).argmax())
            raise DataError(
                f"{file}, {place(line, row)}: the score is negative ({score[row]:g}); scores are counts or the like, "
                "at least 0, as log(1 + score) is learned"
            )
    names = _texts(nodes, "name")
    about: dict[str, Any] = {"score": score, "names": names}
    columns = [_texts(nodes, c) for c in config.text if c in nodes.column_names]
    about["text"] = joined_text(names if config.use_name else None, [c for c in columns if c is not None])
    if (kinds := _texts(nodes, "type")) is not None:
        encoded = pa.array(kinds).dictionary_encode()
        about |= {"node_type": encoded.indices.to_numpy(), "node_type_names": encoded.dictionary.to_pylist()}
    for what in ("x_struct", "x_text"):
        if what in nodes.column_names:
            about[what] = _vectors(nodes, what, file, line)
    return about


def joined_text(names: Sequence[str] | None, columns: Sequence[Sequence[str]]) -> list[str] | None:
    """The text of every node: its columns joined, after its name where they do not begin with it; None without any.

    Args:
        names: (N,) or None to leave them out; underscores become spaces.
        columns: each (N,).
    """
    if not columns and names is None:
        return None
    count = len(columns[0] if columns else names or ())
    said = (
        [" ".join(part for part in parts if part) for parts in zip(*columns, strict=True)] if columns else [""] * count
    )
    if names is None:
        return said
    spoken = [name.replace("_", " ") for name in names]
    return [
        text if not name or text.lower().startswith(name.lower()) else f"{name}: {text}" if text else name
        for name, text in zip(spoken, said, strict=True)
    ]


def _texts(table: pa.Table, column: str) -> list[str] | None:
    if column not in table.column_names:
        return None
    return cast("list[str]", pc.fill_null(table[column].cast(pa.string()), "").to_pylist())


def _vectors(table: pa.Table, column: str, file: str, line: int | None) -> npt.NDArray[np.float32]:
    rows = table[column].to_pylist()
    try:
        return np.array(rows, dtype=np.float32)
    except (ValueError, TypeError):
        width = len(rows[0] or ())
        row = next((i for i, r in enumerate(rows) if r is None or len(r) != width), 0)
        raise DataError(
            f"{file}, {place(line, row)}: column {column!r} must hold as many numbers in every row, {width} as in the "
            "first"
        ) from None


def _from_packed(folder: Path, nodes: Path, packed: Path, config: GraphConfig, labels: bool) -> KnowledgeGraph:
    about, line = _read_nodes(nodes, config)
    relations = folder / "relations.json"
    try:
        with np.load(packed, allow_pickle=False) as file:
            head, relation, tail = (file[name] for name in ("head", "rel", "tail"))
    except KeyError as error:
        raise DataError(f"{packed} lacks an array ({one_line(error)}); it needs head, rel and tail") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{packed} is no readable npz file ({one_line(error)}); copy it again") from error
    try:
        names = json.loads(relations.read_text(encoding="utf-8")) if relations.is_file() else None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{relations} is no readable JSON ({one_line(error)}); it needs a list of names") from error
    if names is not None and not isinstance(names, list):
        raise DataError(f"{relations} must be a list of names, got {type(names).__name__}")
    external = next((c for c in ("id", "mid", "ext_id", "node_id") if c in about.column_names), None)
    ids = words(about, external, nodes, line).to_pylist() if external else None
    return KnowledgeGraph.from_arrays(
        head, relation, tail, num_nodes=about.num_rows, relation_names=names, ids=ids, name=str(folder), labels=labels,
        duplicates=config.duplicates, inverse=config.inverse, **_about(about, config, str(nodes), line),
    )  # fmt: skip


_NAMES = ("label", "name", "prefLabel", "title")
_TEXTS = ("comment", "abstract")


def _from_ntriples(path: Path, nodes: Path | None, config: GraphConfig, labels: bool) -> KnowledgeGraph:
    links, facts = read_ntriples(path)
    table = pa.table(dict(zip(("head", "relation", "tail"), map(list, zip(*links, strict=True)), strict=True)))
    if nodes is not None:
        about, line = _read_nodes(nodes, config)
        return _joined(about, table, config, str(path.parent), str(nodes), str(path), labels, line)
    ids = list(dict.fromkeys(end for h, _, t in links for end in (h, t)))
    said = _said(facts, config)
    columns: dict[str, list[Any]] = {"id": ids}
    for column, values in said.items():
        columns[column] = [values.get(node, "") for node in ids]
    kg = _joined(pa.table(columns), table, config, str(path), str(path), str(path), labels)
    if kg.names is None:
        return replace(kg, names=[local_name(node) for node in ids])
    return kg


def _said(facts: Sequence[tuple[str, str, str]], config: GraphConfig) -> Mapping[str, dict[str, str]]:
    """Literals by column of a node table, then by subject; the first one counts."""
    known = {config.score: config.score, config.valid: config.valid}
    known |= {n: "name" for n in _NAMES} | {t: config.text[0] for t in _TEXTS if config.text}
    known |= {t: t for t in config.text}
    columns: dict[str, dict[str, str]] = {}
    for subject, predicate, value in facts:
        column = known.get(predicate) or known.get(local_name(predicate))
        if column is not None:
            columns.setdefault(column, {}).setdefault(subject, value)
    return columns


__all__ = [
    "FB15kNIE", "GraphDataset", "Music10kNIE", "NIEFromTables", "dataset_of", "from_frames", "from_heterodata", "read",
    "read_graph",
]  # fmt: skip
