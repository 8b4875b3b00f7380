"""Control tasks drawn by NumPy: no simulator, no renderer, all environments in one array operation.

``point-mass``: a ball with inertia is to be brought to a target (p <- p + v, v <- 0.8 v + 0.06 a, walls at 0.85 from
the middle). The reward is dense, 1 at the target. A frame shows positions, only a stack of them the velocity, and only
the actions tell the future.

``reacher``: two links with inertia; the reward is 1 while the tip is inside the target, else 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polycontrast_rl.columns import Array
from polycontrast_rl.single import episode_seed

_EPISODE = 100
_BACKGROUND = np.array([40, 40, 48], np.float32)
_GREEN, _RED, _BLUE = (np.array(c, np.float32) for c in ([90, 210, 110], [235, 90, 70], [110, 150, 240]))


class _Drawn:
    """n environments with state ``x`` (n, D); answers with single frames (n, 3, H, W)."""

    action_dim = 2
    discrete = False
    state_dim: int

    def __init__(self, n: int, height: int, width: int, *, action_repeat: int, time_limit: int | None) -> None:
        self.num_envs, self.frame_shape = n, (3, height, width)
        self._repeat, self._limit = action_repeat, time_limit or _EPISODE
        # Rows and columns of pixel centres in [-1, 1], y upwards.
        self._y = (1 - (2 * np.arange(height, dtype=np.float32) + 1) / height)[None, :, None]
        self._x = ((2 * np.arange(width, dtype=np.float32) + 1) / width - 1)[None, None, :]
        self._pixel = 2 / min(height, width)
        self.x = np.zeros((n, self.state_dim))
        self._time = np.zeros(n, np.int64)
        self._seed = np.zeros(n, np.int64)
        self._episode = np.zeros(n, np.int64)
        self._over = np.ones(n, bool)

    def begin(self, seeds: list[int] | None) -> Array:
        """Begin an episode everywhere: number 0 of the given seeds, else the next one. Frames."""
        if seeds is not None:
            self._seed[:] = seeds
            self._episode[:] = -1
        self._begin(np.ones(self.num_envs, bool))
        return self.draw()

    def step(self, action: Array) -> tuple[Array, Array, Array, Array]:
        """Frames, reward, terminated (never) and truncated; where an episode is over, the next one begins instead."""
        fresh, action = self._over.copy(), np.clip(action, -1.0, 1.0)
        reward = np.zeros(self.num_envs)
        for _ in range(self._repeat):
            running = ~fresh & (self._time < self._limit)
            moved = self.move(self.x, action)
            self.x = np.where(running[:, None], moved, self.x)
            self._time += running
            reward += np.where(running, self.reward(self.x), 0.0)
        self._begin(fresh)
        self._over = ~fresh & (self._time >= self._limit)
        return self.draw(), reward, np.zeros(self.num_envs, bool), self._over.copy()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "x": self.x.copy(), "time": self._time.copy(), "seed": self._seed.copy(),
            "episode": self._episode.copy(), "over": self._over.copy(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.x = np.array(state["x"])
        for name in ("time", "seed", "episode", "over"):
            getattr(self, f"_{name}")[:] = state[name]

    def close(self) -> None:
        """Nothing to let go of."""

    def _begin(self, which: Array) -> None:
        self._episode[which] += 1
        for i in np.flatnonzero(which):
            rng = np.random.default_rng(episode_seed(int(self._seed[i]), int(self._episode[i])))
            self.x[i] = self.first(rng)
        self._time[which] = 0
        self._over[which] = False

    def draw(self) -> Array:
        """(n, 3, H, W) uint8."""
        image: Array = np.broadcast_to(_BACKGROUND[None, :, None, None], (self.num_envs, 3, self._y.size, self._x.size))
        for cover, colour in self.shapes(self.x.astype(np.float32)):
            image = image + cover[:, None] * (colour[None, :, None, None] - image)
        return (image + 0.5).astype(np.uint8)

    def disc(self, centre: Array, radius: float) -> Array:
        """(n, H, W) share of each pixel that a disc covers; its edge is one pixel wide."""
        dx, dy = self._x - centre[:, 0, None, None], self._y - centre[:, 1, None, None]
        return np.clip((radius - np.sqrt(dx * dx + dy * dy)) / self._pixel + 0.5, 0, 1)

    def bar(self, start: Array, end: Array, radius: float) -> Array:
        """(n, H, W) share of each pixel that a bar with round ends covers."""
        dx, dy = self._x - start[:, 0, None, None], self._y - start[:, 1, None, None]
        ax, ay = (end - start).T[:, :, None, None]
        along = np.clip((dx * ax + dy * ay) / (ax * ax + ay * ay), 0, 1)
        dx, dy = dx - along * ax, dy - along * ay
        return np.clip((radius - np.sqrt(dx * dx + dy * dy)) / self._pixel + 0.5, 0, 1)

    # What a task says: states are (n, D), actions (n, 2) in [-1, 1].

    def first(self, rng: np.random.Generator) -> Array:
        """(D,) state at the beginning of an episode."""
        raise NotImplementedError

    def move(self, x: Array, action: Array) -> Array:
        """States one simulator step later."""
        raise NotImplementedError

    def reward(self, x: Array) -> Array:
        """(n,) reward of being in a state, in [0, 1]."""
        raise NotImplementedError

    def shapes(self, x: Array) -> list[tuple[Array, Array]]:
        """What is drawn, from back to front: cover (n, H, W) and colour (3,)."""
        raise NotImplementedError


class PointMass(_Drawn):
    """State: position, velocity, target, each (x, y)."""

    state_dim = 6
    _wall = 0.85

    def first(self, rng: np.random.Generator) -> Array:
        """A ball at rest and a target, both anywhere inside the walls."""
        return np.concatenate([rng.uniform(-0.8, 0.8, 2), np.zeros(2), rng.uniform(-0.8, 0.8, 2)])

    def move(self, x: Array, action: Array) -> Array:
        """Position first, then velocity; a wall takes the velocity towards it."""
        p, v = x[:, :2] + x[:, 2:4], 0.8 * x[:, 2:4] + 0.06 * action
        outside = np.abs(p) > self._wall
        return np.concatenate([np.clip(p, -self._wall, self._wall), np.where(outside, 0.0, v), x[:, 4:]], 1)

    def reward(self, x: Array) -> Array:
        """1 within 0.1 of the target; falls with distance, to 0.1 at 0.6 (dm_control's long-tailed tolerance)."""
        beyond = np.maximum(np.linalg.norm(x[:, :2] - x[:, 4:], axis=1) - 0.1, 0.0) / 0.5
        return 1 / (1 + 9 * beyond**2)

    def shapes(self, x: Array) -> list[tuple[Array, Array]]:
        """The target behind the ball."""
        return [(self.disc(x[:, 4:], 0.15), _GREEN), (self.disc(x[:, :2], 0.12), _RED)]


class Reacher(_Drawn):
    """State: two angles, two angular velocities, target (x, y)."""

    state_dim = 6
    _links = (0.45, 0.4)
    _radius = 0.15

    def first(self, rng: np.random.Generator) -> Array:
        """Any pose at rest, and a target within reach."""
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.2, 0.8)
        target = distance * np.array([np.cos(angle), np.sin(angle)])
        return np.concatenate([rng.uniform(-np.pi, np.pi, 2), np.zeros(2), target])

    def move(self, x: Array, action: Array) -> Array:
        """Torques against friction."""
        return np.concatenate([x[:, :2] + x[:, 2:4], 0.8 * x[:, 2:4] + 0.06 * action, x[:, 4:]], 1)

    def reward(self, x: Array) -> Array:
        """1 while the tip is inside the target, else 0."""
        return (np.linalg.norm(self._joints(x)[1] - x[:, 4:], axis=1) < self._radius).astype(np.float64)

    def shapes(self, x: Array) -> list[tuple[Array, Array]]:
        """The target behind the two links."""
        elbow, tip = self._joints(x)
        return [
            (self.disc(x[:, 4:], self._radius), _GREEN),
            (self.bar(np.zeros_like(elbow), elbow, 0.07), _BLUE),
            (self.bar(elbow, tip, 0.07), _RED),
        ]

    def _joints(self, x: Array) -> tuple[Array, Array]:
        first, second = x[:, 0], x[:, 0] + x[:, 1]
        elbow = self._links[0] * np.stack([np.cos(first), np.sin(first)], 1)
        return elbow, elbow + self._links[1] * np.stack([np.cos(second), np.sin(second)], 1)


TASKS = {"point-mass": PointMass, "reacher": Reacher}
"""By the name that follows ``pixels:``."""
