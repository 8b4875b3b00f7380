"""Any gymnasium environment that observes or renders RGB images, brought to one size and to actions in [-1, 1]."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from polycontrast.errors import ConfigError, DataError, MissingDependency, did_you_mean, one_line
from polycontrast_rl.columns import Array
from polycontrast_rl.resize import resize


class GymTask:
    """One environment. Attributes and methods as :class:`polycontrast_rl.single.Simulator` says.

    The picture is the observation where that is an image, else what ``render`` draws. Of a ``Discrete`` action space
    the choice with the largest action value is taken, so that the first layer of an action encoder is an embedding
    table of the choices.

    Args:
        id_: what ``gymnasium.make`` takes.
        height: rows of a frame.
        width: columns of a frame.
        time_limit: simulator steps of an episode. None: the environment's own.

    Raises:
        ConfigError: an unknown id, or actions that are neither a bounded ``Box`` nor ``Discrete``.
        DataError: neither observations nor ``render`` are RGB images.
        MissingDependency: the environment needs a package.
    """

    def __init__(self, id_: str, height: int, width: int, time_limit: int | None) -> None:
        self._id = id_
        self._env = self._made(id_, time_limit)
        space = self._env.action_space
        self.discrete = isinstance(space, Discrete)
        if isinstance(space, Discrete):
            self.action_dim, self._first = int(space.n), int(space.start)
        elif isinstance(space, Box) and space.is_bounded() and np.issubdtype(space.dtype, np.floating):
            self.action_dim = int(np.prod(space.shape))
        else:
            self._env.close()
            raise ConfigError(f"gym:{id_} has actions {space}: only a bounded Box of floats and Discrete are supported")
        self._space = space
        self._size = (height, width)
        self.frame_shape = (3, height, width)
        self._observation: Any = None

    def begin(self, seed: int) -> None:
        """Begin the episode of a seed."""
        self._observation, _ = self._env.reset(seed=seed)

    def step(self, action: Array) -> tuple[float, bool, bool]:
        """One step: reward, terminated, truncated."""
        if isinstance(self._space, Discrete):
            given: Any = self._first + int(np.argmax(action))
        else:
            low, high = self._space.low.astype(np.float64), self._space.high.astype(np.float64)
            share = (np.clip(action, -1.0, 1.0).reshape(self._space.shape) + 1) / 2
            given = (low + share * (high - low)).astype(self._space.dtype)
        self._observation, reward, terminated, truncated, _ = self._env.step(given)
        return float(reward), bool(terminated), bool(truncated)

    def draw(self) -> Array:
        """(3, H, W) uint8."""
        try:
            picture = self._observation if self._seen else self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise self._lacking(error) from error
        return resize(np.asarray(picture), *self._size).transpose(2, 0, 1)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _made(self, id_: str, time_limit: int | None) -> gymnasium.Env:
        known = list(gymnasium.registry)
        try:
            spec = gymnasium.spec(id_)
        except gymnasium.error.Error as error:
            raise ConfigError(f"gymnasium: {one_line(error)}.{did_you_mean(id_, known)}") from error
        more: dict[str, Any] = {} if time_limit is None else {"max_episode_steps": time_limit}
        try:
            env = gymnasium.make(spec, **more)
            self._seen = _is_image(env.observation_space)
            if not self._seen:
                if "rgb_array" not in env.metadata.get("render_modes", ()):
                    env.close()
                    raise DataError(f"gym:{id_} has no pictures: it neither observes nor renders RGB images")
                env.close()
                env = gymnasium.make(spec, render_mode="rgb_array", **more)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise self._lacking(error) from error
        return env

    def _lacking(self, error: Exception) -> MissingDependency:
        return MissingDependency(f"gym:{self._id} needs a package: {one_line(error)}")


def _is_image(space: gymnasium.Space) -> bool:
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3
