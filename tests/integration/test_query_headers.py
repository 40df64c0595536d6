"""The headers of queries: deadlines, addresses and correlation IDs, in both dialects."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from tests.support.read_states import user_of_three_types
from tests.support.waiting import until
from tests.support.wire import Reply, TopicReader, Wire, check_form, deadline


@pytest.fixture(scope="module")
def known_user(wire: Wire) -> int:
    return user_of_three_types(wire)


@pytest.mark.parametrize("raw", [b"", b"x", b"-1", b"1.5", b"1e12", b" 1", b"\xff"])
def test_malformed_deadline(wire: Wire, known_user: int, raw: bytes) -> None:
    asked = uuid.uuid4().bytes
    headers = [
        ("kafka_replyTopic", wire.reply_topic.encode()),
        ("kafka_correlationId", asked),
        ("read-states-deadline", raw),
    ]
    wire.ask(known_user, None, headers)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error == "invalid_query"


def test_the_last_deadline_counts(wire: Wire, known_user: int) -> None:
    asked = uuid.uuid4().bytes
    headers = [
        ("kafka_replyTopic", wire.reply_topic.encode()),
        ("kafka_correlationId", asked),
        ("read-states-deadline", b"1"),
        ("read-states-deadline", b"x"),
        deadline(20),
    ]
    wire.ask(known_user, None, headers)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error is None


@pytest.mark.parametrize("raw", [b"\x00", b"\xff\xfe\x00", b"7", bytes(range(256))])
def test_correlation_ids_come_back_as_they_were(wire: Wire, known_user: int, raw: bytes) -> None:
    asked = wire.ask(known_user, correlation_id=raw)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.headers == {"kafka_correlationId": raw}
    bad = wire.ask(known_user, {"type": "x"}, correlation_id=raw + b"2")
    reply = wire.wait(bad)
    assert reply is not None
    assert set(reply.headers) == {"kafka_correlationId", "read-states-error"}


def test_an_empty_and_no_correlation_id(wire: Wire, known_user: int) -> None:
    topic = ("kafka_replyTopic", wire.reply_topic.encode())
    for more, expected in (([("kafka_correlationId", b"")], b""), ([], None)):
        seen = len(wire.arrived())
        wire.ask(known_user, None, [topic, *more])
        until(lambda n=seen: len(wire.arrived()) > n, "a reply")  # type: ignore[misc]
        reply = wire.arrived()[-1]
        assert reply.headers.get("kafka_correlationId") == expected
        check_form(reply, known_user)


@pytest.mark.parametrize("partition", [0, 1, 2])
def test_reply_partition(wire: Wire, known_user: int, partition: int) -> None:
    raw = partition.to_bytes(4, "big")
    for body, error in (({}, None), ({"type": "x"}, "invalid_query")):
        asked = uuid.uuid4().bytes
        headers = [
            ("kafka_replyTopic", wire.reply_topic.encode()),
            ("kafka_correlationId", asked),
            ("kafka_replyPartition", raw),
        ]
        wire.ask(known_user, body, headers)
        reply = wire.wait(asked)
        assert reply is not None
        assert (reply.partition, reply.error) == (partition, error)


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("trace", "expected"),
    [(TRACE, TRACE), (b"\xff\x00", b"\xff\x00"), (b"x" * 128, b"x" * 128), (b"x" * 129, None)],
)
@pytest.mark.parametrize("body", [{}, {"type": "x"}])
def test_the_trace_of_a_query_is_in_its_reply(
    wire: Wire, known_user: int, body: dict[str, str], trace: bytes, expected: bytes | None
) -> None:
    asked = uuid.uuid4().bytes
    headers = [
        ("kafka_replyTopic", wire.reply_topic.encode()),
        ("kafka_correlationId", asked),
        ("traceparent", b"an earlier one"),
        ("traceparent", trace),
    ]
    wire.ask(known_user, body, headers)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.headers.get("traceparent") == expected


def test_of_repeated_headers_the_last_counts(wire: Wire, known_user: int) -> None:
    asked = uuid.uuid4().bytes
    headers = [
        ("kafka_replyTopic", b"foreign"),
        ("kafka_correlationId", b"first"),
        ("kafka_replyPartition", b"x"),
        ("kafka_replyTopic", wire.reply_topic.encode()),
        ("kafka_replyPartition", b"\0\0\0\2"),
        ("kafka_correlationId", asked),
    ]
    wire.ask(known_user, None, headers)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.partition == 2


@pytest.fixture(scope="module")
def faust_topic(wire: Wire) -> Iterator[tuple[str, TopicReader]]:
    """A reply topic named as Faust names them, and its reader."""
    name = f"f-reply-{uuid.uuid4()}"
    wire.create_topic(name)
    reader = TopicReader(wire.bootstrap, name, 1)
    yield name, reader
    reader.close()


def test_the_faust_dialect(
    wire: Wire, known_user: int, faust_topic: tuple[str, TopicReader]
) -> None:
    name, reader = faust_topic
    plain = wire.get(known_user, channel_ids=[3])
    headers = [("Faust-Ag-ReplyTo", name.encode()), ("Faust-Ag-CorrelationId", b"id-1")]
    wire.ask(known_user, {"channel_ids": [3]}, headers)
    message = until(lambda: reader.poll(0.5), "a Faust reply")
    assert message.key() is None
    value = message.value()
    assert value is not None
    wrapped = json.loads(value)
    assert set(wrapped) == {"key", "value", "correlation_id", "__faust"}
    assert wrapped["key"] == str(known_user)
    assert wrapped["correlation_id"] == "id-1"
    assert wrapped["__faust"] == {"ns": "@ReqRepResponse"}
    assert wrapped["value"]["read_states"] == plain.states
    check_form(Reply(None, wrapped["value"], {}, name, 0), known_user)

    wire.ask(known_user, {"type": "x"}, headers)
    message = until(lambda: reader.poll(0.5), "a Faust error")
    assert message.key() is None
    assert dict(message.headers() or [])["read-states-error"] == b"invalid_query"
    value = message.value()
    assert value is not None
    assert json.loads(value)["value"]["error"]["code"] == "invalid_query"


@pytest.mark.parametrize("body", [{}, {"type": "x"}])
def test_the_trace_is_in_a_reply_of_the_faust_dialect(
    wire: Wire, known_user: int, faust_topic: tuple[str, TopicReader], body: dict[str, str]
) -> None:
    name, reader = faust_topic
    headers = [
        ("Faust-Ag-ReplyTo", name.encode()),
        ("Faust-Ag-CorrelationId", b"id-3"),
        ("traceparent", TRACE),
    ]
    wire.ask(known_user, body, headers)
    message = until(lambda: reader.poll(0.5), "a Faust reply")
    assert dict(message.headers() or [])["traceparent"] == TRACE


def test_of_two_dialects_the_plain_one_counts(
    wire: Wire, known_user: int, faust_topic: tuple[str, TopicReader]
) -> None:
    name, reader = faust_topic
    asked = uuid.uuid4().bytes
    headers = [
        ("kafka_replyTopic", wire.reply_topic.encode()),
        ("kafka_correlationId", asked),
        ("Faust-Ag-ReplyTo", name.encode()),
        ("Faust-Ag-CorrelationId", b"id-2"),
    ]
    wire.ask(known_user, None, headers)
    reply = wire.wait(asked)
    assert reply is not None
    check_form(reply, known_user)
    assert reply.key == str(known_user).encode()
    assert reader.poll(0.2) is None
