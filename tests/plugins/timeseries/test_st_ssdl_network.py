from __future__ import annotations

import pytest
import torch

pytest.importorskip("pandas")

from polycontrast_timeseries.st_ssdl import terms
from polycontrast_timeseries.st_ssdl.graph import DenseMixer, Graph, SampleMixer, SparseMixer, TopKMixer, static_mixer
from polycontrast_timeseries.st_ssdl.network import GCRUCell, STSSDLNetwork

N = 6


def graph(n: int = N, seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    return Graph.of((torch.rand(n, n) * (torch.rand(n, n) < 0.6) + torch.eye(n)).numpy())


def network(n: int = N, **how) -> STSSDLNetwork:
    torch.manual_seed(1)
    sizes = {
        "hidden": 4, "prototypes": 5, "prototype_dim": 3, "value_dim": 2, "node_dim": 3, "tod_dim": 4, "graph_dim": 4,
        "slots_per_day": 24,
    }  # fmt: skip
    return STSSDLNetwork(n, **(sizes | how)).double()


def inputs(b: int = 2, t_in: int = 12, t_out: int = 12, n: int = N) -> list[torch.Tensor]:
    torch.manual_seed(2)
    shapes = (b, t_in, n), (b, t_in, n)
    return [*(torch.randn(s).double() for s in shapes), torch.rand(b, t_in).double(), torch.rand(b, t_out).double()]


def mixer(kind="sym", cheb_k: int = 3, how="dense", n: int = N):
    return static_mixer(graph(n), kind, cheb_k, how, torch.zeros((), dtype=torch.float64))


def naive_step(cell: GCRUCell, x, h, supports, cheb_k: int):
    """The equations, support by support and term by term; x (B, N, C), h (B, N, H)."""

    def conv(conv, z):
        parts = []
        for s in supports:
            chain = [torch.eye(s.shape[-1], dtype=s.dtype).expand_as(s), s]
            for _ in range(2, cheb_k):
                chain.append(2 * s @ chain[-1] - chain[-2])
            parts += [t @ z for t in chain[:cheb_k]]
        return torch.cat(parts, -1) @ conv.weight + conv.bias

    u, r = torch.sigmoid(conv(cell.gate, torch.cat([x, h], -1))).chunk(2, -1)
    c = torch.tanh(conv(cell.candidate, torch.cat([x, u * h], -1)))
    return r * h + (1 - r) * c


@pytest.mark.parametrize("cheb_k", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["sym", "double_transition", "scaled_laplacian"])
@pytest.mark.parametrize("how", ["dense", "sparse"])
def test_a_step_is_the_equations(kind, cheb_k, how):
    supports = [torch.from_numpy(s.toarray()) for s in graph().supports(kind)]
    cell = GCRUCell(2, 3, cheb_k, len(supports)).double()
    x, h = torch.randn(2, N, 2).double(), torch.randn(2, N, 3).double()
    got = cell(x.transpose(0, 1), h.transpose(0, 1), mixer(kind, cheb_k, how)).transpose(0, 1)
    torch.testing.assert_close(got, naive_step(cell, x, h, supports, cheb_k))


@pytest.mark.parametrize("how", [{}, {"adaptive_dim": 2}, {"layers": 2}, {"plain": True}, {"use_embeddings": False}])
def test_hoisted_inputs_are_those_of_every_step(how):
    """The whole forward pass against a loop that sends the whole input through the graph."""
    net, (x, anchor, tod, tod_out) = network(**how), inputs()
    out, encoded = net(x, anchor, tod, tod_out, mixer())
    support = torch.from_numpy(graph().supports("sym")[0].toarray())

    def feature(value, tod, t=None):
        if not net.use_embeddings:
            parts = [value.unsqueeze(-1)]
            return torch.cat(parts if t is not None else [*parts, tod.view(-1, 1, 1).expand(-1, N, 1)], -1)
        b = len(value)
        parts = [net.input_projection(value.unsqueeze(-1))]
        parts.append(net.tod_embedding[(tod * 24).long()].unsqueeze(1).expand(b, N, -1))
        if net.adaptive_embedding is not None and t is not None:
            parts.append(net.adaptive_embedding[t].expand(b, -1, -1))
        return torch.cat([*parts, net.node_embedding.expand(b, -1, -1)], -1)

    def run(cells, x, states, supports):
        after = []
        for cell, h in zip(cells, states, strict=True):
            x = naive_step(cell, x, h, supports, 3)
            after.append(x)
        return after

    hs = []
    for window in (x, anchor)[: 1 if net.plain else 2]:
        states = [x.new_zeros(2, N, 4)] * len(net.encoder)
        for t in range(12):
            states = run(net.encoder, feature(window[:, t], tod[:, t], t), states, [support])
        hs.append(states[-1])
    torch.testing.assert_close(encoded.states, torch.stack(hs))
    state, learned = hs[0], support
    if not net.plain:
        p = net.prototypes.prototypes
        v = [torch.softmax(h @ net.prototypes.query @ p.T, -1) @ p for h in hs]
        e = net.hypernet(torch.cat([hs[0], v[0], hs[1], v[1]], -1))
        learned, state = torch.softmax(torch.relu(e @ e.transpose(1, 2)), -1), torch.cat([hs[0], v[0]], -1)
    states, value, outs = [state] * len(net.decoder), torch.zeros_like(x[:, 0]), []
    for t in range(12):
        states = run(net.decoder, feature(value, tod_out[:, t]), states, [learned])
        value = net.output(states[-1]).squeeze(-1)
        outs.append(value)
    torch.testing.assert_close(out, torch.stack(outs, 1))


def test_number_of_parameters_of_the_official_code():
    net = STSSDLNetwork(207, hidden=32, value_dim=32, node_dim=24, tod_dim=40, graph_dim=40)
    assert sum(p.numel() for p in net.parameters()) == 230_833


@pytest.mark.parametrize("shape", [(1, 12, 12, N), (3, 5, 9, N), (2, 12, 3, 1), (1, 1, 1, 1)])
def test_shapes(shape):
    b, t_in, t_out, n = shape
    out, encoded = network(n, t_in=t_in)(*inputs(b, t_in, t_out, n), mixer(n=n))
    assert out.shape == (b, t_out, n)
    assert encoded.indices.shape == (2, b, n, 2)


def test_a_sample_does_not_depend_on_its_neighbours_in_the_batch():
    net, args = network(), inputs(4)
    whole = net(*args, mixer())[0]
    torch.testing.assert_close(net(*(a[1:2] for a in args), mixer())[0], whole[1:2])


def test_renumbered_sensors_give_renumbered_forecasts():
    net, args, order = network(), inputs(), torch.tensor([3, 1, 5, 0, 2, 4])
    whole = net(*args, mixer())[0]
    net.node_embedding.data = net.node_embedding.data[order]
    moved = [args[0][..., order], args[1][..., order], *args[2:]]
    other = static_mixer(graph().select(order.tolist()), "sym", 3, "dense", torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(net(*moved, other)[0], whole[..., order])


def gradients(net, args, given):
    net.zero_grad()
    net(*args, given)[0].square().mean().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [1, 5, 12])
def test_checkpoint_changes_nothing(size):
    args = inputs()
    torch.testing.assert_close(gradients(network(checkpoint=size), args, mixer()), gradients(network(), args, mixer()))


def test_sparse_encoder_changes_nothing():
    args = inputs()
    found = gradients(network(), args, mixer(how="sparse"))
    torch.testing.assert_close(found, gradients(network(), args, mixer()))


def test_top_k_of_all_is_the_whole_graph():
    embedding = torch.randn(2, N, 4).double().requires_grad_()
    z = torch.randn(2, N, 3).double()
    sums = []
    for made in (SampleMixer(embedding, 3), TopKMixer(embedding, 3, N)):
        terms_ = made.mix(z)
        sums.append((terms_, torch.autograd.grad(sum(t.square().sum() for t in terms_), embedding)[0]))
    torch.testing.assert_close(*sums)


def test_top_k_keeps_the_largest():
    embedding = torch.randn(2, N, 4).double()
    scores = torch.relu(embedding @ embedding.transpose(1, 2))
    kept = scores.topk(2, -1)
    dense = torch.zeros_like(scores).scatter(-1, kept.indices, torch.softmax(kept.values, -1))
    z = torch.randn(2, N, 3).double()
    # an entry that relu makes 0 may be any of several; there are none among the largest two here
    assert (kept.values > 0).all()
    torch.testing.assert_close(TopKMixer(embedding, 2, 2).mix(z)[0], dense @ z)


def test_the_two_terms_move_the_prototypes_alone():
    net, args = network(), inputs()
    _, encoded = net(*args, mixer())
    prototypes = net.prototypes.prototypes
    query_distance, prototype_distance = terms.distances(encoded, prototypes)
    total = terms.contrast(encoded.queries[0].detach(), prototypes, encoded.indices[0])
    (total + terms.deviation(query_distance.detach(), prototype_distance)).backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"prototypes.prototypes"}


