"""What TACO learns from: an environment, or a recorded replay memory of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from polycontrast.config import changed
from polycontrast.data import Dataset, Purpose
from polycontrast.errors import DataError
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.metadata import read_metadata
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
    return _dataset(config.data.task, config, config.data, seed, None)


def recording(path: Path, config: TacoConfig, seed: int, purpose: Purpose) -> EnvDataset:
    """A replay folder, e.g. ``replay`` of a run with ``replay.keep=disk``, and the environment that it remembers.

    Raises:
        DataError: the folder is no replay memory, or one without an environment.
    """
    about = read_metadata(path)
    sizes, made = about["sizes"], about.get("environment") or {}
    if "task" not in made:
        raise DataError(f"{path} does not say which environment it was recorded in; its metadata.json needs a task")
    env = EnvConfig(
        task=made["task"],
        height=sizes["frame"][1],
        width=sizes["frame"][2],
        frame_stack=sizes["stack"],
        action_repeat=made.get("action_repeat", 1),
        time_limit=made.get("time_limit"),
        cameras=tuple(made.get("cameras", ())),
        rendering=made.get("rendering", config.data.rendering),
    )
    dataset = _dataset(str(path), config, env, seed, path)
    wanted = config.data
    chosen = changed(wanted, EnvConfig())
    kept = [f"{n}={getattr(env, n)} (not {getattr(wanted, n)})" for n in changed(wanted, env) if n in chosen]
    if kept:
        dataset.notes = (f"data.* is what was recorded: {', '.join(kept)}",)
    return dataset


def _dataset(name: str, config: TacoConfig, env: EnvConfig, seed: int, path: Path | None) -> EnvDataset:
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
