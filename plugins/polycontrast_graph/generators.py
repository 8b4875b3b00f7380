"""A made-up knowledge graph with known parts, to try the methods without a download.

Nothing here is made for one method: a ridge regression that is told the neighbours of an item does well on it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from polycontrast.config import MethodConfig
from polycontrast.data import Purpose, derive_seed
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.read import GraphDataset, dataset_of


def demo(config: MethodConfig, seed: int, purpose: Purpose) -> GraphDataset:
    """The dataset ``demo``: :func:`catalogue`."""
    return dataset_of(catalogue(seed=seed), config, "demo", purpose)


def catalogue(
    *,
    items: int = 1500,
    tags: int = 60,
    makers: int = 300,
    structure_width: int = 64,
    structure_noise: float = 1.0,
    label_noise: float = 0.3,
    seed: int = 0,
) -> KnowledgeGraph:
    """Items with a maker and some tags, whose scores are to be predicted.

    A maker has a quality u and a tag a quality v, both N(0, 1). An item has one maker, the k-th with a probability in
    proportion to k^-0.7, and 1 to 4 different tags. Its score is, on the scale of log(1 + score),

        6 + 0.8 u + 0.6 (mean v of its tags) + 0.4 (number of tags) + 0.5 (w . text) + N(0, label_noise),

    cut off at 0, with a unit vector w. ``x_text`` of an item is N(0, 1) of width 32, of which w reads the first 4;
    tags and makers have none. ``x_struct`` of every node is a random projection of the sum of its neighbours'
    indicators, each neighbour's row of unit length, plus noise of ``structure_noise`` times the mean length of such a
    sum. So who stands beside an item is blurred in its own row and clear in the mean over those that share a neighbour.

    Returns:
        Nodes in the order items, tags, makers; relations ``made by`` and ``tagged``.
    """
    rng = np.random.default_rng(derive_seed(seed, "catalogue"))
    u, v = rng.normal(size=makers), rng.normal(size=tags)
    share = np.arange(1, makers + 1) ** -0.7
    maker = rng.permutation(makers)[rng.choice(makers, size=items, p=share / share.sum())]
    number = rng.integers(1, 5, size=items)
    # The first ``number`` of a random order of the tags.
    chosen = rng.random((items, tags)).argsort(axis=1)[:, :4]
    item, place = np.nonzero(np.arange(4) < number[:, None])
    tag = chosen[item, place]

    total = items + tags + makers
    text = np.zeros((total, 32))
    text[:items] = rng.normal(size=(items, 32))
    w = rng.normal(size=4)
    w /= np.linalg.norm(w)
    log_score = (
        6.0 + 0.8 * u[maker] + 0.6 * np.bincount(item, weights=v[tag]) / number + 0.4 * number
        + 0.5 * text[:items, :4] @ w + rng.normal(0.0, label_noise, size=items)
    )  # fmt: skip

    head = np.concatenate([np.arange(items), item])
    tail = np.concatenate([items + tags + maker, items + tag])
    relation = np.concatenate([np.zeros(items, np.int64), np.ones(len(item), np.int64)])
    links = sp.csr_matrix((np.ones(len(head)), (head, tail)), shape=(total, total))
    rows = (links + links.T) @ (rng.normal(size=(total, structure_width)) / np.sqrt(structure_width))
    length = float(np.linalg.norm(rows[:items], axis=1).mean())
    rows = rows + rng.normal(size=rows.shape) * (structure_noise * length / np.sqrt(structure_width))

    y = np.full(total, np.nan)
    y[:items] = np.maximum(log_score, 0.0)
    names = [f"{kind} {i}" for kind, n in (("item", items), ("tag", tags), ("maker", makers)) for i in range(n)]
    return KnowledgeGraph.from_arrays(
        head, relation, tail, num_nodes=total, relation_names=("made by", "tagged"), y=y, ids=names, names=names,
        node_type=np.repeat([0, 1, 2], [items, tags, makers]), node_type_names=("item", "tag", "maker"),
        x_struct=rows, x_text=text, name="demo",
    )  # fmt: skip


__all__ = ["catalogue", "demo"]
