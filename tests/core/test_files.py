from __future__ import annotations

import errno
from pathlib import Path

import pytest

from polycontrast.errors import PolycontrastError
from polycontrast.files import atomic_directory, atomic_file, write_text


def half_a_file(target: Path, error: Exception) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error


def half_a_directory(target: Path) -> None:
    with atomic_directory(target) as temporary:
        (temporary / "f").write_text("half")
        raise ValueError("half way")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(ValueError, match="half way"):
        half_a_file(target, ValueError("half way"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "d"
    for text in ("old", "new"):
        with atomic_directory(target) as temporary:
            (temporary / "f").write_text(text)
    with pytest.raises(ValueError, match="half way"):
        half_a_directory(target)
    assert (target / "f").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_kill_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".d.tmp").mkdir()
    (tmp_path / ".d.tmp" / "rest").write_text("x")
    with atomic_directory(tmp_path / "d") as temporary:
        (temporary / "f").write_text("new")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["f"]


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolycontrastError, match=r"the disk is full: .*a.txt was not written") as caught:
        half_a_file(tmp_path / "a.txt", OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []
