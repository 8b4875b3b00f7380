"""Rules of ST-SSDL; the README beside its files says what each holds."""

from __future__ import annotations

import torch
from torch import Tensor

from golden.rules import Case, rule
from polycontrast_timeseries.st_ssdl import terms
from polycontrast_timeseries.st_ssdl.anchors import slot_means
from polycontrast_timeseries.st_ssdl.graph import DenseMixer, Graph, Mixer, SampleMixer
from polycontrast_timeseries.st_ssdl.metrics import masked_errors, masked_mae
from polycontrast_timeseries.st_ssdl.network import GCRUCell, GraphConv, Prototypes, STSSDLNetwork

_SINGLE = 1e-6  # what the official code computes in float32


@rule("st_ssdl", "adjacency")
def adjacency(case: Case) -> None:
    graph = Graph.of(case.array("adj"))
    case.close("sym", graph.supports("sym")[0].toarray(), tolerance=_SINGLE)
    case.close("transition", graph.supports("transition")[0].toarray(), tolerance=_SINGLE)
    both = graph.supports("double_transition")
    case.close("transition", both[0].toarray(), tolerance=_SINGLE)
    case.close("reverse_transition", both[1].toarray(), tolerance=_SINGLE)
    if case.array("scaled_laplacian").ndim == 1:
        case.skip("scaled_laplacian", reason="a placeholder: it was not computed")
        case.skip("lambda_max", reason="of the placeholder")
        return
    (laplacian,) = graph.supports("scaled_laplacian", lambda_max=case.number("lambda_max"))
    case.close("scaled_laplacian", laplacian.toarray(), tolerance=_SINGLE)


class _Given(SampleMixer):
    """A graph of each sample that is given instead of learned; its rows need not sum to 1."""

    def __init__(self, graph: Tensor, cheb_k: int) -> None:
        self.graph = graph
        self.orders, self.batch = cheb_k - 1, len(graph)


def _convolved(x: Tensor, mixer: Mixer, weight: Tensor, bias: Tensor, cheb_k: int, supports: int = 1) -> Tensor:
    conv = GraphConv(x.shape[-1], len(bias), cheb_k, supports).to(x.dtype)
    conv.load_state_dict({"weight": weight, "bias": bias})
    if mixer.node_first:
        return conv(x.transpose(0, 1), mixer).transpose(0, 1)
    return conv(x, mixer)


@rule("st_ssdl", "graph_conv")
def graph_conv(case: Case) -> None:
    x, cheb_k = case.tensor("x"), case.integer("cheb_k")
    support, second = case.tensor("support"), case.tensor("support2")
    plain = case.tensor("weight"), case.tensor("bias"), cheb_k
    case.close("out_static", _convolved(x, DenseMixer([support], cheb_k), *plain))
    case.close("out_dynamic", _convolved(x, _Given(case.tensor("support_dynamic"), cheb_k), *plain))
    two = _convolved(
        x, DenseMixer([support, second], cheb_k), case.tensor("weight_two"), case.tensor("bias_two"), cheb_k, 2
    )
    case.close("out_two_supports", two)


@rule("st_ssdl", "gcru_cell")
def gcru_cell(case: Case) -> None:
    x, h, cheb_k = case.tensor("x"), case.tensor("h"), case.integer("cheb_k")
    supports = case.integer("n_supports")
    cell = GCRUCell(x.shape[-1], h.shape[-1], cheb_k, supports).to(x.dtype)
    cell.load_state_dict(
        {
            "gate.weight": case.tensor("gate_weight"),
            "gate.bias": case.tensor("gate_bias"),
            "candidate.weight": case.tensor("cand_weight"),
            "candidate.bias": case.tensor("cand_bias"),
        }
    )
    mixer = DenseMixer([case.tensor("support")] * supports, cheb_k)
    case.close("h_next", cell(x.transpose(0, 1), h.transpose(0, 1), mixer).transpose(0, 1))


