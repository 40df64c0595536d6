"""The thread that reads queries, over a consumer that brings what it is told when it is told."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.errors import BatchGapError, DataLossError
from readstates.streams.kafka import query_reader
from readstates.streams.kafka.query_reader import (
    POLLS_AHEAD,
    UNREADABLE,
    QueryAssignment,
    QueryReader,
)
from readstates.streams.partition.batch import Batch, Poll, Skipped
from readstates.streams.worker.query_intake import QueryIntake


class Message:
    """A record, or with `code` an error."""

    def __init__(self, number: int, offset: int, code: int | None = None) -> None:
        self._number, self._offset, self._code = number, offset, code

    def error(self) -> Any:
        return None if self._code is None else KafkaError(self._code)

    def topic(self) -> str:
        return "read-states.queries"

    def partition(self) -> int:
        return self._number

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_000

    def key(self) -> bytes:
        return b"key"

    def value(self) -> bytes:
        return b"value"

    def headers(self) -> list[tuple[str, bytes]]:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


class FakeConsumer:
    """Gives a poll what stands in `polls`, or what is made then."""

    def __init__(self) -> None:
        self.polls: queue.Queue[list[Message] | Callable[[], list[Message]]] = queue.Queue()
        self.assigned: list[dict[int, int]] = []
        self.sought: list[tuple[int, int]] = []
        self.closed = False
        self._rest: list[Message] = []

    def assign(self, places: list[Any]) -> None:
        self.assigned.append({place.partition: place.offset for place in places})

    def seek(self, place: Any) -> None:
        self.sought.append((place.partition, place.offset))

    def poll(self, timeout: float) -> Message | None:
        try:
            found = self.polls.get(timeout=timeout)
        except queue.Empty:
            return None
        if callable(found):
            found = found()
        self._rest = found[1:]
        return found[0]

    def consume(self, _count: int, _timeout: float) -> list[Message]:
        rest, self._rest = self._rest, []
        return rest

    def get_watermark_offsets(self, place: Any, *, cached: bool) -> tuple[int, int] | None:
        assert cached
        return (0, 9) if place.partition == 0 else None

    def close(self) -> None:
        self.closed = True


class World:
    """A reader, what came of its assignments, what it refused; an agent takes while `open`."""

    def __init__(self, consumer: FakeConsumer) -> None:
        self.consumer = consumer
        self.put: list[tuple[QueryAssignment, Poll]] = []
        self.polls: list[Poll] = []  # those of the newest assignment
        self.refused: list[Exception] = []
        self.open = True
        self.ends: dict[tuple[int, int], int | None] = {}  # of unreadable batches, as asked for
        self.reader = QueryReader(Settings(), self._put, self.refused.append, self._behind)

    def _put(self, assignment: QueryAssignment, poll: Poll) -> None:
        self.put.append((assignment, poll))
        if self.open:
            self.take()

    async def _behind(self, number: int, offset: int) -> Skipped | None:
        end = self.ends[number, offset]
        return None if end is None else Skipped(end, 2)

    def take(self) -> None:
        for assignment, poll in self.put:
            if assignment is self.reader.assignment:
                self.polls.append(poll)
            assignment.room.release()
        self.put.clear()

    async def until(self, seen: Callable[[], Any]) -> None:
        for _ in range(500):
            if seen():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("did not come")

    def seen(self) -> list[tuple[int, int, list[int], int]]:
        """Partition, start, offsets, end of each batch delivered."""
        return [
            (number, batch.start, [record.offset for record in batch.records], batch.end)
            for poll in self.polls
            for number, batch in poll
        ]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    consumer = FakeConsumer()
    monkeypatch.setattr(query_reader, "Consumer", lambda *_args, **_more: consumer)
    world = World(consumer)
    yield world
    world.reader.close()


async def test_records_by_partition(world: World) -> None:
    world.reader.read_from({0: 5, 1: 7})
    world.consumer.polls.put([Message(0, 5), Message(1, 7), Message(0, 6)])
    await world.until(lambda: world.polls)
    assert world.seen() == [(0, 5, [5, 6], 7), (1, 7, [7], 8)]
    assert world.consumer.assigned == [{0: 5, 1: 7}]
    assert world.polls[0][0][1].records[0].headers == []  # a key that is no text
    assert (world.reader.end(0), world.reader.end(1)) == (9, None)


async def test_control_records_are_passed(world: World) -> None:
    end = KafkaError._PARTITION_EOF
    world.reader.read_from({0: 5, 1: 7})
    world.consumer.polls.put([Message(0, 6), Message(0, 9, end), Message(1, 7, end)])
    await world.until(lambda: world.polls)
    world.consumer.polls.put([Message(1, 11, end)])
    await world.until(lambda: len(world.polls) == 2)
    assert world.seen() == [(0, 5, [6], 9), (1, 7, [], 11)]


async def test_another_assignment_is_made_by_the_thread(world: World) -> None:
    world.reader.read_from({0: 5})
    world.consumer.polls.put([Message(0, 5)])
    await world.until(lambda: world.polls)
    world.reader.stop_reading()
    await world.until(lambda: len(world.consumer.assigned) == 2)
    world.reader.read_from({0: 5, 1: 0})
    await world.until(lambda: len(world.consumer.assigned) == 3)
    world.consumer.polls.put([Message(0, 5)])
    await world.until(lambda: len(world.polls) == 2)
    assert world.consumer.assigned == [{0: 5}, {}, {0: 5, 1: 0}]
    assert world.seen() == [(0, 5, [5], 6), (0, 5, [5], 6)]


async def test_a_poll_belongs_to_the_assignment_it_was_made_for(world: World) -> None:
    def late() -> list[Message]:
        world.reader.read_from({0: 5})
        return [Message(0, 5)]

    world.open = False
    world.reader.read_from({0: 5})
    first = world.reader.assignment
    world.consumer.polls.put(late)
    await world.until(lambda: world.put)
    assert world.put[0][0] is first
    world.take()
    assert world.polls == []


async def test_no_more_is_read_than_has_room(world: World) -> None:
    world.open = False
    world.reader.read_from({0: 0})
    for offset in range(POLLS_AHEAD + 3):
        world.consumer.polls.put([Message(0, offset)])
    await world.until(lambda: world.consumer.polls.qsize() == 3)
    await asyncio.sleep(0.1)
    assert world.consumer.polls.qsize() == 3
    world.open = True
    world.take()
    await world.until(lambda: len(world.polls) == POLLS_AHEAD + 3)


async def test_an_offset_outside_the_log_ends_the_worker(world: World) -> None:
    world.reader.read_from({3: 5})
    world.consumer.polls.put([Message(3, 5, KafkaError._AUTO_OFFSET_RESET)])
    await world.until(lambda: world.refused)
    assert isinstance(world.refused[0], DataLossError)
    said = str(world.refused[0])
    assert "read-states.queries partition 3: the next query to be read is outside" in said
    assert "No update is lost" in said
    assert "which" not in said  # a start has nothing to say of queries
    assert "read-states.queries partition 3: " in str(world.refused[0])


async def test_other_errors_are_said_and_reading_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.reader.read_from({0: 5})
    world.consumer.polls.put([Message(-1, -1, KafkaError._ALL_BROKERS_DOWN)])
    world.consumer.polls.put([Message(0, 5)])
    await world.until(lambda: world.polls)
    assert "queries_not_read topic=read-states.queries" in caplog.text


@pytest.mark.parametrize("code", sorted(UNREADABLE))
async def test_a_batch_that_cannot_be_read_is_skipped(
    world: World, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    before = metrics.QUERY_BATCHES_SKIPPED._value.get()
    world.reader.read_from({0: 5, 1: 7})
    world.ends[0, 6] = 9  # it has offsets 6, 7 and 8
    world.consumer.polls.put([Message(0, 5), Message(0, 6, code), Message(1, 7)])
    world.consumer.polls.put([Message(0, 9)])
    await world.until(lambda: len(world.polls) == 2)
    assert world.consumer.sought == [(0, 9)]
    assert world.seen() == [(0, 5, [5], 9), (1, 7, [7], 8), (0, 9, [9], 10)]
    assert metrics.QUERY_BATCHES_SKIPPED._value.get() == before + 2
    said = "topic=read-states.queries partition=0 offset=6 last_offset=8 batches=2: "
    assert f"query_batch_skipped {said}" in caplog.text


async def test_reading_begins_in_the_middle_of_such_a_batch(world: World) -> None:
    world.reader.read_from({0: 7})
    world.ends[0, 7] = 9
    world.consumer.polls.put([Message(0, 6, KafkaError._BAD_COMPRESSION)])  # its first offset
    await world.until(lambda: world.polls)
    assert world.seen() == [(0, 7, [], 9)]


async def test_it_stays_where_the_broker_does_not_say_its_end(world: World) -> None:
    def told() -> list[Message]:
        world.ends[0, 5] = 6
        return [Message(0, 5, KafkaError._BAD_COMPRESSION)]

    world.reader.read_from({0: 5})
    world.ends[0, 5] = None
    world.consumer.polls.put([Message(0, 5, KafkaError._BAD_COMPRESSION)])
    world.consumer.polls.put(told)
    await world.until(lambda: world.polls)
    assert world.consumer.sought == [(0, 6)]
    assert world.seen() == [(0, 5, [], 6)]


async def test_a_bug_in_the_thread_ends_the_worker(world: World) -> None:
    def bug() -> list[Message]:
        raise RuntimeError("bug")

    world.reader.read_from({0: 5})
    world.consumer.polls.put(bug)
    await world.until(lambda: world.refused)
    assert str(world.refused[0]) == "bug"
    await world.until(lambda: world.consumer.closed)


class Taking(QueryIntake):
    """Partition 0 at offset 5; only the offsets are kept."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.zero = SimpleNamespace(partition=SimpleNamespace(closing=False), query_position=5)
        super().__init__(Settings(), {0: cast(Any, self.zero)}, cast(Any, None), lambda: 0)

    def _take_query(self, _owned: Any, record: Any, _taken_ns: int) -> None:
        self.taken.append(record.offset)


def batch(start: int, end: int) -> Batch:
    return Batch(start, [SimpleNamespace(offset=offset) for offset in range(start, end)], end)


def test_queries_read_twice_are_taken_once() -> None:
    intake = Taking()
    for one in (batch(5, 8), batch(5, 7), batch(5, 10), Batch(10, [], 12)):
        intake.take_queries(0, one)
    assert intake.taken == [5, 6, 7, 8, 9]
    assert intake.zero.query_position == 12


def test_a_gap_in_the_queries_ends_the_worker() -> None:
    with pytest.raises(BatchGapError, match="begins at offset 6, expected 5"):
        Taking().take_queries(0, batch(6, 7))
