"""Sets as rows of two sorted arrays, grouped and sampled without a Python loop."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
Unsigned = npt.NDArray[np.uint64]


def mixed(values: Unsigned) -> Unsigned:
    """A well mixed number per number, the same on every machine (splitmix64; Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        bits = values + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def unique_pairs(first: Int, second: Int, size: int) -> tuple[Int, Int]:
    """The different pairs, sorted by ``first``, then ``second``; ``size`` is above every ``second``."""
    if len(first) and int(first.max()) < 2**62 // max(size, 1):
        keys = np.sort(first * size + second)
        keys = keys[_changes(keys)]
        return keys // size, keys % size
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = _changes(first) | _changes(second)
    return first[new], second[new]


def pointers(owner: Int, count: int) -> Int:
    """(count + 1,) where the rows of each owner begin in a sorted array of owners."""
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int64)


def same_sets(owner: Int, item: Int, count: int) -> tuple[Int, Int]:
    """Which of ``count`` owners hold the same set of items.

    Args:
        owner: (P,) sorted, and
        item: (P,) sorted for each owner, pairs without repetition.
        count: owners; one without a pair holds the empty set.

    Returns:
        (count,) the group of each owner, numbered in order of first appearance, and (groups,) the first owner of each.
    """
    bits = mixed(item.astype(np.uint64))
    prints = np.zeros((2, count), dtype=np.uint64)
    np.add.at(prints[0], owner, bits)
    np.add.at(prints[1], owner, mixed(bits))
    _, first, group = np.unique(prints, axis=1, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    order = np.argsort(first)
    rank[order] = np.arange(len(first))
    group, first = rank[group.ravel()], first[order].astype(np.int64)
    _verify(owner, item, count, first[group])
    return group, first


def _verify(owner: Int, item: Int, count: int, like: Int) -> None:
    """That the fingerprints did not collide: every owner holds what the first of its group holds."""
    start = pointers(owner, count)
    size = np.diff(start)
    same = np.array_equal(size, size[like])
    if same:
        at = start[like[owner]] + (np.arange(len(owner)) - start[owner])
        same = np.array_equal(item, item[at])
    if not same:
        raise RuntimeError("two sets have the same 128-bit fingerprint; please report this graph")


def capped(owner: Int, item: Int, count: int, most: int) -> npt.NDArray[np.bool_]:
    """(P,) which pairs stay when every owner keeps at most so many items: a fixed sample, the same on every machine."""
    large = np.bincount(owner, minlength=count)[owner] > most
    keep = ~large
    at = np.flatnonzero(large)
    lot = mixed(mixed(owner[at].astype(np.uint64)) + item[at].astype(np.uint64))
    order = np.lexsort((lot, owner[at]))
    sorted_owner = owner[at][order]
    place = np.arange(len(at)) - np.searchsorted(sorted_owner, sorted_owner)
    keep[at[order[place < most]]] = True
    return keep


def _changes(values: Int) -> npt.NDArray[np.bool_]:
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    return new


__all__ = ["capped", "mixed", "pointers", "same_sets", "unique_pairs"]
