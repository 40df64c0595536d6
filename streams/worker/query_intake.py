"""Takes queries from Kafka. Each query ends with a reply, with an error, or at its deadline.

How it works. The thread that reads queries calls `answer_now`. It answers a query at once if the
partition has caught up and the table has the user's read states. The first query that needs more,
and all queries after it in its batch, go to `take_queries` on the event loop. Until the event loop
has taken them, later batches of the partition go there too, to keep the order.

Both methods read the reply address, the deadline and the question from the record, and pass the
query to its partition. The partition answers it (`answer`) or keeps it. `expire` ends queries that
have waited too long. An unknown reply topic is first looked up in the cluster's metadata, because
the client may have just created it. A *probe* is a query that a worker sends to itself.

Q1: an owner of the partition ends a query once: with a reply, with an error, or without an answer
    after the deadline. Only then may commits pass the query's offset.
Q2: nothing is sent at or after a query's deadline. A deadline that depends on the record's
    timestamp follows the broker's clock, even if the worker's clock is wrong (`broker_clocks.py`).
Q3: a reply shows the read states after all updates up to the reply's version. The same is true of a
    reply that has only the changes since `since_version`, once the client has merged these changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from readstates.schemas.fields import DecodeError
from readstates.schemas.headers import HEADER_CLOCK, Headers, ReplyAddress, reply_address
from readstates.schemas.probes import HEADER_PROBE, probe_mark
from readstates.schemas.replies import (
    INVALID_QUERY,
    NOT_CAUGHT_UP,
    OVERLOADED,
    REPLY_TOO_LARGE,
    STORE_UNAVAILABLE,
    Answer,
    encode_reply,
)
from readstates.schemas.reply_sizes import limit_that_fits, shortened, too_large

from .. import metrics
from ..config import Settings
from ..errors import BatchGapError
from ..kafka.reply_producer import ReplyProducer
from ..partition.batch import Batch, Record
from ..partition.partition import Partition
from ..partition.query import Deadlines, Query
from ..priorities import DATABASE, LOOP, POSITION, QUERIES
from .owned import OwnedPartition
from .query_record import query_of, size_of

log = logging.getLogger(__name__)

NO_ADDRESS_LOG_S = 60.0  # minimum time between two log lines about unusable reply addresses
EXPIRED_LOG_S = 60.0  # minimum time between two log lines about expired queries
WAITING_BYTES_MAX = 64 << 20  # Without this limit, 10,000 waiting queries could take over 400 MB.
LOOKUP_BYTES_MAX = 64 << 20  # limit for the queries whose reply topics are being looked up
TOPIC_LOOKUPS_MAX = 3  # after so many lookups, at least a second apart, a topic counts as missing


def note_wait(work: str, waited_ns: int, queries: int = 1) -> None:
    """Count the time for which queries waited for other work of this worker."""
    metrics.QUERY_WAITS[work].inc(waited_ns / 1e9 * queries)


class QueryIntake:
    """See the module docstring. `owned` belongs to `Partitions`; this class only reads it."""

    def __init__(
        self,
        settings: Settings,
        owned: Mapping[int, OwnedPartition],
        replies: ReplyProducer,
        now_ms: Callable[[], int],
        clock_ahead_ms: Callable[[int], int] = lambda _number: 0,
    ) -> None:
        self.some_wait = asyncio.Event()  # set while queries wait for `expire` to check them
        self.waiting = 0  # queries that wait in partitions, at most QUERIES_WAITING_MAX
        self.waiting_bytes = 0  # their total size, at most WAITING_BYTES_MAX
        self._settings = settings
        self._owned = owned
        self._replies = replies
        self._now_ms = now_ms
        self._clock_ahead_ms = clock_ahead_ms  # our clock minus the broker's, for a partition
        self._probe_mark = probe_mark(settings.kafka_group if settings.is_candidate else "")
        self._deadlines = Deadlines()
        self._lookups = 0  # queries whose reply topic is being looked up
        self._lookup_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio keeps only weak references.
        self._no_address_logged = 0.0
        self._expired_logged = -EXPIRED_LOG_S
        self._expired = 0  # queries that expired since the last log line about them

    # -- taking -------------------------------------------------------------------------------

    def take_queries(self, number: int, token: int, batch: Batch) -> None:
        """Take a batch of queries, and answer, refuse or keep each of them.

        Drops a batch whose `token` is not the partition's incarnation, which is one opening of the
        partition. Raises BatchGapError if queries are missing before the batch.
        """
        owned = self._owned.get(number)
        if owned is None or not owned.is_open(token):
            return
        if batch.start != owned.query_position:
            raise BatchGapError(
                f"queries of partition {number}: a batch begins at offset {batch.start} instead of "
                f"{owned.query_position}. The worker stops. After a restart, it reads the missing "
                "queries from Kafka"
            )
        owned.clock_ahead_ms = self._clock_ahead_ms(number)
        now_ns = time.perf_counter_ns()
        taken_ns = batch.taken_ns or now_ns
        note_wait(LOOP, now_ns - taken_ns, len(batch.records))
        with owned.partition.exclusive(QUERIES):
            for record in batch.records:
                owned.query_position = record.offset + 1
                self._take_query(owned, record, taken_ns)
            owned.query_position = batch.end
            if batch.end < batch.start:  # Somebody deleted the topic and created it again.
                owned.query_mark.begin_anew(batch.end)

    def answer_now(self, number: int, token: int, batch: Batch) -> Batch | None:
        """Answer queries in the calling thread; returns the rest of the batch for `take_queries`.

        The rest begins with the first query that cannot be answered at once. While `take_queries`
        still has to take earlier queries, the rest is the whole batch. None means that nothing is
        left.
        """
        owned = self._owned.get(number)
        if owned is None:
            return batch
        exclusive = owned.partition.exclusive
        if not exclusive.enter_if_free():
            work, since_ns = exclusive.work, time.perf_counter_ns()
            exclusive.enter()
            note_wait(work, time.perf_counter_ns() - since_ns, len(batch.records))
        try:
            is_next = batch.start == owned.query_position and batch.end >= batch.start
            if not owned.is_open(token) or not is_next:
                return batch
            owned.clock_ahead_ms = self._clock_ahead_ms(number)
            for index, record in enumerate(batch.records):
                if not self._answer_now(owned, record, batch.taken_ns):
                    start, records = owned.query_position, batch.records[index:]
                    return batch._replace(start=start, records=records)
                owned.query_position = record.offset + 1
            owned.query_position = batch.end
        finally:
            exclusive.leave()
        return None

    def _answer_now(self, owned: OwnedPartition, record: Record, taken_ns: int) -> bool:
        """Answer a query now. False if it needs more than the table, or if it is malformed."""
        headers = dict(record.headers)
        address = reply_address(headers)
        if address is None:
            return HEADER_CLOCK in headers  # A record for comparing clocks needs no answer.
        if not self._replies.exists(address):
            return False
        try:
            query = query_of(owned, record, address, headers, taken_ns)
        except DecodeError:
            return False
        if self._now_ms() >= query.deadline_ms or not owned.partition.queries.is_ready(query.get):
            return False
        owned.query_mark.hold(record.offset)  # Q1
        owned.partition.queries.ask(query)
        return True

    def _take_query(self, owned: OwnedPartition, record: Record, taken_ns: int) -> None:
        headers = dict(record.headers)
        address = reply_address(headers)
        is_probe = HEADER_PROBE in headers
        if is_probe and headers[HEADER_PROBE] != self._probe_mark:
            return  # Another group sent this probe, and only its own workers answer it.
        if address is None or (
            not (known := self._replies.exists(address, is_probe))
            and not self._replies.allowed(address.topic, is_probe)
        ):
            if address is not None or HEADER_CLOCK not in headers:
                self._no_address(owned, record, address)
            return
        owned.query_mark.hold(record.offset)  # Q1
        if known:
            self._read_query(owned, record, address, headers, taken_ns)
        elif (
            self._lookups >= self._settings.queries_waiting_max
            or self._lookup_bytes >= LOOKUP_BYTES_MAX
        ):
            self._no_address(owned, record, address)
            owned.query_mark.release(record.offset)
        else:
            self._lookups += 1
            self._lookup_bytes += size_of(record)
            task = asyncio.create_task(
                self._look_up_topic(owned, record, address, headers, taken_ns)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _read_query(
        self,
        owned: OwnedPartition,
        record: Record,
        address: ReplyAddress,
        headers: Headers,
        taken_ns: int,
    ) -> None:
        try:
            query = query_of(owned, record, address, headers, taken_ns)
        except DecodeError as exc:
            if HEADER_PROBE not in headers:
                metrics.QUERIES_ENDED["error"].inc()
            number = owned.partition.number
            self._replies.error(
                address, record.key, exc.user_id, INVALID_QUERY, str(exc), partition=number
            )
            owned.query_mark.release(record.offset)
            return
        now = self._now_ms()
        if now >= query.deadline_ms:  # Q2
            self._expire_one(query)
        elif (
            self.waiting >= self._settings.queries_waiting_max
            or self.waiting_bytes + query.size_bytes > WAITING_BYTES_MAX
        ):
            self.refuse(query, OVERLOADED, "too many queries are waiting; ask again later")
        else:
            owned.partition.queries.ask(query)
            if not query.done:
                self.waiting += 1
                self.waiting_bytes += query.size_bytes
                query.waiting = True
                self._deadlines.add(query, now)
                self.some_wait.set()

    # -- reply addresses ----------------------------------------------------------------------

    async def _look_up_topic(
        self,
        owned: OwnedPartition,
        record: Record,
        address: ReplyAddress,
        headers: Headers,
        taken_ns: int,
    ) -> None:
        """Look up an unknown reply topic in the cluster. Then read the query, or drop it."""
        incarnation, is_probe = owned.partition.incarnation, HEADER_PROBE in headers
        try:
            for _ in range(TOPIC_LOOKUPS_MAX):
                if self._replies.exists(address, is_probe):  # Another query may have found it.
                    break
                await self._replies.refresh()
        finally:
            self._lookups -= 1
            self._lookup_bytes -= size_of(record)
        if self._owned.get(owned.partition.number) is not owned or (
            owned.partition.incarnation != incarnation
        ):
            return
        with owned.partition.exclusive(QUERIES):
            if self._replies.exists(address, is_probe):
                self._read_query(owned, record, address, headers, taken_ns)
            else:
                self._no_address(owned, record, address)
                owned.query_mark.release(record.offset)

    def _no_address(
        self, owned: OwnedPartition, record: Record, address: ReplyAddress | None
    ) -> None:
        metrics.QUERIES_ENDED["no_reply_address"].inc()
        if time.monotonic() - self._no_address_logged > NO_ADDRESS_LOG_S:
            self._no_address_logged = time.monotonic()
            log.warning(
                "no_reply_address topic=%s partition=%d offset=%d reply_topic=%.80r: the header "
                "kafka_replyTopic of a query must name an existing topic that matches "
                "REPLY_TOPICS, %s",
                self._settings.queries_topic,
                owned.partition.number,
                record.offset,
                address and address.topic,
                self._settings.reply_topic_pattern.pattern,
            )

    # -- ending -------------------------------------------------------------------------------

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        """Send a partition's answer as the reply. Partitions call this through `Effects`."""
        get, bytes_max = query.get, self._settings.reply_bytes_max
        body = encode_reply(get.user_id, answer, get.mentions)
        if len(body) > bytes_max:
            # A page may have fewer read states than `limit`, so it can be shortened.
            page = None if get.limit is None else shortened(answer, body, bytes_max)
            if page is None:
                limit = limit_that_fits(body, bytes_max)
                text = too_large(len(body), f"REPLY_BYTES_MAX ({bytes_max})", limit)
                self.refuse(query, REPLY_TOO_LARGE, text, limit)
                return
            body = encode_reply(get.user_id, page, get.mentions)
        if self._now_ms() >= query.deadline_ms:  # Q2
            self._expire_one(query)
            return
        self._replies.reply(query.address, query.key, body, query.deadline_ms, query.partition)
        if not query.is_probe:
            metrics.QUERY_SERVICE_SECONDS.observe((time.perf_counter_ns() - query.taken_ns) / 1e9)
            metrics.QUERY_AGE_SECONDS.observe(max(0.0, time.time() - query.timestamp_ms / 1000))
        self._finish(query, "hit" if hit else "miss")

    def refuse(self, query: Query, code: str, text: str, limit: int | None = None) -> None:
        """End a query with an error."""
        user_id, deadline_ms = query.get.user_id, query.deadline_ms
        self._replies.error(
            query.address, query.key, user_id, code, text, limit, deadline_ms, query.partition
        )
        self._finish(query, "error")

    def _expire_one(self, query: Query) -> None:
        """End a query without an answer (Q2). Log this at most once in EXPIRED_LOG_S."""
        self._expired += 1
        if time.monotonic() - self._expired_logged > EXPIRED_LOG_S:
            self._expired_logged = time.monotonic()
            log.warning(
                "queries_expired count=%d topic=%s partition=%d offset=%d age_ms=%d given_ms=%d: "
                "no reply is sent after a query's deadline. If the client allowed too little time "
                "(given_ms), check the client's clock and its deadline. Otherwise, find out why "
                "the query is so old (age_ms)",
                self._expired,
                self._settings.queries_topic,
                query.partition,
                query.offset,
                self._now_ms() - query.timestamp_ms,
                query.deadline_ms - query.timestamp_ms,
            )
            self._expired = 0
        self._finish(query, "expired")

    def _finish(self, query: Query, outcome: str) -> None:
        if not query.is_probe:
            metrics.QUERIES_ENDED[outcome].inc()
        query.done = True  # Q1
        if query.waiting:
            self.waiting -= 1
            self.waiting_bytes -= query.size_bytes
            work = DATABASE if query.waits_for_store else POSITION
            note_wait(work, time.perf_counter_ns() - query.taken_ns)
        owned = self._owned.get(query.partition)
        if owned is not None and owned.partition.incarnation == query.incarnation:
            owned.query_mark.release(query.offset)

    def expire(self) -> None:
        """Send an error for each waiting query whose deadline is near.

        A query that is already past its deadline ends without an error.
        """
        if not self.waiting:
            self.some_wait.clear()
        now = self._now_ms()
        for query in self._deadlines.due(now):
            owned = self._owned.get(query.partition)
            if owned is None:
                continue
            with owned.partition.exclusive(QUERIES):
                owned.partition.queries.forget(query)
                if now >= query.deadline_ms:  # Q2
                    self._expire_one(query)
                elif query.waits_for_store:
                    self.refuse(
                        query, STORE_UNAVAILABLE, "the user's read states could not be loaded"
                    )
                else:
                    self.refuse(query, NOT_CAUGHT_UP, _why_not(owned.partition, query))

    def drop_queries(self, partition: Partition) -> None:
        """Drop the waiting queries of a partition, because its next owner will read them."""
        for query in partition.queries.unanswered():
            query.done = True
            if query.waiting:
                self.waiting -= 1
                self.waiting_bytes -= query.size_bytes


def _why_not(partition: Partition, query: Query) -> str:
    if not partition.progress.caught_up:
        return (
            f"partition {partition.number} is at offset {partition.position}, catching up to "
            f"{partition.progress.catch_up_to}"
        )
    after = query.get.after_offset
    past = (
        "the update that last changed this user's rows in the database"
        if after is None
        else f"the update at offset {after}"
    )
    return (
        f"partition {partition.number} is at offset {partition.position} and has not yet applied "
        f"{past}"
    )
