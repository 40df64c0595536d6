"""Write-behind: changed users, oldest first, coalesced into rows, batched, written, retried.

1. Each partition hands out the users whose oldest change has waited for FLUSH_DELAY_S; all dirty
   users, if the partition is being handed over; or as many more as it needs under pressure.
2. Their rows are packed into batches of at most WRITE_BATCH_ROWS, each for the users of one
   replica: a batch may hold several users, and a user may span batches.
3. At most WRITES_IN_FLIGHT_MAX batches are under way. While writing is not urgent (only
   FLUSH_DELAY_S asks for it), the limit is a quarter of that, because a burst would make queries
   wait, on the database's cores too; and each iteration of the event loop takes the users of one
   batch, because a query may have to wait for an iteration.
4. When the last batch of a user is answered, its partition learns that the user is written, or that
   it failed and has to be written again after WRITE_RETRY_S.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from readstates.schemas.read_state import CHANNEL

from .. import metrics
from ..config import Settings
from ..partition.partition import Partition
from ..partition.write_out import Write
from ..priorities import IDLE_S, LATER_S, NOT_URGENT_SHARE, SOON_S
from .row_bytes import Change
from .store import Store

BATCHES_AT_ONCE = 8  # a partition hands out users for this many batches before they are packed


def changes_of(write: Write) -> list[Change]:
    """A user's changes as the store takes them; the deletion of the user goes first."""
    changes: list[Change] = []
    rows = write.rows
    if write.delete_version:
        changes.append((write.user_id, write.delete_version, None))
        rows = sorted(rows, key=lambda each: each[1][CHANNEL] != 0)  # the mark, if it is final
    for deleted, row in rows:
        changes.append((write.user_id, -row[8] if deleted else row[8], row))
    return changes


def pack(
    writes: Iterable[Write], rows_max: int, group_of: Callable[[int], Any]
) -> list[tuple[list[Change], list[Write]]]:
    """Batches of changes, each with the writes that wait for its answer.

    `group_of` gives a user's group. Only users of a group share a batch, in the order of `writes`.
    """
    groups: dict[Any, list[Write]] = {}
    for write in writes:
        groups.setdefault(group_of(write.user_id), []).append(write)
    return [batch for group in groups.values() for batch in _pack(group, rows_max)]


def _pack(writes: list[Write], rows_max: int) -> Iterator[tuple[list[Change], list[Write]]]:
    changes: list[Change] = []
    owners: list[Write] = []
    for write in writes:
        for change in changes_of(write):
            if not owners or owners[-1] is not write:
                owners.append(write)
                write.pending += 1
            changes.append(change)
            # A final deletion and its mark are in one batch, or a replay might find the mark alone.
            if len(changes) >= rows_max and change[2] is not None:
                yield changes, owners
                changes, owners = [], []
    if changes:
        yield changes, owners


class WriteBehind:
    """Drives the writes of all partitions of a worker. `step` starts what is due."""

    def __init__(self, store: Store, settings: Settings, woken: Callable[[], None]) -> None:
        self._store = store
        self._settings = settings
        self._woken = woken
        self._in_flight = 0
        self._paused_until = 0.0
        self._wrote_last = -1  # number of a partition
        self._taken: list[Write] = []  # not packed yet
        self._queue: deque[tuple[list[Change], list[Write]]] = deque()
        self._dirty_max = int(settings.cache_states * settings.dirty_share_max)

    @property
    def idle(self) -> bool:
        """True while nothing is under way, packed or taken."""
        return not self._in_flight and not self._queue and not self._taken

    @property
    def paused(self) -> bool:
        """True for WRITE_RETRY_S after a write failed."""
        return asyncio.get_running_loop().time() < self._paused_until

    async def step(self, partitions: Iterable[Partition], *, now_ms: int) -> float:
        """Start due writes, as many as may be under way; other work runs in between.

        Returns the seconds until the next step.
        """
        delay_ms = int(self._settings.flush_delay_s * 1000)
        order = sorted(  # only partitions with something to write, because most have nothing
            (
                partition
                for partition in partitions
                if partition.table.dirty_users or partition.room.stalled
            ),
            key=lambda partition: partition.number,
        )
        if not order and self.idle:
            return IDLE_S
        room = self._settings.writes_in_flight_max
        urgent = any(
            partition.write_out.is_urgent(now_ms, delay_ms, self._dirty_max) for partition in order
        )
        if not urgent:
            room = max(1, int(room * NOT_URGENT_SHARE))
        self._pack()  # writes that an earlier step had taken when it was cancelled
        self._start(room)
        # Round robin: begin after the partition that wrote last.
        first = bisect_right(order, self._wrote_last, key=lambda partition: partition.number)
        for partition in order[first:] + order[:first]:
            while self._has_room(room):
                if not await self._take(partition, now_ms, delay_ms, urgent):
                    break
                self._wrote_last = partition.number
                self._pack()
                while self._queue and self._in_flight < room:
                    self._write(*self._queue.popleft())
                    await asyncio.sleep(0)
        return SOON_S if urgent or not self._has_room(room) else LATER_S

    async def _take(self, partition: Partition, now_ms: int, delay_ms: int, urgent: bool) -> bool:
        """Take up to BATCHES_AT_ONCE batches of due users; False if nothing was due.

        While writing is not urgent, the event loop runs after each batch.
        """
        iterations = 1 if urgent else BATCHES_AT_ONCE
        rows_max = self._settings.write_batch_rows * (BATCHES_AT_ONCE // iterations)
        for iteration in range(iterations):
            if iteration:
                await asyncio.sleep(0)
            if partition.incarnation < 0:  # handed over meanwhile
                break
            writes = partition.take_writes(now_ms, delay_ms, rows_max, self._dirty_max)
            if not writes:
                break
            self._taken += writes
        return bool(self._taken)

    def _pack(self) -> None:
        """Pack the writes that were taken, and queue their batches."""
        taken, self._taken = self._taken, []
        for write in taken:
            if not write.rows and not write.delete_version:
                write.partition.written(write)  # its changes cancel out: there is no row
        self._queue.extend(pack(taken, self._settings.write_batch_rows, self._store.group_of))

    def _has_room(self, room: int) -> bool:
        """False in the pause after a failure, because without a database writes fail at once."""
        under_way = len(self._queue) + self._in_flight
        return not self.paused and under_way < room

    def _start(self, room: int) -> None:
        while self._queue and self._in_flight < room:
            self._write(*self._queue.popleft())

    def _write(self, changes: list[Change], waiting: list[Write]) -> None:
        self._in_flight += 1
        started = time.perf_counter()

        def done(acknowledged: bool | None) -> None:
            self._in_flight -= 1
            metrics.WRITE_SECONDS.observe(time.perf_counter() - started)
            if acknowledged:
                metrics.ROWS_WRITTEN.inc(len(changes))
            else:
                metrics.WRITE_FAILURES.inc()
                self._paused_until = (
                    asyncio.get_running_loop().time() + self._settings.write_retry_s
                )
            for write in waiting:
                write.pending -= 1
                write.failed = write.failed or not acknowledged
                if not write.pending:
                    write.partition.written(write)
            self._start(self._settings.writes_in_flight_max)
            self._woken()

        self._store.write(changes, done)
