"""Where a reply may go at all: whoever writes queries must not choose freely."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from readstates.schemas.headers import ReplyAddress
from readstates.streams.config import Settings
from readstates.streams.kafka.delivery import Delivery
from readstates.streams.kafka.reply_producer import ReplyProducer
from readstates.streams.partition.exclusive import Exclusive
from readstates.streams.worker.query_intake import QueryIntake

OWN = ["p.epochs", "p.updates", "p.queries", "p.dead-letters"]


@contextmanager
def made(reply_topics: str = "") -> Iterator[ReplyProducer]:
    """With a real producer, to brokers that are not there."""
    settings = Settings.load(
        {}, topic_prefix="p", reply_topics=reply_topics, kafka_config="log_level=0"
    )
    delivery = Delivery(settings)
    yield ReplyProducer(settings, delivery)
    delivery.close()


@pytest.fixture
def replies() -> Iterator[ReplyProducer]:
    with made() as replies:
        yield replies


def test_the_default_rule(replies: ReplyProducer) -> None:
    assert replies.allowed("p.replies.a")
    assert replies.allowed("f-reply-a")
    others = ["orders", "xp.replies.a", "pxreplies.a", "q.replies.a", "p.replies", "xf-reply-a"]
    for topic in [*OWN, *others, "q.updates", "__consumer_offsets", "p.replies.a\n", "", "."]:
        assert not replies.allowed(topic), topic


@pytest.mark.parametrize("pattern", [".*", "(?s).*", r"p\..*", "|.*", "p.updates|__.*"])
def test_no_pattern_opens_our_own_topics(pattern: str) -> None:
    with made(pattern) as replies:
        for topic in [*OWN, "__consumer_offsets", "__transaction_state"]:
            assert not replies.allowed(topic), topic


@pytest.mark.parametrize("number", [3, 4, 2**31 - 1])
def test_a_partition_that_is_not_there(replies: ReplyProducer, number: int) -> None:
    replies._topics = {"p.replies.a": 3}
    assert replies.exists(ReplyAddress("p.replies.a", 2, None, "plain"))
    assert not replies.exists(ReplyAddress("p.replies.a", number, None, "plain"))


@pytest.mark.parametrize("pattern", ["", ".*"])
def test_the_probes_topic_is_for_probes_alone(pattern: str) -> None:
    with made(pattern) as replies:
        assert not replies.allowed("p.probes")
        assert replies.allowed("p.probes", is_probe=True)
        assert replies.allowed("p.replies.a")
        assert not replies.allowed("p.replies.a", is_probe=True)


class Lost:
    def topic(self) -> str:
        return "p.replies.a"

    def partition(self) -> int:
        return 0

    def key(self) -> bytes:
        return b"5"

    def value(self) -> bytes:
        return b"{}"


def lost(replies: ReplyProducer, code: int) -> None:
    address = ReplyAddress("p.replies.a", None, b"1", "plain")
    replies._delivered(address, b"5", [], 0, KafkaError(code), cast(Any, Lost()))


def test_a_reply_that_was_too_large_does_not_hold_up_the_next(replies: ReplyProducer) -> None:
    """It is the asker who makes it large: others who use the topic must not pay for it."""
    replies._topics = {"p.replies.a": 3}
    lost(replies, KafkaError.MSG_SIZE_TOO_LARGE)
    assert replies._topics
    lost(replies, KafkaError.UNKNOWN_TOPIC_OR_PART)
    assert not replies._topics


def test_lost_replies_do_not_fill_the_log(
    replies: ReplyProducer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        lost(replies, KafkaError.MSG_SIZE_TOO_LARGE)
    assert len(caplog.records) == 1


async def test_a_topic_that_another_query_has_found_is_not_looked_up_again() -> None:
    """Two lookups are a second apart: whoever looks one up without need waits that second."""
    lookups: list[int] = []
    read: list[Any] = []

    class Replies:
        def exists(self, _address: Any, _is_probe: bool = False) -> bool:
            return len(lookups) >= seen_by

        def allowed(self, _topic: str, _is_probe: bool = False) -> bool:
            return True

        async def refresh(self) -> None:
            lookups.append(1)

    class Reading(QueryIntake):
        def _read_query(self, *query: Any) -> None:
            read.append(query)

    partition = SimpleNamespace(incarnation=1, number=1, exclusive=Exclusive())
    owned: Any = SimpleNamespace(partition=partition)
    intake = Reading(Settings(), {1: owned}, cast(Any, Replies()), lambda: 0)
    record: Any = SimpleNamespace(offset=1, key=b"1", value=b"{}", headers=[])
    for seen_by in range(3):
        lookups.clear()
        read.clear()
        address = ReplyAddress("p.replies.a", None, b"1", "")
        await intake._look_up_topic(owned, record, address, {}, 0)
        assert (len(lookups), len(read)) == (seen_by, 1)
