"""Where a reply may go at all: whoever writes queries must not choose freely."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from readstates.schemas.headers import ReplyAddress
from readstates.streams.config import Settings
from readstates.streams.kafka.reply_producer import Output
from readstates.streams.worker.partitions import Partitions

OWN = ["p.updates", "p.queries", "p.dead-letters"]


def made(reply_topics: str = "") -> Output:
    """With a real producer, to brokers that are not there."""
    settings = Settings.load(
        {}, topic_prefix="p", reply_topics=reply_topics, kafka_config="log_level=0"
    )
    return Output(settings)


@pytest.fixture
def output() -> Iterator[Output]:
    output = made()
    yield output
    output.close()


def test_the_default_rule(output: Output) -> None:
    assert output.allowed("p.replies.a")
    assert output.allowed("f-reply-a")
    others = ["orders", "xp.replies.a", "pxreplies.a", "q.replies.a", "p.replies", "xf-reply-a"]
    for topic in [*OWN, *others, "q.updates", "__consumer_offsets", "p.replies.a\n", "", "."]:
        assert not output.allowed(topic), topic


@pytest.mark.parametrize("pattern", [".*", "(?s).*", r"p\..*", "|.*", "p.updates|__.*"])
def test_no_pattern_opens_our_own_topics(pattern: str) -> None:
    output = made(pattern)
    try:
        for topic in [*OWN, "__consumer_offsets", "__transaction_state"]:
            assert not output.allowed(topic), topic
    finally:
        output.close()


@pytest.mark.parametrize("number", [3, 4, 2**31 - 1])
def test_a_partition_that_is_not_there(output: Output, number: int) -> None:
    output._topics = {"p.replies.a": 3}
    assert output.exists(ReplyAddress("p.replies.a", 2, None, "plain"))
    assert not output.exists(ReplyAddress("p.replies.a", number, None, "plain"))


class Lost:
    def topic(self) -> str:
        return "p.replies.a"


def test_a_reply_that_was_too_large_does_not_hold_up_the_next(output: Output) -> None:
    """It is the asker who makes it large: others who use the topic must not pay for it."""
    output._topics = {"p.replies.a": 3}
    output._delivered(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), Lost())
    assert output._topics
    output._delivered(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), Lost())
    assert not output._topics


def test_lost_replies_do_not_fill_the_log(output: Output, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(1000):
        output._delivered(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), Lost())
    assert len(caplog.records) == 1


def test_a_topic_that_another_query_has_found_is_not_looked_for_again() -> None:
    """Two looks are a second apart: whoever looks without need waits that second."""
    looks: list[int] = []
    read: list[Any] = []

    async def refresh() -> None:
        looks.append(1)

    owned = SimpleNamespace(partition=SimpleNamespace(incarnation=1))
    world: Any = SimpleNamespace(
        output=SimpleNamespace(exists=lambda address: len(looks) >= found_by, refresh=refresh),
        owned={1: owned},
        _looking=0,
        _looking_bytes=0,
        _read_query=lambda *query: read.append(query),
    )
    owned.partition.number = 1
    record = SimpleNamespace(offset=1, key=b"1", value=b"{}", headers=[])
    query = (owned, record, ReplyAddress("p.replies.a", None, b"1", ""), {}, 0)
    for found_by in range(3):
        looks.clear()
        read.clear()
        asyncio.run(Partitions._look_for_topic(world, *query))  # type: ignore[arg-type]
        assert (len(looks), len(read)) == (found_by, 1)
