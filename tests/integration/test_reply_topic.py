"""The reply rule under attack: queries are all that a stranger may write, and choose it well."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from readstates.ops.local.stack import Stack
from tests.support.pages import Reader, limit_of, states_of
from tests.support.read_states import ack
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import (
    Headers,
    TopicReader,
    Wire,
    deadline,
    encode,
    new_user,
    partition_of,
)

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


def those_like(wire: Wire) -> set[str]:
    """Topics with names like the bad ones below; other services make and delete theirs."""
    return {name for name in wire.topics() if wire.prefix in name or not name.strip("x.\n")}


def test_names_that_no_topic_can_have(careless: Service) -> None:
    wire, user = careless.wire, new_user()
    before, topics = sum(wire.ends(wire.reply_topic, 3)), those_like(wire)
    good = wire.reply_topic.encode()
    bad = [good + b"\n", good + b"\0", b"\xff" + good, good + b"/../x", b"x" * 250, b"..", b"\n"]
    for name in bad:
        dropped(careless, user, [("kafka_replyTopic", name)])
    assert those_like(wire) == topics
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


# -- replies that their topic does not take -------------------------------------------------------

FAILURES = "read_states_reply_failures_total"
NARROW_BYTES = 8_000
CHANNELS = 45  # with IDs of 19 digits: over 10 KB
LARGE_ID = 1_300_000_000_000_000_000


@pytest.fixture(scope="module")
def narrow(service: Service) -> Iterator[Reader]:
    wire = service.wire
    topic = f"{wire.prefix}.replies.narrow"
    wire.create_topic(topic, config={"max.message.bytes": str(NARROW_BYTES)})
    reader = Reader(wire, topic)
    try:
        yield reader
    finally:
        reader.close()


@pytest.fixture(scope="module")
def mentioned_user(service: Service) -> int:
    """A user whose first and last channels have 64 mentions each, and the others one."""
    wire, user = service.wire, new_user()
    for channel in range(CHANNELS):
        ids = range(LARGE_ID, LARGE_ID + (64 if channel in (0, CHANNELS - 1) else 1))
        event = {"type": "merge", "channel_id": LARGE_ID + channel, "mention_ids": list(ids)}
        offset = wire.produce_update(user, event)
    found = wire.get(user, after_offset=offset, mentions=True).states
    assert [len(state["mentions"]) for state in found] == [64, *[1] * (CHANNELS - 2), 64]
    return user


def test_it_becomes_an_error_whose_limit_works(
    service: Service, narrow: Reader, mentioned_user: int
) -> None:
    wire, user = service.wire, mentioned_user
    whole = wire.get(user, mentions=True)
    failures = service.metric(FAILURES)
    error = narrow.get(user, mentions=True)
    assert error.value["user_id"] == str(user)
    assert error.key == str(user).encode()
    assert (
        f"max.message.bytes ({NARROW_BYTES}) of topic {narrow.topic}"
        in (error.value["error"]["message"])
    )
    assert service.metric(FAILURES) == failures + 1
    limit = limit_of(error)
    assert 2 < limit < CHANNELS
    assert states_of(narrow.pages(user, limit, mentions=True)) == whole.states
    assert service.metric(FAILURES) == failures + 1


def test_an_error_for_a_delta(service: Service, narrow: Reader) -> None:
    wire, user = service.wire, new_user()
    version = wire.get(user).value["version"]
    acks = [{"channel_id": LARGE_ID + n, "message_id": LARGE_ID} for n in range(CHANNELS + 5)]
    offset = wire.produce_update(user, {"type": "bulk_ack", "acks": acks})
    delta = wire.get(user, since_version=version, after_offset=offset)
    limit = limit_of(narrow.get(user, since_version=version))
    pages = narrow.pages(user, limit, since_version=version)
    assert not any(page.value["full"] for page in pages)
    assert states_of(pages) == delta.states


def test_an_error_of_the_faust_dialect(
    service: Service, narrow: Reader, mentioned_user: int
) -> None:
    topic = narrow.topic.encode()
    headers = [("Faust-Ag-ReplyTo", topic), ("Faust-Ag-CorrelationId", b"0b1c")]
    service.wire.ask(mentioned_user, {"mentions": True}, headers)
    reply = narrow.next()
    assert (reply.key, reply.value["key"]) == (None, str(mentioned_user))
    assert reply.value["correlation_id"] == "0b1c"
    assert reply.value["__faust"] == {"ns": "@ReqRepResponse"}
    assert reply.value["value"]["error"]["code"] == "reply_too_large"
    assert 2 < reply.value["value"]["error"]["limit"] < CHANNELS


def test_replies_of_others_are_not_lost_with_it(
    service: Service, narrow: Reader, mentioned_user: int
) -> None:
    """A broker refuses a whole batch: those who share it with a large reply have theirs yet."""
    wire, large = service.wire, mentioned_user
    others = [new_user(partition_of(large)) for _ in range(40)]
    for user in others:
        offset = ack(wire, user, 1, 5)
    wire.get(others[-1], after_offset=offset)
    headers = [("kafka_replyTopic", narrow.topic.encode()), deadline(20)]
    asked = {}
    producer = Producer({"bootstrap.servers": wire.bootstrap, "linger.ms": 500})
    for number in range(400):
        user = large if number % 40 == 0 else others[number % 40]
        correlation_id = b"burst %d" % number
        asked[correlation_id] = user
        producer.produce(
            wire.queries,
            encode(user, {"type": "get", "mentions": True}),
            str(user),
            partition_of(large),
            headers=[*headers, ("kafka_correlationId", correlation_id)],
        )
    assert producer.flush(20) == 0
    while asked:
        reply = narrow.next()
        user = asked.pop(reply.headers["kafka_correlationId"])
        assert reply.value["user_id"] == str(user)
        assert reply.error == ("reply_too_large" if user == large else None)


def test_an_error_that_does_not_fit_either(service: Service) -> None:
    """It is counted and lost, and those after it are not."""
    wire, user = service.wire, new_user()
    topic = f"{wire.prefix}.replies.tiny"
    wire.create_topic(topic, config={"max.message.bytes": "1000"})

    def ask(correlation_id: bytes) -> None:
        there = ("kafka_replyTopic", topic.encode())
        wire.ask(user, None, [there, ("kafka_correlationId", correlation_id)])

    failures = service.metric(FAILURES)
    ask(bytes(2000))
    until(lambda: service.metric(FAILURES) == failures + 2, "the reply's failure, and the error's")
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
