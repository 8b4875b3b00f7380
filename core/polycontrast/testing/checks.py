"""The checks. Each takes a case and an empty folder, and raises AssertionError with one line on what to mend."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from polycontrast import api
from polycontrast.config import MethodConfig, describe, from_dict, to_dict
from polycontrast.data import Dataset, derive_seed
from polycontrast.engine import Engine, accelerator_for, checkpoint, seed_everything
from polycontrast.errors import PolycontrastError, one_line
from polycontrast.method import Method, to_device
from polycontrast.plugins import Entry, default
from polycontrast.request import Request, resolve
from polycontrast.runs import Run

_SHORT = {"engine.max_steps": 3, "engine.log_steps": 1, "engine.checkpoint_steps": 1}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method, and how to make its training short.

    Args:
        method: ``domain/name``.
        data: one of the method's datasets, small and generated.
        set: settings by dotted name that make it small; every stage is cut to 3 steps anyway.
        known_failures: reasons by name of a check. They are strict: a check that passes again is a failure.
    """

    method: str = field(kw_only=False)
    data: str = "demo"
    set: Mapping[str, Any] = field(default_factory=dict)
    known_failures: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def entry(self) -> Entry:
        """What the registry knows of the method; its extra must be installed."""
        entry = default().method(self.method)
        entry.require()
        return entry

    def request(self, **more: Any) -> Request:
        """The method with its short configuration."""
        return resolve(self.method, data=self.data, assignments={**_SHORT, **self.set, **more})

    def config(self, **more: Any) -> MethodConfig:
        """The short configuration."""
        return self.request(**more).config

    def dataset(self, config: MethodConfig, seed: int = 0) -> Dataset:
        """The data, as training gets it."""
        dataset: Dataset = self.entry.dataset_loader(self.data)(config, seed, "train")
        return dataset

    def engine(self, folder: Path, *, seed: int = 0, **more: Any) -> Engine:
        """An engine on a new run directory, or on one that is to be resumed."""
        config = self.config(**more)
        data = self.dataset(config, seed)
        if not Run.exists(folder):
            about = {"method": self.method, "data": self.data, "preset": "", "seed": seed, "config": to_dict(config)}
            Run.create(folder, config=about, environment={})
        saved = checkpoint.newest(folder / "checkpoints")
        seed_everything(derive_seed(seed, "initialisation"))
        method_class = self.entry.load()
        built = method_class(config, saved.info if saved is not None else method_class.inspect(config, data))
        return Engine(
            built, data, Run.open(folder), accelerator_for("cpu", "no"), seed=seed, saved=saved, progress=False
        )

    def train(self, folder: Path, *, seed: int = 0, **more: Any) -> Engine:
        """The short training."""
        engine = self.engine(folder, seed=seed, **more)
        engine.run()
        return engine


Check = Callable[[Case, Path], None]
CHECKS: list[Check] = []
"""All checks, cheap ones first."""


def _check(function: Check) -> Check:
    CHECKS.append(function)
    return function


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check of a method ended."""

    method: str
    check: str
    state: str
    """``ok``, ``failed`` or ``known`` (a failure that the case names)."""
    message: str
    seconds: float


def conformance(cases: Sequence[Case]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a pytest test with arguments ``case`` and ``check``: one test per method and check."""
    import pytest

    marks = [
        pytest.param(
            case, check, id=f"{case.method}-{check.__name__}",
            marks=[pytest.mark.xfail(reason=why, strict=True, raises=AssertionError)]
            if (why := case.known_failures.get(check.__name__)) else [],
        )
        for case in cases
        for check in CHECKS
    ]  # fmt: skip
    return pytest.mark.parametrize(("case", "check"), marks)


