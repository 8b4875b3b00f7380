"""The network of ST-SSDL: one encoder for the present and its anchor, prototypes between them, one decoder.

Graph convolutions are linear, so the input's part of every gate is mixed over the graph before the time loop: a value
is one number per sensor, the time of day is the same at all sensors, and a sensor's embedding does not change in time.
What is left in the loop is the state. T_0 = I is never multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as forget_inside

from polycontrast_timeseries.st_ssdl.graph import Mixer, SampleMixer, TopKMixer


@dataclass(frozen=True)
class Encoded:
    """What the encoder and the prototypes make of windows and their anchors."""

    states: Tensor
    """(V, B, N, H) last hidden states; V = 2, current and anchor, or 1 in a plain network."""
    queries: Tensor
    """(V, B, N, d)."""
    values: Tensor
    """(V, B, N, d) prototypes weighted by the attention of the queries."""
    indices: Tensor
    """(V, B, N, 2) nearest and second nearest prototype."""


class GraphConv(nn.Module):
    """``G(z) = concat_{support, k} T_k(S) z`` times one matrix, plus a bias.

    Args:
        inputs: channels in, C.
        outputs: channels out.
        cheb_k: polynomial terms, K.
        supports: number of supports.

    Rows of ``weight`` (supports * K * C, outputs) go by support, then term, then channel, as in the code.
    """

    def __init__(self, inputs: int, outputs: int, cheb_k: int, supports: int = 1) -> None:
        super().__init__()
        self.shape = (supports, cheb_k, inputs, outputs)
        self.weight = nn.Parameter(torch.empty(supports * cheb_k * inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_normal_(self.weight)

    def by_term(self) -> Tensor:
        """(1 + supports * (K - 1), C, outputs): the weights of T_0, the same for all supports, and the rest."""
        weight = self.weight.view(self.shape)
        return torch.cat([weight[:, 0].sum(0, keepdim=True), weight[:, 1:].flatten(0, 1)])

    def forward(self, z: Tensor, mixer: Mixer) -> Tensor:
        """(N, B, C) or (B, N, C), as the mixer takes it, to the same with ``outputs`` channels."""
        return affine(self.bias.expand(*z.shape[:-1], -1), [z, *mixer.mix(z)], self.by_term().unbind(0))


def affine(base: Tensor, terms: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """``base + sum_k terms[k] @ weights[k]``."""
    total = base.reshape(-1, base.shape[-1])
    for term, weight in zip(terms, weights, strict=True):
        total = torch.addmm(total, term.reshape(-1, term.shape[-1]), weight)
    return total.view(base.shape)


class GCRUCell(nn.Module):
    """Graph-convolutional GRU: ``[u | r] = sigmoid(G1([x ; h])), c = tanh(G2([x ; u h])), h' = r h + (1 - r) c``."""

    def __init__(self, inputs: int, hidden: int, cheb_k: int, supports: int = 1) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.gate = GraphConv(inputs + hidden, 2 * hidden, cheb_k, supports)
        self.candidate = GraphConv(inputs + hidden, hidden, cheb_k, supports)

    def open(self) -> OpenCell:
        """The cell with its weights taken apart, for one pass over time."""
        gate, candidate = self.gate.by_term(), self.candidate.by_term()
        x = torch.cat([gate[:, : self.inputs], candidate[:, : self.inputs]], -1)
        bias = torch.cat([self.gate.bias, self.candidate.bias])
        return OpenCell(x, bias, gate[:, self.inputs :].unbind(0), candidate[:, self.inputs :].unbind(0), self.hidden)

    def forward(self, x: Tensor, h: Tensor, mixer: Mixer) -> Tensor:
        """One step: x (N, B, C) and h (N, B, H), or both (B, N, .), to the next h."""
        cell = self.open()
        return cell.step(cell.input(x, mixer), h, mixer)


