"""Graphs from files and objects. Pickles are read without running anything in them."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from torch import Tensor

from polycontrast.data.readers import read_table
from polycontrast.errors import DataError, one_line
from polycontrast_timeseries.st_ssdl.config import PanelConfig
from polycontrast_timeseries.st_ssdl.graph import Graph
from polycontrast_timeseries.st_ssdl.panel import some

GraphLike = Any
"""A :class:`Graph`, a path, an adjacency matrix (array, tensor, sparse, or a frame with sensors as index and columns),
or a pair (edge_index (2, E), weights (E,) or None)."""

SUFFIXES = (".csv", ".npz", ".npy", ".pkl", ".pickle", ".rel")
USUAL_NAMES = ("adjacency", "adj", "adj_mx", "distances", "distance", "edges", "edge_index", "graph")
"""File names without suffix, also after an underscore (los_adj.csv), that a folder's graph is looked for under."""


def find_graph(folder: Path) -> Path | None:
    """The graph file of a folder by its name, or None.

    Raises:
        DataError: there are several.
    """
    fitting = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in SUFFIXES and any(file.stem == n or file.stem.endswith(f"_{n}") for n in USUAL_NAMES)
    ]
    if len(fitting) > 1:
        names = ", ".join(file.name for file in fitting)
        raise DataError(f"{folder} holds several files that may be the graph ({names}); say which with data.graph")
    return fitting[0] if fitting else None


def as_graph(graph: GraphLike, sensors: Sequence[str], config: PanelConfig) -> Graph:
    """A graph between these sensors, from anything of :data:`GraphLike`.

    Raises:
        DataError: it has another number of nodes, or lacks a sensor.
    """
    if isinstance(graph, Graph):
        return _sized(graph, sensors, "the graph")
    if isinstance(graph, str | Path):
        return read_graph(Path(graph), sensors, config)
    if isinstance(graph, pd.DataFrame):
        names = [str(c) for c in graph.columns]
        frame = graph.set_axis(names, axis="columns").set_axis([str(i) for i in graph.index], axis="index")
        return _by_name(frame.to_numpy(), names, sensors, "the adjacency frame")
    if isinstance(graph, tuple) and len(graph) == 2:
        edges, weights = (np.asarray(part.cpu() if isinstance(part, Tensor) else part) for part in graph)
        return _of_index(edges, None if weights.ndim == 0 else weights, sensors, config, "edge_index")
    if sp.issparse(graph):
        return _sized(Graph.of(graph), sensors, "the adjacency matrix")
    return _of_array(np.asarray(graph.cpu() if isinstance(graph, Tensor) else graph), sensors, config, "the graph")


