from __future__ import annotations

import json
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

pytest.importorskip("pandas")

import pandas as pd
import scipy.sparse as sp

from polycontrast.errors import DataError, MissingDependency
from polycontrast_timeseries.st_ssdl.config import PanelConfig, STSSDLConfig
from polycontrast_timeseries.st_ssdl.graph_files import as_graph, load_pickle, read_graph
from polycontrast_timeseries.st_ssdl.readers import read

T, IDS = 30, ["10", "20", "30"]
VALUES = np.random.default_rng(0).uniform(1, 2, (T, 3)).astype(np.float32)
TIMES = pd.date_range("2024-01-03 06:00", periods=T, freq="5min")
ADJACENCY = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 1.0]])
WIDE = pd.DataFrame(VALUES, index=TIMES.rename("time"), columns=IDS)
NONE = PanelConfig()


def opened(path, **data):
    return read(path, STSSDLConfig(data=PanelConfig(**data)), 0, "train")


def adjacency(data) -> np.ndarray:
    return data.graph.matrix.toarray()


def check(data, *, start=TIMES[0], sensors=IDS):
    np.testing.assert_allclose(data.values, VALUES, rtol=1e-6)
    assert list(data.sensors) == sensors
    np.testing.assert_allclose(adjacency(data), ADJACENCY)
    assert data.clock.start == start
    assert data.clock.step == pd.Timedelta(minutes=5)
    assert data.clock.per_day == 288


# ---- panels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "long"])
def test_a_table_and_a_matrix(tmp_path, kind):
    file = tmp_path / ("speed.parquet" if kind == "parquet" else "speed.csv")
    if kind == "csv":
        WIDE.to_csv(file)
    elif kind == "parquet":
        WIDE.reset_index().to_parquet(file)
    else:
        WIDE.rename_axis(columns="unique_id").stack().rename("y").rename_axis(["ds", "unique_id"]).reset_index().to_csv(
            file, index=False
        )
    np.savetxt(tmp_path / "w.csv", ADJACENCY, delimiter=",")
    check(opened(file, graph=str(tmp_path / "w.csv")))


def test_a_folder_with_usual_names(tmp_path):
    WIDE.to_csv(tmp_path / "speed.csv")
    np.save(tmp_path / "road_adj.npy", ADJACENCY)
    check(opened(tmp_path))
    np.save(tmp_path / "adjacency.npy", ADJACENCY)
    with pytest.raises(DataError, match=r"several files that may be the graph \(adjacency.npy, road_adj.npy\)"):
        opened(tmp_path)
    (tmp_path / "adjacency.npy").unlink()
    WIDE.to_csv(tmp_path / "more.csv")
    with pytest.raises(DataError, match=r"must hold one file of data beside the graph, but has more.csv, speed.csv"):
        opened(tmp_path)


def test_numbers_without_times(tmp_path):
    np.savetxt(tmp_path / "v.csv", VALUES, delimiter=",", header="10,20,30", comments="")
    np.savez(tmp_path / "adj.npz", adj=ADJACENCY)
    data = opened(tmp_path, start=str(TIMES[0]), step="5min")
    check(data)
    assert data.notes == ()
    assert any("Monday 00:00 (data.start, data.step)" in note for note in opened(tmp_path).notes)


def test_first_sensors_of_a_larger_graph(tmp_path):
    WIDE.to_csv(tmp_path / "speed.csv")
    np.save(tmp_path / "adj.npy", ADJACENCY)
    data = opened(tmp_path, max_sensors=2)
    assert data.values.shape == (T, 2)
    np.testing.assert_allclose(adjacency(data), ADJACENCY[:2, :2])


