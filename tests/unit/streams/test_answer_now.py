"""Queries that the reader's thread answers itself, and those that it leaves to the event loop."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from readstates.schemas.headers import HEADER_CLOCK, ReplyAddress
from readstates.schemas.replies import Answer
from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.partition.batch import Batch
from readstates.streams.partition.query import Query
from readstates.streams.partition.watermark import Watermark
from readstates.streams.priorities import FOLD
from readstates.streams.worker.owned import OwnedPartition
from readstates.streams.worker.query_intake import QueryIntake
from tests.support.small_world import World, event

ONLINE, OFFLINE = 5, 6
TOKEN = 1


class Asked(World):
    """A partition with one resident, and an intake that sends its replies to `sent`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []
        self.owned = OwnedPartition(self.partition, cast(Any, None), 0, Watermark(0))
        replies: Any = SimpleNamespace(
            exists=lambda address, *_: address.topic == "known",
            allowed=lambda *_: True,
            reply=self._reply,
            error=lambda *_, **_more: self.sent.append({"error": True}),
        )
        self.intake = QueryIntake(Settings(), {0: self.owned}, replies, lambda: 0)
        self.feed(event(0, ONLINE, channel_id=1, message_id=1))
        self.load_next()

    def _reply(
        self, _address: ReplyAddress, _key: bytes, body: bytes, _deadline: int, _partition: int
    ) -> None:
        self.sent.append(orjson.loads(body))

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        self.intake.answer(query, answer, hit)

    def now(self, batch: Batch, token: int = TOKEN) -> Batch | None:
        """What the thread leaves."""
        rest = self.intake.answer_now(0, token, batch)
        self.partition.check()
        self.owned.query_mark.check(self.owned.query_position)
        return rest

    def users(self) -> list[int]:
        """Whose replies were sent."""
        return [int(body["user_id"]) for body in self.sent]


def asking(offset: int, user_id: int, topic: bytes = b"known", **fields: Any) -> Any:
    value = orjson.dumps({"type": "get", "user_id": user_id, **fields})
    headers = [("kafka_replyTopic", topic)]
    return SimpleNamespace(
        offset=offset, key=b"%d" % user_id, value=value, timestamp=1, headers=headers
    )


def batch(*records: Any, end: int = 0) -> Batch:
    return Batch(records[0].offset, list(records), end or records[-1].offset + 1)


def test_residents_are_answered_at_once_and_may_be_committed() -> None:
    world = Asked()
    assert world.now(batch(asking(0, ONLINE), asking(1, ONLINE), end=4)) is None
    assert world.users() == [ONLINE, ONLINE]
    assert world.owned.query_position == 4
    assert world.owned.query_mark.position(4) == 4


def test_a_record_of_the_clock_is_passed_over() -> None:
    clock = SimpleNamespace(offset=0, key=None, value=None, headers=[(HEADER_CLOCK, b"")])
    world = Asked()
    assert world.now(batch(clock, asking(1, ONLINE))) is None
    assert world.users() == [ONLINE]


@pytest.mark.parametrize(
    "harder",
    [
        asking(1, OFFLINE),
        asking(1, ONLINE, after_offset=1),
        asking(1, ONLINE, limit=0),
        asking(1, ONLINE, b"unknown"),
        SimpleNamespace(offset=1, key=b"5", value=b"{}", timestamp=1, headers=[]),
    ],
    ids=["not resident", "not caught up", "not valid", "unknown topic", "no address"],
)
async def test_what_follows_a_harder_query_waits_for_it(harder: Any) -> None:
    world = Asked()
    rest = world.now(batch(asking(0, ONLINE), harder, asking(2, ONLINE)))
    assert rest is not None
    assert (rest.start, [record.offset for record in rest.records], rest.end) == (1, [1, 2], 3)
    later = batch(asking(3, ONLINE))
    assert world.now(later) is later, "it would overtake those on their way to the loop"
    assert len(world.sent) == 1
    world.intake.take_queries(0, TOKEN, rest)
    world.intake.take_queries(0, TOKEN, later)
    assert world.now(batch(asking(4, ONLINE))) is None
    assert [body.get("user_id") for body in world.sent].count(str(ONLINE)) == 4


def test_a_partition_that_is_being_closed_answers_nothing() -> None:
    world = Asked()
    asked = batch(asking(0, ONLINE))
    assert world.now(asked, token=TOKEN + 1) is asked
    world.partition.closing = True
    assert world.now(asked) is asked
    assert world.intake.answer_now(1, TOKEN, asked) is asked
    assert not world.sent


def test_a_query_that_was_late_already_is_left_to_the_loop() -> None:
    world = Asked()
    late = asking(0, ONLINE)
    late.headers.append(("read-states-deadline", b"0"))
    assert world.now(batch(late)) is not None


@contextmanager
def impatient() -> Iterator[None]:
    """Threads take turns as often as the interpreter allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_a_reply_is_one_moment_of_the_fold() -> None:
    """Q3: each event changes three channels, so all three have the reply's version."""
    world, channels, rounds = Asked(), (1, 2, 3), 2_000
    ended = threading.Event()

    def ask() -> None:
        number = 0
        while not ended.is_set():
            world.intake.answer_now(0, TOKEN, batch(asking(number, ONLINE)))
            number += 1

    thread = threading.Thread(target=ask)
    with impatient():
        thread.start()
        for offset in range(1, rounds):
            acks = [{"channel_id": channel, "message_id": offset + 1} for channel in channels]
            record = event(offset, ONLINE, "bulk_ack", acks=acks)
            world.partition.take(Batch(offset, [record], offset + 1))
            world.partition.run(10, 1)
        ended.set()
        thread.join()
    told = [body for body in world.sent if len(body["read_states"]) == len(channels)]
    assert told
    for body in told:
        assert {state["version"] for state in body["read_states"]} == {body["version"]}


def test_the_wait_for_other_work_is_counted_by_its_kind() -> None:
    world = Asked()
    waited = metrics.QUERY_WAITS[FOLD]
    before = waited._value.get()
    thread = threading.Thread(
        target=world.intake.answer_now, args=(0, TOKEN, batch(asking(0, ONLINE)))
    )
    with world.partition.exclusive(FOLD):
        thread.start()
        thread.join(0.05)
        assert not world.sent
    thread.join()
    assert world.users() == [ONLINE]
    assert waited._value.get() - before >= 0.04
