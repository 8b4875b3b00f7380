from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polycontrast.config import EngineConfig, OptimiserConfig
from polycontrast.data import TensorExamples
from polycontrast.engine import Engine, checkpoint
from polycontrast.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from polycontrast.method import OptimiserSpec, Stage
from support.toys import Counter, Odd, Toy, ToyConfig, engine_for, vectors, weights


class Killed(Exception):
    """What a kill -9 leaves: the process is gone, the directory is as it was."""


def kill_after(engine: Engine, steps: int) -> None:
    """Run the engine until ``steps`` steps of this process are done, then drop it."""
    tick = engine.tick
    left = [steps]

    def counted() -> None:
        tick()
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    engine.tick = counted  # type: ignore[method-assign]
    with pytest.raises(Killed):
        engine.run()


def engine_config(**changes: Any) -> EngineConfig:
    return replace(ToyConfig().engine, **changes)


def metrics(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize("method", [Toy, Odd])
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "accumulate": 2, "log_steps": 4, "clip_norm": 0.5}])
def test_a_killed_run_ends_as_the_uninterrupted_one(tmp_path: Path, method: type[Toy], changes: dict[str, Any]) -> None:
    """Killed after every possible number of steps, also right after a checkpoint and between two."""
    config = ToyConfig(engine=engine_config(checkpoint_steps=3, validate_steps=2, **changes))
    whole = engine_for(tmp_path / "whole", method, config)
    whole.run()
    assert whole.step > 9
    for steps in range(1, whole.step):
        path = tmp_path / f"killed-{steps}"
        kill_after(engine_for(path, method, config), steps)
        again = engine_for(path, method, config)
        again.run()
        assert again.step == whole.step
        for name, value in weights(whole).items():
            assert torch.equal(value, weights(again)[name]), f"{name} differs when killed after {steps} steps"
        assert metrics(path) == metrics(tmp_path / "whole")
    if method is Odd:
        assert again.method.counter.value == whole.method.counter.value == 4  # type: ignore[union-attr]
        assert again.method.info == {"heads": 2}


def test_killed_again_and_again(tmp_path: Path) -> None:
    config = ToyConfig(engine=engine_config(checkpoint_steps=1))
    whole = engine_for(tmp_path / "whole", Odd, config)
    whole.run()
    for _ in range(whole.step - 1):
        kill_after(engine_for(tmp_path / "killed", Odd, config), 1)
    again = engine_for(tmp_path / "killed", Odd, config)
    again.run()
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(whole).items())


def test_an_artefact_is_made_once_also_over_a_resume(tmp_path: Path) -> None:
    config = ToyConfig(engine=engine_config(checkpoint_steps=1))
    first = engine_for(tmp_path / "run", Odd, config)
    kill_after(first, 1)
    assert first.method.made == ["centre"]  # type: ignore[union-attr]
    again = engine_for(tmp_path / "run", Odd, config)
    again.run()
    assert len(again.method.made) == 3  # type: ignore[union-attr]
    assert len(list((tmp_path / "run" / "artefacts").iterdir())) == 4


