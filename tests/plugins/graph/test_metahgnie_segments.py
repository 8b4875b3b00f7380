"""Sparse attention against a dense one written out here, whatever the order of pairs and the size of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("torch_geometric")

from polycontrast_graph.metahgnie.network import MetaHGNIENetwork, SemanticLayer, StructuralLayer
from polycontrast_graph.metahgnie.segments import (
    Incidence,
    Segments,
    additive_attend,
    attend,
    drop,
    segment_softmax,
    segment_sum,
)

N, M, T = 23, 11, 3


def pairs(seed: int = 0, nodes: int = N, edges: int = M, share: float = 0.2) -> Tensor:
    """Overlapping hyperedges; some of one member, one node in none, nodes in one and in many."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(nodes, edges, generator=generator) < share
    dense[:, :3] = False
    dense[torch.arange(3), torch.arange(3)] = True
    dense[3:12, 3] = True
    dense[-1] = False
    dense[5, dense.sum(0) == 0] = True
    return dense.nonzero().T.contiguous()


def types(edges: int = M) -> Tensor:
    return torch.arange(edges) % T


def dense_of(index: Tensor, nodes: int = N, edges: int = M) -> Tensor:
    dense = torch.zeros(nodes, edges, dtype=torch.bool)
    dense[index[0], index[1]] = True
    return dense


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_softmax_sums_to_one_and_has_the_gradient_of_the_dense_one() -> None:
    s = Segments.of(pairs()[1], pairs()[0], M, N)
    e = (10 * normal(len(s), 2)).requires_grad_()
    alpha = segment_softmax(e, s.ptr, s.row)
    total = torch.zeros(M, 2, dtype=torch.float64).index_add(0, s.row, alpha)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert torch.autograd.gradcheck(lambda x: segment_softmax(x, s.ptr, s.row), (e,))


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_attention_is_the_dense_one(chunk_size: int | None) -> None:
    index = pairs()
    s = Segments.of(*index, N, M)
    query, key, value = normal(N, 2, 3), normal(M, 2, 3, seed=2), normal(M, 2, 3, seed=3)
    out, weight = attend(query, key, value, s, scale=0.7, chunk_size=chunk_size)
    logits = 0.7 * torch.einsum("nhd,mhd->nmh", query, key).masked_fill(~dense_of(index).unsqueeze(2), -torch.inf)
    dense = logits.softmax(1).nan_to_num()
    torch.testing.assert_close(out, torch.einsum("nmh,mhd->nhd", dense, value))
    torch.testing.assert_close(weight, dense[s.row, s.column])
    leaves = [x.requires_grad_() for x in (query, key, value)]
    assert torch.autograd.gradcheck(lambda *x: attend(*x, s, scale=0.7, chunk_size=chunk_size)[0], leaves)


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_additive_attention_is_the_dense_one(chunk_size: int | None) -> None:
    index = pairs()
    s = Segments.of(index[1], index[0], M, N)
    score, kinds, value = normal(N, 2), normal(T, 2, seed=2), normal(N, 2, 3, seed=3)

    def ours(*x: Tensor) -> Tensor:
        return additive_attend(*x, s, types(), slope=0.2, eps=1e-9, chunk_size=chunk_size)

    logits = torch.nn.functional.leaky_relu(score.unsqueeze(0) + kinds[types()].unsqueeze(1), 0.2)
    dense = logits.masked_fill(~dense_of(index).T.unsqueeze(2), -torch.inf).softmax(1)
    expected = torch.einsum("mnh,nhd->mhd", dense, value)
    torch.testing.assert_close(ours(score, kinds, value), expected, atol=1e-8, rtol=0)
    assert torch.autograd.gradcheck(ours, [x.requires_grad_() for x in (score, kinds, value)])


