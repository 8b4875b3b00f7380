"""Settings of the data that every method of this domain reads: the graph, its hypergraph, its features.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polycontrast.config import DataConfig
from polycontrast.errors import ConfigError

MetaPath = tuple[str, ...]
"""Steps of a meta-path, each a relation with its direction: ``term>`` from head to tail, ``term<`` back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig(DataConfig):
    """How a knowledge graph is read and its labelled nodes are split."""

    fold: int | Literal["all"] = 0
    """Fold of the split whose test part is measured, from 0, or "all": one training per fold, mean and deviation."""
    folds: int = 5
    """Folds. Their test parts cover all labelled nodes; the next half-fold validates. Literature: 5, of 20 % each."""
    split_seed: int = 0
    """Seed of the draw that the folds come from. Literature: 0. The run's seed does not touch it, so that runs of
    several seeds are measured on the same nodes."""
    score: str = "score"
    """Column of the node table with the raw scores, at least 0. Learned and measured is log(1 + score)."""
    valid: str = "valid"
    """Column of the node table that is 1 where the score is a label, if there is one. Otherwise a node without a
    number has no label."""
    text: tuple[str, ...] = ("text", "description", "triplets_text")
    """Columns of the node table whose words, joined, are the text of a node; those that exist are used."""
    use_name: bool = True
    """Whether the name of a node is part of its text: "name: description"."""
    duplicates: Literal["drop", "refuse"] = "drop"
    """Triples that occur twice: keep one and say how many, or refuse the data."""
    inverse: Literal["drop", "keep"] = "drop"
    """Relations that hold exactly the turned edges of an earlier one: leave them out and say so, or keep them.
    Everything here looks at edges from both ends anyway."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.folds}")
        if isinstance(self.fold, int) and not 0 <= self.fold < self.folds:
            raise ConfigError(f"fold must lie in 0 .. {self.folds - 1} or be 'all', got {self.fold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HypergraphConfig:
    """Which entities are hyperedges."""

    builder: Literal["relation-set", "relation-star", "meta-path", "star+paths", "none"] = "star+paths"
    """relation-set: nodes that touch the same relations, a partition, as published; relation-star: the heads of one
    relation and tail, the tails of one relation and head; meta-path: what instances of a path meet at one anchor;
    star+paths: both, the idea of the paper; none: every node alone."""
    include_anchor: bool = True
    """Whether the node that a star or a path hangs on is a member. relation-set has none."""
    min_size: int = 2
    """Least members, the anchor not counted. relation-set keeps all."""
    max_size: int | None = 1000
    """Most members. None: no bound. relation-set has none."""
    oversize: Literal["sample", "drop"] = "sample"
    """What becomes of a hyperedge above ``max_size``: a fixed sample of its members, or nothing."""
    paths: tuple[MetaPath, ...] = ()
    """Meta-paths such as ``[term>, term<]``. Empty: the most frequent ones, found in the data."""
    path_length: int = 2
    """Longest path that is looked for."""
    top: int = 8
    """Paths that are looked for at each length from 2 on."""
    min_support: int = 50
    """Least instances of such a path."""
    anchor: Literal["pivot", "start", "end"] = "pivot"
    """Where the paths of one hyperedge meet: in the middle, or where they start or end."""
    type_mode: Literal["all", "last"] = "all"
    """relation-set: whether all edges that join two members tell its type, or for each pair the last one only, as
    published."""

    def __post_init__(self) -> None:
        if self.min_size < 1:
            raise ConfigError(f"min_size must be at least 1, got {self.min_size}")
        if self.max_size is not None and self.max_size < self.min_size:
            raise ConfigError(f"max_size must be at least min_size {self.min_size}, got {self.max_size}")
        if self.path_length < 2 or self.top < 1 or self.min_support < 1:
            raise ConfigError("path_length must be at least 2, top and min_support at least 1")
        for path in self.paths:
            check_path(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """What is known of a node beside its hyperedges."""

    structure: tuple[Literal["svd", "counts", "degree", "given"], ...] = ("svd",)
    """Parts of the structural features, side by side. svd: truncated singular vectors of the normalised adjacency;
    counts: log(1 + edges) of each relation as head and as tail; degree: log(1 + neighbours); given: columns that the
    data bring. Literature: node2vec of width 64, for which svd stands."""
    svd_width: int = 64
    """Singular vectors of the adjacency."""
    text: str = "tfidf"
    """tfidf: TF-IDF of words and pairs of words, then truncated SVD; given: columns that the data bring; otherwise a
    text encoder of transformers or sentence-transformers, by name or folder. Literature: all-mpnet-base-v2 or BERT."""
    text_width: int = 128
    """Dimensions that TF-IDF is reduced to."""
    text_from: Literal["all", "labelled"] = "all"
    """Nodes whose texts these dimensions are made from: all, or those with a label, so that what other kinds of nodes
    are about takes up none (all nodes if fewer than ten per dimension have one). The labels themselves play no part."""
    max_terms: int = 60_000
    """Most words and pairs of words of TF-IDF."""
    min_documents: int = 2
    """Texts that a word must occur in to count in TF-IDF."""

    def __post_init__(self) -> None:
        for name in ("svd_width", "text_width", "max_terms", "min_documents"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.structure or len(set(self.structure)) < len(self.structure):
            raise ConfigError(f"structure must name different parts, at least one, got {list(self.structure)}")
        if not self.text:
            raise ConfigError("text must be tfidf, given, or a text encoder's name or folder")


def check_path(path: MetaPath) -> None:
    """Refuse what is no meta-path.

    Raises:
        ConfigError: it is empty, or a step does not end in ``>`` or ``<``.
    """
    if not path:
        raise ConfigError("a meta-path needs at least one step, e.g. [term>, term<]")
    for step in path:
        if len(step) < 2 or step[-1] not in "<>":
            raise ConfigError(
                f"step {step!r} of a meta-path must be a relation and a direction, e.g. 'term>' or 'term<'"
            )
