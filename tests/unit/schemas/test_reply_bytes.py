"""Replies against a JSON library, and against Faust's own reading of them."""

from __future__ import annotations

import orjson
import pytest
from faust.agents.models import ReqRepResponse
from faust.serializers import codecs
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.schemas.read_state import ReadState, Row
from readstates.schemas.replies import (
    ErrorReply,
    Reply,
    decode_reply,
    encode_error,
    encode_reply,
    encode_rows,
    format_rows,
    wrap_faust,
)
from tests.support.wire_forms import ROWS

big = st.integers(0, 2**63 - 1)
u32 = st.integers(0, 2**32 - 1)
rows = st.tuples(
    st.integers(0, 255), big, big, big, u32, st.integers(0, 2**48 - 1), u32,
    st.integers(0, 65_535), big,
)  # fmt: skip


@settings(deadline=None)
@given(big, big, st.booleans(), st.lists(rows, max_size=5))
def test_round_trip(user: int, version: int, full: bool, states: list[Row]) -> None:
    body = encode_reply(user, version, full, states)
    assert decode_reply(body) == Reply(user, version, full, [ReadState(*row) for row in states])


def test_identifiers_are_strings_and_counts_are_numbers() -> None:
    body = orjson.loads(encode_reply(101, 5, True, ROWS))
    strings = {"channel_id", "last_message_id", "last_mention_id", "version"}
    assert (body["user_id"], body["version"], body["full"]) == ("101", "5", True)
    for state in body["read_states"]:
        assert {name for name, value in state.items() if type(value) is str} == strings
        assert {name for name, value in state.items() if type(value) is int} == {
            *("read_state_type", "mention_count", "last_pin_timestamp", "flags", "last_viewed")
        }


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
    body = encode_reply(101, 5, True, ROWS)
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
@given(st.lists(rows, max_size=60))
def test_compiled_rows_are_those_of_python(states: list[Row]) -> None:
    assert "rows" in encode_rows.__module__ or encode_rows is format_rows
    named: list[Row] = [ReadState(*state) for state in states]
    assert encode_rows(states) == encode_rows(named) == format_rows(named)


# formatted by Python, any integer passes; the table has none of these
WRONG = ["x", None] if encode_rows is format_rows else ["x", None, -1, 2**64]


@pytest.mark.parametrize("last", WRONG)
def test_what_is_no_number_of_a_row_is_refused(last: object) -> None:
    with pytest.raises((OverflowError, TypeError)):
        encode_rows([(*[0] * 8, last)])
