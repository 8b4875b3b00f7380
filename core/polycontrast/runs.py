"""The run directory: everything about one training, in files that explain themselves.

config.yaml         what was asked, resolved: method, data, preset, seed, config
environment.json    command, versions, machine, threads
metrics.jsonl       one line per log interval or look at the validation part
checkpoints/        what a resume needs
artefacts/          costly tensors by key
result.json         the numbers
charts.json         what the method draws of itself, for the page
evaluations/        later evaluations of the same model
model/              save_pretrained
report.html         the page
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from polycontrast.errors import RunError
from polycontrast.files import write_text
from polycontrast.request import check_out

_REPORTED = (
    "polycontrast", "torch", "numpy", "accelerate", "safetensors", "huggingface_hub", "scikit-learn", "pandas",
    "pyarrow", "torch-geometric", "transformers", "timm", "torchaudio", "torchvision", "gymnasium", "dm-control",
    "mujoco",
)  # fmt: skip


class Run:
    """A run directory that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Run:
        """Make a new run directory.

        Raises:
            RunError: something is there already.
        """
        check_out(path)
        path.mkdir(parents=True, exist_ok=True)
        for folder in ("checkpoints", "artefacts", "evaluations"):
            (path / folder).mkdir(exist_ok=True)
        write_text(path / "environment.json", _json(environment))
        # Last, because its presence is what makes the directory a run.
        write_text(path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """The run at ``path``.

        Raises:
            RunError: there is none.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"{path} is no run: there is no such directory")
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is no run: it has no config.yaml")
        return cls(path)

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether ``path`` holds a run."""
        return (path / "config.yaml").is_file()

    @property
    def config(self) -> dict[str, Any]:
        """``method``, ``data``, ``preset``, ``seed`` and the resolved ``config``."""
        file = self.path / "config.yaml"
        try:
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{file} is damaged: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, dict) or not {"method", "data", "seed", "config"} <= loaded.keys():
            raise RunError(f"{file} was not written by polycontrast: it needs method, data, seed and config")
        return loaded

    @property
    def environment(self) -> dict[str, Any]:
        """Command, versions, machine and threads of the run."""
        return self._read("environment.json") or {}

    @property
    def result(self) -> dict[str, Any] | None:
        """The numbers, or None while there are none."""
        return self._read("result.json")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off by a kill is left out."""
        rows: list[dict[str, Any]] = []
        if self.metrics_file.exists():
            for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json; NaN becomes null."""
        write_text(self.path / "result.json", _json(result))

    @property
    def charts(self) -> list[dict[str, Any]]:
        """What the method draws of itself; see :class:`polycontrast.method.Chart`."""
        found: list[dict[str, Any]] = (self._read("charts.json") or {}).get("charts", [])
        return found

    def write_charts(self, charts: Sequence[Mapping[str, Any]]) -> None:
        """Write charts.json; NaN becomes null. Without charts there is no file."""
        if charts:
            write_text(self.path / "charts.json", _json({"charts": charts}))

    def write_evaluation(self, result: Mapping[str, Any]) -> Path:
        """Keep the numbers of a later evaluation under evaluations/."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        file = self.path / "evaluations" / f"{stamp}.json"
        file.parent.mkdir(exist_ok=True)
        write_text(file, _json(result))
        return file

    @property
    def metrics_file(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def model_dir(self) -> Path:
        """The saved model."""
        return self.path / "model"

    @property
    def checkpoints_dir(self) -> Path:
        """What a resume needs."""
        return self.path / "checkpoints"

    @property
    def artefacts_dir(self) -> Path:
        """Costly tensors by key."""
        return self.path / "artefacts"

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return loaded


def default_directory(method: str, seed: int) -> Path:
    """``runs/METHOD/TIME-sSEED`` below the current directory."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / method / f"{stamp}-s{seed}"


def describe_environment(*, command: list[str] | None, owner: str, device: str, processes: int) -> dict[str, Any]:
    """What the numbers of a run may depend on besides its config."""
    return {
        "command": command if command is not None else sys.argv,
        "owner": owner,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "processes": processes,
        "versions": {name: found for name in _REPORTED if (found := _version(name))},
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def jsonable(value: Any) -> Any:
    """The value with NaN and infinities as None, mappings as dicts, sequences as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return value


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
