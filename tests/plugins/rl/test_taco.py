"""The method in the engine, on the point mass that draws itself."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from polycontrast.config import EngineConfig, OptimiserConfig
from polycontrast.data import draws
from polycontrast.engine import Engine, accelerator_for, checkpoint, seed_everything
from polycontrast.errors import ConfigError, DataError
from polycontrast.runs import Run
from polycontrast_rl.config import EnvConfig, ReplayConfig
from polycontrast_rl.taco.config import AUXILIARY, TacoConfig
from polycontrast_rl.taco.data import EnvDataset, environment, recording
from polycontrast_rl.taco.export import PixelEncoder, register_auto
from polycontrast_rl.taco.method import Taco

ENV = EnvConfig(task="pixels:point-mass", height=16, width=16, action_repeat=2, time_limit=20)
SMALL = TacoConfig(
    data=ENV, replay=ReplayConfig(keep="memory"), frames=400, seed_frames=80, envs=2, channels=(4, 4), strides=(2, 2),
    feature=6, hidden=8, shift=1, eval_frames=160, eval_episodes=2, test_episodes=2,
    schedule="linear(1.0,0.1,100)", optimiser=OptimiserConfig(name="adam", lr=1e-3),
    engine=EngineConfig(batch_size=8, epochs=None, log_steps=7, checkpoint_steps=11, checkpoint_seconds=1e9),
)  # fmt: skip


def engine_for(path: Path, config: TacoConfig = SMALL, *, seed: int = 0, data: EnvDataset | None = None) -> Engine:
    data = data or environment(config, seed, "train")
    if not Run.exists(path):
        Run.create(path, config={"method": Taco.id, "data": "x", "seed": seed, "config": {}}, environment={})
    saved = checkpoint.newest(path / "checkpoints")
    seed_everything(seed)
    info = saved.info if saved is not None else Taco.inspect(config, data)
    method = Taco(config, info)
    return Engine(method, data, Run.open(path), accelerator_for("cpu", "no"), seed=seed, saved=saved, progress=False)


class Killed(Exception):
    pass


def kill_after(engine: Engine, steps: int) -> None:
    tick, left = engine.tick, [steps]

    def counted() -> None:
        tick()
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    engine.tick = counted  # type: ignore[method-assign]
    with pytest.raises(Killed):
        engine.run()


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return [{k: v for k, v in row.items() if k not in ("fps", "total_time")} for row in csv.DictReader(text)]


def metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in engine.method.state_dict().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Engine]:
    path = tmp_path_factory.mktemp("taco") / "whole"
    engine = engine_for(path)
    engine.run()
    return path, engine


def test_counters_tables_and_metrics(whole: tuple[Path, Engine]) -> None:
    path, engine = whole
    assert engine.step == 20 + 80  # 80 frames in pairs of two, 320 frames in updates of 4
    train, evaluations = rows(path / "train.csv"), rows(path / "eval.csv")
    assert list(train[0]) == ["frame", "step", "episode", "episode_reward", "episode_length", "buffer_size"]
    assert [row["episode_length"] for row in train] == ["10"] * len(train)
    assert [int(row["frame"]) for row in train[:2]] == [40, 40]
    assert [int(row["frame"]) for row in evaluations] == [240, 400]
    values = [m["val/return"] for m in metrics(path) if "val/return" in m]
    assert [float(row["episode_reward"]) for row in evaluations] == pytest.approx(values, rel=1e-4)
    logged = set().union(*metrics(path))
    for name in ("critic", "actor", "taco", "curl", "reward", "accuracy", "critic_q1", "actor_ent", "batch_reward"):
        assert f"train/{name}" in logged


@pytest.mark.parametrize("keep", ["memory", "disk"])
@pytest.mark.parametrize("steps", [5, 21, 33, 60, 99])
def test_a_killed_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, whole: tuple[Path, Engine], steps: int, keep: str
) -> None:
    """Killed between checkpoints, which are at 11, 20, 22, 33, ..., while exploring and while training."""
    config = replace(SMALL, replay=ReplayConfig(keep=keep))  # type: ignore[arg-type]
    path = tmp_path / "killed"
    kill_after(engine_for(path, config), steps)
    again = engine_for(path, config)
    again.run()
    first, engine = whole
    for name, value in weights(engine).items():
        assert torch.equal(value, weights(again)[name]), name
    assert metrics(path) == metrics(first)
    for table in ("train.csv", "eval.csv"):
        assert rows(path / table) == rows(first / table)


def test_videos_of_evaluations(tmp_path: Path) -> None:
    engine_for(tmp_path / "run", replace(SMALL, videos=True, frames=240)).run()
    assert [p.name for p in (tmp_path / "run" / "videos").iterdir()] == ["000000240.gif"]


def test_a_full_ring_survives_a_kill(tmp_path: Path) -> None:
    """Rows that were overwritten after the checkpoint are there again."""
    config = replace(SMALL, replay=ReplayConfig(keep="disk", capacity=60))
    one, two = tmp_path / "one", tmp_path / "two"
    engine = engine_for(one, config)
    engine.run()
    kill_after(engine_for(two, config), 92)
    again = engine_for(two, config)
    again.run()
    for name, value in weights(engine).items():
        assert torch.equal(value, weights(again)[name]), name


def test_other_seeds_see_other_episodes(tmp_path: Path, whole: tuple[Path, Engine]) -> None:
    engine = engine_for(tmp_path / "run", seed=1)
    kill_after(engine, 30)
    first, other = (rows(path / "train.csv")[0]["episode_reward"] for path in (whole[0], tmp_path / "run"))
    assert first != other


def test_the_optimisers_share_parameters_and_not_moments(whole: tuple[Path, Engine]) -> None:
    method = whole[1].method
    state = checkpoint.newest(whole[0] / "checkpoints")
    assert state is not None
    owned = {name: spec.parameters for name, spec in method.optimisers(method.stages(whole[1].data)[1]).items()}
    shared = {id(p) for p in owned["critic"]} & {id(p) for p in owned["auxiliary"]}
    agent = method.agent  # type: ignore[union-attr]
    assert {id(p) for p in [*agent.encoder.parameters(), *agent.action_encoder.parameters()]} == shared
    first = next(iter(agent.encoder.parameters()))
    moments = []
    for name in ("critic", "auxiliary"):
        optimiser = whole[1]._optimisers[name].torch
        moments.append(optimiser.state[first])
    assert float(moments[0]["step"]) == float(moments[1]["step"]) == 80
    assert not torch.equal(moments[0]["exp_avg"], moments[1]["exp_avg"])


@pytest.mark.parametrize("update", ["merged", "fast"])
def test_merged_updates_have_one_optimiser_for_both(tmp_path: Path, update: str) -> None:
    engine = engine_for(tmp_path / "run", replace(SMALL, update=update, frames=160))  # type: ignore[arg-type]
    engine.run()
    assert set(engine._optimisers) == {"critic", "actor"}
    ids = [id(p) for p in engine._optimisers["critic"].parameters]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("off", [(), *[(name,) for name in AUXILIARY], AUXILIARY, ("actor",), ("critic",)])
def test_terms_can_be_switched_off(tmp_path: Path, off: tuple[str, ...]) -> None:
    config = replace(SMALL, off=off, frames=120)
    engine = engine_for(tmp_path / "run", config)
    engine.run()
    logged = set().union(*metrics(tmp_path / "run"))
    for name in ("critic", "actor", *AUXILIARY):
        assert (f"train/{name}" in logged) == (name not in off)
    taco = engine.method.agent.taco  # type: ignore[union-attr]
    assert (taco is None) == (off == AUXILIARY)


def test_terms_of_a_batch(whole: tuple[Path, Engine]) -> None:
    method = whole[1].method
    n = 5
    batch = {
        name: torch.randint(0, 256, (n, 9, 16, 16), dtype=torch.uint8) for name in ("obs", "next_obs", "obs_k")
    } | {
        "action": torch.zeros(n, 2), "action_seq": torch.zeros(n, 3, 2), "reward": torch.zeros(n, 1),
        "reward_k": torch.zeros(n, 1), "discount": torch.ones(n, 1), "draw": draws(0, torch.arange(n)),
    }  # fmt: skip
    with torch.no_grad():
        terms, again = method.terms(batch), method.terms(batch)
    assert list(terms) == ["critic", "actor", "taco", "curl", "reward"]
    assert all(torch.isfinite(value) for value in terms.values())
    assert again == terms


def test_measured_on_other_episodes_than_those_it_stops_at(whole: tuple[Path, Engine]) -> None:
    method, data = whole[1].method, whole[1].data
    numbers = method.evaluate(data)
    assert numbers == method.evaluate(data)
    assert numbers["length"] == 10
    baselines = method.baselines(data)
    assert {name for name, b in baselines.items() if b.floor} == {"random", "zero action"}
    assert baselines["colour servo"].metrics["return"] > baselines["random"].metrics["return"]
    assert numbers["return"] != method.validate(data, method.stages(data)[1])["return"]


def test_saved_and_loaded_it_acts_the_same(tmp_path: Path, whole: tuple[Path, Engine]) -> None:
    method = whole[1].method
    method.save_pretrained(tmp_path / "model")
    loaded = Taco.from_pretrained(tmp_path / "model")
    obs = np.random.default_rng(0).integers(0, 256, (3, 9, 16, 16), dtype=np.uint8)
    np.testing.assert_array_equal(method.select_action(obs), loaded.select_action(obs))  # type: ignore[operator]
    assert loaded.select_action(obs[0]).shape == (2,)
    with pytest.raises(DataError, match=r"observations must have shape \(9, 16, 16\), got \(9, 8, 8\)"):
        loaded.select_action(np.zeros((9, 8, 8), np.uint8))
    assert not [k for k in loaded.saved_state() if "target" in k]


def test_the_encoder_by_itself(tmp_path: Path, whole: tuple[Path, Engine]) -> None:
    method = whole[1].method
    obs = torch.randint(0, 256, (3, 9, 16, 16), dtype=torch.uint8)
    method.export_encoder().save_pretrained(tmp_path / "encoder")  # type: ignore[operator]
    z = PixelEncoder.from_pretrained(tmp_path / "encoder")(obs)
    torch.testing.assert_close(z, method.embed({"obs": obs}))
    transformers = pytest.importorskip("transformers")
    register_auto()
    auto = transformers.AutoModel.from_pretrained(tmp_path / "encoder")
    torch.testing.assert_close(auto(obs).pooler_output, z)


def test_embed_and_predict_over_an_episode(whole: tuple[Path, Engine]) -> None:
    method, data = whole[1].method, whole[1].data
    assert method.embed_table(data).num_rows == 10
    actions = method.predict_table(data)["prediction"].to_pylist()
    assert np.abs(actions).max() <= 1


@pytest.mark.parametrize("algorithm", ["td3+bc", "bc"])
@pytest.mark.parametrize("off", [(), AUXILIARY])
def test_learning_from_a_recording(tmp_path: Path, algorithm: str, off: tuple[str, ...]) -> None:
    engine_for(tmp_path / "run", replace(SMALL, replay=ReplayConfig(keep="disk"), frames=160)).run()
    config = replace(SMALL, algorithm=algorithm, updates=30, off=off, data=EnvConfig())  # type: ignore[arg-type]
    data = recording(tmp_path / "run" / "replay", config, 0, "train")
    assert data.env == ENV
    whole = engine_for(tmp_path / "whole", config, data=data)
    whole.run()
    kill_after(engine_for(tmp_path / "killed", config, data=data), 17)
    again = engine_for(tmp_path / "killed", config, data=data)
    again.run()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    logged = set().union(*metrics(tmp_path / "whole"))
    assert "train/bc" in logged
    assert ("train/critic" in logged) == (algorithm == "td3+bc")
    assert ("train/taco" in logged) == (not off)
    assert rows(tmp_path / "whole" / "eval.csv") == rows(tmp_path / "killed" / "eval.csv")
    assert whole.method.evaluate(data)["length"] == 10
    assert whole.method.embed_table(data).num_rows == 80


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": EngineConfig(batch_size=1)}, "batch_size must be at least 2: one sample has no negatives"),
        ({"frames": 80}, "frames 80 leave no update after seed_frames 80"),
        ({"channels": (4,)}, r"channels and strides must be of one length, got \[4\] and \[2, 2\]"),
        ({"schedule": "cosine(1)"}, "schedule 'cosine\\(1\\)' is not understood"),
        ({"update": "fast", "off": AUXILIARY}, "update=fast shares images with the auxiliary loss"),
        ({"algorithm": "bc", "update": "fast"}, "update=fast belongs to drqv2, not to bc"),
        ({"algorithm": "bc"}, "algorithm bc learns from a recording; name a replay folder with --data"),
        ({"discount": 1.5}, r"discount must lie in \(0, 1\], got 1.5"),
        ({"lookahead": 0}, "lookahead must be at least 1, got 0"),
        ({"off": ("tacos",)}, "rl/taco has no term 'tacos'"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        engine_for(tmp_path / "run", replace(SMALL, **changes)).run()


@pytest.mark.parametrize("name", ["n_step", "lookahead"])
def test_episodes_shorter_than_n_or_K(tmp_path: Path, name: str) -> None:
    config = replace(SMALL, **{name: 11})
    with pytest.raises(DataError, match="of pixels:point-mass has 11 steps: lower n_step and lookahead"):
        engine_for(tmp_path / "run", config).run()


def test_a_recording_and_an_acting_algorithm(tmp_path: Path) -> None:
    engine_for(tmp_path / "run", replace(SMALL, replay=ReplayConfig(keep="disk"), frames=120)).run()
    data = recording(tmp_path / "run" / "replay", SMALL, 0, "train")
    with pytest.raises(ConfigError, match="from a recording learn with td3\\+bc or bc"):
        engine_for(tmp_path / "other", data=data).run()
    with pytest.raises(DataError, match="no recorded episode has 30 transitions; lower n_step and lookahead"):
        engine_for(tmp_path / "long", replace(SMALL, algorithm="bc", lookahead=30), data=data).run()
    with pytest.raises(DataError, match="holds no replay"):
        recording(tmp_path, SMALL, 0, "train")
    assert not data.notes
    other = recording(tmp_path / "run" / "replay", replace(SMALL, data=replace(ENV, frame_stack=2)), 0, "train")
    assert other.env == data.env
    assert list(other.notes) == ["data.* is what was recorded: frame_stack=3 (not 2)"]
