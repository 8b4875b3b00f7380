from __future__ import annotations

import copy
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polycontrast.errors import CheckpointError, DataError, PolycontrastError
from polycontrast_rl import columns
from polycontrast_rl.replay import ReplayBuffer, open_replay

FRAME = (2, 3, 4)
ACTIONS = 2


class Reference:
    """The same contract, slowly: a list of episodes per lane, and loops."""

    def __init__(self, room: int, lanes: int, stack: int) -> None:
        self.room, self.stack = room, stack
        self.episodes: list[dict[str, Any]] = []
        self.heads = [0] * lanes
        self.open: list[dict[str, Any] | None] = [None] * lanes

    def add(self, frames: Any, action: Any = None, reward: Any = None, terminated: Any = None, truncated: Any = None):
        for lane, frame in enumerate(frames):
            episode = self.open[lane]
            if episode is None:
                episode = {"lane": lane, "start": self.heads[lane], "frames": [frame], "steps": [], "over": False}
                self.episodes.append(episode)
                self.open[lane] = episode
            else:
                episode["frames"].append(frame)
                episode["steps"].append((action[lane], float(reward[lane]), 0.0 if terminated[lane] else 1.0))
                if terminated[lane] or truncated[lane]:
                    episode["over"] = True
                    self.open[lane] = None
            self.heads[lane] += 1
            gone = self.heads[lane] - self.room
            self.episodes = [e for e in self.episodes if e["lane"] != lane or e["start"] >= gone]

    def stacked(self, episode: dict[str, Any], at: int) -> Any:
        return np.concatenate([episode["frames"][max(at - back, 0)] for back in reversed(range(self.stack))])

    def everything(self, nstep: int, horizon: int, gamma: float, finished: bool = False) -> list[dict[str, Any]]:
        out = []
        for e in self.episodes:
            if finished and not e["over"]:
                continue
            for i in range(1, len(e["steps"]) - max(nstep, horizon) + 2):
                reward, running = 0.0, 1.0
                for k in range(nstep):
                    reward += running * e["steps"][i - 1 + k][1]
                    running *= gamma * e["steps"][i - 1 + k][2]
                reward_k, other = 0.0, 1.0
                for k in range(horizon):
                    reward_k += other * e["steps"][i - 1 + k][1]
                    other *= gamma * e["steps"][i - 1 + k][2]
                out.append({
                    "obs": self.stacked(e, i - 1), "next_obs": self.stacked(e, i + nstep - 1),
                    "obs_k": self.stacked(e, i + horizon - 1), "action": e["steps"][i - 1][0],
                    "action_seq": np.stack([e["steps"][i - 1 + k][0] for k in range(horizon)]),
                    "reward": [reward], "discount": [running], "reward_k": [reward_k], "index": i,
                })  # fmt: skip
        return out


class Player:
    """Made-up answers of vector environments."""

    def __init__(self, seed: int, lanes: int, longest: int) -> None:
        self.rng, self.lanes, self.longest = np.random.default_rng(seed), lanes, longest

    def frames(self) -> Any:
        return self.rng.integers(0, 256, (self.lanes, *FRAME), dtype=np.uint8)

    def step(self) -> tuple[Any, ...]:
        over = self.rng.random(self.lanes) < 1.5 / self.longest
        ends = self.rng.random(self.lanes) < 0.5
        action = self.rng.uniform(-1, 1, (self.lanes, ACTIONS)).astype(np.float32)
        return self.frames(), action, self.rng.normal(size=self.lanes), over & ends, over & ~ends


