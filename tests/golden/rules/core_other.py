"""Rules of the losses beside the softmax family and of what is remembered; see the README beside the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from golden.rules import Case, rule
from polycontrast import schedules
from polycontrast.losses.prediction import byol, dino, moved_centre, nnclr, simsiam, sinkhorn, swav
from polycontrast.losses.regression import rnc
from polycontrast.losses.statistics import align_uniform, barlow, vicreg
from polycontrast.losses.triplet import mine, triplet
from polycontrast.losses.vse import vse
from polycontrast.memory import EmaTeacher, FeatureQueue

UNIT = ("normalised_inside", "normalised_before_call", "normalise_eps")


def walks() -> Iterator[dict[str, Any]]:
    """Every mode and tile in which a loss with an N x N must give the same."""
    yield {"mode": "auto"}
    yield {"mode": "plain"}
    for mode in ("stored", "tiled"):
        yield from ({"mode": mode, "tile": tile} for tile in (1, 3, 7, 64))


def tolerances(tensor: Tensor) -> tuple[float, float]:
    """Of the loss, and of gradients relative to their largest entry."""
    return (1e-5, 1e-4) if tensor.dtype == torch.float32 else (1e-9, 1e-9)


def leaf(case: Case, name: str) -> Tensor:
    return case.tensor(name).requires_grad_()


def compare(case: Case, loss: Tensor, loss_name: str = "loss", **leaves: Tensor) -> None:
    """The loss, and the gradients of all inputs the file has one for."""
    first = next(iter(leaves.values()))
    for_loss, for_gradient = tolerances(first)
    case.close(loss_name, loss, tolerance=for_loss)
    gradients = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    for (name, tensor), gradient in zip(leaves.items(), gradients, strict=True):
        got = torch.zeros_like(tensor) if gradient is None else gradient
        largest = max(float(abs(case.array(f"grad_{name}")).max()), 1e-3)
        case.close(f"grad_{name}", got, tolerance=for_gradient * min(largest, 1.0))


def unit(case: Case, expected: bool = True) -> bool:
    """Whether the formula works on unit rows, which the rule passes on as ``normalize``."""
    inside, before = (bool(case.array(name)) for name in UNIT[:2])
    if UNIT[2] in case:
        case.skip(UNIT[2], reason="a floor of the norm that no row of the file reaches")
    assert (inside or before) == expected
    return inside or before


def pair(case: Case, loss: Callable[..., Any], **options: Any) -> None:
    """A loss of ``x`` and ``y`` with the file's gradients."""
    leaves = {"x": leaf(case, "x"), "y": leaf(case, "y")}
    compare(case, loss(*leaves.values(), **options), **leaves)


@rule("core", "align_uniform")
def align_uniform_rule(case: Case) -> None:
    options = {"t": case.number("t"), "alpha": case.number("alpha"), "lam": case.number("lam"), "normalize": unit(case)}
    for walk in walks():
        pair(case, align_uniform, **options, **walk)


@rule("core", "barlow")
def barlow_rule(case: Case) -> None:
    assert bool(case.array("columns_standardised_inside"))
    pair(
        case, barlow, off_diagonal=case.number("off_diagonal_coefficient"), loss_scale=case.number("loss_scale"),
        eps=case.number("eps"), unbiased=bool(case.integer("variance_correction")), normalize=unit(case, False),
    )  # fmt: skip


@rule("core", "vicreg")
def vicreg_rule(case: Case) -> None:
    case.same("variance_correction", 1)
    case.same("covariance_correction", 1)
    average = {"mean_of_views": "mean", "sum_of_views": "sum"}[str(case.array("variance_average"))]
    pair(
        case, vicreg, invariance=case.number("invariance_coefficient"), variance=case.number("variance_coefficient"),
        covariance=case.number("covariance_coefficient"), eps=case.number("eps"), target=case.number("std_target"),
        variance_average=average, normalize=unit(case, False),
    )  # fmt: skip


@rule("core", "byol")
def byol_rule(case: Case) -> None:
    case.same("stop_gradient", "y")
    case.same("offset", 2.0)
    case.same("cosine_factor", -2.0)
    pair(case, byol, normalize=unit(case))


@rule("core", "simsiam")
def simsiam_rule(case: Case) -> None:
    case.same("stop_gradient", "y")
    case.same("offset", 0.0)
    case.same("cosine_factor", -1.0)
    pair(case, simsiam, normalize=unit(case))


@rule("core", "nnclr")
def nnclr_rule(case: Case) -> None:
    case.same("directions", "x_to_y")
    for walk in walks():
        pair(case, nnclr, temperature=case.number("temperature"), normalize=unit(case), **walk)


@rule("core", "swav")
def swav_rule(case: Case) -> None:
    unit(case, False)
    high = {f"hi{i}": leaf(case, f"hi{i}") for i in range(case.integer("n_high"))}
    low = {f"lo{i}": leaf(case, f"lo{i}") for i in range(case.integer("n_low"))}
    codes = {"epsilon": case.number("epsilon"), "iterations": case.integer("iterations")}
    loss = swav(list(high.values()), list(low.values()), temperature=case.number("temperature"), **codes)
    assert isinstance(loss, Tensor)
    compare(case, loss.reshape(1), **high, **low)
    for name, scores in high.items():
        case.close(f"sinkhorn_{name}", sinkhorn(scores, **codes))  # type: ignore[arg-type]