@dataclass(frozen=True)
class OpenCell:
    """Weights of a cell by what they multiply."""

    x: Tensor
    """(terms, C, 3 H) of the input, for both gates and the candidate."""
    bias: Tensor
    """(3 H,)."""
    gate: Sequence[Tensor]
    """(H, 2 H) per term, of the state."""
    candidate: Sequence[Tensor]
    """(H, H) per term, of the gated state."""
    hidden: int

    def input(self, x: Tensor, mixer: Mixer) -> Tensor:
        """The input's part (..., 3 H)."""
        return affine(self.bias.expand(*x.shape[:-1], -1), [x, *mixer.mix(x)], self.x.unbind(0))

    def step(self, x: Tensor, h: Tensor | None, mixer: Mixer) -> Tensor:
        """Next state from the input's part and the state; None is the zero state, which costs no product."""
        x_gate, x_candidate = x.split([2 * self.hidden, self.hidden], -1)
        if h is None:
            return torch.sigmoid(-x_gate[..., self.hidden :]) * torch.tanh(x_candidate)  # (1 - r) c
        u, r = torch.sigmoid(affine(x_gate, [h, *mixer.mix(h)], self.gate)).chunk(2, -1)
        gated = u * h
        c = torch.tanh(affine(x_candidate, [gated, *mixer.mix(gated)], self.candidate))
        return torch.lerp(c.to(h.dtype), h, r.to(h.dtype))  # the state stays exact where the rest is half precision


@dataclass(frozen=True)
class Features:
    """``[Linear(value) ; time of day ; (step, sensor) ; sensor]`` as an input whose parts are mixed one by one."""

    value_weight: Tensor
    """(e,)."""
    value_bias: Tensor
    """(e,)."""
    times: Tensor | None
    """(B, T, tau), the same at all sensors."""
    adaptive: Tensor | None
    """(T, N, a), the same in all samples."""
    sensors: Tensor | None
    """(N, nu)."""

    def mixed(self, cell: OpenCell, mixer: Mixer) -> Mixed:
        """Everything but the values through the graph and the input's weights."""
        width = len(self.value_weight)
        tau = 0 if self.times is None else self.times.shape[-1]
        a = 0 if self.adaptive is None else self.adaptive.shape[-1]
        w_value, w_time, w_adaptive, w_node = cell.x.split([width, tau, a, cell.x.shape[1] - width - tau - a], 1)
        times = self.value_bias @ w_value  # (terms, 3 H): the bias of the embedded value is a constant feature, too
        times = times.unsqueeze(1).unsqueeze(1)
        if self.times is not None:
            times = times + torch.einsum("btc,kco->ktbo", self.times, w_time)
        nodes = cell.bias
        if self.sensors is not None:
            terms = mixer.nodes(self.sensors)
            nodes = affine(nodes.expand(*terms[0].shape[:-1], -1), terms, w_node.unbind(0))
        adaptive = None
        if self.adaptive is not None:
            table = self.adaptive.transpose(0, 1)  # (N, T, a)
            adaptive = sum(t @ w for t, w in zip([table, *mixer.mix(table)], w_adaptive, strict=True))
        return Mixed(torch.einsum("e,keo->ko", self.value_weight, w_value), times, nodes, adaptive, mixer)


@dataclass(frozen=True)
class Mixed:
    """The input's part of a cell, up to the values."""

    value: Tensor
    """(terms, 3 H)."""
    times: Tensor
    """(terms, T, B, 3 H), T and B may be 1."""
    nodes: Tensor
    """(N, 1, 3 H) or (B, N, 3 H), or (3 H,)."""
    adaptive: Tensor | None
    """(N, T, 3 H)."""
    mixer: Mixer

    def at(self, t: int, values: Tensor) -> Tensor:
        """The input's part at a step.

        Args:
            t: the step.
            values: (N, B, terms) or (B, N, terms), the values mixed by every term.
        """
        times = self.times[:, t if self.times.shape[1] > 1 else 0]
        part = self.mixer.constant(times) + self.nodes
        if self.adaptive is not None:
            part = part + self.adaptive[:, t].unsqueeze(1)
        return values @ self.value + part


