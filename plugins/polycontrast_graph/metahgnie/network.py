"""The two channels of MetaHGNIE and what joins them. Nothing here is ever as large as nodes times hyperedges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from polycontrast.errors import CheckpointError
from polycontrast_graph.metahgnie.segments import CHUNK, Incidence, additive_attend, attend, drop, segment_sum, take

NodeAggregation = Literal["sum", "mean", "sqrt"]
FusionMode = Literal["adaptive", "fixed", "attention", "gate", "concat"]

_ROWS = 65_536
"""Rows of the feed-forward net that are computed at a time when there are many: its inside is 4 to 8 times as large.
From twice as many nodes on, what can be computed again in the backward pass is."""


class Dropout(nn.Dropout):
    """Dropout by :func:`~polycontrast_graph.metahgnie.segments.drop`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return drop(x, self.p, self.training)


class StructuralLayer(nn.Module):
    """Attention among the members of each hyperedge by their features and its type, then a sum over hyperedges.

    Args:
        width: of the input.
        heads: attention heads; in the paper each is one number wide.
        relation_width: of the type embeddings.
        head_width: features of one head.
        residual: ``linear``, ``identity``, ``none``; ``auto`` is the identity where the widths agree.
        activation: whether a rectifier ends the layer.
        slope: of the leaky rectifier.
        eps: added to the denominator of the softmax.
        dropout: of the input.
        attention_dropout: of the weights.
        node_aggr: ``sum`` over the hyperedges of a node, or divided by their number or its root.
        chunk_size: pairs per block.
    """

    def __init__(
        self, width: int, heads: int, relation_width: int, *, head_width: int = 1,
        residual: Literal["auto", "linear", "identity", "none"] = "auto", activation: bool = True, slope: float = 0.2,
        eps: float = 1e-9, dropout: float = 0.2, attention_dropout: float = 0.3, node_aggr: NodeAggregation = "sum",
        chunk_size: int | None = CHUNK,
    ) -> None:  # fmt: skip
        super().__init__()
        out = heads * head_width
        self.heads, self.head_width = heads, head_width
        self.slope, self.eps, self.activation, self.node_aggr = slope, eps, activation, node_aggr
        self.attention_dropout, self.chunk_size = attention_dropout, chunk_size
        self.dropout = Dropout(dropout)
        self.value = nn.Linear(width, out, bias=False)
        self.node_score = nn.Parameter(torch.empty(heads, head_width))
        self.type_score = nn.Parameter(torch.empty(heads, relation_width))
        self.residual = _residual(residual, width, out)
        gain = nn.init.calculate_gain("relu")
        for weight in (self.value.weight, self.node_score, self.type_score):
            nn.init.xavier_uniform_(weight, gain=gain)
        if isinstance(self.residual, nn.Linear):
            nn.init.xavier_uniform_(self.residual.weight, gain=gain)

    def forward(self, x: Tensor, types: Tensor, graph: Incidence, seen: dict[str, Tensor] | None = None) -> Tensor:
        """Nodes x (N, width) and types (T, relation_width) to (N, heads * head_width).

        Args:
            x: nodes.
            types: embeddings of the types.
            graph: the hypergraph.
            seen: if given, takes up ``struct_message`` (M, K) of hyperedges and ``struct_joined`` (N, K) of nodes.
        """
        h = self.value(self.dropout(x)).unflatten(1, (self.heads, self.head_width))
        rate = self.attention_dropout if self.training else 0.0
        h_shared = take(h, graph.sharing)
        shared = additive_attend(
            (h_shared * self.node_score).sum(2), types @ self.type_score.T, h_shared, graph.shared,
            graph.kind[: graph.shared.rows], slope=self.slope, eps=self.eps, dropout=rate,
            seed=int(torch.randint(2**62, ())) if rate else 0, chunk_size=self.chunk_size,
        )  # fmt: skip
        alone = drop(h.index_select(0, graph.alone) / (1 + self.eps), rate, self.training)
        message = torch.cat([shared, alone]).flatten(1)
        out = segment_sum(message, graph.memberships)
        if self.node_aggr != "sum":
            share = graph.degree.clamp_min(1).to(out.dtype).unsqueeze(1)
            out = out / (share if self.node_aggr == "mean" else share.sqrt())
        if seen is not None:
            seen["struct_message"], seen["struct_joined"] = message, out
        if self.residual is not None:
            out = self.residual(x) + out
        return F.relu(out) if self.activation else out