def test_infonce_wants_the_nearest_prototype():
    torch.manual_seed(0)
    prototypes, q = torch.randn(5, 3).double(), torch.randn(7, 3).double()
    at = torch.randint(5, (7, 2))
    cosine = torch.nn.functional.normalize(q, dim=-1) @ torch.nn.functional.normalize(prototypes, dim=-1).T
    expected = torch.nn.functional.cross_entropy(cosine / 0.1, at[:, 0])
    torch.testing.assert_close(terms.contrast(q, prototypes, at, kind="infonce"), expected)


def test_equal_prototypes_are_taken_in_order():
    net = network()
    net.prototypes.prototypes.data[:] = 1.0
    assert (net.prototypes(torch.randn(3, 4).double())[2] == torch.tensor([0, 1])).all()


def test_teacher_probability():
    assert terms.teacher_probability(0, 2000) == pytest.approx(2000 / 2001)
    assert terms.teacher_probability(10**9, 2000) == 0.0
    assert terms.teacher_probability(0, None) == 0.0


def test_labels_are_fed_back_where_they_are_known():
    net, args = network(), inputs()
    free = net(*args, mixer())[0]
    labels = torch.full((2, 12, N), torch.nan).double()
    torch.testing.assert_close(net(*args, mixer(), labels=labels, feed=[True] * 12)[0], free)
    labels[:, 3, 0] = 5.0
    taught = net(*args, mixer(), labels=labels, feed=[True] * 12)[0]
    torch.testing.assert_close(taught[:, :4], free[:, :4])
    assert not torch.allclose(taught[:, 4:], free[:, 4:])


