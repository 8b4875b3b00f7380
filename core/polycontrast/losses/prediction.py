"""Losses without negatives: one branch predicts the other, its cluster, or its neighbour.

Predictors, projectors and prototypes belong to the model; the loss sees what they put out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polycontrast.losses.common import (
    Distributed,
    LogitsConfig,
    LogitsDtype,
    Loss,
    LossConfig,
    LossOutput,
    Mode,
    Peers,
    Reduction,
    Tile,
    check_finite_rows,
    check_rows,
    finish,
    full_precision,
    reduce_anchors,
    unit_rows,
    upcast,
)
from polycontrast.losses.infonce import infonce
from polycontrast.losses.rowwise import count_rows_everywhere, nearest, total

Crops = Tensor | Sequence[Tensor]
Facts = dict[str, Tensor | float | None]


# ---- BYOL and SimSiam --------------------------------------------------------------------------------------------


@full_precision
def byol(
    p_x: Tensor,
    z_y: Tensor,
    p_y: Tensor | None = None,
    z_x: Tensor | None = None,
    *,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``mean_i (2 - 2 cos(p_i, stopgrad z_i))``; two assignments are **summed** (Grill et al., 2020).

    Args:
        p_x: predictions from view x, ``(N, d)``.
        z_y: what the teacher makes of view y, ``(N, d)``; gets no gradient.
        p_y: predictions from view y.
        z_x: what the teacher makes of view x.
        normalize: False takes the squared distance of the rows as they are.
        weights: per sample.
        reduction: over samples.
        return_dict: with terms ``x_to_y`` and ``y_to_x`` and diagnostics.
        check_finite: raise at NaN or infinity.
        distributed: the mean is over the samples of all processes.
    """
    values, cosines = _predicted(p_x, z_y, p_y, z_x, normalize, check_finite, squared=True)
    return _assignments(values, cosines, False, (p_x, z_y), weights, reduction, return_dict, distributed)


@full_precision
def simsiam(
    p_x: Tensor,
    z_y: Tensor,
    p_y: Tensor | None = None,
    z_x: Tensor | None = None,
    *,
    normalize: bool = True,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    distributed: Distributed = "auto",
) -> LossOutput:
    """``mean_i -cos(p_i, stopgrad z_i)``; two assignments are **averaged** (Chen and He, 2021).

    Arguments as :func:`byol`; ``z`` comes from the same network, and ``normalize=False`` is minus the inner product.
    """
    values, cosines = _predicted(p_x, z_y, p_y, z_x, normalize, check_finite, squared=False)
    return _assignments(values, cosines, True, (p_x, z_y), weights, reduction, return_dict, distributed)