def test_dropout_of_weights_is_the_same_in_the_backward_pass() -> None:
    s = Segments.of(pairs()[1], pairs()[0], M, N)
    leaves = [x.requires_grad_() for x in (normal(N, 2), normal(T, 2, seed=2), normal(N, 2, 1, seed=3))]

    def ours(*x: Tensor) -> Tensor:
        return additive_attend(*x, s, types(), slope=0.2, eps=1e-9, dropout=0.4, seed=5, chunk_size=7)

    assert torch.autograd.gradcheck(ours, leaves)
    assert not torch.equal(ours(*leaves), additive_attend(*leaves, s, types(), slope=0.2, eps=1e-9))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_passes_gradients_where_it_kept(rate: float) -> None:
    x = torch.ones(301, 1001, dtype=torch.float64, requires_grad=True)
    y = drop(x, rate, True)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert float((y == 0).double().mean()) == pytest.approx(rate, abs=0.004)
    assert float(y.detach().max()) == pytest.approx(1 / (1 - rate))
    assert float((y[:, 1:] * y[:, :-1] == 0).double().mean()) == pytest.approx(1 - (1 - rate) ** 2, abs=0.006)
    assert drop(x, rate, False) is x


def test_sums_and_their_gradient() -> None:
    index = pairs()
    s = Segments.of(*index, N, M)
    values = normal(M, 4).requires_grad_()
    torch.testing.assert_close(segment_sum(values, s), dense_of(index).double() @ values)
    assert torch.autograd.gradcheck(lambda x: segment_sum(x, s), (values,))


def test_blocks_cover_every_row_once() -> None:
    s = Segments.of(pairs()[1], pairs()[0], M, N)
    for size in (1, 2, 5, 100, None):
        blocks = list(s.blocks(size))
        assert [b[0] for b in blocks] + [s.rows] == [0] + [b[1] for b in blocks]
        assert all(s.ptr[a] == i and s.ptr[b] == j for a, b, i, j in blocks)


def network(**options: object) -> MetaHGNIENetwork:
    torch.manual_seed(0)
    return MetaHGNIENetwork(5, 6, T, heads=2, hidden=3, layers=2, **options).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("node_aggr", ["sum", "mean", "sqrt"])
def test_order_of_nodes_hyperedges_and_pairs_changes_nothing(node_aggr: str) -> None:
    net = network(node_aggr=node_aggr, collapse=False)
    index, a, b = pairs(), normal(N, 5), normal(N, 6, seed=2)
    before = net(a, b, Incidence.of(index, types(), N, T))
    generator = torch.Generator().manual_seed(3)
    p, q = torch.randperm(N, generator=generator), torch.randperm(M, generator=generator)
    shuffled = torch.stack([p.argsort()[index[0]], q.argsort()[index[1]]])[:, torch.randperm(index.shape[1])]
    after = net(a[p], b[p], Incidence.of(shuffled, types()[q], N, T))
    torch.testing.assert_close(after.score, before.score[p], atol=1e-10, rtol=0)


