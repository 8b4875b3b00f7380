from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dm_control")
pytest.importorskip("gymnasium")

from polycontrast.errors import ConfigError, MissingDependency
from polycontrast_rl import dmc, rendering
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.environments import PixelEnvs, make


@pytest.fixture(scope="module")
def _gl() -> None:
    """MUJOCO_GL stays as chosen: dm_control reads it once."""
    try:
        rendering.choose()
    except MissingDependency as error:
        pytest.skip(f"no GL library: {error}")


pytestmark = pytest.mark.usefixtures("_gl")


def envs(task: str, n: int = 1, seed: int = 0, **settings: Any) -> PixelEnvs:
    return make(EnvConfig(task=f"dmc:{task}", **{"rendering": "fast", **settings}), n, seed)


def play(e: PixelEnvs, steps: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [e.step(rng.uniform(-1, 1, e.action_space.shape).astype(np.float32))[:4] for _ in range(steps)]


def same(one: list[Any], two: list[Any]) -> None:
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_exact_rendering_gives_the_pixels_of_dm_control() -> None:
    from dm_control import suite

    with contextlib.closing(envs("cartpole_swingup", rendering="exact", frame_stack=1)) as e:
        ours, _ = e.reset()
        (episode,) = (alive for alive in dmc._alive)
        stock = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
        stock.reset()
        stock.physics.set_state(episode._env.physics.get_state())
        stock.physics.forward()
        np.testing.assert_array_equal(ours[0], stock.physics.render(84, 84, camera_id=0).transpose(2, 0, 1))
        stock.physics.free()


def test_qualities_differ_a_little_and_so_do_their_fingerprints() -> None:
    pictures, prints = {}, {}
    for quality in ("exact", "balanced", "fast"):
        with contextlib.closing(envs("walker_walk", rendering=quality, frame_stack=1)) as e:
            pictures[quality], prints[quality] = e.reset()[0].astype(int), e.fingerprint
    assert 0 < np.abs(pictures["balanced"] - pictures["exact"]).mean() < 0.1
    assert 1 < np.abs(pictures["fast"] - pictures["exact"]).mean() < 20
    assert [prints[quality]["rendering"] for quality in prints] == ["exact", "balanced", "fast"]


def test_environments_in_processes_answer_as_those_in_this_one() -> None:
    settings = {"height": 24, "width": 24, "time_limit": 6}
    with contextlib.closing(envs("reacher_easy", n=2, **settings)) as here:
        expected = [here.reset()[0], *play(here, 5)]
        state, rest = here.state_dict(), play(here, 3, seed=1)
    with contextlib.closing(envs("reacher_easy", n=2, processes=True, **settings)) as apart:
        np.testing.assert_array_equal(apart.reset()[0], expected[0])
        same(play(apart, 5), expected[1:])
        apart.load_state_dict(state)
        same(play(apart, 3, seed=1), rest)


def test_a_step_is_dm_controls_own() -> None:
    from dm_control import suite

    with contextlib.closing(envs("reacher_easy", action_repeat=1)) as e:
        e.reset()
        (alive,) = dmc._alive
        stock = suite.load("reacher", "easy", task_kwargs={"random": 0})
        stock.task.random.seed(
            int(np.random.SeedSequence((e.state_dict()["source"]["progress"][0]["seed"], 0)).generate_state(1)[0])
        )
        stock.reset()
        for _ in range(30):
            action = np.array([[0.5, -1.0]], np.float32)
            _, reward, *_ = e.step(action)
            assert reward.item() == stock.step(action[0]).reward
        np.testing.assert_array_equal(alive._env.physics.get_state(), stock.physics.get_state())


def test_the_end_of_an_episode_is_a_time_limit() -> None:
    with contextlib.closing(envs("cartpole_swingup", action_repeat=8)) as e:
        e.reset()
        answers = play(e, 127)  # 1000 control steps are 125 actions
    truncated = [bool(a[3]) for a in answers]
    assert truncated.index(True) == 124
    assert sum(truncated) == 1
    assert not any(a[2] for a in answers)
    assert answers[125][1] == 0


@pytest.mark.parametrize("task", ["reacher_hard", "walker_walk"])
@pytest.mark.parametrize("before", [4, 9])
def test_an_interrupted_episode_goes_on_bit_for_bit(task: str, before: int) -> None:
    settings = {"time_limit": 12, "height": 32, "width": 32}
    with contextlib.closing(envs(task, n=2, **settings)) as e:
        e.reset()
        play(e, before)
        state = e.state_dict()
        rest = play(e, 8, seed=1)
    with contextlib.closing(envs(task, n=2, seed=8, **settings)) as again:
        again.load_state_dict(state)
        same(play(again, 8, seed=1), rest)


def test_two_tasks_do_not_blacken_each_other() -> None:
    with contextlib.closing(envs("cartpole_swingup", height=32, width=32)) as one:
        alone = [one.reset()[0], *(answer[0] for answer in play(one, 6))]
    with contextlib.closing(envs("cartpole_swingup", height=32, width=32)) as one:
        together = [one.reset()[0]]
        rng = np.random.default_rng(0)
        other = envs("walker_walk", height=32, width=32)
        other.reset()
        for k in range(6):
            together.append(one.step(rng.uniform(-1, 1, one.action_space.shape).astype(np.float32))[0])
            play(other, 1)
            if k == 2:  # closed, and another made, while the first is in use
                other.close()
                other = envs("reacher_easy", height=32, width=32)
                other.reset()
        other.close()
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not dmc._alive


def test_the_arm_is_seen_by_its_camera_and_goes_on_too() -> None:
    settings = {"time_limit": 4, "height": 32, "width": 32}
    with contextlib.closing(envs("reach_duplo", **settings)) as e:
        obs, _ = e.reset()
        assert obs.std() > 10
        assert e.single_action_space.shape == (9,)
        play(e, 4)  # a new model was compiled on the way
        state = e.state_dict()
        rest = play(e, 2, seed=1)
        assert rest[-1][0].std() > 10
    with contextlib.closing(envs("reach_duplo", seed=3, **settings)) as again:
        again.load_state_dict(state)
        same(play(again, 2, seed=1), rest)


def test_several_cameras_stand_one_after_the_other() -> None:
    small = {"height": 16, "width": 24, "frame_stack": 2}
    with contextlib.closing(envs("walker_walk", cameras=(0, 1), **small)) as both:
        two, _ = both.reset()
        assert both.frame_shape == (6, 16, 24)
    for k in (0, 1):
        with contextlib.closing(envs("walker_walk", cameras=(k,), **small)) as e:
            np.testing.assert_array_equal(e.reset()[0], np.concatenate([two[:, 3 * k : 3 * k + 3]] * 2, 1))


def test_unknown_tasks_and_cameras_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"dm_control has no task 'cartpole_swing_up'\. Did you mean 'cartpole_swingup'"
    ):
        envs("cartpole_swing_up")
    with contextlib.closing(envs("cartpole_swingup", cameras=(7,))) as e, pytest.raises(ConfigError, match="camera"):
        e.reset()


