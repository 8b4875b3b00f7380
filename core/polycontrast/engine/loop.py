"""The one training loop. Read :meth:`Engine.run` first: everything else serves it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils.data import DataLoader

from polycontrast import distributed
from polycontrast.config import EngineConfig
from polycontrast.data import Batch, Dataset, Examples, ResumableSampler, derive_seed, draws
from polycontrast.engine import checkpoint
from polycontrast.engine.averages import AveragedWeights
from polycontrast.engine.optimisers import NamedOptimiser
from polycontrast.engine.progress import ProgressLine
from polycontrast.engine.randomness import random_state, restore_random_state, seed_everything, undisturbed
from polycontrast.engine.signals import SafeStop
from polycontrast.engine.trackers import Trackers
from polycontrast.engine.watch import CollapseWatch
from polycontrast.errors import ConfigError, DataError, Interrupted, TrainingError, did_you_mean
from polycontrast.files import atomic_file
from polycontrast.method import Checkpointable, Method, Source, Stage, to_device
from polycontrast.runs import Run


class Engine:
    """Trains a method on a dataset and leaves everything in a run directory.

    Args:
        method: the method, freshly built; from the ``info`` of ``saved`` if there is one.
        data: the dataset.
        run: where checkpoints and metrics go.
        accelerator: device, precision and processes; from :func:`accelerator_for`.
        seed: of order, per-sample randomness and dropout.
        saved: the checkpoint to go on from, from :func:`polycontrast.engine.checkpoint.newest`.
        progress: whether to show the live line.
    """

    def __init__(
        self,
        method: Method,
        data: Dataset,
        run: Run,
        accelerator: Accelerator,
        *,
        seed: int = 0,
        saved: checkpoint.Saved | None = None,
        progress: bool = True,
    ) -> None:
        self.method = method
        self.data = data
        self.run_dir = run
        self.folder = run.path
        self.seed = seed
        self.config: EngineConfig = method.config.engine
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.seconds = 0.0
        """Training time so far, over all resumptions."""

        self.resumed = saved is not None
        self._saved = saved
        self.step = 0
        self._stage_index = 0
        self._reset_stage_counters()

        self._optimisers: dict[str, NamedOptimiser] = {}
        self._average: AveragedWeights | None = None
        self._watch = CollapseWatch(method, data, on=self.config.watch)
        self._registered: dict[str, Checkpointable] = {}
        self._per_process: dict[str, Checkpointable] = {}
        self._unclaimed: dict[str, Any] = {}
        self._unclaimed_optimisers: dict[str, Any] = {}
        self._window: dict[str, Tensor] = {}
        self._window_steps = 0
        self._rates: dict[str, float] = {}
        self._finite = True
        self._last_loss: Tensor = torch.zeros(())
        self._part_scale = 1.0
        self._last_part = True
        self._line = ProgressLine(progress and accelerator.is_main_process)
        self._trackers: Trackers
        self._last_save = time.monotonic()
        self._save_cost = 0.0

    def _reset_stage_counters(self) -> None:
        self.stage_step = 0
        self.stage_steps = 0
        self.epoch = 0
        self._epoch_batch = 0
        self._stage_started = self._epoch_started = self._stage_over = False
        self._best: dict[str, Any] | None = None
        self._looks_without_better = 0

    # ---- the loop --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train all stages, or what a resumed run has left of them.

        Raises:
            Interrupted: a signal came; a checkpoint was written.
            TrainingError: a loss was not finite and ``engine.nonfinite`` is ``raise``.
        """
        self._trackers = Trackers(self.run_dir, self.config.trackers)
        try:
            with SafeStop() as self._stop, self._line:
                self._begin()
                stages = self.method.stages(self.data)
                for stage in stages[self._stage_index :]:
                    self._run_stage(stage)
                    self._stage_index += 1
                    self._reset_stage_counters()
                    self._save()
        finally:
            self._trackers.close()

    def _begin(self) -> None:
        if self._saved is not None:
            self._restore(self._saved.shared, self._saved.own)
            self._saved = None
            self.say(f"resumed from step {self.step}")
        else:
            self.method.to(self.device)
            distributed.share_state(self.method)
            seed_everything(derive_seed(self.seed, "training", distributed.rank()))
            self._trackers.cut(0)
        self._clock = time.monotonic() - self.seconds
        if self.config.ema is not None and self._average is None:
            self._average = AveragedWeights(self.method, self.config.ema)
        self.register("collapse watch", self._watch)
        self.method.on_run_start(self.data, self)

    def _run_stage(self, stage: Stage) -> None:
        self.stage = stage
        self._freeze(stage)
        if not self._stage_started:
            self.method.on_stage_start(stage, self)
            self.method.to(self.device)
            distributed.share_state(self.method)  # what the hook has added was drawn differently in each process
            self._freeze(stage)
            self._stage_started = True
        self._build_optimisers(stage)
        self._line.start(stage.name, self.stage_steps, self.stage_step)
        while not self._stage_over:
            self._run_epoch(stage)
        self._finish_stage(stage)

    def _run_epoch(self, stage: Stage) -> None:
        """One pass over finite data, or the whole stage over a stream; after a resume, the rest of it."""
        if not self._epoch_started:
            self.method.on_epoch_start(stage, self)
            self._epoch_started = True
        source = stage.data() if callable(stage.data) else stage.data
        if not self.stage_steps:
            self.stage_steps = _length(self.method, stage, source)
            self._line.start(stage.name, self.stage_steps, 0)
        for batch in self._batches(stage, source):
            self._one_step(batch)
            if self._stage_over:  # patience has run out
                return
        if isinstance(source, Examples):
            self.method.on_epoch_end(stage, self)
            self.epoch += 1
            self._epoch_batch = 0
            self._epoch_started = False
            if self.config.validate_epochs and self.epoch % self.config.validate_epochs == 0:
                self._validate()
        self._stage_over |= self.stage_step >= self.stage_steps

    def _one_step(self, batch: Batch) -> None:
        if not self.method.training:
            self.method.train()
        self._rates = {
            f"lr/{name}": optimiser.set_learning_rate(self.stage_step, self.stage_steps)
            for name, optimiser in self._optimisers.items()
        }
        parts = list(_cut(batch, self.config.accumulate))
        self._part_scale = 1.0 / len(parts)
        for i, part in enumerate(parts):
            self._last_part = i + 1 == len(parts)
            with self.accelerator.autocast():
                self.method.step(part, self)
        self.method.on_step_end(self.stage, self)
        self.tick()

    def tick(self) -> None:
        """One step is done: count, log, look at the validation part, write a checkpoint, stop if asked to."""
        self.step += 1
        self.stage_step += 1
        self._epoch_batch += 1
        self._window_steps += 1
        if self._scaler is not None:
            self._scaler.update()
        if self._average is not None:
            self._average.update()
        if self.step % self.config.log_steps == 0:
            self._write_line()
        if self._line.due():
            self._line.show(self.stage_step, float(self._last_loss), self._batch_size(self.stage))
        steps = self.stage.validate_steps or self.config.validate_steps
        if steps and self.stage_step % steps == 0:
            self._validate()
        every = self.config.checkpoint_steps
        waited = time.monotonic() - self._last_save
        due = bool(every and self.step % every == 0)
        due |= waited >= max(self.config.checkpoint_seconds, 50.0 * self._save_cost)
        stop, due = distributed.any_process([self._stop.received is not None, due], self.device)
        if stop or due:
            self._save()
        if stop:
            number = self._stop.received or 15
            raise Interrupted(f"stopped at step {self.step}; go on with --resume --out {self.run_dir.path}", number)

    def _finish_stage(self, stage: Stage) -> None:
        self._write_line()
        if self._average is not None:
            self._average.keep()
        if self._best is not None:
            self.method.load_state_dict(self._best["weights"])
        self._look(last=True)
        self.method.on_stage_end(stage, self)
        for parameter in self.method.parameters():
            parameter.requires_grad_(True)
        if self._average is not None:
            self._average = AveragedWeights(self.method, self._average.decay)

    # ---- what a method may ask: see polycontrast.method.Engine -----------------------------------------------

    def minimise(self, terms: Mapping[str, Tensor], optimiser: str = "main") -> None:
        """Weigh, sum, check, differentiate, accumulate, clip and step one optimiser."""
        chosen = self._optimisers.get(optimiser)
        if chosen is None:
            raise ConfigError(
                f"no optimiser {optimiser!r} in stage {self.stage.name!r}; there are {list(self._optimisers)}"
            )
        total = self._weighted(terms)
        self._last_loss = total.detach()
        finite = self._check(total.detach(), terms)
        if finite and total.requires_grad:
            scaled = total * self._part_scale if self._part_scale != 1.0 else total
            if self._scaler is not None:
                scaled = self._scaler.scale(scaled)
            # Outside autocast, as torch asks; with several optimisers it must not touch the others' gradients.
            with torch.autocast(self.device.type, enabled=False):
                scaled.backward(inputs=chosen.parameters if len(self._optimisers) > 1 else None)  # type: ignore[no-untyped-call]
        if self._last_part:
            self._step_optimiser(chosen)

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        total: Tensor | None = None
        for name, value in terms.items():
            if name not in self.method.TERMS:
                raise ConfigError(f"{self.method.id} declares no term {name!r}.{did_you_mean(name, self.method.TERMS)}")
            weight = self.method.weight(name)
            if weight != 0.0:
                part = value if weight == 1.0 else weight * value
                total = part if total is None else total + part
            self.log({name: value})
        if total is None:
            raise ConfigError(
                f"{self.method.id}: every term of the loss is switched off; nothing is left to learn from"
            )
        self.log({"loss": total})
        return total

    def _check(self, total: Tensor, terms: Mapping[str, Tensor]) -> bool:
        """Whether this loss may be used.

        Without a GPU the question costs nothing, so it is asked every step; on a GPU every answer waits for the
        device, so it is asked when numbers are fetched anyway.
        """
        policy = self.config.nonfinite
        if policy == "ignore":
            return True
        if policy == "raise" and self.device.type != "cpu":
            return True  # _write_line looks at the sums
        (bad,) = distributed.any_process([not bool(torch.isfinite(total))], self.device)
        if bad and policy == "raise":
            broken = [name for name, value in terms.items() if not bool(torch.isfinite(value.detach()))]
            raise self._not_finite(broken)
        self._finite &= not bad
        return not bad

    def _not_finite(self, names: Iterable[str]) -> TrainingError:
        return TrainingError(
            f"the loss is not finite at step {self.step + 1} of stage {self.stage.name!r} "
            f"(term {', '.join(names) or 'in another process'}); lower optimiser.lr, set engine.clip_norm, "
            "or leave such steps out with engine.nonfinite=skip"
        )

    def _step_optimiser(self, chosen: NamedOptimiser) -> None:
        if self._finite:
            distributed.average_gradients(chosen.parameters)
            if self._scaler is not None:
                self._scaler.unscale_(chosen.torch)
            if self.config.clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_(chosen.parameters, self.config.clip_norm)
                self.log({f"grad_norm/{chosen.name}": norm})
            if self._scaler is not None:
                self._scaler.step(chosen.torch)
            else:
                chosen.torch.step()
        chosen.torch.zero_grad(set_to_none=True)
        self._finite = True

    def log(self, values: Mapping[str, Tensor | float]) -> None:
        """Add scalars to this step's line of metrics.jsonl. A name without a slash is shown as ``train/NAME``."""
        for name, value in values.items():
            number = value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
            number = number * self._part_scale if self._part_scale != 1.0 else number
            at = name if "/" in name else f"train/{name}"
            self._window[at] = self._window[at] + number if at in self._window else number

    def say(self, message: str) -> None:
        """Tell the person in front of the screen."""
        if self.accelerator.is_main_process:
            self._line.say(message)

    def register(self, name: str, part: Checkpointable, *, per_process: bool = False) -> None:
        """Put a stateful object into every checkpoint, and restore it now if this run was resumed."""
        (self._per_process if per_process else self._registered)[name] = part
        if name in self._unclaimed:
            part.load_state_dict(self._unclaimed.pop(name))

    def artefact(self, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that cost a lot to make, made once per key and kept in the run directory."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        file = self.run_dir.artefacts_dir / f"{digest}.safetensors"
        if distributed.rank() == 0 and not file.exists():
            with undisturbed():
                made = make()
            with atomic_file(file) as temporary:
                safetensors.torch.save_file(
                    {k: v.detach().cpu().contiguous() for k, v in made.items()}, temporary,
                    metadata={"key": json.dumps(key, sort_keys=True)},
                )  # fmt: skip
        distributed.barrier()
        return {k: v.to(self.device) for k, v in safetensors.torch.load_file(file).items()}

    # ---- data ------------------------------------------------------------------------------------------------

    def _batch_size(self, stage: Stage) -> int:
        return stage.batch_size or self.config.batch_size

    def _sampler(self, stage: Stage, examples: Examples) -> ResumableSampler:
        return ResumableSampler(
            size=len(examples), batch_size=self._batch_size(stage), seed=derive_seed(self.seed, stage.name),
            epoch=self.epoch, start=self._epoch_batch, rank=distributed.rank(), world=distributed.world_size(),
            shuffle=stage.shuffle,
        )  # fmt: skip

    def _batches(self, stage: Stage, source: Source) -> Iterator[Batch]:
        if not isinstance(source, Examples):
            self.register("stream", source, per_process=True)
            while self.stage_step < self.stage_steps:
                batch = source.next(self)
                rows = torch.arange(len(next(v for v in batch.values() if isinstance(v, Tensor))))
                where = derive_seed(self.seed, stage.name, self.stage_step, distributed.rank())
                yield self._prepared(batch, draws(where, rows))
            return
        key = derive_seed(self.seed, stage.name, "draw", self.epoch)
        loaded: Iterable[Batch]
        sampler = self._sampler(stage, source)
        if self.config.workers:
            loaded = DataLoader(
                source, batch_size=None, sampler=sampler, num_workers=self.config.workers,  # type: ignore[arg-type]
                pin_memory=self.device.type == "cuda", generator=torch.Generator().manual_seed(key),
            )  # fmt: skip
        else:
            loaded = (source[positions] for positions in sampler)
        for batch in loaded:
            if self.stage_step >= self.stage_steps:
                return
            yield self._prepared(batch, draws(key, batch["id"]))

    def _prepared(self, batch: Batch, keys: Tensor) -> Batch:
        batch["draw"] = keys
        return to_device(batch, self.device)

    # ---- parts that learn ------------------------------------------------------------------------------------

    def _freeze(self, stage: Stage) -> None:
        for prefix in stage.trains:
            if not any(name.startswith(prefix) for name, _ in self.method.named_parameters()):
                known = sorted({name.split(".")[0] for name, _ in self.method.named_parameters()})
                raise ConfigError(
                    f"stage {stage.name!r} trains {prefix!r}, which {self.method.id} has not; it has {known}"
                )
        for name, parameter in self.method.named_parameters():
            parameter.requires_grad_(not stage.trains or name.startswith(stage.trains))

    def _build_optimisers(self, stage: Stage) -> None:
        specs = self.method.optimisers(stage)
        self._optimisers = {name: NamedOptimiser(name, spec) for name, spec in specs.items()}
        shared = [p for o in self._optimisers.values() for p in o.parameters]
        if self.config.accumulate > 1 and len(shared) != len({id(p) for p in shared}):
            raise ConfigError(f"{self.method.id} has parameters in two optimisers: engine.accumulate must be 1")
        for name, state in self._unclaimed_optimisers.items():
            self._optimisers[name].load_state_dict(state)
        self._unclaimed_optimisers = {}

    # ---- measuring -------------------------------------------------------------------------------------------

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Inside the block the method holds the weights that are validated and saved: the averages, if any."""
        return self._average.applied() if self._average is not None else nullcontext()

    def _validate(self) -> None:
        self._require_finite()
        with undisturbed(), self.evaluated_weights():
            self.method.eval()
            with torch.no_grad():
                numbers = self.method.validate(self.data, self.stage)
            self.method.train()
            if numbers:
                self._write_row({f"val/{name}": value for name, value in numbers.items()})
            self._look()
            select = self.stage.select
            if select is None:
                return
            if select not in numbers:
                given = ", ".join(numbers) or "nothing"
                raise ConfigError(f"stage {self.stage.name!r} selects by {select!r}, but validation gave {given}")
            (value,) = distributed.from_main([numbers[select]], self.device)
            sign = 1.0 if self.stage.higher_is_better else -1.0
            if self._best is None or sign * value > sign * self._best["value"]:
                weights = {k: v.detach().cpu().clone() for k, v in self.method.state_dict().items()}
                self._best = {"value": value, "step": self.step, "weights": weights}
                self._looks_without_better = 0
            else:
                self._looks_without_better += 1
                patience = self.stage.patience
                self._stage_over |= patience is not None and self._looks_without_better >= patience

    @property
    def warnings(self) -> list[str]:
        """What a person should know of this run before trusting its numbers."""
        return self._watch.warnings

    def _look(self, *, last: bool = False) -> None:
        """The collapse watch has a look, if it is time."""
        if geometry := self._watch.look(self, last=last):
            self._write_row(geometry)

    def _write_line(self) -> None:
        """A line of metrics.jsonl with the means since the line before, over all processes."""
        if self._window_steps == 0:
            return
        names = sorted(self._window)
        sums = torch.stack([self._window[n].to(self.device) for n in names]).double() if names else torch.zeros(0)
        means = (distributed.sum_over_processes(sums) / (self._window_steps * distributed.world_size())).tolist()
        row = dict(zip(names, means, strict=True))
        self._window, self._window_steps = {}, 0
        self._write_row({**row, **self._rates})
        if self.config.nonfinite == "raise" and not math.isfinite(row.get("train/loss", 0.0)):
            raise self._not_finite([n for n in self.method.TERMS if not math.isfinite(row.get(f"train/{n}", 0.0))])

    def _require_finite(self) -> None:
        if self.config.nonfinite == "raise" and "train/loss" in self._window:
            (bad,) = distributed.any_process([not bool(torch.isfinite(self._window["train/loss"]))], self.device)
            if bad:
                raise self._not_finite(["loss"])

    def _write_row(self, numbers: Mapping[str, float]) -> None:
        at = {"step": self.step, "stage": self.stage.name, "epoch": self.epoch, "seconds": round(self._elapsed(), 3)}
        self._trackers.write({**at, **numbers})

    def _elapsed(self) -> float:
        return time.monotonic() - self._clock

    # ---- checkpoints -----------------------------------------------------------------------------------------

    @property
    def _scaler(self) -> Any:
        return self.accelerator.scaler

    def _save(self) -> None:
        self._require_finite()
        began = time.monotonic()
        self.seconds = self._elapsed()
        self._trackers.sync()
        shared = {
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "method": dict(self.method.state_dict()),
            "info": json.dumps(self.method.info),
            "optimisers": {name: dict(o.state_dict()) for name, o in self._optimisers.items()}
            if self._stage_started
            else {},
            "average": dict(self._average.state_dict()) if self._average is not None else None,
            "scaler": self._scaler.state_dict() if self._scaler is not None else None,
            "best": self._best,
            "registered": {name: dict(part.state_dict()) for name, part in self._registered.items()},
            "metrics_size": self._trackers.size,
        }
        own = {
            "random": random_state(),
            "registered": {name: dict(part.state_dict()) for name, part in self._per_process.items()},
            "window": self._window,
        }
        name = checkpoint.name(self.step, self._stage_index)
        checkpoint.save(self.run_dir.checkpoints_dir / name, shared, own, keep=self.config.keep_checkpoints)
        self._last_save = time.monotonic()
        self._save_cost = self._last_save - began

    def _restore(self, shared: dict[str, Any], own: dict[str, Any] | None) -> None:
        for name, value in shared["counters"].items():
            setattr(self, name, value)
        self.method.info.update(json.loads(shared["info"]))
        self.method.load_state_dict(shared["method"])
        self.method.to(self.device)
        self._unclaimed = dict(shared["registered"])
        self._unclaimed_optimisers = shared["optimisers"]
        if shared["average"] is not None and self.config.ema is not None:
            self._average = AveragedWeights(self.method, self.config.ema)
            self._average.load_state_dict(shared["average"])
        if self._scaler is not None and shared["scaler"] is not None:
            self._scaler.load_state_dict(shared["scaler"])
        self._best = shared["best"]
        self._trackers.cut(shared["metrics_size"])
        if own is None:
            self.say("this checkpoint was written by fewer processes: the new ones begin with fresh random states")
            seed_everything(derive_seed(self.seed, "training", distributed.rank(), self.step))
        else:
            self._unclaimed |= own["registered"]
            self._window = {name: value.to(self.device) for name, value in own["window"].items()}
            restore_random_state(own["random"])


_COUNTERS = (
    "step", "seconds", "_stage_index", "stage_step", "stage_steps", "epoch", "_epoch_batch", "_stage_started",
    "_epoch_started", "_stage_over", "_looks_without_better", "_window_steps",
)  # fmt: skip


def accelerator_for(device: str | None, precision: str) -> Accelerator:
    """An Accelerator for one run. ``device``: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or None for the best there is.

    Raises:
        ConfigError: the device does not exist here.
    """
    try:
        wanted = torch.device(device) if device else None
    except RuntimeError:
        raise ConfigError(f"--device {device}: unknown; use cpu, cuda, cuda:N or mps") from None
    if wanted is not None and wanted.type == "cuda":
        if not torch.cuda.is_available() or (wanted.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
            )
        torch.cuda.set_device(wanted)
    if wanted is not None and wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: not available on this machine; use --device cpu")
    # The state is process-wide in accelerate; a second run in one process may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=wanted is not None and wanted.type == "cpu")


def describe_stage(method: Method, stage: Stage) -> dict[str, Any]:
    """Name, examples, steps and learning parameters of a stage, for a dry run."""
    source = stage.data() if callable(stage.data) else stage.data
    learns = sum(p.numel() for n, p in method.named_parameters() if not stage.trains or n.startswith(stage.trains))
    return {
        "name": stage.name,
        "examples": len(source) if isinstance(source, Examples) else None,
        "batch_size": stage.batch_size or method.config.engine.batch_size,
        "steps": _length(method, stage, source),
        "learning_parameters": learns,
    }


def _length(method: Method, stage: Stage, source: Source) -> int:
    """Steps of a stage."""
    steps = stage.steps
    if isinstance(source, Examples):
        if len(source) == 0:
            raise DataError(f"stage {stage.name!r} of {method.id} has no examples")
        size = min(stage.batch_size or method.config.engine.batch_size, len(source))
        epochs = stage.epochs or method.config.engine.epochs
        steps = steps or (len(source) // size * epochs if epochs else None)
    bounds = [n for n in (steps, method.config.engine.max_steps) if n is not None]
    if not bounds:
        raise ConfigError(f"stage {stage.name!r} has no end; set engine.epochs or engine.max_steps")
    return min(bounds)


def _cut(batch: Batch, parts: int) -> Iterator[Batch]:
    """The batch in equal contiguous parts along its first dimension."""
    if parts == 1:
        yield batch
        return
    size = len(batch["draw"])
    for i in range(parts):
        at = slice(i * size // parts, (i + 1) * size // parts)
        yield {k: v[at] if isinstance(v, Tensor | list) and len(v) == size else v for k, v in batch.items()}
