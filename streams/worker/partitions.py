"""The partitions that this worker owns, and the loop that gives each of them its slice.

`Rebalancer` (`rebalance.py`) adds and removes partitions, and the agents feed them. This module
carries out the requests of a partition (its `Effects`): the loader does the loads, the dead-letter
producer sends the dead letters, and the query intake sends the replies.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .. import metrics
from ..cassandra.loader import Loader
from ..cassandra.store import Store
from ..cassandra.write_behind import WriteBehind
from ..config import Settings
from ..kafka.change_producer import ChangeProducer
from ..kafka.dead_letter_producer import DeadLetterProducer, Rejected
from ..kafka.no_dead_letters import NoDeadLetters
from ..kafka.pulse import Pulse
from ..kafka.reply_producer import ReplyProducer
from ..partition.batch import Batch, UnreadBatch
from ..partition.partition import Partition
from .change_feed import ChangeFeed
from .owned import OwnedPartition
from .query_intake import QueryIntake

log = logging.getLogger(__name__)

QUERY_BYTES_MAX = 1 << 20  # of a partition, in one poll
SILENT_MAX_S = 60.0  # `write_out` ends the wait of `run` several times per second


def wall_clock_ms() -> int:
    """Wall clock, ms since the epoch, like the brokers' timestamps of records."""
    return time.time_ns() // 1_000_000


class Partitions:
    """See the module. All methods but `wants_…` run on the event loop."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        replies: ReplyProducer,
        dead_letters: DeadLetterProducer | NoDeadLetters,
        *,
        changes: ChangeProducer | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
        clock_ahead_ms: Callable[[int], int] = lambda _number: 0,
    ) -> None:
        self.settings = settings
        self.now_ms = now_ms
        self.owned: dict[int, OwnedPartition] = {}
        self.wake = asyncio.Event()
        self.pulse = Pulse("fold", SILENT_MAX_S, is_vital=True)
        self.has_room: Callable[[], None] = lambda: None  # called when a full inbox has room again
        self.write_behind = WriteBehind(store, settings, self.wake.set)
        self.loader = Loader(store, settings, self.wake.set)
        self.queries = QueryIntake(settings, self.owned, replies, now_ms, clock_ahead_ms)
        # Effects of a partition, bound directly: every query ends in one of them.
        self.answer, self.refuse = self.queries.answer, self.queries.refuse
        self._dead_letters = dead_letters
        self.feed: ChangeFeed | None = None  # there is no change feed
        if changes is not None:
            self.feed = ChangeFeed(settings, self.owned, changes, now_ms, self.wake.set)

    def wants_updates(self, number: int) -> int:
        """Bytes of updates that a partition takes now; a reader's thread calls this."""
        owned = self.owned.get(number)
        return 0 if owned is None else owned.partition.wants_bytes

    def wants_queries(self, number: int) -> int:
        """Bytes of queries that a partition takes now; a reader's thread calls this."""
        return QUERY_BYTES_MAX if number in self.owned else 0

    def active(self) -> list[OwnedPartition]:
        """The partitions that are not being handed over."""
        return [owned for owned in self.owned.values() if not owned.partition.closing]

    def ready(self) -> tuple[bool, str]:
        """Whether all partitions are caught up and open for queries, and the reason if not."""
        if not self.owned:
            return False, "no partition is assigned to this worker"
        late = [o.partition for o in self.owned.values() if not o.partition.progress.caught_up]
        if late:
            parts = ", ".join(
                f"{p.number}: {p.position}/{p.progress.catch_up_to}" for p in late[:8]
            )
            return False, f"catching up: {parts}"
        return True, f"{len(self.owned)} partitions"

    # -- updates ------------------------------------------------------------------------------

    def take_updates(self, number: int, token: int, batch: Batch) -> None:
        """Take a batch of updates, unless it was read for an earlier incarnation."""
        owned = self.owned.get(number)
        if owned is None or owned.partition.incarnation != token:
            return
        if not owned.partition.closing:
            owned.partition.take(batch)
            self.wake.set()

    async def run(self) -> None:
        """Fold slices, in which partitions take turns; other work runs between any two slices.

        Partitions with few updates share a slice, because an iteration of the loop costs as much as
        some dozens of updates.
        """
        while True:
            self.pulse.beat()
            progressed, left = 0, self.settings.slice_updates
            for owned in list(self.owned.values()):
                partition = owned.partition
                if partition.can_run and not partition.closing:
                    was_full = not partition.wants_bytes
                    progressed += partition.run(left, self.now_ms(), owned.clock_ahead_ms)
                    if was_full and partition.wants_bytes:
                        self.has_room()
                    left = partition.left
                    if left <= 0:
                        await asyncio.sleep(0)
                        left = self.settings.slice_updates
            if progressed:
                await asyncio.sleep(0)
            else:
                self.wake.clear()
                await self.wake.wait()

    async def write_out(self) -> float:
        """Start the writes that are due; returns the seconds until it is to be called again."""
        partitions = [owned.partition for owned in self.active()]
        pause_s = await self.write_behind.step(partitions, now_ms=self.now_ms())
        self.wake.set()  # a partition may have room again though nothing was under way
        return pause_s

    # -- effects ------------------------------------------------------------------------------

    def load(self, partition: Partition, user_id: int, ticket: int, asked: bool) -> None:
        self.loader.want(partition, user_id, ticket, asked=asked)

    def dead_letter(self, partition: Partition, record: Rejected, reason: str, text: str) -> None:
        metrics.DEAD_LETTERS.labels(reason).inc()
        if isinstance(record, UnreadBatch):
            log.warning(
                "batch_not_read topic=%s partition=%d offset=%d last_offset=%d reason=%s: %s. None "
                "of its updates is applied; it is kept in %s. Look for its producer",
                self.settings.updates_topic,
                partition.number,
                record.first,
                record.offset,
                reason,
                text,
                self.settings.dead_letters_topic,
            )
        log.debug(
            "dead_letter topic=%s partition=%d offset=%d reason=%s %s",
            self.settings.updates_topic,
            partition.number,
            record.offset,
            reason,
            text,
        )
        incarnation, offset = partition.incarnation, record.offset
        self._dead_letters.send(
            record,
            partition.number,
            reason,
            lambda: self._dead_letter_kept(partition, incarnation, offset),
        )

    def _dead_letter_kept(self, partition: Partition, incarnation: int, offset: int) -> None:
        partition.dead_letter_kept(incarnation, offset)
        self.wake.set()
