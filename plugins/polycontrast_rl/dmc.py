"""Tasks of dm_control, the suite's and the manipulation ones, drawn by cameras that are kept.

dm_control makes a new camera for every picture, and software renderers spend most of their time on a shadow map of
2048 x 2048 pixels. ``rendering="exact"`` keeps the camera and gives the same pixels; ``"balanced"`` takes a shadow
map of 512; ``"fast"`` leaves out shadows, reflections and multisampling.
"""

from __future__ import annotations

import atexit
import os
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np

from polycontrast.errors import ConfigError, MissingDependency, did_you_mean, one_line
from polycontrast_rl import rendering
from polycontrast_rl.columns import Array
from polycontrast_rl.config import Rendering

_SHADOW = 512
_PLAIN = {"shadow": False, "reflection": False}
# A renderer that is garbage-collected while another is in use makes the other draw black: all stay until closed.
_alive: set[DmControl] = set()


class DmControl:
    """One task. Attributes and methods as :class:`polycontrast_rl.single.Simulator` says.

    Args:
        task: ``DOMAIN_TASK`` of the suite, or a manipulation task without its ending ``_vision``.
        height: rows of a frame.
        width: columns of a frame.
        cameras: cameras of the model; empty: the one of the official TACO code.
        quality: how it is drawn.

    Raises:
        ConfigError: unknown task or camera.
        MissingDependency: no renderer, or a version of mujoco that dm_control does not understand.
    """

    discrete = False

    def __init__(self, task: str, height: int, width: int, cameras: tuple[int, ...], quality: Rendering) -> None:
        suite, manipulation, self._camera_class = _load_dm_control()
        by_name = {f"{domain}_{name}": (domain, name) for domain, name in suite.ALL_TASKS}
        arms = {name.removesuffix("_vision") for name in manipulation.ALL if name.endswith("_vision")}
        if task not in by_name and task not in arms:
            raise ConfigError(
                f"dm_control has no task {task!r}.{did_you_mean(task, [*by_name, *arms]) or ' See dm_control.suite.'}"
            )
        self._arm = task in arms
        if self._arm:
            self._env = manipulation.load(f"{task}_vision", seed=0)
            # Its own observations would draw a picture per simulator step.
            for observable in self._env.task.observables.values():
                observable.enabled = False
        else:
            self._env = suite.load(*by_name[task], task_kwargs={"random": 0})
        self._ids: tuple[int | str, ...] = cameras or (
            "front_close" if self._arm else 2 if task.startswith("quadruped") else 0,
        )
        self._height, self._width, self._quality = height, width, quality
        self.frame_shape = (3 * len(self._ids), height, width)
        spec = self._env.action_spec()
        self._low, self._range = spec.minimum, spec.maximum - spec.minimum
        self.action_dim = int(np.prod(spec.shape))
        self._physics: Any = None
        self._cameras: list[Any] = []
        _alive.add(self)

    def begin(self, seed: int) -> None:
        """Begin the episode of a seed."""
        random = self._env.random_state if self._arm else self._env.task.random
        random.seed(seed)
        self._env.reset()

    def step(self, action: Array) -> tuple[float, bool, bool]:
        """One control step: reward, terminated, truncated."""
        scaled = self._low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1) / 2 * self._range
        answer = self._env.step(scaled)
        over = bool(answer.last())
        return float(answer.reward or 0.0), over and answer.discount == 0, over and answer.discount != 0

    def draw(self) -> Array:
        """(3 * cameras, H, W) uint8."""
        physics = self._env.physics
        if physics is not self._physics:  # the manipulation tasks compile a new model for every episode
            self._set_up(physics)
        flags = _PLAIN if self._quality == "fast" else None
        pictures = [camera.render(render_flag_overrides=flags).transpose(2, 0, 1) for camera in self._cameras]
        return np.concatenate(pictures)

    def close(self) -> None:
        """Free the renderer."""
        if self in _alive:
            _alive.discard(self)
            self._cameras = []
            physics = self._env.physics
            if physics is not None:
                physics.free()
            self._env.close()

    def _set_up(self, physics: Any) -> None:
        """Quality counts when the first picture of a model is drawn, and cameras belong to a model."""
        import mujoco  # not above: it reads MUJOCO_GL, which is chosen first

        self._physics = physics
        scene = physics.model.vis
        if self._quality != "exact":
            scene.quality.shadowsize = _SHADOW
        if self._quality == "fast":
            scene.quality.offsamples = 0
        scene.global_.offheight = max(scene.global_.offheight, self._height)
        scene.global_.offwidth = max(scene.global_.offwidth, self._width)
        try:
            self._cameras = [self._camera_class(physics, self._height, self._width, id_) for id_ in self._ids]
        except ValueError as error:
            raise ConfigError(f"cameras {list(self._ids)}: {one_line(error)}") from error
        except mujoco.FatalError as error:
            backend = os.environ.get("MUJOCO_GL", "its default")
            raise MissingDependency(
                f"MuJoCo cannot draw with MUJOCO_GL={backend} on this machine; unset it, or {rendering.ADVICE}"
            ) from error


def _load_dm_control() -> tuple[ModuleType, ModuleType, Any]:
    mujoco = version("mujoco")
    if int(mujoco.split(".")[0]) >= 4:
        raise MissingDependency(
            f'dm_control does not work with mujoco {mujoco}, which is too new: pip install "mujoco>=3.17,<4"'
        )
    rendering.choose()
    try:
        from dm_control import manipulation, suite
        from dm_control.mujoco.engine import Camera
    # PyOpenGL answers to a missing library with an AttributeError, dm_control to a wrong MUJOCO_GL with a RuntimeError.
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise MissingDependency(f"dm_control finds no renderer ({one_line(error)}): {rendering.ADVICE}") from error
    atexit.register(_close_all)  # after dm_control's own, hence called before them
    return suite, manipulation, Camera


def _close_all() -> None:
    for simulator in list(_alive):
        simulator.close()