@rule("st_ssdl", "encoder")
def encoder(case: Case) -> None:
    x, cheb_k, supports = case.tensor("x"), case.integer("cheb_k"), case.integer("n_supports")
    mixer = DenseMixer([case.tensor("support")] * supports, cheb_k)
    sequence = x.permute(1, 2, 0, 3)  # (T, N, B, C)
    for i in range(case.integer("n_layers")):
        width = case.array(f"last_layer{i}").shape[-1]
        cell = GCRUCell(sequence.shape[-1], width, cheb_k, supports).to(x.dtype)
        cell.load_state_dict(
            {ours: case.tensor(f"dcrnn_cells__{i}__{theirs}") for ours, theirs in _CELL.items()},
        )
        h, states = sequence.new_zeros(*sequence.shape[1:3], width), []
        for step in sequence:
            h = cell(step, h, mixer)
            states.append(h)
        case.close(f"last_layer{i}", h.transpose(0, 1))
        sequence = torch.stack(states)
    case.close("seq", sequence.permute(2, 0, 1, 3))


@rule("st_ssdl", "prototypes")
def prototypes(case: Case) -> None:
    current, anchor = case.tensor("h_current"), case.tensor("h_anchor")
    count, width = case.array("prototypes").shape
    module = Prototypes(current.shape[-1], count, width).to(current.dtype)
    module.load_state_dict({"prototypes": case.tensor("prototypes"), "query": case.tensor("w_query")})
    case.same("triplet_norm", 2)
    case.same("triplet_eps", terms.TRIPLET_EPS)
    q, v, at = module(torch.stack([current, anchor]))
    for i, name in enumerate(("current", "anchor")):
        case.close(f"q_{name}", q[i])
        case.close(f"v_{name}", v[i])
        case.same(f"idx_{name}", at[i])
    chosen = module.prototypes[at[..., 0]]
    query_distance, prototype_distance = (q[0] - q[1]).abs().sum(-1), (chosen[0] - chosen[1]).abs().sum(-1)
    case.close("dist_query", query_distance)
    case.close("dist_prototype", prototype_distance)
    how = {"margin": case.number("margin")}
    contrast = terms.contrast(q[0].detach(), module.prototypes, at[0], **how)
    deviation = terms.deviation(query_distance.detach(), prototype_distance)
    case.close("loss_contrast_code", contrast)
    squared = terms.contrast(q[0].detach(), module.prototypes, at[0], kind="triplet_squared", **how)
    case.close("loss_contrast_paper_squared", squared)
    case.close("loss_deviation", deviation)
    (case.number("lambda_contrast") * contrast + case.number("lambda_deviation") * deviation).backward()
    case.close("grad_prototypes_lc0p1_ld1", module.prototypes.grad)  # type: ignore[arg-type]
    assert module.query.grad is None or not module.query.grad.any()


@rule("st_ssdl", "metrics")
def metrics(case: Case) -> None:
    pred, target = case.tensor("pred").squeeze(-1), case.tensor("target").squeeze(-1)
    found = masked_errors(pred, target, null_value=case.number("null_value"), steps=range(1, pred.shape[1] + 1))
    names = {"mae", "rmse", "mape", *(n for n in case.names() if "_step" in n)}
    for name in names:
        # the code divides the mask by its mean in float32
        case.close(name, found[name.replace("_step", "_")], tolerance=_SINGLE)


@rule("st_ssdl", "schedule")
def schedule(case: Case) -> None:
    rows = [
        [terms.teacher_probability(float(i), float(k)) for i in case.array("batches_seen")]  # type: ignore[arg-type]
        for k in case.array("decay")
    ]
    case.close("prob", rows)


@rule("st_ssdl", "history_average")
def history_average(case: Case) -> None:
    values = case.array("values")
    per_day, train = case.integer("steps_per_day"), case.integer("train_steps")
    slots = (case.integer("weekday_of_first") * per_day + torch.arange(len(values))).numpy() % (7 * per_day)
    null = case.number("null_value")
    table = slot_means(values[:train], slots[:train], 7 * per_day, null_value=null)  # type: ignore[arg-type]
    case.close("history", table[slots])


