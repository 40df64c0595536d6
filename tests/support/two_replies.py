"""Replies of one log at two positions, made from the oracle's rows, as the interface says."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from readstates.ops.proof.oracle import Oracle, Row
from readstates.streams.comparison.said import Said, parsed

from .events import EPOCH_BITS, anything
from .expected_replies import expected, mentions, places, shown

USER = 77
CHANNELS = (5, 40, 100, 2**62)
STRINGS = ("channel_id", "last_message_id", "last_mention_id", "version")
COLUMNS = (
    "read_state_type", "channel_id", "last_message_id", "last_mention_id", "mention_count",
    "last_pin_timestamp", "flags", "last_viewed", "version",
)  # fmt: skip


class Moment(NamedTuple):
    """The user's rows after a record; `floor`: the version from which a delta hides no deletion."""

    version: int
    rows: list[Row]
    floor: int


def history(
    rand: random.Random, records: int, forgotten: int | None = None
) -> tuple[list[Moment], list[dict[str, Any]]]:
    """The moments of a log and its events. `forgotten`: the record that this fold leaves out."""
    oracle, floor = Oracle(), EPOCH_BITS
    events: list[dict[str, Any]] = []
    moments = [Moment(EPOCH_BITS, [], floor)]
    for offset in range(records):
        event = anything(rand, (1, 30), CHANNELS) | {"user_id": str(USER)}
        if event["type"] == "pins_ack":
            event["timestamp"] = rand.randint(1, 9_999)
        events.append(event)
        version = EPOCH_BITS | (offset + 1)
        before = set(places(shown(oracle.rows(USER))))
        if offset != forgotten:
            oracle.apply(str(USER).encode(), json.dumps(event).encode(), offset)
        rows = oracle.rows(USER)
        if event["type"].startswith("delete") or before - set(places(shown(rows))):
            floor = version
        moments.append(Moment(version, rows, floor))
    return moments, events


def question(rand: random.Random, newest: int) -> dict[str, Any]:
    """A query with any of its fields; `newest`: the largest version that a client may know."""
    query: dict[str, Any] = {"type": "get", "user_id": str(USER)}
    if rand.random() < 0.25:
        query["channel_ids"] = rand.sample([*CHANNELS, 9], rand.randint(0, 4))
    if rand.random() < 0.2:
        query["read_state_type"] = 0
    if rand.random() < 0.4:
        query["since_version"] = EPOCH_BITS | rand.randint(0, (newest & 0xFFFF) + 1)
    for name in ("mentions", "mentioned", "totals"):
        if rand.random() < 0.3:
            query[name] = True
    if rand.random() < 0.3:
        query["limit"] = rand.randint(1, 3)
    if rand.random() < 0.15:
        query["after"] = [0, rand.choice(CHANNELS)]
    return query


def state_of(row: Row, with_mentions: bool) -> dict[str, Any]:
    fields = dict(zip(COLUMNS, row, strict=False))
    state: dict[str, Any] = {name: str(v) if name in STRINGS else v for name, v in fields.items()}
    if with_mentions:
        state["mentions"] = [str(message) for message in mentions(row)]
    return state


def reply(rand: random.Random, moment: Moment, query: dict[str, Any]) -> dict[str, Any]:
    """The reply of that moment; a complete one in place of a delta now and then."""
    since = query.get("since_version")
    floor = max(moment.floor, rand.choice([0, moment.version - rand.randint(0, 4)]))
    is_full = since is None or bool(query.get("mentioned")) or not floor <= since <= moment.version
    found = expected(moment.rows, query, -1 if is_full or since is None else since)
    body: dict[str, Any] = {
        "user_id": str(USER),
        "version": str(moment.version),
        "full": is_full,
        "read_states": [state_of(row, bool(query.get("mentions"))) for row in found.rows],
    }
    if found.totals is not None:
        names = ("read_states", "mentioned", "mentions")
        body["totals"] = dict(zip(names, found.totals, strict=True))
    if found.next is not None:
        kind, channel = found.next
        body["next"] = {"read_state_type": kind, "channel_id": str(channel)}
    return body


def said(rand: random.Random, body: dict[str, Any], query: dict[str, Any]) -> Said:
    """As it arrives: keys in any order, and any white space."""
    text = json.dumps(shuffled(rand, body), indent=rand.choice([None, 1]))
    return Said(parsed(text.encode()), {}, query.get("since_version"))


def shuffled(rand: random.Random, value: Any) -> Any:
    if isinstance(value, dict):
        names = rand.sample(list(value), len(value))
        return {name: shuffled(rand, value[name]) for name in names}
    return [shuffled(rand, each) for each in value] if isinstance(value, list) else value