def test_different_seeds_train_differently(tmp_path: Path) -> None:
    runs = [engine_for(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for engine in runs:
        engine.run()
    assert not torch.equal(weights(runs[0])["decoder.weight"], weights(runs[1])["decoder.weight"])


def test_accumulation_gives_the_same_gradients(tmp_path: Path) -> None:
    plain = replace(ToyConfig(), dropout=0.0)
    ends = []
    for parts in (1, 2, 4):
        engine = engine_for(tmp_path / str(parts), Toy, replace(plain, engine=engine_config(accumulate=parts)))
        engine.run()
        ends.append(weights(engine)["decoder.weight"])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-5, atol=1e-6)


def test_workers_prepare_the_same_batches(tmp_path: Path) -> None:
    ends = []
    for workers in (0, 2):
        engine = engine_for(tmp_path / str(workers), Toy, ToyConfig(engine=engine_config(workers=workers)))
        engine.run()
        ends.append(weights(engine)["decoder.weight"])
    assert torch.equal(ends[0], ends[1])


def test_a_frozen_part_stays_and_best_weights_are_kept(tmp_path: Path) -> None:
    class Late(Toy):
        """Its validation grows worse after the second look."""

        looks = 0

        def stages(self, data: Any) -> list[Stage]:
            return [
                Stage(name="s", data=data.splits["train"], epochs=5, trains=("decoder",), select="score", patience=2)
            ]

        def validate(self, data: Any, stage: Stage) -> dict[str, float]:
            self.looks += 1
            self.seen = [*getattr(self, "seen", []), self.decoder.weight.detach().clone()]
            return {"score": abs(self.looks - 2.0)}

    engine = engine_for(tmp_path / "run", Late)
    before = engine.method.encoder[0].weight.detach().clone()  # type: ignore[union-attr, index]
    engine.run()
    assert torch.equal(before, engine.method.encoder[0].weight)  # type: ignore[union-attr, index]
    assert engine.method.looks == 4  # type: ignore[union-attr]  # the second is the best, two more were worse
    assert torch.equal(engine.method.decoder.weight, engine.method.seen[1])  # type: ignore[union-attr]
    assert all(p.requires_grad for p in engine.method.parameters())


def test_validation_does_not_disturb_training(tmp_path: Path) -> None:
    ends = []
    for every in (None, 1):
        engine = engine_for(tmp_path / str(every), Toy, ToyConfig(engine=engine_config(validate_steps=every)))
        engine.run()
        ends.append(weights(engine)["decoder.weight"])
    assert torch.equal(ends[0], ends[1])


def test_the_average_follows_its_formula(tmp_path: Path) -> None:
    config = ToyConfig(engine=engine_config(ema=0.75, epochs=1))
    plain = engine_for(tmp_path / "plain", Toy, replace(config, engine=engine_config(epochs=1)))
    seen = [weights(plain)["decoder.weight"]]
    plain.method.on_step_end = lambda stage, engine: seen.append(weights(plain)["decoder.weight"])  # type: ignore[method-assign]
    plain.run()
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.75 * expected + 0.25 * value
    averaged = engine_for(tmp_path / "averaged", Toy, config)
    averaged.run()
    torch.testing.assert_close(weights(averaged)["decoder.weight"], expected)


class Broken(Toy):
    """Gives NaN for the third batch."""

    calls = 0

    def terms(self, batch: Any) -> dict[str, torch.Tensor]:
        out = super().terms(batch)
        if self.training:
            self.calls += 1
        return {k: v * math.nan if self.calls == 3 and k == "penalty" else v for k, v in out.items()}


def test_a_loss_that_is_not_finite_stops_with_step_and_term(tmp_path: Path) -> None:
    engine = engine_for(tmp_path / "run", Broken)
    with pytest.raises(
        TrainingError, match=r"not finite at step 3 of stage 'train' \(term penalty\); lower optimiser.lr"
    ):
        engine.run()


def test_a_loss_that_is_not_finite_can_be_skipped(tmp_path: Path) -> None:
    config = ToyConfig(engine=engine_config(nonfinite="skip"))
    engine = engine_for(tmp_path / "run", Broken, config)
    engine.run()
    assert all(bool(torch.isfinite(v).all()) for v in weights(engine).values())
    assert engine.step == 15


def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    import os
    import signal

    class Impatient(Toy):
        def on_step_end(self, stage: Stage, engine: Any) -> None:
            if engine.step == 4 and not engine.resumed:
                os.kill(os.getpid(), signal.SIGTERM)

    engine = engine_for(tmp_path / "run", Impatient)
    with pytest.raises(Interrupted, match=r"stopped at step 5; go on with --resume") as caught:
        engine.run()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = engine_for(tmp_path / "run", Impatient)
    again.run()
    whole = engine_for(tmp_path / "whole")
    whole.run()
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(whole).items())


class Ramp:
    """A stream: every batch is the one before plus one."""

    def __init__(self) -> None:
        self.at = 0

    def next(self, engine: Any) -> dict[str, Any]:
        self.at += 1
        return {"x": torch.full((8, 4), 0.01 * self.at)}

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Streaming(Toy):
    def stages(self, data: Any) -> list[Stage]:
        self.stream = Ramp()
        return [Stage(name="stream", data=self.stream, steps=12)]


