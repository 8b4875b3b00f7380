#!/usr/bin/env python
"""Learn from a table of time series and forecast what comes next.

    python scripts/timeseries.py                                   # the demo data, a minute or two
    python scripts/timeseries.py sales.csv --horizon 24 --context 168 --out runs/sales
    python scripts/timeseries.py sales.csv --out runs/sales        # again: loads the trained model and forecasts
    python scripts/timeseries.py sales.csv --method autotcl        # representations with a ridge regression on them
    python scripts/timeseries.py speeds.csv --method st-ssdl --graph adjacency.csv    # sensors of a graph

The table is CSV or Parquet: a column of dates and one numeric column per series, or long (unique_id, ds, y). Of st-ssdl
it may also be a folder of LibCity or BasicTS, .npz or .h5.
This file is a template: copy it and change it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polycontrast


def main() -> None:
    """Train, or go on where an earlier call was stopped; compare with baselines; forecast; embed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="CSV or Parquet file (default: the demo data)")
    parser.add_argument("--method", choices=("ti-mae", "autotcl", "st-ssdl"), default="ti-mae", help="default: ti-mae")
    parser.add_argument("--graph", help="file of the graph between sensors, for st-ssdl (see data.graph)")
    parser.add_argument("--horizon", type=int, help="steps to forecast (default: 24; of st-ssdl 12)")
    parser.add_argument("--context", type=int, help="steps a forecast is made from (default: 96; of st-ssdl 12)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/timeseries"), help="run directory (default: runs/timeseries)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    result = polycontrast.train(
        f"timeseries/{args.method}", data=args.table, set=settings(args), seed=args.seed, out=args.out, resume=True
    )

    print(f"\n{'':24}{result.headline:>10}")
    rows = {args.method: result.metrics, **result.baselines}
    for name, metrics in sorted(rows.items(), key=lambda row: row[1][result.headline]):
        print(f"{name:24}{metrics[result.headline]:10.4f}{'  (floor)' if name in result.floors else ''}")

    forecast = polycontrast.predict(args.out, out=args.out / "forecast.parquet").to_pandas()
    print(f"\n{forecast.groupby('unique_id').head(2).to_string(index=False)}\n... in {args.out / 'forecast.parquet'}")
    print(f"Report: {args.out / 'report.html'}")

    # The trained method itself, for everything else: transform; ti-mae: impute, anomaly_score; autotcl: mask;
    # st-ssdl: deviation (scores of incidents), prototype_profile.
    method = polycontrast.load(args.out)
    names = method.info["sensors" if args.method == "st-ssdl" else "channels"]
    print(f"{sum(p.numel() for p in method.parameters()):,} parameters, {len(names)} series: {', '.join(names[:8])}")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What this script sets differently from the papers, whose sizes suit a GPU."""
    if args.method == "st-ssdl":
        chosen: dict[str, Any] = {"t_in": args.context, "t_out": args.horizon, "data.graph": args.graph}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        small = {"hidden": 32, "value_dim": 16, "fill": "anchor", "patience": 5, "engine.epochs": 20}
        return chosen | small if args.table else chosen
    context, horizon = args.context or 96, args.horizon or 24
    chosen = {"horizons": [horizon], "context": context}
    if args.method == "ti-mae":
        # revin: recommended where levels drift.
        return chosen | {"head_context": context} | ({"n_masks": 4, "revin": True} if args.table else {})
    if not args.table:
        return chosen
    # Overlapping sections make epochs of useful length.
    chosen |= {"hidden": 32, "out_dim": 64, "max_len": 2 * context, "stride": context // 4 or 1}
    return chosen | {"beta_mask": 0.1, "optimiser.lr": 1e-3, "engine.epochs": 30}


if __name__ == "__main__":
    main()