@rule("core", "dino")
def dino_rule(case: Case) -> None:
    unit(case, False)
    warm, final = case.number("warmup_teacher_temperature"), case.number("final_teacher_temperature")
    epochs = case.integer("warmup_epochs")
    temperature = schedules.linear(warm, final, case.integer("epoch"), epochs - 1)
    case.close("teacher_temp", temperature)
    assert epochs <= case.integer("n_epochs")
    student, teacher, crops = leaf(case, "student"), case.tensor("teacher"), case.integer("n_large_crops")
    centre = case.tensor("center_before")
    loss = dino(
        student.chunk(crops), teacher.chunk(crops), centre=centre, teacher_temperature=temperature,
        student_temperature=case.number("student_temperature"),
    )  # fmt: skip
    assert isinstance(loss, Tensor)
    compare(case, loss, student=student)
    case.close("center_after", moved_centre(centre, teacher, momentum=case.number("center_momentum")))


@rule("core", "rnc")
def rnc_rule(case: Case) -> None:
    case.same("label_distance", "l1")
    case.same("feature_similarity", "negative_l2")
    features, labels = leaf(case, "features"), case.tensor("labels")
    options = {"labels": labels, "temperature": case.integer("temperature"), "normalize": unit(case, False)}
    for walk in walks():
        loss = rnc(features[:, 0], features[:, 1], **options, **walk)  # type: ignore[arg-type]
        assert isinstance(loss, Tensor)
        compare(case, loss, features=features)


@rule("core", "triplet")
def triplet_rule(case: Case) -> None:
    case.same("swap", False)
    assert str(case.array("reduction")) == "mean_over_nonzero"
    assert not bool(case.array("squared"))
    miner, z, labels = str(case.array("miner")), leaf(case, "z"), case.tensor("labels")
    options: dict[str, Any] = {
        "miner": miner, "margin": case.number("margin"), "distance": str(case.array("distance")),
        "normalize": unit(case),
    }  # fmt: skip
    if "miner_margin" in case:
        options["miner_margin"] = case.number("miner_margin")
    for walk in walks():
        loss = triplet(z, labels=labels, reduction="mean_nonzero", **options, **walk)
        assert isinstance(loss, Tensor)
        compare(case, loss, z=z)
    if "anchors" in case:
        margin = options.pop("miner_margin", options["margin"])
        found = mine(z, labels, **{**options, "margin": margin})
        for name, indices in zip(("anchors", "positives", "negatives"), found, strict=True):
            case.same(name, indices)
        again = triplet(z, labels=labels, triplets=found, margin=case.number("margin"))
        assert isinstance(again, Tensor)
        compare(case, again, z=z)


@rule("core", "vse")
def vse_rule(case: Case) -> None:
    case.same("directions", "both")
    negatives = "hardest" if bool(case.array("max_violation")) else "sum"
    options = {"margin": case.number("margin"), "reduction": str(case.array("reduction")), "normalize": unit(case)}
    for walk in walks():
        pair(case, vse, negatives=negatives, **options, **walk)


@rule("core", "ema_cosine")
def ema_cosine_rule(case: Case) -> None:
    unit(case, False)
    start, end, steps = case.number("start"), case.number("end"), case.integer("steps")
    online = nn.Linear(3, 2).double()
    with torch.no_grad():
        online.weight.copy_(case.tensor("w0"))
        online.bias.copy_(case.tensor("b0"))
    teacher = EmaTeacher(online, schedules.Schedule("cosine", start, end, steps=steps))
    for k in range(1, 1 + len(case.names("tau_used"))):
        with torch.no_grad():
            online.weight.copy_(case.tensor(f"online_w{k}"))
        case.close(f"tau_used{k}", teacher.update(online))
        case.close(f"ema_w{k}", teacher.model.weight)  # type: ignore[arg-type]


@rule("core", "moco_queue_sequence_lightly")
def moco_queue_rule(case: Case) -> None:
    """The bank of each step is loaded from the file, so that losses compare beyond the wrap that lightly gets wrong."""
    from polycontrast.losses import moco

    case.same("enqueue", "after_loss")
    case.same("stored_unit_rows", ["bank_0"])
    assert bool(case.array("drops_overflow"))
    size, comparable, normalize = case.integer("bank_size"), case.integer("last_comparable_bank"), unit(case)
    ours = FeatureQueue(size, case.array("bank_0").shape[1], dtype=torch.float64)
    ours.enqueue(case.tensor("bank_0"))
    for k in range(case.integer("n_steps") + 1):
        bank = case.tensor(f"bank_{k}")
        if k <= comparable:
            case.close(f"bank_{k}", ours.features)
            case.same(f"ptr_{k}", ours.pointer.reshape(1))
        else:
            case.skip(f"bank_{k}", reason="lightly has dropped the rows that overflow")
            case.skip(f"ptr_{k}", reason="lightly has reset the pointer")
        if f"x_{k}" not in case:
            continue
        queue = FeatureQueue(size, bank.shape[1], dtype=torch.float64)
        queue.enqueue(bank)
        x, key = leaf(case, f"x_{k}"), case.tensor(f"key_{k}")
        assert len(x) == case.integer("rows_per_step")
        loss = moco(x, key, queue=queue.features, temperature=case.number("temperature"), normalize=normalize)
        assert isinstance(loss, Tensor)
        compare(case, loss, f"loss_{k}", **{f"x_{k}": x})
        ours.enqueue(nn.functional.normalize(key))