def test_astgcn(tmp_path):
    np.savez(tmp_path / "PEMS04.npz", data=np.stack([VALUES, VALUES + 1, VALUES + 2], -1))
    (tmp_path / "distance.csv").write_text("from,to,cost\n0,1,100\n1,2,300\n")
    data = opened(tmp_path, start="2018-01-01", step="5min")
    np.testing.assert_array_equal(data.values, VALUES)
    sigma = np.std([100, 300])
    near = np.exp(-((100 / sigma) ** 2))
    np.testing.assert_allclose(adjacency(data), [[1, near, 0], [near, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(opened(tmp_path, channel=2).values, VALUES + 2)
    assert adjacency(opened(tmp_path, edges="equal", directed=True))[2, 1] == 0
    assert adjacency(opened(tmp_path, edges="equal"))[2, 1] == 1
    with pytest.raises(DataError, match=r"has 3 channels, none of number 3 \(data.channel\)"):
        opened(tmp_path, channel=3)


def test_arrays_stay_on_disk(tmp_path):
    np.save(tmp_path / "values.npy", VALUES)
    data = opened(tmp_path / "values.npy")
    assert isinstance(data.values, np.memmap)
    assert any("no graph was found" in note for note in data.notes)
    np.testing.assert_array_equal(adjacency(data), np.eye(3))


def basicts(folder, start="2024-01-03 06:00"):
    moment = pd.Timestamp(start)
    day = np.full((T, 3), (moment - moment.normalize()) / pd.Timedelta(days=1))
    raw = np.stack([VALUES, day, np.full((T, 3), moment.day_of_week / 7)], -1).astype(np.float32)
    raw.tofile(folder / "data.dat")
    about = {
        "name": "X", "shape": [T, 3, 3], "frequency (minutes)": 5,
        "feature_description": ["traffic speed", "time of day", "day of week"],
    }  # fmt: skip
    (folder / "desc.json").write_text(json.dumps(about))
    (folder / "adj_mx.pkl").write_bytes(pickle.dumps((IDS, dict(zip(IDS, range(3), strict=True)), ADJACENCY)))


def test_basicts(tmp_path):
    basicts(tmp_path)
    data = opened(tmp_path)
    check(data, start=data.clock.start, sensors=["0", "1", "2"])
    assert (data.clock.start.day_of_week, data.clock.start.hour) == (2, 6)
    assert isinstance(data.values, np.memmap)
    (tmp_path / "data.dat").write_bytes(b"short")
    with pytest.raises(DataError, match=r"has 5 bytes, but desc.json says float32 of shape \(30, 3, 3\)"):
        opened(tmp_path)
    (tmp_path / "desc.json").write_text("{}")
    with pytest.raises(DataError, match="must tell the shape and the 'frequency"):
        opened(tmp_path)


def test_libcity(tmp_path):
    pd.DataFrame({"geo_id": IDS, "type": "Point", "coordinates": "[]"}).to_csv(tmp_path / "a.geo", index=False)
    i, j = np.nonzero(ADJACENCY)
    rel = {"rel_id": range(len(i)), "type": "geo", "origin_id": [IDS[k] for k in i],
           "destination_id": [IDS[k] for k in j], "link_weight": ADJACENCY[i, j]}  # fmt: skip
    pd.DataFrame(rel).to_csv(tmp_path / "a.rel", index=False)
    # sensors of the dynamic file in another order than in the .geo file
    long = WIDE[IDS[::-1]].melt(ignore_index=False, var_name="entity_id", value_name="traffic_speed").reset_index()
    long["time"] = long["time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    long.insert(0, "type", "state")
    long.rename_axis("dyna_id").reset_index().to_csv(tmp_path / "a.dyna", index=False)
    data = opened(tmp_path)
    check(data, start=data.clock.start)
    assert data.clock.start.tz_localize(None) == TIMES[0]
    (tmp_path / "b.geo").write_text("geo_id\n")
    with pytest.raises(DataError, match=r"must hold one .geo file, as LibCity has it, but has 2"):
        opened(tmp_path)


class _Hdf(dict):
    """As much of h5py as the reader uses: what pandas' fixed format holds."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class _Set(np.ndarray):
    attrs: dict


def hdf(monkeypatch):
    axis = TIMES.as_unit("ns").asi8.view(_Set)
    axis.attrs = {"kind": b"datetime64"}
    ids = np.array([i.encode() for i in IDS])
    group = {"axis0": ids, "axis1": axis, "block0_items": ids, "block0_values": VALUES.astype(np.float64)}
    module = types.ModuleType("h5py")
    module.File = lambda path, mode: _Hdf(df=group)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "h5py", module)
    return group


def test_dcrnn_h5(tmp_path, monkeypatch):
    group = hdf(monkeypatch)
    (tmp_path / "metr-la.h5").touch()
    (tmp_path / "adj_mx.pkl").write_bytes(pickle.dumps([IDS[::-1], {}, ADJACENCY[::-1, ::-1]], protocol=2))
    check(opened(tmp_path))
    group["block1_values"] = VALUES
    with pytest.raises(DataError, match="columns of several types"):
        opened(tmp_path)


def test_h5_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "x.h5").touch()
    with pytest.raises(MissingDependency, match=r"x.h5 needs h5py to be read: pip install h5py"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[[0, 1, 1, *range(2, T)]], "appears a second time; keep one row of each time"),
        (lambda f: f.set_axis([*TIMES[:5], *(TIMES[5:] + pd.Timedelta(minutes=2))]), "follows .* the usual step is"),
        (lambda f: f.iloc[::-1], "comes after .*; sort the rows by time"),
        (lambda f: f.assign(**{"20": "x"}), "column '20' is not numeric"),
        (lambda f: f.assign(**{"20": np.nan}), "column '20' has no value"),
        (lambda f: f.assign(**{"20": np.inf}), "column '20' holds inf"),
    ],
    ids=["repeated", "irregular", "unsorted", "words", "nothing", "infinite"],
)
def test_bad_tables(tmp_path, change, message):
    frame = change(WIDE)
    frame.rename_axis("time").to_csv(tmp_path / "x.csv")
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path / "x.csv")
    assert "\n" not in str(caught.value)


def test_left_out_rows_are_missing(tmp_path):
    WIDE.drop(TIMES[7]).to_csv(tmp_path / "x.csv")
    data = opened(tmp_path / "x.csv")
    assert data.values.shape == (T, 3)
    assert np.isnan(data.values[7]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "does not exist; check the path"),
        (lambda p: p, "must hold one file of data beside the graph, but has no table"),
        (lambda p: np.save(p / "v.npy", np.zeros(3)) or p / "v.npy", "has shape .3,.; a panel is"),
        (lambda p: np.savez(p / "v.npz", a=VALUES, b=VALUES) or p / "v.npz", "holds a, b; name the array data"),
        (lambda p: (p / "v.npy").write_bytes(b"no") and p / "v.npy", "is no array that numpy reads"),
        (lambda p: np.save(p / "v.npy", np.array([["a"]])) or p / "v.npy", "holds <U1, not numbers"),
    ],
)
def test_bad_files(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        opened(make(tmp_path))


# ---- graphs --------------------------------------------------------------------------------------------------------


def test_graph_files(tmp_path):
    files = {}
    np.savetxt(tmp_path / "a.csv", ADJACENCY, delimiter=",")
    pd.DataFrame(ADJACENCY[::-1, ::-1], columns=IDS[::-1]).to_csv(tmp_path / "named.csv", index=False)
    np.save(tmp_path / "a.npy", ADJACENCY)
    np.savez(tmp_path / "a.npz", adjacency=ADJACENCY)
    sp.save_npz(tmp_path / "sparse.npz", sp.csr_matrix(ADJACENCY))
    i, j = np.nonzero(ADJACENCY)
    np.savez(tmp_path / "edges.npz", edge_index=np.stack([i, j]), edge_weight=ADJACENCY[i, j])
    lines = [f"{IDS[a]},{IDS[b]},{ADJACENCY[a, b]}" for a, b in zip(i, j, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(["from,to,weight", *lines, "99,10,0.5"]))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(ADJACENCY))
    for name in ("a.csv", "named.csv", "a.npy", "a.npz", "sparse.npz", "edges.npz", "list.csv", "a.pkl"):
        files[name] = read_graph(tmp_path / name, IDS, NONE).matrix.toarray()
        np.testing.assert_allclose(files[name], ADJACENCY, err_msg=name)
    np.save(tmp_path / "index.npy", np.array([[0, 1, 2], [1, 2, 2]]))
    found = read_graph(tmp_path / "index.npy", IDS, PanelConfig(directed=True)).matrix.toarray()
    np.testing.assert_array_equal(found, [[0, 1, 0], [0, 0, 1], [0, 0, 1]])


def test_a_sensor_without_an_edge_is_told(tmp_path):
    (tmp_path / "x.csv").write_text("from,to\n10,20\n")
    with pytest.warns(UserWarning, match="has no edge of 1 of 3 sensors, e.g. 30: they are by themselves"):
        found = read_graph(tmp_path / "x.csv", IDS, NONE)
    np.testing.assert_array_equal(found.matrix.toarray(), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_graph_objects():
    for graph in (ADJACENCY, sp.csr_array(ADJACENCY), pd.DataFrame(ADJACENCY, IDS, IDS).iloc[::-1, ::-1]):
        np.testing.assert_allclose(as_graph(graph, IDS, NONE).matrix.toarray(), ADJACENCY)
    edges = np.stack(np.nonzero(ADJACENCY))
    np.testing.assert_allclose(as_graph((edges, ADJACENCY[tuple(edges)]), IDS, NONE).matrix.toarray(), ADJACENCY)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: np.save(f("x.npy"), np.eye(4)), "has 4 nodes, the panel 3 sensors; give the graph of these sensors"),
        (lambda f: np.save(f("x.npy"), np.zeros((3, 2))), "has shape .3, 2.; a matrix must be"),
        (lambda f: np.save(f("x.npy"), np.array([[0, 1, 5], [1, 2, 0]])), "names the node 5 of 3 sensors"),
        (lambda f: np.save(f("x.npy"), -ADJACENCY), "NaN, infinite or negative weights"),
        (lambda f: np.save(f("x.npy"), ADJACENCY * np.nan), "NaN, infinite or negative weights"),
        (lambda f: f("x.csv").write_text("from,to,cost\n7,8,1\n8,9,2\n"), "names none of the sensors, but 7; they are"),
        (lambda f: f("x.csv").write_text("a,b\n7,8\n8,9\n"), "nor a list with the columns from and to"),
        (lambda f: f("x.csv").write_text("from,to,cost\n10,20,x\n20,30,1\n"), "holds 'x'; it must hold numbers"),
        (lambda f: f("x.csv").write_text("from,to,cost\n10,10,1\n"), "lacks 2 of 3 sensors, e.g. 20, 30"),
        (lambda f: f("x.pkl").write_bytes(pickle.dumps((IDS[:2], {}, np.eye(2)))), "lacks the sensors 30"),
        (lambda f: f("x.pkl").write_bytes(pickle.dumps({"a": 1})), "holds dict, not a matrix"),
        (lambda f: f("x.pkl").write_bytes(b"\x80"), "is no complete pickle"),
        (lambda f: f("x.txt").write_text(""), "is of an unknown kind; a graph ends in"),
        (lambda f: np.savez(f("x.npz"), a=ADJACENCY, b=ADJACENCY), "holds a, b; name the matrix adjacency"),
    ],
)  # fmt: skip
def test_bad_graphs(tmp_path, write, message):
    WIDE.to_csv(tmp_path / "v.csv")
    names = []

    def file(name):
        names.append(name)
        return tmp_path / name

    write(file)
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path / "v.csv", graph=str(tmp_path / names[0]))
    assert "\n" not in str(caught.value)


class _Bomb:
    def __reduce__(self):
        return subprocess.check_call, (["touch", "bombed"],)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "adj.pkl"
    for thing in (_Bomb(), [IDS, {}, _Bomb()], pd.DataFrame(ADJACENCY)):
        file.write_bytes(pickle.dumps(thing))
        with pytest.raises(DataError, match=r"is not read: it wants to use .*; save the matrix with numpy.save"):
            load_pickle(file)
    assert not (tmp_path / "bombed").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path, protocol):
    file = tmp_path / "adj.pkl"
    file.write_bytes(pickle.dumps([IDS, {"10": 0}, ADJACENCY.astype(np.float32), np.float64(2)], protocol=protocol))
    ids, index, matrix, scalar = load_pickle(file)
    assert (ids, index, scalar) == (IDS, {"10": 0}, 2)
    np.testing.assert_array_equal(matrix, ADJACENCY)


def test_a_prediction_needs_no_graph(tmp_path):
    WIDE.to_csv(tmp_path / "v.csv")
    config = STSSDLConfig(data=PanelConfig(graph=str(tmp_path / "gone" / "adj.csv")))
    assert read(tmp_path / "v.csv", config, 0, "predict").graph.is_identity
    with pytest.raises(DataError, match=r"adj.csv does not exist; check data.graph"):
        read(tmp_path / "v.csv", config, 0, "evaluate")
