"""Refuses message IDs that are far in the future: one of them could silence a badge for ever.

A snowflake carries the time at which it was made. With ID_EPOCH_MS set, an update that names a
message of more than a day after the record's timestamp becomes a dead letter. The timestamp is the
broker's, so every owner of the partition decides the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from readstates.schemas.events import (
    Ack,
    BulkAck,
    Delete,
    MarkUnread,
    Mention,
    Merge,
    RetractMention,
    Update,
)
from readstates.schemas.fast_decoder import NUMBERS

from .batch import Record

TIME_SHIFT = 22  # of a snowflake: the bits above are its time, in ms since ID_EPOCH_MS
AHEAD_MAX_MS = 24 * 3600 * 1000
MESSAGE = 3  # the place of the message ID among an update's NUMBERS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_timestamp = attrgetter("timestamp")


class PlausibleIds:
    """See the module. `epoch_ms`: the setting ID_EPOCH_MS."""

    def __init__(self, epoch_ms: int) -> None:
        self._epoch_ms = epoch_ms

    def run(self, numbers: memoryview, records: Sequence[Record], begin: int, count: int) -> int:
        """How many of `count` simple updates come before one that may be implausible.

        All are held against the bound of their smallest timestamp, so a few plausible ones may be
        found as well; `refusal` decides. O(count)
        """
        bound = self._bound(min(map(_timestamp, records[begin : begin + count])))
        message_ids = numbers[MESSAGE : count * NUMBERS : NUMBERS]
        if max(message_ids) < bound:
            return count
        return next(n for n, message_id in enumerate(message_ids) if message_id >= bound)

    def refusal(self, event: Update, timestamp_ms: int) -> str:
        """Why an event may not be applied; empty if all its message IDs are plausible."""
        bound = self._bound(timestamp_ms)
        for name, message_id in _named(event):
            if message_id >= bound:
                made = _utc((message_id >> TIME_SHIFT) + self._epoch_ms)
                return (
                    f"{name} {message_id} is of {made}, more than 24 hours after the record, which "
                    f"is of {_utc(timestamp_ms)}: look at the producer's IDs, or at ID_EPOCH_MS"
                )
        return ""

    def _bound(self, timestamp_ms: int) -> int:
        """The smallest ID that is implausible at this time; a field left out is below it."""
        return max(1, (timestamp_ms + AHEAD_MAX_MS - self._epoch_ms + 1) << TIME_SHIFT)


def _named(event: Update) -> Iterator[tuple[str, int]]:
    """The message IDs in an event, each with its field's name."""
    match event:
        case Ack() | Mention() | RetractMention():
            yield "message_id", event.message_id
        case MarkUnread():
            yield "message_id", event.message_id
            yield from (("mention_ids", each) for each in event.mention_ids or ())
        case BulkAck():
            yield from (("acks.message_id", message_id) for _, _, message_id in event.acks)
        case Merge():
            yield "last_message_id", event.last_message_id
            yield from (("mention_ids", each) for each in event.mention_ids)
        case Delete():
            yield "up_to", event.up_to


def _utc(at_ms: int) -> str:
    """The time as text; a number if no calendar has it, because a producer may stamp anything."""
    try:
        return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{at_ms} ms"
