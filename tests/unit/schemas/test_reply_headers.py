"""Reply addresses and deadlines, in both dialects."""

from __future__ import annotations

import pytest

from readstates.schemas.fields import DecodeError
from readstates.schemas.headers import ReplyAddress, deadline_ms, reply_address

TOPIC = ("kafka_replyTopic", b"read-states.replies.web")
CORRELATION = ("kafka_correlationId", b"\xff\x00\x01")
FAUST = [("Faust-Ag-ReplyTo", b"f-reply-1"), ("Faust-Ag-CorrelationId", b"0b1c")]
NOW_MS = 1_700_000_000_000


def partition(raw: bytes | None) -> tuple[str, bytes | None]:
    return ("kafka_replyPartition", raw)


def test_plain() -> None:
    assert reply_address([TOPIC]) == ReplyAddress(TOPIC[1].decode(), None, None, "plain")
    assert reply_address([CORRELATION, partition(b"\0\0\1\2"), TOPIC]) == ReplyAddress(
        TOPIC[1].decode(), 258, CORRELATION[1], "plain"
    )


def test_faust() -> None:
    assert reply_address(FAUST) == ReplyAddress("f-reply-1", None, b"0b1c", "faust")


def test_a_trace_goes_back_in_both_dialects_within_its_limit() -> None:
    for headers in ([TOPIC], FAUST):
        for trace, expected in ((b"00-x-y-01", b"00-x-y-01"), (b"x" * 128, b"x" * 128)):
            found = reply_address([*headers, ("traceparent", trace)])
            assert found is not None
            assert found.traceparent == expected
        for left_out in (b"x" * 129, None):
            found = reply_address([*headers, ("traceparent", left_out)])
            assert found is not None, "the query is answered all the same"
            assert found.traceparent is None


def test_the_plain_one_counts() -> None:
    found = reply_address([*FAUST, TOPIC, CORRELATION])
    assert found == ReplyAddress(TOPIC[1].decode(), None, CORRELATION[1], "plain")


def test_the_last_of_a_repeated_header_counts() -> None:
    found = reply_address([("kafka_replyTopic", b"one"), TOPIC, CORRELATION, CORRELATION])
    assert found is not None
    assert found.topic == TOPIC[1].decode()
    assert reply_address([TOPIC, ("kafka_replyTopic", None)]) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [CORRELATION],
        [("kafka_replyTopic", b"")],
        [("kafka_replyTopic", None)],
        [("kafka_replyTopic", b"\xff")],
        [("Faust-Ag-ReplyTo", b"")],
        [("Faust-Ag-ReplyTo", b"\xc3")],
        [("KAFKA_REPLYTOPIC", b"x")],
        *[
            [(name, topic)]
            for name in ("kafka_replyTopic", "Faust-Ag-ReplyTo")
            for topic in (
                b"read-states.replies.x\n",
                b"read-states.replies.\0",
                b"read-states.replies.x/../../updates",
                b"read-states.replies.\xe2\x80\xae",  # a character that turns text around
                b"read-states.replies." + b"x" * 230,
                b" read-states.replies.x",
            )
        ],
        [TOPIC, ("kafka_correlationId", b"x" * 4097)],
        [FAUST[0], ("Faust-Ag-CorrelationId", b"x" * 4097)],
        *[[TOPIC, partition(raw)] for raw in (None, b"", b"1", b"\0\0\0", b"\0" * 5, b"\xff" * 4)],
    ],
)
def test_no_usable_address(headers: list[tuple[str, bytes | None]]) -> None:
    assert reply_address(headers) is None


def test_the_largest_that_is_taken() -> None:
    topic, correlation_id = b"x" * 249, bytes(4096)
    found = reply_address([("kafka_replyTopic", topic), (CORRELATION[0], correlation_id)])
    assert found == ReplyAddress(topic.decode(), None, correlation_id, "plain")


def test_a_thousand_headers() -> None:
    noise: list[tuple[str, bytes | None]] = [(f"h{n}", b"x" * 100) for n in range(1000)]
    found = reply_address([*noise, TOPIC, *noise, CORRELATION, *noise])
    assert found == ReplyAddress(TOPIC[1].decode(), None, CORRELATION[1], "plain")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"%d" % (NOW_MS + 1), NOW_MS + 1),
        (b"%d" % (NOW_MS + 60_000), NOW_MS + 60_000),
        (b"%d" % (NOW_MS + 60_001), NOW_MS + 60_000),
        (b"9223372036854775807", NOW_MS + 60_000),
        (b"9" * 10_000, NOW_MS + 60_000),
        (b"0" * 30 + b"%d" % NOW_MS, NOW_MS),
        (b"0", 0),
    ],
)
def test_deadlines(given: bytes, expected: int) -> None:
    assert deadline_ms([("read-states-deadline", given)], NOW_MS) == expected


def test_the_default_deadline() -> None:
    assert deadline_ms([TOPIC], NOW_MS) == NOW_MS + 5_000


@pytest.mark.parametrize(
    "given",
    [None, b"", b"-1", b"+1", b"1.0", b" 1", b"1_0", b"soon", b"\xd9\xa1", b"1" + b"x" * 99],
)
def test_malformed_deadlines(given: bytes | None) -> None:
    with pytest.raises(DecodeError) as caught:
        deadline_ms([("read-states-deadline", b"1"), ("read-states-deadline", given)], NOW_MS)
    assert (caught.value.reason, caught.value.field) == ("invalid_field", "read-states-deadline")
