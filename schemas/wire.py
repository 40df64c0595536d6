"""Decodes bytes into events and queries, and encodes them. It accepts or rejects; it never guesses.

Its errors name the field, the expected value and the value found there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from .events import (
    BULK_ACKS_MAX,
    CHANNEL_IDS_MAX,
    COUNT_MAX,
    DAYS_MAX,
    EVENT_BYTES_MAX,
    KEEP,
    SNOWFLAKE_MAX,
    TIMESTAMP_MAX,
    TYPE_MAX,
    Ack,
    BulkAck,
    Delete,
    DeleteUser,
    MarkUnread,
    Mention,
    PinsAck,
    RetractMention,
    Update,
)
from .queries import Get
from .saved import SavedState

SHOWN_MAX = 80  # characters of a wrong value that an error shows
DIGITS_MAX = 19  # of 2^63 - 1
_ID = "(?:[1-9][0-9]{0,17}|[1-8][0-9]{18})"
_surely_three_ids = re.compile(f"{_ID},{_ID},{_ID}").fullmatch
_surely_ids = re.compile(f"{_ID}(?:,{_ID})*+").fullmatch
SAVED_BYTES_MAX = 128 << 20  # of a line, which may be a whole reply of up to REPLY_BYTES_MAX

_loads = orjson.loads


class DecodeError(ValueError):
    """A value is not valid. `reason` is a dead-letter reason; `field` names the wrong field.

    `user_id` is that of a query with a wrong field; None if the ID cannot be read.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.reason = reason
        self.field = field
        self.user_id: int | None = None


def key_bytes(user_id: int) -> bytes:
    """The record key of a user: the decimal ID."""
    return b"%d" % user_id


# -- updates --------------------------------------------------------------------------------------


def decode_update(value: bytes | None) -> Update:
    """One update event. Raises DecodeError, nothing else, whatever the bytes.

    The three IDs of a simple ack, mention or retraction are checked together. Checking them one by
    one takes a quarter longer, which would slow down retractions and a client's `publish`. In a
    compiled worker `fast_decoder.py` reads simple acks and mentions of resident users instead.
    Costs about 1 µs in addition to `orjson.loads`.
    """
    body = _object(value)
    kind = body.get("type")
    decode = _FORMS.get(kind) if isinstance(kind, str) else None
    if decode is None:
        raise _unknown_type(kind, _FORMS)
    form = _PLAIN.get(decode)
    if form is not None and (len(body) == 4 or (len(body) == 5 and _is_ts(body.get("ts")))):
        ids = _simple_ids(body.get("user_id"), body.get("channel_id"), body.get("message_id"))
        if ids is not None:
            return form(*ids)
    user_id = _id(body, "user_id")
    if "ts" in body:
        _integer(body, "ts", SNOWFLAKE_MAX)
    return decode(body, user_id)


def _is_ts(value: Any) -> bool:
    return type(value) is int and 0 <= value <= SNOWFLAKE_MAX


def _simple_ids(user: Any, channel: Any, message: Any) -> tuple[int, int, int] | None:
    """Three IDs as integers; None if one may be wrong, or if they are not all of one type."""
    if type(user) is str and type(channel) is str and type(message) is str:
        if _surely_three_ids(f"{user},{channel},{message}"):
            return int(user), int(channel), int(message)
    elif (
        type(user) is int
        and type(channel) is int
        and type(message) is int
        and 0 < user <= SNOWFLAKE_MAX
        and 0 < channel <= SNOWFLAKE_MAX
        and 0 < message <= SNOWFLAKE_MAX
    ):
        return user, channel, message
    return None


def _ack(body: dict[str, Any], user_id: int) -> Update:
    channel_id, kind = _id(body, "channel_id"), _type(body)
    message_id = _id(body, "message_id")
    flags = _integer(body, "flags", COUNT_MAX, KEEP)
    last_viewed = _integer(body, "last_viewed", DAYS_MAX, KEEP)
    manual = body.get("manual", False)
    if type(manual) is not bool:
        raise _wrong("manual", "true or false", manual)
    if not manual:
        return Ack(user_id, channel_id, message_id, kind, flags, last_viewed)
    count = _integer(body, "mention_count", COUNT_MAX, 0)
    return MarkUnread(user_id, channel_id, message_id, count, kind, flags, last_viewed)


