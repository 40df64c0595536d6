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
from typing import NamedTuple

from .events import KEEP, MENTION_IDS_MAX, Delete, Merge, Update

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
