"""The rules of the event tables: events in a row, and what is to be read after each."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]
Fields = dict[str, Any]
Step = tuple[Event, Fields | None]  # an event; what a reply shows of the channel, zeros left out

CHANNEL = 1_200_000_000_000_000_000
COUNT_MAX = 2**32 - 1
MARKS_MAX = 64


def at(number: int) -> int:
    """A message ID over 2^53, so that a reader that loses digits is found out."""
    return 1_300_000_000_000_000_000 + number


def ids(numbers: Any) -> list[str]:
    return [str(at(number)) for number in numbers]


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


def options(**given: int) -> Event:
    return {"type": "set", **given}


def merge(last: int | None = None, *mentioned: int, **more: Any) -> Event:
    event: Event = {"type": "merge", **more}
    if last is not None:
        event["last_message_id"] = str(at(last))
    if mentioned:
        event["mention_ids"] = ids(mentioned)
    return event


def bulk(*numbers: int) -> Event:
    acks = [{"channel_id": str(CHANNEL), "message_id": str(at(n))} for n in numbers]
    return {"type": "bulk_ack", "acks": acks}


DELETE: Event = {"type": "delete"}
DELETE_USER: Event = {"type": "delete_user"}
RESTORE_USER: Event = {"type": "restore_user"}
WITHOUT_CHANNEL = {"bulk_ack", "delete_user", "restore_user"}


def delete(up_to: int) -> Event:
    return {**DELETE, "up_to": str(at(up_to))}


def read(number: int, *mentioned: int, uncounted: int = 0, **more: int) -> Fields:
    """Read up to a message, with these mentions and so many that are only counted."""
    return {
        "last_message_id": at(number) if number else 0,
        "last_mention_id": at(max(mentioned)) if mentioned else 0,
        "mention_count": min(len(mentioned) + uncounted, COUNT_MAX),
        "mentions": ids(sorted(mentioned)),
        **more,
    }


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
        (mention(9), read(2, 9, flags=1, last_viewed=300)),
        (pins(5), read(2, 9, flags=1, last_viewed=300, last_pin_timestamp=5)),
    ],
    "ack takes the mentions up to it": [
        (mention(5), read(0, 5)),
        (mention(7), read(0, 5, 7)),
        (ack(4), read(4, 5, 7)),
        (ack(6), read(6, 7)),
        (ack(7), read(7)),
    ],
    "ack over the last mention": [(mention(5), read(0, 5)), (ack(9), read(9))],
    "ack takes the count that it covers": [
        (ack(9), read(9)),
        (mark(2, mention_count=4), read(2, uncounted=4)),
        (ack(5), read(5, uncounted=4)),
        (ack(9), read(9)),
    ],
    "an ack of a device that has not heard of it does not undo a manual one": [
        (mention(5), read(0, 5)),
        (ack(9, if_version="0"), read(9)),
        (mark(4, mention_ids=ids([5])), read(4, 5)),
        (ack(9, if_version="0"), read(4, 5)),
        (ack(9, if_version=0, flags=1), read(4, 5)),
        (ack(9, if_version=str(2**63 - 1)), read(9)),
        (mark(4, mention_count=1), read(4, uncounted=1)),
        (ack(9), read(9)),
    ],
    "manual goes backwards": [
        (ack(9), read(9)),
        (mark(2, mention_count=4), read(2, uncounted=4)),
        (mark(2), read(2)),
        (mark(2), read(2)),
        (mark(8), read(8)),
    ],
    "manual with the mentions": [
        (mention(5), read(0, 5)),
        (mark(3, mention_ids=ids([7, 4])), read(3, 4, 7)),
        (mention(5), read(3, 4, 5, 7)),
        (mark(3, mention_ids=[]), read(3)),
        (mention(5), read(3, 5)),
        (mark(2, mention_ids=ids([4]), flags=4, last_viewed=1), read(2, 4, flags=4, last_viewed=1)),
    ],
    "manual with a count keeps the newest mentions": [
        (mention(5), read(0, 5)),
        (mention(6), read(0, 5, 6)),
        (mention(7), read(0, 5, 6, 7)),
        (mark(3, mention_count=2), read(3, 6, 7)),
        (mark(3, mention_count=4), read(3, 6, 7, uncounted=2)),
        (mark(3, mention_count=0), read(3)),
    ],
    "manual alone leaves the mentions above it": [
        (mention(5), read(0, 5)),
        (mention(8), read(0, 5, 8)),
        (ack(6), read(6, 8)),
        (mark(3), read(3, 8)),
    ],
    "manual makes a read state": [(mark(3, mention_count=2), read(3, uncounted=2))],
    "bulk ack, entries in order": [
        (bulk(1), read(1)),
        (bulk(5, 3), read(5)),
        (bulk(4, 2), read(5)),
        (bulk(6, 7, 6), read(7)),
    ],
    "bulk ack and mentions": [
        (mention(5), read(0, 5)),
        (bulk(3, 4), read(4, 5)),
        (bulk(3, 5), read(5)),
    ],
    "a thousand entries": [(bulk(*range(1, 1001)), read(1000))],
    "mentions count": [
        (mention(1), read(0, 1)),
        (mention(2), read(0, 1, 2)),
        (mention(3), read(0, 1, 2, 3)),
    ],
    "a mention twice counts once": [
        (mention(4), read(0, 4)),
        (mention(4), read(0, 4)),
        (mention(6), read(0, 4, 6)),
        (mention(4), read(0, 4, 6)),
    ],
    "an older mention counts, the last stays": [
        (mention(4), read(0, 4)),
        (mention(2), read(0, 2, 4)),
    ],
    "a mention that was read counts nothing": [
        (ack(5), read(5)),
        (mention(5), read(5)),
        (mention(4), read(5)),
        (mention(6), read(5, 6)),
    ],
    "mentions stop at 2^32-1": [
        (mark(1, mention_count=COUNT_MAX), read(1, uncounted=COUNT_MAX)),
        (mention(5), read(1, 5, uncounted=COUNT_MAX)),
        (mention(4), read(1, 4, 5, uncounted=COUNT_MAX)),
    ],
    "over 64 mentions the smallest are only counted": [
        (merge(None, *range(1, MARKS_MAX + 1)), read(0, *range(1, MARKS_MAX + 1))),
        (mention(65), read(0, *range(2, 66), uncounted=1)),
        (mention(66), read(0, *range(3, 67), uncounted=2)),
        (retract(1), read(0, *range(3, 67), uncounted=1)),
        (retract(40), read(0, *range(3, 40), *range(41, 67), uncounted=1)),
        (ack(2), read(2, *range(3, 40), *range(41, 67))),
        (ack(60), read(60, *range(61, 67))),
    ],
    "retract takes its message": [
        (mention(4), read(0, 4)),
        (mention(5), read(0, 4, 5)),
        (retract(4), read(0, 5)),
        (retract(4), read(0, 5)),
        (retract(5), None),
        (mention(6), read(0, 6)),
    ],
    "retract of a read mention takes nothing": [
        (ack(5), read(5)),
        (mention(6), read(5, 6)),
        (retract(5), read(5, 6)),
        (retract(3), read(5, 6)),
        (retract(6), read(5)),
    ],
    "retract of what did not mention the user": [
        (mention(4), read(0, 4)),
        (retract(9), read(0, 4)),
        (retract(3), read(0, 4)),
    ],
    "retract before its mention": [
        (retract(4), None),
        (mention(4), None),
        (mention(4, edit=COUNT_MAX), None),
        (mention(5), read(0, 5)),
        (ack(6), read(6)),
    ],
    "the larger edit counts": [
        (mention(4), read(0, 4)),
        (retract(4, edit=1), None),
        (mention(4, edit=2), read(0, 4)),
        (mention(4), read(0, 4)),
        (retract(4, edit=1), read(0, 4)),
        (retract(4, edit=2), None),
        (mention(4, edit=2), None),
        (mention(4, edit=3), read(0, 4)),
    ],
    "retract at edit 0 is no deletion": [
        (retract(4, edit=0), None),
        (mention(4), None),
        (mention(4, edit=1), read(0, 4)),
        (retract(4), None),
        (mention(4, edit=COUNT_MAX), None),
    ],
    "larger pins win": [
        (pins(1000), {"last_pin_timestamp": 1000}),
        (pins(999), {"last_pin_timestamp": 1000}),
        (pins(1000), {"last_pin_timestamp": 1000}),
        (pins(2**48 - 1), {"last_pin_timestamp": 2**48 - 1}),
        (pins(0), {"last_pin_timestamp": 2**48 - 1}),
    ],
    "pins at zero make nothing": [(pins(0), None)],
    "set": [
        (options(flags=0, last_viewed=0), None),
        (options(flags=4), {"flags": 4}),
        (ack(5, flags=5), read(5, flags=5)),
        (ack(6), read(6, flags=5)),
        (options(flags=0), read(6)),
        (options(last_viewed=7), read(6, last_viewed=7)),
        (options(flags=COUNT_MAX, last_viewed=0), read(6, flags=COUNT_MAX)),
    ],
    "set to zero hides": [(options(flags=4), {"flags": 4}), (options(flags=0), None)],
    "merge keeps what is newer": [
        (ack(5, flags=3), read(5, flags=3)),
        (
            merge(3, 4, 7, mention_count=9, flags=1, last_viewed=2, last_pin_timestamp=8),
            read(5, 7, flags=3, last_viewed=2, last_pin_timestamp=8),
        ),
        (
            merge(6, mention_count=4, last_viewed=1, last_pin_timestamp=9),
            read(6, 7, uncounted=3, flags=3, last_viewed=2, last_pin_timestamp=9),
        ),
        (
            merge(6, mention_count=99),
            read(6, 7, uncounted=3, flags=3, last_viewed=2, last_pin_timestamp=9),
        ),
    ],
    "merge makes a read state": [
        (merge(), None),
        (merge(None, 5), read(0, 5)),
        (merge(None, 6, mention_count=9), read(0, 5, 6)),
        (merge(5, mention_count=2), read(5, 6, uncounted=1)),
    ],
    "merge does not undo a retraction": [
        (retract(4), None),
        (merge(None, 4), None),
        (merge(None, 4, 5), read(0, 5)),
    ],
    "delete": [
        (ack(5, flags=1), read(5, flags=1)),
        (DELETE, None),
        (DELETE, None),
        (ack(2), read(2)),
    ],
    "delete of nothing": [(DELETE, None)],
    "delete of a mention": [
        (mention(5), read(0, 5)),
        (DELETE, None),
        (mention(5), read(0, 5)),
    ],
    "delete up to a message": [
        (ack(1), read(1)),
        (mention(5), read(1, 5)),
        (delete(8), None),
        (mention(7), None),
        (ack(8), None),
        (mark(8, mention_ids=ids([12])), None),
        (merge(8, 7, flags=1), None),
        (pins(9), None),
        (options(flags=1), None),
        (delete(7), None),
        (retract(9), None),
        (mention(9), read(8)),
        (mention(10), read(8, 10)),
    ],
    "an ack brings a deleted read state back": [
        (delete(8), None),
        (ack(9), read(9)),
    ],
    "a merge brings a deleted read state back": [
        (ack(3, flags=1), read(3, flags=1)),
        (delete(8), None),
        (merge(None, 9), read(8, 9)),
    ],
    "delete_user": [
        (ack(5), read(5)),
        (DELETE_USER, None),
        (DELETE_USER, None),
        (ack(1), read(1)),
        (mention(2), read(1, 2)),
    ],
    "delete_user of nobody": [(DELETE_USER, None)],
    "delete_user for good": [
        (ack(5), read(5)),
        ({**DELETE_USER, "final": True}, None),
        (ack(6), None),
        (mention(7), None),
        (options(flags=1), None),
        (RESTORE_USER, None),
        (ack(7), read(7)),
        ({**DELETE_USER, "final": False}, None),
        (ack(8), read(8)),
    ],
    "restore_user of nobody": [(RESTORE_USER, None), (ack(1), read(1))],
    "unknown fields and ts": [
        (ack(5, ts=1_700_000_000_000, mention_count=9, color="red", deep={"a": [1]}), read(5)),
    ],
}
