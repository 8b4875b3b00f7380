from __future__ import annotations

import time

import numpy as np
import pytest

from polycontrast.errors import ConfigError, DataError
from polycontrast_graph.config import HypergraphConfig
from polycontrast_graph.grouping import capped, same_sets, unique_pairs
from polycontrast_graph.hypergraph import (
    CompositeBuilder,
    Hypergraph,
    HypergraphBuilder,
    RelationSetBuilder,
    RelationStarBuilder,
    make_builder,
    paths_of,
)
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.metapaths import MetaPathBuilder, discover_metapaths

Edge = tuple[int, int, int]
# Artists 0, 1, 2 with terms 3, 4; songs 5, 6 of artists 0, 1; node 7 alone.
ART: list[Edge] = [(0, 0, 3), (1, 0, 3), (2, 0, 3), (2, 0, 4), (1, 0, 4), (5, 1, 0), (6, 1, 1)]


def graph(edges: list[Edge], num_nodes: int, relations: tuple[str, ...] = ("term", "by")) -> KnowledgeGraph:
    head, relation, tail = np.array(edges).T
    return KnowledgeGraph.from_arrays(
        head, relation, tail, num_nodes=num_nodes, relation_names=relations, labels=False, inverse="keep"
    )


def chance(seed: int, n: int = 40, e: int = 150, r: int = 4) -> KnowledgeGraph:
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, [n, r, n], size=(e, 3))
    edges[:r, 1] = np.arange(r)
    return graph([tuple(edge) for edge in edges.tolist()], n + 3, tuple("abcd"[:r]))


def sets(h: Hypergraph) -> dict[tuple[str, int], set[int]]:
    return {
        (h.type_names[t], a): set(h.members(m).tolist())
        for m, (t, a) in enumerate(zip(h.hyperedge_type.tolist(), h.anchor.tolist(), strict=True))
    }


def check(h: Hypergraph) -> None:
    node, edge = h.hyperedge_index
    assert np.array_equal(np.lexsort((node, edge)), np.arange(len(node))), "not sorted"
    assert len(np.unique(h.hyperedge_index, axis=1).T) == len(node), "a pair occurs twice"
    assert (h.sizes > 0).all()
    assert h.hyperedge_type.max() < len(h.type_names)
    assert len(h.anchor) == h.num_hyperedges == len(h.hyperedge_type)


# ---- the published builder ----


def slow_relation_sets(kg: KnowledgeGraph, mode: str) -> tuple[list[int], list[tuple[int, ...]]]:
    """As the official code does it, with loops."""
    edges = list(zip(kg.edge_index[0].tolist(), kg.edge_type.tolist(), kg.edge_index[1].tolist(), strict=True))
    touched: list[set[int]] = [set() for _ in range(kg.num_nodes)]
    for h, r, t in edges:
        touched[h].add(r)
        touched[t].add(r)
    seen: dict[frozenset[int], int] = {}
    group = [seen.setdefault(frozenset(s), len(seen)) for s in touched]
    between: dict[tuple[int, int], list[int]] = {}
    for h, r, t in edges:
        between.setdefault((min(h, t), max(h, t)), []).append(r)
    types: list[tuple[int, ...]] = []
    for g in range(len(seen)):
        members = [n for n in range(kg.num_nodes) if group[n] == g]
        found: set[int] = set()
        for i, a in enumerate(members):
            for b in members[i + 1 :]:
                found |= set(between.get((a, b), [])[-1 if mode == "last" else 0 :])
        types.append(tuple(sorted(found)) if len(members) > 1 else (-1,))
    return group, types


@pytest.mark.parametrize("mode", ["all", "last"])
@pytest.mark.parametrize("seed", range(8))
def test_relation_sets_against_loops(seed: int, mode: str) -> None:
    kg = chance(seed, n=12, e=22 + seed, r=2)
    h = RelationSetBuilder(type_mode=mode)(kg)  # type: ignore[arg-type]
    check(h)
    group, types = slow_relation_sets(kg, mode)
    mine = np.empty(kg.num_nodes, dtype=int)
    mine[h.hyperedge_index[0]] = h.hyperedge_index[1]
    assert mine.tolist() == group
    pairs = set(zip(h.hyperedge_type.tolist(), types, strict=True))
    assert len(pairs) == len(set(types)) == len(set(h.hyperedge_type.tolist()))
    for kind, relations in pairs:
        if relations == (-1,):
            assert h.type_names[kind] == "alone with its relations:"
        else:
            words = ", ".join(kg.relation_names[r] for r in relations)
            assert h.type_names[kind] == f"same relations ({f'joined by {words}' if words else 'not joined'}) as"