_CELL = {
    "gate.weight": "gate__weights", "gate.bias": "gate__bias",
    "candidate.weight": "update__weights", "candidate.bias": "update__bias",
}  # fmt: skip
_NAMES = {
    "node_embedding": "node_embedding", "time_embedding": "tod_embedding",
    "prototypes__prototypes": "prototypes.prototypes", "prototypes__Wq": "prototypes.query",
    "input_proj__weight": "input_projection.weight", "input_proj__bias": "input_projection.bias",
    "proj__0__weight": "output.weight", "proj__0__bias": "output.bias",
    "hypernet__0__weight": "hypernet.weight", "hypernet__0__bias": "hypernet.bias",
}  # fmt: skip


def _ours(golden: str) -> str:
    if golden in _NAMES:
        return _NAMES[golden]
    part, _, i, rest = golden.split("__", 3)  # encoder__dcrnn_cells__0__gate__weights
    return f"{part}.{i}.{next(ours for ours, theirs in _CELL.items() if theirs == rest)}"


@rule("st_ssdl", "full_model")
def full_model(case: Case) -> None:
    x, tod, history, y_tod, y = (case.tensor(name).squeeze(-1) for name in ("x", "x_tod", "x_history", "y_tod", "y"))
    assert y.shape[1] == case.integer("horizon")
    cheb_k = case.integer("cheb_k")
    network = STSSDLNetwork(
        x.shape[2], t_in=x.shape[1], hidden=case.integer("rnn_units"), layers=case.integer("rnn_layers"),
        cheb_k=cheb_k, prototypes=case.integer("prototype_num"), prototype_dim=case.integer("prototype_dim"),
        value_dim=case.integer("input_embedding_dim"), node_dim=case.integer("node_embedding_dim"),
        tod_dim=case.integer("tod_embed_dim"), adaptive_dim=case.integer("adaptive_embedding_dim"),
        graph_dim=case.integer("tod_embed_dim"), slots_per_day=case.integer("slots_per_day"),
        use_embeddings=bool(case.array("use_ste")),
    ).to(x.dtype)  # fmt: skip
    network.load_state_dict({_ours(n.removeprefix("param__")): case.tensor(n) for n in case.names("param__")})
    case.same("decoder_graph", "softmax(relu(E E^T))")
    case.same("triplet_norm", 2)
    case.same("triplet_eps", terms.TRIPLET_EPS)
    mixer = DenseMixer([case.tensor("support")], cheb_k)
    tods = tod[:, :, 0], y_tod[:, :, 0]
    mean, std = case.number("scaler_mean"), case.number("scaler_std")

    out, encoded = network(x, history, *tods, mixer)
    case.close("out_eval", out.unsqueeze(-1))
    case.same("idx", encoded.indices)
    query_distance, prototype_distance = terms.distances(encoded, network.prototypes.prototypes)
    case.close("dist_query", query_distance)
    case.close("dist_prototype", prototype_distance)
    target = y.masked_fill(y == case.number("null_value"), torch.nan)
    contrast = terms.contrast(
        encoded.queries[0].detach(), network.prototypes.prototypes, encoded.indices[0], margin=case.number("margin")
    )
    loss = (
        masked_mae(out * std + mean, target)
        + case.number("lambda_contrast") * contrast
        + case.number("lambda_deviation") * terms.deviation(query_distance.detach(), prototype_distance)
    )
    case.close("loss", loss)
    loss.backward()
    parameters = dict(network.named_parameters())
    for name in case.names("grad__"):
        case.close(name, parameters[_ours(name.removeprefix("grad__"))].grad)  # type: ignore[arg-type]

    threshold = terms.teacher_probability(case.number("batches_seen"), case.number("cl_decay_steps"))
    case.close("threshold", threshold)
    feed = [bool(coin < threshold) for coin in case.array("coins")]
    taught, _ = network(x, history, *tods, mixer, labels=(target - mean) / std, feed=feed)
    case.close("out_train_teacher", taught.unsqueeze(-1))
