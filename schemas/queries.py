"""The only form of query, as a typed value, and its bytes."""

from __future__ import annotations

from typing import Any

import orjson
from msgspec import Struct

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
