"""The Method contract: one paper's algorithm as a torch module with named loss terms.

A method states what is particular to its paper and inherits the rest. The order in which the engine calls it:

    config, data            the config dataclass; a Dataset that suits the method
    info = M.inspect(...)   what the architecture must know of the data (channels, classes, scaler), as JSON
    method = M(config, info)
    on_run_start            always, also after a resume: register state that must survive
    for stage in stages(data):
        on_stage_start      once per stage, not again after a resume: grow a head, copy a teacher
        on_epoch_start      once per epoch of a finite stage
        step(batch, engine) default: engine.minimise(self.terms(batch))
        on_epoch_end, on_stage_end
    evaluate(data), baselines(data), charts(data)
    save_pretrained(folder)

Everything a method keeps between steps lives in its ``state_dict``, in ``info`` or in an object that it registers
with the engine; then a run that is killed at any moment continues as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import pyarrow as pa
import safetensors.torch
import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from torch import Tensor, nn

from polycontrast.config import MethodConfig, OptimiserConfig, from_dict, to_dict
from polycontrast.data import Batch, Dataset, Examples, derive_seed, draws
from polycontrast.errors import CheckpointError, ConfigError, DataError, InputError, did_you_mean

Kind = Literal["task", "contrastive", "reconstruction", "regularisation"]


@dataclass(frozen=True, slots=True)
class Term:
    """One named scalar of a method's loss.

    ``weight`` is a number, or the name of the config field that holds it.
    """

    kind: Kind
    weight: float | str = 1.0


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a cheap known method reaches on the same split, computed in the same run.

    A ``floor`` is one that a working method must beat.
    """

    metrics: Mapping[str, float]
    floor: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines over one horizontal axis, drawn in the report of a run: forecasts against truth, a score over time.

    Raises:
        ValueError: no line or more than four, or a length that differs from that of ``x``.
    """

    title: str
    x: Sequence[float]
    """Rising."""
    lines: Mapping[str, Sequence[float]]
    """Up to four by label, each as long as ``x``; NaN is a gap."""
    band: tuple[Sequence[float], Sequence[float]] | None = None
    """Lower and upper edge of a shaded band, each as long as ``x``."""
    unit: str = ""
    """Of the values."""
    x_unit: str = ""
    """Of ``x``, e.g. ``hours ahead``."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.lines) <= 4:
            raise ValueError(f"chart {self.title!r} has {len(self.lines)} lines; one to four can be told apart")
        for values in (*self.lines.values(), *(self.band or ())):
            if len(values) != len(self.x):
                raise ValueError(f"chart {self.title!r}: {len(values)} values over {len(self.x)} places")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "title": self.title, "unit": self.unit, "x_unit": self.x_unit, "x": [float(v) for v in self.x],
            "lines": {label: [float(v) for v in values] for label, values in self.lines.items()},
            "band": [[float(v) for v in edge] for edge in self.band] if self.band else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Rows of text shown in the report of a run: the first answers, and why.

    Raises:
        ValueError: a row that has not one text per column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"listing {self.title!r}: a row of {len(row)} under {len(self.columns)} columns")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True, slots=True)
class OptimiserSpec:
    """Which parameters an optimiser steps, and how.

    ``parameters`` is an iterable of parameters or of torch parameter groups (dicts whose ``lr`` is a factor on
    the config's, so that one schedule moves them all).
    """

    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]]
    config: OptimiserConfig


class Stream(Protocol):
    """An endless source of batches, e.g. a replay memory that steps its environment."""

    def next(self, engine: Engine) -> Batch:
        """The next batch."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Where the stream is."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from there."""
        ...


