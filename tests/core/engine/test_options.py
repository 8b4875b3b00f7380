from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from polycontrast.config import OptimiserConfig
from polycontrast.engine import accelerator_for, describe_stage
from polycontrast.engine.checkpoint import pack, unpack
from polycontrast.engine.optimisers import NamedOptimiser, schedule
from polycontrast.errors import ConfigError
from polycontrast.method import OptimiserSpec
from support.toys import Odd, Toy, ToyConfig, engine_for, vectors, weights


def config(**changes: object) -> ToyConfig:
    return ToyConfig(engine=replace(ToyConfig().engine, **changes))  # type: ignore[arg-type]


def test_schedules_follow_their_formulas() -> None:
    cosine = OptimiserConfig(lr=2.0, schedule="cosine", warmup_steps=4, min_lr=0.5)
    assert [schedule(cosine, s, 12) for s in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert schedule(cosine, 8, 12) == pytest.approx(0.5 + 1.5 * 0.5)
    assert schedule(cosine, 12, 12) == pytest.approx(0.5)
    assert schedule(cosine, 40, 12) == pytest.approx(0.5)
    linear = OptimiserConfig(lr=2.0, schedule="linear")
    assert [schedule(linear, s, 4) for s in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert schedule(OptimiserConfig(lr=2.0), 99, 4) == 2.0
    steps = OptimiserConfig(lr=2.0, schedule="multistep", milestones=(0.25, 0.5), gamma=0.1)
    assert [schedule(steps, s, 8) for s in (0, 1, 2, 3, 4, 7)] == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])


@pytest.mark.parametrize(
    ("how", "message"),
    [({"milestones": (0.5, 0.2)}, "growing"), ({"milestones": (5.0,)}, "growing"), ({"gamma": 0.0}, "gamma")],
)
def test_milestones_must_be_shares(how: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimiserConfig(schedule="multistep", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adam", "adamw", "radam", "sgd"])
def test_every_optimiser_is_torchs_own(name: str) -> None:
    start, gradient = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1])
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    named = NamedOptimiser("main", OptimiserSpec([ours], OptimiserConfig(name=name, lr=0.1, weight_decay=0.2)))  # type: ignore[arg-type]
    reference = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "radam": torch.optim.RAdam,
        "sgd": torch.optim.SGD,
    }
    other = reference[name]([theirs], lr=0.1, weight_decay=0.2)
    for _ in range(3):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        named.torch.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_group_keeps_its_factor() -> None:
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    spec = OptimiserSpec([{"params": [a]}, {"params": [b], "lr": 0.1}], OptimiserConfig(lr=2.0, schedule="linear"))
    named = NamedOptimiser("main", spec)
    assert named.set_learning_rate(1, 4) == 1.5
    assert [g["lr"] for g in named.torch.param_groups] == pytest.approx([1.5, 0.15])


def test_an_optimiser_without_anything_to_learn_is_refused() -> None:
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    with pytest.raises(ConfigError, match="optimiser 'main' has nothing to learn: all its parameters are frozen"):
        NamedOptimiser("main", OptimiserSpec([frozen], OptimiserConfig()))


def test_half_precision_trains_close_to_full(tmp_path: Path) -> None:
    ends = []
    for precision in ("no", "bf16"):
        engine = engine_for(tmp_path / precision, Toy, config(precision=precision))
        seen = []
        forward = engine.method.decoder.forward
        engine.method.decoder.forward = lambda z, f=forward, s=seen: (s.append(f(z).dtype), f(z))[1]  # type: ignore[union-attr, misc]
        engine.run()
        assert seen[0] is (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert weights(engine)["decoder.weight"].dtype is torch.float32
        ends.append(weights(engine)["decoder.weight"])
    assert 0 < float((ends[0] - ends[1]).abs().max()) < 0.1


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    sgd = OptimiserConfig(name="sgd", lr=1.0)
    engine = engine_for(tmp_path / "run", Toy, replace(config(clip_norm=1e-3, max_steps=1), optimiser=sgd))
    before = {k: v.clone() for k, v in engine.method.named_parameters()}
    engine.run()
    moved = torch.stack([(v - before[k]).square().sum() for k, v in engine.method.named_parameters()]).sum().sqrt()
    assert float(moved.detach()) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="extra missing: tensorboard")
def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    engine_for(tmp_path / "run", Toy, config(trackers=("tensorboard",), max_steps=2)).run()
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polycontrast.engine.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"engine.trackers: wandb is not installed: pip install wandb"):
        engine_for(tmp_path / "run", Toy, config(trackers=("wandb",))).run()


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:7", "this machine has"), ("mps", "not available"), ("gpu", "unknown; use cpu, cuda, cuda:N or mps")],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {device}: .*{message}"):
        accelerator_for(device, "no")


def test_a_stage_is_described_for_a_dry_run() -> None:
    method, data = Odd(ToyConfig()), vectors()
    first, second = (describe_stage(method, stage) for stage in method.stages(data))
    assert first == {"name": "first", "examples": 20, "batch_size": 8, "steps": 4, "learning_parameters": 96}
    assert second["steps"] == 10
    assert second["learning_parameters"] == 36


def test_whatever_a_state_holds_comes_back_exactly() -> None:
    state = {
        "a": [1, 2.5, float("nan"), float("-inf"), None, True, "x"],
        3: (torch.ones(2, dtype=torch.bfloat16), {"b": {}}),
        "scalar": torch.tensor(0.1, dtype=torch.float64), "empty": torch.zeros(0, 3), "tenth": 0.1,
    }  # fmt: skip
    tensors: dict[str, torch.Tensor] = {}
    back = unpack(json.loads(json.dumps(pack(state, tensors))), tensors)
    assert str(back["a"]) == str(state["a"])
    assert isinstance(back[3], tuple)
    assert torch.equal(back[3][0], state[3][0])
    assert back["scalar"] == state["scalar"]
    assert back["empty"].shape == (0, 3)
    assert back["tenth"] == 0.1
    with pytest.raises(TypeError, match="a checkpoint cannot hold set"):
        pack({"x": {1, 2}}, {})


def test_a_stage_may_say_how_often_to_validate(tmp_path: Path) -> None:
    class Often(Toy):
        def stages(self, data: Any) -> Any:
            return [replace(stage, validate_steps=2) for stage in super().stages(data)]

    for method, looks in ((Toy, 0), (Often, 7)):
        engine = engine_for(tmp_path / method.__name__, method, config(validate_epochs=None))
        engine.run()
        lines = [json.loads(line) for line in (engine.folder / "metrics.jsonl").read_text().splitlines()]
        assert sum("val/loss" in line for line in lines) == looks
