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

from typing import Any

import gymnasium

from polycontrast_rl.config import EnvConfig


class PixelEnvs(gymnasium.vector.VectorEnv):
    """n environments, see above. Always closed explicitly: ``with contextlib.closing(make(...)) as envs``.

    Attributes:
        num_envs: n.
        single_observation_space: Box(0, 255, (S*C, H, W), uint8).
        single_action_space: Box(-1, 1, (A,), float32).
        frame_shape: (C, H, W).
        discrete: whether the task takes one of A choices: it then takes the one with the largest action value.
        fingerprint: JSON-able facts that make two environments the same, for a replay.
    """

    frame_shape: tuple[int, int, int]
    discrete: bool
    fingerprint: dict[str, Any]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode everywhere: with a seed, number 0 of that seed, else the next. (n, S*C, H, W) and {}."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next; tensors and plain values."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave, also in the middle of an episode."""
        raise NotImplementedError


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
    raise NotImplementedError
