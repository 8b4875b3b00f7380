"""Rows of numbers with or without a class each: the digits of scikit-learn, .npz, .npy, CSV and Parquet."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from polycontrast.config import MethodConfig
from polycontrast.data import Dataset, Purpose, TensorExamples, derive_seed, read_table
from polycontrast.data.readers import SUFFIXES, first_line, place
from polycontrast.errors import DataError, did_you_mean, one_line
from polycontrast.reference.config import ArrayConfig, SimCLRConfig

Array = npt.NDArray[Any]
UNLABELLED = -100
"""Label of a row without a class."""
_ROWS = 20
"""Fewest rows to train on."""


@dataclass(kw_only=True)
class ArrayDataset(Dataset):
    """``splits`` give ``x`` (B, ...) float32 in original units, ``id`` and, with classes, ``label`` (B,) int64."""

    classes: tuple[str, ...] = ()
    """Names of the classes; empty without labels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row: (D,), (H, W) or (C, H, W)."""
        examples = cast(TensorExamples, next(iter(self.splits.values())))
        return tuple(examples.tensors["x"].shape[1:])


def digits(config: MethodConfig, seed: int, purpose: Purpose) -> ArrayDataset:
    """The 1797 digits that scikit-learn brings along, 8 x 8 pixels in [0, 1], split by the seed."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _dataset(
        "demo", found.images / 16.0, found.target, tuple(map(str, range(10))), None, cast(SimCLRConfig, config).data,
        seed, purpose, licence="CC-BY-4.0",
    )  # fmt: skip


def read(path: Path, config: MethodConfig, seed: int, purpose: Purpose) -> ArrayDataset:
    """Rows from a file.

    ``.npz``: array ``x`` (N, D), (N, H, W) or (N, C, H, W), and if there are classes an array named as ``data.label``
    says. ``.npy``: ``x`` alone. Tables (CSV, Parquet): a column per feature, and the label's. An ``id`` array or column
    of different whole numbers is kept; otherwise a row's id is its position.

    Raises:
        DataError: what cannot be used, with file and place.
    """
    data = cast(SimCLRConfig, config).data
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    kind = path.suffix.lower()
    if kind in (".npz", ".npy"):
        x, labels, ids = _from_numpy(path, data)
        line: int | None = None
    elif path.name.lower().endswith(SUFFIXES):
        x, labels, ids, line = _from_table(path, data)
    else:
        raise DataError(f"{path} is of an unknown kind; convert it to .npz, .npy or {', '.join(SUFFIXES)}")
    x = _numbers(path, x, line)
    classes: tuple[str, ...] = ()
    numbered = None
    if labels is not None and purpose != "predict":
        classes, numbered = _classes(path, labels, len(x))
    if ids is not None:
        ids = _ids(path, ids, len(x), line)
    return _dataset(str(path), x, numbered, classes, ids, data, seed, purpose)