def _predicted(
    p_x: Tensor,
    z_y: Tensor,
    p_y: Tensor | None,
    z_x: Tensor | None,
    normalize: bool,
    check_finite: bool,
    *,
    squared: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    if (p_y is None) != (z_x is None):
        raise ValueError("give both p_y and z_x for the second assignment, or neither")
    if check_finite:
        check_finite_rows(p_x=p_x, z_y=z_y, p_y=p_y, z_x=z_x)
    values, cosines = [], []
    for p, z in ((p_x, z_y), (p_y, z_x)):
        if p is None or z is None:
            continue
        check_rows("predictions", p)
        check_rows("targets", z, width=p.shape[1], rows=p.shape[0])
        u, v = unit_rows(p, normalize, differentiable_twice=True), unit_rows(z.detach(), normalize)
        cosine = torch.linalg.vecdot(u, v)
        if not squared:
            values.append(-cosine)
        else:
            values.append(2.0 - 2.0 * cosine if normalize else (u - v).square().sum(1))
        cosines.append(cosine.detach())
    return values, cosines


def _assignments(
    values: list[Tensor],
    cosines: list[Tensor],
    average: bool,
    rows: tuple[Tensor, ...],
    weights: Tensor | None,
    reduction: Reduction,
    return_dict: bool,
    distributed: Distributed,
) -> LossOutput:
    terms = [reduce_anchors(value, reduction, weights=weights, distributed=distributed) for value in values]
    joint = torch.stack(terms).mean(0) if average else torch.stack(terms).sum(0)
    if not return_dict:
        return joint
    named = dict(zip(("x_to_y", "y_to_x"), terms, strict=False))
    facts: Facts = {"positive_similarity": torch.stack(cosines).mean(), "n_anchors": len(rows[0])}
    return finish(joint, True, rows=rows, terms=named, diagnostics=facts)


# ---- SwAV --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3, distributed: Distributed = False) -> Tensor:
    """Codes: ``exp(scores / epsilon)`` scaled until prototypes share the samples evenly (Caron et al., 2020).

    In log space: the usual form overflows for scores of unit variance at ``epsilon <= 0.02``. Each iteration gives
    every prototype the mass 1/K, then every sample 1/B; in the end every sample has 1.

    Args:
        scores: ``(B, K)``, samples by prototypes.
        epsilon: entropy.
        iterations: how often.
        distributed: prototypes share the samples of all processes.

    Returns:
        ``(B, K)``, rows sum to 1; float32 or float64; without gradient.
    """
    log_q = upcast(scores) / epsilon
    prototypes, samples = log_q.shape[1], count_rows_everywhere(log_q, distributed)
    for _ in range(iterations):
        log_q = log_q - _logsumexp_of_columns(log_q, distributed) - math.log(prototypes)
        log_q = log_q - log_q.logsumexp(1, keepdim=True) - math.log(max(samples, 1))
    if not iterations:
        return log_q.softmax(1)
    return (log_q + math.log(max(samples, 1))).exp()


def _logsumexp_of_columns(x: Tensor, distributed: Distributed) -> Tensor:
    peers = Peers(distributed)
    if peers.size == 1:
        return x.logsumexp(0)
    local = x.logsumexp(0) if len(x) else torch.full_like(x.sum(0), -torch.inf)
    return peers.facts(local.unsqueeze(0)).logsumexp(0)


@full_precision
def swav(
    high: Crops,
    low: Crops = (),
    *,
    queue: Sequence[Tensor] | None = None,
    temperature: float | Tensor = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    distributed: Distributed = "auto",
) -> LossOutput:
    """Every crop predicts the codes of every high-resolution crop but its own.

    ``1/H sum_h 1/(C-1) sum_{c != h} CE(sinkhorn(s_h), softmax(s_c / temperature))`` for H high-resolution crops of C.

    Args:
        high: scores of the high-resolution crops to the prototypes, ``(B, K)`` each; prototypes and features are unit
            rows, which the model sees to.
        low: scores of the other crops.
        queue: scores of earlier samples, one tensor ``(Q, K)`` per high-resolution crop, that fill up the codes'
            samples when the batch is small.
        temperature: of the predictions.
        epsilon: see :func:`sinkhorn`.
        iterations: see :func:`sinkhorn`.
        weights: per sample.
        reduction: over samples.
        return_dict: with diagnostics; accuracy is how often the most likely prototype is that of the code.
        check_finite: raise at NaN or infinity.
        distributed: codes share the samples of all processes. A queue must then be one per process.
    """
    high, low = _crops(high), _crops(low)
    if not high or len(high) + len(low) < 2:
        raise ValueError(f"swav needs a high-resolution crop and another one, got {len(high)} high and {len(low)} low")
    if queue is not None and len(queue) != len(high):
        raise ValueError(f"swav needs one queue of scores per high-resolution crop ({len(high)}), got {len(queue)}")
    crops = [*high, *low]
    for crop in crops:
        check_rows("scores", crop, width=high[0].shape[1], rows=high[0].shape[0])
    if check_finite:
        check_finite_rows(**{f"crop_{i}": crop for i, crop in enumerate(crops)})
    log_p = [(upcast(crop) / temperature).log_softmax(1) for crop in crops]
    value, hits = torch.zeros_like(log_p[0][:, 0]), torch.zeros_like(log_p[0][:, 0])
    for h, scores in enumerate(high):
        pool = upcast(scores.detach())
        if queue is not None:
            pool = torch.cat([queue[h].detach().to(pool), pool])
        codes = sinkhorn(pool, epsilon=epsilon, iterations=iterations, distributed=distributed)
        codes = codes[len(pool) - len(scores) :]
        for c, prediction in enumerate(log_p):
            if c != h:
                value = value - (codes * prediction).sum(1)
                hits = hits + (codes.argmax(1) == prediction.argmax(1))
    pairs = len(high) * (len(crops) - 1)
    loss = reduce_anchors(value / pairs, reduction, weights=weights, distributed=distributed)
    if not return_dict:
        return loss
    facts: Facts = {"accuracy": hits.mean() / pairs, "n_anchors": len(high[0])}
    return finish(loss, True, rows=tuple(crops), diagnostics=facts)


def _crops(crops: Crops) -> list[Tensor]:
    return [crops] if isinstance(crops, Tensor) else list(crops)


# ---- DINO --------------------------------------------------------------------------------------------------------


@full_precision
def dino(
    student: Crops,
    teacher: Crops,
    *,
    centre: Tensor | None = None,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    distributed: Distributed = "auto",
) -> LossOutput:
    """Mean over pairs of different crops of ``CE(softmax((t - centre)/T_t), softmax(s/T_s))`` (Caron et al., 2021).

    Args:
        student: outputs by crop, ``(B, K)`` each, those of the teacher's crops first.
        teacher: outputs of the large crops; without gradient.
        centre: ``(K,)`` or ``(1, K)``, see :func:`moved_centre`; None is zero.
        student_temperature: ``T_s``.
        teacher_temperature: ``T_t``, usually warmed up.
        weights: per sample.
        reduction: over samples.
        return_dict: with diagnostics, among them ``teacher_entropy`` (0: one output rules; log K: all alike).
        check_finite: raise at NaN or infinity.
        distributed: the mean is over the samples of all processes.
    """
    student, teacher = _crops(student), _crops(teacher)
    if not teacher or len(student) < 2 or len(student) < len(teacher):
        raise ValueError(
            "dino needs a teacher's crop and at least as many of the student, two or more; "
            f"got {len(teacher)}, {len(student)}"
        )
    for name, crops in (("student", student), ("teacher", teacher)):
        for crop in crops:
            check_rows(name, crop, width=student[0].shape[1], rows=student[0].shape[0])
    if check_finite:
        named = {"student": student, "teacher": teacher}
        check_finite_rows(**{f"{name}_{i}": crop for name, crops in named.items() for i, crop in enumerate(crops)})
    log_p = [(upcast(crop) / student_temperature).log_softmax(1) for crop in student]
    value = torch.zeros_like(log_p[0][:, 0])
    entropy = torch.zeros_like(value)
    for t, crop in enumerate(teacher):
        output = upcast(crop.detach())
        logits = (output if centre is None else output - centre.detach().to(output)) / teacher_temperature
        target = logits.softmax(1)
        entropy = entropy - (target * logits.log_softmax(1)).sum(1) / len(teacher)
        for s, prediction in enumerate(log_p):
            if s != t:
                value = value - (target * prediction).sum(1)
    pairs = len(teacher) * (len(student) - 1)
    loss = reduce_anchors(value / pairs, reduction, weights=weights, distributed=distributed)
    if not return_dict:
        return loss
    facts: Facts = {"teacher_entropy": entropy.mean(), "n_anchors": len(value)}
    return finish(loss, True, rows=(*student, *teacher), diagnostics=facts)


@torch.no_grad()
def moved_centre(centre: Tensor, teacher: Crops, *, momentum: float = 0.9, distributed: Distributed = "auto") -> Tensor:
    """``momentum centre + (1 - momentum) mean(teacher)``, over all crops and processes; call it after the loss."""
    rows = torch.cat([upcast(crop) for crop in _crops(teacher)])
    n = count_rows_everywhere(rows, distributed)
    mean = total(rows.sum(0), distributed) / max(n, 1)
    return torch.lerp(mean, upcast(centre).to(mean), momentum).view_as(centre) if n else centre


# ---- NNCLR -------------------------------------------------------------------------------------------------------


@full_precision
def nnclr(
    x: Tensor,
    y: Tensor,
    *,
    queue: Tensor | None = None,
    temperature: float | Tensor | None = 0.1,
    scale: float | Tensor | nn.Module | None = None,
    weights: Tensor | None = None,
    normalize: bool = True,
    reduction: Reduction = "mean",
    return_dict: bool = False,
    check_finite: bool = False,
    mode: Mode = "auto",
    tile: Tile = None,
    logits_dtype: LogitsDtype = None,
    distributed: Distributed = "auto",
) -> LossOutput:
    """One-way InfoNCE from the nearest neighbours of ``x`` to the predictions ``y`` (Dwibedi et al., 2021).

    One direction; the method averages ``nnclr(z_1, p_2)`` and ``nnclr(z_2, p_1)``.

    Args:
        x: projections, ``(N, d)``, which ``queue`` replaces by their neighbours; or the neighbours themselves.
        y: predictions from the other view, ``(N, d)``.
        queue: support set, ``(Q, d)``: the nearest row of it stands for each row of ``x``, without gradient.
        temperature: of the similarities.
        scale: instead of the temperature: a number, tensor, or :class:`LogitScale`.
        weights: per anchor.
        normalize: rows of unit length, for finding neighbours too.
        reduction: over anchors.
        return_dict: with diagnostics.
        check_finite: raise at NaN or infinity.
        mode: memory.
        tile: sizes of tiles.
        logits_dtype: half precision of the products.
        distributed: predictions of all processes are candidates. The queue should gather.
    """
    check_rows("x", x)
    if queue is not None:
        check_rows("queue", queue, width=x.shape[1])
        u, support = unit_rows(x.detach(), normalize), unit_rows(queue.detach(), normalize)
        x = support[nearest(u, support)]
    return infonce(
        x, y, symmetric=False, temperature=temperature, scale=scale, weights=weights, normalize=normalize,
        reduction=reduction, return_dict=return_dict, check_finite=check_finite, mode=mode, tile=tile,
        logits_dtype=logits_dtype, distributed=distributed,
    )  # fmt: skip


# ---- modules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictionConfig(LossConfig):
    """Options of :func:`byol` and :func:`simsiam`."""

    normalize: bool = True
    distributed: Distributed = "auto"


class BYOL(Loss):
    """:func:`byol` as a module."""

    name = "byol"
    config_class = PredictionConfig
    function = staticmethod(byol)


class SimSiam(Loss):
    """:func:`simsiam` as a module."""

    name = "simsiam"
    config_class = PredictionConfig
    function = staticmethod(simsiam)


@dataclass(frozen=True)
class SwAVConfig(LossConfig):
    """Options of :func:`swav`."""

    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    distributed: Distributed = "auto"


class SwAV(Loss):
    """:func:`swav` as a module."""

    name = "swav"
    config_class = SwAVConfig
    function = staticmethod(swav)


@dataclass(frozen=True)
class DINOConfig(LossConfig):
    """Options of :func:`dino`, and of the centre that its module keeps."""

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    outputs: int = 65536
    """K, the width of the teacher's output."""
    centre_momentum: float = 0.9
    distributed: Distributed = "auto"


class DINO(Loss):
    """:func:`dino` with its centre, which follows the teacher after each loss in training mode and is saved."""

    name = "dino"
    config_class = DINOConfig
    function = staticmethod(dino)
    centre: Tensor

    def make_scale(self) -> nn.Module | None:
        """No scale; the centre starts at zero."""
        self.register_buffer("centre", torch.zeros(self.config.outputs))  # type: ignore[attr-defined]
        return None

    def forward(self, student: Crops, teacher: Crops, **options: Any) -> LossOutput:
        """The loss with the centre as it is; then, in training mode, the centre moves."""
        config = self.config
        assert isinstance(config, DINOConfig)
        given = {k: v for k, v in self.arguments().items() if k not in ("outputs", "centre_momentum")}
        loss: LossOutput = dino(student, teacher, **{"centre": self.centre, **given, **options})
        if self.training:
            moved = moved_centre(self.centre, teacher, momentum=config.centre_momentum, distributed=config.distributed)
            self.centre.copy_(moved)
        return loss


@dataclass(frozen=True)
class NNCLRConfig(LogitsConfig):
    """Options of :func:`nnclr`."""

    temperature: float = 0.1


class NNCLR(Loss):
    """:func:`nnclr` as a module."""

    name = "nnclr"
    config_class = NNCLRConfig
    function = staticmethod(nnclr)
