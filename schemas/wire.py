"""Decodes bytes into events and queries, and encodes them. It accepts or rejects; it never guesses.

Its errors name the field, the expected value and the value found there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Struct
from msgspec.structs import fields

from .events import (
    BULK_ACKS_MAX,
    CHANNEL_IDS_MAX,
    COUNT_MAX,
    DAYS_MAX,
    EDIT_MAX,
    EVENT_BYTES_MAX,
    KEEP,
    MENTION_IDS_MAX,
    SNOWFLAKE_MAX,
    TIMESTAMP_MAX,
    TYPE_MAX,
    Ack,
    BulkAck,
    Delete,
    DeleteUser,
    MarkUnread,
    Mention,
    Merge,
    PinsAck,
    RestoreUser,
    RetractMention,
    SetOptions,
    Update,
)
from .queries import LIMIT_MAX, Get
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
    if not _boolean(body, "manual"):
        known = _id(body, "if_version", low=0) if "if_version" in body else KEEP
        return Ack(user_id, channel_id, message_id, kind, flags, last_viewed, known)
    ids = None
    if "mention_ids" in body:
        if "mention_count" in body:
            raise _wrong("mention_ids", "either mention_count or mention_ids", body["mention_ids"])
        ids = _mention_ids(body, message_id)
    count = _integer(body, "mention_count", COUNT_MAX, KEEP)
    return MarkUnread(user_id, channel_id, message_id, count, ids, kind, flags, last_viewed)


def _mention_ids(body: dict[str, Any], above: int) -> tuple[int, ...]:
    values = body["mention_ids"]
    if not isinstance(values, list) or len(values) > MENTION_IDS_MAX:
        raise _wrong("mention_ids", f"a list of at most {MENTION_IDS_MAX} IDs", values)
    ids = {_identifier(each, f"mention_ids[{n}]", 1) for n, each in enumerate(values)}
    if ids and min(ids) <= above:
        raise _wrong("mention_ids", f"IDs above message_id {above}", min(ids))
    return tuple(sorted(ids))


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
    edit = _integer(body, "edit", EDIT_MAX, 0)
    return Mention(user_id, _id(body, "channel_id"), _id(body, "message_id"), _type(body), edit)


def _retract(body: dict[str, Any], user_id: int) -> Update:
    channel_id, message_id = _id(body, "channel_id"), _id(body, "message_id")
    edit = _integer(body, "edit", EDIT_MAX, KEEP)
    return RetractMention(user_id, channel_id, message_id, _type(body), edit)


def _pins_ack(body: dict[str, Any], user_id: int) -> Update:
    timestamp = _integer(body, "timestamp", TIMESTAMP_MAX)
    return PinsAck(user_id, _id(body, "channel_id"), timestamp, _type(body))


def _set(body: dict[str, Any], user_id: int) -> Update:
    flags = _integer(body, "flags", COUNT_MAX, KEEP)
    last_viewed = _integer(body, "last_viewed", DAYS_MAX, KEEP)
    if flags == KEEP and last_viewed == KEEP:
        raise _wrong("flags", "flags or last_viewed", None)
    return SetOptions(user_id, _id(body, "channel_id"), _type(body), flags, last_viewed)


def _merge(body: dict[str, Any], user_id: int) -> Update:
    return Merge(
        user_id,
        _id(body, "channel_id"),
        _type(body),
        _id(body, "last_message_id", low=0) if "last_message_id" in body else KEEP,
        _mention_ids(body, 0) if "mention_ids" in body else (),
        _integer(body, "mention_count", COUNT_MAX, KEEP),
        _integer(body, "last_pin_timestamp", TIMESTAMP_MAX, KEEP),
        _integer(body, "flags", COUNT_MAX, KEEP),
        _integer(body, "last_viewed", DAYS_MAX, KEEP),
    )


def _delete(body: dict[str, Any], user_id: int) -> Update:
    up_to = _id(body, "up_to") if "up_to" in body else KEEP
    return Delete(user_id, _id(body, "channel_id"), _type(body), up_to)


def _delete_user(body: dict[str, Any], user_id: int) -> Update:
    return DeleteUser(user_id, _boolean(body, "final"))


def _restore_user(_body: dict[str, Any], user_id: int) -> Update:
    return RestoreUser(user_id)


_FORMS = {
    "ack": _ack,
    "bulk_ack": _bulk_ack,
    "mention": _mention,
    "retract_mention": _retract,
    "pins_ack": _pins_ack,
    "set": _set,
    "merge": _merge,
    "delete": _delete,
    "delete_user": _delete_user,
    "restore_user": _restore_user,
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
    for name, default in _DEFAULTS[type(event)]:
        value = getattr(event, name)
        if value == default:
            continue
        if name == "mention_ids":
            body[name] = [str(message_id) for message_id in value]
        else:
            body[name] = str(value) if name in _AS_STRINGS else value
    return orjson.dumps(body)


_NAMES: dict[type[Struct], str] = {
    Ack: "ack",
    MarkUnread: "ack",
    BulkAck: "bulk_ack",
    Mention: "mention",
    RetractMention: "retract_mention",
    PinsAck: "pins_ack",
    SetOptions: "set",
    Merge: "merge",
    Delete: "delete",
    DeleteUser: "delete_user",
    RestoreUser: "restore_user",
}
_DEFAULTS: dict[Any, list[tuple[str, Any]]] = {
    form: [
        (field.name, field.default)  # NODEFAULT, which no value equals, where the field is required
        for field in fields(form)
        if field.name != "user_id"
    ]
    for form in _NAMES
}
_AS_STRINGS = {"channel_id", "message_id", "last_message_id", "up_to", "if_version"}


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
        _boolean(body, "mentions"),
        _boolean(body, "mentioned"),
        _boolean(body, "totals"),
        _integer(body, "limit", LIMIT_MAX, low=1) if "limit" in body else None,
        _after(body["after"]) if "after" in body else None,
    )


def _after(value: Any) -> tuple[int, int]:
    if not isinstance(value, dict):
        raise _wrong("after", "an object", value)
    return _type(value, "after"), _id(value, "channel_id", "after")


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
    mentions = _saved_mentions(body, where)
    return SavedState(
        _type(body, where),
        _id(body, "channel_id", where),
        _id(body, "last_message_id", where, low=0),
        _id(body, "last_mention_id", where, low=0) if "last_mention_id" in body else 0,
        _integer(body, "mention_count", COUNT_MAX, len(mentions or ())),
        _integer(body, "last_pin_timestamp", TIMESTAMP_MAX, 0),
        _integer(body, "flags", COUNT_MAX, 0),
        _integer(body, "last_viewed", DAYS_MAX, 0),
        mentions,
    )


def _saved_mentions(body: dict[str, Any], where: str) -> tuple[int, ...] | None:
    if "mentions" not in body:
        return None
    field, values = f"{where}.mentions" if where else "mentions", body["mentions"]
    if not isinstance(values, list):
        raise _wrong(field, "a list of IDs", values)
    ids = {_identifier(each, f"{field}[{number}]", 1) for number, each in enumerate(values)}
    return tuple(sorted(ids))


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


def _boolean(body: dict[str, Any], field: str) -> bool:
    value = body.get(field, False)
    if type(value) is not bool:
        raise _wrong(field, "true or false", value)
    return value


def _integer(
    body: dict[str, Any], field: str, high: int, default: int | None = None, low: int = 0
) -> int:
    if default is not None and field not in body:
        return default
    value = body.get(field)
    if type(value) is not int or not low <= value <= high:
        raise _wrong(field, f"an integer {low} … {high}", value)
    return value


def _type(body: dict[str, Any], where: str = "") -> int:
    field = "read_state_type"
    if field not in body:
        return 0
    value = body[field]
    if type(value) is not int or not 0 <= value <= TYPE_MAX:
        raise _wrong(f"{where}.{field}" if where else field, f"an integer 0 … {TYPE_MAX}", value)
    return value