Source = Examples | Stream


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with its own data and trainable parts."""

    name: str
    data: Source | Callable[[], Source]
    """Where batches come from. A callable is asked anew at the start of every epoch, after ``on_epoch_start``, and
    after a resume from the restored state: so a method may divide or mix its data differently each epoch. It must
    depend only on what does not change within an epoch, e.g. a table that ``on_epoch_start`` made."""
    epochs: int | None = None
    """Passes over the data. None: ``engine.epochs``, unless ``steps`` is given."""
    steps: int | None = None
    """Optimiser steps; required for a stream."""
    batch_size: int | None = None
    """Global batch size. None: ``engine.batch_size``."""
    shuffle: bool = True
    trains: tuple[str, ...] = ()
    """Prefixes of the parameter names that learn; the rest is frozen. Empty: all."""
    select: str | None = None
    """Metric of ``validate`` whose best weights are kept at the end of the stage. None: the last weights."""
    higher_is_better: bool = False
    """Sense of ``select``."""
    validate_steps: int | None = None
    """Steps between two looks at the validation part. None: ``engine.validate_steps``."""
    patience: int | None = None
    """Looks at the validation part without a better ``select`` after which the stage ends. None: never."""
    payload: Any = None
    """Anything the method wants to find again, e.g. the number of a task."""


class Checkpointable(Protocol):
    """What can be registered with the engine to be in every checkpoint."""

    def state_dict(self) -> Mapping[str, Any]:
        """Nested dicts, lists, numbers, strings and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """Undo :meth:`state_dict`."""
        ...