def read_graph(path: Path, sensors: Sequence[str], config: PanelConfig) -> Graph:
    """The graph in a file, see ``data.graph``.

    Args:
        path: .csv (matrix, or a list of edges with a header), .rel (LibCity), .npz (an adjacency matrix, dense or as
            scipy writes it, or ``edge_index`` and maybe ``edge_weight``), .npy, or .pkl (DCRNN: ids, index by id,
            matrix; BasicTS: the same or the matrix alone).
        sensors: of the panel, in order.
        config: of the data.

    Raises:
        DataError: the file is missing, damaged, of another kind or size, lacks a sensor, or names one that is unknown.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; check data.graph")
    match path.suffix:
        case ".csv" | ".rel":
            return _read_text(path, sensors, config)
        case ".npz":
            return _read_npz(path, sensors, config)
        case ".npy":
            try:
                return _of_array(np.load(path, allow_pickle=False), sensors, config, str(path))
            except (ValueError, OSError, EOFError) as error:
                raise DataError(f"{path} is no array that numpy reads ({one_line(error)})") from error
        case ".pkl" | ".pickle":
            return _of_pickle(load_pickle(path), sensors, config, str(path))
    raise DataError(f"{path} is of an unknown kind; a graph ends in {', '.join(SUFFIXES)}")


def _sized(graph: Graph, sensors: Sequence[str], where: str) -> Graph:
    if graph.size != len(sensors):
        raise DataError(
            f"{where} has {graph.size} nodes, the panel {len(sensors)} sensors; give the graph of these sensors in the "
            "same order"
        )
    return graph


def _by_name(matrix: Any, names: Sequence[str], sensors: Sequence[str], where: str) -> Graph:
    """A matrix whose rows have names, for these sensors in their order."""
    at = {name: i for i, name in enumerate(names)}
    lacking = [s for s in sensors if s not in at]
    if lacking:
        raise DataError(f"{where} lacks the sensors {some(lacking)}; it has {some(list(names))}")
    if np.shape(matrix) != (len(names), len(names)):
        raise DataError(f"{where} has a matrix of shape {np.shape(matrix)} for {len(names)} names")
    return Graph.of(matrix).select([at[s] for s in sensors])


def _of_array(array: Any, sensors: Sequence[str], config: PanelConfig, where: str) -> Graph:
    if array.ndim == 2 and array.shape[0] == 2 and array.shape[1] != 2 and array.dtype.kind in "iu":
        return _of_index(array, None, sensors, config, where)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise DataError(f"{where} has shape {array.shape}; a matrix must be (N, N), an edge_index (2, E) integers")
    return _sized(Graph.of(array), sensors, where)


def _of_index(edges: Any, weights: Any, sensors: Sequence[str], config: PanelConfig, where: str) -> Graph:
    """Numbered edges, taken as they are; both ways unless ``data.directed``."""
    n = len(sensors)
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise DataError(f"{where} has shape {edges.shape}; it must be (2, E)")
    if edges.size and not 0 <= edges.min() <= edges.max() < n:
        raise DataError(f"{where} names the node {edges.max() if edges.max() >= n else edges.min()} of {n} sensors")
    if weights is not None and np.shape(weights) != (edges.shape[1],):
        raise DataError(f"{where} has {edges.shape[1]} edges but weights of shape {np.shape(weights)}")
    return Graph.of_edges(n, edges[0], edges[1], weights, directed=config.directed)


# ---- text ----------------------------------------------------------------------------------------------------------


def _read_text(path: Path, sensors: Sequence[str], config: PanelConfig) -> Graph:
    if path.suffix == ".rel":
        try:
            frame = pd.read_csv(path)
        except (ValueError, pd.errors.ParserError) as error:
            raise DataError(f"{path} is no table ({one_line(error)})") from error
    else:
        frame = read_table(path).to_pandas()
        n = len(sensors)
        whole = frame.shape == (n, n) or (frame.shape[0] in (frame.shape[1], frame.shape[1] - 1) and frame.shape[1] > 3)
        if whole:
            return _matrix(frame, sensors, str(path))
    return _edges(frame, sensors, config, str(path))


def _matrix(frame: pd.DataFrame, sensors: Sequence[str], where: str) -> Graph:
    """A matrix with or without names of the columns, and maybe of the rows in the first column."""
    if frame.shape[0] == frame.shape[1] - 1:
        frame = frame.iloc[:, 1:]
    wrong = [c for c in frame.columns if frame[c].dtype.kind not in "fiub"]
    if wrong:
        raise DataError(f"{where}: column {wrong[0]!r} of the adjacency matrix is not numeric")
    names = [str(c) for c in frame.columns]
    if set(sensors) <= set(names):
        return _by_name(frame.to_numpy(), names, sensors, where)
    return _sized(Graph.of(frame.to_numpy()), sensors, where)


_FROM = ("from", "source", "origin_id", "src", "start", "i", "from_id")
_TO = ("to", "target", "destination_id", "dst", "end", "j", "to_id")
_DISTANCE = ("cost", "distance", "dist", "length")


def _edges(frame: pd.DataFrame, sensors: Sequence[str], config: PanelConfig, where: str) -> Graph:
    """A list of edges: two columns of sensors (names, or numbers from 0), and maybe one of distances or weights."""
    columns = {str(c).strip().lower(): c for c in frame.columns}
    source = next((columns[c] for c in _FROM if c in columns), None)
    target = next((columns[c] for c in _TO if c in columns), None)
    if source is None or target is None:
        raise DataError(
            f"{where} is neither a square matrix for {len(sensors)} sensors nor a list with the columns from and to; "
            f"it has {frame.shape[0]} rows and the columns {some([str(c) for c in frame.columns])}"
        )
    rest = [c for c in frame.columns if c not in (source, target) and str(c) not in ("rel_id", "type")]
    kind = config.edges
    if kind == "auto":
        kind = "equal" if not rest else "distance" if str(rest[0]).lower().startswith(_DISTANCE) else "weight"
    if kind != "equal" and not rest:
        raise DataError(f"{where} has no third column for data.edges={kind}")
    ends = [_numbers(frame[c], sensors, where) for c in (source, target)]
    inside = (ends[0] >= 0) & (ends[1] >= 0)
    if not inside.any() and len(frame):
        raise DataError(f"{where} names none of the sensors, but {frame[source].iloc[0]}; they are {some(sensors)}")
    known = {int(i) for end in ends for i in end[inside]}
    lacking = [s for i, s in enumerate(sensors) if i not in known]
    if len(lacking) > 0.5 * len(sensors):
        raise DataError(f"{where} lacks {len(lacking)} of {len(sensors)} sensors, e.g. {some(lacking, 3)}; complete it")
    if lacking:
        message = f"{where} has no edge of {len(lacking)} of {len(sensors)} sensors, e.g. {some(lacking, 3)}"
        warnings.warn(f"{message}: they are by themselves", stacklevel=2)
    weights = np.ones(len(frame))
    if kind != "equal":
        weights = pd.to_numeric(frame[rest[0]], errors="coerce").to_numpy(dtype=np.float64)
        if np.isnan(weights).any():
            bad = frame[rest[0]].iloc[int(np.isnan(weights).argmax())]
            raise DataError(f"{where}: column {rest[0]!r} holds {bad!r}; it must hold numbers")
    if kind == "distance":
        sigma = config.sigma or float(weights.std()) or 1.0
        weights = np.exp(-np.square(weights / sigma))
        weights = np.where(weights < config.threshold, 0.0, weights)
    n, loops = len(sensors), np.arange(len(sensors))
    found = Graph.of_edges(
        n, np.concatenate([loops, ends[0][inside]]), np.concatenate([loops, ends[1][inside]]),
        np.concatenate([np.ones(n), weights[inside]]), directed=config.directed,
    )  # fmt: skip
    return Graph.of(found.matrix)


def _numbers(column: pd.Series[Any], sensors: Sequence[str], where: str) -> Any:
    """Number of the sensor each entry names, -1 for those that are not of the panel."""
    at = {name: i for i, name in enumerate(sensors)}
    names = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in column]
    return np.array([at.get(name, -1) for name in names], dtype=np.int64)


# ---- binary --------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, sensors: Sequence[str], config: PanelConfig) -> Graph:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is no archive that numpy reads ({one_line(error)})") from error
    if "edge_index" in arrays:
        weights = next((arrays[k] for k in ("edge_weight", "edge_weights", "edge_attr", "weight") if k in arrays), None)
        return _of_index(arrays["edge_index"], weights, sensors, config, str(path))
    if {"indices", "indptr", "data"} <= arrays.keys():
        matrix = sp.load_npz(path)
        if matrix.shape[0] != matrix.shape[1]:
            raise DataError(f"{path} holds a matrix of shape {matrix.shape}; an adjacency matrix is (N, N)")
        return _sized(Graph.of(matrix), sensors, str(path))
    key = next((k for k in ("adjacency", "adj", "adj_mx", "W", "A") if k in arrays), None)
    if key is None and len(arrays) == 1:
        key = next(iter(arrays))
    if key is None:
        raise DataError(f"{path} holds {some(list(arrays))}; name the matrix adjacency, or the edges edge_index")
    return _of_array(arrays[key], sensors, config, str(path))


class _Unpickler(pickle.Unpickler):
    """Plain containers, numbers, strings and numpy arrays; whatever else a pickle wants to make is refused."""

    allowed = frozenset(
        (f"numpy.{package}.multiarray", name) for package in ("core", "_core") for name in ("_reconstruct", "scalar")
    ) | {
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
        ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it wants to use {module}.{name}")
        return super().find_class(module, name)


def load_pickle(path: Path) -> Any:
    """What is in a pickle made of arrays, lists, tuples, dicts, numbers and strings, also one of Python 2.

    Raises:
        DataError: the pickle is damaged, or holds anything else; nothing of it was run.
    """
    raw = path.read_bytes()
    try:
        return _Unpickler(io.BytesIO(raw), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        if not str(error).startswith("it wants"):
            raise DataError(f"{path} is no complete pickle ({one_line(error)}); copy it again") from error
        raise DataError(
            f"{path} is not read: {one_line(error)}, and only arrays, lists, dicts and strings are safe to unpickle; "
            "save the matrix with numpy.save instead"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} is no complete pickle ({one_line(error)}); copy it again") from error


def _of_pickle(found: Any, sensors: Sequence[str], config: PanelConfig, where: str) -> Graph:
    if isinstance(found, tuple | list) and len(found) == 3 and isinstance(found[1], Mapping):
        ids = [i.decode() if isinstance(i, bytes) else str(i) for i in found[0]]
        if set(sensors) <= set(ids):
            return _by_name(np.asarray(found[2]), ids, sensors, where)
        if sensors != [str(i) for i in range(len(sensors))] and len(set(sensors) & set(ids)) > 0:
            return _by_name(np.asarray(found[2]), ids, sensors, where)  # says which are lacking
        found = found[2]
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    array = np.asarray(found)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where} holds {type(found).__name__}, not a matrix, nor ids, index by id and matrix")
    return _of_array(array, sensors, config, where)
