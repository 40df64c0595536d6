"""The eight forms of update event, as typed values.

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

KEEP = -1  # the value of an optional field that was omitted: the read state keeps its own


class Ack(Struct, frozen=True, gc=False):
    """The user has read a channel up to a message. An older ack changes nothing."""

    user_id: int
    channel_id: int
    message_id: int
    read_state_type: int = 0
    flags: int = KEEP
    last_viewed: int = KEEP  # days


class MarkUnread(Struct, frozen=True, gc=False):
    """An ack with `manual`: sets the last message and the count, even if that moves them back."""

    user_id: int
    channel_id: int
    message_id: int
    mention_count: int = 0
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
    """A message mentions the user."""

    user_id: int
    channel_id: int
    message_id: int
    read_state_type: int = 0


class RetractMention(Struct, frozen=True, gc=False):
    """A message that mentioned the user was deleted."""

    user_id: int
    channel_id: int
    message_id: int
    read_state_type: int = 0


class PinsAck(Struct, frozen=True, gc=False):
    """The user has seen the pins up to a moment (ms since the epoch)."""

    user_id: int
    channel_id: int
    timestamp: int
    read_state_type: int = 0


class Delete(Struct, frozen=True, gc=False):
    """The read state is deleted."""

    user_id: int
    channel_id: int
    read_state_type: int = 0


class DeleteUser(Struct, frozen=True, gc=False):
    """All of the user's read states are deleted."""

    user_id: int


Update = Ack | MarkUnread | BulkAck | Mention | RetractMention | PinsAck | Delete | DeleteUser
