"""The only form of query, as a typed value, and its bytes."""

from __future__ import annotations

from typing import Any

import orjson
from msgspec import Struct

from .events import CHANNEL_IDS_MAX
from .fields import (
    DecodeError,
    read_boolean,
    read_id,
    read_identifier,
    read_integer,
    read_object,
    read_type,
    surely_ids,
    unknown_type,
    wrong,
)

LIMIT_MAX = 10_000  # read states of a page


class Get(Struct, frozen=True, gc=False):
    """A user's read states: all, of one type, of some channels, newer than a version.

    `limit` and `after` (type, channel) make pages; the replies name the next one.
    """

    user_id: int
    channel_ids: tuple[int, ...] | None = None
    read_state_type: int | None = None
    since_version: int | None = None
    after_offset: int | None = None
    mentions: bool = False  # with the IDs of the messages that mention the user
    mentioned: bool = False  # only read states with a mention
    totals: bool = False  # with the sums of all that the user has
    limit: int | None = None
    after: tuple[int, int] | None = None


def encode_query(query: Get) -> bytes:
    """A query as JSON, with identifiers as strings, and without the fields that are None."""
    body: dict[str, Any] = {"type": "get", "user_id": str(query.user_id)}
    if query.channel_ids is not None:
        body["channel_ids"] = [str(channel_id) for channel_id in query.channel_ids]
    if query.read_state_type is not None:
        body["read_state_type"] = query.read_state_type
    for name in ("since_version", "after_offset"):
        value = getattr(query, name)
        if value is not None:
            body[name] = str(value)
    for name in ("mentions", "mentioned", "totals"):
        if getattr(query, name):
            body[name] = True
    if query.limit is not None:
        body["limit"] = query.limit
    if query.after is not None:
        kind, channel_id = query.after
        body["after"] = {"read_state_type": kind, "channel_id": str(channel_id)}
    return orjson.dumps(body)


def _channels(channel_ids: list[Any]) -> tuple[int, ...]:
    """Channel IDs, checked together: one by one, 50 would take a third of the query's time."""
    try:
        if surely_ids(",".join(channel_ids)):
            return tuple(map(int, channel_ids))
    except (TypeError, ValueError):  # some are not strings, or one contains a comma
        pass
    return tuple(  # reads the rarer forms, and says which ID is wrong
        read_identifier(value, f"channel_ids[{number}]", 1)
        for number, value in enumerate(channel_ids)
    )


def decode_query(value: bytes | None) -> Get:
    """One query. Raises only DecodeError, whatever the bytes, with the user if it can be read."""
    body = read_object(value)
    try:
        return _get(body)
    except DecodeError as exc:
        exc.user_id = _readable_user(body)
        raise


def _readable_user(body: dict[str, Any]) -> int | None:
    try:
        return read_id(body, "user_id")
    except DecodeError:
        return None


def _get(body: dict[str, Any]) -> Get:
    if body.get("type") != "get":
        raise unknown_type(body.get("type"), {"get": None})
    user_id = read_id(body, "user_id")
    channels = None
    if "channel_ids" in body:
        values = body["channel_ids"]
        if not isinstance(values, list) or len(values) > CHANNEL_IDS_MAX:
            raise wrong("channel_ids", f"a list of at most {CHANNEL_IDS_MAX} IDs", values)
        channels = _channels(values)
        if len(set(channels)) < len(channels):
            raise wrong("channel_ids", "each ID once", values)
    return Get(
        user_id,
        channels,
        read_type(body) if "read_state_type" in body else None,
        read_id(body, "since_version", low=0) if "since_version" in body else None,
        read_id(body, "after_offset", low=0) if "after_offset" in body else None,
        read_boolean(body, "mentions"),
        read_boolean(body, "mentioned"),
        read_boolean(body, "totals"),
        read_integer(body, "limit", LIMIT_MAX, low=1) if "limit" in body else None,
        _after(body["after"]) if "after" in body else None,
    )


def _after(value: Any) -> tuple[int, int]:
    if not isinstance(value, dict):
        raise wrong("after", "an object", value)
    return read_type(value, "after"), read_id(value, "channel_id", "after")