def test_mixers_of_large_graphs_are_sparse():
    found = static_mixer(Graph.none(1001), "sym", 3, "auto", torch.zeros(()))
    assert isinstance(found, SparseMixer)
    thin, thick = Graph.none(150), Graph.of((torch.rand(150, 150) < 0.2).float().numpy())
    assert isinstance(static_mixer(thin, "sym", 3, "auto", torch.zeros(())), SparseMixer)
    assert not isinstance(static_mixer(thin, "sym", 3, "dense", torch.zeros(())), SparseMixer)
    assert not isinstance(static_mixer(thick, "sym", 3, "auto", torch.zeros(())), SparseMixer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    net, args = network().float(), [a.float() for a in inputs()]
    given = DenseMixer([torch.from_numpy(graph().supports("sym")[0].toarray()).float()], 3)
    there = DenseMixer([torch.from_numpy(graph().supports("sym")[0].toarray()).float().cuda()], 3)
    expected = net(*args, given)[0]
    torch.testing.assert_close(net.cuda()(*(a.cuda() for a in args), there)[0].cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [{}, {"top_k": 2}, {"plain": True}])
@pytest.mark.parametrize("multiplied", ["dense", "sparse"])
def test_half_precision(how, multiplied):
    net, args = network(**how).float(), [a.float() for a in inputs()]
    given = static_mixer(graph(), "sym", 3, multiplied, torch.zeros(()))
    expected = net(*args, given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = net(*args, given)[0]
        found.square().mean().backward()
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
