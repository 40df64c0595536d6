"""The fold against the oracle: events in any order, tables that forget, databases that remember.

C1: mentions, retractions and plain acks lead to the same read state in any order and with any
repetition. And whatever the events are, the table has what the interface says, however often its
users were written out, evicted and loaded again in between.
"""

from __future__ import annotations

import itertools
import os
import random
from typing import Any

import orjson
import pytest

from readstates.cache import fsck
from readstates.ops.proof.oracle import Oracle
from readstates.schemas import wire
from readstates.schemas.read_state import Row
from readstates.streams.partition.fold import fold
from tests.support.table_builds import BUILDS, Build, new_buffer

CASES = int(os.environ.get("CASES", "300"))
USER, CHANNELS, STATES_MAX = 7, 3, 1000
EPOCH_BITS = 8 << 48


class World:
    """A table with one user, the rows of its database, and the oracle."""

    def __init__(self, build: Build, slots: int = 400, states_max: int = STATES_MAX) -> None:
        self.buffer = new_buffer(slots)
        self.build = build
        self.table = build.Table(self.buffer, states_max)
        self.database: dict[tuple[int, int], Row] = {}
        self.oracle = Oracle(states_max)
        self.offset = 0
        self.load()

    def load(self) -> None:
        rows = [self.database[key] for key in sorted(self.database)]
        self.user = self.table.insert(USER, EPOCH_BITS | self.offset, False, rows)

    def apply(self, event: dict[str, Any]) -> int:
        value = orjson.dumps({"user_id": str(USER), **event})
        self.oracle.apply(b"%d" % USER, value, self.offset)
        self.offset += 1
        return fold(self.table, self.user, wire.decode_update(value), EPOCH_BITS | self.offset)

    def write_out(self) -> None:
        if not self.table.dirty_head():
            return
        _, delete_version, rows = self.table.take(self.user)
        for key in [k for k, row in self.database.items() if row[8] < delete_version]:
            del self.database[key]
        for deleted, row in rows:
            self.database.pop(row[:2], None)
            if not deleted:
                self.database[row[:2]] = row
        self.table.written(self.user, delete_version, rows)

    def reload(self) -> None:
        self.write_out()
        assert self.table.evict(self.table.slots - 1, 10)
        self.load()

    def check(self) -> None:
        assert self.table.states(self.user) == self.oracle.shown(USER)
        self.table.save()
        self.build.verify(self.buffer)
        assert fsck.check_bytes(bytes(self.buffer), saved=True) == []

    def check_database(self) -> None:
        self.write_out()
        assert [self.database[key] for key in sorted(self.database)] == self.oracle.stored(USER)


def unordered(draw: random.Random) -> list[dict[str, Any]]:
    """Mentions, retractions and plain acks of one channel that name at most 64 messages."""
    messages = draw.sample(range(1, 100), draw.choice([3, 8, 64]))
    events = []
    for _ in range(draw.randint(1, 40)):
        event: dict[str, Any] = {"channel_id": 1, "message_id": draw.choice(messages)}
        kind = draw.random()
        if kind < 0.55:
            event["type"] = "mention"
        elif kind < 0.85:
            event["type"] = "retract_mention"
        else:
            event["type"] = "ack"
        if event["type"] != "ack" and draw.random() < 0.5:
            event["edit"] = draw.choice([0, 1, 2, 2**32 - 1])
        events.append(event)
    return events


def outcome(world: World) -> list[tuple[Any, ...]]:
    world.write_out()
    return [(*row[:8], row[9]) for row in world.database.values()]