def _bulk_ack(body: dict[str, Any], user_id: int) -> Update:
    acks = body.get("acks")
    if not isinstance(acks, list) or not 1 <= len(acks) <= BULK_ACKS_MAX:
        raise _wrong("acks", f"a list of 1 to {BULK_ACKS_MAX} acks", acks)
    merged: dict[tuple[int, int], int] = {}
    for number, ack in enumerate(acks):
        where = f"acks[{number}]"
        if not isinstance(ack, dict):
            raise _wrong(where, "an object", ack)
        key = (_type(ack, where), _id(ack, "channel_id", where))
        merged[key] = max(merged.get(key, 0), _id(ack, "message_id", where))
    return BulkAck(user_id, tuple((*key, message) for key, message in merged.items()))


def _mention(body: dict[str, Any], user_id: int) -> Update:
    return Mention(user_id, _id(body, "channel_id"), _id(body, "message_id"), _type(body))


def _retract(body: dict[str, Any], user_id: int) -> Update:
    return RetractMention(user_id, _id(body, "channel_id"), _id(body, "message_id"), _type(body))


def _pins_ack(body: dict[str, Any], user_id: int) -> Update:
    timestamp = _integer(body, "timestamp", TIMESTAMP_MAX)
    return PinsAck(user_id, _id(body, "channel_id"), timestamp, _type(body))


def _delete(body: dict[str, Any], user_id: int) -> Update:
    return Delete(user_id, _id(body, "channel_id"), _type(body))


def _delete_user(_body: dict[str, Any], user_id: int) -> Update:
    return DeleteUser(user_id)


_FORMS = {
    "ack": _ack,
    "bulk_ack": _bulk_ack,
    "mention": _mention,
    "retract_mention": _retract,
    "pins_ack": _pins_ack,
    "delete": _delete,
    "delete_user": _delete_user,
}

_PLAIN: dict[Any, Callable[..., Update]] = {_ack: Ack, _mention: Mention, _retract: RetractMention}


def encode_update(event: Update) -> bytes:
    """An event as JSON, with identifiers as strings, and without the fields that are not set."""
    body: dict[str, Any] = {"type": _NAMES[type(event)], "user_id": str(event.user_id)}
    if isinstance(event, BulkAck):
        body["acks"] = [
            {"channel_id": str(channel), "message_id": str(message), "read_state_type": kind}
            for kind, channel, message in event.acks
        ]
        return orjson.dumps(body)
    if isinstance(event, MarkUnread):
        body["manual"] = True
    for name in event.__struct_fields__[1:]:
        value = getattr(event, name)
        if name.endswith("_id"):
            body[name] = str(value)
        elif value != KEEP and (name != "read_state_type" or value):
            body[name] = value
    return orjson.dumps(body)


_NAMES = {
    Ack: "ack",
    MarkUnread: "ack",
    BulkAck: "bulk_ack",
    Mention: "mention",
    RetractMention: "retract_mention",
    PinsAck: "pins_ack",
    Delete: "delete",
    DeleteUser: "delete_user",
}


# -- queries --------------------------------------------------------------------------------------


def _channels(channel_ids: list[Any]) -> tuple[int, ...]:
    """Channel IDs, checked together: one by one, 50 would take a third of the query's time."""
    try:
        if _surely_ids(",".join(channel_ids)):
            return tuple(map(int, channel_ids))
    except (TypeError, ValueError):  # some are not strings, or one contains a comma
        pass
    return tuple(  # reads the rarer forms, and says which ID is wrong
        _identifier(value, f"channel_ids[{number}]", 1) for number, value in enumerate(channel_ids)
    )


def decode_query(value: bytes | None) -> Get:
    """One query. Raises only DecodeError, whatever the bytes, with the user if it can be read."""
    body = _object(value)
    try:
        return _get(body)
    except DecodeError as exc:
        exc.user_id = _readable_user(body)
        raise


def _readable_user(body: dict[str, Any]) -> int | None:
    try:
        return _id(body, "user_id")
    except DecodeError:
        return None


