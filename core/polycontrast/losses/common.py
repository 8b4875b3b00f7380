"""What every loss shares: unit rows, scales, reductions, diagnostics, checks, and the module around a function.

Conventions (see ``docs/losses.md``): a loss is a pure function of tensors. Rows are samples. ``scale`` is
``1 / temperature``. ``reduction="none"`` gives one value per anchor. Inside a loss autocast is off and half precision
is upcast before anything else.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from polycontrast import distributed as processes
from polycontrast.errors import did_you_mean
from polycontrast.losses.scale import LogitScale

Reduction = Literal["mean", "sum", "none"]
Mode = Literal["auto", "plain", "stored", "tiled"]
Tile = int | tuple[int, int] | None
LogitsDtype = Literal["bfloat16", "float16"] | torch.dtype | None
LossOutput = Tensor | dict[str, Tensor]

_EPS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-4}

P = ParamSpec("P")
R = TypeVar("R")


# ---- precision ---------------------------------------------------------------------------------------------------


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a loss with autocast off, whatever surrounds it."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        with torch.autocast("cpu" if first is None else first.device.type, enabled=False):
            return function(*args, **kwargs)

    return inside


def upcast(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def half_dtype(logits_dtype: LogitsDtype, like: Tensor) -> torch.dtype | None:
    """The precision in which logits are multiplied, None for that of the rows."""
    if logits_dtype is None:
        return None
    name = str(logits_dtype).removeprefix("torch.")
    check_choice("logits_dtype", name, ("bfloat16", "float16"))
    if like.dtype == torch.float64:
        raise ValueError(f"logits_dtype={name!r} is for float32 and half rows, these are float64: leave it out")
    return torch.bfloat16 if name == "bfloat16" else torch.float16


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows, ``(..., d)`` and ``(..., d)`` to ``(...)``, without a product of their size."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products


def norm_floor(dtype: torch.dtype) -> float:
    """Rows whose norm is at most this count as zero rows (by the dtype that the caller passed)."""
    return _EPS.get(dtype, 1e-6)


class _UnitRows(torch.autograd.Function):
    """``x / |x|`` that keeps only its result and the norms, so that no copy of ``x`` stays alive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.where(norm <= eps, torch.zeros_like(norm), norm.reciprocal())
        unit = x * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(SECOND_DERIVATIVE)
        unit, inverse = ctx.saved_tensors
        along = row_dot(grad, unit).unsqueeze(-1)
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse), None


SECOND_DERIVATIVE = (
    "second derivatives (create_graph=True) need the full matrix: call the loss with mode='plain' instead of "
    "'stored', 'tiled' or 'auto'"
)


def unit_rows(
    x: Tensor, normalize: bool = True, eps: float | None = None, *, differentiable_twice: bool = False
) -> Tensor:
    """Rows of length one, in float32 or float64.

    A row whose norm is at most ``eps`` becomes the zero row and gets exactly zero gradient (libraries that divide by
    ``max(norm, 1e-12)`` send a gradient near 1e12 there).

    Args:
        x: ``(..., d)``; half precision is upcast first.
        normalize: False only upcasts.
        eps: default by the dtype of ``x``: 1e-12 (float64), 1e-6 (float32), 1e-4 (half).
        differentiable_twice: use ordinary operations, which take more memory but allow second derivatives.
    """
    floor = norm_floor(x.dtype) if eps is None else eps
    x = upcast(x)
    if not normalize:
        return x
    if not differentiable_twice:
        return _UnitRows.apply(x, floor)  # type: ignore[no-any-return, no-untyped-call]
    square = (x * x).sum(-1, keepdim=True)
    zero = square <= floor * floor
    return x * torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).rsqrt())


# ---- arguments ---------------------------------------------------------------------------------------------------


def check_rows(
    name: str, x: Tensor, *, dims: tuple[int, ...] = (2,), width: int | None = None, rows: int | None = None
) -> None:
    """Raise a one-line ValueError unless ``x`` is a floating tensor of the expected shape."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a floating point tensor, got {found}")
    if x.ndim not in dims:
        wanted = " or ".join({2: "(rows, d)", 3: "(rows, views, d)"}.get(d, f"{d}-dimensional") for d in dims)
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}")
    if width is not None and x.shape[-1] != width:
        raise ValueError(
            f"{name} has {x.shape[-1]} columns where {width} are needed: both sides must share one width d"
        )
    if rows is not None and x.shape[0] != rows:
        raise ValueError(f"{name} has {x.shape[0]} rows where {rows} are needed")


def check_vector(name: str, v: Tensor, rows: int) -> None:
    """Raise a one-line ValueError unless ``v`` has one entry per row."""
    if not isinstance(v, Tensor) or v.ndim != 1 or v.shape[0] != rows:
        found = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(f"{name} must be a vector with {rows} entries, one per row, got {found}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise a one-line ValueError, with a near match, unless ``value`` is one of the names."""
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise ValueError(f"{name}={value!r} is not known; choose {', '.join(map(repr, allowed))}.{hint}")