def test_last_edge_of_a_pair_is_told_apart() -> None:
    kg = graph([(0, 0, 1), (1, 1, 0)], 2)
    assert RelationSetBuilder("all")(kg).type_names == ("same relations (joined by term, by) as",)
    assert RelationSetBuilder("last")(kg).type_names == ("same relations (joined by by) as",)


# ---- stars ----


def test_stars_by_hand() -> None:
    found = sets(RelationStarBuilder()(graph(ART, 8)))
    assert found == {
        ("with term", 3): {0, 1, 2, 3},
        ("with term", 4): {1, 2, 4},
        ("term of", 1): {3, 4, 1},
        ("term of", 2): {3, 4, 2},
    }
    without = sets(RelationStarBuilder(include_anchor=False)(graph(ART, 8)))
    assert without == {key: members - {key[1]} for key, members in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_stars_against_loops(seed: int) -> None:
    kg = chance(seed)
    stars: dict[tuple[str, int], set[int]] = {}
    for h, r, t in zip(kg.edge_index[0].tolist(), kg.edge_type.tolist(), kg.edge_index[1].tolist(), strict=True):
        name = kg.relation_names[r]
        if h != t:
            stars.setdefault((f"with {name}", t), set()).add(h)
            stars.setdefault((f"{name} of", h), set()).add(t)
    for low, high in ((2, None), (1, None), (2, 3)):
        h = RelationStarBuilder(include_anchor=False, min_size=low, max_size=high, oversize="drop")(kg)
        check(h)
        assert sets(h) == {k: v for k, v in stars.items() if low <= len(v) <= (high or 99)}


def test_large_stars_are_sampled_the_same_way_each_time() -> None:
    kg = graph([(i, 0, 50) for i in range(50)] + [(0, 1, 50)], 51)
    one, two = (RelationStarBuilder(max_size=10)(kg) for _ in range(2))
    assert sorted(one.sizes.tolist()) == [11]
    np.testing.assert_array_equal(one.hyperedge_index, two.hyperedge_index)
    # Who is in the sample does not depend on who else there is, and the sample is not the first ones.
    assert set(one.members(0).tolist()) != {*range(10), 50}
    assert RelationStarBuilder(max_size=10, oversize="drop")(kg).num_hyperedges == 0


def test_names_are_words() -> None:
    h = RelationStarBuilder()(graph(ART, 8))
    label = ["Ann", "Bob", "Cem", "hip hop", "jazz"].__getitem__
    assert [h.name(m, label) for m in range(4)] == ["with term hip hop", "with term jazz", "term of Bob", "term of Cem"]


# ---- meta-paths ----


def slow_path(kg: KnowledgeGraph, path: tuple[str, ...], anchor: str) -> dict[int, set[int]]:
    steps = []
    for step in path:
        r = kg.relation_names.index(step[:-1])
        pairs = kg.edge_index.T[kg.edge_type == r].tolist()
        steps.append({(h, t) if step[-1] == ">" else (t, h) for h, t in pairs})
    instances = [list(pair) for pair in steps[0]]
    for step in steps[1:]:
        instances = [[*walk, t] for walk in instances for h, t in step if h == walk[-1]]
    at = {"start": 0, "pivot": len(path) // 2, "end": len(path)}[anchor]
    found: dict[int, set[int]] = {}
    for walk in instances:
        found.setdefault(walk[at], set()).update(walk)
    return {a: members - {a} for a, members in found.items()}


@pytest.mark.parametrize("anchor", ["pivot", "start", "end"])
@pytest.mark.parametrize("path", [("a>",), ("a>", "b<"), ("c<", "a>"), ("a>", "b<", "c>"), ("b>", "b<", "a>", "d<")])
def test_paths_against_loops(path: tuple[str, ...], anchor: str) -> None:
    kg = chance(3, n=25, e=120)
    h = MetaPathBuilder([path], anchor=anchor, include_anchor=False, min_size=1, max_size=None)(kg)  # type: ignore[arg-type]
    check(h)
    expected = {a: members for a, members in slow_path(kg, path, anchor).items() if members}
    assert {a: members for (_, a), members in sets(h).items()} == expected


def test_paths_are_capped_hop_by_hop() -> None:
    kg = graph([(i, 0, 99) for i in range(99)] + [(0, 1, 1)], 100)
    h = MetaPathBuilder([("term>", "term<")], anchor="start", max_size=5)(kg)
    assert h.num_hyperedges == 99
    assert h.sizes.max() <= 6
    assert MetaPathBuilder([("term>", "term<")], anchor="start", max_size=5, oversize="drop")(kg).num_hyperedges == 0


@pytest.mark.parametrize("seed", range(4))
def test_discovery_counts_instances(seed: int) -> None:
    kg = chance(seed, n=12, e=60)
    steps = [f"{r}{d}" for r in kg.relation_names for d in "><"]
    pairs: dict[str, set[tuple[int, int]]] = {}
    for step in steps:
        r = kg.edge_index.T[kg.edge_type == kg.relation_names.index(step[0])].tolist()
        pairs[step] = {(h, t) if step[1] == ">" else (t, h) for h, t in r}
    turned = {">": "<", "<": ">"}
    counts: dict[tuple[str, ...], int] = {}
    for a in steps:
        for b in steps:
            back = b[0] == a[0] and b[1] == turned[a[1]]
            n = sum(z == w and not (back and x == y) for x, z in pairs[a] for w, y in pairs[b])
            key = min((a, b), (b[0] + turned[b[1]], a[0] + turned[a[1]]), key=lambda p: [steps.index(s) for s in p])
            counts[key] = n
    found = discover_metapaths(kg, top=7, min_support=5)
    best = sorted((c for c in counts.values() if c >= 5), reverse=True)[:7]
    assert [counts[path] for path in found] == best
    straight = discover_metapaths(kg, top=99, min_support=1, there_and_back=False)
    assert not any(a[0] == b[0] and a[1] != b[1] for a, b in straight)
    longer = discover_metapaths(kg, max_len=3, top=3, min_support=1)
    assert [len(path) for path in longer] == [2] * 3 + [3] * 3


def test_a_path_names_a_relation_that_exists() -> None:
    with pytest.raises(ConfigError, match=r"'trem>': graph has no relation 'trem'. Did you mean 'term>'\?"):
        MetaPathBuilder([("trem>",)])(graph(ART, 8))
    with pytest.raises(ConfigError, match="must be a relation and a direction"):
        HypergraphConfig(paths=(("term",),))
    with pytest.raises(ConfigError, match="needs at least one step"):
        HypergraphConfig(paths=((),))


# ---- together ----


@pytest.mark.parametrize("name", ["relation-set", "relation-star", "meta-path", "star+paths", "none"])
def test_every_node_is_in_a_hyperedge(name: str) -> None:
    kg = chance(1)
    h = make_builder(HypergraphConfig(builder=name, min_support=5), kg)(kg)  # type: ignore[arg-type]
    check(h)
    assert (h.degrees > 0).all()
    assert h.type_names[-1] == "isolated"
    alone = h.hyperedge_type == len(h.type_names) - 1
    assert (h.sizes[alone] == 1).all()
    if name == "none":
        assert h.num_hyperedges == kg.num_nodes
    if name in ("relation-star", "star+paths", "meta-path"):
        assert {43 - 1, 43 - 2, 43 - 3} <= set(h.anchor[alone].tolist())


def test_a_composite_is_its_parts() -> None:
    kg = chance(2)
    parts: list[HypergraphBuilder] = [RelationStarBuilder(), MetaPathBuilder([("a>", "b<")])]
    whole, (star, path) = CompositeBuilder(parts)(kg), [part(kg) for part in parts]
    both = {**sets(star), **sets(path)}
    assert {key: members for key, members in sets(whole).items() if key[0] != "isolated"} == both
    assert whole.type_names == (*star.type_names, *path.type_names, "isolated")
    assert paths_of(CompositeBuilder(parts)) == (("a>", "b<"),)


def test_given_paths_are_used_and_found_ones_do_not_repeat_stars() -> None:
    kg = chance(2)
    fixed = make_builder(HypergraphConfig(paths=(("a>", "c<"),)), kg)
    assert paths_of(fixed) == (("a>", "c<"),)
    assert paths_of(make_builder(HypergraphConfig(), kg, paths=[("d>", "d<")])) == (("d>", "d<"),)
    for path in paths_of(make_builder(HypergraphConfig(min_support=1), kg)):
        assert not (path[0][0] == path[1][0] and path[0][1] != path[1][1])
    assert any(
        p[0][0] == p[1][0] for p in paths_of(make_builder(HypergraphConfig(builder="meta-path", min_support=1), kg))
    )


def test_types_keep_their_numbers_when_the_graph_grows() -> None:
    small, large = graph(ART, 8), graph([*ART, (7, 0, 0)], 8)
    names = RelationStarBuilder()(small).type_names
    assert RelationStarBuilder()(large).with_types(names).type_names == names
    h = RelationSetBuilder()(large)
    with pytest.raises(DataError, match="hyperedges of type 'same relations"):
        h.with_types(("alone with its relations:",))
    renamed = h.with_types(("unseen", h.type_names[0]), unknown=0)
    assert set(renamed.hyperedge_type[h.hyperedge_type == 0].tolist()) == {1}
    assert set(renamed.hyperedge_type[h.hyperedge_type != 0].tolist()) == {0}


@pytest.mark.parametrize("seed", range(3))
def test_the_numbering_of_nodes_and_the_order_of_edges_do_not_matter(seed: int) -> None:
    kg = chance(seed)
    rng = np.random.default_rng(seed)
    to, order = rng.permutation(kg.num_nodes), rng.permutation(kg.num_edges)
    other = graph(
        list(zip(to[kg.edge_index[0]][order], kg.edge_type[order], to[kg.edge_index[1]][order], strict=True)),
        kg.num_nodes, kg.relation_names,
    )  # fmt: skip
    for name in ("relation-set", "star+paths"):
        config = HypergraphConfig(builder=name, min_support=5, max_size=None)  # type: ignore[arg-type]
        one, two = make_builder(config, kg)(kg), make_builder(config, other)(other)
        left = sorted(
            (one.type_names[t], sorted(to[one.members(m)].tolist())) for m, t in enumerate(one.hyperedge_type)
        )
        right = sorted((two.type_names[t], two.members(m).tolist()) for m, t in enumerate(two.hyperedge_type))
        assert left == right


def test_a_million_edges_take_seconds() -> None:
    rng = np.random.default_rng(0)
    e, n = 1_000_000, 300_000
    kg = KnowledgeGraph.from_arrays(
        rng.integers(0, n, e), rng.integers(0, 50, e), (n * rng.random(e) ** 3).astype(int), num_nodes=n, labels=False
    )
    for name in ("relation-set", "star+paths"):
        config = HypergraphConfig(builder=name)  # type: ignore[arg-type]
        start = time.process_time()
        make_builder(config, kg)(kg)
        assert time.process_time() - start < 5.0


# ---- grouping ----


def test_grouping() -> None:
    first, second = unique_pairs(np.array([2, 0, 2, 2]), np.array([1, 5, 0, 1]), 6)
    assert (first.tolist(), second.tolist()) == ([0, 2, 2], [5, 0, 1])
    huge = np.array([2**61, 5, 2**61])
    assert unique_pairs(huge, np.array([7, 8, 7]), 10)[0].tolist() == [5, 2**61]
    group, first = same_sets(np.array([0, 0, 2, 2, 3]), np.array([1, 4, 1, 4, 1]), 6)
    assert group.tolist() == [0, 1, 0, 2, 1, 1]
    assert first.tolist() == [0, 1, 3]


def test_caps() -> None:
    owner, item = np.repeat([0, 1, 2], [5, 2, 9]), np.arange(16)
    keep = capped(owner, item, 3, 4)
    assert np.bincount(owner[keep]).tolist() == [4, 2, 4]
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(capped(owner[order], item[order], 3, 4), keep[order])
