"""The eleven forms of update event, as typed values.

CPython's collector does not track them (`gc=False`), since they hold numbers only. Identifiers are
integers here; on the wire they are strings or integers (`wire.py`).
"""

from __future__ import annotations

from msgspec import Struct

SNOWFLAKE_MAX = 2**63 - 1
EVENT_BYTES_MAX = 256 * 1024
BULK_ACKS_MAX = 1000
CHANNEL_IDS_MAX = 1000
COUNT_MAX = 2**32 - 1
TIMESTAMP_MAX = 2**48 - 1
DAYS_MAX = 65535
TYPE_MAX = 255
EDIT_MAX = 2**32 - 1
MENTION_IDS_MAX = 64

KEEP = -1  # the value of an optional field that was omitted: the read state keeps its own


class Ack(Struct, frozen=True, gc=False):
    """The user has read a channel up to a message. An older ack changes nothing.

    `if_version`: the version that the device knew; the ack is ignored if the user has marked the
    channel unread since.
    """

    user_id: int
    channel_id: int
    message_id: int
    read_state_type: int = 0
    flags: int = KEEP
    last_viewed: int = KEEP  # days
    if_version: int = KEEP


class MarkUnread(Struct, frozen=True, gc=False):
    """An ack with `manual`: sets the last message and the mentions, even if that moves them back.

    At most one of `mention_count` and `mention_ids` is given. Without either, the marks above the
    message stay.
    """

    user_id: int
    channel_id: int
    message_id: int
    mention_count: int = KEEP
    mention_ids: tuple[int, ...] | None = None
    read_state_type: int = 0
    flags: int = KEEP
    last_viewed: int = KEEP  # days


class BulkAck(Struct, frozen=True, gc=False):
    """Many acks: all are applied, or none.

    `acks`: (read_state_type, channel_id, message_id), one for each channel. Several acks of one
    channel in the event are merged: the largest message counts.
    """

    user_id: int
    acks: tuple[tuple[int, int, int], ...]


class Mention(Struct, frozen=True, gc=False):
    """A message, in its revision `edit`, mentions the user."""

    user_id: int
    channel_id: int
    message_id: int
    read_state_type: int = 0
    edit: int = 0


class RetractMention(Struct, frozen=True, gc=False):
    """A message no longer mentions the user from `edit` on; without it, it was deleted."""

    user_id: int
    channel_id: int
    message_id: int
    read_state_type: int = 0
    edit: int = KEEP


class PinsAck(Struct, frozen=True, gc=False):
    """The user has seen the pins up to a moment (ms since the epoch)."""

    user_id: int
    channel_id: int
    timestamp: int
    read_state_type: int = 0


class SetOptions(Struct, frozen=True, gc=False):
    """Sets `flags`, `last_viewed` or both, without an ack."""

    user_id: int
    channel_id: int
    read_state_type: int = 0
    flags: int = KEEP
    last_viewed: int = KEEP  # days


class Merge(Struct, frozen=True, gc=False):
    """A read state from elsewhere: every field keeps the larger value."""

    user_id: int
    channel_id: int
    read_state_type: int = 0
    last_message_id: int = KEEP
    mention_ids: tuple[int, ...] = ()
    mention_count: int = KEEP
    last_pin_timestamp: int = KEEP  # ms since the epoch
    flags: int = KEEP
    last_viewed: int = KEEP  # days


class Delete(Struct, frozen=True, gc=False):
    """The read state is deleted. What comes later about messages up to `up_to` changes nothing."""

    user_id: int
    channel_id: int
    read_state_type: int = 0
    up_to: int = KEEP  # a message ID


class DeleteUser(Struct, frozen=True, gc=False):
    """Deletes all of the user's read states. `final`: events are then skipped until RestoreUser."""

    user_id: int
    final: bool = False


class RestoreUser(Struct, frozen=True, gc=False):
    """Ends a final deletion of the user."""

    user_id: int


Update = (
    Ack | MarkUnread | BulkAck | Mention | RetractMention | PinsAck | SetOptions | Merge
    | Delete | DeleteUser | RestoreUser
)  # fmt: skip
