"""Tracks changed users on their way to Cassandra: those that are due, and those under way.

A changed user waits in the table's dirty queue, so that its changes are coalesced. `take` hands out
the users that are due; each is under way until `written` reports the result. `write_behind.py`
sends them and limits how many are under way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from readstates.cache.table import Table
from readstates.schemas.read_state import Row
from readstates.schemas.version import offset_of

from .inbox import Inbox
from .progress import Progress
from .room import Room

if TYPE_CHECKING:
    from .partition import Partition

COLD_USERS_AT_ONCE = 16  # written out together when the table has no room
EARLY_DIVISOR = 10  # of the delay: a change goes so much earlier, along with one that is due
MASK_32 = 0xFFFFFFFF  # the table keeps times modulo 2^32


@dataclass(slots=True, eq=False)
class Write:
    """One user's changes on their way to Cassandra; compared by identity."""

    partition: Partition
    incarnation: int
    user: int
    user_id: int
    first_version: int
    delete_version: int
    rows: list[tuple[bool, Row]]  # (deleted, the read state)
    since_ms: int = 0  # of the oldest of these changes, modulo 2^32
    pending: int = 0  # batches not yet answered
    failed: bool = False


class WriteOut:
    """See the module. Each user that is dirty or under way holds the offset of a change (P3)."""

    def __init__(self, table: Table, room: Room, progress: Progress, inbox: Inbox) -> None:
        self._table = table
        self._room = room
        self._progress = progress
        self._inbox = inbox
        self._under_way: dict[Write, None] = {}  # the oldest first
        self.everything = False  # the partition is being handed over: no change waits
        self.behind_ms = 0  # age of the last record taken, when it was taken
        self._behind_at_ms: int | None = None  # of the last slice that was as old as the delay

    def take(
        self, partition: Partition, now_ms: int, delay_ms: int, rows_max: int, dirty_max: int
    ) -> list[Write]:
        """Users to write out now: those that have waited for `delay_ms`, and more under pressure.

        If the partition is being handed over, nobody waits. Together they have `rows_max` rows or a
        few more, because a user is not divided. A user whose time is nearly up goes along with one
        that is due, so that a quiet partition writes full batches now and then, and not a row or
        two each time it is looked at.
        """
        table, now = self._table, now_ms & MASK_32
        writes: list[Write] = []
        if not self._progress.live_committed:  # P8
            return writes
        stalled = self._room.stalled
        if stalled:
            cold = table.cold_dirty(COLD_USERS_AT_ONCE)
            writes = [self._take_user(partition, user) for user in cold]
        due_ms = delay_ms = self._wait_ms(now, delay_ms)
        rows = sum(len(write.rows) for write in writes)
        while rows < rows_max and (user := table.dirty_head()):
            age_ms = (now - table.dirty_since_ms(user)) & MASK_32
            if age_ms < due_ms and table.dirty_states < dirty_max and not stalled:
                break
            write = self._take_user(partition, user)
            rows += len(write.rows) or 1
            writes.append(write)
            due_ms = delay_ms - delay_ms // EARLY_DIVISOR
        return writes

    def _take_user(self, partition: Partition, user: int) -> Write:
        since_ms = self._table.dirty_since_ms(user)
        first_version, delete_version, rows = self._table.take(user)
        user_id = self._table.user_id(user)
        write = Write(
            partition,
            partition.incarnation,
            user,
            user_id,
            first_version,
            delete_version,
            rows,
            since_ms,
        )
        self._under_way[write] = None
        return write

    def is_urgent(self, now_ms: int, delay_ms: int, dirty_max: int) -> bool:
        """True if an update that finds no room, or the commit, waits for the write-out.

        The commit waits for the rest of a backlog, and for a change twice as old as the delay.
        """
        table, now = self._table, now_ms & MASK_32
        if self._room.stalled or table.dirty_states >= dirty_max:
            return True
        if self.everything:
            return bool(table.dirty_users)
        wait_ms = self._wait_ms(now, delay_ms)
        longest_ms = wait_ms if wait_ms < delay_ms else 2 * delay_ms
        user = table.dirty_head()
        return user != 0 and (now - table.dirty_since_ms(user)) & MASK_32 >= longest_ms

    def _wait_ms(self, now: int, delay_ms: int) -> int:
        """How long a change waits to be coalesced with others.

        A change waits for `delay_ms` from the moment it was applied, even while the partition is
        that much behind its producers. Once the partition is not, or has reached the log's end, the
        changes applied until then have waited long enough.
        """
        if self.everything:
            return 0
        behind = self.behind_ms >= delay_ms
        if behind:
            self._behind_at_ms = self._table.now_ms
        if self._behind_at_ms is not None and (not behind or self._inbox.log_ended):
            return min(delay_ms, (now - self._behind_at_ms) & MASK_32)
        return delay_ms

    def oldest_change_s(self, now_ms: int) -> float:
        """Age of the oldest change that is not yet in Cassandra, in seconds."""
        user = self._table.dirty_head()
        since = [self._table.dirty_since_ms(user)] if user else []
        if self._under_way:
            since.append(next(iter(self._under_way)).since_ms)
        return max(((now_ms - ms) & MASK_32 for ms in since), default=0) / 1000

    def written(self, write: Write) -> None:
        """End a write: all its rows are in Cassandra, or (`failed`) it must be repeated."""
        del self._under_way[write]
        if write.failed:
            newer = self._table.first_version(write.user)
            self._table.write_failed(write.user, write.first_version, write.since_ms)
            if newer:  # the older hold covers the newer change
                self._progress.watermark.release(offset_of(newer))
        else:
            self._table.written(write.user, write.delete_version, write.rows)
            self._progress.watermark.release(offset_of(write.first_version))  # P3

    def holds(self) -> int:
        """How many changes hold the watermark, counted in the table and in the writes under way.

        A user has one hold for the oldest change in the dirty queue, one for the oldest change
        under way, and one for the oldest change made since that write began.
        """
        waiting: int = self._table.dirty_users
        newer = sum(1 for write in self._under_way if self._table.first_version(write.user))
        return waiting + len(self._under_way) + newer

    def check(self) -> None:
        """Assert P8, and that a stall will end."""
        assert self._progress.live_committed or not self._under_way, "P8: written out too early"
        users = {write.user for write in self._under_way}
        assert len(users) == len(self._under_way), "a user is under way twice"
        assert not self._room.stalled or self.holds(), "stalled, with nothing to write out"
