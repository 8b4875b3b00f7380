from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from polycontrast.data import TensorExamples
from polycontrast.errors import ConfigError, DataError
from polycontrast.reference.arrays import UNLABELLED, digits, read
from polycontrast.reference.config import ArrayConfig, SimCLRConfig

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LABELS = np.arange(40) % 4
CONFIG = SimCLRConfig()


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def rows(dataset: Any, part: str) -> dict[str, torch.Tensor]:
    examples = dataset.splits[part]
    assert isinstance(examples, TensorExamples)
    return dict(examples.tensors)


def test_digits_are_split_by_the_seed() -> None:
    first, again, other = (digits(CONFIG, seed, "train") for seed in (0, 0, 1))
    assert first.shape == (8, 8)
    assert first.classes == tuple("0123456789")
    sizes = {part: len(examples) for part, examples in first.splits.items()}
    assert sizes == {"train": 1079, "val": 359, "test": 359}
    ids = torch.cat([rows(first, part)["id"] for part in sizes])
    assert torch.equal(ids.sort().values, torch.arange(1797))
    assert torch.equal(rows(first, "test")["x"], rows(again, "test")["x"])
    assert not torch.equal(rows(first, "test")["id"], rows(other, "test")["id"])
    x = rows(first, "train")["x"]
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert "1079/359/359" in str(first.protocol["split"])


def test_npz_npy_and_tables_hold_the_same(tmp_path: Path) -> None:
    columns = {f"f{i}": X[:, i] for i in range(3)} | {"label": LABELS}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    text = [",".join(columns)] + [",".join(str(columns[c][i]) for c in columns) for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(text))
    expected = rows(read(save(tmp_path / "a.npz", x=X, label=LABELS), CONFIG, 3, "train"), "test")
    for name in ("a.parquet", "a.csv"):
        got = rows(read(tmp_path / name, CONFIG, 3, "train"), "test")
        assert torch.allclose(got["x"], expected["x"])
        assert torch.equal(got["label"], expected["label"])
    np.save(tmp_path / "a.npy", X)
    alone = read(tmp_path / "a.npy", CONFIG, 3, "train")
    assert torch.equal(rows(alone, "test")["x"], expected["x"])
    assert "label" not in rows(alone, "test")
    assert alone.notes == ("no labels ('label'): views are retrieved instead of classes",)


def test_labels_may_be_words_and_may_be_missing(tmp_path: Path) -> None:
    table = pa.table({"a": X[:, 0], "kind": ["cat", "dog", None, "ant"] * 10})
    pq.write_table(table, tmp_path / "a.parquet")
    config = SimCLRConfig(data=ArrayConfig(label="kind"))
    dataset = read(tmp_path / "a.parquet", config, 0, "train")
    assert dataset.classes == ("ant", "cat", "dog")
    for part in ("train", "val", "test"):
        found = rows(dataset, part)
        expected = torch.tensor([1, 2, UNLABELLED, 0])[found["id"] % 4]
        assert torch.equal(found["label"], expected)


def test_ids_are_kept_and_predicting_needs_neither_labels_nor_many_rows(tmp_path: Path) -> None:
    images = X[:3].reshape(3, 1, 1, 3)
    path = save(tmp_path / "a.npz", x=images, id=np.array([7, 5, 6]), label=np.array(["a", "b", "a"]))
    dataset = read(path, CONFIG, 0, "predict")
    assert list(dataset.splits) == ["all"]
    assert rows(dataset, "all")["id"].tolist() == [7, 5, 6]
    assert dataset.shape == (1, 1, 3)


NAN = np.where(np.arange(120).reshape(40, 3) == 16, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": X}, "has no array 'x'; it has y. Rename the rows to 'x'"),
        ({"x": X[:, 0]}, r"'x' has shape \(40,\); it must be \(N, D\)"),
        ({"x": X.astype(str)}, "'x' holds <U32, not numbers; convert it to float32"),
        ({"x": NAN}, "row 5: not every value is finite; fill them or drop the row"),
        ({"x": X, "label": LABELS[:9]}, r"labels have shape \(9,\), but there are 40 rows"),
        ({"x": X, "label": X[:, 0]}, "labels are fractions, not classes"),
        ({"x": X, "label": 0 * LABELS}, "labels name 1 classes; at least 2 are needed"),
        ({"x": X, "id": LABELS}, "row 4: id 0 occurs twice"),
        ({"x": X, "id": X[:, 0]}, "row 0: id .* is no whole number"),
        ({"x": X[:7]}, "has 7 rows, too few to split; give at least 20"),
        ({"x": np.array([None] * 40, dtype=object)}, "is no readable NumPy file of plain arrays"),
    ],
)
def test_what_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(save(tmp_path / "a.npz", **arrays), CONFIG, 0, "train")
    assert str(error.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(error.value)


def test_what_is_refused_of_a_table(tmp_path: Path) -> None:
    def refused(text: str, message: str) -> None:
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read(tmp_path / "a.csv", CONFIG, 0, "train")

    refused("a,b,label\n1,2,0\n1,,1\n", "a.csv, line 3: column 'b' has no finite value; fill it or drop the row")
    refused("a,kind\n1,x\n2,y\n", "column 'kind' holds string, not numbers; drop it, or name it with data.label=kind")
    refused("id,label\n1,2\n2,3\n", "has no column of features beside 'label' and 'id'")
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.npz", CONFIG, 0, "train")
    (tmp_path / "a.txtx").write_text("1")
    with pytest.raises(DataError, match=r"unknown kind; convert it to \.npz, \.npy or \.csv"):
        read(tmp_path / "a.txtx", CONFIG, 0, "train")
    (tmp_path / "b.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="is no readable NumPy file"):
        read(tmp_path / "b.npz", CONFIG, 0, "train")


def test_shares_that_leave_nothing() -> None:
    with pytest.raises(ConfigError, match=r"leave rows to train on, got 0\.5, 0\.5"):
        ArrayConfig(validation=0.5, test=0.5)