def test_a_mujoco_that_is_too_new_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmc, "version", lambda name: "4.0.0")
    with pytest.raises(MissingDependency, match=r'mujoco 4\.0\.0, which is too new: pip install "mujoco>=3\.17,<4"'):
        envs("cartpole_swingup")


def test_no_renderer_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering, "fault", lambda backend: "no library")
    with pytest.raises(MissingDependency, match=r"libegl1 libopengl0 libgl1-mesa-dri .* or libosmesa6") as why:
        envs("cartpole_swingup")
    assert "\n" not in str(why.value)
    assert {check.ok for check in rendering.check()} == {False}
    assert "apt-get install libosmesa6" in rendering.check()[1].detail


def test_a_renderer_that_cannot_draw_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    def broken(*_: Any) -> None:
        raise mujoco.FatalError("an OpenGL platform library has not been loaded")

    with contextlib.closing(dmc.DmControl("cartpole_swingup", 16, 16, (), "fast")) as task:
        task._camera_class = broken
        task.begin(0)
        monkeypatch.setenv("MUJOCO_GL", "glfw")
        with pytest.raises(MissingDependency, match=r"cannot draw with MUJOCO_GL=glfw .* libegl1 libopengl0") as why:
            task.draw()
    assert "\n" not in str(why.value)


def test_the_first_backend_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering, "fault", lambda backend: "" if backend == "osmesa" else "no library")
    rendering.choose()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    first, second = rendering.check()
    assert (first.ok, second.ok) == (False, True)
    assert first.detail.startswith("not needed, another one works")
