"""Datasets, the order of their samples, per-sample randomness, and readers that refuse bad input by file and row."""

from polycontrast.data.dataset import Batch, Dataset, Examples, Purpose, TensorExamples
from polycontrast.data.download import cache_dir, fetch
from polycontrast.data.readers import read_table
from polycontrast.data.sampling import ResumableSampler, derive_seed, draws, normal, uniform

__all__ = [
    "Batch", "Dataset", "Examples", "Purpose", "ResumableSampler", "TensorExamples", "cache_dir", "derive_seed",
    "draws", "fetch", "normal", "read_table", "uniform",
]  # fmt: skip
