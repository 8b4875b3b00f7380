from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polycontrast.errors import DataError
from polycontrast_graph.kg import KnowledgeGraph

HEAD, RELATION, TAIL = [0, 1, 2, 3], [0, 0, 1, 1], [1, 2, 3, 0]


def graph(head: Any = HEAD, relation: Any = RELATION, tail: Any = TAIL, **settings: Any) -> KnowledgeGraph:
    settings = {"num_nodes": 4, "relation_names": ("a", "b"), "score": [0.0, 1.0, np.nan, 3.0], **settings}
    return KnowledgeGraph.from_arrays(head, relation, tail, **settings)


def refusal(*args: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        graph(*args, **settings)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("graph")
    return text


def test_labels_are_logarithms_and_nan_is_none() -> None:
    kg = graph()
    np.testing.assert_allclose(kg.y, np.log1p([0.0, 1.0, np.nan, 3.0]).astype(np.float32))
    assert kg.y.dtype == np.float32
    assert kg.labelled.tolist() == [True, True, False, True]
    assert (kg.num_nodes, kg.num_edges) == (4, 4)
    assert graph(score=None, y=[5.0, 1.0, np.nan, -2.0]).y[3] == -2.0


def test_names_for_machines_and_for_people() -> None:
    assert graph().label(2) == "2"
    kg = graph(ids=["p", "q", "r", "s"], names=["Pea", "", "Rice", "Salt"])
    assert (kg.id(0), kg.label(0)) == ("p", "Pea")
    assert kg.label(1) == "q"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tail": [1, 2, 3, 9]}, "edge 3: node 9 does not exist, nodes are 0 .. 3; add it or remove the 1 dangling"),
        ({"head": [-1, 1, 2, 3], "tail": [1, 9, 9, 0]}, "edge 0: node -1 does not exist"),
        ({"head": [0, 1]}, "must be as many"),
        ({"head": [0.0, 1.0, 2.0, 3.0]}, "heads must be a list of whole numbers, got float64"),
        ({"relation": [0, 0, 1, 2]}, "edge 3: relation 2 does not exist, relations are 0 .. 1"),
        ({"relation": [0, 0, 0, 0]}, "relation 'b' has no edges; remove it or add its edges"),
        ({"relation_names": ("a", "a")}, "two relations are called 'a'"),
        ({"head": np.zeros(0, int), "relation": np.zeros(0, int), "tail": np.zeros(0, int)}, "has no edges"),
        ({"num_nodes": 0}, "has no nodes"),
        ({"score": [0.0, -1.0, np.nan, 3.0]}, "the score of node 1 is negative (-1)"),
        ({"score": [0.0, np.inf, np.nan, 3.0]}, "the score of node 1 is infinite"),
        ({"score": [1.0]}, "scores have shape (1,)"),
        ({"score": [np.nan] * 4}, "no node has a score"),
        ({"score": None}, "no node has a score"),
        ({"ids": ["p", "q", "p", "s"]}, "two nodes have the id 'p'"),
        ({"names": ["p"]}, "1 names for 4 nodes"),
        ({"x_text": np.zeros((3, 2))}, "x_text has shape (3, 2); give one row for each of the 4 nodes"),
        ({"x_struct": np.full((4, 2), np.nan)}, "x_struct of node 0 is not finite"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    edges = [changes.pop(name, default) for name, default in (("head", HEAD), ("relation", RELATION), ("tail", TAIL))]
    assert words in refusal(*edges, **changes)


def test_without_labels_where_none_are_needed() -> None:
    assert not graph(score=None, labels=False).labelled.any()


def test_duplicated_triples_are_dropped_with_a_note_or_refused() -> None:
    head, relation, tail = [0, 1, 2, 3, 0, 0], [0, 0, 1, 1, 0, 1], [1, 2, 3, 0, 1, 1]
    kg = graph(head, relation, tail, inverse="keep")
    # The first of its kind stays in its place; the same pair under another relation is another triple.
    assert kg.edge_index.tolist() == [[0, 1, 2, 3, 0], [1, 2, 3, 0, 1]]
    assert kg.notes == ("1 duplicated triples were dropped",)
    text = refusal(head, relation, tail, duplicates="refuse")
    assert "edge 4: the triple (0, a, 1) occurs twice, 1 do; remove them or set data.duplicates=drop" in text


def test_inverse_relations_are_left_out_by_what_they_hold() -> None:
    head, relation, tail = [0, 1, 2, 1, 2, 3], [0, 0, 2, 1, 1, 2], [1, 2, 3, 0, 1, 0]
    kg = graph(head, relation, tail, relation_names=("a", "back", "c"))
    assert kg.relation_names == ("a", "c")
    assert kg.edge_type.tolist() == [0, 0, 1, 1]
    assert "'back' of 'a'" in kg.notes[0]
    assert graph(head, relation, tail, relation_names=("a", "back", "c"), inverse="keep").num_edges == 6
    # One edge more, and it is a relation of its own.
    other = graph([*head, 3], [*relation, 1], [*tail, 1], relation_names=("a", "back", "c"))
    assert other.relation_names == ("a", "back", "c")
    # A symmetric relation is its own inverse and stays.
    assert graph([0, 1], [0, 0], [1, 0], relation_names=("near",)).num_edges == 2


def test_empty_texts_are_said() -> None:
    assert graph(text=["a", "", "", "b"]).notes == ("2 of 4 nodes have no text: their text features are zero",)
    silent = graph(text=[""] * 4)
    assert silent.text is None
    assert silent.notes == ("no node has a text: its text features are zero",)


class TestHeteroData:
    def rich(self) -> KnowledgeGraph:
        return graph(
            ids=["p", "q", "r", "s"], names=["Pea", "Quince", "Rice", "Salt"], text=["green", "", "white", "sea"],
            node_type=[1, 0, 1, 0], node_type_names=("thing", "plant"), x_text=np.arange(8.0).reshape(4, 2),
        )  # fmt: skip

    def test_there_and_back(self) -> None:
        pytest.importorskip("torch_geometric")
        kg = self.rich()
        data = kg.to_heterodata()
        assert data["thing"].num_nodes == 2
        assert data["plant"].name == ["Pea", "Rice"]
        assert data["plant", "a", "thing"].edge_index.tolist() == [[0], [0]]
        back = KnowledgeGraph.from_heterodata(data)
        triples = [
            sorted(zip(*g.edge_index.tolist(), [g.relation_names[r] for r in g.edge_type], strict=True))
            for g in (kg, back)
        ]
        assert triples[0] == triples[1]
        np.testing.assert_array_equal(back.y, kg.y)
        np.testing.assert_array_equal(back.x_text, kg.x_text)
        assert (back.ids, back.text, back.node_type.tolist()) == (kg.ids, kg.text, [1, 0, 1, 0])

    def test_plain_data_of_others(self) -> None:
        torch = pytest.importorskip("torch")
        geometric = pytest.importorskip("torch_geometric.data")
        data = geometric.HeteroData()
        data["film"].num_nodes, data["person"].num_nodes = 2, 3
        data["film"].score = torch.tensor([0.0, 9.0])
        data["person", "acts", "film"].edge_index = torch.tensor([[0, 2], [0, 1]])
        kg = KnowledgeGraph.from_heterodata(data)
        assert kg.edge_index.tolist() == [[2, 4], [0, 1]]
        np.testing.assert_allclose(kg.y[:2], np.log1p([0.0, 9.0]), rtol=1e-6)
        assert np.isnan(kg.y[2:]).all()
        data["person", "acts", "film"].edge_index = torch.tensor([[0, 3], [0, 1]])
        with pytest.raises(DataError, match=r"an edge of 'acts' names a 'person' that does not exist, there are 3"):
            KnowledgeGraph.from_heterodata(data)
