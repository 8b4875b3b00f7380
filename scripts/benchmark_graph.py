"""What a training step of graph/metahgnie costs: against a dense layer on FB15k, and as the hypergraph grows.

    python scripts/benchmark_graph.py dense --data FOLDER    the layers with a node x hyperedge matrix, and ours
    python scripts/benchmark_graph.py grow [--sizes ...]     made-up hypergraphs of 1, 2 and 5 million incidences

FOLDER holds graph.npz with ``official_hyperedge`` (N,) and ``official_hyperedge_type`` (M,): a partition of the nodes.
The dense reference lives here alone. It does what the published code does: an N x M incidence matrix in bf16, whose
non-zeros are found anew in row blocks of 10,000 in every pass, twice per semantic layer and once per structural layer.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycontrast.losses import InfoNCE
from polycontrast_graph.metahgnie.network import Dropout, MetaHGNIENetwork, SemanticLayer, StructuralLayer, contrast
from polycontrast_graph.metahgnie.segments import Incidence


class DenseNetwork(nn.Module):
    """The same weights and torch's own dropout, with every softmax on pairs found in a dense matrix.

    Args:
        network: whose weights are copied.
        index: (2, P) node and hyperedge.
        kind: (M,).
        nodes: N.
    """

    def __init__(self, network: MetaHGNIENetwork, index: Tensor, kind: Tensor, nodes: int) -> None:
        super().__init__()
        self.network, self.kind = copy.deepcopy(network), kind
        for module in self.network.modules():
            if isinstance(module, Dropout):
                module.__class__ = nn.Dropout
        self.incidence = torch.zeros(nodes, len(kind), dtype=torch.bfloat16)
        self.incidence[index[0], index[1]] = 1

    def pairs(self) -> Tensor:
        """(2, P) non-zeros of the matrix, block by block."""
        found = []
        for start in range(0, len(self.incidence), 10_000):
            block = self.incidence[start : start + 10_000].nonzero()
            block[:, 0] += start
            found.append(block)
        return torch.cat(found).T

    def softmax(self, e: Tensor, group: Tensor, count: int, eps: float = 0.0) -> Tensor:
        """Over the pairs of each group, by scatter."""
        at = group.unsqueeze(1).expand_as(e)
        top = e.new_full((count, e.shape[1]), -torch.inf).scatter_reduce(0, at, e, "amax").detach()
        e = (e - top[group]).exp()
        return e / (e.new_zeros(count, e.shape[1]).scatter_add(0, at, e)[group] + eps)

    def structure(self, layer: StructuralLayer, x: Tensor, types: Tensor) -> Tensor:
        """One structural layer."""
        node, edge = self.pairs()
        m = len(self.kind)
        h = layer.value(layer.dropout(x))
        edges = types[self.kind]
        e = F.leaky_relu(h[node] * layer.node_score[:, 0] + (edges @ layer.type_score.T)[edge], layer.slope)
        w = F.dropout(self.softmax(e, edge, m, layer.eps), layer.attention_dropout, self.training)
        g = h.new_zeros(m, h.shape[1]).index_add(0, edge, w * h[node])
        o = h.new_zeros(len(x), h.shape[1]).index_add(0, node, g[edge])
        return F.relu(o + layer.residual(x)) if layer.residual is not None else F.relu(o)

    def semantic(self, layer: SemanticLayer, x: Tensor, types: Tensor) -> Tensor:
        """One semantic layer."""
        m, (heads, width) = len(self.kind), layer.shape
        x_query, x_key = layer.dropout(x), layer.dropout(x)
        edges = layer.type_input(types[self.kind])

        def split(z: Tensor) -> Tensor:
            return z.unflatten(1, (heads, width))

        node, edge = self.pairs()
        q, k, v = split(layer.node_query(x_key)), split(layer.type_key(edges)), split(layer.node_value(x_key))
        alpha = self.softmax((q[node] * k[edge]).sum(2) * layer.scale, edge, m)
        g = layer.edge_out(v.new_zeros(m, heads, width).index_add(0, edge, alpha.unsqueeze(2) * v[node]).flatten(1))
        node, edge = self.pairs()
        q, k, v = split(layer.member_query(x_query)), split(layer.edge_key(g)), split(layer.edge_value(g))
        alpha = self.softmax((q[node] * k[edge]).sum(2) * layer.scale, node, len(x))
        u = v.new_zeros(len(x), heads, width).index_add(0, node, alpha.unsqueeze(2) * v[edge])
        y = layer.norm1(layer.node_out(u.flatten(1)) + layer.residual(x_query))
        return layer.norm2(y + layer.ffn(y))

    def forward(self, x_struct: Tensor, x_text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fused scores (N, 1) and the two latent vectors (N, K)."""
        net = self.network
        types = net.types.weight
        z, t = torch.cat([f(x_struct) for f in net.input_nets], 1), x_text
        for layer in net.struct_layers:
            z = self.structure(layer, z, types)
        for layer in net.text_layers:
            t = self.semantic(layer, t, types)
        return net.fusion(net.struct_head(z), net.text_head(t)), z, t


