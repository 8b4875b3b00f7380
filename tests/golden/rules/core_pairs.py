"""Rules of the losses over pairs, softmax and sigmoid; the README beside the files says what each holds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from golden.rules import Case, rule
from golden.rules.core_other import compare, leaf, pair, unit, walks
from polycontrast.losses import Guide, dcl, dclw, infonce, infonce_debiased, infonce_soft, moco, ntxent, siglip, supcon

_ROLES = ("query", "positive", "negative")


def text(case: Case, name: str) -> str:
    return str(case.array(name))


def _leaves(case: Case, *names: str) -> dict[str, Tensor]:
    return {name: leaf(case, name) for name in names}


@rule("core", "infonce_symmetric")
def infonce_symmetric(case: Case) -> None:
    case.same("directions", "both")
    normalize = unit(case, "bias" not in case)
    if "bias" in case:
        case.skip("bias", reason="a constant added to all logits cancels; ours has none")
        case.close("grad_bias", 0.0, tolerance=1e-12)
    for walk in walks():
        leaves = _leaves(case, "x", "y", "log_scale" if "log_scale" in case else "scale")
        x, y, s = leaves.values()
        s = s.exp() if "log_scale" in case else s
        compare(case, infonce(x, y, scale=s, normalize=normalize, **walk), **leaves)


@rule("core", "infonce_oneway_interleaved")
def infonce_interleaved(case: Case) -> None:
    case.same("directions", "query_to_doc")
    leaves = _leaves(case, "x", "y")
    assert len(leaves["y"]) == len(leaves["x"]) * (1 + case.integer("n_hard_negatives"))
    options: dict[str, Any] = {"normalize": unit(case, False), "symmetric": False, "layout": "interleaved"}
    for walk in walks():
        leaves = _leaves(case, "x", "y")
        compare(case, infonce(*leaves.values(), scale=case.number("scale"), **options, **walk), **leaves)


@rule("core", "mnrl")
def mnrl(case: Case) -> None:
    case.same("similarity", "cosine")
    on = {"none": "none", "all_negatives": "all", "in_batch_negatives": "in_batch", "hard_negatives": "hard"}
    options: dict[str, Any] = {
        "scale": case.number("scale"), "directions": text(case, "directions").split(","),
        "partition": text(case, "partition_mode"), "hardness": case.number("hardness_strength"),
        "hardness_on": on[text(case, "hardness_mode")], "normalize": unit(case),
    }  # fmt: skip
    for walk in walks():
        leaves = _leaves(case, *_ROLES)
        query, positive, negative = leaves.values()
        compare(case, infonce(query, positive, negatives=negative, **options, **walk), **leaves)
        compare(case, infonce(query, torch.cat([positive, negative]), **options, **walk), **leaves)


@rule("core", "gist")
def gist(case: Case) -> None:
    case.same("similarity", "cosine")
    directions = ["query_to_doc"]
    directions += ["query_to_query"] if bool(case.array("contrast_anchors")) else []
    directions += ["positive_to_positive"] if bool(case.array("contrast_positives")) else []
    guide = Guide(
        *(case.tensor(f"guide_{role}") for role in _ROLES),
        margin=case.number("margin"),
        strategy=text(case, "margin_strategy"),
    )
    options: dict[str, Any] = {
        "temperature": case.number("temperature"),
        "normalize": unit(case),
        "directions": directions,
    }
    for walk in walks():
        leaves = _leaves(case, *_ROLES)
        query, positive, negative = leaves.values()
        compare(case, infonce(query, positive, negatives=negative, filters=[guide], **options, **walk), **leaves)


@rule("core", "ntxent")
def ntxent_rule(case: Case) -> None:
    for walk in walks():
        pair(case, ntxent, temperature=case.number("temperature"), normalize=unit(case), **walk)


@rule("core", "dcl")
def dcl_rule(case: Case) -> None:
    for walk in walks():
        pair(case, dcl, temperature=case.number("temperature"), normalize=unit(case), **walk)


@rule("core", "dclw")
def dclw_rule(case: Case) -> None:
    for walk in walks():
        pair(
            case, dclw, temperature=case.number("temperature"), sigma=case.number("sigma"), normalize=unit(case), **walk
        )


@rule("core", "hcl")
def hcl(case: Case) -> None:
    easy = text(case, "estimator") == "easy"
    tau_plus, beta = case.number("tau_plus"), case.number("beta")
    assert not easy or (tau_plus, beta) == (0, 0)
    options: dict[str, Any] = {"temperature": case.number("temperature"), "normalize": unit(case)}
    for walk in walks():
        pair(case, infonce_debiased, tau_plus=tau_plus, beta=beta, **options, **walk)
        if easy:
            pair(case, ntxent, **options, **walk)


@rule("core", "supcon")
def supcon_rule(case: Case) -> None:
    name = "features" if "features" in case else "z"
    options: dict[str, Any] = {"temperature": case.number("temperature"), "normalize": unit(case)}
    options["average"] = {"outside_log": "out", "inside_log": "in"}[text(case, "positives")]
    options["empty"] = {"all_anchors": "zero", "anchors_with_positive": "skip"}[text(case, "mean_over")]
    if "base_temperature" in case:
        options["base_temperature"] = case.number("base_temperature")
    if "contrast_mode" in case:
        options["anchors"] = {"all": "all", "one": "first_view"}[text(case, "contrast_mode")]
    options.update({"positives": case.tensor("mask")} if "mask" in case else {"labels": case.tensor("labels")})
    for walk in walks():
        x = leaf(case, name)
        compare(case, supcon(x, **options, **walk), **{name: x})


@rule("core", "ntxent_pml_per_positive")
def per_positive(case: Case) -> None:
    case.same("mean_over", "positive_pairs")
    case.same("positives", "one_at_a_time")
    options: dict[str, Any] = {
        "temperature": case.number("temperature"),
        "normalize": unit(case),
        "average": "per_positive",
    }
    for walk in walks():
        z = leaf(case, "z")
        compare(case, supcon(z, case.tensor("labels"), **options, **walk), z=z)


@rule("core", "siglip")
def siglip_rule(case: Case) -> None:
    case.same("reduction", "sum_over_pairs_divided_by_rows")
    normalize = unit(case)
    for walk in walks():
        leaves = _leaves(case, "x", "y", "log_scale", "bias")
        x, y, log_scale, bias = leaves.values()
        compare(case, siglip(x, y, scale=log_scale.exp(), bias=bias, normalize=normalize, **walk), **leaves)


@rule("core", "soft_target_infonce")
def soft_targets(case: Case) -> None:
    case.same("directions", "both")
    case.same("reduction", "mean_of_directions")
    normalize = unit(case)
    logits = case.number("teacher_scale") * (
        torch.nn.functional.normalize(case.tensor("teacher_x"))
        @ torch.nn.functional.normalize(case.tensor("teacher_y")).T
    )
    scale = case.number("student_scale")
    for walk in walks():
        leaves = _leaves(case, "x", "y")
        x, y = leaves.values()
        case.close("contrastive_loss", infonce(x, y, scale=scale, normalize=normalize, **walk))
        loss = infonce_soft(x, y, logits.softmax(1), logits.T.softmax(1), scale=scale, normalize=normalize, **walk)
        compare(case, loss, **leaves)


@rule("core", "mixup_infonce")
def mixup(case: Case) -> None:
    case.same("target_rule", "assign_partner_over_own")
    perm, betas, here = case.tensor("perm"), case.tensor("betas"), torch.arange(len(case.array("perm")))
    assert (betas[~case.tensor("select").bool()] == 1).all()
    targets = torch.diag(betas)
    targets[here, perm] = 1 - betas
    back = targets.T if bool(case.array("bidirectional")) else None
    options: dict[str, Any] = {
        "temperature": case.number("temperature"),
        "normalize": unit(case),
        "normalize_targets": False,
    }
    sparse = torch.stack([here, perm], 1), torch.stack([torch.where(perm == here, 0.0, betas), 1 - betas], 1)
    for walk in walks():
        leaves = _leaves(case, "x", "y")
        x, y = leaves.values()
        compare(case, infonce_soft(x, y, targets, back, **options, **walk), **leaves)
        compare(case, infonce_soft(x, y, sparse, back, **options, **walk), **leaves)


@rule("core", "moco_loss_solo")
def moco_rule(case: Case) -> None:
    normalize = unit(case)
    case.same("stored_unit_rows", ["queue"])
    for walk in walks():
        q = leaf(case, "q")
        loss = moco(
            q,
            case.tensor("k"),
            case.tensor("queue").T,
            temperature=case.number("temperature"),
            normalize=normalize,
            **walk,
        )
        compare(case, loss, q=q)


@rule("core", "edge")
def edge(case: Case) -> None:
    case.same("directions", "both")
    normalize = unit(case)
    for walk in walks():
        leaves = _leaves(case, "x", "y")
        x, y = leaves.values()
        loss = infonce(x, y, scale=case.number("scale"), normalize=normalize, **walk)
        assert isinstance(loss, Tensor)
        case.close("loss", loss, tolerance=1e-5)
        for name, gradient in zip(leaves, torch.autograd.grad(loss, (x, y)), strict=True):
            expected = case.tensor(f"grad_{name}")
            zero = leaves[name].norm(dim=1) == 0
            assert (gradient[zero] == 0).all()  # the peer has 1e12 there
            expected[zero] = 0
            size = max(float(expected.abs().max()), 1e-3)
            torch.testing.assert_close(
                gradient, expected, rtol=0, atol=1e-4 * min(size, 1) * (100 if math.isinf(size) else 1)
            )
