"""What TACO learns from: an environment, or a recorded replay memory of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from polycontrast.data import Dataset, Purpose
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.taco.config import TacoConfig


@dataclass(kw_only=True)
class EnvDataset(Dataset):
    """An environment, and a recording of it where there is one. Has no parts: episodes are drawn from seeds."""

    env: EnvConfig = field(default_factory=EnvConfig)
    """How it is made."""
    seed: int = 0
    """Decides every episode."""
    recording: Path | None = None
    """A replay folder to learn from. None: the agent acts."""


def environment(config: TacoConfig, seed: int, purpose: Purpose) -> EnvDataset:
    """The environment that ``data.task`` names."""
    return _dataset(config, seed, config.data.task, None)


def recording(path: Path, config: TacoConfig, seed: int, purpose: Purpose) -> EnvDataset:
    """A replay folder of ``replay`` on disk, e.g. RUN/replay. The environment it was recorded in is that of ``data``.

    Raises:
        DataError: the folder is no replay memory.
    """
    from polycontrast_rl.replay import read_metadata

    read_metadata(path)
    return _dataset(config, seed, str(path), path)


def _dataset(config: TacoConfig, seed: int, name: str, path: Path | None) -> EnvDataset:
    env = config.data
    return EnvDataset(
        name=name,
        env=env,
        seed=seed,
        recording=path,
        protocol={
            "task": env.task, "frame": f"{env.height} x {env.width}", "frame_stack": env.frame_stack,
            "action_repeat": env.action_repeat, "rendering": env.rendering, "episodes": config.test_episodes,
            "policy": "mean action",
        },
    )  # fmt: skip
