"""Mirrors of all users: what a consumer of the change feed holds, against the fold of the log.

The mirror reads the feed from its beginning, while the proof folds the log. Each record is applied
when the log has been folded up to the record's version, so it can be held against the read states
of that moment (F1). Two kinds of records are not:

- A late record has a version that the fold has passed: an owner wrote it that had lost the
  partition, and it came after one of the next owner.
- A record from the time of a zombie may find a read state gone that the next owner has deleted
  since, see `streams/partition/changes.py`.

Whatever they did, at the end each mirror must hold what the fold has (F2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..proof.mirror import Key, Mirror, Told
from ..proof.oracle import Oracle, Seen

OFFSET_MASK = (1 << 48) - 1


@dataclass(frozen=True)
class ToldRecord:
    """One record of the change feed. `in_doubt`: there was a zombie when a broker took it."""

    partition: int
    told: Told
    in_doubt: bool

    @property
    def position(self) -> int:
        """The first offset of `updates` that the record knows nothing of."""
        return self.told.version & OFFSET_MASK


@dataclass
class Mirrors:
    """See the module. `records`: those of each partition in their order; partitions may alternate.

    `wrong`: what is not as it must be.
    """

    oracle: Oracle
    records: Iterable[ToldRecord] = ()
    told: int = 0
    late: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._mirror = Mirror(lambda user_id, _version: self._now(user_id))
        self._waiting: dict[int, deque[ToldRecord]] = {}
        self._passed: dict[int, int] = {}  # by partition: the largest position of a record
        for record in self.records:
            self._waiting.setdefault(record.partition, deque()).append(record)

    def _now(self, user_id: int) -> dict[Key, Seen]:
        return {row[:2]: row for row in self.oracle.seen(user_id)}

    def follow(self, partition: int, offset: int) -> None:
        """Apply what was told before the update at `offset`; the fold applies that one next."""
        waiting = self._waiting.get(partition)
        while waiting and waiting[0].position <= offset:
            self._apply(waiting.popleft())

    def _apply(self, record: ToldRecord) -> None:
        self.told += 1
        position, partition = record.position, record.partition
        if position < self._passed.get(partition, 0):
            self.late += 1
            self._mirror.take(record.told)
            return
        self._passed[partition] = position
        try:
            self._mirror.apply(record.told, is_ahead=record.in_doubt)
        except AssertionError as exc:
            self.wrong.append(str(exc))

    def compare(self) -> None:
        """The log is folded: each user's mirror must hold what the fold has."""
        for partition, waiting in self._waiting.items():
            self.follow(partition, OFFSET_MASK)
            assert not waiting
        held = self._mirror.held
        for user_id in self.oracle.users.keys() | held.keys():
            should = self._now(user_id)
            found = held[user_id].states if user_id in held else {}
            self.compared += 1
            if found != should:
                self.wrong.append(f"F2: user {user_id}: the mirror has {found}, not {should}")


def in_windows(windows: Iterable[tuple[float, float]]) -> Callable[[float], bool]:
    """Whether a moment is in one of these windows of time; all in seconds of one clock."""
    known = list(windows)
    return lambda at_s: any(begin_s <= at_s <= end_s for begin_s, end_s in known)