def _dataset(
    name: str, x: Array, labels: Array | None, classes: tuple[str, ...], ids: Array | None, config: ArrayConfig,
    seed: int, purpose: Purpose, licence: str = "",
) -> ArrayDataset:  # fmt: skip
    tensors = {
        "x": torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)),
        "id": torch.arange(len(x)) if ids is None else torch.from_numpy(np.asarray(ids, dtype=np.int64)),
    }
    if labels is not None:
        tensors["label"] = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    if purpose == "predict":
        return ArrayDataset(name=name, splits={"all": TensorExamples(tensors)}, classes=classes, licence=licence)
    if len(x) < _ROWS:
        raise DataError(f"{name} has {len(x)} rows, too few to split; give at least {_ROWS}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive_seed(seed, "split")))
    test, validation = round(config.test * len(x)), round(config.validation * len(x))
    at = {"test": order[:test], "val": order[test : test + validation], "train": order[test + validation :]}
    for part, rows in at.items():
        if len(rows) < 2:
            raise DataError(f"{name}: part {part!r} would have {len(rows)} rows; change data.validation or data.test")
    splits = {p: TensorExamples({k: t[at[p]] for k, t in tensors.items()}) for p in ("train", "val", "test")}
    sizes = "/".join(str(len(at[p])) for p in ("train", "val", "test"))
    return ArrayDataset(
        name=name, splits=splits, classes=classes, licence=licence,
        protocol={"split": f"{sizes} rows, by seed {seed}", "noise": config.noise, "classes": len(classes)},
        notes=() if classes else (f"no labels ({config.label!r}): views are retrieved instead of classes",),
    )  # fmt: skip


def _from_numpy(path: Path, data: ArrayConfig) -> tuple[Array, Array | None, Array | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None, None
        with loaded as file:
            arrays: Mapping[str, Array] = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        why = one_line(error)
        raise DataError(f"{path} is no readable NumPy file of plain arrays ({why}); save it again") from error
    if "x" not in arrays:
        held = ", ".join(arrays) or "none"
        raise DataError(f"{path} has no array 'x'; it has {held}.{did_you_mean('x', arrays)} Rename the rows to 'x'")
    return arrays["x"], arrays.get(data.label), arrays.get("id")


def _from_table(path: Path, data: ArrayConfig) -> tuple[Array, Array | None, Array | None, int | None]:
    table = read_table(path)
    columns = [n for n in table.column_names if n not in (data.label, "id")]
    if not columns:
        raise DataError(f"{path} has no column of features beside {data.label!r} and 'id'; add some")
    for name in columns:
        kind = table[name].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(
                f"{path}: column {name!r} holds {kind}, not numbers; drop it, or name it with data.label={name} "
                "if it is the class"
            )
    x = np.stack([np.asarray(table[n].to_numpy(zero_copy_only=False), dtype=np.float64) for n in columns], 1)
    missing = np.argwhere(~np.isfinite(x))
    line = first_line(table)
    if len(missing):
        row, column = missing[0]
        raise DataError(
            f"{path}, {place(line, int(row))}: column {columns[column]!r} has no finite value; fill it or drop the row"
        )

    def one(name: str) -> Array | None:
        return np.asarray(table[name].to_pylist(), dtype=object) if name in table.column_names else None

    return x, one(data.label), one("id"), line


def _numbers(path: Path, x: Array, line: int | None) -> Array:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: 'x' holds {x.dtype}, not numbers; convert it to float32")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise DataError(f"{path}: 'x' has shape {x.shape}; it must be (N, D), (N, H, W) or (N, C, H, W)")
    x = x.astype(np.float32)
    bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{path}, {place(line, row)}: not every value is finite; fill them or drop the row")
    return x


def _classes(path: Path, labels: Array, n: int) -> tuple[tuple[str, ...], Array]:
    """Names of the classes in ascending order, and the number of each row's; missing ones are UNLABELLED."""
    if labels.shape != (n,):
        raise DataError(f"{path}: labels have shape {labels.shape}, but there are {n} rows; give one label per row")
    values = [None if v is None or v != v or v == "" else v for v in labels.tolist()]
    known = {v for v in values if v is not None and v != UNLABELLED}
    if any(isinstance(v, float) and v != int(v) for v in known):
        raise DataError(f"{path}: labels are fractions, not classes; round them or name another column with data.label")
    if len(known) < 2:
        raise DataError(f"{path}: labels name {len(known)} classes; at least 2 are needed, or none at all")
    kinds = {isinstance(v, str) for v in known}
    ordered = sorted(known, key=str if len(kinds) > 1 else None)
    number = {v: i for i, v in enumerate(ordered)}
    return tuple(str(v) for v in ordered), np.array([number.get(v, UNLABELLED) for v in values])


def _ids(path: Path, ids: Array, n: int, line: int | None) -> Array:
    if ids.shape != (n,):
        raise DataError(f"{path}: 'id' has shape {ids.shape}, but there are {n} rows; give one id per row")
    seen: set[int] = set()
    for row, value in enumerate(ids.tolist()):
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f"{path}, {place(line, row)}: id {value!r} is no whole number; number the rows")
        if value in seen:
            raise DataError(f"{path}, {place(line, row)}: id {value} occurs twice; number the rows")
        seen.add(value)
    return np.asarray(ids, dtype=np.int64)
