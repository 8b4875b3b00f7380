"""Replay of image transitions: every frame once, stacked, cut into n-step returns and K-step windows when read.

Rows are laid out in ``lanes``, one per environment, each a ring. Row 0 of an episode is its reset frame with zero
action and reward; row i holds action i, the reward and discount that it brought, and the frame after it. A start i
(1..L) gives

    obs         frames i-S..i-1 stacked (before the episode its first frame is repeated)
    action      action i                          action_seq   actions i..i+K-1
    reward      sum_{k<n} (prod_{m<k} gamma d_{i+m}) r_{i+k}
    discount    prod_{k<n} gamma d_{i+k}
    next_obs    frames ..i+n-1 stacked            obs_k        frames ..i+K-1 stacked

and is valid while i + max(n, K) - 1 <= L (DrQ-v2's and TACO's replay, arXiv:2306.13229).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polycontrast.errors import CheckpointError, DataError
from polycontrast_rl.columns import Array, Columns
from polycontrast_rl.episodes import Episodes
from polycontrast_rl.metadata import claim, read_metadata
from polycontrast_rl.undo import UndoLog

_ROW = ("frames", "action", "reward", "discount", "index", "episode")  # "episode" last: it makes a row count


class ReplayBuffer:
    """Transitions of one or several environments.

    Args:
        capacity: rows kept, over all lanes; an episode of L transitions takes L + 1.
        frame_shape: (C, H, W) of a single frame, uint8.
        action_dim: A.
        stack: frames per observation (S).
        lanes: environments that write at the same time; each has ``capacity // lanes`` rows.
        path: folder to keep the rows in; one that exists is opened again, with what it holds. None: in memory.
        fingerprint: JSON-able facts that make two environments the same, see
            :func:`polycontrast_rl.environments.fingerprint`; kept in ``metadata.json``.
        device: keep a copy of the frames there and gather batches there, e.g. "cuda".
        readonly: open a folder for sampling only; any number of processes may.

    Raises:
        DataError: ``path`` belongs to another environment or to other sizes.
    """

    def __init__(
        self,
        capacity: int,
        frame_shape: tuple[int, int, int],
        action_dim: int,
        *,
        stack: int = 3,
        lanes: int = 1,
        path: Path | None = None,
        fingerprint: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        readonly: bool = False,
    ) -> None:
        self.frame_shape = tuple(frame_shape)
        self.action_dim, self.stack, self.lanes, self.path = action_dim, stack, lanes, path
        self._room = capacity // lanes
        if self._room < 2:
            raise DataError(f"a replay of {capacity} frames for {lanes} environments is too small: raise its capacity")
        rows = self._room * lanes
        if path is not None:
            claim(path, self._sizes(), fingerprint or {}, readonly=readonly)
        self._columns = Columns(
            rows,
            {
                "frames": (self.frame_shape, np.uint8),
                "action": ((action_dim,), np.float32),
                "reward": ((), np.float32),
                "discount": ((), np.float32),
                "index": ((), np.int32),
                "episode": ((), np.int64),
            },
            empty={"episode": -1},
            folder=path,
            readonly=readonly,
        )
        self._undo = UndoLog(path, self._columns, _ROW) if path is not None and not readonly else None
        self._head = np.zeros(lanes, np.int64)
        self._next = 0
        self._table = Episodes()
        self._open: list[int | None] = [None] * lanes
        self._worker: ThreadPoolExecutor | None = None
        if path is not None:
            self.refresh()
        self._device = torch.device(device) if device is not None else None
        self._copy: Tensor | None = None
        if self._device is not None:
            self._copy = torch.empty((rows, *self.frame_shape), dtype=torch.uint8, device=self._device)
            self._fill_copy()

    # ---- writing -------------------------------------------------------------------------------------------------

    def add(
        self,
        obs: Array,
        action: Array | None = None,
        reward: Array | None = None,
        terminated: Array | None = None,
        truncated: Array | None = None,
    ) -> None:
        """What a ``reset`` (observations alone) or a ``step`` of a vector environment answered.

        An environment whose last episode ended, or that has none, begins one: its action and reward are ignored, which
        is gymnasium's NEXT_STEP autoreset.

        Args:
            obs: (lanes, C or S*C, H, W) uint8 of which the last C channels, the newest frame, are kept.
            action: (lanes, A).
            reward: (lanes,).
            terminated: (lanes,) the task ended, discount 0.
            truncated: (lanes,) the episode was cut off, discount 1.
        """
        frames = obs[:, -self.frame_shape[0] :]
        if frames.shape != (self.lanes, *self.frame_shape):
            raise DataError(f"expected frames {(self.lanes, *self.frame_shape)}, got {obs.shape}")
        if action is None:
            self._open = [None] * self.lanes
        for lane in range(self.lanes):
            episode = self._open[lane]
            if episode is None:
                self._open[lane] = episode = self._begin(lane)
                zeros = np.zeros((1, self.action_dim), np.float32)
                self._write(lane, episode, 0, frames[lane][None], zeros, zeros[:, 0], np.ones(1))
                continue
            if action is None or reward is None or terminated is None or truncated is None:
                raise TypeError("a step has an action, a reward, terminated and truncated")
            discount = np.array([0.0 if terminated[lane] else 1.0])
            index = self._table.length_of(episode) + 1
            self._write(lane, episode, index, frames[lane][None], action[lane][None], reward[lane][None], discount)
            self._table.extend(episode, 1)
            if terminated[lane] or truncated[lane]:
                self._table.finish(episode)
                self._open[lane] = None

    def add_episode(self, frames: Array, action: Array, reward: Array, discount: Array, *, lane: int = 0) -> None:
        """A whole episode, e.g. of recorded data.

        Args:
            frames: (L+1, C, H, W) uint8, the first before any action.
            action: (L, A).
            reward: (L,).
            discount: (L,), 0 after a terminal transition, else 1.
            lane: where to put it.

        Raises:
            DataError: lengths do not fit together, or the episode does not fit in the lane.
        """
        length = len(action)
        if len(frames) != length + 1 or len(reward) != length or len(discount) != length:
            raise DataError(
                "an episode of L actions has L+1 frames, L rewards and L discounts, got "
                f"{len(frames)} frames, {length} actions, {len(reward)} rewards, {len(discount)} discounts"
            )
        if length + 1 > self._room:
            raise DataError(f"an episode of {length} transitions does not fit in {self._room} rows: raise capacity")
        if frames.shape[1:] != self.frame_shape or frames.dtype != np.uint8 or action.shape[1:] != (self.action_dim,):
            raise DataError(
                f"expected uint8 frames {self.frame_shape} and {self.action_dim} action values, got {frames.dtype} "
                f"{frames.shape[1:]} and {action.shape[1:]}"
            )
        if not (np.isfinite(action).all() and np.isfinite(reward).all()):
            raise DataError("actions and rewards must be finite")
        episode = self._begin(lane)
        rows = [np.concatenate([np.full((1, *x.shape[1:]), first, np.float32), x]) for x, first in
                ((action, 0), (reward, 0), (discount, 1))]  # fmt: skip
        self._write(lane, episode, 0, frames, *rows)
        self._table.extend(episode, length)
        self._table.finish(episode)
        self._open[lane] = None

    def _begin(self, lane: int) -> int:
        episode, self._next = self._next, self._next + 1
        self._table.add(episode, lane, int(self._head[lane]))
        return episode

    def _write(
        self, lane: int, episode: int, index: int, frames: Array, action: Array, reward: Array, discount: Array
    ) -> None:
        """Append consecutive rows of an episode to a lane; what they overwrite is dropped before."""
        count, head = len(frames), int(self._head[lane])
        self._table.drop(lane, before=head + count - self._room)
        if not self._table.has(episode):
            raise DataError(
                f"an episode is longer than the {self._room} frames which the replay holds per environment: "
                "raise replay.capacity"
            )
        values = {
            "frames": frames,
            "action": action.astype(np.float32, copy=False),
            "reward": reward.astype(np.float32, copy=False),
            "discount": discount.astype(np.float32, copy=False),
            "index": np.arange(index, index + count, dtype=np.int32),
            "episode": np.full(count, episode, np.int64),
        }
        done = 0
        while done < count:  # in two parts where the ring closes
            at = (head + done) % self._room
            part = min(count - done, self._room - at)
            row = lane * self._room + at
            if self._undo is not None and head + done + part > self._room:
                self._undo.keep(row, part)
            for name in _ROW:
                self._columns.write(name, row, values[name][done : done + part])
            if self._copy is not None:
                new = np.ascontiguousarray(frames[done : done + part])
                self._copy[row : row + part] = torch.from_numpy(new).to(self._device)
            done += part
        self._head[lane] = head + count

    # ---- reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Transitions held."""
        return int(self._table.length.sum())

    @property
    def episodes(self) -> int:
        """Episodes held, running ones included."""
        return len(self._table.length)

    def count(self, nstep: int, horizon: int, *, finished: bool = False) -> int:
        """Valid starts for n-step returns and K = ``horizon``."""
        return int(self._table.starts(max(nstep, horizon), finished).sum())

    def starts(self, nstep: int, horizon: int, *, finished: bool = False) -> Array:
        """(N,) int64: rows of all valid starts, episode by episode in the order of their beginning."""
        table = self._table
        counts = table.starts(max(nstep, horizon), finished)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._row(np.repeat(table.lane, counts), np.repeat(table.start, counts) + 1 + within)

    def draw(
        self, batch_size: int, nstep: int, horizon: int, rng: np.random.Generator | int, *, official: bool = False
    ) -> Array:
        """Valid starts at random, with replacement.

        Args:
            batch_size: B.
            nstep: n of the n-step return.
            horizon: K of the action sequence.
            rng: a generator, or a seed, which makes the answer a function of it and of what the replay holds.
            official: an episode first, then a start in it, among finished episodes; else uniformly over all starts.

        Returns:
            (B,) int64 rows, for :meth:`gather`.

        Raises:
            DataError: no episode is long enough.
        """
        rng = np.random.default_rng(rng)
        table = self._table
        counts = table.starts(max(nstep, horizon), official)
        if official:
            fitting = np.flatnonzero(counts)
            total = len(fitting)
        else:
            total = int(counts.sum())
        if not total:
            longest = int(table.length[table.finished].max(initial=0) if official else table.length.max(initial=0))
            raise DataError(
                f"no {'finished ' if official else ''}episode of the replay holds {max(nstep, horizon)} transitions, "
                f"the longest has {longest}: collect more first, or lower nstep and horizon"
            )
        if official:
            which = fitting[rng.integers(total, size=batch_size)]
            within = rng.integers(counts[which])
        else:
            ends = np.cumsum(counts)
            place = rng.integers(total, size=batch_size)
            which = np.searchsorted(ends, place, side="right")
            within = place - (ends - counts)[which]
        return self._row(table.lane[which], table.start[which] + 1 + within)

    def gather(self, starts: Array, nstep: int, horizon: int, gamma: float) -> dict[str, Tensor]:
        """The batch that belongs to some valid starts.

        Args:
            starts: (B,) int64 rows from :meth:`draw` or :meth:`starts`.
            nstep: n.
            horizon: K.
            gamma: discount per agent step.

        Returns:
            ``obs``, ``next_obs``, ``obs_k`` (B, S*C, H, W) uint8 (the last two are one tensor if n = K), ``action``
            (B, A), ``action_seq`` (B, K, A), ``reward`` and ``discount`` (B, 1) over n steps, ``reward_k`` (B, 1), the
            same sum over K steps, float32; ``row``, ``episode`` and ``index`` (B,) int64: where each came from.
        """
        columns = self._columns
        lane, offset = np.divmod(starts, self._room)
        index = columns["index"][starts].astype(np.int64)
        window = self._row(lane[:, None], offset[:, None] + np.arange(max(nstep, horizon)))
        action = columns["action"][window[:, :horizon]]
        reward, discount = columns["reward"][window], columns["discount"][window]
        running = np.cumprod(np.float32(gamma) * discount, axis=1)
        weighted = reward.copy()
        weighted[:, 1:] *= running[:, :-1]
        next_obs = self._stacked(lane, offset, index, nstep - 1)
        batch = {
            "obs": self._stacked(lane, offset, index, -1),
            "next_obs": next_obs,
            "obs_k": next_obs if horizon == nstep else self._stacked(lane, offset, index, horizon - 1),
        }
        arrays = {
            "action": action[:, 0],
            "action_seq": action,
            "reward": weighted[:, :nstep].sum(1, keepdims=True),
            "discount": running[:, nstep - 1 : nstep],
            "reward_k": weighted[:, :horizon].sum(1, keepdims=True),
            "row": starts,
            "episode": columns["episode"][starts],
            "index": index,
        }
        for name, array in arrays.items():
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            batch[name] = tensor if self._device is None else tensor.to(self._device)
        return batch

    def sample(
        self,
        batch_size: int,
        nstep: int,
        horizon: int,
        gamma: float,
        rng: np.random.Generator | int,
        *,
        official: bool = False,
    ) -> dict[str, Tensor]:
        """:meth:`gather` of :meth:`draw`."""
        return self.gather(self.draw(batch_size, nstep, horizon, rng, official=official), nstep, horizon, gamma)

    def batches(
        self,
        seeds: list[int],
        batch_size: int,
        nstep: int,
        horizon: int,
        gamma: float,
        *,
        official: bool = False,
    ) -> Iterator[dict[str, Tensor]]:
        """One :meth:`sample` per seed, the next gathered by a thread while the caller works on the last.

        Equal to calling :meth:`sample` in turn. Add nothing before the iterator is exhausted.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="replay")
        drawn = [self.draw(batch_size, nstep, horizon, seed, official=official) for seed in seeds]
        ahead = [self._worker.submit(self.gather, rows, nstep, horizon, gamma) for rows in drawn[:1]]
        for rows in [*drawn[1:], None]:
            current = ahead.pop()
            batch = current.result()
            if rows is not None:
                ahead.append(self._worker.submit(self.gather, rows, nstep, horizon, gamma))
            yield batch

    def _row(self, lane: Array, offset: Array) -> Array:
        return lane * self._room + offset % self._room

    def _stacked(self, lane: Array, offset: Array, index: Array, ahead: int) -> Tensor:
        """(B, S*C, H, W): frame ``ahead`` rows after each start, below those before it in the same episode."""
        back = np.arange(self.stack - 1, -1, -1)
        age = np.minimum(back, (index + ahead)[:, None])  # not before row 0 of the episode
        rows = self._row(lane[:, None], offset[:, None] + ahead - age).ravel()
        shape = (len(index), self.stack * self.frame_shape[0], *self.frame_shape[1:])
        if self._copy is not None:
            return self._copy[torch.from_numpy(rows).to(self._device)].view(shape)
        return torch.from_numpy(np.take(self._columns["frames"], rows, axis=0)).view(shape)

    # ---- keeping -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs; of a replay on disk only where its rows begin and end.

        In memory, once full, its rows are not copied: they are to be written away before more are added.
        On disk, rows overwritten from now on are kept in an undo log until three later calls, so that a run that is
        killed finds the rows of its checkpoint again.
        """
        state: dict[str, Any] = {
            "sizes": self._sizes(),
            "head": self._head.copy(),
            "next": self._next,
            "table": self._table.state(),
            "open": [-1 if episode is None else episode for episode in self._open],
        }
        if self._undo is not None:
            self._columns.sync()
            state["undo"] = self._undo.begin()
        elif self.path is None:
            used = self._used()
            state["rows"] = {name: self._columns[name][used] for name in _ROW}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave.

        Raises:
            CheckpointError: it belongs to a replay of other sizes, or the folder does not reach back that far.
        """
        if dict(state["sizes"]) != self._sizes():
            raise CheckpointError(f"the checkpoint holds a replay of {dict(state['sizes'])}, not of {self._sizes()}")
        if ("rows" in state) != (self.path is None):
            raise CheckpointError("the checkpoint holds a replay on disk and not in memory, or the other way round")
        self._head[:] = state["head"]
        self._next = int(state["next"])
        self._table.load(np.asarray(state["table"]))
        self._open = [None if episode < 0 else int(episode) for episode in state["open"]]
        if self._undo is not None:
            self._undo.back_to(int(state["undo"]))
            self._blank_later_rows()
        elif self.path is None:
            at = 0
            for part in self._used_parts():
                for name in _ROW:
                    self._columns.write(name, part.start, np.asarray(state["rows"][name])[at : at + len(part)])
                at += len(part)
        self._fill_copy()

    def refresh(self) -> None:
        """Read from the folder which episodes it holds: a reader sees what a writer added since. All count as over."""
        episode, index = self._columns["episode"], self._columns["index"]
        rows = np.flatnonzero(episode >= 0)
        rows = rows[np.lexsort((index[rows], episode[rows]))]
        ids, first, count = np.unique(episode[rows], return_index=True, return_counts=True)
        begin, end = rows[first], rows[first + count - 1]
        # An episode that lost its beginning to the ring is gone.
        whole = (index[begin] == 0) & (index[end] == count - 1)
        lane, place = np.divmod(begin, self._room)
        start = np.empty_like(place)
        for k in range(self.lanes):
            mine = lane == k
            steps = np.diff(place[mine], prepend=0) % self._room
            start[mine] = np.cumsum(steps)
            self._head[k] = start[mine][-1] + count[mine][-1] if mine.any() else 0
        self._table.load(np.stack([ids, lane, start, count - 1, np.ones_like(ids)], 1)[whole])
        for k in range(self.lanes):
            self._table.drop(k, before=int(self._head[k]) - self._room)
        self._next = int(ids[-1]) + 1 if len(ids) else 0
        self._open = [None] * self.lanes

    def close(self) -> None:
        """Bring everything to the disk and let go of the files."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None
        self._columns.sync()
        self._columns.close()
        if self._undo is not None:
            self._undo.close()

    def _fill_copy(self) -> None:
        if self._copy is not None:
            for part in self._used_parts():
                for at in range(part.start, part.stop, 4096):  # in pieces, as each is in memory twice
                    rows = slice(at, min(at + 4096, part.stop))
                    self._copy[rows] = torch.from_numpy(np.array(self._columns["frames"][rows])).to(self._device)

    def _blank_later_rows(self) -> None:
        """Unmark rows written after the checkpoint that was gone back to: they are no part of any episode now."""
        episode, index = self._columns["episode"], self._columns["index"]
        later = episode >= self._next
        for running in (id_ for id_ in self._open if id_ is not None):
            later |= (episode == running) & (index > self._table.length_of(running))
        for row in np.flatnonzero(later):
            self._columns.write("episode", int(row), np.array([-1]))

    def _used_parts(self) -> list[range]:
        return [range(k * self._room, k * self._room + min(int(h), self._room)) for k, h in enumerate(self._head)]

    def _used(self) -> Array | slice:
        parts = self._used_parts()
        whole = all(len(part) == self._room for part in parts)
        return slice(None) if whole else np.concatenate([np.arange(p.start, p.stop) for p in parts])

    def _sizes(self) -> dict[str, Any]:
        return {
            "rows": self._room * self.lanes,
            "lanes": self.lanes,
            "frame": list(self.frame_shape),
            "actions": self.action_dim,
            "stack": self.stack,
        }


def open_replay(path: Path, *, readonly: bool = True, device: torch.device | str | None = None) -> ReplayBuffer:
    """The replay that a folder holds, with the sizes it was made with.

    Raises:
        DataError: the folder holds no replay, or a damaged one.
    """
    found = read_metadata(path)
    sizes = found["sizes"]
    return ReplayBuffer(
        sizes["rows"],
        tuple(sizes["frame"]),
        sizes["actions"],
        stack=sizes["stack"],
        lanes=sizes["lanes"],
        path=path,
        fingerprint=found["environment"],
        device=device,
        readonly=readonly,
    )
