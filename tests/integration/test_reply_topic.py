"""The reply rule under attack: queries are all that a stranger may write, and choose it well."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import Headers, TopicReader, Wire, new_user

NO_ADDRESS = "read_states_queries_total{outcome=no_reply_address}"


@pytest.fixture(scope="module")
def careless(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service whose operator allows every reply topic."""
    made = Service(stack.env(), folder, "careless", reply_topics="(?s).*")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def dropped(service: Service, user: int, headers: Headers) -> None:
    """A query that is counted and nothing else; one after it is answered."""
    wire = service.wire
    before = service.metric(NO_ADDRESS)
    wire.ask(user, None, headers)
    until(lambda: service.metric(NO_ADDRESS) == before + 1, f"no address: {headers!r:.200}")
    assert wire.get(user)


def test_own_and_internal_topics_whatever_the_pattern(careless: Service) -> None:
    wire, user = careless.wire, new_user()
    own = [wire.updates, wire.queries, wire.dead_letters_topic]
    wire.produce_update(user, b"{")  # a dead letter, so that its topic is written to at all
    until(lambda: sum(wire.ends(wire.dead_letters_topic)) == 1, "the dead letter")
    ends = {name: wire.ends(name) for name in (wire.updates, wire.dead_letters_topic)}
    for topic in (*own, "__consumer_offsets", "__transaction_state"):
        for name in ("kafka_replyTopic", "Faust-Ag-ReplyTo"):
            dropped(careless, user, [(name, topic.encode())])
    assert {name: wire.ends(name) for name in ends} == ends


def test_names_that_no_topic_can_have(careless: Service) -> None:
    wire, user = careless.wire, new_user()
    topics, before = wire.topics(), sum(wire.ends(wire.reply_topic, 3))
    good = wire.reply_topic.encode()
    bad = [good + b"\n", good + b"\0", b"\xff" + good, good + b"/../x", b"x" * 250, b"..", b"\n"]
    for name in bad:
        dropped(careless, user, [("kafka_replyTopic", name)])
    assert wire.topics() == topics
    assert sum(wire.ends(wire.reply_topic, 3)) == before + len(bad)  # those of `dropped` itself


@pytest.mark.parametrize("raw", [b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x03", b"\0\0\0"])
def test_a_reply_partition_that_is_not_there(service: Service, raw: bytes) -> None:
    """Nothing is written, not to another partition either."""
    wire, user = service.wire, new_user()
    wire.get(user)
    before = sum(wire.ends(wire.reply_topic, 3))
    topic = ("kafka_replyTopic", wire.reply_topic.encode())
    dropped(service, user, [topic, ("kafka_replyPartition", raw)])
    assert sum(wire.ends(wire.reply_topic, 3)) == before + 1


def test_correlation_ids(service: Service) -> None:
    wire, user = service.wire, new_user()
    topic = ("kafka_replyTopic", wire.reply_topic.encode())
    largest = uuid.uuid4().bytes + bytes(4080)
    assert wire.query(user, correlation_id=largest) is not None
    for length in (4097, 400_000):
        dropped(service, user, [topic, ("kafka_correlationId", bytes(length))])


def test_a_thousand_headers_and_a_repeated_one(service: Service) -> None:
    wire, user, wanted = service.wire, new_user(), uuid.uuid4().bytes
    noise = [(f"h{number}", b"x" * 100) for number in range(1000)]
    headers = [
        *noise,
        ("kafka_replyTopic", wire.updates.encode()),
        *[("kafka_correlationId", b"x") for _ in range(1000)],
        ("kafka_replyTopic", wire.reply_topic.encode()),
        ("kafka_correlationId", wanted),
    ]
    reply = wire.query(user, None, headers, correlation_id=wanted)
    assert reply is not None
    assert reply.error is None


def test_a_reply_that_its_topic_does_not_take(service: Service) -> None:
    """It is lost, and those after it are not (who batches with it may have to ask again)."""
    wire, user = service.wire, new_user()
    topic = f"{wire.prefix}.replies.narrow"
    wire.create_topic(topic, config={"max.message.bytes": "1000"})

    def ask(correlation_id: bytes) -> None:
        there = ("kafka_replyTopic", topic.encode())
        wire.ask(user, None, [there, ("kafka_correlationId", correlation_id)])

    failures = service.metric("read_states_reply_failures_total")
    ask(bytes(2000))
    until(lambda: service.metric("read_states_reply_failures_total") > failures, "the failure")
    ask(b"small")
    reader = TopicReader(wire.bootstrap, topic, 1)
    try:
        message = until(lambda: reader.poll(0.2), "the small one")
        assert dict(message.headers() or [])["kafka_correlationId"] == b"small"
    finally:
        reader.close()


def test_too_large_a_query_is_refused_by_the_broker(wire: Wire) -> None:
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        wire.send(wire.queries, b"1", bytes(1_100_000))
