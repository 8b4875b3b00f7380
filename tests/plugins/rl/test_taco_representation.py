"""What the auxiliary loss makes of random data: retrieval of the future from actions, and positions read from z.

Specification, section 9.5. Minutes: run with ``-m slow -s`` to see the numbers.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

pytest.importorskip("gymnasium")

from polycontrast.data import derive_seed, draws
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.environments import make
from polycontrast_rl.replay import ReplayBuffer
from polycontrast_rl.taco.augmentation import draw_shifts, random_shift
from polycontrast_rl.taco.loss import TACOLoss
from polycontrast_rl.taco.networks import Encoder

K, EPISODES, HELD_OUT, STEPS, BATCH, UPDATES = 3, 48, 8, 100, 128, 1500
ENV = EnvConfig(task="pixels:point-mass", height=32, width=32, action_repeat=1)


def recorded(seed: int, episodes: int) -> tuple[ReplayBuffer, np.ndarray]:
    """Episodes under autocorrelated random actions, and the states (episodes, STEPS + 1, 6) behind them."""
    rng = np.random.default_rng(seed)
    with closing(make(ENV, episodes, seed)) as envs:
        replay = ReplayBuffer(episodes * (STEPS + 1), envs.frame_shape, 2, lanes=episodes)
        obs, _ = envs.reset()
        replay.add(obs)
        action, states = np.zeros((episodes, 2), np.float32), [envs._source.x.copy()]
        for _ in range(STEPS):
            action = np.clip(0.8 * action + 0.6 * rng.standard_normal(action.shape), -1, 1).astype(np.float32)
            obs, *answer, _ = envs.step(action)
            replay.add(obs, action, *answer)
            states.append(envs._source.x.copy())
    return replay, np.stack(states, 1)


def trained(replay: ReplayBuffer, seed: int, **uses: Any) -> TACOLoss:
    torch.manual_seed(seed)
    loss = TACOLoss(Encoder((9, 32, 32), (16, 32), (2, 2)), 2, K, hidden=256, **uses)
    optimiser = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    for step in range(UPDATES if uses else 0):
        b = replay.sample(BATCH, K, K, 0.99, derive_seed(seed, step))
        key, stream = draws(derive_seed(seed, "shift", step), torch.arange(BATCH)), iter(range(3))
        terms = loss(
            b["obs"], b["action_seq"], b["obs_k"], b["reward"],
            lambda images, key=key, stream=stream: random_shift(images, draw_shifts(key, 2, stream=next(stream)), 2),
        )  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        sum(v for k, v in terms.items() if not k.endswith("accuracy")).backward()  # type: ignore[union-attr]
        optimiser.step()
    return loss.eval()


@torch.no_grad()
def codes(loss: TACOLoss, replay: ReplayBuffer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    b = replay.gather(replay.starts(K, K), K, K, 0.99)
    return loss.key(b["obs"]), b


@torch.no_grad()
def retrieval(loss: TACOLoss, replay: ReplayBuffer, *, shuffled: bool) -> tuple[float, float]:
    """How often the frame K steps ahead is found among those of its episode, and chance."""
    z, b = codes(loss, replay)
    y, hits, count = loss.key(b["obs_k"]), 0, 0
    episodes = b["episode"].unique()
    g = torch.Generator().manual_seed(0)
    for episode in episodes:
        mine = torch.nonzero(b["episode"] == episode).flatten()
        actions = b["action_seq"][mine]
        if shuffled:
            actions = actions[torch.randperm(len(mine), generator=g)]
        q = loss.predict(torch.cat([z[mine], loss.sequence_code(actions)], 1))
        hits += int(((q @ loss.W @ y[mine].T).argmax(1) == torch.arange(len(mine))).sum())
        count += len(mine)
    return hits / count, len(episodes) / count


def positions(loss: TACOLoss, seen: ReplayBuffer, states: np.ndarray, new: ReplayBuffer, truth: np.ndarray) -> float:
    """R2 of the ball's position, read linearly from z."""

    def rows(replay: ReplayBuffer, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z, b = codes(loss, replay)
        return z.numpy(), of[b["episode"], b["index"] - 1, :2]

    probe = Ridge(1e-3).fit(*rows(seen, states))
    return float(probe.score(*rows(new, truth)))


@pytest.mark.slow
def test_actions_tell_the_future() -> None:
    ratios, over_chance, r2 = [], [], []
    for seed in range(5):
        seen, states = recorded(seed, EPISODES)
        new, truth = recorded(1000 + seed, HELD_OUT)
        taco = trained(seen, seed, use_taco=True)
        curl = trained(seen, seed, use_taco=False, use_reward=False)
        fit = [positions(m, seen, states, new, truth) for m in (taco, curl, trained(seen, seed))]
        (true, chance), (wrong, _) = (retrieval(taco, new, shuffled=s) for s in (False, True))
        print(f"seed {seed}: retrieval {true:.3f}, shuffled {wrong:.3f}, chance {chance:.4f}; "
              f"R2 of position: taco {fit[0]:.3f}, curl {fit[1]:.3f}, untrained {fit[2]:.3f}")  # fmt: skip
        assert true >= 1.5 * wrong
        ratios.append(true / wrong)
        over_chance.append(true / chance)
        r2.append(fit)
    assert np.mean(ratios) >= 2
    assert np.mean(over_chance) >= 8
    taco_r2, curl_r2, untrained_r2 = np.mean(r2, 0)
    assert taco_r2 >= curl_r2 - 0.05
    assert taco_r2 >= untrained_r2 + 0.2
