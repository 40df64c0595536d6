"""A read state that was saved elsewhere, and the events that make it.

The log has events, not states. So a read state that does not exist yet is made by events:

1. `mention` with `last_mention_id`, which only a mention sets;
2. `ack` with `manual`, which sets `last_message_id`, `mention_count`, `flags` and `last_viewed` and
   keeps `last_mention_id`;
3. `pins_ack` with `last_pin_timestamp`.

No ack describes a channel that was never read (`last_message_id` 0): its count is made by as many
mentions, at most MENTIONS_MAX.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .events import Delete, MarkUnread, Mention, PinsAck, RetractMention, Update

MENTIONS_MAX = 1000  # events for the count of one channel that was never read


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


def events_of(user_id: int, state: SavedState, *, replace: bool = False) -> Iterator[Update]:
    """The events that make `state` if there is none yet; no events if all of it is zero.

    `replace`: a `delete` is first, so that an old state may exist. Raises ValueError for a state
    that no events can make.
    """
    kind, channel = state.read_state_type, state.channel_id
    if state.last_message_id == 0:
        _check_never_read(state)
    if replace:
        yield Delete(user_id, channel, kind)
    if state.last_mention_id:
        yield Mention(user_id, channel, state.last_mention_id, kind)
    if state.last_message_id:
        yield MarkUnread(
            user_id,
            channel,
            state.last_message_id,
            state.mention_count,
            kind,
            state.flags,
            state.last_viewed,
        )
    elif state.last_mention_id and state.mention_count == 0:
        yield RetractMention(user_id, channel, state.last_mention_id, kind)
    else:  # a message below the last one counted is counted every time
        for _ in range(1, state.mention_count):
            yield Mention(user_id, channel, state.last_mention_id - 1, kind)
    if state.last_pin_timestamp:
        yield PinsAck(user_id, channel, state.last_pin_timestamp, kind)


def _check_never_read(state: SavedState) -> None:
    if state.flags or state.last_viewed:
        raise ValueError("flags and last_viewed need a last_message_id: only an ack sets them")
    if state.mention_count and not state.last_mention_id:
        raise ValueError("a mention_count with neither last_message_id nor last_mention_id")
    if state.mention_count > 1 and state.last_mention_id == 1:
        raise ValueError("message 1, never read, cannot have been mentioned more than once")
    if state.mention_count > MENTIONS_MAX:
        raise ValueError(
            f"mention_count {state.mention_count} without last_message_id takes as many events; "
            f"at most {MENTIONS_MAX} are made"
        )
