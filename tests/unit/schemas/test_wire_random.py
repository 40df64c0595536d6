"""Random and mutated bytes: an event or a DecodeError, never anything else, never a guess."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.schemas import events as e
from readstates.schemas import wire
from readstates.schemas.fields import DecodeError
from readstates.schemas.queries import LIMIT_MAX, Get, decode_query, encode_query
from tests.support.wire_forms import EVENTS, GOLDEN

T = TypeVar("T")

ids = st.integers(1, e.SNOWFLAKE_MAX)
kinds = st.integers(0, e.TYPE_MAX)
counts = st.integers(0, e.COUNT_MAX)
flags = st.just(e.KEEP) | counts
days = st.just(e.KEEP) | st.integers(0, e.DAYS_MAX)
acks = st.dictionaries(st.tuples(kinds, ids), ids, min_size=1, max_size=20).map(
    lambda merged: tuple((*key, message) for key, message in merged.items())
)
optional_ids = st.just(e.KEEP) | st.integers(0, e.SNOWFLAKE_MAX)
mention_ids = st.lists(ids, unique=True, max_size=e.MENTION_IDS_MAX).map(sorted).map(tuple)


def manual_ack(*given: int, above: list[int]) -> e.MarkUnread:
    """With the IDs of mentions, each of which is above the message."""
    user, channel, message, *options = given
    mentions = tuple(sorted({min(message + each, e.SNOWFLAKE_MAX) for each in above}))
    return e.MarkUnread(user, channel, min(message, 2**62), e.KEEP, mentions, *options)


events = st.one_of(
    st.builds(e.Ack, ids, ids, ids, kinds, flags, days, optional_ids),
    st.builds(e.MarkUnread, ids, ids, ids, flags, st.none(), kinds, flags, days),
    st.builds(
        manual_ack,
        *(ids, ids, ids, kinds, flags, days),
        above=st.lists(ids, max_size=e.MENTION_IDS_MAX),
    ),
    st.builds(e.BulkAck, ids, acks),
    st.builds(e.Mention, ids, ids, ids, kinds, counts),
    st.builds(e.RetractMention, ids, ids, ids, kinds, flags),
    st.builds(e.PinsAck, ids, ids, st.integers(0, e.TIMESTAMP_MAX), kinds),
    st.builds(e.SetOptions, ids, ids, kinds, counts, days),
    st.builds(e.SetOptions, ids, ids, kinds, flags, st.integers(0, e.DAYS_MAX)),
    st.builds(
        e.Merge,
        *(ids, ids, kinds, optional_ids, mention_ids, flags),
        *(st.just(e.KEEP) | st.integers(0, e.TIMESTAMP_MAX), flags, days),
    ),
    st.builds(e.Delete, ids, ids, kinds, st.just(e.KEEP) | ids),
    st.builds(e.DeleteUser, ids, st.booleans()),
    st.builds(e.RestoreUser, ids),
)
numbers = st.none() | st.integers(0, e.SNOWFLAKE_MAX)
channels = st.none() | st.lists(ids, unique=True, max_size=20).map(tuple)
queries = st.builds(
    Get,
    *(ids, channels, st.none() | kinds, numbers, numbers),
    *(st.booleans(), st.booleans(), st.booleans()),
    st.none() | st.integers(1, LIMIT_MAX),
    st.none() | st.tuples(kinds, ids),
)
REASONS = {"null_value", "too_large", "invalid_json", "invalid_field", "unknown_type"}


@settings(deadline=None)  # a loaded machine is no failure
@given(events)
def test_events_round_trip(event: e.Update) -> None:
    assert wire.decode_update(wire.encode_update(event)) == event


@settings(deadline=None)  # a loaded machine is no failure
@given(queries)
def test_queries_round_trip(query: Get) -> None:
    assert decode_query(encode_query(query)) == query


def either(value: bytes) -> None:
    """Decodes both ways; what is accepted must survive its own encoding."""
    event = read(wire.decode_update, value)
    if event is not None:
        assert wire.decode_update(wire.encode_update(event)) == event
    query = read(decode_query, value)
    if query is not None:
        assert decode_query(encode_query(query)) == query


def read(decode: Callable[[bytes], T], value: bytes) -> T | None:
    reason = None
    try:
        return decode(value)
    except DecodeError as error:
        reason = error.reason
    assert reason in REASONS
    return None


@settings(deadline=None)  # a loaded machine is no failure
@given(st.binary(max_size=300))
def test_random_bytes(value: bytes) -> None:
    either(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = [
    *("type", "user_id", "channel_id", "message_id", "read_state_type", "flags", "last_viewed"),
    *("manual", "mention_count", "acks", "timestamp", "ts", "channel_ids", "since_version"),
    *("after_offset", "edit", "if_version", "mention_ids", "last_message_id", "up_to", "final"),
    *("last_pin_timestamp", "mentions", "mentioned", "totals", "limit", "after"),
]
TYPES = st.sampled_from([*wire._FORMS, "get"])


@settings(deadline=None)  # a loaded machine is no failure
@given(st.dictionaries(st.sampled_from(FIELDS), json_values | ids | ids.map(str)), TYPES)
def test_random_objects(body: dict[str, object], kind: str) -> None:
    either(orjson.dumps({**body, "type": kind}))


FILES = sorted(path.read_bytes() for path in GOLDEN.glob("[uq]*.json"))


@settings(deadline=None)  # a loaded machine is no failure
@given(st.sampled_from(FILES), st.data())
def test_mutated_bytes(value: bytes, data: st.DataObject) -> None:
    mutated = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated)))
        taken = data.draw(st.integers(0, 3))
        mutated[place : place + taken] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"0", b'"', b"null", b"1e5", b"-", b"true"])
        )
    either(bytes(mutated))


def outcome(body: dict[str, object]) -> e.Update | str:
    """The event, or what is wrong with it."""
    try:
        return wire.decode_update(orjson.dumps(body))
    except DecodeError as exc:
        return str(exc)


PLAIN = {"ack": e.Ack, "mention": e.Mention, "retract_mention": e.RetractMention}
ODD = ["0", "01", "", "-1", "1,2", "１", " 1", str(2**63 - 1), str(2**63), 0, 2**63 - 1, 2**63, -1]
ODD += [True, None, 1.0, "1.0", [], {}]


@settings(deadline=None)  # a loaded machine is no failure
@given(st.sampled_from(sorted(PLAIN)), ids, ids, ids, st.booleans(), st.booleans())
def test_a_plain_event(
    kind: str, user: int, channel: int, message: int, text: bool, ts: bool
) -> None:
    values = [str(value) if text else value for value in (user, channel, message)]
    body = dict(zip(("user_id", "channel_id", "message_id"), values, strict=True))
    assert outcome({"type": kind, **body, **({"ts": 1} if ts else {})}) == PLAIN[kind](
        user, channel, message
    )


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("field", ["user_id", "channel_id", "message_id", "ts"])
def test_an_unknown_field_changes_nothing(kind: str, field: str) -> None:
    """With it an event is read field by field; without, the IDs of a plain one together."""
    for good, odd in itertools.product((7, "7"), ODD):
        body = {"type": kind, "user_id": good, "channel_id": good, "message_id": good, field: odd}
        assert outcome(body) == outcome({**body, "unknown": 0, "unknown too": 0}), body


def test_every_event_has_a_form() -> None:
    assert {type(event) for event in EVENTS.values()} == set(e.Update.__args__)
