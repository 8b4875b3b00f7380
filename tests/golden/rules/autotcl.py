"""Rules of AutoTCL; the README beside its files says what each holds."""

from __future__ import annotations

import torch
from torch import Tensor

from golden.rules import Case, rule
from polycontrast.losses import infonce, mmd
from polycontrast_timeseries.autotcl.augmentation import Augmenter, consistency, gate, over_budget
from polycontrast_timeseries.autotcl.contrast import (
    hierarchical_contrast,
    instance_contrast,
    l1out_bound,
    local_contrast,
    temporal_contrast,
)
from polycontrast_timeseries.autotcl.encoder import CoSTEncoder, pooled
from polycontrast_timeseries.ridge import fit_ridge, samples


@rule("autotcl", "encoder")
def encoder(case: Case) -> None:
    x = case.tensor("x")
    case.same("conv_kernel", 3)
    case.same("activation", "gelu")
    weight = case.tensor("param__input_fc__weight")
    kernels = [int(k) for k in case.tensor("kernels")]
    network = CoSTEncoder(
        weight.shape[1], case.array("tcn").shape[-1], hidden=weight.shape[0], depth=case.integer("depth"),
        kernels=kernels,
    ).to(x.dtype)  # fmt: skip
    state = {}
    for name in case.names("param__"):
        part, value = name.removeprefix("param__").split("__"), case.tensor(name)
        if part[0] == "input_fc":
            state[f"input.{part[1]}"] = value
        elif part[0] == "tfd":
            kind, at = part[2], part[1]
            # Ours are (taps, in, out).
            state[f"head.{'weights' if kind == 'weight' else 'biases'}.{at}"] = (
                value.permute(2, 1, 0) if kind == "weight" else value
            )
        else:
            state[".".join(["blocks", *part[2:]]).replace(".conv.", ".").replace("projector", "project")] = value
    network.load_state_dict(state)
    case.close("tcn", network.trunk(x))
    case.close("trend", network(x))
    last = torch.from_numpy(case.array("trend")[:, -1].copy())
    torch.testing.assert_close(network.last(x), last, rtol=1e-9, atol=1e-9)


@rule("autotcl", "augmentation")
def augmentation(case: Case) -> None:
    x, noise, features = (case.tensor(name) for name in ("x", "u", "embedding"))
    channels, dim = case.array("h_weight").shape
    augmenter = Augmenter(channels, hidden=4, depth=0, dim=dim, kernels=()).to(x.dtype)
    augmenter.keep.load_state_dict({"weight": case.tensor("h_weight"), "bias": case.tensor("h_bias")})
    augmenter.scale.load_state_dict({"weight": case.tensor("g_weight"), "bias": case.tensor("g_bias")})
    factors = augmenter.factors(features)
    case.close("h_prob", factors.keep)
    case.close("g_scale", factors.scale)

    how = {
        "bias": case.number("gumbel_bias"), "gamma": case.number("gamma"), "zeta": case.number("zeta"),
        "temperature": case.number("temperature"), "threshold": case.number("mask_threshold"),
    }  # fmt: skip

    def mask(u: Tensor | None, *, hard: bool) -> Tensor:
        return gate(factors.keep, u, hard=hard, **how)  # the code's gate takes the probability

    case.close("mask_soft", mask(noise, hard=False))
    case.close("mask_hard", mask(noise, hard=True))
    case.close("mask_deterministic", mask(None, hard=False))
    view = factors.scale * mask(noise, hard=str(case.array("mode")) == "hard") * x
    case.close("x_aug", view)
    (view * torch.linspace(-1, 1, view.numel(), dtype=x.dtype).view_as(view)).sum().backward()
    case.close("grad_h_weight", augmenter.keep.weight.grad)  # type: ignore[arg-type]
    case.close("grad_g_weight", augmenter.scale.weight.grad)  # type: ignore[arg-type]
    case.close("h_penalty", over_budget(factors.keep, case.number("threshold")))
    case.same("mmd_pooling", "max")
    case.close("mmd", _mmd(case, case.tensor("emb_x"), case.tensor("emb_aug")))


