"""The partitions that this worker owns, and the loop that gives each of them its turn.

`Partitions` is what the transport's rebalance hooks open and hand over (`rebalance.py` says how),
what the agents feed, and what carries out the effects a partition asks for.

Q1: an owner finishes a query once: with a reply, an error, or nothing when its time is over. Only
    then is its offset released for the commit.
Q2: nothing goes out at a query's deadline or after it.
Q3: a reply is the fold of the log at the reply's version; a delta, added to what there was at
    `since_version`, is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from readstates.cache.tablefile import TableFile
from readstates.schemas.headers import ReplyAddress, deadline_ms, reply_address
from readstates.schemas.partitioner import partition_of
from readstates.schemas.replies import (
    INVALID_QUERY,
    NOT_CAUGHT_UP,
    OVERLOADED,
    REPLY_TOO_LARGE,
    STORE_UNAVAILABLE,
    ReadState,
    encode_reply,
)
from readstates.schemas.wire import DecodeError, decode_query, key_bytes
from readstates.streams import metrics
from readstates.streams.batch import Batch, UnreadBatch
from readstates.streams.cassandra import Store
from readstates.streams.config import Settings
from readstates.streams.errors import BatchGapError
from readstates.streams.loader import Loader
from readstates.streams.partition import Partition
from readstates.streams.queries import Deadlines, Query
from readstates.streams.replies import Output
from readstates.streams.watermark import Watermark
from readstates.streams.write_behind import WriteBehind

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.1
NO_ADDRESS_LOG_S = 60.0
LOOKING_BYTES_MAX = 64 << 20  # of queries whose reply topic is looked for; each keeps its record
TOPIC_LOOKS = 3  # at the cluster's topics, a second apart, before a reply topic does not exist


def wall_clock_ms() -> int:
    """Wall clock, ms since the epoch: what brokers stamp records with."""
    return time.time_ns() // 1_000_000


def size_of(record: Any) -> int:
    """Bytes of a record's key, value and headers."""
    parts = [record.key, record.value, *(part for header in record.headers for part in header)]
    return sum(len(part) for part in parts if part is not None)


@dataclass(slots=True)
class Owned:
    """A partition with what surrounds its pure core."""

    partition: Partition
    file: TableFile
    query_position: int
    query_mark: Watermark
    committed: tuple[int, int] | None = None  # updates, queries: what was committed last
    pulled_bytes: int = 0  # of all batches of updates; the consumer's thread alone writes it


