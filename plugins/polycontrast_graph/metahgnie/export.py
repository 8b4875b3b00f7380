"""Scores of all nodes as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import rankdata

from polycontrast.files import atomic_file
from polycontrast_graph.metahgnie.explain import membership_contributions

if TYPE_CHECKING:
    from polycontrast_graph.metahgnie.method import MetaHGNIE


def table(method: MetaHGNIE, *, reasons: int = 3, top: int | None = 100) -> pa.Table:
    """One row per node, in the order of the graph; see :meth:`MetaHGNIE.export`."""
    kg, scores, half = method.view.kg, method.scores(), method.radii()
    rank = rankdata(-scores, method="min").astype(np.int64)
    why: list[list[str]] = [[] for _ in range(kg.num_nodes)]
    if reasons:
        first = np.argsort(-scores, kind="stable")[:top]
        for node, found in zip(first.tolist(), _reasons(method, first, reasons), strict=True):
            why[node] = found
    label = pa.array(kg.y.astype(np.float64), mask=~kg.labelled)
    return pa.table({
        "node_id": [kg.id(i) for i in range(kg.num_nodes)], "name": [kg.label(i) for i in range(kg.num_nodes)],
        "score": scores, "estimate": np.expm1(scores), "rank": rank,
        "percentile": 100.0 * (1.0 - (rankdata(-scores) - 0.5) / len(scores)), "low": scores - half,
        "high": scores + half, "label": label, "reasons": pa.array(why, pa.list_(pa.string())),
    })  # fmt: skip


def _reasons(method: MetaHGNIE, nodes: np.ndarray, k: int) -> list[list[str]]:
    """Names of the hyperedges that raise each score most, and by how much."""
    view = method.view
    struct, text = membership_contributions(method)
    ptr = view.incidence.memberships.ptr.cpu().numpy()
    edge = view.incidence.given[view.incidence.memberships.column].cpu().numpy()
    found = []
    for n in nodes.tolist():
        a, b = ptr[n], ptr[n + 1]
        total = (struct + text)[a:b]
        best = [i for i in np.argsort(-total, kind="stable")[:k].tolist() if total[i] > 0]
        found.append([f"{view.hypergraph.name(int(edge[a + i]), view.kg.label)} (+{total[i]:.3f})" for i in best])
    return found


def write(rows: pa.Table, file: Path) -> Path:
    """Write Parquet, whole or not at all."""
    with atomic_file(file) as temporary:
        pq.write_table(rows, temporary)
    return file


__all__ = ["table", "write"]
