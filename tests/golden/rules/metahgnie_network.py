"""Rules of MetaHGNIE's layers and whole model; the README beside the files says what each holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from golden.rules import Case, rule
from polycontrast.losses import infonce
from polycontrast_graph.metahgnie.network import (
    Fusion,
    MetaHGNIENetwork,
    SemanticLayer,
    StructuralLayer,
    contrast,
    ours_of,
)
from polycontrast_graph.metahgnie.segments import Incidence

GRADIENTS = 1e-6


def _graph(case: Case, kind: Tensor) -> Incidence:
    pairs = torch.stack([case.tensor("node_index"), case.tensor("hyperedge_index")])
    assert len(kind) == case.integer("num_hyperedges")
    return Incidence.of(pairs, kind, case.integer("num_nodes"), int(kind.max()) + 1)


def _load(module: nn.Module, case: Case) -> None:
    wanted = module.state_dict()
    ours = {ours_of(name.removeprefix("w.")): case.tensor(name) for name in case.names("w.") if "o_linear" not in name}
    module.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in ours.items()})


def _gradients(module: nn.Module, case: Case) -> None:
    parameters = dict(module.named_parameters())
    for name in case.names("grad."):
        grad = parameters[ours_of(name.removeprefix("grad."))].grad
        assert grad is not None, name
        case.close(name, grad.reshape(case.array(name).shape), tolerance=GRADIENTS)


def _layer(module: nn.Module, case: Case) -> None:
    """Every hyperedge has a type of its own, whose embedding is its row of ``hyperedge_attr``."""
    x, types = case.tensor("x").requires_grad_(), case.tensor("hyperedge_attr").requires_grad_()
    y = module(x, types, _graph(case, torch.arange(len(types))))
    case.close("y", y)
    y.backward(case.tensor("grad_y"))
    for name, leaf in (("grad_x", x), ("grad_hyperedge_attr", types)):
        case.close(name, leaf.grad, tolerance=GRADIENTS)  # type: ignore[arg-type]
    _gradients(module, case)


@rule("metahgnie", "hgsa")
def hgsa(case: Case) -> None:
    activation = str(case.array("activation"))
    assert activation in ("relu", "none"), activation
    layer = StructuralLayer(
        case.array("x").shape[1], case.integer("n_heads"), case.array("hyperedge_attr").shape[1],
        head_width=case.integer("head_width"), residual=str(case.array("residual")),  # type: ignore[arg-type]
        activation=activation == "relu", slope=case.number("negative_slope"), eps=case.number("softmax_eps"),
        dropout=case.number("dropout"), attention_dropout=case.number("dropout"),
    ).double()  # fmt: skip
    _load(layer, case)
    _layer(layer, case)


@rule("metahgnie", "sca")
def sca(case: Case) -> None:
    residual, norm = str(case.array("residual")), bool(case.array("batch_norm"))
    assert bool(case.array("ffn_residual")) == (residual != "none")
    width = case.integer("head_width")
    layer = SemanticLayer(
        case.array("x").shape[1], case.integer("n_heads"), width, case.array("hyperedge_attr").shape[1],
        residual=residual, norm="batch" if norm else "none", dropout=case.number("dropout"),  # type: ignore[arg-type]
    ).double()  # fmt: skip
    case.same("out_dim", width)
    case.close("attention_scale", layer.scale)
    case.same("softmax_eps", 0.0)
    case.same("activation", "gelu")
    for unused in case.names("w.o_linear"):
        case.skip(unused, reason="declared by the published code and never used")
    if norm:
        case.same("bn_eps", layer.norm1.eps)  # type: ignore[arg-type]
        case.same("bn_momentum", layer.norm1.momentum)  # type: ignore[arg-type]
    else:
        for name in (*case.names("bn_"), *case.names("w.batch_norm")):
            case.skip(name, reason="there is no batch norm")
    wanted = layer.state_dict()
    ours = {
        ours_of(name.removeprefix("w.")): case.tensor(name)
        for name in case.names("w.")
        if "o_linear" not in name and (norm or "batch_norm" not in name)
    }
    layer.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in ours.items()})
    layer.train(bool(case.array("train_mode")))
    _layer(layer, case)
    for name in case.names("after."):
        case.close(name, layer.state_dict()[ours_of(name.removeprefix("after."))])


@rule("metahgnie", "contrastive")
def contrastive(case: Case) -> None:
    case.same("projector_activation", "relu")
    case.same("directions", "both")
    out, width = case.array("w.0.weight").shape
    last = case.array("w.2.weight").shape
    projector = nn.Sequential(nn.Linear(width, out), nn.ReLU(), nn.Linear(*reversed(last))).double()
    projector.load_state_dict({name.removeprefix("w."): case.tensor(name) for name in case.names("w.")})
    struct, text = (case.tensor(name).requires_grad_() for name in ("z_struct", "z_semantic"))
    rows, temperature = case.tensor("index"), case.number("temperature")

    def objective(x: Tensor, y: Tensor) -> Tensor:
        return infonce(x, y, temperature=temperature)  # type: ignore[return-value]

    loss = contrast(objective, projector, struct[rows], text[rows])
    case.close("loss", loss)
    loss.backward()
    case.close("grad_z_struct", struct.grad, tolerance=GRADIENTS)  # type: ignore[arg-type]
    case.close("grad_z_semantic", text.grad, tolerance=GRADIENTS)  # type: ignore[arg-type]


@rule("metahgnie", "fusion")
def fusion(case: Case) -> None:
    module = Fusion(str(case.array("mode")), case.number("eta")).double()  # type: ignore[arg-type]
    wanted = module.state_dict()
    state = {ours_of(name.removeprefix("w.")): case.tensor(name) for name in case.names("w.")}
    if module.mode == "concat":
        state = {f"both.{name.rpartition('.')[2]}": value for name, value in state.items()}
    if wanted.keys() == state.keys():
        module.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in state.items()})
    else:
        assert not wanted, f"{module.mode}: weights {sorted(state)}, expected {sorted(wanted)}"
    case.close("out", module(case.tensor("struct_logit"), case.tensor("semantic_logit")))


@rule("metahgnie", "model")
def model(case: Case) -> None:
    layers = case.integer("num_layers")
    for name in ("struct_residual", "semantic_residual"):
        assert len(case.array(name)) == layers
    for name in ("w.gamma", "w.beta", *(n for n in case.names("w.") if "o_linear" in n)):
        if name in case:
            case.skip(name, reason="declared by the published code and never used")
    network = MetaHGNIENetwork.from_official_state_dict(
        {name.removeprefix("w."): case.tensor(name) for name in case.names("w.")},
        fusion=str(case.array("fusion_mode")), fusion_share=case.number("eta"), slope=case.number("negative_slope"),
        eps=case.number("softmax_eps"), dropout=case.number("dropout"), attention_dropout=case.number("dropout"),
    )  # fmt: skip
    for name, value in {
        "num_heads": len(network.input_nets), "num_hidden": network.width // len(network.input_nets),
        "struct_attention_heads": network.width, "struct_head_width": 1,
        "relation_dim": network.types.embedding_dim, "num_relations": network.types.num_embeddings,
        "struct_activation": "relu", "scoring_activation": "relu", "semantic_activation": "gelu", "batch_norm": True,
        "bn_eps": 1e-5, "bn_momentum": 0.1, "struct_between_layers": "mean_over_columns_repeated",
        "regression_loss": "mse",
    }.items():  # fmt: skip
        case.same(name, value)
    for name, stack in (("struct_residual", network.struct_layers), ("semantic_residual", network.text_layers)):
        kinds = ["linear" if isinstance(layer.residual, nn.Linear) else "identity" for layer in stack]
        case.same(name, kinds)
    train = bool(case.array("train_mode"))
    network.train(train)
    scores = network(case.tensor("struct_x"), case.tensor("semantic_x"), _graph(case, case.tensor("hyperedge_type")))
    rows, y, temperature = case.tensor("train_index"), case.tensor("labels"), case.number("temperature")

    def objective(x: Tensor, other: Tensor) -> Tensor:
        return infonce(x, other, temperature=temperature)  # type: ignore[return-value]

    def error(score: Tensor) -> Tensor:
        return (score - y)[rows].square().mean()

    con = contrast(objective, network.projector, scores.z_struct[rows], scores.z_text[rows])
    aux = (error(scores.struct) + error(scores.text)) / 2
    loss = error(scores.score) + case.number("alpha") * con + case.number("beta") * aux
    case.close("logits", scores.score.unsqueeze(1))
    case.close("loss", loss)
    for name, value in {
        "latent_struct": scores.z_struct, "latent_semantic": scores.z_text,
        "logit_struct": scores.struct.unsqueeze(1), "logit_semantic": scores.text.unsqueeze(1), "contrastive": con,
    }.items():  # fmt: skip
        if train and case.array(name).size == 0:
            case.skip(name, reason="empty in train mode")
        else:
            case.close(name, value)
    loss.backward()
    _gradients(network, case)
