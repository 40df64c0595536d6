"""What is accepted and what is refused: reasons, fields, and the identifier rule."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from readstates.schemas import events as e
from readstates.schemas.fields import DecodeError
from readstates.schemas.queries import Get, decode_query
from readstates.schemas.wire import decode_update, key_bytes

ACK = {"type": "ack", "user_id": 1, "channel_id": 2, "message_id": 3}
MENTION = {**ACK, "type": "mention"}
PINS = {"type": "pins_ack", "user_id": 1, "channel_id": 2, "timestamp": 3}
GET = {"type": "get", "user_id": 1}
BIG = 2**63 - 1


def refused(value: bytes | None, query: bool = False) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        (decode_query if query else decode_update)(value)
    return caught.value


def bulk(*acks: Any) -> bytes:
    return orjson.dumps({"type": "bulk_ack", "user_id": 1, "acks": list(acks)})


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b" " * (e.EVENT_BYTES_MAX + 1), "too_large"),  # the size comes before the JSON
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"type":"ack","user_id":NaN}', "invalid_json"),
        (b'{"type":"\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[" * 900 + b"]" * 900, "invalid_field"),
        (b"null", "invalid_field"),
        (b"[1,2,3,4]", "invalid_field"),
        (b'"four"', "invalid_field"),
        (b"{}", "invalid_field"),
        (b'{"type":7}', "invalid_field"),
        (b'{"type":null}', "invalid_field"),
        (b'{"type":["ack"]}', "invalid_field"),
        (b'{"type":"noack"}', "unknown_type"),  # the type comes before the user
    ],
)
def test_reasons(value: bytes | None, reason: str, query: bool) -> None:
    assert refused(value, query).reason == reason


def test_a_value_of_the_largest_size_is_read() -> None:
    value = orjson.dumps(ACK)
    padded = value + b" " * (e.EVENT_BYTES_MAX - len(value))
    assert decode_update(padded) == e.Ack(1, 2, 3)


@pytest.mark.parametrize(
    ("given", "number"),
    [(1, 1), (BIG, BIG), ("1", 1), (str(BIG), BIG), ("1000000000000000000", 10**18)],
)
@pytest.mark.parametrize("field", ["user_id", "channel_id", "message_id"])
@pytest.mark.parametrize("base", [ACK, {**ACK, "ts": 5}, MENTION, {**ACK, "x": 1}])
def test_identifiers(base: dict[str, Any], field: str, given: Any, number: int) -> None:
    for others in (base, {k: str(v) if k.endswith("_id") else v for k, v in base.items()}):
        event = decode_update(orjson.dumps({**others, field: given}))
        assert getattr(event, field) == number
        assert type(getattr(event, field)) is int


@pytest.mark.parametrize(
    "raw",
    [
        *("0", "-1", "9223372036854775808", "18446744073709551616", "1.0", "1e3"),
        *("true", "null", "[]", "[1]", "{}", '""', '"0"', '"01"', '"+1"', '"-1"', '" 1"', '"1 "'),
        *('"1_0"', '"1.0"', '"1e3"', '"9223372036854775808"', '"99999999999999999999"', '"0x1"'),
        *('"²"', '"١"', '"1\\n"', '"\\u0000"'),
    ],
)
@pytest.mark.parametrize("field", ["user_id", "channel_id", "message_id"])
@pytest.mark.parametrize("kind", ["ack", "mention", "bulk_ack"])
@pytest.mark.parametrize("others", ["7", '"7"'])
def test_no_identifiers(raw: str, field: str, kind: str, others: str) -> None:
    values = {"user_id": others, "channel_id": others, "message_id": others, field: raw}
    user, channel, message = values["user_id"], values["channel_id"], values["message_id"]
    pair = f'"channel_id":{channel},"message_id":{message}'
    rest = f'"acks":[{{{pair}}}]' if kind == "bulk_ack" else pair
    error = refused(f'{{"type":"{kind}","user_id":{user},{rest}}}'.encode())
    assert error.reason == "invalid_field"
    assert field in error.field
    assert field in str(error)


@pytest.mark.parametrize("field", ["user_id", "channel_id", "message_id"])
def test_a_missing_field_is_named(field: str) -> None:
    for base in (ACK, MENTION):
        error = refused(orjson.dumps({k: v for k, v in base.items() if k != field}))
        assert (error.reason, error.field) == ("invalid_field", field)


LIMITS = [
    (ACK, "flags", e.COUNT_MAX),
    (ACK, "last_viewed", e.DAYS_MAX),
    (ACK, "read_state_type", e.TYPE_MAX),
    (MENTION, "read_state_type", e.TYPE_MAX),
    (PINS, "timestamp", e.TIMESTAMP_MAX),
    ({**ACK, "manual": True}, "mention_count", e.COUNT_MAX),
]


@pytest.mark.parametrize(("base", "field", "high"), LIMITS)
def test_numbers(base: dict[str, Any], field: str, high: int) -> None:
    for good in (0, 1, high):
        assert getattr(decode_update(orjson.dumps({**base, field: good})), field) == good
    bad: object
    for bad in (-1, high + 1, 1.0, "1", True, False, None, [], {}):
        error = refused(orjson.dumps({**base, field: bad}))
        assert (error.reason, error.field) == ("invalid_field", field)


@pytest.mark.parametrize("base", [ACK, MENTION, {"type": "delete_user", "user_id": 1}])
def test_ts_is_checked_and_dropped(base: dict[str, Any]) -> None:
    plain = decode_update(orjson.dumps(base))
    for good in (0, BIG):
        assert decode_update(orjson.dumps({**base, "ts": good})) == plain
    for bad in (-1, BIG + 1, 1.5, "1", True, None):
        assert refused(orjson.dumps({**base, "ts": bad})).field == "ts"


def test_manual() -> None:
    assert decode_update(orjson.dumps({**ACK, "manual": False})) == e.Ack(1, 2, 3)
    assert decode_update(orjson.dumps({**ACK, "manual": True})) == e.MarkUnread(1, 2, 3)
    bad: object
    for bad in (None, 0, 1, "true", []):
        assert refused(orjson.dumps({**ACK, "manual": bad})).field == "manual"


def test_a_count_without_manual_is_an_unknown_field() -> None:
    assert decode_update(orjson.dumps({**ACK, "mention_count": "many"})) == e.Ack(1, 2, 3)


def test_omitted_options_are_kept() -> None:
    event = decode_update(orjson.dumps({**ACK, "read_state_type": 4}))
    assert event == e.Ack(1, 2, 3, 4, e.KEEP, e.KEEP)


def test_of_a_repeated_key_the_last_counts() -> None:
    value = b'{"type":"x","user_id":null,"message_id":9,"message_id":3,"channel_id":2,'
    assert decode_update(value + b'"user_id":1,"type":"ack"}') == e.Ack(1, 2, 3)


def test_bulk_ack_merges_in_the_order_first_seen() -> None:
    one = {"channel_id": 2, "message_id": 30}
    event = decode_update(
        bulk(
            one,
            {"channel_id": "1", "message_id": 5, "read_state_type": 0},
            {**one, "message_id": 31},
            {**one, "read_state_type": 1},
            {**one, "message_id": 29},
        )
    )
    assert event == e.BulkAck(1, ((0, 2, 31), (0, 1, 5), (1, 2, 30)))


def test_bulk_ack_all_or_none() -> None:
    good = {"channel_id": 2, "message_id": 3}
    most = [{"channel_id": n + 1, "message_id": 3} for n in range(e.BULK_ACKS_MAX)]
    decoded = decode_update(bulk(*most))
    assert isinstance(decoded, e.BulkAck)
    assert len(decoded.acks) == e.BULK_ACKS_MAX
    for wrong in (bulk(), bulk(*most, good), b'{"type":"bulk_ack","user_id":1,"acks":{}}'):
        assert refused(wrong).field == "acks"
    assert refused(bulk(good, 5)).field == "acks[1]"
    assert refused(bulk(good, {**good, "message_id": 0})).field == "acks[1].message_id"
    assert refused(bulk({**good, "read_state_type": 256})).field == "acks[0].read_state_type"


def test_an_error_repeats_little_of_a_long_value() -> None:
    text = str(refused(orjson.dumps({**MENTION, "channel_id": "é" * 50_000})))
    assert text.startswith("channel_id: ")
    assert len(text) < 200


def test_query_fields() -> None:
    given = {"channel_ids": ["3", 2], "read_state_type": 1, "since_version": "0"}
    query = decode_query(orjson.dumps({**GET, **given, "after_offset": str(BIG), "more": None}))
    assert query == Get(1, (3, 2), 1, 0, BIG)
    assert decode_query(orjson.dumps(GET)) == Get(1, None, None, None, None)
    assert decode_query(orjson.dumps({**GET, "channel_ids": []})).channel_ids == ()


WRONG: dict[str, tuple[object, ...]] = {
    "channel_ids": (None, 1, "1", {}, [1, "1"], [1] * 2, list(range(1, e.CHANNEL_IDS_MAX + 2))),
    "read_state_type": (None, -1, 256, "0", True),
    "since_version": (None, -1, BIG + 1, "00", "", 1.0, False),
    "after_offset": (None, -1, BIG + 1, "-1", "01", [], True),
    "user_id": (None, 0, "0", True, "1 "),
}


@pytest.mark.parametrize(
    ("field", "bad"), [(field, bad) for field, wrong in WRONG.items() for bad in wrong]
)
def test_wrong_query_fields(field: str, bad: Any) -> None:
    error = refused(orjson.dumps({**GET, field: bad}), query=True)
    assert (error.reason, error.field) == ("invalid_field", field)


@pytest.mark.parametrize("bad", [0, "2,3", "", "01", "+2", " 2", "2\n", "٣", 2.0, "9" * 19])
def test_wrong_channel_is_named_by_its_place(bad: Any) -> None:
    error = refused(orjson.dumps({**GET, "channel_ids": ["1", bad]}), query=True)
    assert error.field == "channel_ids[1]"


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ({"user_id": 5, "channel_ids": "x"}, 5),
        ({"user_id": "9223372036854775807", "since_version": -1}, 2**63 - 1),
        ({"user_id": "5", "type": "put"}, 5),
        ({"user_id": "5", "type": None}, 5),
        ({"user_id": 0, "channel_ids": "x"}, None),
        ({"user_id": None, "type": "put"}, None),
        ({"type": "put"}, None),
    ],
)
def test_a_wrong_query_has_its_user(fields: dict[str, Any], user: int | None) -> None:
    body = {"type": "get", **fields}
    assert refused(orjson.dumps(body), query=True).user_id == user


def test_a_thousand_channels_are_allowed() -> None:
    channels = list(range(1, e.CHANNEL_IDS_MAX + 1))
    assert decode_query(orjson.dumps({**GET, "channel_ids": channels})).channel_ids == tuple(
        channels
    )


def test_key_bytes() -> None:
    assert key_bytes(1) == b"1"
    assert key_bytes(BIG) == b"9223372036854775807"