def _mmd(case: Case, x: Tensor, y: Tensor) -> Tensor:
    factors = case.tensor("mmd_bandwidth_multipliers")
    count = case.integer("mmd_kernel_count")
    assert len(factors) == count
    ratio = float(factors[1] / factors[0])
    # Ours are centred on the mean squared distance.
    case.close("mmd_bandwidth_multipliers", [ratio ** (i - count // 2) for i in range(count)])
    return mmd(pooled(x), pooled(y), kernels=count, factor=ratio)


@rule("autotcl", "consistency")
def time_consistency(case: Case) -> None:
    weight, anchor, other = (case.tensor(name) for name in ("weight", "anchor", "other"))
    case.close("value", consistency(weight, anchor, other, rule="code", gap=case.integer("gap_threshold")))


@rule("autotcl", "losses")
def contrasts(case: Case) -> None:
    z1, z2 = case.tensor("z1").requires_grad_(), case.tensor("z2").requires_grad_()
    case.same("pooling", "max")
    case.same("mmd_pooling", "max")
    for name in ("info_nce", "info_nce_t0p2"):
        value = infonce(pooled(z1), pooled(z2), symmetric=False, temperature=case.number(f"{name}_temperature"))
        case.close(name, value)
        if name == "info_nce":
            case.close("grad_info_nce_z1", torch.autograd.grad(value, z1)[0])

    start = case.tensor("local_start").view(1)
    how = {"segments": case.integer("local_k"), "temperature": case.number("local_temperature")}
    case.close("local_per_sample", local_contrast(z1, start, **how))  # type: ignore[arg-type]
    case.close("local_first_sample_only", local_contrast(z1[:1], start, **how)[0])  # type: ignore[arg-type]
    second = local_contrast(
        case.tensor("local2_z")[:1], case.tensor("local2_start").view(1), segments=case.integer("local2_k"),
        temperature=case.number("local2_temperature"),
    )  # fmt: skip
    case.close("local2_first_sample_only", second[0])

    value = _mmd(case, z1, z2)
    case.close("mmd", value)
    case.close("grad_mmd_z2", torch.autograd.grad(value, z2)[0])

    case.close("instance", instance_contrast(z1, z2, temperature=case.number("instance_temperature")))
    case.close("temporal", temporal_contrast(z1, z2, temperature=case.number("temporal_temperature")))
    hierarchical = hierarchical_contrast(
        z1, z2, alpha=case.number("hierarchical_alpha"), temporal_from=case.integer("hierarchical_temporal_unit"),
        pool=case.integer("hierarchical_pool"),
    )  # fmt: skip
    case.close("hierarchical", hierarchical)
    bound = l1out_bound(
        pooled(z1), pooled(z2), temperature=case.number("l1out_temperature"),
        positive_eps=case.number("l1out_positive_eps"), negative_eps=case.number("l1out_negative_eps"),
    )  # fmt: skip
    case.close("l1out", bound)


@rule("autotcl", "probe_samples")
def probe_samples(case: Case) -> None:
    features, data = case.tensor("features")[0], case.tensor("data")[0]
    horizon, drop = case.integer("horizon"), case.integer("drop")
    x, y = samples(features, data, horizon, drop=drop)
    case.same("x", x)
    case.same("y", y.flatten(1))
    last = data[drop : len(data) - horizon]  # persistence: the value at the step itself
    case.same("baseline", last.repeat_interleave(horizon, 1) if data.shape[1] == 1 else last.repeat(1, horizon))


@rule("autotcl", "ridge_probe")
def ridge_probe(case: Case) -> None:
    x_train, y_train, x_val, y_val = (case.tensor(name) for name in ("x_train", "y_train", "x_valid", "y_valid"))
    case.same("selection", "rmse_plus_mae")
    head = fit_ridge(
        (x_train, y_train.unsqueeze(1)), (x_val, y_val.unsqueeze(1)), alphas=case.tensor("alphas").tolist()
    )
    case.close("alpha", head.alpha)
    case.close("pred_test", head.predict(case.tensor("x_test"))[:, 0])
