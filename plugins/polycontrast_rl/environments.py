"""Environments seen through a camera, as one kind of gymnasium vector environment.

What comes out of :func:`make`, whatever the source:

* observation (n, S*C, H, W) uint8: S stacked frames of C channels, newest last;
* action (n, A) float32 in [-1, 1], held for ``action_repeat`` simulator steps;
* reward (n,) float64, summed over these steps; ``terminated`` (the task ended: nothing may be expected after it,
  discount 0) and ``truncated`` (cut off by a time limit: discount 1);
* autoreset in gymnasium's NEXT_STEP mode: the ``step`` after the end of an episode ignores its action and answers with
  the first observation of the next. :meth:`polycontrast_rl.replay.ReplayBuffer.add` knows this rule.

Episode e of environment i starts from a seed derived from (seed, i, e) alone, and ``state_dict`` restores an
interrupted episode by playing its actions again, so a resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from polycontrast.errors import ConfigError, did_you_mean
from polycontrast_rl.columns import Array
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.single import Simulator, SingleEnv, episode_seed


class PixelEnvs(gymnasium.vector.VectorEnv):
    """n environments, see above; made by :func:`make`. To be closed: ``with contextlib.closing(make(...)) as envs``.

    Attributes:
        num_envs: n.
        single_observation_space: Box(0, 255, (S*C, H, W), uint8).
        single_action_space: Box(-1, 1, (A,), float32).
        frame_shape: (C, H, W).
        discrete: whether the task takes one of A choices: it then takes the one with the largest action value.
        fingerprint: JSON-able facts that make two environments the same, for a replay.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - gymnasium's

    def __init__(self, source: Any, config: EnvConfig, seeds: list[int]) -> None:
        self._source, stack = source, config.frame_stack
        self._seeds: list[int] | None = seeds
        self.num_envs, self.frame_shape, self.discrete = source.num_envs, source.frame_shape, source.discrete
        self.fingerprint = config.fingerprint(self.frame_shape, source.action_dim)
        channels, height, width = self.frame_shape
        box = gymnasium.spaces.Box
        self.single_observation_space = box(0, 255, (stack * channels, height, width), np.uint8)
        self.single_action_space = box(-1, 1, (source.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._stack = np.zeros((self.num_envs, stack, *self.frame_shape), np.uint8)
        self._over = np.ones(self.num_envs, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode everywhere.

        Args:
            seed: begin anew with episode 0 of this seed. None: the next episode; the first time, episode 0 of the seed
                given to :func:`make`.
            options: not used.

        Returns:
            Observations (n, S*C, H, W) uint8, and {}.
        """
        if seed is not None:
            self._seeds = [episode_seed(seed, i) for i in range(self.num_envs)]
        frames = self._source.begin(self._seeds)
        self._seeds = None
        self._over = np.ones(self.num_envs, bool)
        observations = self._pushed(frames)
        self._over = np.zeros(self.num_envs, bool)
        return observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Observations, reward, terminated, truncated, {}; where an episode was over, the next one begins."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {actions.shape}")
        frames, reward, terminated, truncated = self._source.step(actions)
        observations = self._pushed(frames)
        self._over = terminated | truncated
        return observations, reward, terminated, truncated, {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next; arrays and plain values."""
        return {
            "stack": self._stack.copy(),
            "over": self._over.copy(),
            "seeds": self._seeds,
            "source": self._source.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave, also in the middle of an episode."""
        self._stack = np.array(state["stack"])
        self._over = np.array(state["over"])
        self._seeds = state["seeds"]
        self._source.load_state_dict(state["source"])

    @property
    def observations(self) -> Array:
        """(n, S*C, H, W) uint8, as ``reset`` or ``step`` answered last; after ``load_state_dict``, too."""
        return self._stack.reshape(self.observation_space.shape).copy()

    def close_extras(self, **kwargs: Any) -> None:
        """Called by ``close``: end processes, free renderers."""
        self._source.close()

    def _pushed(self, frames: Array) -> Array:
        """The newest frames at the end of each stack; everywhere in it where an episode begins."""
        self._stack[:, :-1] = self._stack[:, 1:]
        self._stack[:, -1] = frames
        self._stack[self._over] = frames[self._over, None]
        return self.observations


class _Separate:
    """n environments that know nothing of each other, in this process or in one each."""

    def __init__(self, makers: list[Any], processes: bool) -> None:
        mode = AutoresetMode.NEXT_STEP
        # A server process starts the others: a fork of this one would share its connection to the graphics card.
        self._envs: Any
        if processes:
            self._envs = AsyncVectorEnv(makers, copy=False, autoreset_mode=mode, context="forkserver")
        else:
            self._envs = SyncVectorEnv(makers, copy=False, autoreset_mode=mode)
        self.num_envs = len(makers)
        self.frame_shape = self._envs.single_observation_space.shape
        self.action_dim = self._envs.single_action_space.shape[0]
        self.discrete = bool(self._envs.get_attr("discrete")[0])

    def begin(self, seeds: list[int] | None) -> Array:
        return self._envs.reset(seed=seeds)[0]

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        return self._envs.step(actions)[:4]

    def state_dict(self) -> dict[str, Any]:
        return {"progress": list(self._envs.get_attr("progress"))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Not one of gymnasium's resets, after which it would not begin an episode that is due.
        self._envs.reset(seed=[0] * self.num_envs)
        self._envs.set_attr("progress", list(state["progress"]))

    def close(self) -> None:
        self._envs.close()


def make(config: EnvConfig, n: int, seed: int, *, evaluation: bool = False) -> PixelEnvs:
    """n environments of a task.

    Args:
        config: what and how.
        n: number of environments.
        seed: decides every episode; see above.
        evaluation: other episodes than in training with the same seed.

    Raises:
        ConfigError: an unknown task (with a near match), or one whose actions are not supported.
        DataError: an environment without pictures.
        MissingDependency: no renderer or package for it on this machine, with what to install.
    """
    kind, _, name = config.task.partition(":")
    if kind == "pixels":
        from polycontrast_rl.pixels import TASKS

        if name not in TASKS:
            hint = did_you_mean(name, TASKS) or f" There are: {', '.join(TASKS)}."
            raise ConfigError(f"there is no task {config.task!r}.{hint}")
        source: Any = TASKS[name](
            n, config.height, config.width, action_repeat=config.action_repeat, time_limit=config.time_limit
        )
    else:
        maker = partial(single, config)
        if config.processes:
            maker().close()  # faults come here, with one line, and not out of a process
        source = _Separate([maker] * n, config.processes)
    root = episode_seed(seed, 1 if evaluation else 0)
    return PixelEnvs(source, config, [episode_seed(root, i) for i in range(n)])


def single(config: EnvConfig) -> SingleEnv:
    """One environment with single frames (C, H, W) as observations, for tasks that need a simulator."""
    kind, _, name = config.task.partition(":")
    simulator: Simulator
    if kind == "dmc":
        from polycontrast_rl.dmc import DmControl

        simulator = DmControl(name, config.height, config.width, config.cameras, config.rendering)
    else:
        from polycontrast_rl.gym_task import GymTask

        simulator = GymTask(name, config.height, config.width, config.time_limit)
    return SingleEnv(simulator, config.action_repeat, config.time_limit)
