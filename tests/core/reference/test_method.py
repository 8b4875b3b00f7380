from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from polycontrast.config import resolve
from polycontrast.data import draws
from polycontrast.engine import Engine, accelerator_for, seed_everything
from polycontrast.errors import ConfigError, DataError
from polycontrast.plugins import GROUP, Registry
from polycontrast.reference.arrays import ArrayDataset, digits, read
from polycontrast.reference.config import ContrastiveConfig, Objective, SimCLRConfig
from polycontrast.reference.method import SimCLR
from polycontrast.reference.network import BatchNorm
from polycontrast.runs import Run

REGISTRY = Registry([EntryPoint("core", "polycontrast.reference:PLUGIN", GROUP)])
ENTRY = REGISTRY.method("core/simclr")
OBJECTIVES: tuple[Any, ...] = get_args(Objective)


def config(preset: str = "demo", **changes: Any) -> SimCLRConfig:
    layers = [(name, ENTRY.presets()[name].values) for name in dict.fromkeys(("demo", preset))]
    found = resolve(SimCLRConfig, [*layers, ("test", changes)])
    assert isinstance(found, SimCLRConfig)
    return found


def trained(
    path: Path, chosen: SimCLRConfig, *, seed: int = 0, data: ArrayDataset | None = None
) -> tuple[SimCLR, ArrayDataset, list[str]]:
    """The method after its training, its data, and what was said."""
    data = data or digits(chosen, seed, "train")
    seed_everything(seed)
    method = SimCLR(chosen, SimCLR.inspect(chosen, data))
    Run.create(path, config={"method": method.id, "data": "demo", "seed": seed, "config": {}}, environment={})
    engine = Engine(method, data, Run.open(path), accelerator_for("cpu", "no"), seed=seed, progress=False)
    said: list[str] = []
    engine.say = said.append  # type: ignore[method-assign]
    engine.run()
    return method.eval(), data, said


def batch_of(data: ArrayDataset, n: int = 32) -> dict[str, Any]:
    batch = data.splits["train"][list(range(n))]
    return {**batch, "draw": draws(0, batch["id"])}


def test_the_manifest_resolves_and_is_ready() -> None:
    assert REGISTRY.domains["core"].state == "ready"
    assert ENTRY.load() is SimCLR
    assert ENTRY.config_class() is SimCLRConfig
    assert set(ENTRY.presets()) == {"demo", "byol", "vicreg", "collapse"}
    for name in ENTRY.presets():
        config(name)


