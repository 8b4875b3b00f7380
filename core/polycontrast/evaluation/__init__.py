"""Measures of a representation: neighbours, linear probes, retrieval, zero-shot, geometry.

All take tensors, need no engine, and hold scores one tile at a time. Embeddings that were gathered from several
processes, or from batches that were filled up, go through :func:`unique_rows` or :func:`gathered` first.
"""

from polycontrast.evaluation.geometry import (
    Collapse,
    alignment,
    collapse,
    effective_rank,
    mean_similarities,
    spread,
    uniformity,
)
from polycontrast.evaluation.knn import knn_accuracy, knn_classify, knn_votes, top_k
from polycontrast.evaluation.probe import OnlineProbe, Probe, linear_probe
from polycontrast.evaluation.retrieval import (
    Ranks,
    caption_retrieval,
    class_embeddings,
    ranks,
    retrieval,
    zero_shot,
)
from polycontrast.evaluation.rows import gathered, unique_rows

__all__ = [
    "Collapse", "OnlineProbe", "Probe", "Ranks", "alignment", "caption_retrieval", "class_embeddings", "collapse",
    "effective_rank", "gathered", "knn_accuracy", "knn_classify", "knn_votes", "linear_probe", "mean_similarities",
    "ranks", "retrieval", "spread", "top_k", "uniformity", "unique_rows", "zero_shot",
]  # fmt: skip
