"""What a method remembers between steps: queues of features, a slow teacher, values by sample.

All are ``torch.nn.Module`` with persistent buffers: as attributes of a method they are in every checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from polycontrast import distributed
from polycontrast.errors import CheckpointError, TrainingError

FieldSpec: TypeAlias = torch.dtype | tuple[torch.dtype, int]
"""A field with one value per row, or ``(dtype, width)``."""
IGNORED = -100
"""What integer fields of random rows hold: the label that is no one's positive."""


class FeatureQueue(nn.Module):
    """The newest ``size`` rows, in a ring buffer: negatives of MoCo, support set of NNCLR, extra scores of SwAV.

    Several queues that advance together are one queue with several fields and one pointer::

        queue = FeatureQueue(65536, 128, extra={"labels": torch.int64})
        loss = moco(q, k, queue=queue.features)                    # a view of the valid rows, never a copy
        queue.enqueue(k, labels=labels, later=True)

        queue = FeatureQueue(4096, {"image": 512, "text": 512}, extra={"ids": torch.int64})
        queue.enqueue(image=u, text=v, ids=ids);  queue["text"]

    The loss must see the queue as it was *before* this batch, and autograd keeps the view until backward; writing
    in between makes backward fail with PyTorch's message about an inplace operation. So enqueue after backward, or
    say ``later=True``: rows are then kept aside until the queue is next read, enqueued to or saved.

    Order of rows is that of the ring, not of age. A batch larger than ``size`` leaves its last ``size`` rows.

    Args:
        size: number of rows.
        dim: width of the field ``features``, or widths by field name.
        dtype: of the fields of ``dim``.
        extra: further fields, e.g. ``{"labels": torch.int64, "targets": (torch.float32, 10)}``.
        gather: rows of all processes are enqueued, in order of rank, so that all processes hold the same queue.
            Otherwise each process has its own, which must be registered as such:
            ``engine.register("queue", queue, per_process=True)``.
        fill: ``"random"`` starts with ``size`` random unit rows (integer fields hold -100), as MoCo's code does. The
            default starts empty and never shows a row that was not enqueued.
        seed: of the random rows; the same in all processes.

    Raises:
        ValueError: no rows, no columns, or a field named twice.
    """

    pointer: Tensor
    filled: Tensor

    def __init__(
        self,
        size: int,
        dim: int | Mapping[str, int],
        *,
        dtype: torch.dtype = torch.float32,
        extra: Mapping[str, FieldSpec] | None = None,
        gather: bool = True,
        fill: Literal["random"] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = {"features": dim} if isinstance(dim, int) else dict(dim)
        if size < 1 or not widths or min(widths.values()) < 1:
            raise ValueError(f"a queue needs at least one row and one column, got size={size}, dim={dim}")
        specs: dict[str, FieldSpec] = {name: (dtype, width) for name, width in widths.items()}
        if twice := specs.keys() & (extra or {}).keys():
            raise ValueError(f"the queue's field {min(twice)!r} is named in dim and in extra; rename one")
        specs |= extra or {}
        self.size, self.gather = size, gather
        self.fields = tuple(specs)
        for name, spec in specs.items():
            self.register_buffer(f"rows_{name}", _empty(size, spec))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.version = 0
        """How often rows were written since this object was made."""
        self._pointer = self._count = 0  # so that reading costs no transfer from the device
        self._later: list[dict[str, Tensor]] = []
        self._agreed = False
        if fill == "random":
            self._fill(seed)
        self.register_state_dict_pre_hook(lambda queue, *_: queue.flush())  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(lambda queue, _: queue._loaded())  # type: ignore[no-untyped-call]

    @property
    def count(self) -> int:
        """How many rows are valid, pending ones included."""
        return min(self._count + sum(len(rows[self.fields[0]]) for rows in self._later), self.size)

    @property
    def features(self) -> Tensor:
        """The valid rows, ``(count, dim)``: a view, of the field ``features`` or the only one of ``dim``."""
        return self["features" if "features" in self.fields else self.fields[0]]

    def __getitem__(self, field: str) -> Tensor:
        """The valid rows of a field: a view.

        Raises:
            KeyError: no such field.
        """
        self.flush()
        return self._rows(field)[: self._count]

    @torch.no_grad()
    def enqueue(self, features: Tensor | None = None, /, *, later: bool = False, **fields: Tensor) -> None:
        """Write rows, the oldest of which they replace. All processes must call it if the queue gathers.

        Args:
            features: rows of the only field of ``dim``; the others by name.
            later: keep them aside until the queue is next read, enqueued to or saved.
            fields: rows of every other field, as many.

        Raises:
            ValueError: a field is missing, unknown or of another length or width.
            TrainingError: the processes' queues have drifted apart (looked at once, at the first call).
        """
        rows = self._checked(dict(fields) if features is None else {self.fields[0]: features, **fields})
        if self.gather and distributed.world_size() > 1:
            if not self._agreed:
                self.check_agreement()
            rows = {name: distributed.gather(value) for name, value in rows.items()}
        elif later:
            rows = {name: value.clone() for name, value in rows.items()}
        self.flush()
        if later:
            self._later.append(rows)
        else:
            self._write(rows)

    def flush(self) -> None:
        """Write what ``enqueue(..., later=True)`` kept aside."""
        pending, self._later = self._later, []
        for rows in pending:
            self._write(rows)

    def clear(self) -> None:
        """Forget all rows."""
        self._later = []
        self._move(0, 0)

    def check_agreement(self) -> None:
        """Compare the queues of all processes; called by all of them. Does nothing to a queue that doesn't gather.

        Raises:
            TrainingError: they differ.
        """
        if not self.gather or distributed.world_size() == 1:
            return
        self.flush()
        mine = [float(self._pointer), float(self._count)]
        for field in self.fields:
            rows = self._rows(field)[: self._count].double().reshape(-1)
            weights = torch.arange(1, len(rows) + 1, device=rows.device, dtype=torch.float64)
            mine.append(float((rows * weights.remainder(8191)).sum()))
        everyone = distributed.gather(torch.tensor([mine], dtype=torch.float64, device=self.pointer.device))
        if not bool((everyone == everyone[:1]).all()):
            raise TrainingError(
                "the processes hold different queues; build and load them alike in all processes, or use gather=False"
            )
        self._agreed = True

    def extra_repr(self) -> str:
        """Size and fields for ``print``."""
        return f"{self.size}, fields={', '.join(self.fields)}, count={self.count}, gather={self.gather}"

    # ---- inside ------------------------------------------------------------------------------------------------

    def _rows(self, field: str) -> Tensor:
        if field not in self.fields:
            raise KeyError(f"the queue has no field {field!r}; it has {', '.join(self.fields)}")
        return self.get_buffer(f"rows_{field}")

    def _checked(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        if rows.keys() != set(self.fields):
            raise ValueError(f"enqueue needs the fields {', '.join(self.fields)}, got {', '.join(rows) or 'none'}")
        length = len(rows[self.fields[0]])
        for name, value in rows.items():
            buffer = self._rows(name)
            if value.shape != (length, *buffer.shape[1:]):
                wanted = (length, *buffer.shape[1:])
                raise ValueError(f"enqueue: {name} has shape {tuple(value.shape)}, the queue needs {wanted}")
            rows[name] = value.detach().to(buffer)
        return rows

    @torch.no_grad()
    def _write(self, rows: dict[str, Tensor]) -> None:
        length = len(rows[self.fields[0]])
        kept = min(length, self.size)
        start = (self._pointer + length - kept) % self.size
        first = min(kept, self.size - start)
        for name, value in rows.items():
            buffer, value = self._rows(name), value[length - kept :]
            buffer[start : start + first] = value[:first]
            buffer[: kept - first] = value[first:]
        self._move((start + kept) % self.size, min(self._count + length, self.size))
        self.version += 1

    def _move(self, pointer: int, count: int) -> None:
        self._pointer, self._count = pointer, count
        self.pointer.fill_(pointer)
        self.filled.fill_(count)

    def _fill(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for field in self.fields:
            rows = self._rows(field)
            if rows.is_floating_point():
                noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
                rows.copy_(nn.functional.normalize(noise, dim=-1) if noise.ndim > 1 else noise)
            else:
                rows.fill_(IGNORED if rows.dtype.is_signed else 0)
        self._move(0, self.size)

    def _loaded(self) -> None:
        self._later = []
        self._agreed = False
        self._pointer, self._count = int(self.pointer), int(self.filled)
        if not 0 <= self._pointer < self.size or not 0 <= self._count <= self.size:
            raise CheckpointError(f"the saved queue has pointer {self._pointer}, count {self._count}, size {self.size}")


class EmaTeacher(nn.Module):
    """A copy of a model that follows it slowly: ``teacher <- m teacher + (1 - m) student``.

    Always in evaluation mode and without gradients: its weights are buffers, so that nothing can unfreeze them and no
    optimiser takes them. Call :meth:`update` after the optimiser's step, once per step also when gradients are
    accumulated, and not when the step was skipped. Weights in half precision are averaged in a float32 copy, else small
    steps would round to none.

    Args:
        student: the model to follow; copied, not kept.
        momentum: ``m``, or a function of the number of updates done, e.g. ``Schedule("cosine", 0.99, 1.0, steps=K)``.
        buffers: ``copy`` takes the student's, e.g. the statistics of batch norm; ``ema`` averages those that are
            floating point; ``skip`` leaves the teacher's own.
        evaluation: False keeps dropout and batch statistics of the teacher switched with the parent's mode, as MoCo
            and BYOL do with batch norm.
    """

    updates: Tensor

    def __init__(
        self,
        student: nn.Module,
        momentum: float | Callable[[int], float] = 0.996,
        *,
        buffers: Literal["copy", "ema", "skip"] = "copy",
        evaluation: bool = True,
    ) -> None:
        super().__init__()
        if buffers not in ("copy", "ema", "skip"):
            raise ValueError(f"buffers must be copy, ema or skip, got {buffers!r}")
        if not callable(momentum) and not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must be between 0 and 1, got {momentum}")
        self._momentum, self._policy, self._evaluation = momentum, buffers, evaluation
        self._weights = tuple(name for name, _ in student.named_parameters())
        self._statistics = tuple(name for name, _ in student.named_buffers())
        self.model = _without_parameters(copy.deepcopy(student))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._updates = 0
        averaged = [(name, self.model.get_buffer(name)) for name in self._averaged()]
        self._halves = {name: f"exact_{name.replace('.', '_')}" for name, tensor in averaged if _half(tensor)}
        for name, exact in self._halves.items():
            self.register_buffer(exact, self.model.get_buffer(name).float())
        self.train(self.training)
        self.register_load_state_dict_post_hook(lambda teacher, _: teacher._loaded())  # type: ignore[no-untyped-call]

    @property
    def momentum(self) -> float:
        """``m`` of the next update."""
        return self._momentum(self._updates) if callable(self._momentum) else self._momentum

    @torch.no_grad()
    def update(self, student: nn.Module) -> float:
        """Move towards the student and return the momentum that was used.

        Raises:
            ValueError: the student's parameters or buffers are not those of the teacher.
        """
        momentum = self.momentum
        theirs: dict[str, Tensor] = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        mine = {name: self.model.get_buffer(name) for name in (*self._weights, *self._statistics)}
        if differing := mine.keys() ^ theirs.keys() or {n for n in mine if mine[n].shape != theirs[n].shape}:
            which = min(differing)
            raise ValueError(f"teacher and student differ at {which!r}; make a new EmaTeacher when a model grows")
        averaged = self._averaged()
        slow = [self.get_buffer(self._halves[n]) if n in self._halves else mine[n] for n in averaged]
        if slow:
            fast = [theirs[n].detach().to(t.device, t.dtype) for n, t in zip(averaged, slow, strict=True)]
            torch._foreach_lerp_(slow, fast, 1.0 - momentum)
        for name, exact in self._halves.items():
            mine[name].copy_(self.get_buffer(exact))
        if self._policy != "skip":
            for name in set(self._statistics).difference(averaged):
                mine[name].copy_(theirs[name])
        self._updates += 1
        self.updates.fill_(self._updates)
        return momentum

    @torch.no_grad()
    def copy_from(self, student: nn.Module) -> None:
        """Take over all of the student at once, e.g. after it was loaded or warmed up. Updates done stay."""
        self.model.load_state_dict(student.state_dict())
        for name, exact in self._halves.items():
            self.get_buffer(exact).copy_(self.model.get_buffer(name))

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, without gradient."""
        return self.model(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Keep the model in evaluation mode, unless ``evaluation=False``."""
        super().train(mode)
        if self._evaluation:
            self.model.eval()
        return self

    def _averaged(self) -> list[str]:
        names = list(self._weights)
        if self._policy == "ema":
            names += [name for name in self._statistics if self.model.get_buffer(name).is_floating_point()]
        return names

    def _loaded(self) -> None:
        self._updates = int(self.updates)


class SampleTable(nn.Module):
    """Values by sample: loss histories, divisions, a memory bank of one row per sample.

    ``SampleTable(len(data), {"loss": torch.float32, "row": (torch.float32, 128)})``; ids are 0 to ``size - 1``.

    Args:
        size: number of samples.
        fields: kind of each value.
        gather: the rows of all processes are written everywhere.
    """

    written: Tensor

    def __init__(self, size: int, fields: Mapping[str, FieldSpec], *, gather: bool = True) -> None:
        super().__init__()
        self.size, self.fields, self.gather = size, tuple(fields), gather
        for name, spec in fields.items():
            self.register_buffer(f"rows_{name}", _empty(size, spec))
        self.register_buffer("written", torch.zeros(size, dtype=torch.bool))

    def __getitem__(self, field: str) -> Tensor:
        """All rows of a field, in order of id; see ``written`` for those that mean something."""
        if field not in self.fields:
            raise KeyError(f"the table has no field {field!r}; it has {', '.join(self.fields)}")
        return self.get_buffer(f"rows_{field}")

    def read(self, field: str, ids: Tensor) -> Tensor:
        """A copy of the rows of some ids."""
        return self[field][ids]

    @torch.no_grad()
    def write(self, ids: Tensor, *, momentum: float = 0.0, **values: Tensor) -> None:
        """Set rows, or move them: ``momentum`` of the old row is kept where there is one.

        An id that occurs more than once keeps its last value.

        Raises:
            ValueError: an id out of range.
        """
        gather = distributed.gather if self.gather else Tensor.detach
        ids = gather(ids.to(self.written.device))
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.size:
            raise ValueError(f"ids must be 0 to {self.size - 1}, got {int(ids.min())} to {int(ids.max())}")
        # the last of equal ids, whatever the device: index_put_ promises no order
        order = torch.arange(len(ids), device=ids.device)
        newest = torch.zeros(self.size, dtype=torch.int64, device=ids.device).scatter_reduce_(0, ids, order, "amax")
        last = newest[ids] == order
        ids = ids[last]
        for name, value in values.items():
            rows = self[name]
            value = gather(value.to(rows))[last]
            if momentum:
                old = rows[ids]
                keep = (self.written[ids] * momentum).to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
                value = keep * old + (1 - keep) * value
            rows[ids] = value
        self.written[ids] = True


def _empty(size: int, spec: FieldSpec) -> Tensor:
    return torch.zeros(size, dtype=spec) if isinstance(spec, torch.dtype) else torch.zeros(size, spec[1], dtype=spec[0])


def _without_parameters(model: nn.Module) -> nn.Module:
    """Turn all parameters into buffers of the same names; tied ones stay tied."""
    model.requires_grad_(False)
    made: dict[nn.Parameter, Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module.register_buffer(name, made.setdefault(parameter, parameter.detach()))
    return model


def _half(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4