def highest() -> float:
    """Most resident memory that this process ever had, GB."""
    status = Path("/proc/self/status").read_text()  # Linux; getrusage would count what the parent had before exec
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def alone(which: str, args: argparse.Namespace) -> float:
    """What one step takes beyond its inputs, GB, in a process of its own: memory freed before would hide it."""
    options = ["--data", str(args.data), "--batch", str(args.batch), "--memory", which]
    command = [sys.executable, __file__, "dense", *options]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def dense(args: argparse.Namespace) -> None:
    """CPU time and memory of a step, ours against the dense reference, in turns."""
    with np.load(args.data / "graph.npz") as file:
        names = ("official_hyperedge", "official_hyperedge_type")
        edge, kind = (torch.from_numpy(file[name].astype(np.int64)) for name in names)
    kind = kind.unique(return_inverse=True)[1]
    n, m = len(edge), len(kind)
    index = torch.stack([torch.arange(n), edge])
    torch.manual_seed(0)
    network = MetaHGNIENetwork(64, 128, int(kind.max()) + 1, heads=4, hidden=20)
    graph, x_struct, x_text, y = Incidence.of(index, kind, n), torch.randn(n, 64), torch.randn(n, 128), torch.randn(n)
    before = highest()
    reference = DenseNetwork(network, index, kind, n) if args.memory != "ours" else None
    some = torch.randperm(n)[: args.batch]

    objective = InfoNCE(temperature=0.5)

    def loss(score: Tensor, z: Tensor, t: Tensor) -> Tensor:
        con = contrast(objective, network.projector, z[some], t[some])
        return (score.squeeze() - y).square().mean() + 0.1 * con

    def ours() -> None:
        out = network(x_struct, x_text, graph)
        loss(out.score, out.z_struct, out.z_text).backward()

    def theirs() -> None:
        assert reference is not None
        loss(*reference(x_struct, x_text)).backward()

    if args.memory:
        ours() if args.memory == "ours" else theirs()
        print(highest() - before)
        return
    assert reference is not None
    network.eval()
    reference.eval()
    with torch.no_grad():
        apart = float((network(x_struct, x_text, graph).score - reference(x_struct, x_text)[0].squeeze()).abs().max())
    network.train()
    reference.train()
    times: dict[str, list[float]] = {"ours": [], "dense": []}
    for _ in range(args.rounds):
        for name, step in (("ours", ours), ("dense", theirs)):
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    best = {name: min(found) for name, found in times.items()}
    memory = {name: alone(name, args) for name in ("ours", "dense")}
    threads = torch.get_num_threads()
    print(f"N {n:,}, M {m:,}, contrast {args.batch:,}, {threads} thread(s); outputs differ by {apart:.1e}")
    for name in ("ours", "dense"):
        print(f"  {name:6} {best[name]:6.3f} s CPU a step, {memory[name]:5.2f} GB")
    print(f"  ratio  {best['ours'] / best['dense']:6.3f}             {memory['ours'] / memory['dense']:5.2f}")


def grow(sizes: list[int], width: int) -> None:
    """Wall time and memory of forward and backward on made-up hypergraphs, a fifth as many nodes as incidences."""
    for pairs in sizes:
        n, m = pairs // 5, pairs // 10
        rng = np.random.default_rng(0)
        code = np.unique(rng.integers(0, n, pairs, dtype=np.int64) * m + rng.integers(0, m, pairs, dtype=np.int64))
        index, kind = torch.from_numpy(np.stack([code // m, code % m])), torch.from_numpy(rng.integers(0, 20, m))
        begin = time.perf_counter()
        graph = Incidence.of(index, kind, n, 20)
        sorted_in = time.perf_counter() - begin
        torch.manual_seed(0)
        options = {"node_aggr": "mean", "input": "linear", "attention_dropout": 0.0}
        network = MetaHGNIENetwork(64, 128, 20, heads=4, hidden=width // 4, **options)  # type: ignore[arg-type]
        x_struct, x_text = torch.randn(n, 64), torch.randn(n, 128)

        def step() -> None:
            network(x_struct, x_text, graph).score.square().mean().backward()  # noqa: B023

        begin = time.perf_counter()
        step()
        took = time.perf_counter() - begin
        print(
            f"N {n:,}, incidences {len(code):,}, {width} channels, {torch.get_num_threads()} thread(s): sort "
            f"{sorted_in:.1f} s, forward and backward {took:.1f} s ({took / len(code) * 1e6:.1f} us each), "
            f"process at most {highest():.2f} GB",
            flush=True,
        )
        network.zero_grad()


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["dense", "grow"])
    parser.add_argument("--data", type=Path, help="folder with graph.npz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2048, help="nodes in the contrast")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 2_000_000, 5_000_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=["ours", "dense"], help="only the memory of one step of these, GB")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "grow":
        grow(args.sizes, args.width)
    elif args.data is None:
        parser.error("dense needs --data FOLDER")
    else:
        dense(args)


if __name__ == "__main__":
    main()
