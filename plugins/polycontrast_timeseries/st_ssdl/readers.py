"""Panels from the files in which traffic data are passed around."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from polycontrast.config import MethodConfig
from polycontrast.data import Purpose
from polycontrast.data.readers import SUFFIXES as TABLES
from polycontrast.data.readers import read_table
from polycontrast.errors import DataError, MissingDependency, one_line
from polycontrast_timeseries.st_ssdl import graph_files
from polycontrast_timeseries.st_ssdl.config import PanelConfig
from polycontrast_timeseries.st_ssdl.graph import Graph
from polycontrast_timeseries.st_ssdl.panel import Clock, PanelDataset, clock_of, from_table, panel, some

_ARRAYS = (".npz", ".npy")
_HDF = (".h5", ".hdf5", ".hdf")


def read(path: Path, config: MethodConfig, seed: int, purpose: Purpose) -> PanelDataset:
    """A panel with its graph.

    Args:
        path: a folder of LibCity (``.geo``, ``.rel``, ``.dyna``), of BasicTS (``data.dat``, ``desc.json``,
            ``adj_mx.pkl``), or with one file of data and maybe one of the graph under a usual name; or a file: a table
            (wide, or long with ``unique_id``, ``ds``, ``y``), ``.npz`` with ``data`` (time, sensor, channel) as of
            ASTGCN, ``.npy``, which stays on disk, or ``.h5`` as of DCRNN.
        config: of the method; ``config.data`` says how.
        seed: not used, a file is what it is.
        purpose: to predict, the graph need not be there: a model has its own.

    Raises:
        DataError: what is there cannot be used; the message says where.
    """
    data = config.data
    assert isinstance(data, PanelConfig)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    if purpose == "predict" and data.graph and Path(data.graph).parent.resolve() != path.resolve():
        data = replace(data, graph=None)
    if path.is_dir():
        return _folder(path, data)
    return _file(path, data, None)


def _folder(path: Path, data: PanelConfig) -> PanelDataset:
    names = {file.name for file in path.iterdir()}
    if "desc.json" in names:
        return _basicts(path, data)
    if any(name.endswith(".dyna") for name in names):
        return _libcity(path, data)
    graph = None if data.graph else graph_files.find_graph(path)
    fitting = [
        file
        for file in sorted(path.iterdir())
        if file.is_file() and file != graph and file.name.lower().endswith((*TABLES, *_ARRAYS, *_HDF))
        and (data.graph is None or file.resolve() != Path(data.graph).resolve())
    ]  # fmt: skip
    if len(fitting) != 1:
        found = ", ".join(f.name for f in fitting) or "no table, array or .h5 file"
        raise DataError(f"{path} must hold one file of data beside the graph, but has {found}; name the file itself")
    return _file(fitting[0], data, graph)


def _file(path: Path, data: PanelConfig, graph: Path | None) -> PanelDataset:
    suffix = path.suffix.lower()
    if suffix in _HDF:
        frame = _hdf(path)
        return from_table(frame, _graph(data, graph, list(frame.columns)), data, name=str(path))
    if suffix in _ARRAYS:
        values = _array(path)
        sensors = [str(i) for i in range(values.shape[1])] if values.ndim > 1 else []
        return panel(values, _graph(data, graph, sensors), data, name=str(path), sensors=sensors)
    table = read_table(path, header=data.header)
    frame = table.to_pandas()
    plain = from_table(frame, None, _whole(data), name=str(path))
    found = _graph(data, graph, list(plain.sensors))
    return panel(
        plain.values, found, data, name=str(path), sensors=plain.sensors,
        clock=plain.clock, notes=[n for n in plain.notes if not n.startswith("no graph")],
    )  # fmt: skip


def _graph(data: PanelConfig, file: Path | None, sensors: list[str]) -> Graph | None:
    """The graph that the config names, else the one found beside the data."""
    chosen = Path(data.graph) if data.graph else file
    return None if chosen is None else graph_files.read_graph(chosen, sensors, data)


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        if path.suffix == ".npy":
            found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as file:
                if "data" not in file.files and len(file.files) != 1:
                    raise DataError(f"{path} holds {some(file.files)}; name the array data, (time, sensor, channel)")
                found = file["data" if "data" in file.files else file.files[0]]
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is no array that numpy reads ({one_line(error)})") from error
    if found.ndim not in (2, 3):
        raise DataError(f"{path} has shape {found.shape}; a panel is (time, sensor) or (time, sensor, channel)")
    return found


# ---- DCRNN ---------------------------------------------------------------------------------------------------------


def _hdf(path: Path) -> pd.DataFrame:
    """The frame that pandas wrote in its fixed layout: one group with axes and blocks."""
    try:
        import h5py  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ModuleNotFoundError:
        message = f"{path} needs h5py to be read: pip install h5py (or save it as CSV or Parquet)"
        raise MissingDependency(message) from None
    try:
        with h5py.File(path, "r") as file:
            groups = [name for name in file if "axis0" in file[name]]
            if len(groups) != 1:
                raise DataError(f"{path} must hold one frame as pandas writes it (fixed format), but has {list(file)}")
            group = file[groups[0]]
            columns, index = np.asarray(group["axis0"]), np.asarray(group["axis1"])
            if "block1_values" in group:
                raise DataError(f"{path} holds columns of several types; keep the numbers alone")
            values = np.asarray(group["block0_values"], dtype=np.float64)
            items = np.asarray(group["block0_items"])
            kind = group["axis1"].attrs.get("kind", b"datetime64")
    except OSError as error:
        raise DataError(f"{path} is no complete HDF5 file ({one_line(error)})") from error
    names = [c.decode() if isinstance(c, bytes) else str(c) for c in items.tolist()]
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    frame = pd.DataFrame(values, columns=names, index=pd.Index(index))
    if kind.startswith("datetime"):  # "datetime64" means nanoseconds; newer pandas writes "datetime64[us]"
        frame.index = pd.DatetimeIndex(index.astype(kind if "[" in kind else "datetime64[ns]"))
    order = [c.decode() if isinstance(c, bytes) else str(c) for c in columns.tolist()]
    return frame[order]


# ---- BasicTS -------------------------------------------------------------------------------------------------------


def _basicts(path: Path, data: PanelConfig) -> PanelDataset:
    """``data.dat`` stays on disk; the first row's time comes from the features, if they tell it."""
    file, about = path / "data.dat", _json(path / "desc.json")
    try:
        shape = tuple(int(n) for n in about["shape"])
        minutes = float(about["frequency (minutes)"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path / 'desc.json'} must tell the shape and the 'frequency (minutes)' of data.dat") from None
    if not file.is_file():
        raise DataError(f"{file} does not exist; a BasicTS folder holds desc.json, data.dat and maybe adj_mx.pkl")
    if file.stat().st_size != 4 * int(np.prod(shape)):
        raise DataError(f"{file} has {file.stat().st_size} bytes, but desc.json says float32 of shape {shape}")
    values = np.memmap(file, dtype=np.float32, mode="r", shape=shape)
    names = [str(f).lower() for f in about.get("feature_description") or []]
    notes: list[str] = []
    step, start = pd.Timedelta(minutes=minutes), data.start
    if start is None and values.ndim == 3 and "time of day" in names and "day of week" in names:
        day, weekday = float(values[0, 0, names.index("time of day")]), float(values[0, 0, names.index("day of week")])
        moment = pd.Timestamp("2001-01-01") + pd.Timedelta(days=round(weekday * 7) + day).round("s")
        notes.append(f"the first row is a {moment.day_name()} at {moment:%H:%M} by its features (dates are made up)")
        clock = Clock(step, moment)
    else:
        clock = Clock(step, clock_of(data, notes).start)
    sensors = [str(i) for i in range(shape[1])]
    graph = None if data.graph else graph_files.find_graph(path)
    return panel(values, _graph(data, graph, sensors), data, name=str(path), sensors=sensors, clock=clock, notes=notes)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON file ({one_line(error)})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold an object")
    return found


# ---- LibCity -------------------------------------------------------------------------------------------------------


def _libcity(path: Path, data: PanelConfig) -> PanelDataset:
    """``.geo`` says which sensors there are and in which order, ``.dyna`` their values, ``.rel`` the graph."""
    geo, dyna = (_one(path, suffix) for suffix in (".geo", ".dyna"))
    sensors = [str(i) for i in _columns(geo, "geo_id")["geo_id"]]
    table = _columns(dyna, "time", "entity_id")
    kinds = [c for c in table.columns if c not in ("dyna_id", "type", "time", "entity_id")]
    if data.channel >= len(kinds):
        raise DataError(f"{dyna} has the channels {some(kinds)}, none of number {data.channel} (data.channel)")
    frame = pd.DataFrame(
        {"unique_id": table["entity_id"].astype(str), "ds": table["time"], "y": table[kinds[data.channel]]}
    )
    plain = from_table(frame, None, _whole(data), name=str(dyna)).select(sensors)
    rel = [f for f in sorted(path.iterdir()) if f.suffix == ".rel"]
    return panel(
        plain.values, _graph(data, rel[0] if len(rel) == 1 else None, sensors), data, name=str(path), sensors=sensors,
        clock=plain.clock, notes=[n for n in plain.notes if not n.startswith("no graph")],
    )  # fmt: skip


def _one(path: Path, suffix: str) -> Path:
    files = [file for file in sorted(path.iterdir()) if file.suffix == suffix]
    if len(files) != 1:
        raise DataError(f"{path} must hold one {suffix} file, as LibCity has it, but has {len(files)}")
    return files[0]


def _columns(path: Path, *needed: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} is no table ({one_line(error)})") from error
    for name in needed:
        if name not in frame.columns:
            raise DataError(f"{path} has no column {name!r}; it has {some([str(c) for c in frame.columns])}")
    return frame


def _whole(data: PanelConfig) -> PanelConfig:
    """The same without a limit of sensors: the graph is for all of them."""
    return replace(data, max_sensors=None)
