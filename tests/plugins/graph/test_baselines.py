from __future__ import annotations

import networkx
import numpy as np
import pytest

from polycontrast_graph.baselines import ALPHAS, FLOORS, Baselines, measure, pagerank
from polycontrast_graph.folds import TEST, VAL, folds
from polycontrast_graph.generators import catalogue
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.ranking import importance_metrics

SMALL = {"items": 400, "tags": 30, "makers": 80}


@pytest.mark.parametrize("restart", [False, True])
def test_pagerank_against_networkx(restart: bool) -> None:
    rng = np.random.default_rng(0)
    head, tail = rng.integers(0, 40, (2, 70))
    kg = KnowledgeGraph.from_arrays(head, np.zeros(70, int), tail, num_nodes=43, labels=False)
    graph = networkx.Graph()
    graph.add_nodes_from(range(43))
    graph.add_edges_from((h, t) for h, t in zip(head.tolist(), tail.tolist(), strict=True) if h != t)
    weight = rng.random(43) * (rng.random(43) < 0.3) if restart else None
    given = None if weight is None else dict(enumerate(weight))
    expected = networkx.pagerank(graph, personalization=given, dangling=given, tol=1e-12, max_iter=1000)
    np.testing.assert_allclose(pagerank(kg, weight), [expected[i] for i in range(43)], atol=1e-9)


def test_what_is_reported_and_in_which_order_it_should_be() -> None:
    kg = catalogue(**SMALL)
    part = folds(kg.labelled)[0]
    rows = measure(kg, part)
    assert set(FLOORS) < set(rows)
    assert all("rmse" not in rows[name] for name in ("degree", "pagerank", "personalised-pagerank"))
    assert rows["random"]["spearman"] == 0.0
    assert rows["random"]["ndcg@20"] < rows["degree"]["ndcg@20"] < rows["ridge"]["ndcg@20"]
    # Words and relations of an item alone say less than who stands beside it.
    assert rows["ridge"]["spearman"] > rows["degree"]["spearman"] + 0.05
    assert rows["ridge-neighbours"]["spearman"] > rows["ridge"]["spearman"] + 0.1
    assert all(np.isfinite(list(row.values())).all() for row in rows.values())


def test_test_labels_are_never_read() -> None:
    kg = catalogue(**SMALL)
    part = folds(kg.labelled)[0]
    y = kg.y.copy()
    y[part == TEST] = np.random.default_rng(0).permutation(y[part == TEST])
    one, two = Baselines(kg).predictions(part), Baselines(kg.with_labels(y)).predictions(part)
    for name, score in one.items():
        np.testing.assert_array_equal(score, two[name], err_msg=name)


def test_penalties_are_chosen_on_validation_nodes() -> None:
    kg = catalogue(**SMALL)
    part = folds(kg.labelled)[1]
    baselines = Baselines(kg)
    score, alpha = baselines._tuned(baselines.everything, part)
    assert alpha in ALPHAS
    at = part == VAL
    from polycontrast_graph.baselines import ridge

    train = np.flatnonzero(part == 0)
    tried = [
        importance_metrics(kg.y[at], ridge(baselines.everything, kg.y.astype(float), train, a)[at])["spearman"]
        for a in ALPHAS
    ]
    assert importance_metrics(kg.y[at], score[at])["spearman"] == max(tried)


def test_texts_are_counted_in_words() -> None:
    rng = np.random.default_rng(0)
    good = rng.random(200) < 0.5
    text = ["a splendid thing" if g else "a dull thing" for g in good]
    ends = rng.integers(0, 200, (2, 300))
    kg = KnowledgeGraph.from_arrays(
        ends[0], np.zeros(300, int), ends[1], num_nodes=200, y=good + rng.normal(0, 0.01, 200), text=text
    )
    rows = Baselines(kg).measure(folds(kg.labelled)[0], only=["ridge-text", "degree"])
    assert list(rows) == ["degree", "ridge-text"]
    assert rows["ridge-text"]["rmse"] < 0.1
    assert abs(rows["degree"]["spearman"]) < 0.4
