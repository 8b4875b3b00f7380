"""Whole episodes under a policy, for evaluations and baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polycontrast.errors import TrainingError
from polycontrast_rl.environments import PixelEnvs

Policy = Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.float32]]
"""Observations (n, C, H, W) and the number of steps taken before to actions (n, A)."""

_LONGEST = 1_000_000


@dataclass(frozen=True)
class Played:
    """Episodes in order: the first of every environment, then the second of every one, ..."""

    returns: npt.NDArray[np.float64]
    """Undiscounted, by episode."""
    lengths: npt.NDArray[np.int64]
    """Agent steps, by episode."""
    frames: npt.NDArray[np.uint8] | None = None
    """(T, C, H, W) of the first episode, if it was asked for."""


def play(envs: PixelEnvs, policy: Policy, episodes: int, *, seed: int, film: bool = False) -> Played:
    """Play episodes from the beginning of ``seed``.

    Every environment plays the same number of episodes, so that short ones are not counted more often.

    Args:
        envs: where.
        policy: what to do.
        episodes: how many; rounded up to a multiple of the number of environments and cut again.
        seed: of the episodes.
        film: keep what the first episode looked like.
    """
    n, rounds = envs.num_envs, -(-episodes // envs.num_envs)
    returns, lengths = np.zeros((rounds, n)), np.zeros((rounds, n), np.int64)
    at, fresh = np.zeros(n, np.int64), np.zeros(n, bool)
    obs, _ = envs.reset(seed=seed)
    channels = envs.frame_shape[0]
    film_frames = [obs[0, -channels:].copy()] if film else []
    for step in range(_LONGEST):
        obs, reward, terminated, truncated, _ = envs.step(policy(obs, step))
        counted = (at < rounds) & ~fresh  # the step after an end only brings the next episode's first frame
        which = np.flatnonzero(counted)
        returns[at[which], which] += reward[which]
        lengths[at[which], which] += 1
        if film and at[0] == 0 and counted[0]:
            film_frames.append(obs[0, -channels:].copy())
        fresh = terminated | truncated
        at += fresh & counted
        if (at == rounds).all():
            return Played(
                returns.ravel()[:episodes], lengths.ravel()[:episodes], np.stack(film_frames) if film else None
            )
    raise TrainingError(f"no episode ended within {_LONGEST} steps; set data.time_limit")
