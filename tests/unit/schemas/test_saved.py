"""What an import brings in: checked by the oracle, with every read state that events can make."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.ops.proof.oracle import Oracle
from readstates.schemas import events as e
from readstates.schemas import wire
from readstates.schemas.fields import DecodeError
from readstates.schemas.read_state import Row, mentions_of
from readstates.schemas.replies import Answer, encode_reply
from readstates.schemas.saved import SavedState, decode_saved, events_of

USER = 7
# few users, channels and messages, so that events meet
near, kinds = st.integers(1, 6), st.integers(0, 1)
option = st.just(e.KEEP) | st.integers(0, 2)
updates = st.one_of(
    st.builds(e.Ack, st.just(USER), near, near, kinds, option, option),
    st.builds(e.MarkUnread, st.just(USER), near, near, option, st.none(), kinds, option, option),
    st.builds(e.Mention, st.just(USER), near, near, kinds, st.integers(0, 1)),
    st.builds(e.Mention, st.just(USER), near, near, kinds),
    st.builds(e.RetractMention, st.just(USER), near, near, kinds, option),
    st.builds(e.PinsAck, st.just(USER), near, st.integers(0, 3), kinds),
    st.builds(e.SetOptions, st.just(USER), near, kinds, st.integers(0, 2), option),
    st.builds(e.Delete, st.just(USER), near, kinds, st.just(e.KEEP) | near),
)


def fold(oracle: Oracle, events: list[e.Update], offset: int = 0) -> None:
    for event in events:
        oracle.apply(wire.key_bytes(USER), wire.encode_update(event), offset)
        offset += 1
    assert oracle.bad == 0


def states(oracle: Oracle, *, named: bool = True) -> list[SavedState]:
    """What replies show; the fields of a row are in the order of a SavedState."""
    return [
        SavedState(*row[:8], tuple(mentions_of(row)) if named else None)
        for row in oracle.shown(USER)
    ]


def imported(oracle: Oracle, saved: list[SavedState], *, replace: bool = False) -> None:
    events = [event for one in saved for event in events_of(USER, one, replace=replace)]
    assert len(events) <= (2 if replace else 1) * len(saved)
    fold(oracle, events, 1000)


@settings(deadline=None)  # a loaded machine is no failure
@given(st.lists(updates, max_size=25))
def test_an_export_makes_the_same_read_states_elsewhere(before: list[e.Update]) -> None:
    source, fresh, counted = Oracle(), Oracle(), Oracle()
    fold(source, before)
    saved = [
        # a count without a message, in a channel that was never read
        state._replace(last_message_id=max(state.last_message_id, 1))
        if state.mention_count > len(state.mentions or ())
        else state
        for state in states(source)
    ]
    imported(fresh, states(source))
    assert states(fresh) == saved
    imported(fresh, states(source))  # and once more
    assert states(fresh) == saved
    imported(counted, states(source, named=False))
    assert [(s.channel_id, s.mention_count, s.last_mention_id) for s in states(counted)] == [
        (s.channel_id, s.mention_count, s.last_mention_id) for s in saved
    ]


@settings(deadline=None)
@given(st.lists(updates, max_size=20), st.lists(updates, max_size=20))
def test_nothing_newer_is_lost(before: list[e.Update], after: list[e.Update]) -> None:
    """A snapshot of an earlier moment, imported later, changes nothing (plain events only)."""
    live, moment = Oracle(), Oracle()
    plain: list[e.Update] = [
        e.Ack(x.user_id, x.channel_id, x.message_id, x.read_state_type)
        if isinstance(x, e.Ack)
        else x
        for x in (*before, *after)
        if isinstance(x, e.Ack | e.Mention | e.RetractMention)
    ]
    fold(moment, plain[: len(plain) // 2])
    fold(live, plain)
    there = states(live)
    imported(live, states(moment))
    assert states(live) == there


@settings(deadline=None)
@given(st.lists(updates, max_size=25), st.lists(updates, max_size=25))
def test_replace_replaces(before: list[e.Update], there: list[e.Update]) -> None:
    source, used, fresh = Oracle(), Oracle(), Oracle()
    fold(source, before)
    saved = states(source)
    # a deletion up to a message is for good, and no import undoes it
    fold(used, [x for x in there if not (isinstance(x, e.Delete) and x.up_to != e.KEEP)])
    imported(used, saved, replace=True)
    imported(fresh, saved)
    places = {state[:2] for state in saved}
    assert [state for state in states(used) if state[:2] in places] == states(fresh)


@st.composite
def large(draw: st.DrawFn) -> SavedState:
    ids, count = st.integers(0, e.SNOWFLAKE_MAX), st.integers(0, e.COUNT_MAX)
    last = draw(ids)
    above = st.integers(1, 10) | st.integers(1, e.SNOWFLAKE_MAX)
    steps = draw(st.sets(above, max_size=70))
    mentions = tuple(sorted(last + step for step in steps if last + step <= e.SNOWFLAKE_MAX))
    return SavedState(
        draw(st.integers(0, e.TYPE_MAX)),
        draw(st.integers(1, e.SNOWFLAKE_MAX)),
        last,
        mentions[-1] if mentions else 0,
        max(draw(count | st.just(0)), len(mentions)),
        draw(st.integers(0, e.TIMESTAMP_MAX)),
        draw(count),
        draw(st.integers(0, e.DAYS_MAX)),
        mentions,
    )


@settings(deadline=None)
@given(large())
def test_every_state_that_a_line_can_have(state: SavedState) -> None:
    oracle = Oracle()
    imported(oracle, [state])
    if not any(state[2:8]):
        assert states(oracle) == []
        return
    ((found),) = states(oracle)
    assert found[3:8] == state[3:8]
    known = (state.mentions or ())[-e.MENTION_IDS_MAX :]
    assert found.mentions == tuple(each for each in known if each > found.last_message_id)
    if state.last_message_id or state.mention_count <= len(known):
        assert found.last_message_id == state.last_message_id
    else:
        assert found.last_message_id == 1


@pytest.mark.parametrize(
    ("state", "events"),
    [
        (SavedState(0, 5, 0), []),
        (SavedState(0, 5, 30), [e.Merge(USER, 5, 0, 30)]),
        (SavedState(0, 5, 0, 9, 1), [e.Merge(USER, 5, mention_ids=(9,))]),
        (SavedState(0, 5, 0, 9, 3), [e.Merge(USER, 5, 0, 1, (9,), 3)]),
        (SavedState(0, 5, 30, 40, 3), [e.Merge(USER, 5, 0, 30, (40,), 3)]),
        (SavedState(0, 5, 30, 20, 3), [e.Merge(USER, 5, 0, 30, (), 3)]),  # as version 1 had it
        (SavedState(0, 5, 30, 40, 0), [e.Merge(USER, 5, 0, 30)]),
        (SavedState(2, 5, 0, 0, 0, 6, 7, 8), [e.Merge(USER, 5, 2, e.KEEP, (), e.KEEP, 6, 7, 8)]),
        (SavedState(0, 5, 3, 5, 2, mentions=(4, 5)), [e.Merge(USER, 5, 0, 3, (4, 5))]),
    ],
)
def test_one_event_for_each(state: SavedState, events: list[e.Update]) -> None:
    assert list(events_of(USER, state)) == events
    assert list(events_of(USER, state, replace=True)) == [
        e.Delete(USER, 5, state.read_state_type),
        *events,
    ]


def test_of_many_mentions_the_newest_are_kept() -> None:
    many = tuple(range(11, 11 + e.MENTION_IDS_MAX + 6))
    state = SavedState(0, 5, 10, many[-1], len(many), mentions=many)
    assert list(events_of(USER, state)) == [e.Merge(USER, 5, 0, 10, many[6:], len(many))]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (SavedState(0, 5, 4, 5, 2, mentions=(4, 5)), "message 4, but 4 was read"),
        (SavedState(0, 5, 3, 5, 1, mentions=(4, 5)), "2 messages, mention_count is 1"),
    ],
)
def test_mentions_that_cannot_be(state: SavedState, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(events_of(USER, state))


def test_a_line_is_a_read_state_or_a_reply() -> None:
    row: Row = (2, 5, 6, 14, 1, 9, 3, 8, 77, b"")
    answer = Answer(99, True, [row, (3, *row[1:])])
    reply = encode_reply(USER, answer, mentions=False)
    expected = SavedState(*row[:8])
    assert decode_saved(reply) == [
        (USER, expected),
        (USER, expected._replace(read_state_type=3)),
    ]
    line = {"user_id": str(USER), **orjson.loads(reply)["read_states"][0]}
    assert decode_saved(orjson.dumps(line)) == [(USER, expected)]
    least = b'{"user_id":7,"channel_id":5,"last_message_id":"0"}'
    assert decode_saved(least) == [(USER, SavedState(0, 5, 0))]
    named = encode_reply(USER, answer, mentions=True)
    assert decode_saved(named)[0] == (USER, expected._replace(mentions=(14,)))
    counted = b'{"user_id":7,"channel_id":5,"last_message_id":3,"mentions":["9",8,9]}'
    assert decode_saved(counted) == [(USER, SavedState(0, 5, 3, 0, 2, mentions=(8, 9)))]


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
        (b'{"user_id":7,"channel_id":5,"last_message_id":1,"mentions":5}', "mentions: expected a"),
        (b'{"user_id":7,"channel_id":5,"last_message_id":1,"mentions":[2,0]}', r"mentions\[1\]"),
        (
            b'{"user_id":7,"read_states":[{"channel_id":5,"last_message_id":1,"mentions":[-1]}]}',
            r"read_states\[0\].mentions\[0\]",
        ),
        (b'{"user_id":7,"read_states":{}}', "read_states: expected a list"),
        (b'{"user_id":7,"read_states":[{"channel_id":5}]}', r"read_states\[0\].last_message_id"),
        (b'{"user_id":7,"read_states":[5]}', r"read_states\[0\]: expected an object"),
    ],
)
def test_a_wrong_line_is_refused_by_its_field(line: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        decode_saved(line)
