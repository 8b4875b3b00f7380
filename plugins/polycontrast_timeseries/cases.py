"""Labelled cases of time series (UCR and UEA archives): the ``.ts`` format, arrays, parts and folds."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from polycontrast.config import MethodConfig
from polycontrast.data import Dataset, Purpose, TensorExamples, derive_seed
from polycontrast.errors import DataError
from polycontrast_timeseries.config import SeriesConfig

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TsFile:
    """What a ``.ts`` file holds."""

    x: Float
    """(n, L, C); NaN where a value is missing or a case is shorter than the longest."""
    labels: tuple[str, ...]
    """Of every case; empty when the file has none."""
    classes: tuple[str, ...]
    """Labels that the header declares, in its order."""
    name: str
    """Of the problem, from the header."""


@dataclass(kw_only=True, eq=False)
class CaseDataset(Dataset):
    """Cases with a class each.

    ``splits`` holds ``train`` and ``test`` (``all`` when opened to predict) with batches
    ``{"id", "x": (B, L, C) float32, "y": (B,) int64}``; for validation see :meth:`folds`. The id of a case is its
    place in the file; test cases are numbered on from the training cases. Without labels (to predict) there is no
    ``y``.
    """

    x: Mapping[str, Tensor]
    """By part, (n, L, C) float32, standardised; NaN is missing or padding."""
    y: Mapping[str, Tensor]
    """By part, (n,) int64, index into :attr:`classes`."""
    classes: tuple[str, ...]
    mean: Float
    """(C,) of the training part."""
    std: Float
    """(C,) likewise; 1 for a constant channel."""
    raw: Mapping[str, Float] = field(repr=False)
    """By part, (n, L, C) float64 in original units."""
    informative: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    """By part, (n, L): the steps that tell the class, where that is known (made-up data)."""

    def __post_init__(self) -> None:
        if not self.splits:
            begin, splits = 0, {}
            for part, x in self.x.items():
                ids = torch.arange(begin, begin + len(x))
                labels = {"y": self.y[part]} if part in self.y else {}
                splits[part] = TensorExamples({"id": ids, "x": x, **labels})
                begin += len(x)
            self.splits = splits

    def scale(self, scaler: tuple[Any, Any]) -> dict[str, Tensor]:
        """Every part, (n, L, C) float32, under another scaler, e.g. that of a saved model.

        Args:
            scaler: mean and standard deviation, (C,) each.

        Raises:
            DataError: the scaler is for another number of channels.
        """
        mean, std = (np.asarray(part, dtype=np.float64) for part in scaler)
        if mean.shape != self.mean.shape:
            raise DataError(
                f"{self.name} has {self.mean.size} channels, the model was trained on {mean.size}; "
                "give cases with the same channels"
            )
        return {part: _standardise(raw, mean, std) for part, raw in self.raw.items()}

    def folds(self, n: int = 5, *, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions (fit, validate) in the training part, every class spread evenly over the folds.

        Fewer folds are made when the smallest class has fewer cases.

        Raises:
            DataError: a class has a single case.
        """
        y = self.y["train"].numpy()
        smallest = int(np.bincount(y)[np.unique(y)].min())
        if smallest < 2:
            raise DataError(f"{self.name}: a class has one training case only; validation needs two of each class")
        random_state = derive_seed(seed, "folds") % (1 << 32)
        splitter = StratifiedKFold(min(n, smallest), shuffle=True, random_state=random_state)
        for fit, validate in splitter.split(np.zeros(len(y)), y):
            yield torch.from_numpy(fit), torch.from_numpy(validate)


def holds_cases(path: str | Path) -> bool:
    """Whether a path is meant for :func:`read_cases`: a ``.ts`` file, or a folder with ``NAME_TRAIN.ts`` in it."""
    path = Path(path)
    return path.name.endswith((".ts", ".ts.gz")) or (path.is_dir() and bool(_training_files(path)))


