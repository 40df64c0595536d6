"""The worker's side of the change feed: records and their parts, failures, and commit metadata."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from readstates.schemas.changes import ROWS_MAX
from readstates.streams.config import Settings
from readstates.streams.kafka.change_producer import ChangeProducer
from readstates.streams.partition.changes import Noted, Told
from readstates.streams.worker.change_feed import RETRY_MS, ChangeFeed, values_of
from readstates.streams.worker.commits import catch_up_target, metadata_of, told_to
from tests.support.small_world import World, event, query


@pytest.mark.parametrize(
    ("metadata", "offset"),
    [
        (metadata_of(90, clean=False, database="8@7", told_to=60), 60),
        (metadata_of(90, clean=True, told_to=60), 60),
        (metadata_of(90, clean=False, told_to=500), 100),  # never past the log's end
        (metadata_of(90, clean=False, told_to=3), 40),  # nor below the commit
        (metadata_of(90, clean=False, database="8@7"), 40),  # there was no feed
        (metadata_of(90, clean=False, database="8@7") + "\x00told:60;", 40),  # beyond its end
        ("live:90;8@7;told:60", 40),  # it may go on
        ("", 40),
    ],
)
def test_how_far_the_feed_is_complete(metadata: str, offset: int) -> None:
    assert told_to(metadata, committed=40, log_end=100) == offset


def test_the_position_is_read_as_without_a_feed() -> None:
    assert catch_up_target(metadata_of(40, clean=True, database="8@7", told_to=7), 90) == 40


@pytest.mark.parametrize(
    ("rows", "parts"), [(0, 1), (ROWS_MAX, 1), (ROWS_MAX + 1, 2), (2 * ROWS_MAX + 1, 3)]
)
def test_a_change_has_as_many_records_as_it_needs(rows: int, parts: int) -> None:
    row = (0, 7, 5, 0, 0, 0, 0, 0, 1, b"")
    noted = Noted(0, 0, {}, whole=True)
    values = [json.loads(v) for v in values_of(Told(1, 9, [row] * rows, [], (rows, 0, 0), noted))]
    assert len(values) == parts
    assert sum(len(value["read_states"]) for value in values) == rows
    assert [value.get("all_deleted", False) for value in values] == [True] + [False] * (parts - 1)


class Broker:
    """A producer that keeps what it gets, and reports when told."""

    def __init__(self) -> None:
        self.now = self
        self.sent: list[dict[str, Any]] = []
        self.noted: list[Any] = []  # failures that may mean that it is stuck
        self.full = False

    def produce(self, *place: Any, **more: Any) -> None:
        if self.full:
            raise BufferError("Local: Queue full")
        self.sent.append({"place": place, **more})

    def report(self, error: KafkaError | None = None) -> None:
        self.sent.pop(0)["on_delivery"](error, None)

    def note_failure(self, *failure: Any) -> None:
        self.noted.append(failure)


class Sending:
    """A ChangeProducer without a broker."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.failures: list[Any] = []
        delivery: Any = SimpleNamespace(
            producer=self._make,
            change_failed=lambda *failure: self.failures.append(failure),
        )
        self.producer = ChangeProducer(Settings(), delivery)
        self.done: list[bool] = []

    def _make(self, name: str, _config: dict[str, Any], topics: set[str]) -> Broker:
        assert (name, topics) == ("changes", {"read-states.changes"})
        return self.broker

    def send(self, *values: bytes) -> Broker:
        self.producer.send(3, b"1", values or (b"{}",), b"ack", self.done.append)
        return self.broker

    def report(self, error: KafkaError | None = None) -> None:
        """The oldest record ends."""
        self.broker.report(error)
        self.producer.poll()


def test_a_record_has_its_key_its_partition_and_its_cause() -> None:
    sending = Sending()
    broker = sending.send()
    assert broker.sent[0]["place"] == ("read-states.changes", b"{}", b"1", 3)
    assert broker.sent[0]["headers"] == [("read-states-cause", b"ack")]
    broker.report()
    assert sending.done == []  # the report came in another thread
    sending.producer.poll()
    assert sending.done == [True]


def test_a_change_of_parts_is_taken_when_all_are() -> None:
    sending = Sending()
    broker = sending.send(b"1", b"2", b"3")
    parts = [dict(one["headers"])["read-states-part"] for one in broker.sent]
    assert parts == [b"1/3", b"2/3", b"3/3"]
    sending.report()
    sending.report(KafkaError(KafkaError._MSG_TIMED_OUT))
    assert sending.done == []
    sending.report()
    assert sending.done == [False]
    assert len(sending.failures) == 1
    assert [failure[1:] for failure in broker.noted] == [("read-states.changes", 3)]


def test_a_full_queue_is_a_failure() -> None:
    sending = Sending()
    sending.broker.full = True
    sending.send()
    sending.producer.poll()
    assert sending.done == [False]


def test_changes_wait_to_be_told_together_but_not_after_a_quiet_time() -> None:
    world = World(told_to=0, changes_max=100)
    sending, now_ms = Sending(), [world.now_ms]
    owned: Any = {0: SimpleNamespace(partition=world.partition)}
    settings = Settings(changes="on", changes_delay_ms=100)
    feed = ChangeFeed(settings, owned, sending.producer, lambda: now_ms[0], lambda: None)
    world.ask(query(1))
    world.load_next([])
    sent = []
    for step in range(13):
        if step < 7:  # later, it is quiet
            world.feed(event(step, 1, channel_id=step + 1, message_id=5))
        assert 0.002 <= feed.step() <= 0.01
        while sending.broker.sent:
            place = sending.broker.sent[0]["place"]
            sent.append((step, len(json.loads(place[1])["read_states"])))
            sending.report()
        now_ms[0] += 30
    assert sent == [(0, 1), (4, 4), (8, 2)]
    world.feed(event(7, 1, channel_id=9, message_id=5))
    feed.step()
    assert len(sending.broker.sent) == 1


def test_after_a_failure_a_partition_pauses_and_tells_again() -> None:
    world = World(told_to=0, changes_max=100)
    sending, now_ms = Sending(), [world.now_ms]
    owned: Any = {0: SimpleNamespace(partition=world.partition)}
    feed = ChangeFeed(
        Settings(changes="on"), owned, sending.producer, lambda: now_ms[0], lambda: None
    )
    world.ask(query(1))
    world.load_next([])
    world.feed(event(0, 1, channel_id=7, message_id=5))
    broker = sending.broker
    feed.step()
    assert len(broker.sent) == 1
    broker.report(KafkaError(KafkaError._MSG_TIMED_OUT))
    feed.step()
    assert not broker.sent
    now_ms[0] += RETRY_MS
    feed.step()
    sending.report()
    world.partition.check()
    assert world.partition.changes is not None
    assert world.partition.changes.waiting == 0


def test_a_partition_that_was_held_back_folds_again_when_the_broker_has_taken_a_change() -> None:
    world = World(told_to=0, changes_max=1)
    sending, woken = Sending(), list[bool]()
    owned: Any = {0: SimpleNamespace(partition=world.partition)}
    feed = ChangeFeed(
        Settings(changes="on"),
        owned,
        sending.producer,
        lambda: world.now_ms,
        lambda: woken.append(world.partition.held_back),
    )
    world.ask(query(1))
    world.load_next([])
    world.feed(event(0, 1, channel_id=7, message_id=5))
    feed.step()
    assert world.partition.held_back
    sending.report()
    assert woken == [False]