@pytest.mark.parametrize("build", BUILDS)
def test_any_order_and_any_repetition_lead_to_the_same(build: str) -> None:
    """C1."""
    for seed in range(CASES if build == "compiled" else CASES // 10):
        draw = random.Random(seed)
        events = unordered(draw)
        found = []
        for _ in range(4):
            order = events + draw.choices(events, k=draw.randint(0, 10))
            draw.shuffle(order)
            world = World(BUILDS[build])
            for event in order:
                world.apply(event)
                if draw.random() < 0.1:
                    world.reload()
            world.check()
            found.append(outcome(world))
        assert all(one == found[0] for one in found), f"seed {seed}"


def anything(draw: random.Random, messages: int) -> dict[str, Any]:
    """An event of any type, mostly about few messages of few channels."""
    message = draw.randint(1, messages)
    event: dict[str, Any] = {"channel_id": draw.randint(1, CHANNELS), "message_id": message}
    kind = draw.choices(
        ["mention", "retract_mention", "ack", "manual", "merge", "set", "pins_ack", "bulk_ack",
         "delete", "delete_user", "restore_user"],
        [40, 15, 10, 6, 6, 4, 3, 3, 4, 1, 1],
    )[0]  # fmt: skip
    event["type"] = "ack" if kind == "manual" else kind
    if kind in ("mention", "retract_mention") and draw.random() < 0.4:
        event["edit"] = draw.randint(0, 2)
    elif kind == "ack" and draw.random() < 0.4:
        event["if_version"] = str(EPOCH_BITS | draw.randint(0, 60))
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
            for channel in draw.sample(range(1, CHANNELS + 1), draw.randint(1, CHANNELS))
        ]}  # fmt: skip
    elif kind == "delete" and draw.random() < 0.7:
        event["up_to"] = message
    elif kind == "delete_user" and draw.random() < 0.5:
        event["final"] = True
    if (event["type"] in ("set", "merge", "ack") and draw.random() < 0.4) or kind == "set":
        event["flags"] = draw.choice([0, 1, 5])
    if event["type"] in ("set", "merge", "ack") and draw.random() < 0.3:
        event["last_viewed"] = draw.choice([0, 7])
    return event


@pytest.mark.parametrize("build", BUILDS)
def test_whatever_comes_the_table_has_what_the_interface_says(build: str) -> None:
    for seed in range(CASES if build == "compiled" else CASES // 10):
        draw = random.Random(f"anything {seed}")
        world = World(BUILDS[build])
        messages = draw.choice([6, 30, 120, 300])
        for step in range(draw.choice([15, 60, 200])):
            event = anything(draw, messages)
            world.apply(event)
            shown = world.table.states(world.user)
            assert shown == world.oracle.shown(USER), (seed, step, event)
            if draw.random() < 0.05:
                world.reload()
            elif draw.random() < 0.05:
                world.write_out()
        world.check()
        world.check_database()


@pytest.mark.parametrize("build", BUILDS)
def test_a_mention_that_only_counts_brings_a_deleted_read_state_back(build: str) -> None:
    """Its message is at or below one that was given up, and above the deleted ones."""
    world = World(BUILDS[build])
    world.apply({"type": "delete", "channel_id": 1, "up_to": 10})
    for message in range(100, 165):
        world.apply({"type": "retract_mention", "channel_id": 1, "message_id": message})
    assert world.table.states(world.user) == []
    world.apply({"type": "mention", "channel_id": 1, "message_id": 50})
    (row,) = world.table.states(world.user)
    assert row[2:5] == (10, 0, 1)
    world.apply({"type": "set", "channel_id": 1, "flags": 5})
    world.apply({"type": "ack", "channel_id": 1, "message_id": 60})
    (row,) = world.table.states(world.user)
    assert (row[2:5], row[6]) == ((60, 0, 1), 5)
    world.reload()
    world.check()
    world.check_database()


def test_all_orders_of_few_events() -> None:
    """Not sampled: a mention, its edit, its deletion, another mention and an ack, in each order."""
    events: list[dict[str, Any]] = [
        {"type": "mention", "channel_id": 1, "message_id": 110},
        {"type": "retract_mention", "channel_id": 1, "message_id": 110, "edit": 1},
        {"type": "mention", "channel_id": 1, "message_id": 110, "edit": 2},
        {"type": "mention", "channel_id": 1, "message_id": 105},
        {"type": "retract_mention", "channel_id": 1, "message_id": 105},
        {"type": "ack", "channel_id": 1, "message_id": 100},
    ]
    build = next(iter(BUILDS.values()))
    found = set()
    for order in itertools.permutations(events):
        world = World(build)
        for event in order:
            world.apply(event)
        found.add(tuple(outcome(world)))
    assert len(found) == 1
    ((row,),) = found
    assert row[2:5] == (100, 110, 1)
