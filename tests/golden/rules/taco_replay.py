"""Rule of TACO's replay; the README beside its files says what each holds."""

from __future__ import annotations

import numpy as np

from golden.rules import Case, rule
from polycontrast_rl.replay import ReplayBuffer

_OUTPUTS = {
    "obs": "obs", "action": "action", "action_seq": "action_seq", "reward": "reward", "discount": "discount",
    "next_obs": "next_obs", "r_next_obs": "obs_k",
}  # fmt: skip


@rule("taco", "replay")
def replay(case: Case) -> None:
    frames, action = case.array("episode.observation"), case.array("episode.action")
    reward, discount = case.array("episode.reward")[:, 0], case.array("episode.discount")[:, 0]
    nstep, horizon = case.integer("nstep"), case.integer("K")
    # Frames of the file are observations already: a stack of one leaves them as they are.
    buffer = ReplayBuffer(len(frames), frames.shape[1:], action.shape[1], stack=1)
    buffer.add_episode(frames, action[1:], reward[1:], discount[1:])
    case.same("num_valid_starts", np.array(buffer.count(nstep, horizon)))
    batch = buffer.gather(buffer.starts(nstep, horizon), nstep, horizon, case.number("gamma"))
    for theirs, ours in _OUTPUTS.items():
        case.close(f"out.{theirs}", batch[ours], tolerance=1e-6)
