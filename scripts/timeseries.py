#!/usr/bin/env python
"""Learn from a table of time series and forecast what comes next.

    python scripts/timeseries.py                                   # the demo data, a minute or two
    python scripts/timeseries.py sales.csv --horizon 24 --context 168 --out runs/sales
    python scripts/timeseries.py sales.csv --out runs/sales        # again: loads the trained model and forecasts
    python scripts/timeseries.py sales.csv --method autotcl        # representations with a ridge regression on them

The table is CSV or Parquet: a column of dates and one numeric column per series, or long (unique_id, ds, y).
This file is a template: copy it and change it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polycontrast


def main() -> None:
    """Train, or go on where an earlier call was stopped; compare with baselines; forecast; embed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="CSV or Parquet file (default: the demo data)")
    parser.add_argument("--method", choices=("ti-mae", "autotcl"), default="ti-mae", help="default: ti-mae")
    parser.add_argument("--horizon", type=int, default=24, help="steps to forecast (default: 24)")
    parser.add_argument("--context", type=int, default=96, help="steps a forecast is made from (default: 96)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/timeseries"), help="run directory (default: runs/timeseries)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    settings = {"horizons": [args.horizon], "context": args.context}
    if args.method == "ti-mae":
        settings |= {"head_context": args.context}
        # n_masks: the paper's 30 suit a GPU; revin: recommended where levels drift.
        settings |= {"n_masks": 4, "revin": True} if args.table else {}
    elif args.table:
        # The paper's sizes suit a GPU; overlapping sections make epochs of useful length.
        settings |= {"hidden": 32, "out_dim": 64, "max_len": 2 * args.context, "stride": args.context // 4 or 1}
        settings |= {"beta_mask": 0.1, "optimiser.lr": 1e-3, "engine.epochs": 30}
    result = polycontrast.train(
        f"timeseries/{args.method}", data=args.table, set=settings, seed=args.seed, out=args.out, resume=True
    )

    print(f"\n{'':24}{result.headline:>10}")
    rows = {args.method: result.metrics, **result.baselines}
    for name, metrics in sorted(rows.items(), key=lambda row: row[1][result.headline]):
        print(f"{name:24}{metrics[result.headline]:10.4f}{'  (floor)' if name in result.floors else ''}")

    forecast = polycontrast.predict(args.out, out=args.out / "forecast.parquet").to_pandas()
    print(f"\n{forecast.groupby('unique_id').head(2).to_string(index=False)}\n... in {args.out / 'forecast.parquet'}")
    print(f"Report: {args.out / 'report.html'}")

    # The trained method itself, for everything else: transform; ti-mae: impute, anomaly_score; autotcl: mask.
    method = polycontrast.load(args.out)
    print(f"{sum(p.numel() for p in method.parameters()):,} parameters, channels {', '.join(method.info['channels'])}")


if __name__ == "__main__":
    main()
