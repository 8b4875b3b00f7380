"""Settings of environments and replay that every method of this domain shares. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polycontrast.config import DataConfig
from polycontrast.errors import ConfigError

Rendering = Literal["exact", "balanced", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig(DataConfig):
    """An environment that is seen through a camera. Defaults are those of DrQ-v2 and TACO (arXiv:2306.13229)."""

    task: str = "dmc:cartpole_swingup"
    """What is controlled. "pixels:point-mass" and "pixels:reacher" draw themselves and need no renderer;
    "dmc:DOMAIN_TASK" is a task of the dm_control suite, "dmc:reach_duplo" and its like one of its manipulation tasks;
    "gym:ID" any gymnasium environment that renders or observes RGB images, e.g. "gym:CarRacing-v3"."""
    height: int = 84
    """Rows of a frame in pixels."""
    width: int = 84
    """Columns of a frame in pixels."""
    frame_stack: int = 3
    """Frames that make up one observation, the newest last. Before the first frame of an episode, it is repeated."""
    action_repeat: int = 2
    """Simulator steps for which an action is held. Budgets of the paper count simulator steps, called frames."""
    time_limit: int | None = None
    """Simulator steps after which an episode is cut off. None: the environment's own limit."""
    cameras: tuple[int, ...] = ()
    """Cameras of a dm_control task; several are put one after the other on the channel axis. Empty: the one of the
    official code (2 for quadruped, front_close for manipulation, else 0)."""
    rendering: Rendering = "exact"
    """How dm_control draws. "exact": what every published number saw; "balanced": a smaller shadow map; "fast": no
    shadows, no reflections, no multisampling. Returns from different settings are of different observations."""
    processes: bool = False
    """Whether every environment has a process of its own. Pays for dm_control with several environments."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "frame_stack", "action_repeat", "time_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if min(self.height, self.width) < 8:
            raise ConfigError(f"frames must have at least 8 rows and columns, got {self.height} x {self.width}")
        source, colon, name = self.task.partition(":")
        if not (colon and name and source in ("pixels", "dmc", "gym")):
            raise ConfigError(
                "task must look like 'pixels:point-mass', 'dmc:cartpole_swingup' or 'gym:CarRacing-v3', "
                f"got {self.task!r}"
            )

    def fingerprint(self, frame_shape: tuple[int, ...], actions: int) -> dict[str, Any]:
        """JSON-able facts that make two environments the same, for a replay.

        Args:
            frame_shape: (C, H, W) of a frame.
            actions: numbers in an action.
        """
        facts: dict[str, Any] = {
            "task": self.task, "action_repeat": self.action_repeat, "time_limit": self.time_limit,
        }  # fmt: skip
        if self.task.startswith("dmc:"):
            facts |= {"rendering": self.rendering, "cameras": list(self.cameras)}
        return {**facts, "frame": list(frame_shape), "actions": actions}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """Where transitions are kept, and how batches are drawn from them."""

    capacity: int = 1_000_000
    """Frames kept over all environments; the oldest episodes are given up first. 21 kB each at 84 x 84."""
    keep: Literal["disk", "memory"] = "disk"
    """"disk": a memory-mapped folder beside the checkpoints, which then stay small; "memory": in the process, and
    whole in every checkpoint."""
    path: Path | None = None
    """Folder of a replay kept on disk, for another disk than the run's. None: in the run directory."""
    on_device: bool = False
    """Whether a copy of the frames is kept on the training device, which then gathers batches itself."""
    official: bool = False
    """"true" draws an episode first, then a start in it, from finished episodes only, as the official code does. Else
    all starts are equally likely and the running episodes take part."""

    def __post_init__(self) -> None:
        if self.capacity < 2:
            raise ConfigError(f"replay.capacity must be at least 2, got {self.capacity}")
