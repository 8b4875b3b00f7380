"""The table of episodes of a replay."""

from __future__ import annotations

import numpy as np

from polycontrast_rl.columns import Array


class Episodes:
    """Which episodes a replay holds, in the order of their beginning.

    One row each: id, lane, place of the reset frame in the lane (counted on over all laps of the ring), transitions,
    whether it is over.
    """

    def __init__(self) -> None:
        self.load(np.empty((0, 5), np.int64))

    def state(self) -> Array:
        """(E, 5) int64."""
        return self._rows.copy()

    def load(self, rows: Array) -> None:
        """Take up what :meth:`state` gave."""
        self._rows = np.array(rows, np.int64)
        self._place = {int(id_): place for place, id_ in enumerate(self._rows[:, 0])}
        oldest = self._rows[np.lexsort((self._rows[:, 2], self._rows[:, 1]))][:, 1:3]
        self._oldest = {int(lane): int(start) for lane, start in reversed(oldest.tolist())}

    @property
    def lane(self) -> Array:
        """(E,) lane of each."""
        return self._rows[:, 1]

    @property
    def start(self) -> Array:
        """(E,) place of its reset frame in the lane."""
        return self._rows[:, 2]

    @property
    def length(self) -> Array:
        """(E,) its transitions."""
        return self._rows[:, 3]

    @property
    def finished(self) -> Array:
        """(E,) whether it is over."""
        return self._rows[:, 4] != 0

    def has(self, episode: int) -> bool:
        """Whether an episode is held."""
        return episode in self._place

    def length_of(self, episode: int) -> int:
        """Transitions of one episode."""
        return int(self._rows[self._place[episode], 3])

    def add(self, episode: int, lane: int, start: int) -> None:
        """An episode begins."""
        self._place[episode] = len(self._rows)
        self._rows = np.concatenate([self._rows, [[episode, lane, start, 0, 0]]])
        self._oldest.setdefault(lane, start)

    def extend(self, episode: int, count: int) -> None:
        """Transitions were added to an episode."""
        self._rows[self._place[episode], 3] += count

    def finish(self, episode: int) -> None:
        """An episode is over."""
        self._rows[self._place[episode], 4] = 1

    def drop(self, lane: int, *, before: int) -> None:
        """Forget the episodes of a lane that begin before a place."""
        if before > self._oldest.get(lane, before):
            self.load(self._rows[(self.lane != lane) | (self.start >= before)])

    def starts(self, span: int, finished: bool) -> Array:
        """(E,) valid starts per episode for windows of ``span`` transitions."""
        counts = np.maximum(self.length - span + 1, 0)
        return np.where(self.finished, counts, 0) if finished else counts
