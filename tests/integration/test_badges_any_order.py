"""C1 through the whole service: the same events in any order, some of them twice, end the same."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.badges import Event, ack, mention, retract
from tests.support.service import Service
from tests.support.wire import new_user

ORDERS = 5
REPEATED = 10
TRIES = 1000
FOR_GOOD = 2**32  # over every edit


def unordered(draw: random.Random, messages: int, count: int) -> list[Event]:
    """`count` mentions, retractions and plain acks that name so many messages at most."""
    ids = draw.sample(range(1, 100), messages)

    def one() -> Event:
        if draw.random() < 0.05:
            return ack(min(draw.choices(ids, k=3)))
        message, edit = draw.choice(ids), draw.choice([0, 1, 1, 2, 2**32 - 1])
        if draw.random() < 0.05:
            return retract(message)
        return draw.choice([mention, retract])(message, **({"edit": edit} if edit else {}))

    return [one() for _ in range(count)]


def telling(draw: random.Random, messages: int, count: int) -> list[Event]:
    """Events whose outcome would be another without the edits, the retractions, or the acks."""
    for _ in range(TRIES):
        events = unordered(draw, messages, count)
        of_first_form = [{n: v for n, v in e.items() if n != "edit"} for e in events]
        others = [[e for e in events if e["type"] != kind] for kind in ("retract_mention", "ack")]
        right = outcome(events)
        if right[1] and all(outcome(each) != right for each in (of_first_form, *others)):
            return events
    raise AssertionError("no such events among these")


def outcome(events: list[Event]) -> tuple[int, list[int]]:
    """The last message and the mentions, without any order: the interface's words as a set."""
    last = max((int(e["message_id"]) for e in events if e["type"] == "ack"), default=0)
    strongest: dict[int, tuple[int, bool]] = {}
    for event in events:
        message, retracted = int(event["message_id"]), event["type"] == "retract_mention"
        if event["type"] == "ack" or message <= last:
            continue
        edit = event.get("edit", FOR_GOOD if retracted else 0)
        strongest[message] = max(strongest.get(message, (0, False)), (edit, retracted))
    return last, sorted(m for m, (_, retracted) in strongest.items() if not retracted)


def without_version(found: dict[str, Any] | tuple[Any, ...]) -> Any:
    if isinstance(found, dict):
        return {name: value for name, value in found.items() if name != "version"}
    return (*found[:8], *found[9:])


@pytest.mark.parametrize(("messages", "count"), [(4, 16), (8, 24), (64, 60)])
def test_any_order(service: Service, messages: int, count: int) -> None:
    wire, draw = service.wire, random.Random(messages)
    events = telling(draw, messages, count)
    users = [new_user() for _ in range(ORDERS)]
    asked = {}
    for user in users:
        order = events + draw.choices(events, k=REPEATED)
        draw.shuffle(order)
        for event in order:
            offset = wire.produce_update(user, {"channel_id": "7", **event})
        asked[user] = offset
    replies = [wire.get(user, mentions=True, after_offset=offset) for user, offset in asked.items()]
    states = [[without_version(state) for state in reply.states] for reply in replies]
    assert all(each == states[0] for each in states)
    last, mentions = outcome(events)
    ((state,),) = (states[0],)
    assert state["last_message_id"] == str(last)
    assert state["mentions"] == list(map(str, mentions))
    assert state["mention_count"] == len(mentions)
    service.wait_durable(wire.ends(wire.updates))
    rows = [[without_version(row) for row in wire.rows.with_marks(user)] for user in users]
    assert all(each == rows[0] for each in rows)
    assert len(rows[0]) == 1