class SemanticLayer(nn.Module):
    """Node to hyperedge to node: two rounds of dot-product attention, then a feed-forward net.

    Args:
        width: of the input.
        heads: attention heads.
        head_width: of one head.
        relation_width: of the type embeddings.
        residual: ``linear``, ``identity``, ``none`` (then the feed-forward net has none either); ``auto`` is the
            identity where the widths agree.
        norm: ``batch`` over all nodes, ``layer`` over the features of one, or ``none``.
        dropout: of the input and after the feed-forward net.
        chunk_size: pairs per block.
    """

    def __init__(
        self, width: int, heads: int, head_width: int, relation_width: int, *,
        residual: Literal["auto", "linear", "identity", "none"] = "auto",
        norm: Literal["batch", "layer", "none"] = "batch", dropout: float = 0.2, chunk_size: int | None = CHUNK,
    ) -> None:  # fmt: skip
        super().__init__()
        out = heads * head_width
        self.shape, self.scale, self.chunk_size = (heads, head_width), head_width**-0.5, chunk_size

        def linear(a: int, b: int) -> nn.Linear:
            return nn.Linear(a, b, bias=False)

        self.type_input = linear(relation_width, width)
        self.node_query, self.type_key, self.node_value = linear(width, out), linear(width, out), linear(width, out)
        self.edge_out = linear(out, out)
        self.member_query, self.edge_key, self.edge_value = linear(width, out), linear(out, out), linear(out, out)
        self.node_out = linear(out, out)
        self.residual = _residual(residual, width, out)
        self.ffn_residual = residual != "none"
        self.norm1, self.norm2 = _norm(norm, out), _norm(norm, out)
        self.dropout = Dropout(dropout)
        self.ffn = nn.Sequential(nn.Linear(out, 4 * out), nn.GELU(), nn.Linear(4 * out, out), Dropout(dropout))

    def forward(self, x: Tensor, types: Tensor, graph: Incidence, seen: dict[str, Tensor] | None = None) -> Tensor:
        """Nodes x (N, width) and types (T, relation_width) to (N, heads * head_width).

        Args:
            x: nodes.
            types: embeddings of the types.
            graph: the hypergraph.
            seen: if given, takes up ``text_message`` (M, K) of hyperedges, ``text_weight`` (P', heads) of the choices
                of nodes, and ``text_joined`` (N, K) of nodes.
        """

        def keys(x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.dropout(x)
            return self.node_query(take(x, graph.sharing)), self.node_value(x)

        def queries(x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.dropout(x)
            skipped = x.new_zeros(1) if self.residual is None else self.residual(x)
            return self.member_query(take(x, graph.choosing)), skipped

        member_query, skipped = _again(queries, x)
        node_query, value = _again(keys, x)
        # Node to hyperedge. The key depends on the type alone; a hyperedge of one member is that member's value.
        key = self.type_key(self.type_input(types))
        shared, _ = attend(
            self._split(key.index_select(0, graph.kind[: graph.shared.rows])),
            self._split(node_query), self._split(take(value, graph.sharing)), graph.shared,
            scale=self.scale, chunk_size=self.chunk_size,
        )  # fmt: skip
        edges = torch.cat([shared.flatten(1), value.index_select(0, graph.alone)])
        # Hyperedge to node. G = edges W_o is never made: W'_k W_o and W'_v W_o are small.
        message = F.linear(edges, self.edge_value.weight @ self.edge_out.weight)
        chosen, weight = attend(
            self._split(member_query),
            self._split(F.linear(take(edges, graph.offered), self.edge_key.weight @ self.edge_out.weight)),
            self._split(take(message, graph.offered)), graph.choices, scale=self.scale, chunk_size=self.chunk_size,
        )  # fmt: skip
        joined = graph.at_nodes(chosen.flatten(1), message.index_select(0, graph.decided))
        if seen is not None:
            seen["text_message"], seen["text_weight"], seen["text_joined"] = message, weight, joined
        y = self.norm1(self.node_out(joined) + skipped)
        inner = _by_rows(self.ffn, y)
        return self.norm2(y + inner if self.ffn_residual else inner)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape)


class Fusion(nn.Module):
    """One score from the scores of the two channels.

    Args:
        mode: ``adaptive``, a learned share of the structure; ``fixed``, a constant one; ``attention``, a softmax of
            one affine map of each; ``gate``, a sigmoid of the sum of those maps that mixes them; ``concat``, a
            rectified affine map of both.
        share: of the structure, initially or always.
    """

    def __init__(self, mode: FusionMode = "adaptive", share: float = 0.2) -> None:
        super().__init__()
        self.mode: FusionMode = mode
        if mode == "adaptive":
            self.share = nn.Parameter(torch.tensor(share))
        elif mode == "fixed":
            self.constant = share
        elif mode == "concat":
            self.both = nn.Linear(2, 1)
        else:
            self.struct, self.text = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """Scores (N, 1) of structure and text to (N, 1)."""
        if self.mode in ("adaptive", "fixed"):
            share = self.share if self.mode == "adaptive" else self.constant
            return share * s + (1 - share) * t
        if self.mode == "concat":
            return F.relu(self.both(torch.cat([s, t], 1)))
        p, q = self.struct(s), self.text(t)
        if self.mode == "gate":
            gate = torch.sigmoid(p + q)
            return gate * p + (1 - gate) * q
        weights = torch.softmax(torch.cat([p, q], 1), 1)
        return weights[:, :1] * s + weights[:, 1:] * t


@dataclass(frozen=True)
class Scores:
    """What the network says of every node."""

    score: Tensor
    """(N,) fused."""
    struct: Tensor
    """(N,) of the structure channel alone."""
    text: Tensor
    """(N,) of the semantic channel alone."""
    z_struct: Tensor
    """(N, K)."""
    z_text: Tensor
    """(N, K)."""


class MetaHGNIENetwork(nn.Module):
    """Structure channel, semantic channel, a score from each, one score from both.

    Args:
        struct_width: structural features, ds.
        text_width: text features, dt.
        kinds: types of hyperedges.
        heads: input nets of the structure channel, and attention heads of the semantic one, H.
        hidden: width of a head, D; the channels are K = H D wide.
        layers: of each channel.
        relation_width: of the type embeddings.
        fusion: see :class:`Fusion`.
        fusion_share: its share.
        input: ``heads``: H two-layer nets side by side, as published; ``linear``: one linear map to K.
        collapse: between structural layers, replace the columns by their mean, as published.
        centrality: ``log_degree`` multiplies the two channels' scores by a learned affine map of log(1 + hyperedges),
            which begins as 1.
        norm: of the semantic channel.
        node_aggr: see :class:`StructuralLayer`.
        dropout: of inputs.
        attention_dropout: of structural attention weights.
        slope: of the leaky rectifier.
        eps: of the structural softmax.
        no_text: whether nodes without text get a learned vector.
        chunk_size: pairs per block.
    """

    def __init__(
        self, struct_width: int, text_width: int, kinds: int, *, heads: int = 4, hidden: int = 20, layers: int = 1,
        relation_width: int = 10, fusion: FusionMode = "adaptive", fusion_share: float = 0.2,
        input: Literal["heads", "linear"] = "heads", collapse: bool = True,
        centrality: Literal["none", "log_degree"] = "none", norm: Literal["batch", "layer", "none"] = "batch",
        node_aggr: NodeAggregation = "sum", dropout: float = 0.2, attention_dropout: float = 0.3, slope: float = 0.2,
        eps: float = 1e-9, no_text: bool = False, chunk_size: int | None = CHUNK,
    ) -> None:  # fmt: skip
        super().__init__()
        k = heads * hidden
        self.width, self.collapse = k, collapse
        self.types = nn.Embedding(kinds, relation_width)
        if input == "heads":
            self.input_nets = nn.ModuleList(
                nn.Sequential(
                    Dropout(dropout), nn.Linear(struct_width, hidden), nn.ReLU(), nn.Linear(hidden, struct_width)
                )
                for _ in range(heads)
            )
        else:
            self.input_nets = nn.ModuleList([nn.Sequential(Dropout(dropout), nn.Linear(struct_width, k), nn.ReLU())])
        first = heads * struct_width if input == "heads" else k
        self.struct_layers = nn.ModuleList(
            StructuralLayer(
                k if i else first, k, relation_width, dropout=dropout, attention_dropout=attention_dropout,
                slope=slope, eps=eps, node_aggr=node_aggr, chunk_size=chunk_size,
            )
            for i in range(layers)
        )  # fmt: skip
        self.text_layers = nn.ModuleList(
            SemanticLayer(
                k if i else text_width, heads, hidden, relation_width, norm=norm, dropout=dropout, chunk_size=chunk_size
            )
            for i in range(layers)
        )
        self.struct_head, self.text_head = nn.Linear(k, 1), nn.Linear(k, 1)
        self.fusion = Fusion(fusion, fusion_share)
        self.projector = nn.Sequential(nn.Linear(k, k), nn.ReLU(), nn.Linear(k, k))
        self.no_text = nn.Parameter(torch.zeros(text_width)) if no_text else None
        self.centrality = nn.Parameter(torch.tensor([0.0, 1.0])) if centrality == "log_degree" else None

    def forward(
        self, x_struct: Tensor, x_text: Tensor, graph: Incidence, seen: dict[str, Tensor] | None = None
    ) -> Scores:
        """Scores of all nodes.

        Args:
            x_struct: (N, ds).
            x_text: (N, dt), a row of zeros where there is no text.
            graph: the hypergraph.
            seen: if given, takes up what passes through the last layers, see there.
        """
        types = self.types.weight
        z = torch.cat([net(x_struct) for net in self.input_nets], 1)
        for i, layer in enumerate(self.struct_layers):
            if i and self.collapse:
                z = z.mean(1, keepdim=True).expand(-1, self.width)
            z = _again(layer, z, types, graph, seen if layer is self.struct_layers[-1] else None)
        t = x_text
        if self.no_text is not None:
            t = torch.where((t == 0).all(1, keepdim=True), self.no_text, t)
        for layer in self.text_layers:
            t = layer(t, types, graph, seen if layer is self.text_layers[-1] else None)
        a, b = self.struct_head(z), self.text_head(t)
        if self.centrality is not None:
            factor = self.centrality[0] * torch.log1p(graph.degree.to(a.dtype)) + self.centrality[1]
            a, b = a * factor.unsqueeze(1), b * factor.unsqueeze(1)
        return Scores(self.fusion(a, b).squeeze(1), a.squeeze(1), b.squeeze(1), z, t)

    @classmethod
    def from_official_state_dict(cls, state: Mapping[str, Tensor], **options: Any) -> Self:
        """The network of a published checkpoint; sizes are read from its tensors.

        Args:
            state: ``state_dict`` of the published model. Parameters that it never uses are left out.
            options: what tensors do not tell: ``fusion``, ``fusion_share``, dropouts, ``slope``, ``eps``, ...

        Raises:
            CheckpointError: parameters are missing or unknown.
        """
        try:
            hidden, struct_width = state["scoring_nn.0.1.weight"].shape
            kinds, relation_width = state["rel_emb.weight"].shape
            text_width = state["hgt_layers.0.n2h_q.weight"].shape[1]
        except KeyError as error:
            raise CheckpointError(f"not a checkpoint of the published model: it has no {error}") from None
        network = cls(
            struct_width, text_width, kinds, heads=_count(state, "scoring_nn."), hidden=hidden,
            layers=_count(state, "hgt_layers."), relation_width=relation_width,
            **{"fusion": "adaptive" if "fusion_layer.fusion_layer.alpha" in state else "fixed", **options},
        ).to(state["rel_emb.weight"].dtype)  # fmt: skip
        ours = {ours_of(name): value for name, value in state.items() if not _unused(name)}
        wanted = network.state_dict()
        wrong = sorted(wanted.keys() ^ ours.keys())
        if wrong:
            raise CheckpointError(f"not a checkpoint of the published model: {wrong[0]!r} does not fit the rest")
        network.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in ours.items()})
        return network