def check(buffer: ReplayBuffer, reference: Reference, nstep: int, horizon: int, finished: bool = False) -> None:
    expected = reference.everything(nstep, horizon, 0.9, finished)
    assert buffer.count(nstep, horizon, finished=finished) == len(expected)
    batch = buffer.gather(buffer.starts(nstep, horizon, finished=finished), nstep, horizon, 0.9)
    for name in expected[0] if expected else ():
        np.testing.assert_allclose(
            batch[name].numpy(), np.stack([np.asarray(e[name]) for e in expected]), rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("disk", [False, True])
def test_it_holds_what_a_slow_reference_holds(tmp_path: Path, seed: int, disk: bool) -> None:
    rng = np.random.default_rng(100 + seed)
    lanes, stack, room = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(60, 90))
    buffer = ReplayBuffer(room * lanes, FRAME, ACTIONS, stack=stack, lanes=lanes, path=tmp_path / "r" if disk else None)
    reference, player = Reference(room, lanes, stack), Player(seed, lanes, 12)
    frames = player.frames()
    buffer.add(frames)
    reference.add(frames)
    for t in range(3 * room):
        answer = player.step()
        buffer.add(*answer)
        reference.add(*answer)
        if t % 17 == 0:
            check(buffer, reference, int(rng.integers(1, 5)), int(rng.integers(1, 5)), finished=bool(t % 2))
    assert buffer.episodes == len(reference.episodes)
    assert len(buffer) == sum(len(e["steps"]) for e in reference.episodes)
    if disk:  # what the folder says is what the buffer holds, except that nothing is running any more
        buffer.close()
        again = open_replay(tmp_path / "r")
        check(again, reference, 3, 2)
        assert len(again) == len(buffer)
        again.close()


def test_stacked_observations_are_stored_once() -> None:
    single, stacked = (ReplayBuffer(50, FRAME, ACTIONS) for _ in range(2))
    player = Player(0, 1, 40)
    frames = player.frames()
    single.add(frames)
    stacked.add(np.tile(frames, (1, 3, 1, 1)))
    for _ in range(20):
        frames, *rest = player.step()
        single.add(frames, *rest)
        old = np.zeros((1, 2 * FRAME[0], *FRAME[1:]), np.uint8)
        stacked.add(np.concatenate([old, frames], 1), *rest)
    a, b = (buffer.sample(32, 3, 3, 0.99, 5) for buffer in (single, stacked))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert a["obs_k"] is a["next_obs"]  # n = K: gathered once


def played(path: Path | None, steps: int, *, room: int = 40, lanes: int = 2) -> tuple[ReplayBuffer, Player]:
    buffer, player = ReplayBuffer(room * lanes, FRAME, ACTIONS, lanes=lanes, path=path), Player(3, lanes, 9)
    buffer.add(player.frames())
    for _ in range(steps):
        buffer.add(*player.step())
    return buffer, player


def batches(buffer: ReplayBuffer, player: Player, steps: int) -> list[dict[str, Any]]:
    out = []
    for t in range(steps):
        buffer.add(*player.step())
        out.append(buffer.sample(8, 3, 2, 0.99, t))
    return out


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("before", [10, 100])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, disk: bool, before: int) -> None:
    buffer, player = played(tmp_path / "r" if disk else None, before)
    state = copy.deepcopy(buffer.state_dict())
    moment = player.rng.bit_generator.state
    uninterrupted = batches(buffer, player, 90)  # overwrites every row of the checkpoint, twice in part
    if disk:
        del buffer  # no close: a kill
    for _ in range(2):  # killed twice at the same checkpoint
        resumed, again = (
            ReplayBuffer(80, FRAME, ACTIONS, lanes=2, path=tmp_path / "r" if disk else None),
            Player(3, 2, 9),
        )
        resumed.load_state_dict(state)
        again.rng.bit_generator.state = moment
        for expected, got in zip(uninterrupted, batches(resumed, again, 90), strict=True):
            for name in expected:
                assert torch.equal(expected[name], got[name]), name


def test_checkpoints_further_back_can_be_taken_up_for_a_while(tmp_path: Path) -> None:
    buffer, player = played(tmp_path / "r", 60)
    states, samples = [], []
    for _ in range(6):
        states.append(buffer.state_dict())
        samples.append(buffer.sample(16, 3, 3, 0.99, 0))
        for _ in range(25):
            buffer.add(*player.step())
    buffer.close()
    resumed = open_replay(tmp_path / "r", readonly=False)
    resumed.load_state_dict(states[3])
    assert torch.equal(resumed.sample(16, 3, 3, 0.99, 0)["obs"], samples[3]["obs"])
    with pytest.raises(CheckpointError, match="no longer holds what it held at this checkpoint; take a newer one"):
        resumed.load_state_dict(states[0])


def test_rows_after_a_checkpoint_are_no_part_of_what_a_reader_sees(tmp_path: Path) -> None:
    buffer, player = played(tmp_path / "r", 10)
    state, held = buffer.state_dict(), len(buffer)
    for _ in range(20):
        buffer.add(*player.step())
    buffer.load_state_dict(state)
    assert len(open_replay(tmp_path / "r")) == len(buffer) == held


