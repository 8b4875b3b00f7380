"""What a call asks for, checked without torch: method, config, data and run directory.

The command line and :mod:`polycontrast.api` both come through here, so that a wrong call gets the same answer
from both, and gets it at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polycontrast.config import MethodConfig, load_yaml, parse_assignments
from polycontrast.config import resolve as resolve_config
from polycontrast.errors import CheckpointError, ConfigError, DataError, RunError, did_you_mean
from polycontrast.plugins import Entry, default

DEMO = "demo"
"""The dataset that every method brings and that is used when none is named."""

LEFTOVERS = frozenset({"checkpoints", "artefacts", "evaluations", "environment.json"})
"""What a run that was killed before it had a config.yaml leaves behind; a new run may take its place."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Request:
    """A method with its whole configuration and the data it is to be used on."""

    entry: Entry
    """The method as its plugin declares it."""
    config: MethodConfig
    """Resolved: field default < dataset preset < ``--config`` < ``--set``."""
    data: str
    """A registered dataset's name, or a path."""
    is_path: bool
    """Whether ``data`` is a path."""
    preset: str
    """Names of the presets and config files that were used, joined by ``+``; empty if there were none."""
    sources: tuple[str, ...]
    """Where values other than the defaults came from, in the order in which they were applied."""


def resolve(
    method: str,
    *,
    data: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    assignments: str | Sequence[str] | Mapping[str, Any] = (),
    max_steps: int | None = None,
    precision: str | None = None,
) -> Request:
    """Find the method, its data and its config; nothing is created and torch is not imported.

    Args:
        method: ``domain/name``, or a bare name that is unique.
        data: a dataset of the method, else an existing path. None: ``demo``, or what the run used whose
            ``config.yaml`` is given as ``config``.
        config: a preset of the method, or a YAML file (anything that ends in .yaml or .yml or holds a slash). The
            ``config.yaml`` of a run of the same method will do.
        assignments: ``"a.b=c"`` texts, or values by name, dotted or nested.
        max_steps: sets ``engine.max_steps``.
        precision: sets ``engine.precision``.

    Raises:
        PluginError: the method is unknown, broken or clashing.
        MissingDependency: the method's extra is not installed; the message holds the command.
        ConfigError: an unknown preset, key or value, or a file that cannot be read.
        DataError: ``data`` is neither a dataset of the method nor an existing path.
    """
    entry = default().method(method)
    entry.require()
    file = chosen = None
    if config is not None:
        chosen, file, saved_data = _read_config(entry, os.fspath(config))
        data = saved_data if data is None else data
    name, is_path = resolve_data(entry, data)

    layers: list[tuple[str, Mapping[str, Any]]] = []
    used: list[str] = []
    bring = "" if is_path else entry.datasets[name].preset
    if bring:
        layers.append((f"preset {bring!r} of the dataset {name!r}", _preset(entry, bring)))
        used.append(bring)
    if chosen is not None:
        label = Path(file).name if file else os.fspath(config or "")
        layers.append((file or f"preset {label!r}", chosen))
        if label not in used:
            used.append(label)
    layers += _assigned(assignments)
    if max_steps is not None:
        layers.append(("--max-steps", {"engine": {"max_steps": max_steps}}))
    if precision is not None:
        layers.append(("--precision", {"engine": {"precision": precision}}))

    resolved = resolve_config(entry.config_class(), layers)
    return Request(entry, resolved, name, is_path, "+".join(used), tuple(source for source, _ in layers))


def resolve_data(entry: Entry, data: str | os.PathLike[str] | None) -> tuple[str, bool]:
    """Name or path of the data, and whether it is a path.

    Raises:
        DataError: neither a dataset of the method nor an existing path, or the method reads no files.
    """
    datasets = entry.datasets
    name = DEMO if data is None else os.fspath(data)
    if name in datasets:
        return name, False
    has = f"its datasets: {', '.join(datasets) or 'none'}"
    if data is None:
        raise DataError(f"{entry.id!r} brings no demo data; name some with --data ({has})")
    if not Path(name).exists():
        raise DataError(
            f"--data {name!r} is neither a dataset of {entry.id!r} ({has}) nor an existing path."
            + did_you_mean(name, [*datasets, *_neighbours(Path(name))])
        )
    if not entry.spec.reader:
        raise DataError(f"{entry.id!r} reads no files; use one of {has}")
    return name, True


