"""Small methods that exercise the contract: one plain, one as odd as a method may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polycontrast.config import EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.data import Batch, Dataset, TensorExamples, uniform
from polycontrast.distributed import gather
from polycontrast.engine import Engine, accelerator_for, checkpoint, seed_everything
from polycontrast.method import Baseline, Method, OptimiserSpec, Stage, Term
from polycontrast.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig(MethodConfig):
    width: int = 8
    noise: float = 0.1
    dropout: float = 0.2
    penalty: float = 1e-3
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(name="adam", lr=1e-2, schedule="cosine"))
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=8, epochs=3, log_steps=1))


class Toy(Method):
    """A denoising auto-encoder of vectors."""

    id = "test/toy"
    Config = ToyConfig
    TERMS: ClassVar[Mapping[str, Term]] = {
        "reconstruction": Term("reconstruction"),
        "penalty": Term("regularisation", "penalty"),
    }
    HEADLINE = "mse"
    config: ToyConfig

    def __init__(self, config: ToyConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        self.encoder = nn.Sequential(nn.Linear(4, config.width), nn.Tanh(), nn.Dropout(config.dropout))
        self.decoder = nn.Linear(config.width, 4)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["x"]
        z = self.encoder(x + self.config.noise * (uniform(batch["draw"], 4) - 0.5))
        out = {"reconstruction": (self.decoder(z) - x).square().mean()}
        if self.active("penalty"):
            out["penalty"] = z.square().mean()
        return out

    def embed(self, batch: Batch) -> Tensor:
        return self.encoder(batch["x"])

    def evaluate(self, data: Dataset) -> dict[str, float]:
        errors = [
            (self.decoder(self.encoder(b["x"])) - b["x"]).square().mean() for b in self.batches(data.splits["test"])
        ]
        return {"mse": float(torch.stack(errors).mean())}

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        x = data.splits["test"][list(range(len(data.splits["test"])))]["x"]
        return {"mean": Baseline({"mse": float(x.var(0, unbiased=False).mean())}, floor=True)}


class Odd(Toy):
    """Everything unusual at once: two stages, alternating optimisers with several steps per batch, a head that grows, a
    per-sample table, a registered object, an artefact, data that is divided anew every epoch, training-only parts."""

    id = "test/odd"
    TRAINING_ONLY = ("losses", "hard", "teacher")

    def __init__(self, config: ToyConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        self.info.setdefault("heads", 0)
        self.heads = nn.ModuleList(nn.Linear(config.width, 4) for _ in range(self.info["heads"]))
        self.teacher = nn.Linear(4, 4)
        self.register_buffer("losses", torch.zeros(40))
        self.register_buffer("hard", torch.arange(20))
        self.counter = Counter()
        self.made: list[str] = []

    def on_run_start(self, data: Dataset, engine: Any) -> None:
        engine.register("counter", self.counter)
        self.data = data

    def on_stage_start(self, stage: Stage, engine: Any) -> None:
        self.info["heads"] += 1
        self.heads.append(nn.Linear(self.config.width, 4))
        self.teacher.load_state_dict({k: v + 0.01 for k, v in self.teacher.state_dict().items()})

    def on_epoch_start(self, stage: Stage, engine: Any) -> None:
        self.counter.value += 1
        self.hard = torch.argsort(self.losses, descending=True, stable=True)[:20]
        key = {"epoch": engine.epoch, "stage": stage.name}
        self.centre = engine.artefact(key, self._centre)["centre"]

    def _centre(self) -> dict[str, Tensor]:
        self.made.append("centre")
        return {"centre": torch.rand(4)}

    def stages(self, data: Dataset) -> Sequence[Stage]:
        self.data = data
        return [
            Stage(name="first", data=self._divided, epochs=2),
            Stage(name="second", data=data.splits["train"], epochs=2, trains=("heads", "decoder"), select="loss"),
        ]

    def _divided(self) -> TensorExamples:
        """The half with the larger losses so far."""
        whole = self.data.splits["train"][list(range(len(self.data.splits["train"])))]
        return TensorExamples({"x": whole["x"][self.hard], "id": self.hard})

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        if stage.name == "second":
            return {
                "head": OptimiserSpec([*self.heads.parameters(), *self.decoder.parameters()], self.config.optimiser)
            }
        plain = OptimiserConfig(name="sgd", lr=0.05, momentum=0.9)
        return {
            "encoder": OptimiserSpec(list(self.encoder.parameters()), self.config.optimiser),
            "head": OptimiserSpec([{"params": list(self.heads.parameters()), "lr": 0.5}], plain),
        }

    def step(self, batch: Batch, engine: Any) -> None:
        if engine.stage.name == "second":
            engine.minimise(self.terms(batch), "head")
            return
        engine.minimise(self.terms(batch), "encoder")
        for _ in range(2):
            out = self.heads[-1](self.encoder(batch["x"])) - batch["x"]
            engine.minimise({"reconstruction": out.square().mean()}, "head")
        with torch.no_grad():
            self.losses[gather(batch["id"])] = gather(out.square().mean(1))


class Counter:
    """Something with a state that is no module."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]


def vectors(seed: int = 0, *, n: int = 40) -> Dataset:
    """Vectors of four numbers that lie near a plane."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n + 20, 2, generator=generator) @ torch.randn(2, 4, generator=generator)
    x += 0.05 * torch.randn(n + 20, 4, generator=generator)
    parts = {"train": x[:n], "val": x[n : n + 10], "test": x[n + 10 :]}
    return Dataset(name="vectors", splits={k: TensorExamples({"x": v}) for k, v in parts.items()})


def engine_for(
    path: Path,
    method: type[Method] = Toy,
    config: ToyConfig | None = None,
    *,
    seed: int = 0,
    data: Dataset | None = None,
) -> Engine:
    """An engine on a fresh or existing run directory, as :func:`polycontrast.train` builds it."""
    config = config or ToyConfig()
    data = data or vectors()
    if not Run.exists(path):
        Run.create(path, config={"method": method.id, "data": "x", "seed": seed, "config": {}}, environment={})
    saved = checkpoint.newest(path / "checkpoints")
    seed_everything(seed)
    built = method(config, saved.info if saved is not None else {})
    accelerator = accelerator_for("cpu", config.engine.precision)
    return Engine(built, data, Run.open(path), accelerator, seed=seed, saved=saved, progress=False)


def weights(engine: Engine) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in engine.method.state_dict().items()}