def read_cases(path: Path, config: MethodConfig, seed: int, purpose: Purpose) -> CaseDataset:
    """Training and test cases of a problem.

    Args:
        path: a folder with ``NAME_TRAIN.ts`` and ``NAME_TEST.ts``, or the training file, or to predict any ``.ts``
            file. The files may be gzipped (``.ts.gz``).
        config: of the method; ``config.data.max_length`` thins out longer cases.
        seed: not used, the archive fixes both parts.
        purpose: to predict, labels are not needed and are not used. A folder then stands for its test file.

    Raises:
        DataError: a file is missing or damaged (with the line), or the two do not go together.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    train_file = path
    if path.is_dir():
        found = _training_files(path)
        if len(found) != 1:
            what = "no" if not found else "more than one"
            raise DataError(f"{path} holds {what} NAME_TRAIN.ts; give a folder with one problem, or that file")
        train_file = found[0]
    is_train = "_TRAIN.ts" in train_file.name
    test_file = train_file.with_name(train_file.name.replace("_TRAIN.ts", "_TEST.ts"))
    if purpose == "predict":
        file = test_file if path.is_dir() else train_file
        one = read_ts(file)
        return _dataset(str(path), {"all": one.x}, {}, one.classes, config, purpose)
    if not is_train:
        raise DataError(f"{train_file} is no NAME_TRAIN.ts; training and evaluation need that file and NAME_TEST.ts")
    if not test_file.exists():
        raise DataError(f"{test_file} does not exist; put the test cases beside {train_file.name}")
    train, test = read_ts(train_file), read_ts(test_file)
    for file, part in ((train_file, train), (test_file, test)):
        if not part.labels:
            raise DataError(f"{file} has no class labels (@classLabel); they are needed to train and to evaluate")
    if train.x.shape[2] != test.x.shape[2]:
        raise DataError(
            f"{test_file} has {test.x.shape[2]} channels, {train_file.name} has {train.x.shape[2]}; they must agree"
        )
    # Only what occurs in training can be learned.
    classes = tuple(c for c in train.classes if c in set(train.labels))
    code = {c: i for i, c in enumerate(classes)}
    strange = [c for c in test.labels if c not in code]
    if strange:
        raise DataError(f"{test_file}: class {strange[0]!r} has no training case; it knows {', '.join(classes)}")
    length = max(train.x.shape[1], test.x.shape[1])
    return _dataset(
        str(path),
        {"train": _pad(train.x, length), "test": _pad(test.x, length)},
        {
            "train": np.array([code[c] for c in train.labels], dtype=np.int64),
            "test": np.array([code[c] for c in test.labels], dtype=np.int64),
        },
        classes,
        config,
        purpose,
    )


def from_arrays(
    x: Mapping[str, npt.NDArray[Any]],
    y: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
    config: MethodConfig | SeriesConfig | None = None,
    *,
    name: str = "arrays",
    channel_first: bool = False,
    purpose: Purpose = "train",
) -> CaseDataset:
    """Cases from arrays.

    Args:
        x: by part (``train`` and ``test``, or ``all``), (n, L, C) or (n, L); (n, C, L) as in aeon with
            ``channel_first``. NaN is missing.
        y: by part, labels of any kind; classes are in sorted order. Empty to predict.
        config: of the method or the data. None: the defaults.
        name: what errors and results call it.
        channel_first: which order the axes of ``x`` have.
        purpose: why.

    Raises:
        DataError: shapes do not agree, values are infinite, a test label never occurs in training.
    """
    arrays: dict[str, Float] = {}
    for part, values in x.items():
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 2:
            array = array[:, :, None]
        elif channel_first and array.ndim == 3:
            array = array.transpose(0, 2, 1)
        if array.ndim != 3 or 0 in array.shape:
            raise DataError(f"{name}: x[{part!r}] has shape {array.shape}; cases are (n, L, C) or (n, L)")
        if np.isinf(array).any():
            raise DataError(f"{name}: x[{part!r}] holds infinite values; replace them, NaN is fine")
        arrays[part] = array
    if len({a.shape[2] for a in arrays.values()}) > 1:
        raise DataError(f"{name}: the parts have {[a.shape[2] for a in arrays.values()]} channels; they must agree")
    labels = {part: [str(v) for v in values] for part, values in y.items()}
    classes = tuple(str(v) for v in np.unique(np.asarray(y["train"]))) if "train" in y else ()
    for part, names in labels.items():
        if len(names) != len(arrays[part]):
            raise DataError(f"{name}: {len(arrays[part])} cases but {len(names)} labels in part {part!r}")
        strange = [v for v in names if v not in classes]
        if strange:
            raise DataError(f"{name}: class {strange[0]!r} of part {part!r} has no training case")
    length = max(a.shape[1] for a in arrays.values())
    return _dataset(
        name,
        {part: _pad(array, length) for part, array in arrays.items()},
        {part: np.array([classes.index(v) for v in names], dtype=np.int64) for part, names in labels.items()},
        classes,
        config,
        purpose,
    )


def read_ts(path: str | Path) -> TsFile:
    """A ``.ts`` file of the UCR and UEA archives.

    Lines starting with ``@`` are the header, with ``#`` comments. After ``@data`` there is a case per line: channels
    separated by ``:``, values by ``,``, ``?`` for a missing one, the class label last if ``@classLabel true``.

    Raises:
        DataError: not that format; the message names the line.
    """
    path = Path(path)
    try:
        if path.name.endswith(".gz"):
            text = gzip.decompress(path.read_bytes()).decode("utf-8")
        else:
            text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give a .ts file in it") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); copy it again") from error

    header: dict[str, str] = {}
    classes: tuple[str, ...] | None = None
    channels: int | None = None
    cases: list[list[Float]] = []
    labels: list[str] = []
    in_data = False
    for number, raw_line in enumerate(text.splitlines(), start=1):
        line = raw_line.strip()
        where = f"{path}, line {number}"
        if not line or line.startswith("#"):
            continue
        if not in_data:
            if not line.startswith("@"):
                raise DataError(f"{where}: values before the line @data; put it above them")
            key, *rest = line[1:].split()
            key = key.lower()
            if key == "data":
                in_data = True
                if "classlabel" not in header:
                    raise DataError(f"{where}: the header has no @classLabel; say true with the classes, or false")
                continue
            header[key] = " ".join(rest)
            if key == "timestamps" and header[key].lower() == "true":
                raise DataError(f"{where}: time stamps within cases are not supported; write plain values")
            if key == "targetlabel" and header[key].lower().startswith("true"):
                raise DataError(f"{where}: this is a regression problem; classes are needed (@classLabel)")
            if key == "classlabel":
                if not rest or rest[0].lower() not in ("true", "false"):
                    raise DataError(f"{where}: @classLabel is followed by true and the classes, or by false")
                classes = tuple(rest[1:]) if rest[0].lower() == "true" else None
            continue
        parts = line.split(":")
        if classes is not None:
            label = parts.pop().strip()
            if label not in classes:
                raise DataError(f"{where}: class {label!r} is not in the header, which has {', '.join(classes)}")
            labels.append(label)
        if channels is None:
            channels = len(parts)
            declared = header.get("dimensions", header.get("dimension"))
            if declared is not None and declared != str(channels):
                raise DataError(f"{where}: {channels} channels, but the header says @dimensions {declared}")
        if len(parts) != channels or not parts:
            raise DataError(f"{where}: {len(parts)} channels where the first case has {channels}; mend that line")
        cases.append([_values(part, i, where) for i, part in enumerate(parts)])
    if not in_data:
        raise DataError(f"{path} has no line @data; is it a .ts file?")
    if not cases or channels is None:
        raise DataError(f"{path} has no case below @data; add data")
    length = max(len(channel) for case in cases for channel in case)
    x = np.full((len(cases), length, channels), np.nan)
    for i, case in enumerate(cases):
        for c, channel in enumerate(case):
            x[i, : len(channel), c] = channel
    return TsFile(x=x, labels=tuple(labels), classes=classes or (), name=header.get("problemname", path.stem))


def _values(text: str, channel: int, where: str) -> Float:
    fields = text.split(",") if text.strip() else []
    if not fields:
        raise DataError(f"{where}: channel {channel} has no value; write ? for a missing one")
    try:
        values = np.array(fields, dtype=np.float64)
    except ValueError:
        values = np.array([_value(f, i, channel, where) for i, f in enumerate(fields)])
    if np.isinf(values).any():
        raise DataError(f"{where}: channel {channel} holds an infinite value; write ? for a missing one")
    return values


def _value(text: str, position: int, channel: int, where: str) -> float:
    if text.strip() == "?":
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"{where}: channel {channel} holds {text.strip()!r} as value {position}, which is no number; mend it"
        ) from None


def _training_files(folder: Path) -> list[Path]:
    own = [p for p in (folder / f"{folder.resolve().name}_TRAIN.ts{z}" for z in ("", ".gz")) if p.exists()]
    return own[:1] or sorted([*folder.glob("*_TRAIN.ts"), *folder.glob("*_TRAIN.ts.gz")])


def _pad(x: Float, length: int) -> Float:
    return np.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0)), constant_values=np.nan)


def _standardise(raw: Float, mean: Float, std: Float) -> Tensor:
    return torch.from_numpy(((raw - mean) / std).astype(np.float32))


def _dataset(
    name: str,
    raw: Mapping[str, Float],
    y: Mapping[str, Int],
    classes: tuple[str, ...],
    config: MethodConfig | SeriesConfig | None,
    purpose: Purpose,
) -> CaseDataset:
    data = SeriesConfig() if config is None else config if isinstance(config, SeriesConfig) else config.data
    if not isinstance(data, SeriesConfig):
        raise TypeError(f"config.data must be a SeriesConfig, got {type(data).__name__}")
    notes: list[str] = []
    length = next(iter(raw.values())).shape[1]
    if data.max_length is not None and length > data.max_length:
        step = -(-length // data.max_length)
        raw = {part: x[:, ::step] for part, x in raw.items()}
        notes.append(f"cases of length {length} are thinned out to every {step}th value (data.max_length)")
    fitted = raw["all" if purpose == "predict" else "train"]
    seen = ~np.isnan(fitted)
    count = seen.sum(axis=(0, 1))
    if (count == 0).any():
        raise DataError(f"{name}: channel {int((count == 0).argmax())} has no value in the training cases; remove it")
    mean = np.where(seen, fitted, 0.0).sum(axis=(0, 1)) / count
    std = np.sqrt((np.where(seen, fitted - mean, 0.0) ** 2).sum(axis=(0, 1)) / count)
    std = np.where(std <= 1e-12 * np.maximum(np.abs(mean), 1.0), 1.0, std)
    return CaseDataset(
        name=name,
        x={part: _standardise(x, mean, std) for part, x in raw.items()},
        y={part: torch.from_numpy(labels) for part, labels in y.items()},
        classes=classes,
        mean=mean,
        std=std,
        raw=raw,
        protocol={
            "cases": {part: len(x) for part, x in raw.items()},
            "length": next(iter(raw.values())).shape[1],
            "channels": int(mean.size),
            "classes": len(classes),
            "scaling": "mean and standard deviation of the training part, per channel",
        },
        notes=tuple(notes),
    )


__all__ = ["CaseDataset", "TsFile", "from_arrays", "holds_cases", "read_cases", "read_ts"]