def resolve_scale(temperature: float | Tensor | None, scale: float | Tensor | nn.Module | None, like: Tensor) -> Tensor:
    """The logit scale as a 0-d tensor of the dtype and device of ``like``; differentiable where it was a tensor.

    Args:
        temperature: ``1 / scale``; used when ``scale`` is None.
        scale: a number, a 0-d tensor, or a :class:`LogitScale` (called without arguments).
        like: rows after upcasting.
    """
    if scale is None:
        if temperature is None:
            raise ValueError("give temperature=... or scale=... (scale = 1 / temperature)")
        if not isinstance(temperature, Tensor):
            if not temperature > 0:
                raise ValueError(f"temperature must be positive, got {temperature}")
            return torch.tensor(1.0 / temperature, dtype=like.dtype, device=like.device)
        return temperature.to(like).reshape(()).reciprocal()
    value = scale() if isinstance(scale, nn.Module) else scale
    if not isinstance(value, Tensor):
        return torch.tensor(float(value), dtype=like.dtype, device=like.device)
    if value.numel() != 1:
        raise ValueError(f"scale must be one number, got shape {tuple(value.shape)}")
    return value.to(like).reshape(())


_warned: set[str] = set()


def warn_once(text: str) -> None:
    """Say something once per process; silent inside torch.compile."""
    if torch.compiler.is_compiling() or text in _warned:
        return
    _warned.add(text)
    warnings.warn(text, stacklevel=3)


# ---- processes ---------------------------------------------------------------------------------------------------


Distributed = Literal["auto"] | bool


class Peers:
    """The processes that share candidates: all of them (``"auto"`` or True), or this one alone (False)."""

    def __init__(self, distributed: Distributed) -> None:
        self.size = processes.world_size() if distributed else 1

    def rows(self, x: Tensor) -> Tensor:
        """Rows of all processes, with gradient."""
        return processes.gather_with_gradient(x) if self.size > 1 else x

    def facts(self, x: Tensor) -> Tensor:
        """Labels, ids or other constants of all processes."""
        return processes.gather(x) if self.size > 1 else x.detach()

    def most(self, n: int, like: Tensor) -> int:
        """The largest of a number over processes."""
        return int(self.facts(torch.tensor([n], device=like.device)).max()) if self.size > 1 else n

    def offset(self, x: Tensor) -> int:
        """Where this process's rows begin among those of all."""
        return processes.place_of(x)[0] if self.size > 1 else 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, without gradient."""
        return processes.sum_over_processes(x.detach().clone()) if self.size > 1 else x.detach()

    def total(self, x: Tensor) -> Tensor:
        """The sum over processes, with gradient."""
        return processes.sum_with_gradient(x) if self.size > 1 else x

    def logsumexp(self, x: Tensor) -> Tensor:
        """Log-sum-exps over processes, with gradient."""
        return processes.logsumexp_with_gradient(x) if self.size > 1 else x


# ---- reductions --------------------------------------------------------------------------------------------------


def _total(values: Tensor) -> Tensor:
    return (values.double() if values.numel() > 4096 else values).sum()


def reduce_anchors(
    values: Tensor,
    reduction: Reduction = "mean",
    *,
    weights: Tensor | None = None,
    used: Tensor | None = None,
    counted: Tensor | None = None,
    distributed: Distributed = False,
) -> Tensor:
    """Bring one value per anchor to the asked form, such that processes that average get the single-process result.

    ``mean`` is ``sum_i w_i l_i / sum_i w_i`` over the anchors that count, over all processes (float64 sum beyond 4096
    anchors); ``sum`` is ``sum_i w_i l_i`` (times the number of processes, because averaging divides by it); ``none``
    is ``w_i l_i`` of this process.

    Args:
        values: one per anchor, any shape ``(..., N)``.
        reduction: ``mean``, ``sum`` or ``none``.
        weights: per anchor, broadcast against ``values``.
        used: bool, anchors that have a value; the others give 0 whatever ``values`` holds there.
        counted: bool, anchors in the denominator of the mean; default ``used``.
        distributed: whether other processes hold further anchors.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if used is not None:
        values = torch.where(used, values, torch.zeros_like(values))
    if weights is not None:
        weights = weights.to(values)
        values = values * weights
    if reduction == "none":
        return values
    peers = Peers(distributed)
    size = peers.size
    total = _total(values)
    if reduction == "sum":
        return (total * size).to(values.dtype)
    counts = torch.ones_like(values) if weights is None else weights.expand_as(values)
    mask = used if counted is None else counted
    if mask is not None:
        counts = counts * mask.to(counts)
    count = peers.sum(_total(counts))
    return (total * size / torch.where(count == 0, torch.ones_like(count), count)).to(values.dtype)