def test_a_checkpoint_of_another_replay_is_refused(tmp_path: Path) -> None:
    state = played(None, 5)[0].state_dict()
    with pytest.raises(CheckpointError, match="'lanes': 2"):
        ReplayBuffer(80, FRAME, ACTIONS).load_state_dict(state)
    with pytest.raises(CheckpointError, match="on disk and not in memory"):
        ReplayBuffer(80, FRAME, ACTIONS, lanes=2, path=tmp_path / "r").load_state_dict(state)


def episode(length: int, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (length + 1, *FRAME), dtype=np.uint8)
    return frames, rng.uniform(-1, 1, (length, ACTIONS)), rng.normal(size=length), np.ones(length)


def test_official_sampling_takes_episodes_alike_and_uniform_sampling_starts_alike() -> None:
    buffer = ReplayBuffer(500, FRAME, ACTIONS)
    buffer.add_episode(*episode(100))
    buffer.add_episode(*episode(10))
    ids = {official: buffer.gather(buffer.draw(6000, 3, 3, 0, official=official), 3, 3, 1.0)["episode"].numpy()
           for official in (True, False)}  # fmt: skip
    assert np.mean(ids[True] == 1) == pytest.approx(0.5, abs=0.03)
    assert np.mean(ids[False] == 1) == pytest.approx(8 / 106, abs=0.02)
    starts, counts = np.unique(buffer.draw(20000, 3, 3, 1), return_counts=True)
    assert starts.tolist() == buffer.starts(3, 3).tolist()
    assert counts.min() > 120  # of 189 expected
    assert counts.max() < 260


def test_official_sampling_waits_for_the_end_of_an_episode() -> None:
    buffer = ReplayBuffer(100, FRAME, ACTIONS)
    rng = Player(0, 1, 1)
    buffer.add(rng.frames())
    for _ in range(10):
        buffer.add(rng.frames(), np.zeros((1, 2)), np.zeros(1), np.array([False]), np.array([False]))
    assert buffer.count(3, 3) == 8
    with pytest.raises(DataError, match="no finished episode of the replay holds 3 transitions, the longest has 0"):
        buffer.draw(4, 3, 3, 0, official=True)
    with pytest.raises(DataError, match="holds 11 transitions, the longest has 10: collect more first"):
        buffer.draw(4, 3, 11, 0)


def test_batches_gathered_ahead_are_those_gathered_in_turn() -> None:
    buffer, _ = played(None, 60)
    ahead = list(buffer.batches([4, 5, 6], 16, 3, 3, 0.99))
    assert len(ahead) == 3
    for seed, batch in zip([4, 5, 6], ahead, strict=True):
        turn = buffer.sample(16, 3, 3, 0.99, seed)
        assert all(torch.equal(turn[name], batch[name]) for name in turn)
    buffer.close()


def test_several_processes_read_one_folder(tmp_path: Path) -> None:
    buffer, _ = played(tmp_path / "r", 60)
    buffer.close()
    code = (
        "import sys, pathlib; from polycontrast_rl.replay import open_replay;"
        "r = open_replay(pathlib.Path(sys.argv[1]));"
        "print(int(r.sample(64, 3, 3, 0.99, 7)['obs'].long().sum()))"
    )
    readers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    expected = int(buffer.sample(64, 3, 3, 0.99, 7)["obs"].long().sum())
    assert [int(reader.communicate()[0]) for reader in readers] == [expected] * 2


def test_a_reader_sees_later_what_was_added_and_writes_nothing(tmp_path: Path) -> None:
    buffer, player = played(tmp_path / "r", 20)
    reader = open_replay(tmp_path / "r")
    before = len(reader)
    for _ in range(5):
        buffer.add(*player.step())
    assert len(reader) == before
    reader.refresh()
    assert len(reader) == len(buffer) > before
    with pytest.raises(KeyError):
        reader.add(player.frames())


