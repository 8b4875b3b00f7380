"""Which OpenGL renderer MuJoCo can use on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

from polycontrast.errors import MissingDependency, one_line
from polycontrast.plugins import Check

BACKENDS = ("egl", "osmesa")
"""What draws without a screen, fastest first."""
PACKAGES = {"egl": "libegl1 libopengl0 libgl1-mesa-dri", "osmesa": "libosmesa6"}
"""Debian packages that each needs where there is no graphics card."""
ADVICE = (
    f"install the Debian packages {PACKAGES['egl']} (then MUJOCO_GL=egl) or {PACKAGES['osmesa']} (then "
    "MUJOCO_GL=osmesa), or take a task that needs no renderer, such as pixels:point-mass"
)

# A whole picture, as some faults show only when something is drawn. Faults at exit are harmless, hence the print.
_PROBE = """
import mujoco
with mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16) as renderer:
    renderer.render()
print("it works", flush=True)
"""
_SECONDS = 60


@cache
def fault(backend: str) -> str:
    """Why MuJoCo cannot draw with a backend; empty if it can. Tried out in a process of its own."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return one_line(error)
    if "it works" in done.stdout:
        return ""
    return (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]


def choose() -> None:
    """Set MUJOCO_GL to the first backend that works, unless it is set or there is a screen.

    Raises:
        MissingDependency: none works, with what to install.
    """
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32"):
        return
    for backend in BACKENDS:
        if not fault(backend):
            os.environ["MUJOCO_GL"] = backend
            return
    raise MissingDependency(f"MuJoCo finds no renderer on this machine: {ADVICE}")


def check() -> list[Check]:
    """For ``polycontrast doctor``: whether each backend draws here, and what to install if none does."""
    faults = {backend: fault(backend) for backend in BACKENDS}
    found = []
    for backend, why in faults.items():
        detail = f"works: MUJOCO_GL={backend}"
        if why:
            detail = f"not needed, another one works (Debian: {PACKAGES[backend]})"
        if all(faults.values()):
            detail = f"does not work ({why}): apt-get install {PACKAGES[backend]}"
        found.append(Check(f"MuJoCo renderer {backend}", not why, detail))
    return found
