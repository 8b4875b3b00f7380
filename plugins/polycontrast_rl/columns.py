"""Where a replay keeps its rows: plain arrays in memory, or memory-mapped ``.npy`` files of a folder.

Files are read through the mapping and written through the file: a full disk is then an ``OSError`` with a message,
where a write through the mapping would end the process by a signal.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from polycontrast.errors import DataError, PolycontrastError, one_line

Array = npt.NDArray


class Columns:
    """Arrays of equal first dimension. ``columns[name]`` is the whole array, to be read only.

    Args:
        rows: their length.
        fields: shape of a row and dtype by name.
        empty: value of rows never written, where it is not 0.
        folder: holds one file per field. None: in memory.
        readonly: open existing files and never write.
    """

    def __init__(
        self,
        rows: int,
        fields: dict[str, tuple[tuple[int, ...], npt.DTypeLike]],
        *,
        empty: dict[str, int] | None = None,
        folder: Path | None = None,
        readonly: bool = False,
    ) -> None:
        self._folder = folder
        self._arrays: dict[str, Array] = {}
        self._files: dict[str, tuple[BinaryIO, int, int]] = {}
        for name, (shape, dtype) in fields.items():
            fill = (empty or {}).get(name, 0)
            if folder is None:
                self._arrays[name] = np.full((rows, *shape), fill, dtype) if fill else np.zeros((rows, *shape), dtype)
                continue
            path = folder / f"{name}.npy"
            if not path.exists():
                self._create(path, (rows, *shape), dtype, fill)
            self._arrays[name] = self._mapped(path, (rows, *shape), np.dtype(dtype))
            if not readonly:
                file = path.open("r+b", buffering=0)
                array = self._arrays[name]
                self._files[name] = (file, path.stat().st_size - array.nbytes, array[0].nbytes)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def write(self, name: str, row: int, values: Array) -> None:
        """Overwrite consecutive rows.

        Args:
            name: the field.
            row: the first of them.
            values: (m, ...) of the field's dtype.

        Raises:
            PolycontrastError: the disk is full.
        """
        if self._folder is None:
            self._arrays[name][row : row + len(values)] = values
            return
        file, start, size = self._files[name]
        data = np.ascontiguousarray(values).data.cast("B")
        file.seek(start + row * size)
        write_all(file, data, self._folder)

    def sync(self) -> None:
        """Return when everything written has reached the disk."""
        for file, _, _ in self._files.values():
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise explained(error, self._folder) from error

    def close(self) -> None:
        """Close the files. Arrays handed out before stay valid."""
        for file, _, _ in self._files.values():
            file.close()
        self._files.clear()

    def _create(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, fill: int) -> None:
        # The file is sparse: it takes the room of what was written, not of the capacity.
        temporary = path.with_suffix(".tmp")
        try:
            new = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
            if fill:
                new[:] = fill
            del new
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise explained(error, path.parent) from error

    def _mapped(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({one_line(error)}): delete the folder {path.parent}") from error
        if array.shape != shape or array.dtype != dtype:
            raise DataError(
                f"{path} holds {array.dtype} {array.shape}, not {dtype} {shape}: delete the folder, or name another"
            )
        # A bare ndarray over the mapping: indexing a numpy.memmap costs a Python call per result.
        return np.asarray(array)


def write_all(file: BinaryIO, data: memoryview | bytes, folder: Path) -> None:
    """Write all of ``data`` to an unbuffered file, which may take it in parts."""
    data = memoryview(data)
    try:
        while data:
            done = file.write(data)
            data = data[done:]
    except OSError as error:
        raise explained(error, folder) from error


def explained(error: OSError, folder: Path | None) -> Exception:
    """A full disk as an error with one line; anything else as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return PolycontrastError(
            f"the disk is full: the replay in {folder} cannot grow. Free some space and go on with --resume, "
            "or lower replay.capacity, or give replay.path a folder on another disk"
        )
    return error