def run_checks(case: Case, folder: Path) -> Iterator[Outcome]:
    """All checks on one method, each in a folder of its own below ``folder``; no exception leaves a check."""
    for check in CHECKS:
        place = folder / check.__name__
        place.mkdir(parents=True)
        known = case.known_failures.get(check.__name__)
        started = time.monotonic()
        try:
            check(case, place)
        except AssertionError as error:
            state, message = ("known", known) if known else ("failed", one_line(error))
        except Exception as error:  # noqa: BLE001  whatever a stranger's method raises is what it is told
            name = "" if isinstance(error, PolycontrastError) else f"{type(error).__name__}: "
            state, message = "failed", name + one_line(error)
        else:
            state, message = ("failed", "passes again: remove it from known_failures") if known else ("ok", "")
        yield Outcome(case.method, check.__name__, state, message, time.monotonic() - started)


# ---- without training ------------------------------------------------------------------------------------------


@_check
def manifest_and_config_import_no_torch(case: Case, folder: Path) -> None:
    """``list`` and ``info`` must answer in a blink."""
    module = case.entry.spec.config.partition(":")[0]  # importing it imports the package with the manifest too
    code = f"import sys; sys.path[:] = {sys.path!r}; import {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{module} cannot be imported alone: {one_line(RuntimeError(done.stderr[-300:]))}"
    assert done.stdout.split() == ["False"], f"{module} or its package imports torch; import it where it is used"


@_check
def every_setting_says_what_it_is(case: Case, folder: Path) -> None:
    """``info`` shows a line for each."""
    silent = [entry.path for entry in describe(case.entry.config_class()) if not entry.doc]
    assert not silent, f"no text under {', '.join(silent)}; write what it is and where its default comes from"


@_check
def the_source_is_named(case: Case, folder: Path) -> None:
    """A method is somebody's."""
    assert case.entry.spec.summary, "the manifest has no summary for this method"
    assert (case.entry.load().__doc__ or "").strip(), f"{case.entry.spec.target} has no docstring; name the paper"


@_check
def presets_fit_the_config(case: Case, folder: Path) -> None:
    """Every preset can be resolved, and says what it is for."""
    for name, preset in case.entry.presets().items():
        resolve(case.method, data=case.data, config=name)
        assert preset.doc, f"preset {name} does not begin with a comment that says what it is for"


@_check
def the_config_survives_writing_and_reading(case: Case, folder: Path) -> None:
    """A run is resumed from what config.yaml holds."""
    config = case.config()
    again = from_dict(type(config), to_dict(config), source="check")
    assert again == config, "a setting changes when it is written and read again"


# ---- training --------------------------------------------------------------------------------------------------


@_check
def terms_are_declared_and_finite(case: Case, folder: Path) -> None:
    """Every active term is logged as a finite number, and nothing else is."""
    method = case.train(folder / "run").method
    logged = _logged_terms(folder / "run", method)
    active = {name for name in method.TERMS if method.active(name)}
    assert logged.keys() <= active, f"terms() gives {', '.join(logged.keys() - active)}, not active or not declared"
    assert active <= logged.keys(), f"no value of {', '.join(active - logged.keys())} in any step"
    wrong = [name for name, value in logged.items() if not math.isfinite(value)]
    assert not wrong, f"{', '.join(wrong)} is not finite"


@_check
def a_term_that_is_off_is_not_computed(case: Case, folder: Path) -> None:
    """``--set off=[NAME]`` leaves a term out and the rest works on."""
    config = case.config()
    for name in case.entry.load().auxiliary_terms(config):
        engine = case.train(folder / name, off=[*config.off, name], **{"engine.max_steps": 1})
        assert name not in _logged_terms(folder / name, engine.method), f"term {name} is computed although it is off"


@_check
def every_parameter_learns(case: Case, folder: Path) -> None:
    """What requires a gradient moves; what does not learn should be frozen or a buffer."""
    engine = case.engine(folder / "run")
    before = {name: p.detach().clone() for name, p in engine.method.named_parameters()}
    engine.run()
    dead = [
        name
        for name, p in engine.method.named_parameters()
        if p.requires_grad and name in before and torch.equal(p.cpu(), before[name])
    ]
    assert not dead, f"{', '.join(dead)} did not move; use it in a term, or freeze it"


@_check
def the_same_seed_gives_the_same_weights(case: Case, folder: Path) -> None:
    """Twice the same; and another seed gives other weights."""
    first, again = (_state(case.train(folder / name)) for name in ("first", "again"))
    differs = _differing(first, again)
    assert not differs, f"{differs} differs between two runs with one seed; draw from batch['draw']"
    other = _state(case.train(folder / "other", seed=1))
    assert _differing(first, other), "another seed gives the same weights"


@_check
def a_killed_run_ends_with_the_same_weights(case: Case, folder: Path) -> None:
    """Killed in every stage and resumed each time: the weights of the uninterrupted run, bit for bit."""

    class Killed(BaseException):
        """Nothing in the engine catches it, like a power cut."""

    method_class = case.entry.load()
    on_step_end = method_class.on_step_end
    killed_in: list[str] = []

    def dies(self: Method, stage: Any, engine: Any) -> None:
        on_step_end(self, stage, engine)
        if engine.stage_step == 1 and stage.name not in killed_in:
            killed_in.append(stage.name)
            raise Killed

    whole = _state(case.train(folder / "whole"))
    resumed = None
    with patch.object(method_class, "on_step_end", dies):
        while resumed is None:
            with suppress(Killed):
                resumed = _state(case.train(folder / "killed"))
    assert killed_in, "no stage has two steps, so nothing could be checked; make the case longer"
    differs = _differing(whole, resumed)
    assert not differs, f"{differs} differs after a resume; keep it in state_dict, info, or engine.register it"


@_check
def the_result_is_complete_and_the_saved_model_repeats_it(case: Case, folder: Path) -> None:
    """Headline and floors are there; a loaded model measures the same."""
    result = api.train(
        case.method, data=case.data, set={**_SHORT, **case.set}, out=folder / "run", device="cpu", progress=False
    )
    assert result.floors, "baselines() has no floor, which a working method must beat"
    value = result.metrics[result.headline]
    assert math.isfinite(value), f"the headline {result.headline} is {value}"
    again = api.evaluate(folder / "run", device="cpu").metrics
    for name, first in result.metrics.items():
        same = first == again[name] or math.isclose(first, again[name], rel_tol=1e-5, abs_tol=1e-7)
        assert same or math.isnan(first), f"{name} is {again[name]} after loading, was {first}: something is not saved"


@_check
def embeddings_do_not_depend_on_their_neighbours(case: Case, folder: Path) -> None:
    """In evaluation mode a sample has one representation, whatever else is in its batch."""
    config = case.config()
    data = case.dataset(config)
    if case.entry.load().embed is Method.embed:
        return
    built = case.entry.load()(config, case.entry.load().inspect(config, data))
    try:
        examples = built.examples(data, "test")
    except PolycontrastError:
        return  # a method may know other ways to its embeddings than through examples
    ids = list(range(min(4, len(examples))))
    whole = _embedded(built, examples, ids)
    for at in ids:
        alone = _embedded(built, examples, [at])
        close = torch.allclose(whole[at], alone[0], rtol=1e-3, atol=1e-4)
        assert close, "a sample's embedding changes with its batch; use no batch statistics in evaluation mode"


# ---- below: how ------------------------------------------------------------------------------------------------


def _logged_terms(folder: Path, method: Method) -> dict[str, float]:
    """The last value of each term in metrics.jsonl; NaN where it was not finite."""
    values: dict[str, float] = {}
    for row in Run.open(folder).metrics():
        for name in method.TERMS:
            if (key := f"train/{name}") in row:
                values[name] = math.nan if row[key] is None else float(row[key])
    return values


def _state(engine: Engine) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in engine.method.state_dict().items()}


def _differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """Names of what is not equal bit for bit, or an empty text."""
    names = [name for name in a if name not in b or not torch.equal(a[name].nan_to_num(), b[name].nan_to_num())]
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


def _embedded(method: Method, examples: Any, ids: list[int]) -> Tensor:
    batch = examples[ids]
    batch["draw"] = batch["id"]
    method.eval()
    with torch.no_grad():
        return method.embed(to_device(batch, method.device)).float()
