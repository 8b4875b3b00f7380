"""SimCLR on arrays, with any objective of the core in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from polycontrast import losses
from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, Examples, TensorExamples
from polycontrast.errors import ConfigError, DataError
from polycontrast.evaluation import alignment, effective_rank, knn_accuracy, linear_probe, retrieval, uniformity
from polycontrast.memory import EmaTeacher, FeatureQueue
from polycontrast.method import Baseline, Engine, Method, OptimiserSpec, Stage, Term
from polycontrast.reference.arrays import UNLABELLED, ArrayDataset
from polycontrast.reference.config import SimCLRConfig
from polycontrast.reference.network import Branch, ConvNet, Head, Perceptron
from polycontrast.reference.views import dropped, noisy, shifted
from polycontrast.schedules import cosine

_LOOK = 10_000
"""Most rows that a look at the validation part embeds."""
_SEEN = 100
"""Stream of the noise through which rows are measured."""
Encode = Callable[[Tensor], Tensor]


class SimCLR(Method):
    """SimCLR (Chen et al. 2020, arXiv 2002.05709) on feature vectors or images given as arrays.

    Two altered views of a sample are a positive pair. The objective is one of the core's: besides SimCLR's own,
    ``contrastive.objective`` makes this BYOL, VICReg, Barlow Twins, SimSiam, MoCo, SigLIP and others. What is kept is
    the encoder; projection head, predictor, teacher and queue serve training alone.

    Args:
        config: see :class:`SimCLRConfig`.
        info: from :meth:`inspect`: ``shape`` of a row, ``mean`` and ``std`` of the values, ``classes``.
    """

    id = "core/simclr"
    Config = SimCLRConfig
    TERMS: ClassVar[Mapping[str, Term]] = {"contrastive": Term("contrastive")}
    HEADLINE = "knn_accuracy"
    """Of the weighted neighbour vote; without labels ``R@1``, how often a view finds the other one of its sample."""
    HIGHER_IS_BETTER = True
    TRAINING_ONLY = ("online.projector", "predictor", "objective", "teacher", "queue")
    CITATION = (
        "Ting Chen, Simon Kornblith, Mohammad Norouzi, Geoffrey Hinton. A Simple Framework for Contrastive Learning of "
        "Visual Representations. ICML 2020. arXiv:2002.05709."
    )

    config: SimCLRConfig
    scale_mean: Tensor
    scale_std: Tensor

    def __init__(self, config: SimCLRConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        c, info = config, self.info
        info.setdefault("shape", [64])
        info.setdefault("mean", 0.0)
        info.setdefault("std", 1.0)
        info.setdefault("classes", [])
        if not info["classes"]:
            self.HEADLINE = "R@1"  # type: ignore[misc]
            if c.chosen == "supcon":
                raise ConfigError("objective supcon needs labels; name them with data.label or choose ntxent")
        self.register_buffer("scale_mean", torch.tensor(info["mean"]), persistent=False)
        self.register_buffer("scale_std", torch.tensor(info["std"]), persistent=False)
        projector = Head(c.width, c.hidden, c.projection) if c.projection else nn.Identity()
        self.online = Branch(self._new_encoder(), projector)
        seen = c.projection or c.width
        if c.predictor and c.chosen not in ("byol", "simsiam", "nnclr"):
            raise ConfigError(f"predictor: {c.chosen} has no place for one; only byol, simsiam and nnclr have")
        self.predictor = Head(seen, c.hidden, seen) if c.predicts else nn.Identity()
        self.objective = losses.get(c.chosen)(**self._options())
        self.teacher: EmaTeacher | None = None
        self.queue: FeatureQueue | None = None
        self._steps = 0
        if c.chosen in ("byol", "moco"):
            self.teacher = EmaTeacher(self.online, self._momentum, evaluation=False)
        if c.chosen in ("moco", "nnclr"):
            self.queue = FeatureQueue(c.contrastive.queue, seen, fill="random")

    def _new_encoder(self) -> nn.Module:
        c, shape = self.config, self.info["shape"]
        images = len(shape) > 1
        if (c.network == "conv" or c.shift) and not images:
            what = "network conv" if c.network == "conv" else "shift"
            raise ConfigError(f"{what} needs images, rows of shape (H, W) or (C, H, W); these have {tuple(shape)}")
        kind = ConvNet if images and c.network != "mlp" else Perceptron
        return kind(shape, c.hidden, c.width)

    def _options(self) -> dict[str, Any]:
        """Options of the objective that the config decides."""
        c = self.config.contrastive
        options: dict[str, Any] = {"temperature": c.temperature, "lam": c.uniformity}
        if self.config.chosen == "vse":
            options["reduction"] = "mean"
        elif self.config.chosen in ("siglip", "sigmoid"):
            options = {}  # its scale is learned
        known = {f.name for f in fields(losses.get(self.config.chosen).config_class)}
        return {name: value for name, value in options.items() if name in known}

    def _momentum(self, update: int) -> float:
        start = self.config.contrastive.teacher
        return cosine(start, 1.0, update, self._steps) if self.config.chosen == "byol" and self._steps else start

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """Shape of a row, scaler of the training rows, names of the classes."""
        arrays = cast(ArrayDataset, data)
        x = cast(TensorExamples, data.splits["train"]).tensors["x"]
        scale = cast(SimCLRConfig, config).data.scale
        if scale == "none":
            mean, std = torch.zeros(()), torch.ones(())
        elif scale == "feature" or (scale == "auto" and x.ndim == 2):
            mean, std = x.double().mean(0), x.double().std(0, unbiased=False)
            std = torch.where(std > 1e-9 * std.max(), std, 1.0)  # a constant feature stays 0
        else:
            mean, std = x.double().mean(), x.double().std(unbiased=False)
            if not bool(std > 0):
                raise DataError(f"{data.name}: all values are equal; there is nothing to learn")
        return {
            "shape": list(arrays.shape), "mean": mean.float().tolist(), "std": std.float().tolist(),
            "classes": list(arrays.classes),
        }  # fmt: skip

    def examples(self, data: Dataset, split: str) -> Examples:
        """A part of the data, if its rows have the shape that the encoder takes."""
        shape = cast(ArrayDataset, data).shape
        if list(shape) != list(self.info["shape"]):
            raise DataError(f"{data.name} has rows of shape {shape}, the model takes {tuple(self.info['shape'])}")
        return super().examples(data, split)

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        """One optimiser; a learned temperature does not decay."""
        scale = list(self.objective.parameters())
        rest = [p for n, p in self.named_parameters() if p.requires_grad and not n.startswith("objective")]
        groups: list[dict[str, Any]] = [{"params": rest}]
        if scale:
            groups.append({"params": scale, "weight_decay": 0.0})
        return {"main": OptimiserSpec(groups, self.config.optimiser)}

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def view(self, x: Tensor, draw: Tensor, which: int) -> Tensor:
        """One altered view of scaled rows.

        Args:
            x: (B, ...) scaled.
            draw: (B,) keys of randomness.
            which: 0 or 1; they differ.
        """
        c, stream = self.config, 10 * which
        fill = (0.0 - self.scale_mean) / self.scale_std if self.scale_mean.ndim == 0 else 0.0
        x = shifted(x, draw, c.shift, fill, stream=stream)
        return dropped(noisy(x, draw, c.noise, stream=stream + 1), draw, c.drop, stream=stream + 2)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """``contrastive``, the objective of the two views of ``x`` (B, ...)."""
        if not self.active("contrastive"):
            return {}
        x = self._scaled(batch["x"])
        views = torch.cat([self.view(x, batch["draw"], which) for which in (0, 1)])
        return {"contrastive": self._objective(views, batch)}

    def _objective(self, views: Tensor, batch: Batch) -> Tensor:
        name, loss, both = self.config.chosen, self.objective, self.online(views)
        x, y = both.chunk(2)
        if name == "supcon":
            return cast(Tensor, loss(both, labels=batch["label"].repeat(2)))
        if name in ("byol", "simsiam"):
            p_x, p_y = self.predictor(both).chunk(2)
            z_x, z_y = (self.teacher(views) if self.teacher is not None else both).chunk(2)
            return cast(Tensor, loss(p_x, z_y, p_y, z_x))
        if self.queue is None:
            return cast(Tensor, loss(x, y))
        if name == "moco":
            assert self.teacher is not None
            keys = self.teacher(views[len(x) :])
            value = cast(Tensor, loss(x, keys, queue=self.queue.features))
        else:
            keys, memory = x, self.queue.features
            p_x, p_y = self.predictor(both).chunk(2)
            value = 0.5 * (cast(Tensor, loss(x, p_y, queue=memory)) + cast(Tensor, loss(y, p_x, queue=memory)))
        if self.training:
            self.queue.enqueue(keys, later=True)
        return value

    def on_step_end(self, stage: Stage, engine: Engine) -> None:
        """The teacher follows; a learned temperature stays within its bounds."""
        self._steps = engine.stage_steps
        if self.teacher is not None:
            self.teacher.update(self.online)
        if isinstance(self.objective.scale, losses.LogitScale):
            self.objective.scale.clamp_()

    # ---- measuring -------------------------------------------------------------------------------------------

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """``loss`` and, with labels, ``knn_accuracy`` on the validation part, of at most 10 000 rows each."""
        look = _head(self.examples(data, "val"))
        values, count = 0.0, 0
        for batch in self.batches(look):
            n = len(batch["id"])
            if n > 1:  # some objectives are undefined on one pair
                values += n * float(self.terms(batch)["contrastive"])
                count += n
        numbers = {"loss": values / count}
        if self.info["classes"]:
            bank, new = (self._rows(_head(self.examples(data, part)), self.online.encoder) for part in ("train", "val"))
            numbers["knn_accuracy"] = max(self._knn(bank, new, k) for k in self.config.knn_k)
        return numbers

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """Neighbours and a linear probe on embeddings, and how the embeddings of the test part lie in their space.

        Everything is seen through ``data.noise``. The number of neighbours and the strength of the probe are chosen on
        the validation part. Without labels: retrieval of a view by the other one.
        """
        encode = self.online.encoder
        first, second = (self._view_rows(data, encode, which) for which in (0, 1))
        return {
            **self._read(data, encode), "alignment": alignment(first, second), "uniformity": uniformity(first),
            "effective_rank": effective_rank(first),
        }  # fmt: skip

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """The values as they are and an untrained encoder, measured as the method is; a linear map on the values."""
        untrained = self._new_encoder().to(self.device).eval()
        raw = self._read(data, _flat)
        found = {"raw": Baseline({self.HEADLINE: raw[self.HEADLINE]}, floor=True)}
        found["untrained"] = Baseline(self._read(data, untrained), floor=True)
        if "linear_accuracy" in raw:
            found["logistic_on_raw"] = Baseline({"linear_accuracy": raw["linear_accuracy"]})
        return found

    def _read(self, data: Dataset, encode: Encode) -> dict[str, float]:
        """What can be read from features: of classes, or of views."""
        if not self.info["classes"]:
            found = retrieval(self._view_rows(data, encode, 0), self._view_rows(data, encode, 1))
            return {name: found[name] for name in ("R@1", "R@5", "mean_rank")}
        train, val, test = (self._rows(self.examples(data, part), encode) for part in ("train", "val", "test"))
        best = max(self.config.knn_k, key=lambda k: (self._knn(train, val, k), -k))
        probe = linear_probe(train.x, train.label, test.x, test.label, validation=(val.x, val.label), seeds=(0,))
        return {"knn_accuracy": self._knn(train, test, best), "linear_accuracy": probe.accuracy}

    def _knn(self, bank: _Rows, new: _Rows, k: int) -> float:
        return knn_accuracy(new.x, new.label, bank.x, bank.label, k=k, temperature=self.config.knn_temperature)

    def _rows(self, examples: Examples, encode: Encode) -> _Rows:
        """Features and labels of the labelled rows, seen through the noise of the data."""
        parts = []
        for batch in self.batches(examples):
            x = noisy(self._scaled(batch["x"]), batch["draw"], self.config.data.noise, stream=_SEEN)
            known = batch["label"] != UNLABELLED
            parts.append((encode(x)[known].cpu(), batch["label"][known].cpu()))
        rows = _Rows(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        if len(rows.x) == 0:
            raise DataError("a part of the data has no labelled row; label more rows or name others with data.label")
        return rows

    def _view_rows(self, data: Dataset, encode: Encode, which: int) -> Tensor:
        views = ((self.view(self._scaled(b["x"]), b["draw"], which)) for b in self.batches(self.examples(data, "test")))
        return torch.cat([encode(view).cpu() for view in views])

    # ---- using -----------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """The embedding of rows ``x`` (B, ...) in original units, (B, width)."""
        return cast(Tensor, self.online.encoder(self._scaled(batch["x"])))

    def transform(self, x: Any) -> Tensor:
        """Embeddings of an array or tensor (N, ...) in original units, (N, width), on the CPU."""
        examples = TensorExamples({"x": torch.as_tensor(x, dtype=torch.float32)})
        if list(examples.tensors["x"].shape[1:]) != list(self.info["shape"]):
            raise DataError(f"x must have shape (N, {', '.join(map(str, self.info['shape']))})")
        return torch.cat([self.embed(batch).cpu() for batch in self.batches(examples)])

    def _scaled(self, x: Tensor) -> Tensor:
        return (x - self.scale_mean) / self.scale_std


@dataclass(frozen=True)
class _Rows:
    x: Tensor
    label: Tensor


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _head(examples: Examples) -> Examples:
    """The first rows: an arbitrary choice, for parts are in random order."""
    if len(examples) <= _LOOK:
        return examples
    return TensorExamples({k: t[:_LOOK] for k, t in cast(TensorExamples, examples).tensors.items()})


__all__: Sequence[str] = ("SimCLR",)