def check_out(out: str | os.PathLike[str], *, resume: bool = False) -> None:
    """Refuse a run directory that exists already, unless it is to be resumed. An empty directory is fine.

    Raises:
        RunError: the directory holds something, is a file, or cannot be made where it should be.
    """
    path = Path(out)
    if path.is_dir():
        foreign = any(p.name not in LEFTOVERS for p in path.iterdir())
        is_run = (path / "config.yaml").is_file()
        if is_run and not resume:
            raise RunError(f"{path} holds a run already; continue it with --resume or choose another --out")
        if foreign and not resume:
            raise RunError(f"{path} exists and is not empty; choose another --out")
        # Below a directory of several runs there is one per seed, or per arm and seed of an ablation.
        several = any(path.glob("*/config.yaml")) or any(path.glob("*/*/config.yaml"))
        if foreign and not is_run and not several:
            raise RunError(f"{path} is no run directory (config.yaml is missing), so it cannot be resumed")
        nearest = path
    else:
        nearest = next(p for p in (path, *path.absolute().parents) if p.exists() or p.is_symlink())
        if not nearest.is_dir():
            raise RunError(f"{path} cannot be made: {nearest} is not a directory; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunError(f"{path} cannot be written: no permission in {nearest}; choose another --out")


def check_run(run: str | os.PathLike[str]) -> None:
    """Refuse what is no run directory.

    Raises:
        RunError: it does not exist or holds no ``config.yaml``.
    """
    path = Path(run)
    if not path.exists():
        raise RunError(f"no run directory {str(path)!r}." + did_you_mean(str(path), _neighbours(path)))
    if not (path / "config.yaml").is_file():
        raise RunError(f"{path} is no run directory: it holds no config.yaml")


def check_model(model: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> None:
    """Refuse, before torch is loaded, what can be no model, and data that its method cannot have.

    Args:
        model: a run directory, a ``save_pretrained`` folder or a hub id.
        data: a dataset of the model's method, or a path. None: not checked.

    Raises:
        RunError: a directory that is neither run nor model, or a path that does not exist.
        CheckpointError: the folder's ``config.json`` is damaged.
        PluginError: the model's method is not there; :class:`MissingDependency` if its extra is not installed.
        DataError: ``data`` is neither a dataset of the method nor an existing path.
    """
    text = os.fspath(model)
    path = Path(text)
    if not path.exists():
        first = Path(path.parts[0]) if path.parts else path
        if not _HUB_ID.fullmatch(text) or (len(path.parts) > 1 and first.is_dir()):
            raise RunError(
                f"no model {text!r}: it is no existing directory, nor an id like 'owner/name' on the hub."
                + did_you_mean(text, _neighbours(path))
            )
        return
    name: object
    if (path / "config.yaml").is_file():
        name = load_yaml(path / "config.yaml").get("method")
        if not (path / "model" / "config.json").is_file():
            raise RunError(f"{path} has no model yet: its training is not finished; go on with train --resume")
    elif (path / "config.json").is_file():
        try:
            about = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path / 'config.json'} is damaged ({error})") from error
        name = about.get("method") if isinstance(about, dict) else None
    else:
        raise RunError(f"{path} is neither a run directory (config.yaml) nor a saved model (config.json)")
    if not isinstance(name, str):
        raise CheckpointError(f"{path} does not say which method it belongs to; it was not written by polycontrast")
    entry = default().method(name)
    entry.require()
    if data is not None:
        resolve_data(entry, data)


def _read_config(entry: Entry, config: str) -> tuple[Mapping[str, Any], str | None, str | None]:
    """Values, the file they came from if any, and the data named in it if it is a run's."""
    if not (config.endswith((".yaml", ".yml")) or "/" in config or os.sep in config):
        return _preset(entry, config), None, None
    path = Path(config)
    if not path.is_file():
        raise ConfigError(f"--config: no file {config!r}." + did_you_mean(config, _neighbours(path)))
    values = load_yaml(path)
    if not {"method", "config"} <= values.keys():
        return values, config, None
    if values["method"] != entry.id or not isinstance(values["config"], Mapping):
        raise ConfigError(f"{config} is the config of a run of {values['method']!r}, not of {entry.id!r}")
    return values["config"], config, str(values["data"]) if "data" in values else None


def _preset(entry: Entry, name: str) -> Mapping[str, Any]:
    presets = entry.presets()
    if name not in presets:
        raise ConfigError(
            f"{entry.id!r} has no preset {name!r}; it has {', '.join(presets) or 'none'} "
            "(a file must end in .yaml or hold a slash)." + did_you_mean(name, presets)
        )
    return presets[name].values


def _assigned(assignments: str | Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(assignments, Mapping):
        return [("set", _nested(assignments))] if assignments else []
    texts = [assignments] if isinstance(assignments, str) else list(assignments)
    return [("--set", parse_assignments(texts))] if texts else []


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1, "a": {"c": 2}}`` -> ``{"a": {"b": 1, "c": 2}}``."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        *groups, last = key.split(".")
        at = out
        for group in groups:
            at = at.setdefault(group, {})
            if not isinstance(at, dict):
                raise ConfigError(f"set: {key!r} and {group!r} cannot both be given")
        inner = _nested(value) if isinstance(value, Mapping) else value
        if isinstance(inner, dict) and isinstance(at.get(last), dict):
            at[last].update(inner)
        else:
            at[last] = inner
    return out


def _neighbours(path: Path) -> list[str]:
    """Paths beside one that does not exist, for a near match."""
    parent = path.parent
    try:
        return [str(parent / p.name) for p in parent.iterdir()] if parent.is_dir() else []
    except OSError:
        return []
