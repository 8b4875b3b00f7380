"""What ``import polycontrast`` offers and the command line calls: train, evaluate, embed, predict, load, report.

Data goes down once and comes back once: a request is resolved, the method is built for the data, the engine trains
it into a run directory, its numbers are measured beside those of cheap known methods, and the report reads the
directory.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import snapshot_download

from polycontrast import distributed
from polycontrast import report as report_page
from polycontrast.config import MethodConfig, changed, to_dict
from polycontrast.data import Dataset, Purpose, derive_seed
from polycontrast.engine import Engine, accelerator_for, checkpoint, describe_stage, seed_everything
from polycontrast.errors import ConfigError, RunError
from polycontrast.files import atomic_file, write_text
from polycontrast.method import Baseline, Method, read_model_config
from polycontrast.plugins import Entry, default
from polycontrast.request import Request, check_out, resolve, resolve_data
from polycontrast.runs import Run, default_directory, describe_environment, jsonable

Assignments = Sequence[str] | Mapping[str, Any]
PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The numbers of one run or one evaluation, as in result.json."""

    run: str
    method: str
    dataset: str
    preset: str
    seed: int
    steps: int
    seconds: float
    headline: str
    higher_is_better: bool
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    floors: Sequence[str]
    protocol: Mapping[str, Any]
    published: Mapping[str, Mapping[str, float]]
    notes: Sequence[str]
    parameters: int
    licence: str = ""
    citation: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite is None."""
        plain: dict[str, Any] = jsonable({name: getattr(self, name) for name in self.__dataclass_fields__})
        return plain


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training would do, without doing it."""

    method: str
    dataset: str
    preset: str
    seed: int
    run: str
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    protocol: Mapping[str, Any]
    notes: Sequence[str]
    parameters: int
    stages: Sequence[Mapping[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain: dict[str, Any] = jsonable({name: getattr(self, name) for name in self.__dataclass_fields__})
        return plain


def train(
    method: str,
    *,
    data: PathLike | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    out: PathLike | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str | None = None,
    precision: str | None = None,
    max_steps: int | None = None,
    progress: bool = True,
    command: list[str] | None = None,
) -> Result:
    """Train a method, measure it beside its baselines, and leave a run directory with model and report.

    Args:
        method: ``domain/name``, or a bare name that is unique.
        data: a dataset of the method or a path. None: its demo data.
        config: a preset of the method or a YAML file.
        set: ``"a.b=c"`` texts or values by name; they win over everything else.
        out: run directory. None: ``runs/METHOD/TIME-sSEED``.
        seed: of generated data, initialisation, order and per-sample randomness.
        resume: go on with the run at ``out``; start it if there is none; of a finished run, return its result.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. None: the best there is.
        precision: ``no``, ``bf16`` or ``fp16``.
        max_steps: bound of optimiser steps per stage.
        progress: whether to show a live line on standard error.
        command: what reproduces the run, for its record.

    Raises:
        InputError: the call or the data is wrong; nothing was created.
        TrainingError: the loss was not finite.
        Interrupted: a signal came; the run can be resumed.
    """
    request = resolve(method, data=data, config=config, assignments=set, max_steps=max_steps, precision=precision)
    if resume and out is None:
        raise RunError("resume needs the directory of the run: give out")
    path = Path(out) if out is not None else default_directory(request.entry.id, seed)
    check_out(path, resume=resume)
    known = _known(request, seed)
    if resume and Run.exists(path):
        run = Run.open(path)
        _refuse_other_settings(run, known)
        if run.result is not None:
            _write_pages(run)  # a kill may have come between the numbers and the pages
            return _result(run)
    accelerator = accelerator_for(device, request.config.engine.precision)
    path = Path(distributed.text_from_main(str(path), accelerator.device))
    method_class = request.entry.load()
    dataset = _open(request.entry, request.data, request.is_path, request.config, seed, "train")
    saved = checkpoint.newest(path / "checkpoints")
    seed_everything(derive_seed(seed, "initialisation"))
    info = saved.info if saved is not None else method_class.inspect(request.config, dataset)
    built = method_class(request.config, info)
    built.stages(dataset)  # the method refuses here what it cannot train on, before anything is created
    if accelerator.is_main_process and not Run.exists(path):
        environment = describe_environment(
            command=command,
            owner=request.entry.owner,
            device=str(accelerator.device),
            processes=accelerator.num_processes,
        )
        Run.create(path, config=known, environment=environment)
    distributed.barrier()
    run = Run.open(path)
    engine = Engine(built, dataset, run, accelerator, seed=seed, saved=saved, progress=progress)
    _say_what_changed(engine, run)
    for note in dataset.notes:
        engine.say(note)
    engine.run()
    if accelerator.is_main_process:
        seed_everything(derive_seed(seed, "evaluation"))
        result = _measure(built, dataset, request, seed, run=str(path), steps=engine.step, seconds=engine.seconds)
        charts = [chart.as_dict() for chart in built.charts(dataset)]
        built.info["origin"] = {
            "data": request.data,
            "is_path": request.is_path,
            "seed": seed,
            "preset": request.preset,
        }
        built.cpu().save_pretrained(run.model_dir)
        run.write_charts(charts)
        run.write_result(result.as_dict())
        _write_pages(run)
    distributed.barrier()
    return _result(run)


def plan(
    method: str,
    *,
    data: PathLike | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    out: PathLike | None = None,
    seed: int = 0,
    precision: str | None = None,
    max_steps: int | None = None,
) -> Plan:
    """What :func:`train` would do with the same arguments. Reads the data, creates nothing."""
    request = resolve(method, data=data, config=config, assignments=set, max_steps=max_steps, precision=precision)
    path = Path(out) if out is not None else default_directory(request.entry.id, seed)
    check_out(path)
    method_class = request.entry.load()
    dataset = _open(request.entry, request.data, request.is_path, request.config, seed, "train")
    built = method_class(request.config, method_class.inspect(request.config, dataset))
    stages = [describe_stage(built, stage) for stage in built.stages(dataset)]
    return Plan(
        method=request.entry.id, dataset=request.data, preset=request.preset, seed=seed, run=str(path),
        config=to_dict(request.config), info=built.info, protocol=dict(dataset.protocol), notes=list(dataset.notes),
        parameters=_parameters(built), stages=stages,
    )  # fmt: skip


def train_seeds(method: str, *, seeds: int, out: PathLike | None = None, **how: Any) -> dict[str, Any]:
    """Train with seeds 0 to ``seeds`` - 1, each into its own directory below ``out``.

    Args:
        method: as in :func:`train`.
        seeds: number of runs.
        out: directory of the runs. None: each run has its default place.
        how: everything else that :func:`train` takes.

    Returns:
        ``runs``, the result objects, and ``summary``, mean and standard deviation (of the sample) by metric.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}")
    runs = []
    for seed in range(seeds):
        place = Path(out) / f"s{seed}" if out is not None else None
        runs.append(train(method, out=place, seed=seed, **how).as_dict())
    return {"runs": runs, "summary": summarise([r["metrics"] for r in runs])}


def summarise(rows: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation by metric over runs; the deviation of one run is None."""
    summary: dict[str, dict[str, float | None]] = {}
    for name in rows[0]:
        values = [v for row in rows if (v := row.get(name)) is not None and math.isfinite(v)]
        summary[name] = {
            "mean": statistics.fmean(values) if values else None,
            "std": statistics.stdev(values) if len(values) > 1 else None,
        }
    return summary


def load(model: PathLike) -> Method:
    """The method in a run directory, a ``save_pretrained`` folder or under a hub id, ready to use.

    Raises:
        RunError: a run that has no model yet.
        CheckpointError: the model is damaged.
    """
    return _load(model)[0]


def evaluate(model: PathLike, *, data: PathLike | None = None, device: str | None = None) -> Result:
    """Measure a saved model beside its baselines, on the data it was trained for or on other data.

    The result of a run directory is also kept under its ``evaluations/``.
    """
    built, entry, folder, run = _load(model)
    started = time.monotonic()
    accelerator = accelerator_for(device, "no")
    name, is_path, seed = _data_for(built, entry, data)
    dataset = _open(entry, name, is_path, built.config, seed, "evaluate")
    origin = built.info.get("origin", {})
    request = Request(entry, built.config, name, is_path, origin.get("preset", ""), ())
    seed_everything(derive_seed(seed, "evaluation"))
    result = _measure(
        built.to(accelerator.device), dataset, request, seed, run=str(run.path if run else folder),
        steps=(run.result or {}).get("steps", 0) if run else 0, seconds=0.0, since=started,
    )  # fmt: skip
    if run is not None:
        run.write_evaluation(result.as_dict())
    return result


def embed(model: PathLike, *, data: PathLike | None = None, out: PathLike | None = None) -> pa.Table:
    """The representation of every sample; written to ``out`` (Parquet) if given."""
    return _apply(model, data, out, "embed_table")


def predict(model: PathLike, *, data: PathLike | None = None, out: PathLike | None = None) -> pa.Table:
    """The task output (forecasts, scores, labels) in original units; written to ``out`` (Parquet) if given."""
    return _apply(model, data, out, "predict_table")


def report(run: PathLike) -> Path:
    """Write ``report.html`` of a run, finished or not, and return its path."""
    return report_page.write(Run.open(Path(run)))


# ---- below: how ------------------------------------------------------------------------------------------------


def _known(request: Request, seed: int) -> dict[str, Any]:
    """What config.yaml holds."""
    data = str(Path(request.data).resolve()) if request.is_path else request.data
    return {
        "method": request.entry.id,
        "data": data,
        "preset": request.preset,
        "seed": seed,
        "config": to_dict(request.config),
    }


def _refuse_other_settings(run: Run, wanted: Mapping[str, Any]) -> None:
    saved = run.config
    for name in ("method", "data", "seed"):
        if saved[name] != wanted[name]:
            raise RunError(f"{run.path} was begun with {name} {saved[name]}, not {wanted[name]}; choose another --out")
    differs = changed(saved["config"], wanted["config"])
    if differs:
        raise RunError(
            f"{run.path} was begun with another {differs[0]}; resume with the same settings or choose another --out"
        )


def _write_pages(run: Run) -> None:
    write_text(run.model_dir / "README.md", report_page.model_card(run))
    report_page.write(run)


def _result(run: Run) -> Result:
    stored = run.result
    if stored is None:
        raise RunError(f"{run.path} is not finished; go on with --resume")
    return Result(**{name: stored[name] for name in Result.__dataclass_fields__ if name in stored})


def _open(entry: Entry, name: str, is_path: bool, config: MethodConfig, seed: int, purpose: Purpose) -> Dataset:
    if is_path:
        return cast(Dataset, entry.reader()(Path(name), config, seed, purpose))
    return cast(Dataset, entry.dataset_loader(name)(config, seed, purpose))


def _measure(
    method: Method, dataset: Dataset, request: Request, seed: int, *, run: str, steps: int, seconds: float,
    since: float | None = None,
) -> Result:  # fmt: skip
    method.eval()
    metrics = method.evaluate(dataset)
    baselines: dict[str, Baseline] = method.baselines(dataset)
    floors = [name for name, b in baselines.items() if b.floor]
    headline = method.HEADLINE
    if headline not in metrics or not floors or any(headline not in baselines[f].metrics for f in floors):
        raise TypeError(f"{method.id} must report its headline {headline!r} for itself and for at least one floor")
    return Result(
        run=run, method=method.id, dataset=request.data, preset=request.preset, seed=seed, steps=steps,
        seconds=round(seconds if since is None else time.monotonic() - since, 3),
        headline=headline, higher_is_better=method.HIGHER_IS_BETTER,
        metrics=metrics, baselines={name: dict(b.metrics) for name, b in baselines.items()}, floors=floors,
        protocol=dict(dataset.protocol), published=method.published(dataset), notes=list(dataset.notes),
        parameters=_parameters(method), licence=dataset.licence, citation=dataset.citation,
    )  # fmt: skip


def _parameters(method: Method) -> int:
    return sum(p.numel() for p in method.parameters())


def _say_what_changed(engine: Engine, run: Run) -> None:
    before = run.environment
    if engine.resumed and before.get("threads") != torch.get_num_threads():
        engine.say(
            f"this run began with {before.get('threads')} threads and goes on with {torch.get_num_threads()}: "
            "the last bits of its numbers may differ from an uninterrupted run"
        )


def _load(model: PathLike) -> tuple[Method, Entry, Path, Run | None]:
    path = Path(model)
    run = Run.open(path) if Run.exists(path) else None
    if run is not None:
        folder = run.model_dir
        if not (folder / "config.json").exists():
            raise RunError(f"{path} has no model yet: its training is not finished; go on with train --resume")
    elif path.exists():
        folder = path
    else:
        folder = Path(snapshot_download(str(model)))
    about = read_model_config(folder)
    entry = default().method(str(about["method"]))
    return entry.load().from_pretrained(folder), entry, folder, run


def _data_for(method: Method, entry: Entry, data: PathLike | None) -> tuple[str, bool, int]:
    origin = method.info.get("origin", {})
    seed = int(origin.get("seed", 0))
    if data is None:
        if not origin:
            raise RunError("this model does not know its data; name some with --data")
        data = origin["data"]
    name, is_path = resolve_data(entry, data)
    return name, is_path, seed


def _apply(model: PathLike, data: PathLike | None, out: PathLike | None, what: str) -> pa.Table:
    built, entry, _, _ = _load(model)
    name, is_path, seed = _data_for(built, entry, data)
    dataset = _open(entry, name, is_path, built.config, seed, "predict")
    table: pa.Table = getattr(built, what)(dataset)
    if out is not None:
        with atomic_file(Path(out)) as temporary:
            pq.write_table(table, temporary)
    return table


__all__ = [
    "Plan",
    "Result",
    "embed",
    "evaluate",
    "load",
    "plan",
    "predict",
    "report",
    "summarise",
    "train",
    "train_seeds",
]
