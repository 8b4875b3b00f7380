from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polycontrast.config import MethodConfig
from polycontrast.errors import ConfigError, DataError
from polycontrast_graph.config import GraphConfig
from polycontrast_graph.generators import catalogue
from polycontrast_graph.read import (
    FB15kNIE,
    GraphDataset,
    NIEFromTables,
    dataset_of,
    from_frames,
    from_heterodata,
    joined_text,
    read,
    read_graph,
)

NODES = [("NA", 'The "Red" one', "3", "warm"), ("b", "Blue", "0", ""), ("c", "null", "", "x"), ("d", "Dun", "7", "y")]
EDGES = [("NA", "likes", "b"), ("b", "likes", "c"), ("c", "owns", "d"), ("d", "owns", "NA")]
CONFIG = GraphConfig(folds=2)


def write(folder: Path, nodes: Any = NODES, edges: Any = EDGES, header: str = "id\tname\tscore\ttext") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "nodes.tsv").write_text("\n".join([header, *("\t".join(row) for row in nodes)]) + "\n")
    (folder / "edges.tsv").write_text("\n".join("\t".join(row) for row in edges) + "\n")
    return folder


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_graph(path, GraphConfig(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_tables_word_for_word(tmp_path: Path) -> None:
    kg = read_graph(write(tmp_path))
    assert kg.ids == ["NA", "b", "c", "d"]
    assert kg.names == ['The "Red" one', "Blue", "null", "Dun"]
    assert kg.edge_index.tolist() == [[0, 1, 2, 3], [1, 2, 3, 0]]
    assert kg.relation_names == ("likes", "owns")
    np.testing.assert_allclose(kg.y, np.log1p([3, 0, np.nan, 7]).astype(np.float32))
    assert kg.text == ['The "Red" one: warm', "Blue", "null: x", "Dun: y"]
    assert read_graph(tmp_path, GraphConfig(use_name=False)).text == ["warm", "", "x", "y"]


def test_the_same_from_parquet_csv_gzip_and_frames(tmp_path: Path) -> None:
    expected = read_graph(write(tmp_path / "tsv"))
    (tmp_path / "gz").mkdir()
    for name in ("nodes.tsv", "edges.tsv"):
        with gzip.open(tmp_path / "gz" / f"{name}.gz", "wb") as file:
            file.write((tmp_path / "tsv" / name).read_bytes())
    (tmp_path / "csv").mkdir()
    quoted = [",".join('"' + field.replace('"', '""') + '"' for field in row) for row in NODES]
    (tmp_path / "csv" / "nodes.csv").write_text("\n".join(["id,name,score,text", *quoted]))
    (tmp_path / "csv" / "triples.csv").write_text(
        "tail,head,relation\n" + "\n".join(f"{t},{h},{r}" for h, r, t in EDGES)
    )
    (tmp_path / "parquet").mkdir()
    columns: dict[str, list[Any]] = {
        k: [row[i] for row in NODES] for i, k in enumerate(("id", "name", "score", "text"))
    }
    columns["score"] = [float(s) if s else None for s in columns["score"]]
    links = {k: [row[i] for row in EDGES] for i, k in enumerate(("head", "relation", "tail"))}
    pq.write_table(pa.table(columns), tmp_path / "parquet" / "nodes.parquet")
    pq.write_table(pa.table(links), tmp_path / "parquet" / "edges.parquet")
    found = [read_graph(tmp_path / kind) for kind in ("gz", "csv", "parquet")]
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="3 nodes have a score"):
        NIEFromTables(*(tmp_path / "parquet" / f"{name}.parquet" for name in ("nodes", "edges")), CONFIG)
    with pytest.raises(DataError, match="3 nodes have a score, 2 folds need at least 4"):
        from_frames(pandas.DataFrame(columns), pandas.DataFrame(links), CONFIG)
    found.append(from_frames(pandas.DataFrame(columns), pandas.DataFrame(links), purpose="predict").kg)
    for kg in found:
        np.testing.assert_array_equal(kg.edge_index, expected.edge_index)
        np.testing.assert_array_equal(kg.y, expected.y)
        assert (kg.ids, kg.names, kg.text) == (expected.ids, expected.names, expected.text)


NT = """# a comment
<http://x.org/e/Berlin> <http://x.org/p#in> <http://x.org/e/Germany> .
<http://x.org/e/Paris> <http://x.org/p#in> <http://x.org/e/France> . # and another
_:b0 <http://x.org/p#near> <http://x.org/e/Paris> .

<http://x.org/e/Berlin> <http://x.org/score> "3.5"^^<http://www.w3.org/2001/XMLSchema#double> .
<http://x.org/e/Paris> <http://x.org/score> "9" .
<http://x.org/e/Berlin> <http://www.w3.org/2000/01/rdf-schema#label> "Berl\\u00edn \\"B\\""@es .
<http://x.org/e/Berlin> <http://www.w3.org/2000/01/rdf-schema#comment> "a city\\nof lakes"@en .
"""


def test_one_ntriples_file_may_hold_everything(tmp_path: Path) -> None:
    (tmp_path / "all.nt").write_text(NT, encoding="utf-8")
    kg = read_graph(tmp_path / "all.nt")
    assert kg.num_nodes == 5
    assert (kg.id(0), kg.label(0)) == ("http://x.org/e/Berlin", 'Berlín "B"')
    assert kg.text is not None
    assert kg.text[0] == 'Berlín "B": a city\nof lakes'
    np.testing.assert_allclose(kg.y[[0, 2]], np.log1p([3.5, 9]), rtol=1e-6)
    assert kg.labelled.sum() == 2
    assert kg.relation_names == ("http://x.org/p#in", "http://x.org/p#near")
    (tmp_path / "bad.nt").write_text(NT + "<a> <b> c .\n", encoding="utf-8")
    assert refusal(tmp_path / "bad.nt").endswith(
        "bad.nt, line 10: no triple '<subject> <predicate> <object> .'; mend that line"
    )
    (tmp_path / "facts.nt").write_text('<a> <score> "1" .\n')
    assert "has no triple of three resources" in refusal(tmp_path / "facts.nt")
    # Without labels, local names are names.
    (tmp_path / "plain.nt").write_text("".join(NT.splitlines(keepends=True)[:7]))
    assert read_graph(tmp_path / "plain.nt").label(0) == "Berlin"


def test_ntriples_beside_a_node_table(tmp_path: Path) -> None:
    (tmp_path / "nodes.tsv").write_text("id\tscore\na\t1\nb\t2\n")
    (tmp_path / "edges.nt").write_text("<a> <r> <b> .\n")
    assert read_graph(tmp_path).edge_index.tolist() == [[0], [1]]


def test_the_layout_of_the_collections(tmp_path: Path) -> None:
    rows = ["node_id\tmid\tname\tscore\tvalid\tdescription"]
    rows += [f"{i}\t/m/{i}\tBig_{i}\t{i * i}\t{int(i != 2)}\tBig {i}, a thing" for i in range(6)]
    with gzip.open(tmp_path / "nodes.tsv.gz", "wt") as file:
        file.write("\n".join(rows))
    (tmp_path / "relations.json").write_text(json.dumps(["r", "r_inverse"]))
    ends = np.array([[0, 1, 2, 3], [1, 2, 3, 4]], dtype=np.int32)
    arrays = {"head": np.r_[ends[0], ends[1]], "tail": np.r_[ends[1], ends[0]]}
    np.savez(tmp_path / "graph.npz", rel=np.repeat([0, 1], 4).astype(np.int16), **arrays)
    kg = read_graph(tmp_path)
    assert (kg.id(3), kg.label(3)) == ("/m/3", "Big_3")
    assert np.isnan(kg.y[2])
    assert kg.num_edges == 4
    assert read_graph(tmp_path, GraphConfig(inverse="keep")).num_edges == 8
    # A description that begins with the name does not get it again.
    assert kg.text is not None
    assert kg.text[3] == "Big 3, a thing"
    with pytest.raises(DataError, match="has 6 nodes, FB15kNIE has 14951; wrong folder"):
        FB15kNIE(tmp_path)
    np.savez(tmp_path / "graph.npz", head=[0])
    assert "lacks an array" in refusal(tmp_path)
    (tmp_path / "graph.npz").write_bytes(b"no")
    assert "is no readable npz file" in refusal(tmp_path)
    np.savez(tmp_path / "graph.npz", rel=np.repeat([0, 1], 4), **arrays)
    (tmp_path / "relations.json").write_text("[")
    assert "relations.json is no readable JSON" in refusal(tmp_path)


def test_bad_input_by_its_message(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'} does not exist; check the path"
    assert "has no edges; it needs a file edges.tsv" in refusal(tmp_path)
    nodes, edges = tmp_path / "nodes.tsv", tmp_path / "edges.tsv"

    write(tmp_path, edges=[*EDGES, ("d", "owns", "ghost"), ("spook", "owns", "d")])
    assert refusal(tmp_path) == (
        f"{edges}, line 5: 'ghost' is no node of {nodes}; add it or remove the 2 dangling edges"
    )
    write(tmp_path, nodes=[*NODES, ("e", "E", "-2", "")])
    assert refusal(tmp_path).startswith(f"{nodes}, line 6: the score is negative (-2); scores are counts or the like")
    write(tmp_path, nodes=[*NODES, ("e", "E", "many", "")])
    assert refusal(tmp_path).startswith(f"{nodes}, line 6: column 'score' is 'many', no number; mend it")
    write(tmp_path, nodes=[(i, n, "", t) for i, n, _, t in NODES])
    assert refusal(tmp_path) == f"{tmp_path}: no node has a score; training needs some"
    assert "no node has a score" in refusal(write(tmp_path), score="views")
    write(tmp_path, nodes=[*NODES, ("b", "again", "1", "")])
    assert refusal(tmp_path) == f"{tmp_path}: two nodes have the id 'b'; ids must be different"
    write(tmp_path, nodes=[*NODES, ("", "nobody", "1", "")])
    assert refusal(tmp_path) == f"{nodes}, line 6: column 'id' is empty; every row needs an id"
    write(tmp_path, edges=[*EDGES, EDGES[0]])
    assert f"{edges}" not in refusal(tmp_path, duplicates="refuse")
    assert ", line 5: the triple (0, likes, 1) occurs twice" in refusal(tmp_path, duplicates="refuse")
    write(tmp_path, edges=[*EDGES, ("a", "b")])
    assert refusal(tmp_path) == f"{edges}, line 5: 2 columns where the first line has 3; mend that line"
    write(tmp_path, edges=[("a", "b")])
    assert refusal(tmp_path).startswith(f"{edges}, line 1: 2 columns where 3 are needed, separated by tabs")
    write(tmp_path, header="x\ty\tz\tw")
    assert refusal(tmp_path).startswith(f"{nodes}: the first line must name the columns, among them id, ")
    write(tmp_path, edges=[("head", "relation", "to"), *EDGES])
    assert refusal(tmp_path) == f"{edges} has no column 'tail'; it has head, relation, to"
    write(tmp_path)
    edges.write_bytes(b"")
    assert refusal(tmp_path) == f"{edges} is empty; it needs a line per row"
    edges.write_bytes("a\tb\tcaf\xe9\n".encode("latin-1"))
    assert refusal(tmp_path) == f"{edges}, line 1: not UTF-8 text; save the file as UTF-8"
    edges.unlink()
    (tmp_path / "edges.parquet").write_bytes(b"PAR1")
    assert "edges.parquet is no readable Parquet file" in refusal(tmp_path)
    (tmp_path / "edges.parquet").unlink()
    (tmp_path / "edges.tsv.gz").write_bytes(gzip.compress(b"a\tb\tc\n" * 1000)[:40])
    assert "edges.tsv.gz is no complete gzip file" in refusal(tmp_path)
    (tmp_path / "graph.xml").write_text("<x/>")
    assert refusal(tmp_path / "graph.xml").startswith(f"{tmp_path / 'graph.xml'} is of an unknown kind; give a folder")


def test_vectors_in_parquet(tmp_path: Path) -> None:
    nodes = {"id": ["a", "b", "c"], "score": [1.0, 2.0, None], "type": ["p", "q", "p"]}
    pq.write_table(pa.table({"head": ["a"], "relation": ["r"], "tail": ["b"]}), tmp_path / "edges.parquet")
    pq.write_table(pa.table({**nodes, "x_text": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}), tmp_path / "nodes.parquet")
    kg = read_graph(tmp_path)
    np.testing.assert_array_equal(kg.x_text, [[1, 2], [3, 4], [5, 6]])
    assert kg.node_type_names == ("p", "q")
    pq.write_table(pa.table({**nodes, "x_text": [[1.0, 2.0], [3.0], [5.0, 6.0]]}), tmp_path / "nodes.parquet")
    assert "nodes.parquet, row 1: column 'x_text' must hold as many numbers in every row, 2 as in the first" in refusal(
        tmp_path
    )


def test_parts_of_a_dataset() -> None:
    kg = catalogue(items=100, tags=10, makers=20)
    data = dataset_of(kg, GraphConfig(fold=3))
    assert isinstance(data, GraphDataset)
    for split in ("train", "val", "test"):
        batch = data.splits[split][list(range(len(data.splits[split])))]
        np.testing.assert_array_equal(batch["id"], data.nodes(split, 3))
        np.testing.assert_array_equal(batch["y"], kg.y[batch["id"]])
    assert data.protocol["fold"] == 3
    assert dataset_of(kg, GraphConfig(fold="all")).parts.shape == (5, 130)
    unlabelled = dataset_of(kg, purpose="predict")
    assert list(unlabelled.splits) == ["all"]
    assert len(unlabelled.splits["all"]) == 130
    with pytest.raises(ConfigError, match=r"fold must lie in 0 \.\. 4 or be 'all', got 5"):
        GraphConfig(fold=5)


def test_masks_of_geometric_data(tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric")
    kg = catalogue(items=100, tags=10, makers=20)
    data = dataset_of(kg)
    graph = data.to_heterodata()
    assert graph["item"].test_mask.shape == (100, 5)
    np.testing.assert_array_equal(np.flatnonzero(graph["item"].test_mask[:, 2]), data.nodes("test", 2))
    assert not graph["tag"].train_mask.any()
    again = from_heterodata(graph)
    np.testing.assert_array_equal(again.parts, data.parts)


def test_texts_are_joined() -> None:
    assert joined_text(None, []) is None
    assert joined_text(["A", ""], []) == ["A", ""]
    assert joined_text(["Big_Ben", "Ann"], [["a clock", ""], ["", "sings"]]) == ["Big Ben: a clock", "Ann: sings"]
    assert joined_text(["Ann"], [["Ann sings"]]) == ["Ann sings"]


def test_read_is_what_the_command_line_calls(tmp_path: Path) -> None:
    rows = [(str(i), f"n{i}", str(i), "w") for i in range(12)]
    write(tmp_path, nodes=rows, edges=[(str(i), "r", str((i + 1) % 12)) for i in range(12)])
    data = read(tmp_path, MethodConfig(data=GraphConfig()), 0, "train")
    assert data.name == str(tmp_path)
    assert data.protocol == {
        "nodes": 12, "edges": 12, "relations": 1, "labelled": 12, "folds": 5, "split_seed": 0, "fold": 0
    }  # fmt: skip
