from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from PIL import Image

from polycontrast.errors import DataError
from polycontrast_rl import video


def test_an_episode_becomes_an_animated_gif(tmp_path: Path) -> None:
    frames = np.zeros((5, 6, 32, 40), np.uint8)
    for t in range(5):
        frames[t, 0] = 50 * t  # first camera: ever more red
        frames[t, 4] = 200  # second camera: green
    path = video.write_video(tmp_path / "videos" / "000.mp4", frames, fps=10)
    assert path == tmp_path / "videos" / "000.gif"
    with Image.open(path) as film:
        assert (film.n_frames, film.size, film.info["duration"], film.info["loop"]) == (5, (5 * 80, 5 * 32), 100, 0)
        for t in range(5):
            film.seek(t)
            picture = np.asarray(film.convert("RGB")).astype(int)
            assert np.abs(picture[:, :200] - [50 * t, 0, 0]).max() <= 8
            assert np.abs(picture[:, 200:] - [0, 200, 0]).max() <= 8
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["000.gif"]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"uint8 frames \(T, 3, H, W\), got uint8 \(5, 4, 8, 8\)"):
        video.write_video(tmp_path / "a", np.zeros((5, 4, 8, 8), np.uint8))
