"""Replies against a JSON library, and against Faust's own reading of them."""

from __future__ import annotations

import struct
from typing import Any

import orjson
import pytest
from faust.agents.models import ReqRepResponse
from faust.serializers import codecs
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.cache.marks import ENTRIES_MAX, MARKS_MAX, TAG_SHIFT
from readstates.schemas import replies
from readstates.schemas.read_state import ReadState, Row, mentions_of
from readstates.schemas.replies import (
    Answer,
    ErrorReply,
    Reply,
    Totals,
    decode_reply,
    encode_error,
    encode_reply,
    encode_rows,
    format_rows,
    wrap_faust,
)
from tests.support.wire_forms import ROWS

BIG = 2**63 - 1
COMPILED = encode_rows is not format_rows
big = st.integers(0, BIG)
u32 = st.integers(0, 2**32 - 1)
tags = st.integers(0, 3)
entries = st.tuples(st.integers(1, BIG), tags, st.integers(0, 2**34 - 1) | st.sampled_from([0, 1]))


def extra_of(given: list[tuple[int, int, int]]) -> bytes:
    """Entries of (value, tag, payload) as the table gives them."""
    packed = (struct.pack("=qQ", value, tag << TAG_SHIFT | rank) for value, tag, rank in given)
    return b"".join(packed)


rows: st.SearchStrategy[Row] = st.tuples(
    st.integers(0, 255), big, big, big, u32, st.integers(0, 2**48 - 1), u32,
    st.integers(0, 65_535), big, st.lists(entries, max_size=ENTRIES_MAX).map(extra_of),
)  # fmt: skip
totals = st.none() | st.builds(Totals, u32, u32, big)
places = st.none() | st.tuples(st.integers(0, 255), big)
answers = st.builds(Answer, big, st.booleans(), st.lists(rows, max_size=5), totals, places)


def named(row: Row, mentions: bool) -> ReadState:
    return ReadState(*row[:9], tuple(mentions_of(row)) if mentions else None)


@settings(deadline=None)
@given(big, answers, st.booleans())
def test_round_trip(user: int, answer: Answer, mentions: bool) -> None:
    body = encode_reply(user, answer, mentions)
    states = [named(row, mentions) for row in answer.rows]
    expected = Reply(user, answer.version, answer.full, states, answer.totals, answer.next)
    assert decode_reply(body) == expected
    assert list(orjson.loads(body)) == [
        *("user_id", "version", "full", "read_states"),
        *(["totals"] if answer.totals else []),
        *(["next"] if answer.next else []),
    ]


def test_identifiers_are_strings_and_counts_are_numbers() -> None:
    answer = Answer(5, True, ROWS, Totals(2, 1, 1), (2, 9))
    body = orjson.loads(encode_reply(101, answer, mentions=True))
    strings = {"channel_id", "last_message_id", "last_mention_id", "version"}
    assert (body["user_id"], body["version"], body["full"]) == ("101", "5", True)
    assert body["totals"] == {"read_states": 2, "mentioned": 1, "mentions": 1}
    assert body["next"] == {"read_state_type": 2, "channel_id": "9"}
    for state in body["read_states"]:
        assert {name for name, value in state.items() if type(value) is str} == strings
        assert {name for name, value in state.items() if type(value) is int} == {
            *("read_state_type", "mention_count", "last_pin_timestamp", "flags", "last_viewed")
        }
        assert all(type(message_id) is str for message_id in state["mentions"])


@pytest.mark.parametrize(
    ("extra", "mentions"),
    [
        (b"", ["9"]),
        (extra_of([(7, 0, 0), (8, 0, 1), (9, 0, 4)]), ["7", "9"]),
        (extra_of([(7, 0, 1 << 33 | 1), (6, 1, 1)]), []),  # deleted for good; one is only counted
        (extra_of([(9, 0, 1 << 33), (1, 1, 2), (2, 2, 0), (3, 3, 0)]), ["9"]),
    ],
)
def test_the_mentions_of_a_read_state(extra: bytes, mentions: list[str]) -> None:
    row: Row = (0, 1, 0, 9, 1, 0, 0, 0, 5, extra)
    assert list(map(str, mentions_of(row))) == mentions
    (state,) = orjson.loads(encode_reply(1, Answer(5, True, [row]), True))["read_states"]
    assert state["mentions"] == mentions
    nothing: Row = (0, 1, 5, 0, 0, 0, 0, 0, 5, b"")
    assert b'"mentions":[]' in encode_rows([nothing], True)
    assert b"mentions" not in encode_rows([row], False)


