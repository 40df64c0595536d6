"""The rules of the event tables: events in a row, and what is to be read after each."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]
Fields = dict[str, int]
Step = tuple[Event, Fields | None]  # an event, and the channel's fields after it that are not zero

CHANNEL = 1_200_000_000_000_000_000


def at(number: int) -> int:
    """A message ID over 2^53, so that a reader that loses digits is found out."""
    return 1_300_000_000_000_000_000 + number


def ack(number: int, **more: Any) -> Event:
    return {"type": "ack", "message_id": str(at(number)), **more}


def mark(number: int, **more: Any) -> Event:
    return ack(number, manual=True, **more)


def mention(number: int, **more: Any) -> Event:
    return {"type": "mention", "message_id": str(at(number)), **more}


def retract(number: int, **more: Any) -> Event:
    return {"type": "retract_mention", "message_id": str(at(number)), **more}


def pins(timestamp: int, **more: Any) -> Event:
    return {"type": "pins_ack", "timestamp": timestamp, **more}


def bulk(*numbers: int) -> Event:
    acks = [{"channel_id": str(CHANNEL), "message_id": str(at(n))} for n in numbers]
    return {"type": "bulk_ack", "acks": acks}


DELETE: Event = {"type": "delete"}
DELETE_USER: Event = {"type": "delete_user"}


def read(number: int, mentions: int = 0, last_mention: int | None = None, **more: int) -> Fields:
    found = {"last_message_id": at(number) if number else 0, "mention_count": mentions, **more}
    if last_mention is not None:
        found["last_mention_id"] = at(last_mention)
    return found


RULES: dict[str, list[Step]] = {
    "ack moves forward": [(ack(1), read(1)), (ack(5), read(5))],
    "ack with an integer ID": [({"type": "ack", "message_id": at(1)}, read(1))],
    "manual false is a plain ack": [
        (ack(5, manual=False), read(5)),
        (ack(1, manual=False), read(5)),
    ],
    "older ack takes nothing": [
        (ack(5, flags=1, last_viewed=2), read(5, flags=1, last_viewed=2)),
        (ack(4), read(5, flags=1, last_viewed=2)),
        (ack(4, flags=9, last_viewed=9), read(5, flags=1, last_viewed=2)),
    ],
    "equal ack takes flags": [
        (ack(5), read(5)),
        (ack(5), read(5)),
        (ack(5, flags=7), read(5, flags=7)),
        (ack(5, flags=7), read(5, flags=7)),
        (ack(5, last_viewed=65535), read(5, flags=7, last_viewed=65535)),
        (ack(5, flags=0), read(5, last_viewed=65535)),
    ],
    "flags and last_viewed stay where omitted": [
        (ack(1, flags=2**32 - 1, last_viewed=300), read(1, flags=2**32 - 1, last_viewed=300)),
        (ack(2), read(2, flags=2**32 - 1, last_viewed=300)),
        (ack(3, flags=1), read(3, flags=1, last_viewed=300)),
        (mark(2), read(2, flags=1, last_viewed=300)),
        (mention(9), read(2, 1, 9, flags=1, last_viewed=300)),
        (pins(5), read(2, 1, 9, flags=1, last_viewed=300, last_pin_timestamp=5)),
    ],
    "ack below the last mention keeps the count": [
        (mention(5), read(0, 1, 5)),
        (mention(7), read(0, 2, 7)),
        (ack(6), read(6, 2, 7)),
        (ack(7), read(7, 0, 7)),
    ],
    "equal ack of the last mention clears the count": [
        (mark(5, mention_count=3), read(5, 3)),
        (ack(5), read(5)),
    ],
    "ack over the last mention clears the count": [
        (mention(5), read(0, 1, 5)),
        (ack(9), read(9, 0, 5)),
    ],
    "manual goes backwards": [
        (ack(9), read(9)),
        (mark(2, mention_count=4), read(2, 4)),
        (mark(2), read(2)),
        (mark(2), read(2)),
        (mark(8), read(8)),
    ],
    "manual leaves the last mention": [
        (mention(5), read(0, 1, 5)),
        (ack(6), read(6, 0, 5)),
        (mark(3, mention_count=1), read(3, 1, 5)),
        (mark(3, flags=4, last_viewed=1), read(3, 0, 5, flags=4, last_viewed=1)),
    ],
    "manual makes a read state": [(mark(3, mention_count=2), read(3, 2))],
    "bulk ack, entries in order": [
        (bulk(1), read(1)),
        (bulk(5, 3), read(5)),
        (bulk(4, 2), read(5)),
        (bulk(6, 7, 6), read(7)),
    ],
    "bulk ack and mentions": [
        (mention(5), read(0, 1, 5)),
        (bulk(3, 4), read(4, 1, 5)),
        (bulk(3, 5), read(5, 0, 5)),
    ],
    "a thousand entries": [(bulk(*range(1, 1001)), read(1000))],
    "mentions count": [
        (mention(1), read(0, 1, 1)),
        (mention(2), read(0, 2, 2)),
        (mention(3), read(0, 3, 3)),
    ],
    "a mention twice counts once": [(mention(4), read(0, 1, 4)), (mention(4), read(0, 1, 4))],
    "an older mention counts, the last stays": [
        (mention(4), read(0, 1, 4)),
        (mention(2), read(0, 2, 4)),
    ],
    "a mention that was read counts nothing": [
        (ack(5), read(5)),
        (mention(5), read(5)),
        (mention(4), read(5)),
        (mention(6), read(5, 1, 6)),
    ],
    "mentions stop at 2^32-1": [
        (mark(1, mention_count=2**32 - 1), read(1, 2**32 - 1)),
        (mention(5), read(1, 2**32 - 1, 5)),
        (mention(4), read(1, 2**32 - 1, 5)),
    ],
    "retract takes one": [
        (mention(4), read(0, 1, 4)),
        (mention(5), read(0, 2, 5)),
        (retract(4), read(0, 1, 5)),
        (retract(5), read(0, 0, 5)),
    ],
    "retract never goes below zero": [
        (mention(4), read(0, 1, 4)),
        (retract(4), read(0, 0, 4)),
        (retract(4), read(0, 0, 4)),
        (mention(6), read(0, 1, 6)),
    ],
    "retract of a read mention takes nothing": [
        (mark(5, mention_count=2), read(5, 2)),
        (retract(5), read(5, 2)),
        (retract(3), read(5, 2)),
        (retract(6), read(5, 1)),
    ],
    "retract makes nothing": [(retract(4), None)],
    "larger pins win": [
        (pins(1000), {"last_pin_timestamp": 1000}),
        (pins(999), {"last_pin_timestamp": 1000}),
        (pins(1000), {"last_pin_timestamp": 1000}),
        (pins(2**48 - 1), {"last_pin_timestamp": 2**48 - 1}),
        (pins(0), {"last_pin_timestamp": 2**48 - 1}),
    ],
    "pins at zero make nothing": [(pins(0), None)],
    "delete": [
        (ack(5, flags=1), read(5, flags=1)),
        (DELETE, None),
        (DELETE, None),
        (ack(2), read(2)),
    ],
    "delete of nothing": [(DELETE, None)],
    "delete of a mention": [
        (mention(5), read(0, 1, 5)),
        (DELETE, None),
        (mention(5), read(0, 1, 5)),
    ],
    "delete_user": [
        (ack(5), read(5)),
        (DELETE_USER, None),
        (DELETE_USER, None),
        (ack(1), read(1)),
        (mention(2), read(1, 1, 2)),
    ],
    "delete_user of nobody": [(DELETE_USER, None)],
    "unknown fields and ts": [
        (ack(5, ts=1_700_000_000_000, mention_count=9, color="red", deep={"a": [1]}), read(5)),
    ],
}
