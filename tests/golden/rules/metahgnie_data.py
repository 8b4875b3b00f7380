"""Rules of MetaHGNIE's data side: hypergraph, split, metrics; the README beside the files says what each holds."""

from __future__ import annotations

import numpy as np

from golden.rules import Case, rule
from polycontrast_graph.folds import TEST, TRAIN, VAL, folds, fractions
from polycontrast_graph.hypergraph import RelationSetBuilder
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.ranking import importance_metrics, spearman


@rule("metahgnie", "relation_set_builder")
def relation_set_builder(case: Case) -> None:
    n = case.integer("num_nodes")
    relation = np.asarray(case.array("rel"))
    # Relations without an edge touch no node.
    names, number = np.unique(relation, return_inverse=True)
    assert int(names.max()) < case.integer("num_rels")
    graph = KnowledgeGraph.from_arrays(
        case.array("head"), number, case.array("tail"), num_nodes=n, labels=False, inverse="keep"
    )
    for mode in ("all", "last"):
        found = RelationSetBuilder(type_mode=mode)(graph)  # type: ignore[arg-type]
        order = np.argsort(found.hyperedge_index[0], kind="stable")
        assert np.array_equal(found.hyperedge_index[0][order], np.arange(n)), "no partition of the nodes"
        case.same("node_to_hyperedge", found.hyperedge_index[1][order])
        case.same("hyperedge_sizes", found.sizes)
        # Ids of types are arbitrary: number them in the order in which the expected ones appear.
        expected = np.asarray(case.array("hyperedge_type_partition"))
        _, first, group = np.unique(found.hyperedge_type, return_index=True, return_inverse=True)
        assert len(first) == len(np.unique(expected)), "another number of types"
        case.same("hyperedge_type_partition", expected[first][group])


@rule("metahgnie", "split")
def split(case: Case) -> None:
    labelled = np.asarray(case.array("valid")) == 1
    case.close("fraction", fractions(labelled))
    parts = folds(labelled)
    for fold in range(case.integer("n_folds")):
        for name, part in (("train", TRAIN), ("val", VAL), ("test", TEST)):
            case.same(f"{name}_{fold}", np.flatnonzero(parts[fold] == part))


@rule("metahgnie", "metrics")
def metrics(case: Case) -> None:
    true, predicted = (np.asarray(case.array(name), dtype=np.float64) for name in ("y_true", "y_pred"))
    ks = [int(k) for k in np.asarray(case.array("ks"))]
    found = importance_metrics(true, predicted, ks)
    case.close("ndcg", [found[f"ndcg@{k}"] for k in ks], tolerance=1e-6)  # made with float32 discounts
    case.close("overlap", [found[f"overlap@{k}"] for k in ks])
    case.close("spearman_float64", found["spearman"])
    case.close("spearman", spearman(true.astype(np.float32), predicted.astype(np.float32)))
    case.close("rmse", found["rmse"])
    case.close("medae", found["median_absolute_error"])
