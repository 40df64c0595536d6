"""Random events of every type."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

EPOCH_BITS = 8 << 48
MARKS_MAX = 64
KINDS = {
    "mention": 40,
    "retract_mention": 15,
    "ack": 10,
    "manual": 6,
    "merge": 6,
    "set": 4,
    "pins_ack": 3,
    "bulk_ack": 3,
    "delete": 4,
    "delete_user": 1,
    "restore_user": 1,
}
KEEPS_MARKS = {"mention": 60, "retract_mention": 10, "ack": 1, "set": 2, "merge": 1, "pins_ack": 1}


def anything(
    draw: random.Random, messages: tuple[int, int], channels: Sequence[int], *, reads: bool = True
) -> dict[str, Any]:
    """An event of any type about a message, first to last, of a channel; it has no user yet.

    `reads`: False if most events only add marks.
    """
    low, high = messages
    message = draw.randint(low, high)
    event: dict[str, Any] = {"channel_id": draw.choice(channels), "message_id": message}
    kinds = KINDS if reads else KEEPS_MARKS
    (kind,) = draw.choices(tuple(kinds), tuple(kinds.values()))
    event["type"] = "ack" if kind == "manual" else kind
    if kind in ("mention", "retract_mention") and draw.random() < 0.4:
        event["edit"] = draw.randint(0, 2)
    elif kind == "ack" and draw.random() < 0.4:
        event["if_version"] = str(EPOCH_BITS | draw.randint(0, 60))
    elif kind == "manual":
        _manual(draw, event, high)
    elif kind == "merge":
        _merge(draw, event, messages)
    elif kind == "pins_ack":
        event["timestamp"] = draw.randint(0, 5)
    elif kind == "bulk_ack":
        some = draw.sample(channels, draw.randint(1, len(channels)))
        acks = [{"channel_id": c, "message_id": draw.randint(low, high)} for c in some]
        event = {"type": kind, "acks": acks}
    elif kind == "delete" and draw.random() < 0.7:
        event["up_to"] = message
    elif kind == "delete_user" and draw.random() < 0.5:
        event["final"] = True
    has_options = event["type"] in ("set", "merge", "ack")
    if (has_options and draw.random() < 0.4) or kind == "set":
        event["flags"] = draw.choice([0, 1, 5])
    if has_options and draw.random() < 0.3:
        event["last_viewed"] = draw.choice([0, 7])
    return event


def _manual(draw: random.Random, event: dict[str, Any], high: int) -> None:
    event["manual"] = True
    if draw.random() < 0.3:
        event["mention_count"] = draw.randint(0, 80)
    elif draw.random() < 0.5:
        above = range(event["message_id"] + 1, high + 9)
        event["mention_ids"] = draw.sample(above, draw.randint(0, min(len(above), MARKS_MAX)))


def _merge(draw: random.Random, event: dict[str, Any], messages: tuple[int, int]) -> None:
    low, high = messages
    message = event.pop("message_id")
    if draw.random() < 0.6:
        event["last_message_id"] = message
    if draw.random() < 0.5:
        event["mention_ids"] = draw.sample(range(low, high + 9), draw.randint(0, 8))
    if draw.random() < 0.4:
        event["mention_count"] = draw.randint(0, 70)
    if draw.random() < 0.3:
        event["last_pin_timestamp"] = draw.randint(0, 5)