def contrast(
    objective: Callable[[Tensor, Tensor], Tensor], projector: nn.Module, z_struct: Tensor, z_text: Tensor
) -> Tensor:
    """The contrastive term: a node's two latent vectors, through one projector, against those of the other nodes.

    Args:
        objective: of :mod:`polycontrast.losses`; symmetric InfoNCE with temperature 0.5 in the paper.
        projector: shared by both channels.
        z_struct: (B, K).
        z_text: (B, K), row by row the same nodes.
    """
    return objective(projector(z_struct), projector(z_text))


_NAMES = {
    "attn_src": "node_score", "attn_edge": "type_score", "fc": "value", "res_fc": "residual",
    "n2h_q": "node_query", "n2h_k": "type_key", "n2h_v": "node_value", "n2h_o": "edge_out",
    "edge_to_input": "type_input", "h2n_q": "member_query", "h2n_k": "edge_key", "h2n_v": "edge_value",
    "h2n_o": "node_out", "FFN_h": "ffn", "batch_norm1": "norm1", "batch_norm2": "norm2",
    "scoring_nn": "input_nets", "hgat_layers": "struct_layers", "hgt_layers": "text_layers", "rel_emb": "types",
    "struct_output_linear": "struct_head", "semantic_output_linear": "text_head", "contrastive_proj": "projector",
    "alpha": "share", "linear_struct": "struct", "linear_semantic": "text",
}  # fmt: skip
"""Names of the published code, and ours."""


def ours_of(official: str) -> str:
    """Our name of a parameter of the published model, or of one of its layers."""
    parts = official.removeprefix("fusion_layer.").split(".")
    return ".".join("fusion" if part == "fusion_layer" else _NAMES.get(part, part) for part in parts)


def _unused(official: str) -> bool:
    return official in ("gamma", "beta") or "o_linear." in official


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _residual(kind: str, width: int, out: int) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "identity" or (kind == "auto" and width == out):
        return nn.Identity()
    return nn.Linear(width, out, bias=False)


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


def _again(function: Callable[..., Any], x: Tensor, *more: Any) -> Any:
    """``function(x, ...)``; with many rows, what is inside is computed again in the backward pass instead of kept."""
    if len(x) <= 2 * _ROWS:
        return function(x, *more)
    return checkpoint(function, x, *more, use_reentrant=False)


def _by_rows(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``net(x)``, block by block and computed again in the backward pass when there are many rows."""
    if len(x) <= 2 * _ROWS:
        return net(x)
    return torch.cat([checkpoint(net, part, use_reentrant=False) for part in x.split(_ROWS)])


__all__ = ["Fusion", "MetaHGNIENetwork", "Scores", "SemanticLayer", "StructuralLayer", "contrast", "ours_of"]
