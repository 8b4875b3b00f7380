"""Episodes as animated GIFs, which every browser and viewer plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from polycontrast.errors import DataError
from polycontrast.files import atomic_file

_SHORTEST_EDGE = 160


def write_video(path: Path, frames: npt.NDArray[np.uint8], *, fps: float = 15.0) -> Path:
    """Write an episode as an animated GIF that runs in a loop.

    Args:
        path: the file; its ending becomes ``.gif``, and folders on the way are made.
        frames: (T, C, H, W) uint8, C = 3 times the number of cameras, which are shown side by side. Small frames are
            enlarged by a whole factor.
        fps: frames per second; GIF keeps hundredths of a second.

    Returns:
        The path written.

    Raises:
        DataError: the frames are not RGB images.
    """
    if frames.ndim != 4 or not len(frames) or frames.shape[1] % 3 or frames.dtype != np.uint8:
        raise DataError(f"a video needs uint8 frames (T, 3, H, W), got {frames.dtype} {frames.shape}")
    steps, channels, height, width = frames.shape
    cameras = channels // 3
    wide = frames.reshape(steps, cameras, 3, height, width).transpose(0, 3, 1, 4, 2)
    wide = wide.reshape(steps, height, cameras * width, 3)
    factor = -(-_SHORTEST_EDGE // min(height, width))
    large = wide.repeat(factor, axis=1).repeat(factor, axis=2)
    first, *others = (Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE) for picture in large)
    path = path.with_suffix(".gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return path
