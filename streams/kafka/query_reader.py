"""Reads queries from Kafka through librdkafka, so that they need not wait for aiokafka's Python.

aiokafka asks a broker for all partitions in one request. Python writes it and reads the response,
and aiokafka does not ask again until the response has been taken: a query would wait behind each
request, and behind a backlog of updates. Here a thread waits for nothing but queries, and puts each
poll into the channel of the queries' Faust agent. Faust's conductor is left out, because it needs a
task, a lock and three iterations of the loop for each poll. Group membership is left to aiokafka:
it says which partitions are ours, and commits.

A batch that librdkafka cannot read is skipped as a whole. librdkafka reports an error with the
batch's first offset, reads nothing of the partition after it, and fetches the same batch again
every half second, for ever. It does not say where the batch ends, so aiokafka asks the broker for
that, and the thread reads the partition from there on. A seek ends librdkafka's pause, but not its
fetch of the broker's other partitions, which may wait for FETCH_WAIT_MS. If the batches after the
unreadable one cannot be read either, all of them are skipped together.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import faust
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from .. import metrics
from ..config import Settings
from ..errors import GroupError
from ..partition.batch import Batch, Poll, Skipped
from .outside_log import lost_queries

log = logging.getLogger(__name__)
_headers = operator.methodcaller("headers")  # a checked call: see `record_of`

POLL_QUERIES = 64  # queries that a poll takes: answering them takes about a millisecond
POLLS_AHEAD = 4  # polls on their way to the agent; the thread reads no further ahead
IDLE_S = 0.05  # wait of an empty poll; a query that arrives ends the wait at once
BUFFERED_KIB = 8 << 10  # that librdkafka reads ahead
FETCH_BYTES_MAX = 1 << 20  # of a broker's response; a single batch may be larger
PARTITION_FETCH_BYTES = 64 << 10  # of a partition, compressed: librdkafka unpacks all at once
# The most that a zstd batch may unpack to: librdkafka limits it to the largest response allowed.
# For gzip, lz4 and snappy librdkafka has no such limit: see SECURITY.md.
UNPACKED_BYTES_MAX = 4 << 20
FETCH_WAIT_MS = 500  # wait of an idle fetch; a query that arrives ends the wait at once
FETCH_BACKOFF_MS = 1  # before the next fetch, when enough is buffered
ENDS_INTERVAL_S = 1.0  # how often the partitions' ends are noted
ERROR_LOG_S = 60.0
CLOSE_TIMEOUT_S = 2.0
BATCH_END_TIMEOUT_S = 1.0  # for the broker's answer; without one, librdkafka repeats the error
UNREADABLE = {KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._NOT_IMPLEMENTED}


class QueryRecord(NamedTuple):
    """A query as it is in the log: a `Record` of `streams/partition/batch.py`."""

    offset: int
    timestamp: int  # ms since the epoch
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class QueryAssignment:
    """The partitions to read, each from its position on, until another assignment replaces it."""

    def __init__(self, positions: Mapping[int, int]) -> None:
        self.positions = positions
        self.room = threading.Semaphore(POLLS_AHEAD)


class QueryChannel(faust.Channel):  # type: ignore[misc]
    """The queue from the reader's thread to the agent; one event carries everything queued.

    While a backlog of updates is being folded, the agent runs only now and then. POLLS_AHEAD limits
    the polls that wait. Faust empties its own queue when the flow resumes after a rebalance; this
    queue is not emptied.
    """

    _queue: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: deque[tuple[QueryAssignment, Poll]] = deque()

    @property
    def queue(self) -> Any:
        if self._queue is None:
            self._queue = self.app.FlowControlQueue(maxsize=0, clear_on_resume=False)
        return self._queue

    def put_now(self, assignment: QueryAssignment, poll: Poll) -> None:
        """Hand a poll to the agent, which empties the queue."""
        self._waiting.append((assignment, poll))
        if len(self._waiting) == 1:
            for subscriber in self._subscribers:
                subscriber.queue.put_nowait(self._waiting)


class QueryReader:
    """A thread that reads the queries of this worker's partitions.

    `put` is called on the loop with each poll. Whoever takes the poll releases its place in
    `QueryAssignment.room`, and drops the poll if its assignment is no longer `assignment`. `refuse`
    is called on the loop with the error that ends the worker. `behind_unreadable` says, on the
    loop, what to skip if the batch that holds a partition's offset cannot be read; None if that is
    not known yet. Only the thread uses the consumer: confluent-kafka runs one call after the other,
    and a poll that waits blocks all other calls.
    """

    def __init__(
        self,
        settings: Settings,
        put: Callable[[QueryAssignment, Poll], None],
        refuse: Callable[[Exception], None],
        behind_unreadable: Callable[[int, int], Coroutine[Any, Any, Skipped | None]],
    ) -> None:
        self._settings = settings
        self._topic = settings.queries_topic
        self._put, self._refuse, self._behind_unreadable = put, refuse, behind_unreadable
        self.assignment = QueryAssignment({})
        self._ends: dict[int, int] = {}
        self._stopping = threading.Event()
        self._error_logged = -ERROR_LOG_S
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(
            self._settings.librdkafka(
                **{
                    "client.id": "read-states-queries",
                    "group.id": self._settings.kafka_group,  # a group that it does not join
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",
                    "enable.partition.eof": True,  # says how far control records reach
                    "isolation.level": "read_committed",
                    "queued.max.messages.kbytes": BUFFERED_KIB,
                    "fetch.max.bytes": FETCH_BYTES_MAX,
                    "max.partition.fetch.bytes": PARTITION_FETCH_BYTES,
                    "receive.message.max.bytes": UNPACKED_BYTES_MAX,
                    "fetch.wait.max.ms": FETCH_WAIT_MS,
                    "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
                }
            ),
            logger=log,
        )
        self._thread = threading.Thread(target=self._run, name="queries", daemon=True)
        self._thread.start()

    def read_from(self, positions: Mapping[int, int]) -> None:
        """Read these partitions, each from its position, and no others; begins within IDLE_S."""
        self.assignment = QueryAssignment(positions)
        if self._thread is None:
            self._start()

    def stop_reading(self) -> None:
        """Read nothing, until `read_from`."""
        self.assignment = QueryAssignment({})

    def end(self, number: int) -> int | None:
        """A partition's end, at most ENDS_INTERVAL_S old; None if it is not known yet."""
        return self._ends.get(number)

    def close(self) -> None:
        """End the thread, and the connections."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    # -- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read()
        except Exception as exc:  # noqa: BLE001 (a bug; without this thread nobody is answered)
            self._loop.call_soon_threadsafe(self._refuse, exc)
        finally:
            self._consumer.close()

    def _read(self) -> None:
        assignment, positions, note_ends_at = None, {}, 0.0
        while not self._stopping.is_set():
            if self.assignment is not assignment:  # so that each poll belongs to one assignment
                assignment = self.assignment
                positions = dict(assignment.positions)
                self._consumer.assign(
                    [TopicPartition(self._topic, number, at) for number, at in positions.items()]
                )
            if time.monotonic() > note_ends_at:
                note_ends_at = time.monotonic() + ENDS_INTERVAL_S
                self._ends = dict(self._known_ends(positions))
            if not assignment.room.acquire(timeout=IDLE_S):
                continue
            poll = self._poll(positions)
            if poll:
                self._loop.call_soon_threadsafe(self._put, assignment, poll)
            else:
                assignment.room.release()

    def _known_ends(self, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
        for number in numbers:
            place = TopicPartition(self._topic, number)
            ends = self._consumer.get_watermark_offsets(place, cached=True)
            if ends is not None and ends[1] >= 0:
                yield number, ends[1]

    def _poll(self, positions: dict[int, int]) -> Poll:
        """Take at most POLL_QUERIES queries, by partition; moves the positions past them."""
        first = self._consumer.poll(IDLE_S)
        if first is None:
            return []
        taken_ns = time.perf_counter_ns()
        records: dict[int, list[QueryRecord]] = {}
        ends: dict[int, int] = {}
        for message in (first, *self._consumer.consume(POLL_QUERIES - 1, 0)):
            error, number = message.error(), message.partition()
            if error is None:
                record = record_of(message)
                records.setdefault(number, []).append(record)
                ends[number] = record.offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.offset() > ends.get(number, positions[number]):
                    ends[number] = message.offset()
            elif error.code() in UNREADABLE and number in positions:
                at = max(message.offset(), ends.get(number, positions[number]))
                end = self._skip(number, at, error)
                if end is not None:
                    ends[number] = end
            else:
                self._loop.call_soon_threadsafe(self._failed, error, number)
        poll = [
            (number, Batch(positions[number], records.get(number, []), end, taken_ns))
            for number, end in ends.items()
        ]
        positions.update(ends)
        return poll

    def _skip(self, number: int, offset: int, error: KafkaError) -> int | None:
        """Skip the batch that holds `offset`; returns the offset from which reading continues.

        None if that could not be done yet; librdkafka repeats the error in half a second.
        """
        asked = asyncio.run_coroutine_threadsafe(
            self._behind_unreadable(number, offset), self._loop
        )
        try:
            skipped = asked.result(BATCH_END_TIMEOUT_S)
            if skipped is not None:
                self._consumer.seek(TopicPartition(self._topic, number, skipped.end))
        except (TimeoutError, KafkaException) as exc:
            asked.cancel()
            log.warning(
                "query_batch_stays topic=%s partition=%d offset=%d: it cannot be read (%s), and "
                "cannot be skipped yet (%r); the worker tries again",
                self._topic,
                number,
                offset,
                error.str(),
                exc,
            )
            return None
        if skipped is None:
            return None
        metrics.QUERY_BATCHES_SKIPPED.inc(skipped.batches)
        log.warning(
            "query_batch_skipped topic=%s partition=%d offset=%d last_offset=%d batches=%d: %s. "
            "The queries in them get no answer. Look for their producer: it compresses too much "
            "into one batch, or compresses in a different way from Kafka's clients",
            self._topic,
            number,
            offset,
            skipped.end - 1,
            skipped.batches,
            error.str(),
        )
        return skipped.end

    # -- on the loop --------------------------------------------------------------------------

    def _failed(self, error: KafkaError, number: int) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._refuse(lost_queries(f"{self._topic} partition {number}"))
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._refuse(
                GroupError(
                    f"{self._topic}: this worker is not allowed to read it; SECURITY.md lists the "
                    "rights that a worker needs"
                )
            )
        elif time.monotonic() - self._error_logged > ERROR_LOG_S:
            self._error_logged = time.monotonic()
            log.warning("queries_not_read topic=%s error=%s", self._topic, error)


def record_of(message: Message) -> QueryRecord:
    """Make the record of a query; about 1 µs. If a header's key is not text, it has no headers.

    confluent-kafka returns such headers with an error pending. A checked call reports that as a
    SystemError. CPython does not check `message.headers()` once it has specialised the call, and
    the error would then surface later, in unrelated code.
    """
    try:
        headers = _headers(message) or []
    except (UnicodeDecodeError, SystemError):
        headers = []
    return QueryRecord(
        message.offset(), message.timestamp()[1], message.key(), message.value(), headers
    )
