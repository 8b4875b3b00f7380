from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pandas")

from polycontrast.config import MethodConfig
from polycontrast.errors import DataError
from polycontrast_timeseries.cases import CaseDataset, from_arrays, holds_cases, read_cases, read_ts
from polycontrast_timeseries.config import SeriesConfig

HEADER = """\
# made for this test
@problemName Waves
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
"""
TRAIN = HEADER + "1,2,3:10,20,30:up\n4,?:40,50,60:down\n\n7,8,9:70,80,90:up\n0,0,0:0,0,0:down\n"
TEST = HEADER + "1,1,1,1:2,2,2,2:down\n"


def folder(root: Path, train: str = TRAIN, test: str = TEST) -> Path:
    path = root / "Waves"
    path.mkdir(exist_ok=True)
    (path / "Waves_TRAIN.ts").write_text(train)
    (path / "Waves_TEST.ts").write_text(test)
    return path


def read(path: Path, purpose: Any = "train", **settings: Any) -> CaseDataset:
    return read_cases(path, MethodConfig(data=SeriesConfig(**settings)), 0, purpose)


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "bad_TRAIN.ts"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_ts(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = folder(tmp_path) / "Waves_TRAIN.ts"
    found = read_ts(path)
    nan = float("nan")
    assert found.x.shape == (4, 3, 2)
    np.testing.assert_array_equal(found.x[0], [[1, 10], [2, 20], [3, 30]])
    np.testing.assert_array_equal(found.x[1], [[4, 40], [nan, 50], [nan, 60]])
    assert found.labels == ("up", "down", "up", "down")
    assert found.classes == ("up", "down")
    assert found.name == "Waves"
    (tmp_path / "z.ts.gz").write_bytes(gzip.compress(TRAIN.encode()))
    np.testing.assert_array_equal(read_ts(tmp_path / "z.ts.gz").x, found.x)


def test_a_file_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("@classLabel false\n@data\n1,2\n3,4\n")
    found = read_ts(path)
    assert (found.labels, found.classes, found.x.shape) == ((), (), (2, 2, 1))
    assert read(path, "predict").splits["all"][[1]]["id"].tolist() == [1]


def test_what_is_refused(tmp_path: Path) -> None:
    lines = TRAIN.splitlines()
    assert "line 10: class 'left' is not in the header, which has up, down" in refusal(
        tmp_path, "\n".join([*lines[:9], lines[9].replace("up", "left")])
    )
    assert "line 11: channel 0 holds 'x' as value 1" in refusal(tmp_path, TRAIN.replace("?", "x"))
    assert "line 11: 1 channels where the first case has 2" in refusal(tmp_path, TRAIN.replace(",?:40", ",40"))
    assert "line 10: 2 channels, but the header says @dimensions 3" in refusal(
        tmp_path, TRAIN.replace("@dimensions 2", "@dimensions 3")
    )
    assert "line 11: channel 0 has no value" in refusal(tmp_path, TRAIN.replace("4,?:", ":"))
    assert "line 11: channel 0 holds an infinite value" in refusal(tmp_path, TRAIN.replace("?", "inf"))
    assert "line 8: the header has no @classLabel" in refusal(tmp_path, TRAIN.replace("@classLabel true up down\n", ""))
    assert "line 1: values before the line @data" in refusal(tmp_path, "1,2:a\n")
    assert "no line @data" in refusal(tmp_path, "@classLabel false\n")
    assert "no case below @data" in refusal(tmp_path, HEADER)
    assert "line 3: time stamps" in refusal(tmp_path, TRAIN.replace("@timeStamps false", "@timeStamps true"))
    with pytest.raises(DataError, match="does not exist"):
        read_ts(tmp_path / "none.ts")


def test_training_and_test_cases(tmp_path: Path) -> None:
    path = folder(tmp_path)
    for where in (path, path / "Waves_TRAIN.ts"):
        data = read(where)
        assert data.classes == ("up", "down")
        # The longest case of both parts sets the length.
        assert data.x["train"].shape == (4, 4, 2)
        assert data.x["test"].shape == (1, 4, 2)
        assert torch.isnan(data.x["train"][:, 3]).all()
        batch = data.splits["test"][[0]]
        assert batch["id"].tolist() == [4]
        assert batch["y"].tolist() == [1]
        assert batch["x"].dtype == torch.float32
        assert batch["y"].dtype == torch.int64
    first = np.array([1, 2, 3, 4, 7, 8, 9, 0, 0, 0], dtype=float)
    np.testing.assert_allclose([data.mean[0], data.std[0]], [first.mean(), first.std()])
    np.testing.assert_allclose(data.x["test"][0, :, 0], (1 - first.mean()) / first.std(), rtol=1e-6)
    np.testing.assert_allclose(data.scale(([0, 0], [2, 4]))["train"][0, 1], [1, 5])
    with pytest.raises(DataError, match="2 channels, the model was trained on 1"):
        data.scale(([0], [1]))
    assert holds_cases(path)
    assert holds_cases(path / "Waves_TEST.ts")
    assert not holds_cases(tmp_path)


def test_to_predict_a_file_stands_for_itself(tmp_path: Path) -> None:
    path = folder(tmp_path)
    assert len(read(path, "predict").splits["all"]) == 1
    assert len(read(path / "Waves_TRAIN.ts", "predict").splits["all"]) == 4
    assert "y" not in read(path, "predict").splits["all"][[0]]


def test_parts_that_do_not_go_together(tmp_path: Path) -> None:
    path = folder(tmp_path, test=TEST.replace("1,1,1,1:", "").replace("dimensions 2", "dimensions 1"))
    with pytest.raises(DataError, match=r"1 channels, Waves_TRAIN.ts has 2"):
        read(path)
    path = folder(tmp_path, train=TRAIN.replace(":down", ":up"))
    with pytest.raises(DataError, match="class 'down' has no training case"):
        read(path)
    (path / "Waves_TEST.ts").unlink()
    with pytest.raises(DataError, match=r"Waves_TEST.ts does not exist"):
        read(path)
    with pytest.raises(DataError, match="holds no NAME_TRAIN"):
        read(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none")


def test_arrays_in_both_orders_of_axes() -> None:
    x = np.random.default_rng(0).normal(size=(6, 5, 2))
    y = ["b", "a", "b", "a", "b", "a"]
    one = from_arrays({"train": x, "test": x[:2]}, {"train": y, "test": y[:2]})
    other = from_arrays(
        {"train": x.transpose(0, 2, 1), "test": x[:2].transpose(0, 2, 1)}, {"train": y, "test": y[:2]},
        channel_first=True,
    )  # fmt: skip
    assert one.classes == ("a", "b")
    assert one.y["train"].tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(one.x["train"], other.x["train"])
    assert from_arrays({"train": x[:, :, 0]}, {"train": y}).x["train"].shape == (6, 5, 1)
    for x_bad, y_bad, text in [
        ({"train": x, "test": x[:1]}, {"train": y, "test": ["c"]}, "'c' .* no training case"),
        ({"train": x}, {"train": y[:3]}, "6 cases but 3 labels"),
        ({"train": x[0, 0]}, {"train": y}, "shape"),
        ({"train": np.full((2, 2, 2), np.inf)}, {"train": y[:2]}, "infinite"),
        ({"train": x, "test": x[:, :, :1]}, {"train": y, "test": y}, "must agree"),
    ]:
        with pytest.raises(DataError, match=text):
            from_arrays(x_bad, y_bad)


def test_long_cases_are_thinned_out() -> None:
    x = np.arange(2 * 2500.0).reshape(2, 2500)
    data = from_arrays({"train": x}, {"train": [0, 1]})
    np.testing.assert_array_equal(data.raw["train"][0, :, 0], x[0, ::3])
    assert data.protocol["length"] == 834
    assert any("every 3th" in note or "every 3rd" in note for note in data.notes)
    assert from_arrays({"train": x}, {"train": [0, 1]}, SeriesConfig(max_length=None)).x["train"].shape[1] == 2500
    assert from_arrays({"train": x[:, :1024]}, {"train": [0, 1]}).x["train"].shape[1] == 1024


def test_folds_are_stratified_and_cover_each_case_once() -> None:
    y = np.repeat([0, 1, 2], [20, 10, 5])
    data = from_arrays({"train": np.zeros((35, 4)) + y[:, None]}, {"train": y})
    folds = list(data.folds(5, seed=1))
    assert len(folds) == 5
    assert sorted(torch.cat([validate for _, validate in folds]).tolist()) == list(range(35))
    for fit, validate in folds:
        assert not set(fit.tolist()) & set(validate.tolist())
        assert torch.bincount(data.y["train"][validate]).tolist() == [4, 2, 1]
    again = list(data.folds(5, seed=1))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(folds, again, strict=True))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(folds, data.folds(5, seed=2), strict=True))
    few = from_arrays({"train": np.eye(5)}, {"train": [0, 0, 0, 1, 1]})
    assert len(list(few.folds(5))) == 2
    with pytest.raises(DataError, match="one training case"):
        list(from_arrays({"train": np.eye(3)}, {"train": [0, 0, 1]}).folds())
