"""Steps: what each step of the hot path costs, one at a time, without servers.

    make bench BENCHES=steps

Users are resident; updates are plain acks, and queries ask for a whole user with 8 read states, as
ARCHITECTURE's page on the hot path says. The bench calls the real code of each step in a loop; the
work of Kafka's client library to send a reply is not included (`service_time` has it). There is no
peer and no goal: the bench shows where the time goes.
"""

from __future__ import annotations

import itertools
import mmap
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
from confluent_kafka import Producer

from readstates.cache import layout
from readstates.cache.table import Table
from readstates.cache.tablefile import TableIdentity, new_header
from readstates.schemas.headers import deadline_ms, reply_address
from readstates.schemas.queries import decode_query
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer, encode_reply
from readstates.schemas.wire import decode_update
from readstates.streams import metrics
from readstates.streams.kafka.record_batches import FetchedBatches
from readstates.streams.kafka.unpack import Unpacker
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.decode_buffer import DecodeBuffer
from readstates.streams.partition.partition import Partition

from .record_batch import record_batch
from .suite import NO_GOAL, Suite

USERS = 2_000
STATES = 8
RECORDS = USERS * STATES
FETCH = 1_000  # records of a fetched batch
EPOCH = 1
QUERY_HEADERS = {
    "kafka_replyTopic": b"read-states.replies.bench",
    "kafka_correlationId": b"7",
    "read-states-deadline": b"9999999999999",
}
NOWHERE = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "delivery.report.only.error": True}


class Nothing:
    """Effects that only note the last answer, and the users to be loaded."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.loads: list[tuple[int, int]] = []  # user ID, ticket

    def answer(self, _query: Any, answer: Answer, _hit: bool) -> None:
        self.rows = answer.rows

    def load(self, _partition: Partition, user_id: int, ticket: int, _asked: bool) -> None:
        self.loads.append((user_id, ticket))

    def dead_letter(self, _p: Partition, _record: Any, reason: str, text: str) -> None:
        raise AssertionError(f"{reason}: {text}")


def events(first: int) -> list[tuple[bytes, bytes]]:
    """(key, value) of an ack for every read state; message IDs count up from `first`."""
    return [
        (
            b"%d" % (10**17 + user),
            orjson.dumps(
                {
                    "type": "ack",
                    "user_id": 10**17 + user,
                    "channel_id": 10**17 + channel,
                    "message_id": 10**18 + first + channel,
                }
            ),
        )
        for channel, user in itertools.product(range(STATES), range(USERS))
    ]


def encoded(given: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The acks as record batches of FETCH records each."""
    return [
        record_batch(0, given[begin : begin + FETCH], 1_700_000_000_000)
        for begin in range(0, len(given), FETCH)
    ]


def unpack(batches: list[bytes]) -> None:
    unpacker = Unpacker()
    for batch in batches:
        FetchedBatches(batch, (), 0, FETCH, unpacker, keep_unread=True).take(FETCH, 1 << 30)


def timed(work: Callable[[], object], count: int, rounds: int) -> list[float]:
    """Microseconds of CPU per call, one figure per round."""
    found = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        work()
        found.append((time.thread_time_ns() - begin) / 1000 / count)
    return found


def run(suite: Suite) -> None:
    """Run each step in turn."""
    rounds = 3 if suite.quick else 9
    steps: dict[str, list[float]] = {}
    given = events(0)
    values = [value for _, value in given]
    batches = encoded(given)
    steps["update: record out of the fetched batch"] = timed(
        lambda: unpack(batches), RECORDS, rounds
    )
    steps["update: decode the event"] = timed(
        lambda: [decode_update(value) for value in values], RECORDS, rounds
    )
    partition, effects = _warm(given)
    steps["update: find, touch, ack in the table"] = _table(partition.table, rounds)
    steps["update: the whole fold, decoding included"] = _fold(partition, rounds)
    _queries(partition, effects, steps, rounds)
    for what, figures in steps.items():
        suite.bound(what, figures, "µs", NO_GOAL)
    suite.measured["steps_us"] = {what: statistics.median(x) for what, x in steps.items()}
    suite.leave_out("sending the reply, and Faust's and asyncio's share of a poll (service_time)")