def test_a_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    config = ToyConfig(engine=engine_config(checkpoint_steps=2))
    whole = engine_for(tmp_path / "whole", Streaming, config)
    whole.run()
    assert whole.method.stream.at == whole.step == 12  # type: ignore[union-attr]
    kill_after(engine_for(tmp_path / "killed", Streaming, config), 7)
    again = engine_for(tmp_path / "killed", Streaming, config)
    again.run()
    assert again.method.stream.at == 12  # type: ignore[union-attr]
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(whole).items())


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "process-0.safetensors", "process-0.json"])
def test_a_truncated_checkpoint_is_named_and_not_passed_over(tmp_path: Path, name: str) -> None:
    engine_for(tmp_path / "run").run()
    newest = checkpoint.found(tmp_path / "run" / "checkpoints")[-1]
    file = newest / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged .*; delete .*{newest.name} to ") as caught:
        checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert "\n" not in str(caught.value)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    engine_for(tmp_path / "run", Toy, ToyConfig(engine=engine_config(checkpoint_steps=2, keep_checkpoints=3))).run()
    assert [p.name for p in checkpoint.found(tmp_path / "run" / "checkpoints")] == [
        "step-00000012-0", "step-00000014-0", "step-00000015-1",
    ]  # fmt: skip


def test_max_steps_ends_every_stage_and_its_schedule(tmp_path: Path) -> None:
    engine_for(tmp_path / "run", Odd, ToyConfig(engine=engine_config(max_steps=3))).run()
    rows = [r for r in metrics(tmp_path / "run") if "train/loss" in r]
    assert [r["stage"] for r in rows] == ["first"] * 3 + ["second"] * 3
    assert rows[5]["lr/head"] == pytest.approx(1e-2 * 0.5 * (1 + math.cos(math.pi * 2 / 3)))


def test_an_optimiser_touches_only_its_own_parameters(tmp_path: Path) -> None:
    class Two(Toy):
        def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
            sgd = OptimiserConfig(name="sgd", lr=0.1)
            return {n: OptimiserSpec(list(getattr(self, n).parameters()), sgd) for n in ("encoder", "decoder")}

        def step(self, batch: Any, engine: Any) -> None:
            engine.minimise(self.terms(batch), "encoder")
            assert all(p.grad is None for p in self.decoder.parameters())

    engine = engine_for(tmp_path / "run", Two)
    before = weights(engine)
    engine.run()
    after = weights(engine)
    assert torch.equal(before["decoder.weight"], after["decoder.weight"])
    assert not torch.equal(before["encoder.0.weight"], after["encoder.0.weight"])


def test_a_switched_off_term_is_not_computed_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    engine = engine_for(tmp_path / "run", Toy, ToyConfig(off=("penalty",)))
    engine.run()
    assert not any("train/penalty" in r for r in metrics(tmp_path / "run"))
    with pytest.raises(ConfigError, match="off: test/toy has no term 'penalti'"):
        engine_for(tmp_path / "b", Toy, ToyConfig(off=("penalti",)))
    with pytest.raises(ConfigError, match="nothing is left to learn from"):
        engine_for(tmp_path / "c", Toy, ToyConfig(off=("penalty", "reconstruction"))).run()


def test_registered_objects_with_unknown_states_are_kept_until_claimed(tmp_path: Path) -> None:
    class Registers(Toy):
        def on_run_start(self, data: Any, engine: Any) -> None:
            self.a, self.b = Counter(), Counter()
            engine.register("a", self.a)
            engine.register("b", self.b, per_process=True)

        def on_step_end(self, stage: Stage, engine: Any) -> None:
            self.a.value += 1
            self.b.value += 2

    config = ToyConfig(engine=engine_config(checkpoint_steps=2))
    kill_after(engine_for(tmp_path / "run", Registers, config), 4)
    again = engine_for(tmp_path / "run", Registers, config)
    again.run()
    assert (again.method.a.value, again.method.b.value) == (15, 30)  # type: ignore[union-attr]


def test_fewer_examples_than_a_batch_is_one_batch(tmp_path: Path) -> None:
    data = vectors(n=5)
    engine = engine_for(tmp_path / "run", data=data)
    engine.run()
    assert engine.step == 3
    assert isinstance(data.splits["train"], TensorExamples)
