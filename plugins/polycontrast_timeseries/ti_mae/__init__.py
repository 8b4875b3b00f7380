"""Ti-MAE: masked auto-encoding of time series (arXiv 2301.08871)."""