def _warm(given: list[tuple[bytes, bytes]]) -> tuple[Partition, Nothing]:
    slots = layout.slots_for(2 * (RECORDS + USERS))
    buffer = mmap.mmap(-1, layout.table_size_bytes(slots))
    buffer[: layout.HEADER_BYTES] = new_header(TableIdentity(bytes(16), EPOCH, 0, "bench"), slots)
    table = Table(buffer, 100)
    effects = Nothing()
    partition = Partition(
        0, table=table, position=0, committed=0, catch_up_to=0, epoch=EPOCH, partitions=1,
        incarnation=1, parked_max=10**6, parked_bytes_max=1 << 40, inbox_max=10**9,
        inbox_bytes_max=1 << 40, reader=DecodeBuffer(), effects=effects,
    )  # fmt: skip
    partition.note_live_commit()
    _take(partition, given)
    for user_id, ticket in effects.loads:
        partition.loaded(partition.incarnation, user_id, ticket, [])
    partition.check()
    return partition, effects


def _take(partition: Partition, given: list[tuple[bytes, bytes]]) -> None:
    begin = partition.position
    records = [
        SimpleNamespace(offset=begin + number, key=key, value=value, timestamp=1)
        for number, (key, value) in enumerate(given)
    ]
    partition.take(Batch(begin, records, begin + len(records)))
    while partition.inbox:
        partition.run(1_000, 1)


def _table(table: Table, rounds: int) -> list[float]:
    ids = [(10**17 + user, 10**17 + c) for c in range(STATES) for user in range(USERS)]
    message, version = itertools.count(10**18 + 10**6), itertools.count((EPOCH << 48) + 10**6)

    def work() -> None:
        find, touch, ack = table.find, table.touch, table.ack
        for user_id, channel_id in ids:
            user = find(user_id)
            touch(user)
            ack(user, 0, channel_id, next(message), -1, -1, next(version))

    return timed(work, RECORDS, rounds)


def _fold(partition: Partition, rounds: int) -> list[float]:
    figures = []
    # newer than everything that `_table` wrote
    partition.progress.position = partition.inbox.next_arrival = 10**8
    for number in range(rounds):
        given = events(10**9 * (number + 1))
        begin = partition.position
        records = [
            SimpleNamespace(offset=begin + n, key=key, value=value, timestamp=1)
            for n, (key, value) in enumerate(given)
        ]
        partition.take(Batch(begin, records, begin + len(records)))

        def work() -> None:
            while partition.inbox:
                partition.run(1_000, 1)

        figures += timed(work, RECORDS, 1)
    return figures


def _queries(
    partition: Partition, effects: Nothing, steps: dict[str, list[float]], rounds: int
) -> None:
    value = b'{"type":"get","user_id":"%d"}'
    values = [value % (10**17 + user) for user in range(USERS)]
    batches = encoded([(one[24:42], one) for one in values])
    steps["query: record out of the batch, in the thread"] = timed(
        lambda: unpack(batches), USERS, rounds
    )
    headers = [dict(QUERY_HEADERS) for _ in values]
    steps["query: reply address, deadline, question"] = timed(
        lambda: [
            (reply_address(found), deadline_ms(found, 5), decode_query(one))
            for found, one in zip(headers, values, strict=True)
        ],
        USERS,
        rounds,
    )
    gets = [decode_query(one) for one in values]
    asked = [SimpleNamespace(get=get) for get in gets]
    steps[f"query: find, touch, read {STATES} read states"] = timed(
        lambda: [partition.queries.ask(query) for query in asked],  # type: ignore[func-returns-value,arg-type]
        USERS,
        rounds,
    )
    steps["query: two histograms, a counter"] = timed(
        lambda: [_measured() for _ in values],  # type: ignore[func-returns-value]
        USERS,
        rounds,
    )
    rows = effects.rows
    assert len(rows) == STATES
    steps[f"query: encode the reply of {STATES} read states"] = timed(
        lambda: [encode_reply(get.user_id, Answer(1, True, rows), get.mentions) for get in gets],
        USERS,
        rounds,
    )
    body = encode_reply(gets[0].user_id, Answer(1, True, rows), False)
    producer = Producer(NOWHERE)  # its queue is never sent, and is dropped at the end
    steps["query: hand the reply to the producer"] = timed(
        lambda: [
            producer.produce("t", body, b"k", headers=[("kafka_correlationId", b"7")])
            for _ in values
        ],
        USERS,
        rounds,
    )
    producer.purge()


def _measured() -> None:
    metrics.QUERY_SERVICE_SECONDS.observe(0.0004)
    metrics.QUERY_AGE_SECONDS.observe(0.004)
    metrics.QUERIES_ENDED["hit"].inc()
