"""Where an agent's batches come from: it acts, remembers, and samples from what it remembers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polycontrast import distributed
from polycontrast.data import Batch, derive_seed, draws, normal, uniform
from polycontrast.errors import DataError
from polycontrast.method import Engine
from polycontrast_rl.environments import PixelEnvs, make
from polycontrast_rl.replay import ReplayBuffer
from polycontrast_rl.taco.config import TacoConfig
from polycontrast_rl.taco.data import EnvDataset
from polycontrast_rl.taco.drqv2 import Agent
from polycontrast_rl.taco.schedule import scheduled
from polycontrast_rl.taco.tables import CsvTable

TRAIN_COLUMNS = ("frame", "step", "episode", "episode_reward", "episode_length", "buffer_size", "fps", "total_time")
EVAL_COLUMNS = ("frame", "step", "episode", "episode_reward", "episode_length", "total_time")

_ENOUGH = 20
"""Finished episodes after which it is plain that none will be long enough."""


class ActingStream:
    """Steps the environments with the agent's noisy actions, stores what happens, and samples.

    In the stage ``explore`` a batch is one random step of every environment. In the stage ``train`` as many steps are
    taken before a batch as ``update_every`` asks for, whatever the number of environments. All randomness is a function
    of the seed and of counters; what must survive a kill is in :meth:`state_dict`: counters, environments (played again
    to where they were), replay, tables.

    Args:
        config: of the method.
        data: the environment.
        agent: acts.
    """

    def __init__(self, config: TacoConfig, data: EnvDataset, agent: Agent) -> None:
        self._config, self._data, self._agent = config, data, agent
        self._envs: PixelEnvs | None = None
        self.steps = 0
        """Agent steps so far, over all environments."""
        self.episodes = 0
        """Episodes finished."""
        self._seconds = 0.0
        self.train_table, self.eval_table = CsvTable(TRAIN_COLUMNS), CsvTable(EVAL_COLUMNS)

    @property
    def frames(self) -> int:
        """Simulator steps so far."""
        return self.steps * self._data.env.action_repeat

    @property
    def std(self) -> float:
        """Deviation of the exploration noise now."""
        return scheduled(self._config.schedule, self.steps)

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, over all resumptions."""
        return time.monotonic() - self._clock

    # ---- the contract of a stream ----------------------------------------------------------------------------

    def prepare(self, engine: Engine) -> None:
        """Learn where the run is; nothing is opened yet."""
        self._folder = engine.folder
        self._seed = derive_seed(engine.seed, "acting", distributed.rank())
        self._device = engine.device

    def next(self, engine: Engine) -> Batch:
        """One random step of all environments, or a batch of the replay memory."""
        if self._envs is None:
            self._open()
            self._begin()
        c = self._config
        if engine.stage.name == "explore":
            self._step(explore=True)
            return {"steps": torch.tensor([self.steps])}
        due = -(-c.seed_frames // self._data.env.action_repeat) + (engine.stage_step + 1) * c.update_every
        # Where episodes end early, it acts until a first batch can be drawn.
        while self.steps < due or not self.replay.count(c.n_step, c.lookahead, finished=c.replay.official):
            if self.steps >= due and self.episodes >= _ENOUGH:
                raise DataError(
                    f"none of the first {self.episodes} episodes of {self._data.env.task} has "
                    f"{max(c.n_step, c.lookahead)} steps: lower n_step and lookahead"
                )
            self._step(explore=self.frames < c.seed_frames)
        return {**self._sample(engine), "std": self.std}

    def _sample(self, engine: Engine) -> Batch:
        c = self._config
        rng = derive_seed(self._seed, "sample", engine.step)
        size = c.engine.batch_size // distributed.world_size()
        return self.replay.sample(size, c.n_step, c.lookahead, c.discount, rng, official=c.replay.official)

    def state_dict(self) -> Mapping[str, Any]:
        """Everything but the weights."""
        if self._envs is None:
            return {}
        return {
            "steps": self.steps, "episodes": self.episodes, "seconds": self.seconds,
            "obs": self._obs, "fresh": self._fresh, "returns": self._returns, "lengths": self._lengths,
            "envs": self._envs.state_dict(), "replay": self.replay.state_dict(),
            "train_table": self.train_table.state_dict(), "eval_table": self.eval_table.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from there."""
        if not state:
            return
        self.steps, self.episodes = state["steps"], state["episodes"]
        self._seconds = state["seconds"]
        self.train_table.load_state_dict(state["train_table"])
        self.eval_table.load_state_dict(state["eval_table"])
        self._open()
        assert self._envs is not None
        self._envs.load_state_dict(state["envs"])
        self.replay.load_state_dict(state["replay"])
        self._obs, self._returns, self._lengths = (np.array(state[k]) for k in ("obs", "returns", "lengths"))
        self._fresh = np.array(state["fresh"], dtype=bool)

    # ---- acting ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make environments, replay and tables, or open those of the run that goes on."""
        c = self._config
        self._envs = envs = make(self._data.env, c.envs, self._seed)
        self._size = int(envs.fingerprint["actions"])
        folder: Path | None = None
        if c.replay.keep == "disk":
            folder = c.replay.path or self._folder / "replay"
            folder = folder if distributed.world_size() == 1 else folder / str(distributed.rank())
            if not self.steps and folder.exists() and any(folder.iterdir()):
                if c.replay.path is not None:
                    raise DataError(f"{folder} is not empty; name another replay.path, or remove it")
                shutil.rmtree(folder)  # of a run that was killed before its first checkpoint
        self.replay = ReplayBuffer(
            min(c.replay.capacity, self._most_rows(envs)), envs.frame_shape, self._size,
            stack=self._data.env.frame_stack, lanes=c.envs, path=folder, fingerprint=envs.fingerprint,
            device=self._device if c.replay.on_device else None,
        )  # fmt: skip
        if distributed.rank() == 0:
            self.train_table.open(self._folder / "train.csv")
            self.eval_table.open(self._folder / "eval.csv")
        self._clock = time.monotonic() - self._seconds
        self._mark = (time.monotonic(), self.frames)

    def _most_rows(self, envs: PixelEnvs) -> int:
        """What the whole run can fill: a row per step, and one more per episode, of which none is empty."""
        steps = -(-self._config.frames // self._data.env.action_repeat) + 2 * envs.num_envs
        return 2 * steps + 64 * envs.num_envs

    def _begin(self) -> None:
        assert self._envs is not None
        n = self._envs.num_envs
        self._obs, _ = self._envs.reset(seed=self._seed)
        self.replay.add(self._obs)
        self._fresh, self._returns, self._lengths = np.zeros(n, bool), np.zeros(n), np.zeros(n, np.int64)

    def _step(self, *, explore: bool) -> None:
        """One step of every environment."""
        assert self._envs is not None
        action = self._action(explore)
        self._obs, reward, terminated, truncated, _ = self._envs.step(action)
        self.replay.add(self._obs, action, reward, terminated, truncated)
        real = ~self._fresh  # the others only began their next episode
        self._returns[real] += reward[real]
        self._lengths[real] += 1
        self.steps += int(real.sum())
        self._fresh = terminated | truncated
        for i in np.flatnonzero(self._fresh):
            self._finish(int(i))

    def _action(self, explore: bool) -> npt.NDArray[np.float32]:
        assert self._envs is not None
        n, size = self._envs.num_envs, self._size
        key = draws(derive_seed(self._seed, "act", self.steps), torch.arange(n))
        if explore:
            return (2.0 * uniform(key, size) - 1.0).numpy()
        obs = torch.from_numpy(self._obs).to(self._device)
        return self._agent.act(obs, self.std, normal(key, size).to(self._device)).float().cpu().numpy()

    def _finish(self, i: int) -> None:
        """An episode is over: a row of train.csv."""
        self.episodes += 1
        now, frames = time.monotonic(), self.frames
        fps = (frames - self._mark[1]) / max(now - self._mark[0], 1e-9)
        self._mark = (now, frames)
        if distributed.rank() == 0:
            self.train_table.write({
                "frame": frames, "step": self.steps, "episode": self.episodes,
                "episode_reward": float(self._returns[i]), "episode_length": int(self._lengths[i]),
                "buffer_size": len(self.replay), "fps": float(fps), "total_time": self.seconds,
            })  # fmt: skip
        self._returns[i], self._lengths[i] = 0.0, 0

    def write_evaluation(self, reward: float, length: float) -> None:
        """A row of eval.csv."""
        if self._envs is None or distributed.rank() != 0:
            return
        self.eval_table.write({
            "frame": self.frames, "step": self.steps, "episode": self.episodes, "episode_reward": reward,
            "episode_length": length, "total_time": self.seconds,
        })  # fmt: skip

    def close(self) -> None:
        """Let go of environments and replay."""
        if self._envs is not None:
            self._envs.close()
            self.replay.close()
            self._envs = None


class RecordedStream:
    """Samples from a recorded replay memory.

    Args:
        config: of the method.
        replay: the memory, open for reading.

    Raises:
        DataError: no recorded episode is as long as n or K.
    """

    def __init__(self, config: TacoConfig, replay: ReplayBuffer) -> None:
        self._config, self.replay = config, replay
        if not replay.count(config.n_step, config.lookahead):
            raise DataError(
                f"no recorded episode has {max(config.n_step, config.lookahead)} transitions; "
                "lower n_step and lookahead"
            )
        self.eval_table = CsvTable(EVAL_COLUMNS)
        self._updates, self._seconds, self._clock = 0, 0.0, time.monotonic()

    @property
    def frames(self) -> int:
        """Updates so far: there are no simulator steps."""
        return self._updates

    def prepare(self, engine: Engine) -> None:
        """Learn where the run is."""
        self._folder, self._seed = engine.folder, derive_seed(engine.seed, "sampling", distributed.rank())
        self._ready = False

    def next(self, engine: Engine) -> Batch:
        """A batch of the memory."""
        self._begin()
        c = self._config
        self._updates = engine.stage_step + 1
        rng = derive_seed(self._seed, "sample", engine.step)
        size = c.engine.batch_size // distributed.world_size()
        return {**self.replay.sample(size, c.n_step, c.lookahead, c.discount, rng), "std": c.smoothing}

    def _begin(self) -> None:
        if not self._ready:
            self._ready = True
            self._clock = time.monotonic() - self._seconds
            if distributed.rank() == 0:
                self.eval_table.open(self._folder / "eval.csv")

    def write_evaluation(self, reward: float, length: float) -> None:
        """A row of eval.csv; ``frame`` and ``step`` count updates."""
        if distributed.rank() == 0:
            self.eval_table.write({
                "frame": self.frames, "step": self.frames, "episode": 0, "episode_reward": reward,
                "episode_length": length, "total_time": time.monotonic() - self._clock,
            })  # fmt: skip

    def state_dict(self) -> Mapping[str, Any]:
        """Where the table is; what is sampled depends on the step alone."""
        return {"eval_table": self.eval_table.state_dict(), "seconds": time.monotonic() - self._clock}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from there."""
        self._seconds = state["seconds"]
        self.eval_table.load_state_dict(state["eval_table"])

    def close(self) -> None:
        """Let go of the memory."""
        self.replay.close()


def as_policy(agent: Agent, device: torch.device) -> Any:
    """The mean action as a policy of :func:`polycontrast_rl.taco.playing.play`."""

    def policy(obs: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.float32]:
        action: Tensor = agent.act(torch.from_numpy(obs).to(device))
        return action.float().cpu().numpy()

    return policy
