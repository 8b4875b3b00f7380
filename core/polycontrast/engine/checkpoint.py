"""Checkpoints: safetensors for tensors, JSON for the rest, never a pickle, never half written.

A checkpoint is a directory ``step-00001234-1``, named after the step and the number of the stage. ``state.json`` and
``state.safetensors`` hold what all processes share, ``process-R.json`` and ``process-R.safetensors`` what is
particular to process R.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from polycontrast import distributed
from polycontrast.errors import CheckpointError, one_line
from polycontrast.files import atomic_directory

_NAME = re.compile(r"step-(\d+)-(\d+)")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read."""

    shared: dict[str, Any]
    """What all processes share."""
    own: dict[str, Any] | None
    """This process's part; None if the checkpoint was written by fewer processes."""

    @property
    def info(self) -> dict[str, Any]:
        """The method's ``info``, from which it is built before its state is loaded."""
        info: dict[str, Any] = json.loads(self.shared["info"])
        return info


def name(step: int, stage: int) -> str:
    """Directory name of a checkpoint. At the border of two stages one step has two: the end and the beginning."""
    return f"step-{step:08d}-{stage}"


def pack(value: Any, tensors: dict[str, Tensor], at: str = "") -> Any:
    """A JSON-able copy of nested dicts, lists, tuples, numbers, strings and tensors; tensors go to ``tensors``.

    Raises:
        TypeError: something else is in there; says where.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}  # exact, also for NaN and infinities
    if isinstance(value, Tensor):
        tensors[at] = value.detach().cpu().contiguous()
        return {"tensor": at}
    if isinstance(value, np.ndarray):
        tensors[at] = torch.from_numpy(np.ascontiguousarray(value))
        return {"array": at}
    if isinstance(value, np.generic):
        return pack(value.item(), tensors, at)
    if isinstance(value, Mapping):
        return {"dict": [[pack(k, tensors), pack(v, tensors, f"{at}/{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [pack(v, tensors, f"{at}/{i}") for i, v in enumerate(value)]}
    raise TypeError(
        f"a checkpoint cannot hold {type(value).__name__} (at {at or 'the top'}); use tensors and plain values"
    )


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo :func:`pack`."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    match kind:
        case "float":
            return float.fromhex(content)
        case "tensor":
            return tensors[content]
        case "array":
            return tensors[content].numpy()
        case "dict":
            return {unpack(k, tensors): unpack(v, tensors) for k, v in content}
        case "tuple":
            return tuple(unpack(v, tensors) for v in content)
        case _:
            return [unpack(v, tensors) for v in content]


def save(target: Path, shared: Mapping[str, Any], own: Mapping[str, Any], *, keep: int) -> None:
    """Write a checkpoint and remove all but the newest ``keep`` beside it. Called by all processes together.

    Args:
        target: the directory to be, see :func:`name`.
        shared: state of the run, written by process 0.
        own: state of this process.
        keep: how many checkpoints stay.
    """
    if distributed.rank() == 0:
        with atomic_directory(target) as temporary:
            _write(temporary / "state", shared)
            _write(temporary / "process-0", own)
            distributed.barrier()  # the directory is there: the others write
            distributed.barrier()  # the others have written
        for old in found(target.parent)[:-keep]:
            shutil.rmtree(old)
    else:
        distributed.barrier()
        _write(target.with_name(f".{target.name}.tmp") / f"process-{distributed.rank()}", own)
        distributed.barrier()
    distributed.barrier()


def found(folder: Path) -> list[Path]:
    """The checkpoints below ``folder``, oldest first."""
    names = ((_NAME.fullmatch(p.name), p) for p in folder.iterdir()) if folder.is_dir() else ()
    return [p for _, p in sorted(((int(m[1]), int(m[2])), p) for m, p in names if m)]


def newest(folder: Path) -> Saved | None:
    """The newest checkpoint below ``folder``, or None if there is none.

    Raises:
        CheckpointError: it is damaged. An older one is not taken silently.
    """
    paths = found(folder)
    if not paths:
        return None
    own = paths[-1] / f"process-{distributed.rank()}"
    return Saved(_read(paths[-1] / "state"), _read(own) if own.with_suffix(".json").exists() else None)


def _write(stem: Path, state: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    packed = pack(dict(state), tensors)
    safetensors.torch.save_file(_unshared(tensors), stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(packed), encoding="utf-8")


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory (tied weights): later ones are written as copies."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        where = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        out[name] = tensor if whole and where not in seen else tensor.clone()
        seen.add(where)
    return out


def _read(stem: Path) -> dict[str, Any]:
    file = stem.with_suffix(".json")
    try:
        packed = json.loads(file.read_text(encoding="utf-8"))
        file = stem.with_suffix(".safetensors")
        state: dict[str, Any] = unpack(packed, safetensors.torch.load_file(file))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        older = found(stem.parent.parent)[:-1]
        instead = f"go on from {older[-1].name}" if older else "start again"
        reason = one_line(error) or type(error).__name__
        raise CheckpointError(f"{file} is damaged ({reason}); delete {stem.parent} to {instead}") from error
    return state