class Engine(Protocol):
    """What a method may ask of the engine."""

    seed: int
    stage: Stage
    epoch: int
    """Epochs begun in this stage, counted from 0."""
    step: int
    """Batches of this run, over all stages."""
    stage_step: int
    """Batches of this stage."""
    stage_steps: int
    """Batches this stage will have, for schedules."""
    resumed: bool
    device: torch.device
    folder: Path
    """The run directory, for files that a person wants beside the metrics: tables, videos, a replay memory."""

    def minimise(self, terms: Mapping[str, Tensor], optimiser: str = "main") -> None:
        """Weigh, sum, check, differentiate, accumulate, clip and step one optimiser.

        Several times in one step is fine; with several optimisers each call differentiates with respect to its own
        parameters alone.
        """
        ...

    def log(self, values: Mapping[str, Tensor | float]) -> None:
        """Add scalars to this step's line of metrics.jsonl."""
        ...

    def say(self, message: str) -> None:
        """Tell the person in front of the screen, once."""
        ...

    def register(self, name: str, part: Checkpointable, *, per_process: bool = False) -> None:
        """Put a stateful object into every checkpoint, and restore it now if this run was resumed.

        ``per_process`` keeps one state per process instead of process 0's.
        """
        ...

    def artefact(self, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that cost a lot to make, such as teacher outputs, neighbour tables or cluster centres.

        They are made once per key and kept in the run directory, also over a resume.
        """
        ...


class Method(nn.Module, ModelHubMixin):
    """Base of every method. Deriving from it once is the only inheritance in method code.

    Args:
        config: an instance of :attr:`Config`.
        info: JSON-able facts of the data that the architecture needs, from :meth:`inspect`. A method whose
            architecture grows keeps them up to date; they are saved with the model.
    """

    id: ClassVar[str]
    """``domain/name``."""
    Config: ClassVar[type[MethodConfig]]
    TERMS: ClassVar[Mapping[str, Term]]
    HEADLINE: ClassVar[str]
    """The metric that sums up a result."""
    HIGHER_IS_BETTER: ClassVar[bool] = False
    TRAINING_ONLY: ClassVar[tuple[str, ...]] = ()
    """Prefixes of ``state_dict`` keys that a saved model does without."""
    CITATION: ClassVar[str] = ""

    def __init__(self, config: MethodConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.info: dict[str, Any] = dict(info or {})
        for name in config.off:
            if name not in self.TERMS:
                raise ConfigError(
                    f"off: {self.id} has no term {name!r}; it has {', '.join(self.TERMS)}."
                    + did_you_mean(name, self.TERMS)
                )

    # ---- before training -------------------------------------------------------------------------------------

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """JSON-able facts of the data that the architecture needs.

        Also the place to refuse data that does not suit the method, with a
        :class:`~polycontrast.errors.DataError`.
        """
        return {}

    def examples(self, data: Dataset, split: str) -> Examples:
        """The part of the data called ``split`` in the form in which :meth:`terms` and :meth:`embed` take it."""
        if split not in data.splits:
            raise DataError(f"{data.name} has no part {split!r}; it has {', '.join(data.splits) or 'none'}")
        return data.splits[split]

    def stages(self, data: Dataset) -> Sequence[Stage]:
        """The stretches of training, in order. Default: one, over the part ``train``."""
        return [Stage(name="train", data=self.examples(data, "train"))]

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        """Optimisers of a stage by name. Default: one, ``main``, over everything that learns in the stage."""
        learns = [p for p in self.parameters() if p.requires_grad]
        return {"main": OptimiserSpec(learns, self.config.optimiser)}

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The unweighted scalars of the loss that are :meth:`active`, each a mean over samples."""
        raise NotImplementedError

    def step(self, batch: Batch, engine: Engine) -> None:
        """One training step. Overridden where the paper alternates between optimisers."""
        engine.minimise(self.terms(batch))

    @classmethod
    def weight_in(cls, config: MethodConfig, name: str) -> float:
        """Weight of a term under a config: 0 if it is switched off, else the declared one."""
        if name in config.off:
            return 0.0
        weight = cls.TERMS[name].weight
        return float(getattr(config, weight)) if isinstance(weight, str) else weight

    @classmethod
    def auxiliary_terms(cls, config: MethodConfig) -> list[str]:
        """Active terms beside the main objective: those that are no ``task``; where none is, all but the first."""
        active = [name for name in cls.TERMS if cls.weight_in(config, name) != 0]
        tasks = [name for name in active if cls.TERMS[name].kind == "task"] or active[:1]
        return [name for name in active if name not in tasks]

    def weight(self, name: str) -> float:
        """Weight of a term of this method."""
        return self.weight_in(self.config, name)

    def active(self, name: str) -> bool:
        """Whether a term counts; the computation of one that does not is skipped."""
        return self.weight(name) != 0.0

    @property
    def contrasts_embeddings(self) -> bool:
        """Whether a loss tells the embeddings of :meth:`embed` apart, so that they are watched for collapse.

        Default: a term of kind ``contrastive`` is active. Embeddings that share a large common part are no fault of
        another loss.
        """
        return any(term.kind == "contrastive" and self.active(name) for name, term in self.TERMS.items())

    # ---- hooks -----------------------------------------------------------------------------------------------

    def on_run_start(self, data: Dataset, engine: Engine) -> None:
        """Always, also after a resume: register what must survive."""

    def on_stage_start(self, stage: Stage, engine: Engine) -> None:
        """Once per stage, not again after a resume: grow a head, copy a teacher."""

    def on_epoch_start(self, stage: Stage, engine: Engine) -> None:
        """Once per epoch, before ``stage.data`` is asked."""

    def on_step_end(self, stage: Stage, engine: Engine) -> None:
        """After every step, before it is counted."""

    def on_epoch_end(self, stage: Stage, engine: Engine) -> None:
        """Once per finished epoch of a finite stage."""

    def on_stage_end(self, stage: Stage, engine: Engine) -> None:
        """Once per stage, with the weights that it ends with."""

    # ---- measuring -------------------------------------------------------------------------------------------

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """Numbers on validation data, or any criterion without labels, from which the best weights are chosen.

        Default: every term and their weighted sum ``loss`` over the part ``val``, with the same randomness each
        time. Without such a part: nothing.
        """
        if "val" not in data.splits:
            return {}
        sums: dict[str, float] = {}
        count = 0
        for batch in self.batches(self.examples(data, "val")):
            n = len(batch["id"])
            count += n
            for name, value in self.terms(batch).items():
                sums[name] = sums.get(name, 0.0) + n * float(value)
        means = {name: total / count for name, total in sums.items()}
        return {"loss": sum(self.weight(name) * value for name, value in means.items()), **means}

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """The paper's metrics on the part ``test`` by their usual names, :attr:`HEADLINE` among them."""
        raise NotImplementedError

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """Cheap known methods on the same split, at least one of them a floor."""
        raise NotImplementedError

    def published(self, data: Dataset) -> dict[str, dict[str, float]]:
        """Figures from the literature for this very dataset and protocol, by label. Default: none."""
        return {}

    def charts(self, data: Dataset) -> Sequence[Chart | Listing]:
        """What a person should see of a trained method beside its numbers, on test data. Default: nothing.

        Asked after :meth:`evaluate` and :meth:`baselines` of a training.
        """
        return ()

    # ---- using -----------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """The representation of each sample, (B, D)."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Tensor:
        """The task output of each sample, first dimension B."""
        raise InputError(f"{self.id} has no task output to predict; use embed")

    def embed_table(self, data: Dataset) -> pa.Table:
        """``id`` and ``embedding`` (a list of floats) of every sample of the part ``all``, else ``test``."""
        return self._table(data, self.embed, "embedding")

    def predict_table(self, data: Dataset) -> pa.Table:
        """``id`` and ``prediction`` of every sample of the part ``all``, else ``test``."""
        return self._table(data, self.predict, "prediction")

    def _table(self, data: Dataset, answer: Callable[[Batch], Tensor], column: str) -> pa.Table:
        ids: list[int] = []
        rows: list[Any] = []
        for batch in self.batches(self.examples(data, "all" if "all" in data.splits else "test")):
            ids += batch["id"].tolist()
            rows += answer(batch).float().cpu().tolist()
        return pa.table({"id": ids, column: rows})

    @property
    def device(self) -> torch.device:
        """Where the method lives."""
        return next(self.parameters()).device

    def batches(self, examples: Examples, batch_size: int | None = None) -> Iterator[Batch]:
        """Batches in stored order on the method's device, in evaluation mode and without gradients.

        Their ``draw`` is the same each time.
        """
        size = batch_size or self.config.engine.batch_size
        was_training = self.training
        self.eval()
        try:
            for start in range(0, len(examples), size):
                batch = examples[list(range(start, min(start + size, len(examples))))]
                batch["draw"] = draws(derive_seed("evaluation"), batch["id"])
                with torch.no_grad():
                    yield to_device(batch, self.device)
        finally:
            self.train(was_training)

    # ---- saving ----------------------------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Tensor]:
        """The tensors of a saved model: the ``state_dict`` without what only training needs."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith(self.TRAINING_ONLY or ("\0",))}

    def _save_pretrained(self, save_directory: Path) -> None:
        # Tied parameters become separate copies on disk; loading ties them again through the module.
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in self.saved_state().items()}
        safetensors.torch.save_file(tensors, save_directory / "model.safetensors", metadata={"format": "pt"})
        about = {
            "method": self.id,
            "polycontrast": version("polycontrast"),
            "config": to_dict(self.config),
            "info": self.info,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False)
        (save_directory / "config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> Self:
        """Load a model that :meth:`save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: a folder, or a model id on the Hugging Face hub.
            hub: passed to :func:`huggingface_hub.snapshot_download` for a hub id (``revision``, ``token``, ...).

        Raises:
            CheckpointError: a file is missing or damaged, or the model belongs to another method.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), **hub))
        about = read_model_config(folder)
        if about["method"] != cls.id:
            raise CheckpointError(f"{folder} holds a model of {about['method']}, not of {cls.id}")
        config = from_dict(cls.Config, about["config"], source=str(folder / "config.json"))
        method = cls(config, about["info"])
        method.load_saved_state(folder / "model.safetensors")
        return method.eval()

    def load_saved_state(self, file: Path) -> None:
        """Load ``model.safetensors``; everything but what only training needs must be there and fit."""
        try:
            tensors = safetensors.torch.load_file(file)
        except FileNotFoundError:
            raise CheckpointError(f"{file} is missing; the model was not saved completely") from None
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged ({error}); save or copy the model again") from error
        wanted = self.saved_state()
        wrong = sorted(wanted.keys() ^ tensors.keys()) or sorted(
            k for k in wanted if wanted[k].shape != tensors[k].shape
        )
        if wrong:
            raise CheckpointError(f"{file} does not fit the config beside it, e.g. at {wrong[0]!r}")
        self.load_state_dict(tensors, strict=False)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """A plain card; :func:`polycontrast.report.model_card` writes the full one of a run."""
        return ModelCard(
            f"---\nlibrary_name: polycontrast\ntags: [polycontrast, {self.id.split('/')[1]}]\n---\n\n"
            f"# {self.id}\n\n{(self.__doc__ or '').strip().splitlines()[0]}\n\n"
            f'```python\nimport polycontrast\nmodel = polycontrast.load("FOLDER_OR_HUB_ID")\n```\n\n{self.CITATION}\n'
        )


def read_model_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a saved model: ``method``, ``polycontrast``, ``config``, ``info``."""
    file = folder / "config.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no model: config.json is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is damaged ({error})") from error
    if not isinstance(about, dict) or not {"method", "config", "info"} <= about.keys():
        raise CheckpointError(f"{file} was not written by polycontrast: it needs method, config and info")
    return about


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


__all__ = [
    "Baseline", "Chart", "Checkpointable", "Engine", "Kind", "Listing", "Method", "OptimiserSpec", "Source", "Stage",
    "Stream", "Term", "read_model_config", "to_device",
]  # fmt: skip