def test_blocks_change_nothing_in_the_whole_network() -> None:
    graph, a, b = Incidence.of(pairs(), types(), N, T), normal(N, 5), normal(N, 6, seed=2)
    results = []
    for chunk_size in (None, 4):
        net = network(chunk_size=chunk_size)
        score = net(a, b, graph).score
        score.square().sum().backward()
        results.append([score, *(p.grad for p in net.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def reference_structure(layer: StructuralLayer, x: Tensor, kinds: Tensor, dense: Tensor, kind: Tensor) -> Tensor:
    """The equations of the layer with an N x M matrix."""
    h = layer.value(x).unflatten(1, (layer.heads, layer.head_width))
    e = torch.einsum("nkw,kw->nk", h, layer.node_score).unsqueeze(1) + (kinds @ layer.type_score.T)[kind]
    e = torch.nn.functional.leaky_relu(e, layer.slope).masked_fill(~dense.unsqueeze(2), -torch.inf)
    w = (e - e.amax(0)).exp()
    w = w / (w.sum(0) + layer.eps)
    return torch.einsum("nm,mkw->nkw", dense.double(), torch.einsum("nmk,nkw->mkw", w, h)).flatten(1)


@pytest.mark.parametrize("head_width", [1, 3])
@pytest.mark.parametrize("residual", ["linear", "identity", "none"])
@pytest.mark.parametrize("activation", [True, False])
def test_structural_layer(head_width: int, residual: str, activation: bool) -> None:
    torch.manual_seed(0)
    width = 2 * head_width if residual == "identity" else 5
    layer = StructuralLayer(
        width, 2, 4, head_width=head_width, residual=residual, activation=activation, eps=0.01  # type: ignore[arg-type]
    ).double().eval()  # fmt: skip
    x, kinds, index = normal(N, width), normal(T, 4, seed=2), pairs()
    expected = reference_structure(layer, x, kinds, dense_of(index), types())
    if layer.residual is not None:
        expected = expected + layer.residual(x)
    expected = expected.relu() if activation else expected
    torch.testing.assert_close(layer(x, kinds, Incidence.of(index, types(), N, T)), expected)


@pytest.mark.parametrize("residual", ["linear", "identity", "none"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_semantic_layer(residual: str, norm: str) -> None:
    torch.manual_seed(0)
    width = 6 if residual == "identity" else 5
    layer = SemanticLayer(width, 2, 3, 4, residual=residual, norm=norm).double().eval()  # type: ignore[arg-type]
    x, kinds, index = normal(N, width), normal(T, 4, seed=2), pairs()
    dense, kind = dense_of(index), types()

    def heads(z: Tensor) -> Tensor:
        return z.unflatten(1, (2, 3))

    key = layer.type_key(layer.type_input(kinds))[kind]
    e = torch.einsum("nhd,mhd->nmh", heads(layer.node_query(x)), heads(key)) / 3**0.5
    alpha = e.masked_fill(~dense.unsqueeze(2), -torch.inf).softmax(0)
    g = layer.edge_out(torch.einsum("nmh,nhd->mhd", alpha, heads(layer.node_value(x))).flatten(1))
    e = torch.einsum("nhd,mhd->nmh", heads(layer.member_query(x)), heads(layer.edge_key(g))) / 3**0.5
    alpha = e.masked_fill(~dense.unsqueeze(2), -torch.inf).softmax(1).nan_to_num()
    u = layer.node_out(torch.einsum("nmh,mhd->nhd", alpha, heads(layer.edge_value(g))).flatten(1))
    y = layer.norm1(u + layer.residual(x) if layer.residual is not None else u)
    expected = layer.norm2(y + layer.ffn(y) if residual != "none" else layer.ffn(y))
    torch.testing.assert_close(layer(x, kinds, Incidence.of(index, kind, N, T)), expected)


def test_all_alone_is_a_net_on_each_node() -> None:
    """The published hypergraph of one hyperedge per node: no attention, but every weight has a gradient."""
    index = torch.arange(N).repeat(2, 1)
    net = network()
    out = net(normal(N, 5), normal(N, 6, seed=2), Incidence.of(index, torch.zeros(N, dtype=torch.int64), N, T))
    out.score.sum().backward()
    assert out.score.isfinite().all()


def test_many_rows_go_through_the_feed_forward_net_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, a, b = Incidence.of(pairs(), types(), N, T), normal(N, 5), normal(N, 6, seed=2)
    whole = network().train()
    torch.manual_seed(1)
    expected = whole(a, b, graph).score.detach()
    monkeypatch.setattr("polycontrast_graph.metahgnie.network._ROWS", 4)
    parts = network(dropout=0.0, attention_dropout=0.0).train()
    whole = network(dropout=0.0, attention_dropout=0.0).train()
    out = parts(a, b, graph).score
    monkeypatch.setattr("polycontrast_graph.metahgnie.network._ROWS", 4000)
    torch.testing.assert_close(out, whole(a, b, graph).score)
    assert expected.isfinite().all()