@settings(deadline=None)
@given(st.none() | big, st.text(st.characters(codec="utf-8")))
def test_errors_round_trip(user: int | None, message: str) -> None:
    body = encode_error(user, "overloaded", message)
    assert decode_reply(body) == ErrorReply(user, "overloaded", message)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b"5", b"null", b'"error"', b'{"error":5,"user_id":"1"}'),
        b'{"user_id":"x","version":"1","full":true,"read_states":[]}',
        b'{"user_id":"1","version":"1","full":true,"read_states":[{}]}',
        b'{"user_id":"1","version":"1","full":true,"read_states":5}',
        b'{"user_id":1e999,"version":"1","full":true,"read_states":[]}',
    ],
)
def test_what_is_no_reply(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_reply(body)


def test_faust_reads_it_as_its_own() -> None:
    body = encode_reply(101, Answer(5, True, ROWS), False)
    found = codecs.loads("json", wrap_faust(body, b"101", b"0b1c"))
    response = ReqRepResponse.from_data(found)
    assert (response.key, response.correlation_id) == ("101", "0b1c")
    assert response.value == orjson.loads(body)
    own = ReqRepResponse(key="101", value=orjson.loads(body), correlation_id="0b1c")
    assert found == codecs.loads("json", own.dumps(serializer="json"))


def test_faust_without_key_or_with_other_bytes() -> None:
    assert orjson.loads(wrap_faust(b"1", None, b""))["key"] is None
    assert orjson.loads(wrap_faust(b"1", b"\xff", b"\xff"))["correlation_id"] == "\ufffd"


@settings(deadline=None)
@given(st.lists(rows, max_size=60), st.booleans())
def test_compiled_rows_are_those_of_python(states: list[Row], mentions: bool) -> None:
    assert "rows" in encode_rows.__module__ or not COMPILED
    assert encode_rows(states, mentions) == format_rows(states, mentions)


@pytest.mark.skipif(not COMPILED, reason="it needs the compiled module")
def test_the_largest_rows_have_room() -> None:
    """All numbers at their largest; the compiled module writes into memory of a computed size."""
    from readstates.schemas import rows as compiled

    marks = extra_of([(-1, 0, 0)] * MARKS_MAX)  # 2^64 - 1, which is more than any message ID
    number = 2**64 - 1
    more = MARKS_MAX * compiled.MENTION_BYTES_MAX
    for extra, size in ((b"", compiled.ROW_BYTES_MAX), (marks, compiled.ROW_BYTES_MAX + more)):
        row: Any = (*[number] * 9, extra)
        body = encode_rows([row] * 3, True)
        assert body.count(b"%d" % number) == 3 * (9 + (len(extra) // 16 or 1))
        assert len(body) <= 3 * size


# formatted by Python, any integer passes; the table has none of these
WRONG = ["x", None, -1, 2**64] if COMPILED else ["x", None]


@pytest.mark.parametrize("last", WRONG)
def test_what_is_no_number_of_a_row_is_refused(last: object) -> None:
    wrong: Any = (*[0] * 8, last, b"")
    with pytest.raises((OverflowError, TypeError)):
        encode_rows([wrong], False)


def test_an_error_has_a_limit_only_if_there_is_one() -> None:
    body = orjson.loads(encode_error(1, replies.REPLY_TOO_LARGE, "…", 5))
    assert body["error"] == {"code": "reply_too_large", "message": "…", "limit": 5}
    assert decode_reply(orjson.dumps(body)) == ErrorReply(1, "reply_too_large", "…", 5)
    assert set(orjson.loads(encode_error(1, "overloaded", "…"))["error"]) == {"code", "message"}