def test_the_shorthand_and_the_group_choose_the_objective() -> None:
    assert config().chosen == "ntxent"
    assert config(objective="byol").chosen == "byol"
    assert config(contrastive={"objective": "siglip"}).chosen == "siglip"
    assert config("vicreg").chosen == "vicreg"
    with pytest.raises(ConfigError, match="objective"):
        config(objective="ntxnt")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_every_parameter(objective: str) -> None:
    chosen = config(objective=objective, contrastive={"queue": 64})
    data = digits(chosen, 0, "train")
    torch.manual_seed(0)
    method = SimCLR(chosen, SimCLR.inspect(chosen, data)).train()
    batch = batch_of(data)
    kept = batch["x"].clone()
    value = method.terms(batch)["contrastive"]
    value.backward()  # type: ignore[no-untyped-call]
    assert value.ndim == 0
    assert torch.isfinite(value)
    assert torch.equal(batch["x"], kept)
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    first = float(value.detach())
    for _ in range(30):
        optimiser.zero_grad()
        method.terms(batch)["contrastive"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    if objective not in ("moco", "nnclr"):  # whose queue fills with ever better negatives
        assert float(method.terms(batch)["contrastive"].detach()) < first


def test_views_differ_and_depend_on_sample_and_draw_alone() -> None:
    chosen = config(shift=1, drop=0.2)
    data = digits(chosen, 0, "train")
    method = SimCLR(chosen, SimCLR.inspect(chosen, data))
    batch = batch_of(data)
    first, second = (method.view(batch["x"], batch["draw"], which) for which in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(method.view(batch["x"][5:6], batch["draw"][5:6], 0), first[5:6])


def test_short_training_beats_the_untrained_encoder_and_is_saved_without_its_heads(tmp_path: Path) -> None:
    method, data, said = trained(tmp_path / "run", config(engine={"epochs": 12}))
    numbers, baselines = method.evaluate(data), method.baselines(data)
    assert said == []
    assert numbers["knn_accuracy"] > baselines["untrained"].metrics["knn_accuracy"] + 0.05
    assert {name for name, b in baselines.items() if b.floor} == {"raw", "untrained"}
    assert baselines["logistic_on_raw"].metrics["linear_accuracy"] > 0.7
    assert method.evaluate(data) == numbers

    method.save_pretrained(tmp_path / "model")
    again = SimCLR.from_pretrained(tmp_path / "model")
    x = data.splits["test"][list(range(9))]["x"]
    assert torch.equal(again.transform(x.numpy()), method.transform(x))
    assert torch.allclose(again.transform(x[3:4]), method.transform(x)[3:4], atol=1e-6)
    assert all(name.startswith("online.encoder") for name in again.saved_state())
    with pytest.raises(DataError, match=r"x must have shape \(N, 8, 8\)"):
        again.transform(np.zeros((3, 64)))


@pytest.mark.parametrize("preset", ["byol", "vicreg"])
def test_the_other_presets_learn_without_collapse(tmp_path: Path, preset: str) -> None:
    method, data, said = trained(tmp_path / "run", config(preset, engine={"epochs": 15}))
    assert said == []
    assert method.evaluate(data)["knn_accuracy"] > method.baselines(data)["untrained"].metrics["knn_accuracy"]


def test_the_collapsed_preset_is_warned_of(tmp_path: Path) -> None:
    _, _, said = trained(tmp_path / "run", config("collapse", engine={"epochs": 40}))
    assert any("the representation has collapsed" in text for text in said)


def test_the_teacher_follows_slowly_and_ends_at_one(tmp_path: Path) -> None:
    method, _, _ = trained(tmp_path / "run", config("byol", engine={"epochs": 3}))
    assert method.teacher is not None
    assert method.teacher.momentum == pytest.approx(1.0)
    mine, theirs = method.online.state_dict(), method.teacher.model.state_dict()
    assert any(not torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(not p.requires_grad for p in method.teacher.parameters())


def test_a_learned_temperature_does_not_decay() -> None:
    chosen = config(objective="siglip")
    method = SimCLR(chosen, SimCLR.inspect(chosen, digits(chosen, 0, "train")))
    stage = method.stages(digits(chosen, 0, "train"))[0]
    rest, scale = method.optimisers(stage)["main"].parameters
    assert isinstance(scale, dict)
    assert isinstance(rest, dict)
    assert scale["weight_decay"] == 0.0
    assert len(scale["params"]) == 2
    assert not {id(p) for p in scale["params"]} & {id(p) for p in rest["params"]}


def test_own_rows_without_labels_are_measured_by_retrieval(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 6)) * [1, 10, 100, 1, 1, 1] + 5)
    chosen = replace(SimCLRConfig(), noise=0.2, engine=replace(SimCLRConfig().engine, epochs=20, batch_size=64))
    data = read(tmp_path / "x.npy", chosen, 0, "train")
    method, data, _ = trained(tmp_path / "run", chosen, data=data)
    assert method.HEADLINE == "R@1"
    assert 50 < method.evaluate(data)["R@1"] <= 100
    assert set(method.baselines(data)) == {"raw", "untrained"}
    scaled = method._scaled(data.splits["train"][list(range(100))]["x"])
    assert torch.allclose(scaled.std(0), torch.ones(6), atol=0.2)


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"network": "conv"}, [6], "network conv needs images"),
        ({"shift": 1}, [6], "shift needs images"),
        ({"objective": "supcon"}, [6], "objective supcon needs labels"),
        ({"predictor": True}, [8, 8], "predictor: ntxent has no place for one"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], shape: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimCLR(config(**{"network": "auto", **changes}), {"shape": shape})


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0}, {"noise": -1.0}, {"drop": 1.0}, {"knn_k": []}, {"contrastive": {"temperature": 0.0}},
        {"contrastive": {"teacher": 1.0}}, {"contrastive": {"queue": 0}}, {"contrastive": {"uniformity": -1.0}},
    ],
)  # fmt: skip
def test_values_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must"):
        config(**changes)


def test_other_shapes_than_the_model_was_made_for() -> None:
    method = SimCLR(SimCLRConfig(contrastive=ContrastiveConfig()), {"shape": [5, 5], "classes": ["a", "b"]})
    with pytest.raises(DataError, match=r"rows of shape \(8, 8\), the model takes \(5, 5\)"):
        method.evaluate(digits(SimCLRConfig(), 0, "evaluate"))


def test_images_of_any_form_go_through_the_convolutions() -> None:
    for shape in ([9, 8], [1, 9, 8], [3, 12, 12]):
        method = SimCLR(SimCLRConfig(), {"shape": shape}).eval()
        assert method.embed({"x": torch.rand(2, *shape)}).shape == (2, 64)


TOGETHER = """
import sys, torch
import torch.distributed as dist
from polycontrast.reference.network import BatchNorm
dist.init_process_group("gloo")
rank = dist.get_rank()
part = slice(0, 5) if rank == 0 else slice(5, 12)
torch.manual_seed(0)
x = torch.randn(12, 4, dtype=torch.float64).requires_grad_()
norm = BatchNorm(4).double()
torch.manual_seed(1)
weight = torch.randn(12, 4, dtype=torch.float64)
out = norm(x[part])
(out.sin() * weight[part]).sum().backward()
gradients = [x.grad, norm.weight.grad, norm.bias.grad]
for g in gradients:
    dist.all_reduce(g)
if rank == 0:
    torch.save([*gradients, norm.running_mean, norm.running_var], sys.argv[1])
dist.destroy_process_group()
"""


def test_batch_norm_is_that_of_one_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 4, dtype=torch.float64).requires_grad_()
    norm = BatchNorm(4).double()
    torch.manual_seed(1)
    weight = torch.randn(12, 4, dtype=torch.float64)
    (norm(x).sin() * weight).sum().backward()  # type: ignore[no-untyped-call]
    expected = [x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]

    (tmp_path / "script.py").write_text(TOGETHER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path / "got.pt")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got: list[Tensor] = torch.load(tmp_path / "got.pt")
    for mine, theirs in zip(got, expected, strict=True):
        assert theirs is not None
        assert torch.allclose(mine, theirs, atol=1e-12)
