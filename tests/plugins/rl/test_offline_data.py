from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("PIL")

from PIL import Image

from polycontrast.errors import DataError, MissingDependency
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.offline_data import (
    Episode,
    lerobot_action_range,
    read_lerobot,
    read_robomimic,
    read_torchrl,
    to_tensordict,
    write_replay,
)
from polycontrast_rl.replay import open_replay

ENV = EnvConfig(task="pixels:reacher", height=8, width=10, frame_stack=1, action_repeat=1)


def recorded(length: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    discount = np.ones(length)
    discount[-1] = seed % 2
    frames = rng.integers(0, 256, (length + 1, 8, 10, 3), dtype=np.uint8)
    return Episode(frames, rng.uniform(-1, 1, (length, 2)).astype(np.float32), rng.normal(size=length), discount)


EPISODES = [recorded(4, 0), recorded(6, 1), recorded(12, 2)]


def same(found: Any, expected: list[Episode], last: bool = True) -> None:
    found = list(found)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.frames[:-1], two.frames[:-1])
        np.testing.assert_array_equal(one.frames[-1], two.frames[-1 if last else -2])
        np.testing.assert_allclose(one.action, two.action)
        np.testing.assert_allclose(one.reward, two.reward, rtol=1e-6)
        np.testing.assert_array_equal(one.discount, two.discount)


def test_a_recording_becomes_a_replay(tmp_path: Path) -> None:
    write_replay(tmp_path / "r", EPISODES, ENV)
    replay = open_replay(tmp_path / "r")
    assert (len(replay), replay.episodes) == (22, 3)
    about = json.loads((tmp_path / "r" / "metadata.json").read_text())
    assert about["environment"] == ENV.fingerprint((3, 8, 10), 2)
    batch = replay.gather(replay.starts(1, 1), 1, 1, 1.0)
    first = EPISODES[0]
    np.testing.assert_array_equal(batch["obs"][:4], first.frames[:4].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["next_obs"][3], first.frames[4].transpose(2, 0, 1))
    np.testing.assert_allclose(batch["reward"][:4, 0], first.reward, rtol=1e-6)
    assert batch["discount"][:5, 0].tolist() == [1, 1, 1, 0, 1]


def test_frames_and_actions_are_brought_to_size_and_range(tmp_path: Path) -> None:
    large = Episode(
        np.full((4, 16, 20, 3), 9, np.uint8), np.array([[0, 5], [10, 5], [5, 5.0]]), np.zeros(3), np.ones(3)
    )
    with pytest.raises(
        DataError, match=r"actions of episode 0 lie between 0 and 10, outside \[-1, 1\]: give low and high"
    ):
        write_replay(tmp_path / "a", [large], ENV)
    assert not (tmp_path / "a").exists()
    replay = write_replay(tmp_path / "b", [large], ENV, low=[0, 5], high=[10, 5])
    batch = replay.gather(replay.starts(1, 1), 1, 1, 1.0)
    assert batch["action"].tolist() == [[-1, -1], [1, -1], [0, -1]]
    assert batch["obs"].shape == (3, 3, 8, 10)
    assert batch["obs"].unique().tolist() == [9]


def test_bad_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no episode"):
        write_replay(tmp_path / "a", [], ENV)
    with pytest.raises(DataError, match="more than 10 frames: raise capacity"):
        write_replay(tmp_path / "b", EPISODES, ENV, capacity=10)
    with pytest.raises(DataError, match="exists: name another folder"):
        write_replay(tmp_path, EPISODES, ENV)


# ---- robomimic ---------------------------------------------------------------------------------------------------


def robomimic(next_obs: bool = True) -> dict[str, Any]:
    demos = {}
    for k, e in zip((2, 9, 10), EPISODES, strict=True):  # sorted by number, not by name
        demos[f"demo_{k}"] = {
            "obs": {"agentview_image": e.frames[:-1], "robot0_eef_pos": np.zeros((len(e.action), 3))},
            "actions": e.action, "rewards": e.reward, "dones": 1 - e.discount,
        } | ({"next_obs": {"agentview_image": e.frames[1:]}} if next_obs else {})  # fmt: skip
    return {"data": demos}


def test_robomimic() -> None:
    same(read_robomimic(robomimic()), EPISODES)
    same(read_robomimic(robomimic(next_obs=False)), EPISODES, last=False)
    with pytest.raises(DataError, match=r"demo_2 has no camera 'agentview'\. Did you mean 'agentview_image'\?"):
        next(read_robomimic(robomimic(), "agentview"))
    with pytest.raises(DataError, match="no demonstrations"):
        next(read_robomimic({"mask": {}}))


def test_robomimic_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        """What this module asks of h5py."""

        def __init__(self, path: Path, mode: str) -> None:
            if path.suffix != ".hdf5":
                raise OSError("file signature not found")

        def __enter__(self) -> dict[str, Any]:
            return robomimic()

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    same(read_robomimic(tmp_path / "demo.hdf5"), EPISODES)
    with pytest.raises(DataError, match=r"bad\.txt cannot be read as HDF5: file signature not found"):
        next(read_robomimic(tmp_path / "bad.txt"))


def test_h5py_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependency, match="pip install h5py"):
        next(read_robomimic(tmp_path / "demo.hdf5"))


# ---- LeRobot -----------------------------------------------------------------------------------------------------