def _get(body: dict[str, Any]) -> Get:
    if body.get("type") != "get":
        raise _unknown_type(body.get("type"), {"get": None})
    user_id = _id(body, "user_id")
    channels = None
    if "channel_ids" in body:
        values = body["channel_ids"]
        if not isinstance(values, list) or len(values) > CHANNEL_IDS_MAX:
            raise _wrong("channel_ids", f"a list of at most {CHANNEL_IDS_MAX} IDs", values)
        channels = _channels(values)
        if len(set(channels)) < len(channels):
            raise _wrong("channel_ids", "each ID once", values)
    return Get(
        user_id,
        channels,
        _type(body) if "read_state_type" in body else None,
        _id(body, "since_version", low=0) if "since_version" in body else None,
        _id(body, "after_offset", low=0) if "after_offset" in body else None,
    )


# -- saved read states ----------------------------------------------------------------------------


def decode_saved(line: bytes) -> list[tuple[int, SavedState]]:
    """The (user, read state) pairs of a saved line: one read state with its user, or a whole reply.

    The fields are those of replies; `version` is ignored. Raises DecodeError, nothing else.
    """
    body = _object(line, SAVED_BYTES_MAX)
    user_id = _id(body, "user_id")
    if "read_states" not in body:
        return [(user_id, _saved(body, ""))]
    states = body["read_states"]
    if not isinstance(states, list):
        raise _wrong("read_states", "a list", states)
    saved = []
    for number, state in enumerate(states):
        where = f"read_states[{number}]"
        if not isinstance(state, dict):
            raise _wrong(where, "an object", state)
        saved.append((user_id, _saved(state, where)))
    return saved


def _saved(body: dict[str, Any], where: str) -> SavedState:
    return SavedState(
        _type(body, where),
        _id(body, "channel_id", where),
        _id(body, "last_message_id", where, low=0),
        _id(body, "last_mention_id", where, low=0) if "last_mention_id" in body else 0,
        _integer(body, "mention_count", COUNT_MAX, 0),
        _integer(body, "last_pin_timestamp", TIMESTAMP_MAX, 0),
        _integer(body, "flags", COUNT_MAX, 0),
        _integer(body, "last_viewed", DAYS_MAX, 0),
    )


# -- fields ---------------------------------------------------------------------------------------


def _object(value: bytes | None, bytes_max: int = EVENT_BYTES_MAX) -> dict[str, Any]:
    if value is None:
        raise DecodeError("null_value", "", "the record has no value")
    if len(value) > bytes_max:
        raise DecodeError("too_large", "", f"{len(value)} bytes, at most {bytes_max} are allowed")
    try:
        body = _loads(value)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("invalid_json", "", f"not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise _wrong("", "an object", body)
    return body


def _unknown_type(kind: Any, known: dict[str, Any]) -> DecodeError:
    expected = " or ".join(known)
    if isinstance(kind, str):
        return DecodeError("unknown_type", "type", f"expected {expected}, got {_shown(kind)}")
    return _wrong("type", expected, kind)


def _shown(value: Any) -> str:
    try:
        text = ascii(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"


def _wrong(field: str, expected: str, value: Any) -> DecodeError:
    got = "nothing, or null" if value is None else _shown(value)
    return DecodeError("invalid_field", field, f"expected {expected}, got {got}")


def _id(body: dict[str, Any], field: str, where: str = "", low: int = 1) -> int:
    return _identifier(body.get(field), f"{where}.{field}" if where else field, low)


def _identifier(value: Any, field: str, low: int) -> int:
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= DIGITS_MAX:
        if value[0] == "0" and value != "0":
            raise _wrong(field, "decimal digits without a leading zero", value)
        number = int(value)
    if type(number) is not int or not low <= number <= SNOWFLAKE_MAX:
        raise _wrong(field, f"an integer {low} … 2^63-1, or the same as a string", value)
    return number


def _integer(body: dict[str, Any], field: str, high: int, default: int | None = None) -> int:
    if default is not None and field not in body:
        return default
    value = body.get(field)
    if type(value) is not int or not 0 <= value <= high:
        raise _wrong(field, f"an integer 0 … {high}", value)
    return value


def _type(body: dict[str, Any], where: str = "") -> int:
    field = "read_state_type"
    if field not in body:
        return 0
    value = body[field]
    if type(value) is not int or not 0 <= value <= TYPE_MAX:
        raise _wrong(f"{where}.{field}" if where else field, f"an integer 0 … {TYPE_MAX}", value)
    return value
