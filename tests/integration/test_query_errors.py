"""Queries that get an error: invalid ones, replies that are too large, and too many at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from tests.support.pages import limit_of, pages_of
from tests.support.read_states import ack, places, user_of_three_types
from tests.support.service import Service
from tests.support.wire import PARTITIONS, Wire, encode, new_user, partition_of

BEYOND = 10_000_000  # an offset that no test reaches
NOT_CHANNELS: list[Any] = [
    *(None, "5", {}, 5, [1, 1], ["1", 1], [0], [None]),
    *([1.0], [True], ["01"], [2**63], [[1]]),
]
NOT_PLACES: list[Any] = [None, [], "5", {}, {"read_state_type": 1}]
NOT_BOOLEANS: list[Any] = [None, 1, "true"]
WRONG: list[dict[str, Any]] = [
    {"type": "put"},
    {"type": None},
    {"type": 5},
    *({"channel_ids": value} for value in NOT_CHANNELS),
    {"channel_ids": list(range(1, 1002))},
    *({"read_state_type": value} for value in (None, -1, 256, "0", 1.0, True)),
    *({"since_version": value} for value in (None, -1, "x", "00", 1.5, 2**63, False)),
    *({"after_offset": value} for value in (None, -1, "-1", "", 1.5, 2**63)),
    *({name: bad} for name in ("mentions", "mentioned", "totals") for bad in NOT_BOOLEANS),
    *({"limit": value} for value in (None, 0, 10_001, "5", True, 1.0)),
    *({"after": value} for value in NOT_PLACES),
    *({"after": {"channel_id": value}} for value in (None, 0, "x", 2**63)),
    {"after": {"channel_id": 5, "read_state_type": 256}},
]


@pytest.fixture(scope="module")
def known_user(wire: Wire) -> int:
    return user_of_three_types(wire)


def test_invalid_queries(wire: Wire, known_user: int) -> None:
    asked = [(wire.ask(known_user, body), body) for body in WRONG]
    for correlation_id, body in asked:
        reply = wire.wait(correlation_id)
        assert reply is not None
        assert reply.error == "invalid_query", body
        assert reply.value["user_id"] == str(known_user), body
        assert reply.key == str(known_user).encode()


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b"x" * 300_000])
def test_queries_that_are_not(wire: Wire, known_user: int, value: bytes) -> None:
    reply = wire.refused(known_user, value)
    assert (reply.error, reply.value["user_id"]) == ("invalid_query", None)


def test_a_query_without_value(wire: Wire, known_user: int) -> None:
    asked = uuid.uuid4().bytes
    headers = [("kafka_replyTopic", wire.reply_topic.encode()), ("kafka_correlationId", asked)]
    wire.send(wire.queries, str(known_user).encode(), None, headers)
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error == "invalid_query"


@pytest.mark.parametrize("key", [None, b"", b"x", b"1", b"\xff\0"])
def test_the_key_must_be_the_user(wire: Wire, known_user: int, key: bytes | None) -> None:
    asked = uuid.uuid4().bytes
    headers = [("kafka_replyTopic", wire.reply_topic.encode()), ("kafka_correlationId", asked)]
    value = encode(known_user, {"type": "get"})
    wire.send(wire.queries, key, value, headers, partition_of(known_user))
    reply = wire.wait(asked)
    assert reply is not None
    assert reply.error == "invalid_query"
    assert reply.key == key


def test_another_users_partition_never_answers(wire: Wire, known_user: int) -> None:
    right = partition_of(known_user)
    for partition in set(range(PARTITIONS)) - {right}:
        reply = wire.refused(known_user, None, partition=partition)
        assert (reply.error, reply.value["user_id"]) == ("invalid_query", str(known_user))
        message = reply.value["error"]["message"]
        assert f"is in partition {partition} and belongs in partition {right}" in message
        assert "partitioner=murmur2_random" in message


# -- limits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service with room for one waiting query and for small replies only."""
    made = Service(stack.env(), folder, "limited", reply_bytes_max=1024, queries_waiting_max=1)
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def thirty_channels(wire: Wire, user: int) -> int:
    acks = [{"channel_id": channel, "message_id": 2**62} for channel in range(1, 31)]
    return wire.produce_update(user, {"type": "bulk_ack", "acks": acks})


def test_reply_too_large(limited: Service) -> None:
    """The advice leads to everything, and a delta is no exception."""
    wire, user = limited.wire, new_user()
    before = wire.get(user)
    offset = thirty_channels(wire, user)
    for body in ({}, {"since_version": before.value["version"]}, {"channel_ids": [*range(1, 99)]}):
        reply = wire.refused(user, {**body, "after_offset": offset}, deadline_s=20)
        assert (reply.error, reply.value["user_id"]) == ("reply_too_large", str(user))
        pages = pages_of(wire, user, limit_of(reply), **body)
        assert [place for page in pages for place in places(page)] == [(0, n) for n in range(1, 31)]
        assert {page.value["full"] for page in pages} == {"since_version" not in body}
    assert len(wire.get(user, channel_ids=[1, 2]).states) == 2


def test_a_page_is_cut_to_what_a_reply_may_have(limited: Service) -> None:
    """A limit allows fewer, so a page is never too large."""
    wire, user = limited.wire, new_user()
    offset = thirty_channels(wire, user)
    pages = pages_of(wire, user, 10_000, after_offset=offset, totals=True)
    assert [place for page in pages for place in places(page)] == [(0, n) for n in range(1, 31)]
    assert len(pages) > 5
    assert {page.value["totals"]["read_states"] for page in pages} == {30}


def test_not_even_one_read_state_fits(limited: Service) -> None:
    wire, user = limited.wire, new_user()
    for message in range(64):
        event = {"type": "mention", "channel_id": "1", "message_id": str(2**62 + message)}
        offset = wire.produce_update(user, event)
    for body in ({}, {"limit": 1}):
        asked = {**body, "mentions": True, "after_offset": offset}
        reply = wire.refused(user, asked, deadline_s=20)
        assert reply.error == "reply_too_large"
        assert "limit" not in reply.value["error"]
        assert "REPLY_BYTES_MAX (1024)" in reply.value["error"]["message"]
    assert len(wire.get(user).states) == 1


def test_overloaded(limited: Service) -> None:
    wire, user = limited.wire, new_user()
    offset = ack(wire, user, 1, 1)
    wire.get(user, after_offset=offset)
    # the queries of a partition are taken in order: one waits, the others find no room
    first = wire.ask(user, {"after_offset": BEYOND}, deadline_s=4)
    others = [wire.ask(user, {"after_offset": BEYOND}, deadline_s=20) for _ in range(3)]
    for asked in others:
        reply = wire.wait(asked)
        assert reply is not None
        assert reply.error == "overloaded"
    reply = wire.wait(first)
    assert reply is not None
    assert reply.error == "not_caught_up"
    assert len(wire.get(user).states) == 1
