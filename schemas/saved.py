"""A read state that was saved elsewhere, and the events that make it.

The log has events, not states. A `merge` keeps the larger value of each field, so an old snapshot
never takes away what is newer. To replace a read state, a `delete` comes before it.

A state tells which unread messages mention the user (`mentions`), or only how many there are and
the last one. Messages that are known become marks, the newest MENTION_IDS_MAX of them. The rest is
a mere number, which the next ack takes away. Only with a last message does `merge` take a number,
so a channel that was never read gets message 1 as its last one, if it needs a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .events import (
    COUNT_MAX,
    DAYS_MAX,
    KEEP,
    MENTION_IDS_MAX,
    TIMESTAMP_MAX,
    Delete,
    Merge,
    Update,
)
from .fields import (
    read_id,
    read_identifier,
    read_integer,
    read_object,
    read_type,
    wrong,
)

SAVED_BYTES_MAX = 128 << 20  # of a line, which may be a whole reply of up to REPLY_BYTES_MAX
FIRST_MESSAGE = 1  # no channel has a message of this ID that somebody could miss


class SavedState(NamedTuple):
    """A read state's fields without its version, which only the log gives."""

    read_state_type: int
    channel_id: int
    last_message_id: int
    last_mention_id: int = 0
    mention_count: int = 0
    last_pin_timestamp: int = 0  # ms
    flags: int = 0
    last_viewed: int = 0  # days
    mentions: tuple[int, ...] | None = None  # message IDs; None where they are not known


def events_of(user_id: int, state: SavedState, *, replace: bool = False) -> Iterator[Update]:
    """The events that bring `state` in: one, or none if all of it is zero.

    `replace`: a `delete` comes first, so that what is there goes. Raises ValueError for mentions
    that cannot be: those of messages that were read, or more than the count.
    """
    kind, channel, last = state.read_state_type, state.channel_id, state.last_message_id
    ids = _known_mentions(state)
    marks = ids[-MENTION_IDS_MAX:]
    count = KEEP
    if state.mention_count > len(marks):
        last, count = max(last, FIRST_MESSAGE), state.mention_count
        marks = tuple(each for each in marks if each > last)
    merge = Merge(
        user_id,
        channel,
        kind,
        last or KEEP,
        marks,
        count,
        state.last_pin_timestamp or KEEP,
        state.flags or KEEP,
        state.last_viewed or KEEP,
    )
    if replace:
        yield Delete(user_id, channel, kind)
    if merge != Merge(user_id, channel, kind):
        yield merge


def _known_mentions(state: SavedState) -> tuple[int, ...]:
    """The unread messages that are known to mention the user, ascending."""
    if state.mentions is None:
        unread = state.mention_count > 0 and state.last_mention_id > state.last_message_id
        return (state.last_mention_id,) if unread else ()
    ids = tuple(sorted(set(state.mentions)))
    if ids and ids[0] <= state.last_message_id:
        raise ValueError(f"mentions has message {ids[0]}, but {state.last_message_id} was read")
    if len(ids) > state.mention_count:
        raise ValueError(
            f"mentions has {len(ids)} messages, mention_count is {state.mention_count}"
        )
    return ids


def decode_saved(line: bytes) -> list[tuple[int, SavedState]]:
    """The (user, read state) pairs of a saved line: one read state with its user, or a whole reply.

    The fields are those of replies; `version` is ignored. Raises DecodeError, nothing else.
    """
    body = read_object(line, SAVED_BYTES_MAX)
    user_id = read_id(body, "user_id")
    if "read_states" not in body:
        return [(user_id, _saved(body, ""))]
    states = body["read_states"]
    if not isinstance(states, list):
        raise wrong("read_states", "a list", states)
    saved = []
    for number, state in enumerate(states):
        where = f"read_states[{number}]"
        if not isinstance(state, dict):
            raise wrong(where, "an object", state)
        saved.append((user_id, _saved(state, where)))
    return saved


def _saved(body: dict[str, Any], where: str) -> SavedState:
    mentions = _saved_mentions(body, where)
    return SavedState(
        read_type(body, where),
        read_id(body, "channel_id", where),
        read_id(body, "last_message_id", where, low=0),
        read_id(body, "last_mention_id", where, low=0) if "last_mention_id" in body else 0,
        read_integer(body, "mention_count", COUNT_MAX, len(mentions or ())),
        read_integer(body, "last_pin_timestamp", TIMESTAMP_MAX, 0),
        read_integer(body, "flags", COUNT_MAX, 0),
        read_integer(body, "last_viewed", DAYS_MAX, 0),
        mentions,
    )


def _saved_mentions(body: dict[str, Any], where: str) -> tuple[int, ...] | None:
    if "mentions" not in body:
        return None
    field, values = f"{where}.mentions" if where else "mentions", body["mentions"]
    if not isinstance(values, list):
        raise wrong(field, "a list of IDs", values)
    ids = {read_identifier(each, f"{field}[{number}]", 1) for number, each in enumerate(values)}
    return tuple(sorted(ids))
