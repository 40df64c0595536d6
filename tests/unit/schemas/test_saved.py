"""Whatever read state there is, the events made for it lead to it: checked by the oracle."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.ops.proof.oracle import Oracle
from readstates.schemas import events as e
from readstates.schemas import wire
from readstates.schemas.replies import encode_reply
from readstates.schemas.saved import MENTIONS_MAX, SavedState, events_of
from readstates.streams.config import Settings

USER = 7
# few users, channels and messages, so that events meet
near, kinds = st.integers(1, 6), st.integers(0, 1)
option = st.just(e.KEEP) | st.integers(0, 2)
updates = st.one_of(
    st.builds(e.Ack, st.just(USER), near, near, kinds, option, option),
    st.builds(e.MarkUnread, st.just(USER), near, near, st.integers(0, 3), kinds, option, option),
    st.builds(e.Mention, st.just(USER), near, near, kinds),
    st.builds(e.Mention, st.just(USER), near, near, kinds),
    st.builds(e.RetractMention, st.just(USER), near, near, kinds),
    st.builds(e.PinsAck, st.just(USER), near, st.integers(0, 3), kinds),
    st.builds(e.Delete, st.just(USER), near, kinds),
)


def fold(oracle: Oracle, events: list[e.Update], offset: int = 0) -> None:
    for event in events:
        oracle.apply(wire.key_bytes(USER), wire.encode_update(event), offset)
        offset += 1
    assert oracle.bad == 0


def states(oracle: Oracle) -> list[SavedState]:
    """What is there; the oracle's rows are in the order of a SavedState."""
    return [SavedState(*row[:-1]) for row in oracle.rows(USER)]


@settings(deadline=None)  # a loaded machine is no failure
@given(st.lists(updates, max_size=25), st.lists(updates, max_size=25))
def test_every_state_that_events_can_make(before: list[e.Update], there: list[e.Update]) -> None:
    source, fresh, used = Oracle(), Oracle(), Oracle()
    fold(source, before)
    saved = states(source)
    fold(fresh, [event for state in saved for event in events_of(USER, state)])
    assert states(fresh) == saved
    fold(used, there)
    fold(used, [event for one in saved for event in events_of(USER, one, replace=True)], len(there))
    places = {state[:2] for state in saved}
    assert [state for state in states(used) if state[:2] in places] == saved


def test_a_saved_line_may_be_the_largest_reply_that_a_worker_may_send() -> None:
    reply_bytes_max = Settings.__dataclass_fields__["reply_bytes_max"].metadata["range"][1]
    assert reply_bytes_max + len(b"\r\n") <= wire.SAVED_BYTES_MAX


large = st.builds(
    SavedState,
    st.integers(0, e.TYPE_MAX),
    st.integers(1, e.SNOWFLAKE_MAX),
    st.integers(1, e.SNOWFLAKE_MAX),
    st.integers(0, e.SNOWFLAKE_MAX),
    st.integers(0, e.COUNT_MAX),
    st.integers(0, e.TIMESTAMP_MAX),
    st.integers(0, e.COUNT_MAX),
    st.integers(0, e.DAYS_MAX),
)


@settings(deadline=None)
@given(large)
def test_every_state_of_a_channel_that_was_read(state: SavedState) -> None:
    oracle = Oracle()
    events = list(events_of(USER, state))
    assert len(events) <= 3
    fold(oracle, events)
    assert states(oracle) == [state]


def test_many_mentions_of_a_channel_never_read() -> None:
    oracle, state = Oracle(), SavedState(0, 5, 0, 900, MENTIONS_MAX)
    fold(oracle, list(events_of(USER, state)))
    assert states(oracle) == [state]


@pytest.mark.parametrize(
    "state",
    [
        SavedState(0, 5, 0, flags=1),
        SavedState(0, 5, 0, 9, 1, last_viewed=1),
        SavedState(0, 5, 0, 0, 1),
        SavedState(0, 5, 0, 1, 2),
        SavedState(0, 5, 0, 900, MENTIONS_MAX + 1),
    ],
)
def test_what_no_events_lead_to(state: SavedState) -> None:
    with pytest.raises(ValueError, match=r"last_message_id|message 1"):
        list(events_of(USER, state))


def test_nothing_is_made_of_nothing() -> None:
    assert list(events_of(USER, SavedState(0, 5, 0))) == []


def test_a_line_is_a_read_state_or_a_reply() -> None:
    row = (2, 5, 6, 4, 1, 9, 3, 8, 77)
    reply = encode_reply(USER, 99, True, [row, (3, *row[1:])])
    expected = SavedState(*row[:-1])
    assert wire.decode_saved(reply) == [
        (USER, expected),
        (USER, expected._replace(read_state_type=3)),
    ]
    line = {"user_id": str(USER), **orjson.loads(reply)["read_states"][0]}
    assert wire.decode_saved(orjson.dumps(line)) == [(USER, expected)]
    least = b'{"user_id":7,"channel_id":5,"last_message_id":"0"}'
    assert wire.decode_saved(least) == [(USER, SavedState(0, 5, 0))]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected an object"),
        (b'{"channel_id":5,"last_message_id":1}', "user_id"),
        (b'{"user_id":7,"channel_id":5}', "last_message_id"),
        (b'{"user_id":7,"channel_id":0,"last_message_id":1}', "channel_id"),
        (b'{"user_id":7,"channel_id":5,"last_message_id":1,"mention_count":"1"}', "mention_count"),
        (b'{"user_id":7,"channel_id":5,"last_message_id":1,"last_mention_id":null}', "mention_id"),
        (b'{"user_id":7,"read_states":{}}', "read_states: expected a list"),
        (b'{"user_id":7,"read_states":[{"channel_id":5}]}', r"read_states\[0\].last_message_id"),
        (b'{"user_id":7,"read_states":[5]}', r"read_states\[0\]: expected an object"),
    ],
)
def test_a_wrong_line_is_refused_by_its_field(line: bytes, said: str) -> None:
    with pytest.raises(wire.DecodeError, match=said):
        wire.decode_saved(line)
