"""Decodes bytes into update events, and encodes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Struct
from msgspec.structs import fields

from .events import (
    BULK_ACKS_MAX,
    COUNT_MAX,
    DAYS_MAX,
    EDIT_MAX,
    KEEP,
    MENTION_IDS_MAX,
    SNOWFLAKE_MAX,
    TIMESTAMP_MAX,
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
from .fields import (
    read_boolean,
    read_id,
    read_identifier,
    read_integer,
    read_object,
    read_type,
    surely_three_ids,
    unknown_type,
    wrong,
)


def key_bytes(user_id: int) -> bytes:
    """The record key of a user: the decimal ID."""
    return b"%d" % user_id


def decode_update(value: bytes | None) -> Update:
    """One update event. Raises DecodeError, nothing else, whatever the bytes.

    The three IDs of a simple ack, mention or retraction are checked together. Checking them one by
    one takes a quarter longer, which would slow down retractions and a client's `publish`. In a
    compiled worker `fast_decoder.py` reads simple acks and mentions of resident users instead.
    Costs about 1 µs in addition to `orjson.loads`.
    """
    body = read_object(value)
    kind = body.get("type")
    decode = _FORMS.get(kind) if isinstance(kind, str) else None
    if decode is None:
        raise unknown_type(kind, _FORMS)
    form = _PLAIN.get(decode)
    if form is not None and (len(body) == 4 or (len(body) == 5 and _is_ts(body.get("ts")))):
        ids = _simple_ids(body.get("user_id"), body.get("channel_id"), body.get("message_id"))
        if ids is not None:
            return form(*ids)
    user_id = read_id(body, "user_id")
    if "ts" in body:
        read_integer(body, "ts", SNOWFLAKE_MAX)
    return decode(body, user_id)


def _is_ts(value: Any) -> bool:
    return type(value) is int and 0 <= value <= SNOWFLAKE_MAX


def _simple_ids(user: Any, channel: Any, message: Any) -> tuple[int, int, int] | None:
    """Three IDs as integers; None if one may be wrong, or if they are not all of one type."""
    if type(user) is str and type(channel) is str and type(message) is str:
        if surely_three_ids(f"{user},{channel},{message}"):
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
    channel_id, kind = read_id(body, "channel_id"), read_type(body)
    message_id = read_id(body, "message_id")
    flags = read_integer(body, "flags", COUNT_MAX, KEEP)
    last_viewed = read_integer(body, "last_viewed", DAYS_MAX, KEEP)
    if not read_boolean(body, "manual"):
        known = read_id(body, "if_version", low=0) if "if_version" in body else KEEP
        return Ack(user_id, channel_id, message_id, kind, flags, last_viewed, known)
    ids = None
    if "mention_ids" in body:
        if "mention_count" in body:
            raise wrong("mention_ids", "either mention_count or mention_ids", body["mention_ids"])
        ids = _mention_ids(body, message_id)
    count = read_integer(body, "mention_count", COUNT_MAX, KEEP)
    return MarkUnread(user_id, channel_id, message_id, count, ids, kind, flags, last_viewed)


def _mention_ids(body: dict[str, Any], above: int) -> tuple[int, ...]:
    values = body["mention_ids"]
    if not isinstance(values, list) or len(values) > MENTION_IDS_MAX:
        raise wrong("mention_ids", f"a list of at most {MENTION_IDS_MAX} IDs", values)
    ids = {read_identifier(each, f"mention_ids[{n}]", 1) for n, each in enumerate(values)}
    if ids and min(ids) <= above:
        raise wrong("mention_ids", f"IDs above message_id {above}", min(ids))
    return tuple(sorted(ids))


def _bulk_ack(body: dict[str, Any], user_id: int) -> Update:
    acks = body.get("acks")
    if not isinstance(acks, list) or not 1 <= len(acks) <= BULK_ACKS_MAX:
        raise wrong("acks", f"a list of 1 to {BULK_ACKS_MAX} acks", acks)
    merged: dict[tuple[int, int], int] = {}
    for number, ack in enumerate(acks):
        where = f"acks[{number}]"
        if not isinstance(ack, dict):
            raise wrong(where, "an object", ack)
        key = (read_type(ack, where), read_id(ack, "channel_id", where))
        merged[key] = max(merged.get(key, 0), read_id(ack, "message_id", where))
    return BulkAck(user_id, tuple((*key, message) for key, message in merged.items()))


def _mention(body: dict[str, Any], user_id: int) -> Update:
    edit = read_integer(body, "edit", EDIT_MAX, 0)
    return Mention(
        user_id, read_id(body, "channel_id"), read_id(body, "message_id"), read_type(body), edit
    )


def _retract(body: dict[str, Any], user_id: int) -> Update:
    channel_id, message_id = read_id(body, "channel_id"), read_id(body, "message_id")
    edit = read_integer(body, "edit", EDIT_MAX, KEEP)
    return RetractMention(user_id, channel_id, message_id, read_type(body), edit)


def _pins_ack(body: dict[str, Any], user_id: int) -> Update:
    timestamp = read_integer(body, "timestamp", TIMESTAMP_MAX)
    return PinsAck(user_id, read_id(body, "channel_id"), timestamp, read_type(body))


def _set(body: dict[str, Any], user_id: int) -> Update:
    flags = read_integer(body, "flags", COUNT_MAX, KEEP)
    last_viewed = read_integer(body, "last_viewed", DAYS_MAX, KEEP)
    if flags == KEEP and last_viewed == KEEP:
        raise wrong("flags", "flags or last_viewed", None)
    return SetOptions(user_id, read_id(body, "channel_id"), read_type(body), flags, last_viewed)


def _merge(body: dict[str, Any], user_id: int) -> Update:
    return Merge(
        user_id,
        read_id(body, "channel_id"),
        read_type(body),
        read_id(body, "last_message_id", low=0) if "last_message_id" in body else KEEP,
        _mention_ids(body, 0) if "mention_ids" in body else (),
        read_integer(body, "mention_count", COUNT_MAX, KEEP),
        read_integer(body, "last_pin_timestamp", TIMESTAMP_MAX, KEEP),
        read_integer(body, "flags", COUNT_MAX, KEEP),
        read_integer(body, "last_viewed", DAYS_MAX, KEEP),
    )


def _delete(body: dict[str, Any], user_id: int) -> Update:
    up_to = read_id(body, "up_to") if "up_to" in body else KEEP
    return Delete(user_id, read_id(body, "channel_id"), read_type(body), up_to)


def _delete_user(body: dict[str, Any], user_id: int) -> Update:
    return DeleteUser(user_id, read_boolean(body, "final"))


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
