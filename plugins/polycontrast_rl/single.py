"""One environment of a simulator: actions are held, pictures taken, episodes seeded and found again after a kill.

Imports no torch: it also runs in the processes of ``processes=true``.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np

from polycontrast_rl.columns import Array


class Simulator(Protocol):
    """What :class:`SingleEnv` asks of a simulator."""

    action_dim: int
    discrete: bool
    frame_shape: tuple[int, int, int]

    def begin(self, seed: int) -> None:
        """Begin the episode that a 32-bit seed decides."""

    def step(self, action: Array) -> tuple[float, bool, bool]:
        """One simulator step with an action (A,) in [-1, 1]: reward, terminated, truncated."""
        ...

    def draw(self) -> Array:
        """(C, H, W) uint8 picture of now."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""


class SingleEnv(gymnasium.Env):
    """A simulator as a gymnasium environment with single frames as observations.

    Args:
        simulator: what is stepped.
        action_repeat: simulator steps per action.
        time_limit: simulator steps after which an episode is truncated. None: the simulator's own.
    """

    def __init__(self, simulator: Simulator, action_repeat: int, time_limit: int | None) -> None:
        self.simulator, self._repeat, self._limit = simulator, action_repeat, time_limit
        self.discrete = simulator.discrete
        self.observation_space = gymnasium.spaces.Box(0, 255, simulator.frame_shape, np.uint8)
        self.action_space = gymnasium.spaces.Box(-1, 1, (simulator.action_dim,), np.float32)
        self._seed, self._episode = 0, -1
        self._actions: list[Array] = []
        self._time, self._over = 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin episode 0 of a seed, or the next one."""
        self._begin(*((self._seed, self._episode + 1) if seed is None else (int(seed), 0)))
        return self.simulator.draw(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One action; after the end of an episode it is ignored and the next one begins."""
        if self._over:
            frame, info = self.reset()
            return frame, 0.0, False, False, info
        action = np.array(action, np.float32)
        self._actions.append(action)
        reward, terminated, truncated = self._act(action)
        return self.simulator.draw(), reward, terminated, truncated, {}

    @property
    def progress(self) -> dict[str, Any]:
        """Where it stands: which episode, and the actions so far. Setting it plays them again."""
        actions = np.array(self._actions, np.float32).reshape(len(self._actions), self.simulator.action_dim)
        return {"seed": self._seed, "episode": self._episode, "actions": actions}

    @progress.setter
    def progress(self, value: dict[str, Any]) -> None:
        self._begin(int(value["seed"]), int(value["episode"]))
        self._actions = list(np.asarray(value["actions"]))
        for action in self._actions:
            self._act(action)

    def close(self) -> None:
        """Close the simulator."""
        self.simulator.close()

    def _begin(self, seed: int, episode: int) -> None:
        self._seed, self._episode = seed, episode
        self._actions, self._time, self._over = [], 0, False
        self.simulator.begin(episode_seed(seed, episode))

    def _act(self, action: Array) -> tuple[float, bool, bool]:
        total, terminated, truncated = 0.0, False, False
        for _ in range(self._repeat):
            reward, terminated, truncated = self.simulator.step(action)
            total += reward
            self._time += 1
            truncated = not terminated and (truncated or self._time == self._limit)
            if terminated or truncated:
                break
        self._over = terminated or truncated
        return total, terminated, truncated


def episode_seed(seed: int, episode: int) -> int:
    """32 bits that depend on (seed, episode) alone."""
    return int(np.random.SeedSequence((seed, episode)).generate_state(1)[0])
