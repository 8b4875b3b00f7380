"""Score the entities of a knowledge graph with graph/metahgnie, and say why.

    python scripts/graph.py                                the demo catalogue
    python scripts/graph.py GRAPH_FOLDER --config best     your graph: nodes and edges as TSV, CSV, Parquet or N-Triples

This file is a template: copy it and change it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import polycontrast
from polycontrast_graph.metahgnie.method import MetaHGNIE
from polycontrast_graph.read import read_graph


def main() -> None:
    """Train, or go on where an earlier call was stopped; compare with baselines; export; explain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", nargs="?", type=Path, help="folder or file with a graph (default: the demo data)")
    parser.add_argument("--config", help="preset, e.g. best or official (default: best for a graph of your own)")
    parser.add_argument("--out", type=Path, default=Path("runs/graph"), help="run directory (default: runs/graph)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    preset = args.config or ("best" if args.graph else None)
    result = polycontrast.train(
        "graph/metahgnie", data=args.graph, config=preset, seed=args.seed, out=args.out, resume=True
    )
    print(f"\n{'':24}{result.headline:>10}{'ndcg@100':>10}")
    rows = {"metahgnie": result.metrics, **result.baselines}
    for name, metrics in sorted(rows.items(), key=lambda row: -row[1][result.headline]):
        floor = "  (floor)" if name in result.floors else ""
        print(f"{name:24}{metrics[result.headline]:10.4f}{metrics['ndcg@100']:10.4f}{floor}")

    table = polycontrast.predict(args.out, out=args.out / "scores.parquet").to_pandas()
    first = table.sort_values("rank").head(5)
    print(f"\n{first[['name', 'score', 'low', 'high', 'rank']].to_string(index=False)}")
    print(f"... in {args.out / 'scores.parquet'}; report: {args.out / 'report.html'}")

    if args.graph:  # The trained method itself, for everything else: score_new, insert, deletion_test.
        method = cast(MetaHGNIE, polycontrast.load(args.out)).attach(read_graph(args.graph))
        why = method.explain(str(first["node_id"].iloc[0]))
        print(f"\n{why.name}: {why.score:.2f} ({why.low:.2f} to {why.high:.2f})")
        for reason in why.reasons:
            fellows = ", ".join(reason.members)
            print(f"  {reason.contribution:+.3f}  {reason.name}, {reason.size} members, e.g. {fellows}")


if __name__ == "__main__":
    main()
