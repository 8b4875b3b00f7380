from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.spaces import Box, Dict, Discrete  # noqa: E402

from polycontrast.errors import ConfigError, DataError, MissingDependency, PolycontrastError  # noqa: E402
from polycontrast_rl.config import EnvConfig, ReplayConfig  # noqa: E402
from polycontrast_rl.environments import PixelEnvs, make  # noqa: E402
from polycontrast_rl.pixels import PointMass, Reacher  # noqa: E402
from polycontrast_rl.replay import ReplayBuffer  # noqa: E402
from polycontrast_rl.resize import resize  # noqa: E402

PIXELS = ("pixels:point-mass", "pixels:reacher")


class Toy(gymnasium.Env):
    """Pictures that count: red is the step, green the seed; the task ends at step 7."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, action: Any = None, seen: bool = True) -> None:
        self.render_mode = render_mode
        pair = Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)
        self.action_space = pair if action is None else action
        self.observation_space = Box(0, 255, (20, 30, 3), np.uint8) if seen else Box(-1, 1, (4,))
        self.seen, self.taken = seen, []

    def render(self) -> Any:
        picture = np.zeros((20, 30, 3), np.uint8)
        picture[..., 0], picture[..., 1] = self.t, self.colour
        return picture

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.colour = 0, int(self.np_random.integers(256))
        return (self.render() if self.seen else np.zeros(4, np.float32)), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.t += 1
        self.taken.append(action)
        return (self.render() if self.seen else np.zeros(4, np.float32)), float(np.sum(action)), self.t == 7, False, {}


for name, arguments in {
    "Toy-v0": {}, "ToyUnseen-v0": {"seen": False}, "ToyChoice-v0": {"action": Discrete(3, start=5)},
    "ToyDict-v0": {"action": Dict({"a": Discrete(2)})}, "ToyUnbounded-v0": {"action": Box(-np.inf, np.inf, (2,))},
}.items():  # fmt: skip
    gymnasium.register(f"polycontrast-tests/{name}", entry_point=Toy, kwargs=arguments, max_episode_steps=50)


def envs(task: str, n: int = 2, seed: int = 0, evaluation: bool = False, **settings: Any) -> PixelEnvs:
    given = {"height": 24, "width": 20, "action_repeat": 1, **settings}
    return make(EnvConfig(task=task, **given), n, seed, evaluation=evaluation)


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def actions(e: PixelEnvs, steps: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *e.action_space.shape)).astype(np.float32)


@pytest.mark.parametrize("task", [*PIXELS, "gym:polycontrast-tests/Toy-v0", "gym:polycontrast-tests/ToyUnseen-v0"])
class TestEverySource:
    def test_shapes_types_and_spaces(self, task: str) -> None:
        e = envs(task, n=3)
        obs, info = e.reset()
        assert e.single_observation_space == Box(0, 255, (9, 24, 20), np.uint8)
        assert e.single_action_space == Box(-1, 1, (2,), np.float32)
        assert (e.frame_shape, e.discrete, info) == ((3, 24, 20), False, {})
        obs, reward, terminated, truncated, info = e.step(actions(e, 1)[0])
        assert e.observation_space.contains(obs)
        assert (reward.shape, terminated.dtype, truncated.dtype, info) == ((3,), bool, bool, {})

    def test_stacks_hold_the_frames_before_and_begin_with_the_first(self, task: str) -> None:
        e, single = envs(task), envs(task, frame_stack=1)
        obs, _ = e.reset()
        frames = [single.reset()[0]]
        assert all(np.array_equal(obs[:, 3 * k : 3 * k + 3], frames[0]) for k in range(3))
        for action in actions(e, 5):
            obs, *_ = e.step(action)
            frames.append(single.step(action)[0])
            expected = np.concatenate([frames[max(len(frames) - 3 + k, 0)] for k in range(3)], 1)
            np.testing.assert_array_equal(obs, expected)

    def test_a_repeated_action_earns_the_sum(self, task: str) -> None:
        once, twice = envs(task, time_limit=6), envs(task, action_repeat=2, time_limit=6)
        assert np.array_equal(once.reset()[0], twice.reset()[0])
        for action in actions(once, 3):
            first, second = once.step(action), once.step(action)
            both = twice.step(action)
            np.testing.assert_allclose(both[1], first[1] + second[1])
            np.testing.assert_array_equal(both[0][:, -3:], second[0][:, -3:])
            assert np.array_equal(both[3], second[3])

    def test_a_time_limit_truncates_and_the_next_step_begins_anew(self, task: str) -> None:
        e = envs(task, time_limit=5, action_repeat=2)
        e.reset()
        for t, action in enumerate(actions(e, 4)):
            obs, reward, terminated, truncated, _ = e.step(action)
            assert not terminated.any()
            assert truncated.all() == (t == 2)  # 2, 4, 5 simulator steps
        assert (reward == 0).all()  # the fourth only began the next episode
        assert np.array_equal(obs[:, :3], obs[:, -3:])

    def test_episodes_depend_on_seed_environment_and_number(self, task: str) -> None:
        def firsts(e: PixelEnvs) -> list[Any]:
            found = [e.reset()[0], e.reset()[0]]
            return [bytes(obs[i]) for obs in found for i in range(e.num_envs)]

        found = firsts(envs(task, seed=1))
        assert len(set(found)) == 4
        assert found == firsts(envs(task, seed=1))
        assert not set(found) & set(firsts(envs(task, seed=2)))
        assert not set(found) & set(firsts(envs(task, seed=1, evaluation=True)))
        e = envs(task, seed=1)
        e.reset(seed=9)
        e.step(actions(e, 1)[0])
        assert np.array_equal(
            e.reset(seed=9)[0], envs(task, seed=4).reset(seed=9)[0]
        )  # the same ones at every evaluation

    @pytest.mark.parametrize("before", [3, 5, 6, 11])  # within an episode, at its end, just after, in a later one
    def test_an_interrupted_episode_goes_on_bit_for_bit(self, task: str, before: int) -> None:
        e = envs(task, time_limit=5)
        obs, _ = e.reset()
        play = actions(e, before + 14)
        for action in play[:before]:
            obs, *_ = e.step(action)
        state = e.state_dict()
        rest = [e.step(action) for action in play[before:]]
        again = envs(task, time_limit=5, seed=77)
        again.load_state_dict(state)
        np.testing.assert_array_equal(again.observations, obs)
        for action, expected in zip(play[before:], rest, strict=True):
            for got, wanted in zip(again.step(action)[:4], expected[:4], strict=True):
                np.testing.assert_array_equal(got, wanted)

    def test_a_replay_of_it_knows_borders_and_discounts(self, task: str) -> None:
        e = envs(task, time_limit=9)
        replay = ReplayBuffer(300, e.frame_shape, 2, lanes=2, stack=3)
        obs, _ = e.reset()
        seen = {bytes(o) for o in obs}
        replay.add(obs)
        for action in actions(e, 25):
            obs, *answer = e.step(action)
            seen |= {bytes(o) for o in obs}
            replay.add(obs, action, *answer[:3])
        batch = replay.gather(replay.starts(3, 2), 3, 2, 0.5)
        # Stacks put together from single frames are those that the environment showed.
        assert {bytes(o.numpy()) for name in ("obs", "next_obs", "obs_k") for o in batch[name]} <= seen
        assert set(batch["discount"].ravel().tolist()) == ({0.125, 0.0} if task.startswith("gym") else {0.125})


def test_the_task_ends_with_discount_0_and_a_limit_with_1() -> None:
    for limit, discount in ((None, 0.0), (7, 0.0), (6, 1.0)):
        e = envs("gym:polycontrast-tests/Toy-v0", n=1, time_limit=limit)
        replay = ReplayBuffer(50, e.frame_shape, 2)
        replay.add(e.reset()[0])
        for action in actions(e, 7 if limit != 6 else 6):
            obs, reward, terminated, truncated, _ = e.step(action)
            replay.add(obs, action, reward, terminated, truncated)
        assert (terminated.item(), truncated.item()) == (discount == 0, discount == 1)
        assert replay.gather(replay.starts(1, 1)[-1:], 1, 1, 1.0)["discount"].item() == discount


def test_actions_are_scaled_to_the_range_of_the_task() -> None:
    e = envs("gym:polycontrast-tests/Toy-v0", n=1)
    e.reset()
    _, reward, *_ = e.step(np.array([[-1.0, 1.0]]))
    assert reward.item() == -2 + 10
    _, reward, *_ = e.step(np.array([[0.5, 0.0]]))
    assert reward.item() == pytest.approx(1 + 5)
    _, reward, *_ = e.step(np.array([[3.0, -3.0]]))  # clipped
    assert reward.item() == 2 + 0


def test_of_choices_the_one_with_the_largest_value_is_taken() -> None:
    e = envs("gym:polycontrast-tests/ToyChoice-v0", n=1)
    assert e.discrete
    assert e.single_action_space.shape == (3,)
    e.reset()
    assert [e.step(np.eye(3, dtype=np.float32)[k][None])[1].item() for k in range(3)] == [5, 6, 7]


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [
        ("pixels:reachr", ConfigError, r"there is no task 'pixels:reachr'\. Did you mean 'reacher'\?"),
        ("gym:CartPole-v9", ConfigError, "CartPole"),
        ("gym:Cartpoel-v1", ConfigError, r"Did you mean 'CartPole-v1'\?"),
        ("gym:polycontrast-tests/ToyDict-v0", ConfigError, "only a bounded Box of floats and Discrete are supported"),
        ("gym:polycontrast-tests/ToyUnbounded-v0", ConfigError, "only a bounded Box of floats and Discrete"),
    ],
)
def test_tasks_that_cannot_be_played_are_refused_with_one_line(task: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as why:
        envs(task)
    assert isinstance(why.value, PolycontrastError)
    assert "\n" not in str(why.value)


def test_an_environment_without_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "metadata", {"render_modes": ["human"]})
    with pytest.raises(DataError, match="has no pictures: it neither observes nor renders RGB images"):
        envs("gym:polycontrast-tests/ToyUnseen-v0")


def test_a_package_that_an_environment_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any, *args: Any, **kwargs: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(Toy, "render", missing)
    e = envs("gym:polycontrast-tests/ToyUnseen-v0")
    with pytest.raises(MissingDependency, match="needs a package: pygame is not installed"):
        e.reset()
    monkeypatch.setattr(Toy, "__init__", missing)
    with pytest.raises(MissingDependency, match="needs a package: pygame is not installed"):
        envs("gym:polycontrast-tests/ToyUnseen-v0")


def test_wrong_settings_are_refused() -> None:
    for settings, text in (
        ({"task": "cartpole"}, "task must look like"),
        ({"task": "atari:pong"}, "task must look like"),
        ({"frame_stack": 0}, "frame_stack must be at least 1, got 0"),
        ({"height": 4}, "at least 8 rows and columns"),
        ({"time_limit": -1}, "time_limit must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=text):
            EnvConfig(**settings)
    with pytest.raises(ConfigError, match=r"replay\.capacity must be at least 2"):
        ReplayConfig(capacity=1)
    e = envs("pixels:reacher")
    e.reset()
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 2\), got \(2,\)"):
        e.step(np.zeros(2))


# ---- the drawn tasks ---------------------------------------------------------------------------------------------


def test_the_point_mass_moves_as_specified() -> None:
    e = PointMass(1, 32, 32, action_repeat=1, time_limit=None)
    e.begin([0])
    p, v, target = e.x[0, :2].copy(), e.x[0, 2:4].copy(), e.x[0, 4:].copy()
    for action in np.random.default_rng(0).uniform(-1, 1, (90, 2)):
        p, v = p + v, 0.8 * v + 0.06 * action
        v = np.where(np.abs(p) > 0.85, 0, v)
        p = np.clip(p, -0.85, 0.85)
        e.step(action[None])
        np.testing.assert_allclose(e.x[0], np.concatenate([p, v, target]))


def test_pictures_show_what_the_state_says() -> None:
    e = PointMass(1, 40, 40, action_repeat=1, time_limit=None)
    e.begin([0])
    e.x[0] = [0.5, -0.5, 0, 0, -0.5, 0.5]
    red, green, _ = e.draw()[0].astype(int)
    row, column = np.unravel_index((red - green).argmax(), red.shape)
    assert row == pytest.approx(30, abs=2)  # y points upwards
    assert column == pytest.approx(30, abs=2)
    row, column = np.unravel_index((green - red).argmax(), red.shape)
    assert row == pytest.approx(10, abs=2)
    assert column == pytest.approx(10, abs=2)


def test_rewards_are_largest_at_the_target() -> None:
    point, reacher = (kind(1, 16, 16, action_repeat=1, time_limit=None) for kind in (PointMass, Reacher))
    there = np.array([[0.3, 0.3, 0, 0, 0.3, 0.3]])
    assert point.reward(there).item() == 1
    assert point.reward(there + np.array([0.6, 0, 0, 0, 0, 0])).item() == pytest.approx(0.1)
    pose = np.array([[0.0, 0.0, 0, 0, 0.85, 0.0]])  # both links stretched out to the right
    assert reacher.reward(pose).item() == 1
    assert reacher.reward(pose + np.array([0, 1, 0, 0, 0, 0])).item() == 0


@pytest.mark.parametrize("task", PIXELS)
def test_a_frame_costs_less_than_a_tenth_of_a_millisecond(task: str) -> None:
    e = envs(task, n=32, height=32, width=32, action_repeat=1)
    e.reset()
    action = actions(e, 1)[0]
    best = np.inf
    for _ in range(20):
        begin = time.process_time()
        e.step(action)
        best = min(best, time.process_time() - begin)
    assert best / 32 < 1e-4


def test_resizing_takes_means_of_areas() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    expected = picture.reshape(4, 2, 4, 3, 3).mean((1, 3))
    assert np.abs(resize(picture, 4, 4) - expected).max() <= 0.5
    assert np.array_equal(resize(picture, 8, 12), picture)
    assert resize(picture, 5, 7).mean() == pytest.approx(picture.mean(), abs=0.6)
    assert (resize(np.full((9, 9, 3), 255, np.uint8), 16, 5) == 255).all()