class Partitions:
    """See the module. All methods but `wants` and `pulled` run on the main loop."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        output: Output,
        epoch: int,
        *,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.settings = settings
        self.store = store
        self.output = output
        self.epoch = epoch
        self.now_ms = now_ms
        self.owned: dict[int, Owned] = {}
        self.incarnation = 0
        self.wake = asyncio.Event()
        self.write_behind = WriteBehind(store, settings, self.wake.set)
        self.loader = Loader(store, settings, self.wake.set)
        self.deadlines = Deadlines()
        self.waiting_queries = 0
        self._looking = 0  # queries whose reply topic is being looked for
        self._looking_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop alone would not keep them
        self._no_address_logged = 0.0

    def wants(self, topic: str, number: int) -> bool:
        """May this partition's records be fetched now? Called from the consumer's thread."""
        owned = self.owned.get(number)
        if owned is None:
            return False
        return topic != self.settings.updates_topic or owned.partition.wants_after(
            owned.pulled_bytes
        )

    def pulled(self, number: int, size_bytes: int) -> None:
        """A batch of updates is on its way to `take_updates`. Called from the consumer's thread."""
        owned = self.owned.get(number)
        if owned is not None:
            owned.pulled_bytes += size_bytes

    # -- updates ------------------------------------------------------------------------------

    def take_updates(self, number: int, batch: Batch) -> None:
        """A batch of updates arrived."""
        owned = self.owned.get(number)
        if owned is not None and not owned.partition.closing:
            owned.partition.take(batch)
            self.wake.set()

    async def run(self) -> None:
        """Give each partition its slice in turn; other work runs between any two slices."""
        while True:
            progressed = 0
            for owned in list(self.owned.values()):
                partition = owned.partition
                if partition.can_run and not partition.closing:
                    progressed += partition.run(self.settings.slice_updates, self.now_ms())
                    await asyncio.sleep(0)
            if not progressed:
                self.wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), IDLE_WAIT_S)

    # -- queries ------------------------------------------------------------------------------

    def take_queries(self, number: int, batch: Batch) -> None:
        """A batch of queries arrived: answer, refuse or keep each.

        Raises BatchGapError where queries are missing before it.
        """
        owned = self.owned.get(number)
        if owned is None or owned.partition.closing:
            return
        if batch.start > owned.query_position:
            raise BatchGapError(
                f"queries of partition {number}: a batch begins at offset {batch.start}, expected "
                f"{owned.query_position}: the worker stops; a restart reads them from Kafka"
            )
        taken_ns = batch.taken_ns or time.perf_counter_ns()
        for record in batch.records:
            if record.offset >= owned.query_position:  # else read twice, around a seek
                owned.query_position = record.offset + 1
                self._take_query(owned, record, taken_ns)
        owned.query_position = max(owned.query_position, batch.end)

    def _take_query(self, owned: Owned, record: Any, taken_ns: int) -> None:
        headers = dict(record.headers)
        address = reply_address(headers)
        if address is None or (
            not (known := self.output.exists(address)) and (not self.output.allowed(address.topic))
        ):
            self._no_address(owned, record, address)
            return
        owned.query_mark.hold(record.offset)
        if known:
            self._read_query(owned, record, address, headers, taken_ns)
        elif (
            self._looking >= self.settings.queries_waiting_max
            or self._looking_bytes >= LOOKING_BYTES_MAX
        ):
            self._no_address(owned, record, address)
            owned.query_mark.release(record.offset)
        else:
            self._looking += 1
            self._looking_bytes += size_of(record)
            task = asyncio.create_task(
                self._look_for_topic(owned, record, address, headers, taken_ns)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_for_topic(
        self, owned: Owned, record: Any, address: ReplyAddress, headers: Any, taken_ns: int
    ) -> None:
        """A reply topic we have not seen: look again, for Faust makes it after its first query."""
        incarnation = owned.partition.incarnation
        try:
            for _ in range(TOPIC_LOOKS):
                if self.output.exists(address):  # seen since by a look for others
                    break
                await self.output.refresh()
        finally:
            self._looking -= 1
            self._looking_bytes -= size_of(record)
        if self.owned.get(owned.partition.number) is not owned or (
            owned.partition.incarnation != incarnation
        ):
            return
        if self.output.exists(address):
            self._read_query(owned, record, address, headers, taken_ns)
        else:
            self._no_address(owned, record, address)
            owned.query_mark.release(record.offset)

    def _no_address(self, owned: Owned, record: Any, address: ReplyAddress | None) -> None:
        metrics.QUERIES_ENDED["no_reply_address"].inc()
        if time.monotonic() - self._no_address_logged > NO_ADDRESS_LOG_S:
            self._no_address_logged = time.monotonic()
            log.warning(
                "no_reply_address topic=%s partition=%d offset=%d reply_topic=%.80r: a query needs "
                "a kafka_replyTopic header naming an existing topic that matches REPLY_TOPICS, %s",
                self.settings.queries_topic,
                owned.partition.number,
                record.offset,
                address and address.topic,
                self.settings.reply_topic_pattern.pattern,
            )

    def _read_query(
        self, owned: Owned, record: Any, address: ReplyAddress, headers: Any, taken_ns: int
    ) -> None:
        partition, key = owned.partition, record.key
        user_id = None
        try:
            get = decode_query(record.value)
            user_id = get.user_id
            if key != key_bytes(user_id):
                raise DecodeError("key_mismatch", "key", f"expected the user_id, {user_id}")
            if not partition.table.find(user_id):  # a resident user is surely of this partition
                right = partition_of(key, partition.partitions)
                if right != partition.number:
                    raise DecodeError("misrouted", "partition", f"user {user_id} is in {right}")
            deadline = deadline_ms(headers, record.timestamp)
        except DecodeError as exc:
            metrics.QUERIES_ENDED["error"].inc()
            self.output.error(address, key, user_id, INVALID_QUERY, str(exc))
            owned.query_mark.release(record.offset)
            return
        query = Query(
            get,
            address,
            key=key,
            partition=partition.number,
            incarnation=partition.incarnation,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            deadline_ms=deadline,
            taken_ns=taken_ns,
        )
        now = self.now_ms()
        if now >= deadline:
            self._finish(query, "expired")
        elif self.waiting_queries >= self.settings.queries_waiting_max:
            self.refuse(query, OVERLOADED, "too many queries are waiting; ask again later")
        else:
            partition.ask(query)
            if not query.done:
                self.waiting_queries += 1
                query.waiting = True
                self.deadlines.add(query, now)

    def _finish(self, query: Query, outcome: str) -> None:
        metrics.QUERIES_ENDED[outcome].inc()
        query.done = True  # Q1
        if query.waiting:
            self.waiting_queries -= 1
        owned = self.owned.get(query.partition)
        if owned is not None and owned.partition.incarnation == query.incarnation:
            owned.query_mark.release(query.offset)

    def expire(self) -> None:
        """Send the errors of queries whose time is nearly over."""
        now = self.now_ms()
        for query in self.deadlines.due(now):
            owned = self.owned.get(query.partition)
            if owned is None:
                continue
            owned.partition.forget(query)
            if now >= query.deadline_ms:
                self._finish(query, "expired")
            elif query.waits_for_store:
                self.refuse(
                    query, STORE_UNAVAILABLE, "the user is not resident and could not be loaded"
                )
            else:
                self.refuse(query, NOT_CAUGHT_UP, self._why_not(owned.partition, query))

    def leave_queries(self, partition: Partition) -> None:
        """A partition goes: its waiting queries are the next owner's."""
        for query in partition.leave_queries():
            query.done = True
            self.waiting_queries -= query.waiting

    def _why_not(self, partition: Partition, query: Query) -> str:
        if not partition.caught_up:
            return (
                f"partition {partition.number} is at offset {partition.position}, catching up to "
                f"{partition.catch_up_to}"
            )
        return (
            f"partition {partition.number} has been applied to offset {partition.position}, not "
            f"yet past {query.get.after_offset}"
        )

    # -- effects ------------------------------------------------------------------------------

    def load(self, partition: Partition, user_id: int, ticket: int) -> None:
        self.loader.want(partition, user_id, ticket)

    def dead_letter(self, partition: Partition, record: Any, reason: str, text: str) -> None:
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
        self.output.dead_letter(
            record,
            partition.number,
            reason,
            lambda: partition.dead_letter_kept(incarnation, offset),
        )

    def answer(
        self, query: Query, version: int, full: bool, rows: list[ReadState], hit: bool
    ) -> None:
        body = encode_reply(query.get.user_id, version, full, rows)
        if len(body) > self.settings.reply_bytes_max:
            self.refuse(
                query,
                REPLY_TOO_LARGE,
                f"{len(rows)} read states are {len(body)} bytes, over the "
                f"{self.settings.reply_bytes_max} allowed; ask for channel_ids, one "
                "read_state_type, or since_version",
            )
            return
        if self.now_ms() >= query.deadline_ms:  # Q2
            self._finish(query, "expired")
            return
        self.output.reply(query.address, query.key, body)
        metrics.QUERY_SERVICE_SECONDS.observe((time.perf_counter_ns() - query.taken_ns) / 1e9)
        metrics.QUERY_AGE_SECONDS.observe(max(0.0, time.time() - query.timestamp_ms / 1000))
        self._finish(query, "hit" if hit else "miss")

    def refuse(self, query: Query, code: str, text: str) -> None:
        self.output.error(query.address, query.key, query.get.user_id, code, text)
        self._finish(query, "error")

    # -- once in a while ----------------------------------------------------------------------

    async def write_out(self) -> bool:
        """Start the writes that are due; False where nothing is dirty at all."""
        live = [o.partition for o in self.owned.values() if not o.partition.closing]
        return await self.write_behind.turn(live, now_ms=self.now_ms(), everything=False)

    @property
    def ready(self) -> tuple[bool, str]:
        """Are all partitions caught up and open for queries? And why not."""
        if not self.owned:
            return False, "no partition is assigned to this worker"
        late = [o.partition for o in self.owned.values() if not o.partition.caught_up]
        if late:
            parts = ", ".join(f"{p.number}: {p.position}/{p.catch_up_to}" for p in late[:8])
            return False, f"catching up: {parts}"
        return True, f"{len(self.owned)} partitions"
