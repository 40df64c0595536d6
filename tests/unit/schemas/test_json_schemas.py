"""The JSON Schemas say the same as the code: what one accepts, the other does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from readstates.schemas import events as e
from readstates.schemas import replies, wire
from readstates.schemas.fields import DecodeError, read_identifier
from readstates.schemas.queries import LIMIT_MAX, Get, decode_query, encode_query
from readstates.schemas.read_state import Row
from tests.support.json_schemas import FILES, validator
from tests.support.wire_forms import BIG, EVENTS, GOLDEN
from tests.unit.schemas.test_wire_random import FIELDS, events, json_values, queries

UPDATE, QUERY, REPLY = validator("update.json"), validator("query.json"), validator("reply.json")
UPDATES = FILES["update.json"]["definitions"]
REPLIES = FILES["reply.json"]["definitions"]
READ_STATE = REPLIES["read_state"]


def decodes(decode: Callable[[bytes], object], value: bytes) -> bool:
    try:
        decode(value)
    except DecodeError:
        return False
    return True


def beyond_json_schema(value: Any) -> bool:
    """What JSON Schema cannot say: 1.0 is an integer to it, and "1" and 1 are two channels.

    Nor can it say that the `mention_ids` of a manual ack are above its `message_id`.
    """
    if isinstance(value, float):
        return value.is_integer()
    if isinstance(value, dict):
        if value.get("type") == "ack" and value.get("mention_ids") and value.get("manual") is True:
            return True
        channels = value.get("channel_ids")
        if isinstance(channels, list) and len({str(one) for one in channels}) < len(channels):
            return True
        return any(map(beyond_json_schema, value.values()))
    return isinstance(value, list) and any(map(beyond_json_schema, value))


@pytest.mark.parametrize("name", FILES)
def test_each_is_a_json_schema(name: str) -> None:
    Draft7Validator.check_schema(FILES[name])


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_golden_files_are_accepted(path: Any) -> None:
    kind = path.stem.partition(".")[0]
    validator(f"{kind}.json").validate(json.loads(path.read_bytes()))


@settings(deadline=None)  # a loaded machine is no failure
@given(events)
def test_every_event_is_accepted(event: e.Update) -> None:
    UPDATE.validate(json.loads(wire.encode_update(event)))


@settings(deadline=None)
@given(queries)
def test_every_query_is_accepted(query: Get) -> None:
    QUERY.validate(json.loads(encode_query(query)))


EDGES = (-1, 0, 1, 255, 256, 65_535, 65_536, *(2**b + d for b in (32, 48, 63) for d in (-1, 0)))
numbers = st.sampled_from(EDGES) | st.integers(0, 2**63 - 1)
near_numbers = numbers.map(str) | st.sampled_from(["", "01", "1\n", " 1", "+1", "1e3", "٣", "0"])
values = json_values | numbers | near_numbers | st.lists(numbers | near_numbers, max_size=3)
entries = st.dictionaries(st.sampled_from(FIELDS), values)
bodies = st.dictionaries(st.sampled_from(FIELDS), values | st.lists(entries, max_size=3))
valid = st.sampled_from([wire.encode_update(event) for event in EVENTS.values()])


@settings(deadline=None, max_examples=200)
@given(valid.map(orjson.loads), bodies)
def test_the_decoder_accepts_what_the_schema_does(body: dict[str, Any], other: Any) -> None:
    body = {**body, **other}
    assume(not beyond_json_schema(body))
    value = orjson.dumps(body)
    assert decodes(wire.decode_update, value) == UPDATE.is_valid(json.loads(value))


@settings(deadline=None, max_examples=200)
@given(st.builds(encode_query, queries).map(orjson.loads), bodies)
def test_the_same_for_queries(body: dict[str, Any], other: Any) -> None:
    body = {**body, **other}
    assume(not beyond_json_schema(body))
    value = orjson.dumps(body)
    assert decodes(decode_query, value) == QUERY.is_valid(json.loads(value))


STRINGS = {"channel_id", "last_message_id", "last_mention_id", "version"}
ACK = {"channel_id": 1, "message_id": 1}
LISTS = [
    *([ACK] * count for count in (0, 1, 1000, 1001)),
    *(list(range(1, count)) for count in (1001, 1002)),
    *([{**ACK, "read_state_type": kind}] for kind in (255, 256)),
    *([BIG] * count for count in (64, 65)),
    ACK,
    {**ACK, "read_state_type": 256},
]


@pytest.mark.parametrize("name", UPDATES)
def test_limits_of_updates_are_the_same(name: str) -> None:
    body = orjson.loads(wire.encode_update(EVENTS[name]))
    for field in FIELDS:
        for value in (*EDGES, *map(str, EDGES), None, True, *LISTS):
            changed = orjson.dumps({**body, field: value})
            accepted = decodes(wire.decode_update, changed)
            assert accepted == UPDATE.is_valid(json.loads(changed)), changed[:200]


def test_limits_of_queries_are_the_same() -> None:
    for field in FIELDS:
        for value in (*EDGES, *map(str, EDGES), None, True, *LISTS):
            changed = orjson.dumps({"type": "get", "user_id": "1", field: value})
            accepted = decodes(decode_query, changed)
            assert accepted == QUERY.is_valid(json.loads(changed)), changed[:200]


@settings(deadline=None)
@given(near_numbers | values)
def test_an_identifier_is_the_same_to_both(value: Any) -> None:
    assume(not beyond_json_schema(value))
    for name, low in (("id", 1), ("position", 0)):

        def taken(_value: bytes, low: int = low) -> object:
            return read_identifier(value, "field", low)

        assert validator("types.json", name).is_valid(value) == decodes(taken, b"")


@pytest.mark.parametrize(
    "number", [10**k + d for k in range(19) for d in (-1, 0, 1)] + [2**63 + d for d in range(-3, 4)]
)
def test_the_pattern_of_an_identifier_ends_where_it_must(number: int) -> None:
    assert validator("types.json", "id_text").is_valid(str(number)) == (0 < number < 2**63)


def test_the_field_names_are_those_of_the_code() -> None:
    written: dict[str, set[str]] = {}
    for event in EVENTS.values():
        body = orjson.loads(wire.encode_update(event))
        name = "ack_manual" if body.get("manual") else body["type"]
        written.setdefault(name, set()).update(body)
        written[name] |= {"read_state_type"} & set(event.__struct_fields__)
    named = {name: set(form["properties"]) - {"ts"} for name, form in UPDATES.items()}
    named["ack"] -= {"manual"}
    assert named == written
    assert set(UPDATES) - {"ack_manual"} == set(wire._FORMS)
    assert set(FILES["query.json"]["properties"]) == {"type", *Get.__struct_fields__}


def test_defaults_are_those_of_the_code() -> None:
    types = FILES["types.json"]["definitions"]
    assert types["read_state_type"]["default"] == e.Ack(1, 1, 1).read_state_type
    assert UPDATES["ack"]["properties"]["manual"]["default"] is False
    assert UPDATES["delete_user"]["properties"]["final"]["default"] is e.DeleteUser(1).final
    for name in ("mentions", "mentioned", "totals"):
        default = FILES["query.json"]["properties"][name]["default"]
        assert default is getattr(Get(1), name)


def test_limits_are_those_of_the_code() -> None:
    types = FILES["types.json"]["definitions"]
    assert types["limit"]["maximum"] == LIMIT_MAX
    assert types["mention_ids"]["maxItems"] == e.MENTION_IDS_MAX
    assert types["edit"]["maximum"] == e.EDIT_MAX


def test_mentions_are_given_as_ids_or_as_a_count() -> None:
    body = {"type": "ack", "user_id": 1, "channel_id": 1, "message_id": 3, "manual": True}
    for more, valid in (
        ({}, True),
        ({"mention_ids": [4, "5"]}, True),
        ({"mention_ids": []}, True),
        ({"mention_count": 2}, True),
        ({"mention_ids": [], "mention_count": 0}, False),
        ({"mention_ids": list(range(4, 68))}, True),
        ({"mention_ids": list(range(4, 69))}, False),
    ):
        whole = {**body, **more}
        assert UPDATE.is_valid(whole) == valid, more
        assert decodes(wire.decode_update, orjson.dumps(whole)) == valid, more
    assert not decodes(wire.decode_update, orjson.dumps({**body, "mention_ids": [3]}))


def test_a_reply_has_the_fields_that_the_schema_names_and_no_other() -> None:
    row: Row = (0, 1, 0, 0, 0, 0, 0, 0, 1, b"")
    plain = replies.Answer(0, True, [row])
    full = replies.Answer(0, True, [row], replies.Totals(1, 0, 0), (0, 1))
    for answer, mentions, fields in ((plain, False, "required"), (full, True, "properties")):
        body = json.loads(replies.encode_reply(1, answer, mentions))
        REPLY.validate(body)
        (state,) = body["read_states"]
        assert set(state) == set(READ_STATE[fields])
        assert set(body) == set(REPLIES["reply"][fields])
        for name in state:
            assert not REPLY.is_valid({**body, "read_states": [{**state, name: None}]}), name
        for part in ("totals", "next"):
            for name in body.get(part, ()):
                wrong = {**body, part: {**body[part], name: None}}
                assert not REPLY.is_valid(wrong), name


def test_an_error_may_advise_a_limit() -> None:
    for limit, valid in ((None, True), (1, True), (LIMIT_MAX, True), (LIMIT_MAX + 1, False)):
        body = json.loads(replies.encode_error(1, replies.REPLY_TOO_LARGE, "…", limit))
        assert REPLY.is_valid(body) == valid, limit
        fields = "required" if limit is None else "properties"
        assert set(body["error"]) == set(REPLIES["error_body"][fields])


def test_error_codes_are_those_of_the_code() -> None:
    code = FILES["reply.json"]["definitions"]["error_code"]
    codes = {
        replies.INVALID_QUERY,
        replies.STORE_UNAVAILABLE,
        replies.NOT_CAUGHT_UP,
        replies.OVERLOADED,
        replies.REPLY_TOO_LARGE,
    }
    assert set(code["enum"]) == codes


# -- what generators of code need -----------------------------------------------------------------


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Each schema in a file, and what is in it."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list):
            yield from parts(value)


ALL = [part for file in FILES.values() for part in parts(file)]


def test_every_object_and_choice_has_a_title_of_its_own() -> None:
    """A generated class is named after it; without one it is called AnonymousSchema_16."""
    named = [part for part in ALL if part.get("type") == "object" or "enum" in part]
    titles = [part.get("title", "") for part in named]
    assert len(titles) > 10
    assert all(title.isidentifier() for title in titles), titles
    assert len(set(titles)) == len(titles)


def test_every_number_says_how_many_bits_it_needs() -> None:
    """Without a format a generator takes 32 bits, and a count may have 2^32-1."""
    numbers = [part for part in ALL if part.get("type") == "integer"]
    assert len(numbers) > 5
    for part in numbers:
        assert part["format"] == ("int32" if part["maximum"] < 2**31 else "int64"), part


def test_every_constant_and_choice_has_a_type() -> None:
    for part in ALL:
        assert "type" in part or not {"const", "enum"} & set(part), part


def test_every_identifier_in_a_reply_is_a_string() -> None:
    """Nothing to choose from: a generated field is a string."""
    types = FILES["types.json"]["definitions"]
    for name, form in READ_STATE["properties"].items():
        if name == "mentions":
            assert form["items"] == {"$ref": "types.json#/definitions/id_text"}
            continue
        written = types[form["$ref"].rpartition("/")[2]]
        assert written["type"] == ("string" if name in STRINGS else "integer"), name


def test_the_count_of_a_manual_ack_is_a_property_like_others() -> None:
    form = UPDATES["ack_manual"]
    assert form["properties"]["mention_count"] == {"$ref": "types.json#/definitions/count"}
    assert form["properties"]["mention_ids"] == {"$ref": "types.json#/definitions/mention_ids"}
    assert not {"if", "then", "else"} & {key for part in ALL for key in part}