class Prototypes(nn.Module):
    """Queries, their attention over prototypes, and the two nearest ones.

    Args:
        hidden: width of a state, H.
        count: prototypes, M.
        width: of query and prototype, d.
    """

    def __init__(self, hidden: int, count: int, width: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(count, width))
        self.query = nn.Parameter(torch.empty(hidden, width))
        nn.init.xavier_normal_(self.prototypes)
        nn.init.xavier_normal_(self.query)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (..., H) to queries (..., d), values (..., d) and indices (..., 2); of equals the lower index."""
        q = h @ self.query
        alpha = torch.softmax(q @ self.prototypes.T, -1)
        indices = alpha.detach().sort(dim=-1, descending=True, stable=True).indices[..., :2]
        return q, alpha @ self.prototypes, indices


class STSSDLNetwork(nn.Module):
    """Encoder, prototypes, learned graph and decoder (paper section 4; spec of the code).

    Args:
        sensors: N.
        t_in: steps of a window, for the adaptive embedding.
        hidden: H.
        layers: stacked cells.
        cheb_k: polynomial terms.
        supports: number of supports of the given graph.
        prototypes: M.
        prototype_dim: d.
        value_dim, node_dim, tod_dim, adaptive_dim, graph_dim: widths of embeddings.
        slots_per_day: rows of the time-of-day table.
        use_embeddings: see :class:`STSSDLConfig`.
        plain: without anchor, prototypes and learned graph.
        top_k: see :class:`STSSDLConfig`.
        checkpoint: see :class:`STSSDLConfig`.
    """

    def __init__(
        self, sensors: int, *, t_in: int = 12, hidden: int = 128, layers: int = 1, cheb_k: int = 3, supports: int = 1,
        prototypes: int = 20, prototype_dim: int = 64, value_dim: int = 3, node_dim: int = 25, tod_dim: int = 20,
        adaptive_dim: int = 0, graph_dim: int = 20, slots_per_day: int = 288, use_embeddings: bool = True,
        plain: bool = False, top_k: int | None = None, checkpoint: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sensors, self.hidden, self.cheb_k, self.slots_per_day = sensors, hidden, cheb_k, slots_per_day
        self.use_embeddings, self.plain, self.top_k, self.checkpoint = use_embeddings, plain, top_k, checkpoint
        if use_embeddings:
            self.input_projection = nn.Linear(1, value_dim)
            self.node_embedding = _table(sensors, node_dim)
            self.tod_embedding = _table(slots_per_day, tod_dim)
            self.adaptive_embedding = _table(t_in, sensors, adaptive_dim) if adaptive_dim else None
            decoder_inputs = value_dim + tod_dim + node_dim
            encoder_inputs = decoder_inputs + adaptive_dim
        else:
            encoder_inputs, decoder_inputs = 1, 2
        width = hidden if plain else hidden + prototype_dim
        self.encoder = _cells(layers, encoder_inputs, hidden, cheb_k, supports)
        self.decoder = _cells(layers, decoder_inputs, width, cheb_k, supports if plain else 1)
        self.output = nn.Linear(width, 1)
        if not plain:
            self.prototypes = Prototypes(hidden, prototypes, prototype_dim)
            self.hypernet = nn.Linear(2 * width, graph_dim)

    def forward(
        self, x: Tensor, anchor: Tensor, tod: Tensor, tod_out: Tensor, mixer: Mixer,
        labels: Tensor | None = None, feed: Sequence[bool] = (),
    ) -> tuple[Tensor, Encoded]:  # fmt: skip
        """Forecasts in standardised units, and what was encoded.

        Args:
            x: (B, T_in, N) standardised.
            anchor: (B, T_in, N) likewise; not looked at by a plain network.
            tod: (B, T_in) time of day as a fraction.
            tod_out: (B, T_out) of the steps to forecast.
            mixer: of the given graph.
            labels: (B, T_out, N) standardised, NaN where missing; used where ``feed`` says so.
            feed: whether the label of a step is the input of the next, per step.

        Returns:
            (B, T_out, N).
        """
        encoded = self.encode(x if self.plain else torch.cat([x, anchor]), tod, mixer)
        return self.decode(encoded, tod_out, mixer, labels, feed), encoded

    # ---- encoder ---------------------------------------------------------------------------------------------

    def encode(self, windows: Tensor, tod: Tensor, mixer: Mixer) -> Encoded:
        """Windows (V B, T, N), current ones and then their anchors, in one pass."""
        views, steps = len(windows) // len(tod), windows.shape[1]
        cells = [cast(GCRUCell, cell).open() for cell in self.encoder]
        inputs = self._features(tod.repeat(views, 1), encoder=True).mixed(cells[0], mixer)
        values = windows.permute(2, 1, 0)  # (N, T, V B)
        values = torch.stack([values, *mixer.mix(values)], -1).transpose(0, 1)  # (T, N, V B, terms)

        def run(start: int, *states: Tensor | None) -> tuple[Tensor | None, ...]:
            for t in range(start, min(start + size, steps)):
                x = inputs.at(t, values[t])
                after: list[Tensor] = []
                for i, (cell, h) in enumerate(zip(cells, states, strict=True)):
                    after.append(cell.step(cell.input(after[-1], mixer) if i else x, h, mixer))
                states = tuple(after)
            return states

        size = self.checkpoint or steps
        states: tuple[Tensor, ...] = (None,) * len(cells)  # type: ignore[assignment]
        for start in range(0, steps, size):
            states = self._segment(run, start, *states)
        h = states[-1].transpose(0, 1).unflatten(0, (views, -1)).contiguous()
        if self.plain:
            nothing = h.new_zeros(*h.shape[:-1], 0)
            return Encoded(h, nothing, nothing, nothing.long())
        return Encoded(h, *self.prototypes(h))

    # ---- decoder ---------------------------------------------------------------------------------------------

    def decoder_mixer(self, encoded: Encoded, mixer: Mixer) -> Mixer:
        """The graph of each sample, ``softmax(relu(E E^T))``, E from states and values; plain: the given one."""
        if self.plain:
            return mixer
        both = torch.cat([encoded.states, encoded.values], -1)  # (2, B, N, H + d)
        embedding = self.hypernet(torch.cat([both[0], both[1]], -1))
        if self.top_k is not None and self.top_k < self.sensors:
            return TopKMixer(embedding, self.cheb_k, self.top_k)
        return SampleMixer(embedding, self.cheb_k)

    def decode(
        self, encoded: Encoded, tod: Tensor, mixer: Mixer, labels: Tensor | None = None, feed: Sequence[bool] = ()
    ) -> Tensor:
        """(B, T_out, N) standardised, from the current state and the learned graph."""
        mixer = self.decoder_mixer(encoded, mixer)
        state = torch.cat([encoded.states[0], encoded.values[0]], -1)
        if mixer.node_first:
            state = state.transpose(0, 1)
        cells = [cast(GCRUCell, cell).open() for cell in self.decoder]
        inputs = self._features(tod, encoder=False).mixed(cells[0], mixer)
        steps = tod.shape[1]
        if labels is not None:
            labels = (labels.permute(1, 2, 0) if mixer.node_first else labels.transpose(0, 1)).unsqueeze(-1)

        def run(start: int, previous: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
            outputs = []
            for t in range(start, min(start + size, steps)):
                x = inputs.at(t, torch.cat([previous, *mixer.mix(previous)], -1))
                after: list[Tensor] = []
                for i, (cell, h) in enumerate(zip(cells, states, strict=True)):
                    after.append(cell.step(cell.input(after[-1], mixer) if i else x, h, mixer))
                states = tuple(after)
                previous = self.output(states[-1])
                outputs.append(previous)
                if labels is not None and feed[t]:
                    previous = torch.where(labels[t].isnan(), previous, labels[t])
            return torch.cat(outputs, -1), previous, *states

        size = self.checkpoint or steps
        previous, states, outputs = state.new_zeros(*state.shape[:-1], 1), (state,) * len(cells), []
        for start in range(0, steps, size):
            output, previous, *rest = self._segment(run, start, previous, *states)
            states = tuple(rest)
            outputs.append(output)
        forecast = torch.cat(outputs, -1)  # (N, B, T) or (B, N, T)
        return forecast.permute(1, 2, 0) if mixer.node_first else forecast.transpose(1, 2)

    # ---- below: how ------------------------------------------------------------------------------------------

    def _features(self, tod: Tensor, *, encoder: bool) -> Features:
        """Of windows with these times of day, (B, T)."""
        one = tod.new_ones(1)
        if not self.use_embeddings:
            return Features(one, one - one, None if encoder else tod.unsqueeze(-1), None, None)
        # Slots by truncation as in the code, with room for the rounding of a fraction that was a whole slot.
        slots = (tod * self.slots_per_day + 1e-3).long().clamp_(0, self.slots_per_day - 1)
        return Features(
            self.input_projection.weight[:, 0], self.input_projection.bias, self.tod_embedding[slots],
            self.adaptive_embedding if encoder else None, self.node_embedding,
        )  # fmt: skip

    def _segment(self, run: Callable[..., Any], start: int, *tensors: Tensor | None) -> Any:
        """A stretch of time, whose inside is computed again in backward if ``checkpoint`` is set."""
        if self.checkpoint is None or not torch.is_grad_enabled():
            return run(start, *tensors)
        return forget_inside(run, start, *tensors, use_reentrant=False, preserve_rng_state=False)


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))


def _cells(layers: int, inputs: int, hidden: int, cheb_k: int, supports: int) -> nn.ModuleList:
    return nn.ModuleList(GCRUCell(inputs if i == 0 else hidden, hidden, cheb_k, supports) for i in range(layers))