def poison(values: Tensor, *rows: Tensor) -> Tensor:
    """NaN everywhere when any row has NaN or infinity, so that no mask hides it."""
    if not rows:
        return values
    good = torch.stack([torch.isfinite(x.detach()).all() for x in rows]).all()
    return torch.where(good, values, torch.nan)


# ---- diagnostics -------------------------------------------------------------------------------------------------


def count_rows(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Zero rows (by :func:`norm_floor`) and rows with NaN or infinity, over all tensors, as 0-d integer tensors."""
    zero = bad = torch.zeros((), dtype=torch.int64, device=tensors[0].device)
    for x in tensors:
        norm = torch.linalg.vector_norm(upcast(x.detach()), dim=-1)
        zero = zero + (norm <= norm_floor(x.dtype)).sum()
        bad = bad + (~torch.isfinite(norm)).sum()
    return zero, bad


def check_finite_rows(**tensors: Tensor | None) -> None:
    """Raise a ValueError that names the first row with NaN or infinity."""
    for name, x in tensors.items():
        if x is None:
            continue
        bad = ~torch.isfinite(x.detach()).flatten(1).all(1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(f"{name} has {int(bad.sum())} rows with NaN or infinity; the first is row {row}")


def finish(
    loss: Tensor,
    return_dict: bool,
    *,
    rows: tuple[Tensor, ...],
    scale: Tensor | None = None,
    terms: Mapping[str, Tensor] | None = None,
    diagnostics: Mapping[str, Tensor | float | None] | None = None,
) -> LossOutput:
    """The loss alone, or the dict of loss, terms by name and detached diagnostics.

    Keys that a loss has no number for (a regularisation has no accuracy) are NaN, so that every dict has the same keys.
    """
    if not return_dict:
        return loss
    zero, bad = count_rows(*rows)
    facts: dict[str, Tensor | float | None] = {
        "accuracy": None, "positive_similarity": None, "negative_similarity": None, "scale": scale, "n_anchors": None,
        "n_zero_rows": zero, "n_nonfinite": bad,
    }  # fmt: skip
    facts.update(diagnostics or {})
    out = {"loss": loss, **(terms or {})}
    for name, value in facts.items():
        if isinstance(value, Tensor):
            out[name] = value.detach()
        else:
            out[name] = torch.tensor(math.nan if value is None else value, device=loss.device)
    return out


def explain(
    module: Loss, tensors: tuple[Any, ...], options: Mapping[str, Any], distributed: Distributed
) -> dict[str, float]:
    """Numbers behind :meth:`Loss.explain`; of the losses over pairs, and what is common to all others."""
    peers = Peers(distributed)
    x = next(t for t in tensors if isinstance(t, Tensor))
    n = int(peers.sum(torch.tensor(len(x), device=x.device)))
    facts: dict[str, float] = {"processes": peers.size, "rows_per_process": len(x), "effective_batch": n}
    settings = {**module.arguments(), **options}
    candidates = positives = math.nan
    anchors: float = n
    name = module.name
    if name == "infonce" and tensors[1].ndim == 3:
        candidates, positives = tensors[1].shape[1], 1.0
    elif name in ("infonce", "infonce_soft", "siglip", "nnclr"):
        extra = settings.get("negatives")
        rows = sum(len(t) for t in tensors[1:2] if isinstance(t, Tensor))
        shared = len(extra) if extra is not None and extra.ndim == 2 else 0
        private = extra.shape[1] if extra is not None and extra.ndim == 3 else 0
        candidates = int(peers.sum(torch.tensor(rows + shared, device=x.device))) + private
        positives = 1.0 if name != "infonce_soft" else math.nan
    elif name in ("ntxent", "dcl", "dclw", "infonce_debiased"):
        anchors, candidates, positives = 2 * n, 2 * n - (1 if name in ("ntxent",) else 2), 1.0
    elif name == "supcon":
        views = x.shape[1] if x.ndim == 3 else 1
        anchors = n * views if settings.get("anchors") != "first_view" else n
        candidates, positives = n * views - 1, views - 1.0
    elif name == "moco":
        candidates, positives = 1 + len(settings["queue"] if "queue" in settings else tensors[2]), 1.0
    labels = settings.get("labels")
    if labels is None and name == "supcon" and len(tensors) > 1:
        labels = tensors[1]
    if isinstance(labels, Tensor) and name in ("supcon", "infonce", "siglip"):
        every = peers.facts(labels)
        own = every[every != -100]
        same = torch.bincount(own.unique(return_inverse=True)[1]).double()  # type: ignore[no-untyped-call]
        views = x.shape[1] if x.ndim == 3 else 1
        positives = float((same * same).sum() / len(every)) * views - (name == "supcon") if len(own) else 0.0
    given = settings.get("positives")
    if isinstance(given, Tensor) and given.ndim == 2:
        pairs = name == "infonce" and given.shape[1] == 2 and given.dtype == torch.int64
        count = torch.tensor(len(given), device=x.device) if pairs else (given != 0).sum()
        if name == "supcon":  # for all views; the row itself never counts
            views = x.shape[1] if x.ndim == 3 else 1
            count = views * count - (given.diagonal(peers.offset(x)) != 0).sum()
        positives = float(peers.sum(count)) / max(n, 1)
    facts["anchors"] = anchors
    if candidates == candidates:
        facts["candidates_per_anchor"] = candidates
        if name != "siglip":
            facts["loss_of_chance"] = math.log(max(candidates, 1))
        facts["logits_megabytes_if_written_down"] = anchors * candidates * upcast(x).element_size() / 2**20
    if positives == positives:
        facts["positives_per_anchor"] = positives
    scale = settings.get("scale")
    if scale is not None or settings.get("temperature") is not None:
        facts["temperature"] = 1 / float(resolve_scale(settings.get("temperature"), scale, upcast(x)))
    return facts


# ---- modules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossConfig:
    """Base of the configurations: frozen, plain values, one class per loss.

    Its fields are keyword arguments of the function of the same loss.
    """

    reduction: Reduction = "mean"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MatrixConfig(LossConfig):
    """What losses with a temperature share that compare every row with every candidate; by keyword only."""

    learnable_temperature: bool = False
    """The module owns a :class:`LogitScale` that starts at ``temperature``."""
    normalize: bool = True
    mode: Mode = "auto"
    tile: Tile = None
    distributed: Distributed = "auto"


@dataclass(frozen=True, kw_only=True)
class LogitsConfig(MatrixConfig):
    """Those of them whose matrix is made of logits, tile by tile."""

    logits_dtype: Literal["bfloat16", "float16"] | None = None
    """Half precision in which rows are multiplied; None: their own."""


class Loss(nn.Module):
    """A thin module over a loss function: ``InfoNCE(temperature=0.1)(x, y)`` is ``infonce(x, y, temperature=0.1)``.

    Subclasses name their function and configuration. A configuration with ``learnable_temperature`` makes the module
    own a :class:`LogitScale` named ``scale``; give it to the optimiser with the encoder, without weight decay.

    Args:
        config: the configuration; or give its fields as keyword arguments.
        **values: fields of the configuration.

    Raises:
        ValueError: an unknown field, or a configuration together with fields.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[LossConfig]]
    function: ClassVar[Callable[..., LossOutput]]

    def __init__(self, config: LossConfig | None = None, **values: Any) -> None:
        super().__init__()
        known = [f.name for f in fields(self.config_class)]
        for key in values:
            if key not in known:
                raise ValueError(
                    f"{self.name} has no option {key!r}; it has {', '.join(known)}.{did_you_mean(key, known)}"
                )
        if config is not None and values:
            raise ValueError(f"{self.name}: give a configuration or its fields, not both")
        self.config = self.config_class(**values) if config is None else config
        self.scale: nn.Module | None = self.make_scale()

    def make_scale(self) -> nn.Module | None:
        """A learnable scale where the configuration asks for one."""
        if not getattr(self.config, "learnable_temperature", False):
            return None
        return LogitScale(self.config.temperature)  # type: ignore[attr-defined]

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the function: the configuration's fields, and the learnable scale where there is one."""
        values = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
        values.pop("learnable_temperature", None)
        if self.scale is not None:
            values["scale"] = self.scale
        return values

    def forward(self, *tensors: Any, **options: Any) -> LossOutput:
        """The function on these tensors; options given here win over the configuration."""
        return type(self).function(*tensors, **{**self.arguments(), **options})

    def explain(self, *tensors: Any, distributed: Distributed = "auto", **options: Any) -> dict[str, float]:
        """Print and return what this loss does with such a batch, in numbers that people ask for.

        Args:
            *tensors: as for the loss.
            distributed: as for the loss.
            **options: as for the loss, e.g. ``labels``.

        Returns:
            ``anchors``, ``processes``, ``candidates_per_anchor`` (the size of the denominator),
            ``positives_per_anchor``,
            ``loss_of_chance`` (the log of that), ``temperature``, ``effective_batch`` over processes and the size of
            the matrix
            that is never written down, where they apply.
        """
        facts = explain(self, tensors, options, distributed)
        print(f"{type(self).__name__}:")
        for key, value in facts.items():
            print(f"  {key.replace('_', ' ')}: {value:g}")
        return facts

    def extra_repr(self) -> str:
        """What the module prints of itself."""
        return ", ".join(f"{f.name}={getattr(self.config, f.name)!r}" for f in fields(self.config))
