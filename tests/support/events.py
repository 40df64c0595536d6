"""Random events of every type."""

from __future__ import annotations

import random
from typing import Any


def anything(draw: random.Random, messages: int, channels: int = 3) -> dict[str, Any]:
    """An event of any type, mostly about few messages of few channels."""
    message = draw.randint(1, messages)
    event: dict[str, Any] = {"channel_id": draw.randint(1, channels), "message_id": message}
    kind = draw.choices(
        ["mention", "retract_mention", "ack", "manual", "merge", "set", "pins_ack", "bulk_ack",
         "delete", "delete_user", "restore_user"],
        [40, 15, 10, 6, 6, 4, 3, 3, 4, 1, 1],
    )[0]  # fmt: skip
    event["type"] = "ack" if kind == "manual" else kind
    if kind in ("mention", "retract_mention") and draw.random() < 0.4:
        event["edit"] = draw.randint(0, 2)
    elif kind == "ack" and draw.random() < 0.4:
        event["if_version"] = str(8 << 48 | draw.randint(0, 60))
    elif kind == "manual":
        event["manual"] = True
        if draw.random() < 0.3:
            event["mention_count"] = draw.randint(0, 80)
        elif draw.random() < 0.5:
            ids = range(message + 1, message + 90)
            event["mention_ids"] = draw.sample(ids, draw.randint(0, 64))
    elif kind == "merge":
        del event["message_id"]
        if draw.random() < 0.6:
            event["last_message_id"] = message
        if draw.random() < 0.5:
            event["mention_ids"] = draw.sample(range(1, messages + 9), draw.randint(0, 8))
        if draw.random() < 0.4:
            event["mention_count"] = draw.randint(0, 70)
        if draw.random() < 0.3:
            event["last_pin_timestamp"] = draw.randint(0, 5)
    elif kind == "pins_ack":
        event["timestamp"] = draw.randint(0, 5)
    elif kind == "bulk_ack":
        event = {"type": kind, "acks": [
            {"channel_id": channel, "message_id": draw.randint(1, messages)}
            for channel in draw.sample(range(1, channels + 1), draw.randint(1, channels))
        ]}  # fmt: skip
    elif kind == "delete" and draw.random() < 0.7:
        event["up_to"] = message
    elif kind == "delete_user" and draw.random() < 0.5:
        event["final"] = True
    if event["type"] in ("set", "merge", "ack") and draw.random() < 0.4 or kind == "set":
        event["flags"] = draw.choice([0, 1, 5])
    if event["type"] in ("set", "merge", "ack") and draw.random() < 0.3:
        event["last_viewed"] = draw.choice([0, 7])
    return event
