"""Recordings of other libraries as replay folders, and batches as theirs.

    episodes = read_lerobot(Path("pusht"), camera="observation.image")
    low, high = lerobot_action_range(Path("pusht"))
    write_replay(Path("pusht-replay"), episodes, EnvConfig(task=...), low=low, high=high)

A reader yields one :class:`Episode` at a time, so that a recording need not fit in memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from polycontrast.errors import DataError, MissingDependency, did_you_mean, one_line
from polycontrast_rl.columns import Array
from polycontrast_rl.config import EnvConfig
from polycontrast_rl.replay import ReplayBuffer
from polycontrast_rl.resize import resize


class Episode(NamedTuple):
    """One recorded episode of L transitions."""

    frames: Array
    """(L+1, H, W, 3) uint8, the first before any action."""
    action: Array
    """(L, A)."""
    reward: Array
    """(L,)."""
    discount: Array
    """(L,): 0 after a transition that ended the task, else 1."""


def write_replay(
    path: Path,
    episodes: Iterable[Episode],
    env: EnvConfig,
    *,
    low: Array | None = None,
    high: Array | None = None,
    capacity: int = 1_000_000,
) -> ReplayBuffer:
    """A replay folder made of recorded episodes.

    Args:
        path: the folder, which must not exist.
        episodes: what one of the readers yields.
        env: what was recorded: frames are brought to its size, and its task is where an agent is evaluated.
        low: (A,) the smallest recorded actions, and ``high`` the largest: actions are scaled from there to [-1, 1].
            None: they lie in [-1, 1] already.
        high: as ``low``.
        capacity: frames that the folder may hold; on disk it takes the room of those that it does hold.

    Returns:
        The replay, open for reading.

    Raises:
        DataError: no episode, one that does not fit, or actions outside their range.
    """
    if path.exists():
        raise DataError(f"{path} exists: name another folder for the replay")
    replay: ReplayBuffer | None = None
    for number, episode in enumerate(episodes):
        action = _scaled(np.asarray(episode.action, np.float32), low, high, number)
        frames = np.stack([resize(frame, env.height, env.width) for frame in episode.frames]).transpose(0, 3, 1, 2)
        if replay is None:
            shape, actions = frames.shape[1:], action.shape[1]
            replay = ReplayBuffer(
                capacity, shape, actions, stack=env.frame_stack, path=path,
                fingerprint=env.fingerprint(shape, actions),
            )  # fmt: skip
        if len(replay) + replay.episodes + len(frames) > capacity:
            raise DataError(f"the recording holds more than {capacity} frames: raise capacity")
        replay.add_episode(frames, action, np.asarray(episode.reward), np.asarray(episode.discount))
    if replay is None:
        raise DataError("the recording holds no episode")
    replay.close()
    return replay


def _scaled(action: Array, low: Array | None, high: Array | None, number: int) -> Array:
    if low is not None and high is not None:
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        action = 2 * (action - low) / np.where(high > low, high - low, 1) - 1
    if action.size and not np.abs(action).max() <= 1 + 1e-4:
        raise DataError(
            f"actions of episode {number} lie between {action.min():.3g} and {action.max():.3g}, outside [-1, 1]: give "
            "low and high, the smallest and the largest of each action"
        )
    return np.clip(action, -1, 1)


# ---- robomimic ---------------------------------------------------------------------------------------------------


def read_robomimic(source: Path | Mapping[str, Any], camera: str = "agentview_image") -> Iterator[Episode]:
    """Episodes of a robomimic dataset.

    A transition whose ``dones`` is set ends the task. The frame after the last action is that of ``next_obs``, or the
    last one again where the file has no ``next_obs``.

    Args:
        source: an ``.hdf5`` file, or the open file.
        camera: name of the image observation, (L, H, W, 3) uint8.

    Raises:
        MissingDependency: h5py is not installed.
        DataError: no demonstrations, or none with that camera.
    """
    if isinstance(source, Path):
        try:
            import h5py
        except ImportError:
            raise MissingDependency(
                "robomimic files are read by h5py, which is not installed: pip install h5py"
            ) from None
        try:
            file = h5py.File(source, "r")
        except OSError as error:
            raise DataError(f"{source} cannot be read as HDF5: {one_line(error)}") from error
        with file as opened:
            yield from read_robomimic(opened, camera)
        return
    demos = source.get("data")
    if not demos:
        raise DataError("the file holds no demonstrations (no group 'data'): is it of robomimic?")
    for name in sorted(demos, key=lambda n: (len(n), n)):  # demo_2 before demo_10
        demo = demos[name]
        if camera not in demo["obs"]:
            known = list(demo["obs"])
            raise DataError(
                f"{name} has no camera {camera!r}.{did_you_mean(camera, known) or ' It has: ' + ', '.join(known)}"
            )
        frames, action = np.asarray(demo["obs"][camera]), np.asarray(demo["actions"])
        last = np.asarray(demo["next_obs"][camera][-1:]) if "next_obs" in demo else frames[-1:]
        done = np.asarray(demo["dones"]) if "dones" in demo else np.zeros(len(action))
        reward = np.asarray(demo["rewards"]) if "rewards" in demo else np.zeros(len(action))
        yield Episode(_pictures(np.concatenate([frames, last]), name), action, reward, 1.0 - (done != 0))


# ---- LeRobot -----------------------------------------------------------------------------------------------------


def read_lerobot(source: Path | Any, camera: str = "observation.image") -> Iterator[Episode]:
    """Episodes of a LeRobot dataset.

    ``next.success`` ends the task; without that column ``next.done`` does. LeRobot keeps no frame after the last
    action, so the last one stands twice. Missing rewards are 0.

    Args:
        source: a dataset folder with images in its parquet files, or an open ``LeRobotDataset``, which also decodes
            videos.
        camera: name of the image column.

    Raises:
        DataError: no such folder or column, or images kept as videos.
    """
    rows = _lerobot_rows(source, camera) if isinstance(source, Path) else (source[i] for i in range(len(source)))
    episode: list[Mapping[str, Any]] = []
    for row in rows:
        if camera not in row:
            raise DataError(f"the dataset has no camera {camera!r}.{did_you_mean(camera, row)}")
        if episode and int(row["episode_index"]) != int(episode[-1]["episode_index"]):
            yield _lerobot_episode(episode, camera)
            episode = []
        episode.append(row)
    if episode:
        yield _lerobot_episode(episode, camera)


def lerobot_action_range(folder: Path) -> tuple[Array, Array]:
    """(A,) smallest and (A,) largest action of a LeRobot dataset folder, for :func:`write_replay`.

    Raises:
        DataError: its parquet files have no actions.
    """
    lows, highs = [], []
    for file in _parquet_files(folder):
        action = np.stack(_table(file, ["action"])["action"].to_numpy(zero_copy_only=False)).astype(np.float32)
        lows.append(action.min(0))
        highs.append(action.max(0))
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _lerobot_episode(rows: list[Mapping[str, Any]], camera: str) -> Episode:
    frames = np.stack([_decoded(row[camera], camera) for row in rows])
    ended = np.array([bool(row.get("next.success", row.get("next.done", False))) for row in rows])
    return Episode(
        np.concatenate([frames, frames[-1:]]),
        np.stack([np.asarray(row["action"], np.float32) for row in rows]),
        np.array([float(row.get("next.reward", 0.0)) for row in rows]),
        1.0 - ended,
    )


def _lerobot_rows(folder: Path, camera: str) -> Iterator[Mapping[str, Any]]:
    """Rows of all parquet files: one file per episode (format 2) or several episodes per file (format 3)."""
    files = _parquet_files(folder)
    info = folder / "meta" / "info.json"
    features = json.loads(info.read_text(encoding="utf-8")).get("features", {}) if info.exists() else {}
    if features.get(camera, {}).get("dtype") == "video":
        raise DataError(
            f"{folder} keeps {camera!r} as videos: open it with lerobot and give the LeRobotDataset to read_lerobot"
        )
    for file in files:
        yield from _table(file, None).to_pylist()


def _parquet_files(folder: Path) -> list[Path]:
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder} is no LeRobot dataset: it has no parquet files below data/")
    return files


def _table(file: Path, columns: list[str] | None) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file, columns=columns)
    except (OSError, KeyError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}") from error


def _decoded(image: Any, camera: str) -> Array:
    """(H, W, 3) uint8 of an encoded image in a struct, of an array, or of a tensor (3, H, W) of numbers in [0, 1]."""
    if isinstance(image, Mapping):
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            return np.asarray(opened.convert("RGB"))
    array = np.asarray(image)
    if np.issubdtype(array.dtype, np.floating):
        array = (array * 255 + 0.5).astype(np.uint8)
    return _pictures(array[None], camera)[0]


# ---- TorchRL -----------------------------------------------------------------------------------------------------


def read_torchrl(data: Any, pixels: str = "pixels") -> Iterator[Episode]:
    """Episodes of TorchRL transitions.

    ``("next", "terminated")`` ends the task, ``("next", "done")`` the episode; without the first, done counts as
    terminated. Trajectories that end without either are told apart by ``("collector", "traj_ids")``.

    Args:
        data: a ``TensorDict`` with batch dimensions (N,) or (E, T), in order of time, or a replay buffer of them.
        pixels: key of the frames, (..., 3, H, W) or (..., H, W, 3) uint8.

    Raises:
        DataError: a key is missing or holds no images.
    """
    if hasattr(data, "sample") and hasattr(data, "__getitem__"):
        data = data[:]
    dims = len(data.batch_size)
    action = _flat(data, "action", dims)
    reward, done = (
        _flat(data, ("next", "reward"), dims).reshape(-1),
        _flat(data, ("next", "done"), dims).reshape(-1) != 0,
    )
    terminated = _flat(data, ("next", "terminated"), dims, default=done).reshape(-1) != 0
    frames = _pictures(_flat(data, pixels, dims), pixels)
    after = _pictures(_flat(data, ("next", pixels), dims), pixels)
    traj = _flat(data, ("collector", "traj_ids"), dims, default=np.zeros(len(action))).reshape(-1)
    ends = done.copy()
    ends[:-1] |= traj[1:] != traj[:-1]
    if dims == 2:
        ends[data.batch_size[1] - 1 :: data.batch_size[1]] = True
    ends[-1:] = True
    begin = 0
    for end in (np.flatnonzero(ends) + 1).tolist():
        part = slice(begin, end)
        yield Episode(
            np.concatenate([frames[part], after[end - 1 : end]]), action[part], reward[part], 1.0 - terminated[part]
        )
        begin = end


def to_tensordict(batch: Mapping[str, Any], nstep: int) -> Any:
    """A batch of :meth:`polycontrast_rl.replay.ReplayBuffer.sample` as a TorchRL transition ``TensorDict``.

    Args:
        batch: of n-step returns.
        nstep: n, given on as ``steps_to_next_obs``, from which TorchRL's value estimators take the power of gamma.

    Returns:
        ``pixels``, ``action``, ``action_seq``, ``pixels_k``, ``steps_to_next_obs`` and, below ``next``, ``pixels``,
        ``reward``, ``done`` and ``terminated``; batch size (B,).

    Raises:
        MissingDependency: tensordict is not installed.
    """
    try:
        from tensordict import TensorDict
    except ImportError:
        raise MissingDependency("this needs tensordict, which is not installed: pip install torchrl") from None
    ended = batch["discount"] == 0
    after = {"pixels": batch["next_obs"], "reward": batch["reward"], "done": ended, "terminated": ended.clone()}
    values = {
        "pixels": batch["obs"], "action": batch["action"], "action_seq": batch["action_seq"],
        "pixels_k": batch["obs_k"], "steps_to_next_obs": torch.full_like(ended, nstep, dtype=torch.int64),
        "next": after,
    }  # fmt: skip
    return TensorDict(values, batch_size=[len(batch["obs"])])


def _flat(data: Any, key: Any, dims: int, default: Array | None = None) -> Array:
    value = data.get(key, None)
    if value is None and default is None:
        name = key if isinstance(key, str) else ".".join(key)
        raise DataError(f"the data have no key {name!r}")
    if value is None:
        return np.asarray(default)
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return array.reshape(-1, *array.shape[dims:])


def _pictures(array: Array, name: str) -> Array:
    """(N, H, W, 3) uint8 from that or from (N, 3, H, W)."""
    if array.ndim == 4 and array.shape[-1] != 3 and array.shape[1] == 3:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise DataError(f"{name!r} holds {array.dtype} {array.shape[1:]}, not uint8 RGB images")
    return array