def test_the_copy_on_a_device_gives_the_same_batches() -> None:
    buffer, player = ReplayBuffer(80, FRAME, ACTIONS, lanes=2), Player(3, 2, 9)
    copied = ReplayBuffer(80, FRAME, ACTIONS, lanes=2, device="cpu")
    frames = player.frames()
    buffer.add(frames)
    copied.add(frames)
    for _ in range(100):
        answer = player.step()
        buffer.add(*answer)
        copied.add(*answer)
    resumed = ReplayBuffer(80, FRAME, ACTIONS, lanes=2, device="cpu")
    resumed.load_state_dict(buffer.state_dict())
    one, two, three = (b.sample(32, 2, 4, 0.99, 1) for b in (buffer, copied, resumed))
    assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)


def test_the_folder_of_another_environment_is_refused_with_one_line(tmp_path: Path) -> None:
    ReplayBuffer(80, FRAME, ACTIONS, path=tmp_path / "r", fingerprint={"task": "pixels:reacher", "actions": 2}).close()
    with pytest.raises(
        DataError, match=r"another environment \(task 'pixels:reacher', here 'pixels:point-mass'\)"
    ) as why:
        ReplayBuffer(80, FRAME, ACTIONS, path=tmp_path / "r", fingerprint={"task": "pixels:point-mass", "actions": 2})
    assert "\n" not in str(why.value)
    with pytest.raises(DataError, match=r"other sizes \(rows 80, here 90\)"):
        ReplayBuffer(90, FRAME, ACTIONS, path=tmp_path / "r", fingerprint={"task": "pixels:reacher", "actions": 2})


def test_a_folder_that_is_no_replay_or_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not a replay"):
        ReplayBuffer(80, FRAME, ACTIONS, path=tmp_path)
    with pytest.raises(DataError, match=r"holds no replay \(no metadata.json\)"):
        open_replay(tmp_path / "nowhere")
    ReplayBuffer(80, FRAME, ACTIONS, path=tmp_path / "r").close()
    (tmp_path / "r" / "frames.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"frames\.npy is damaged"):
        open_replay(tmp_path / "r")
    (tmp_path / "r" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json is damaged"):
        open_replay(tmp_path / "r")
    (tmp_path / "r" / "metadata.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="not of a replay that this version reads"):
        open_replay(tmp_path / "r")


def test_a_full_disk_is_said_in_one_line_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, player = played(tmp_path / "r", 20)
    held = len(buffer)

    class Full:
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    written = columns.write_all
    monkeypatch.setattr(columns, "write_all", lambda file, data, folder: written(Full(), data, folder))
    with pytest.raises(PolycontrastError, match=r"the disk is full: the replay in .* cannot grow\. Free some") as why:
        buffer.add(*player.step())
    assert why.value.exit_code == 1
    assert "\n" not in str(why.value)
    assert len(open_replay(tmp_path / "r")) == held


def test_wrong_shapes_and_lengths_are_refused() -> None:
    buffer = ReplayBuffer(20, FRAME, ACTIONS)
    with pytest.raises(DataError, match="expected frames"):
        buffer.add(np.zeros((1, 3, 9, 9), np.uint8))
    frames, action, reward, discount = episode(5)
    with pytest.raises(DataError, match="5 frames, 5 actions"):
        buffer.add_episode(frames[:5], action, reward, discount)
    with pytest.raises(DataError, match="must be finite"):
        buffer.add_episode(frames, action, reward * np.nan, discount)
    with pytest.raises(DataError, match="expected uint8 frames"):
        buffer.add_episode(frames.astype(np.float32), action, reward, discount)
    with pytest.raises(DataError, match="an episode of 30 transitions does not fit in 20 rows"):
        buffer.add_episode(*episode(30))
    with pytest.raises(DataError, match="too small"):
        ReplayBuffer(3, FRAME, ACTIONS, lanes=2)
    player = Player(0, 1, 10**9)
    buffer.add(player.frames())
    for _ in range(19):
        buffer.add(*player.step())
    with pytest.raises(DataError, match="longer than the 20 frames which the replay holds per environment"):
        buffer.add(*player.step())


def test_the_file_takes_the_room_of_what_was_written(tmp_path: Path) -> None:
    buffer = ReplayBuffer(20000, (3, 84, 84), ACTIONS, path=tmp_path / "r")
    buffer.add(np.zeros((1, 3, 84, 84), np.uint8))
    file = tmp_path / "r" / "frames.npy"
    assert file.stat().st_size > 400e6
    assert file.stat().st_blocks * 512 < 1e6