def lerobot_rows(encode: Any) -> list[dict[str, Any]]:
    rows = []
    for k, e in enumerate(EPISODES):
        for t in range(len(e.action)):
            rows.append({
                "observation.image": encode(e.frames[t]), "action": e.action[t].tolist(), "episode_index": k,
                "frame_index": t, "next.reward": float(e.reward[t]), "next.done": t == len(e.action) - 1,
                "next.success": bool(e.discount[t] == 0),
            })  # fmt: skip
    return rows


def png(frame: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize("episodes_per_file", [1, 3])
def test_lerobot_folders(tmp_path: Path, episodes_per_file: int) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = lerobot_rows(png)
    (tmp_path / "data" / "chunk-000").mkdir(parents=True)
    for begin in range(0, 3, episodes_per_file):
        part = [row for row in rows if begin <= row["episode_index"] < begin + episodes_per_file]
        parquet.write_table(pyarrow.Table.from_pylist(part), tmp_path / "data" / "chunk-000" / f"{begin:06d}.parquet")
    same(read_lerobot(tmp_path), EPISODES, last=False)
    low, high = lerobot_action_range(tmp_path)
    np.testing.assert_allclose(low, np.concatenate([e.action for e in EPISODES]).min(0))
    np.testing.assert_allclose(high, np.concatenate([e.action for e in EPISODES]).max(0))
    with pytest.raises(DataError, match=r"no camera 'observation\.imag'\. Did you mean 'observation\.image'\?"):
        next(read_lerobot(tmp_path, "observation.imag"))
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"features": {"observation.image": {"dtype": "video"}}}))
    with pytest.raises(DataError, match="as videos: open it with lerobot"):
        next(read_lerobot(tmp_path))
    (tmp_path / "data" / "chunk-000" / "000000.parquet").write_text("no")
    with pytest.raises(DataError, match=r"000000\.parquet cannot be read"):
        lerobot_action_range(tmp_path)


def test_lerobot_objects() -> None:
    def tensor(frame: Any) -> torch.Tensor:
        return torch.from_numpy(frame).permute(2, 0, 1) / 255

    rows = [{**row, "action": torch.tensor(row["action"])} for row in lerobot_rows(tensor)]
    same(read_lerobot(rows), EPISODES, last=False)


def test_a_folder_that_is_no_lerobot_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no LeRobot dataset: it has no parquet files below data/"):
        next(read_lerobot(tmp_path))


# ---- TorchRL -----------------------------------------------------------------------------------------------------


class Tensors(dict[Any, Any]):
    """What this module asks of a TensorDict."""

    def __init__(self, values: dict[Any, Any], batch_size: tuple[int, ...]) -> None:
        super().__init__(values)
        self.batch_size = batch_size


def torchrl(first: bool = True) -> Tensors:
    def joined(part: Any) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([part(e) for e in EPISODES]))

    def order(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2) if first else x

    ends = joined(lambda e: np.arange(len(e.action)) == len(e.action) - 1)
    values = {
        "pixels": order(joined(lambda e: e.frames[:-1])), ("next", "pixels"): order(joined(lambda e: e.frames[1:])),
        "action": joined(lambda e: e.action), ("next", "reward"): joined(lambda e: e.reward)[:, None],
        ("next", "done"): ends[:, None], ("next", "terminated"): joined(lambda e: e.discount == 0)[:, None],
    }  # fmt: skip
    return Tensors(values, (len(ends),))


class Buffer:
    """What this module asks of a TorchRL ReplayBuffer."""

    def sample(self) -> None: ...

    def __getitem__(self, index: slice) -> Tensors:
        assert index == slice(None)
        return torchrl()


def test_torchrl() -> None:
    same(read_torchrl(torchrl()), EPISODES)
    same(read_torchrl(torchrl(first=False)), EPISODES)
    same(read_torchrl(Buffer()), EPISODES)
    # Cut off without a mark: told apart by the collector's numbers, or by the rows of a (E, T) batch.
    data = torchrl()
    data["next", "done"] = torch.zeros_like(data["next", "done"])
    data["collector", "traj_ids"] = torch.tensor([0] * 4 + [1] * 6 + [2] * 12)
    same(read_torchrl(data), EPISODES)
    square = Tensors({k: v.reshape(2, 11, *v.shape[1:]) for k, v in torchrl().items()}, (2, 11))
    assert [len(e.action) for e in read_torchrl(square)] == [4, 6, 1, 11]
    data.pop("action")
    with pytest.raises(DataError, match="the data have no key 'action'"):
        next(read_torchrl(data))
    data = torchrl()
    data["pixels"] = data["pixels"].float()
    with pytest.raises(DataError, match=r"'pixels' holds float32 .* not uint8 RGB images"):
        next(read_torchrl(data))


def test_batches_as_tensordicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = write_replay(tmp_path / "r", EPISODES, ENV)
    batch = replay.sample(16, 2, 3, 0.9, 0)
    monkeypatch.setitem(sys.modules, "tensordict", None)
    with pytest.raises(MissingDependency, match="pip install torchrl"):
        to_tensordict(batch, 2)

    class Module:
        TensorDict = staticmethod(lambda values, batch_size: (values, batch_size))

    monkeypatch.setitem(sys.modules, "tensordict", Module)
    values, size = to_tensordict(batch, 2)
    assert size == [16]
    assert values["next"]["pixels"] is batch["next_obs"]
    assert torch.equal(values["next"]["terminated"], batch["discount"] == 0)
