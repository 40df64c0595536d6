"""Scenarios of badges that need settings of their own: final deletions, bad IDs, large accounts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.proof.oracle import Oracle
from readstates.streams.config import Settings
from tests.support.badges import CHANNEL, Event, ack, delete, mention, retract, unread
from tests.support.devices import DEADLINE_S, Device, advised_limit
from tests.support.rows import COLUMNS
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import (
    Reply,
    TopicReader,
    Wire,
    encode,
    new_user,
    partition_of,
    reply_of,
)

SKIPPED = "read_states_updates_skipped_total{reason=deleted_user}"
LOADED = "read_states_cassandra_loads_total{outcome=loaded}"
IMPLAUSIBLE = "read_states_dead_letters_total{reason=implausible_id}"
DAY_MS = 86_400_000
MINUTE_MS = 60_000
ID_EPOCH_MS = 1_420_070_400_000  # the first second of 2015
ID_TIME_SHIFT = 22
DEFAULTS = {setting.name: setting.default for setting in fields(Settings)}
LARGE = 50_000
OTHERS = 2  # users nearly as large, which fill the table
BULK = 1000  # entries of a bulk_ack
FIRST_ID = 1_300_000_000_000_000_000  # 19 digits
GAP = 7_654_321_987  # between the IDs of two channels, so that they do not compress too well
IDS = ("channel_id", "last_message_id", "last_mention_id", "version")  # strings in a reply
NARROW_BYTES = 10_000


# -- 12: a final deletion -------------------------------------------------------------------------


def test_a_final_deletion_leaves_a_mark_and_nothing_else(service: Service) -> None:
    """Scenario 12. What comes after it is counted, and kept nowhere."""
    wire, user = service.wire, new_user()

    def send(*events: Event) -> int:
        for event in events:
            offset = wire.produce_update(user, {"channel_id": str(CHANNEL), **event})
        return offset

    offset = send(ack(100), mention(105), {"type": "pins_ack", "timestamp": 5000})
    wire.get(user, after_offset=offset)
    service.wait_durable(wire.ends(wire.updates))
    assert len(wire.rows.of(user)) == 1
    before = service.metric(SKIPPED)
    send({"type": "delete_user", "final": True})
    late = send(mention(106), ack(107), {"type": "set", "flags": 1}, retract(200), delete(300))
    reply = wire.get(user, after_offset=late, totals=True)
    assert reply.states == []
    assert reply.value["totals"] == {"read_states": 0, "mentioned": 0, "mentions": 0}
    until(lambda: service.metric(SKIPPED) == before + 5, "five skipped events")
    service.wait_durable(wire.ends(wire.updates))
    (mark,) = wire.rows.of(user)
    assert mark[:2] == (0, 0)
    assert mark[2 : len(COLUMNS) - 1] == (0,) * 6, "the mark says nothing of the user"

    send({"type": "restore_user"})
    offset = send(mention(108))
    (state,) = wire.get(user, mentions=True, after_offset=offset).states
    assert (state["last_message_id"], state["mentions"]) == ("0", ["108"])
    service.wait_durable(wire.ends(wire.updates))
    restored, state_row = wire.rows.of(user)
    assert restored[:2] == (0, 0)
    assert restored[8] > mark[8], "the mark says when the user was restored"
    assert state_row[:2] == (0, CHANNEL)


# -- 8: message IDs from the future ---------------------------------------------------------------


@pytest.fixture(scope="module")
def dated(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service that knows the epoch of its message IDs."""
    made = Service(stack.env(), folder, "dated", id_epoch_ms=ID_EPOCH_MS)
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def id_in(ms: int) -> int:
    """A message ID of a time that is so far from now."""
    return int(time.time() * 1000) + ms - ID_EPOCH_MS << ID_TIME_SHIFT


def naming(message: int) -> dict[str, Event]:
    """Every event that names a message."""
    return {
        "mention": mention(message),
        "retract": retract(message),
        "ack": ack(message),
        "manual": unread(message),
        "manual with mentions": unread(100, mention_ids=["105", str(message)]),
        "bulk": {
            "type": "bulk_ack",
            "acks": [{"channel_id": CHANNEL, "message_id": m} for m in (110, message)],
        },
        "merge": {"type": "merge", "last_message_id": message},
        "merge with mentions": {"type": "merge", "mention_ids": [106, message]},
        "delete": delete(message),
    }


@pytest.mark.parametrize("name", naming(1))
def test_an_id_of_the_day_after_tomorrow_changes_nothing(dated: Service, name: str) -> None:
    """Scenario 8, with ID_EPOCH_MS."""
    wire, user = dated.wire, new_user()
    here = {"channel_id": str(CHANNEL)}
    wire.produce_update(user, {**here, **ack(100)})
    offset = wire.produce_update(user, {**here, **mention(105)})
    before = wire.get(user, mentions=True, after_offset=offset).states
    counted = dated.metric(IMPLAUSIBLE)
    for message in (2**62, 2**63 - 1, id_in(DAY_MS + 10 * MINUTE_MS)):
        event = naming(message)[name]
        place = wire.produce(user, {**here, **event})
        letter = wire.dead_letter(place)
        assert letter.reason == "implausible_id"
        assert letter.value == encode(user, {**here, **event})
    after = wire.get(user, mentions=True, after_offset=place.offset).states
    assert after == before
    assert dated.metric(IMPLAUSIBLE) == counted + 3

    fine = id_in(DAY_MS - 10 * MINUTE_MS)
    offset = wire.produce_update(user, {**here, **naming(fine)[name]})
    assert wire.get(user, mentions=True, after_offset=offset).states != before or name == "retract"
    kept = [letter.value or b"" for letter in wire.dead_letters()]
    assert not any(str(fine).encode() in value for value in kept)


# -- 14: a large account --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spacious(stack: Stack, folder: Path) -> Iterator[Service]:
    """Every limit as it is by default; the table is the smallest that such a user fits into."""
    assert DEFAULTS["user_states_max"] == LARGE
    made = Service(
        stack.env(),
        folder,
        "spacious",
        user_states_max=LARGE,
        cache_states=2 * LARGE,
        probe_interval_s=0,  # no loads but users'
        session_timeout_s=DEFAULTS["session_timeout_s"],
        commit_interval_s=DEFAULTS["commit_interval_s"],
    )
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def channel(number: int) -> int:
    return FIRST_ID + number * GAP


def bulks(states: int) -> Iterator[Event]:
    """So many read states, a thousand in each event."""
    for first in range(0, states, BULK):
        acks = [
            {"channel_id": str(channel(n)), "message_id": str(channel(n) + 1)}
            for n in range(first, min(first + BULK, states))
        ]
        yield {"type": "bulk_ack", "acks": acks}


def shown(oracle: Oracle, user: int) -> list[dict[str, Any]]:
    """What a device must have, in a reply's form."""
    found = []
    for row in oracle.shown(user):
        state = dict(zip(COLUMNS, row, strict=False))
        mentions = oracle.users[user][row[:2]].mentions
        found.append(
            {
                **state,
                **{name: str(state[name]) for name in IDS},
                "mentions": list(map(str, mentions)),
            }
        )
    return found


@pytest.mark.long
def test_a_large_account_with_all_defaults(spacious: Service) -> None:
    """Scenario 14: the whole by pages, a deletion, a delta, an eviction, a delta."""
    wire, user, oracle = spacious.wire, new_user(), Oracle(LARGE)
    device = Device(wire, user)

    def send(event: Event) -> int:
        place = wire.produce(user, event)
        oracle.apply(b"%d" % user, encode(user, event), place.offset)
        return place.offset

    def right() -> bool:
        return [device.states[place] for place in sorted(device.states)] == shown(oracle, user)

    for event in bulks(LARGE):
        offset = send(event)
    for number in range(0, LARGE, LARGE // 20):
        offset = send({"channel_id": str(channel(number)), **mention(channel(number) + 2)})
    wire.get(user, after_offset=offset, channel_ids=[])
    device.look()
    assert len(device.states) == LARGE
    assert right()

    offset = send({"type": "delete", "channel_id": str(channel(12_345))})
    wire.get(user, after_offset=offset, channel_ids=[])
    device.look()
    assert len(device.states) == LARGE - 1
    assert right()

    loaded = spacious.metric(LOADED)
    for _ in range(OTHERS):
        other = new_user(partition_of(user))
        for event in bulks(LARGE - BULK):
            offset = wire.produce_update(other, event)
        wire.query(other, {"after_offset": offset, "channel_ids": []}, deadline_s=60, timeout_s=60)
    assert spacious.metric(LOADED) == loaded + OTHERS
    device.look()
    assert spacious.metric(LOADED) == loaded + OTHERS + 1, "the user was away, and was loaded again"
    assert right()

    offset = send({"channel_id": str(channel(1)), **mention(channel(1) + 9)})
    wire.get(user, after_offset=offset, channel_ids=[])
    device.look()
    assert not device.full, "only what changed"
    assert right()


# -- 15: a reply topic with a small limit ---------------------------------------------------------


class NarrowDevice(Device):
    """One whose replies go to a topic of its own."""

    def __init__(self, wire: Wire, user: int, topic: str) -> None:
        super().__init__(wire, user)
        self._topic = topic
        self._reader = TopicReader(wire.bootstrap, topic, 1)
        self.asked: list[int] = []  # the limits of its queries

    def ask(self, body: dict[str, Any]) -> Reply:
        self.asked.append(body["limit"])
        wanted = b"%d %d" % (self.user, len(self.asked))
        headers = [("kafka_replyTopic", self._topic.encode()), ("kafka_correlationId", wanted)]
        self._wire.ask(self.user, body, headers, deadline_s=DEADLINE_S)

        def look() -> Reply | None:
            message = self._reader.poll(0.2)
            return None if message is None else reply_of(message)

        reply = until(look, "a reply, or an error", DEADLINE_S)
        assert reply.headers["kafka_correlationId"] == wanted
        return reply

    def close(self) -> None:
        self._reader.close()


def test_a_reply_topic_with_a_small_limit(spacious: Service) -> None:
    """Scenario 15: an error with a limit that works, instead of silence."""
    wire, user = spacious.wire, new_user()
    topic = f"{wire.prefix}.replies.narrow"
    wire.create_topic(topic, config={"max.message.bytes": str(NARROW_BYTES)})
    for event in bulks(BULK):
        offset = wire.produce_update(user, event)
    whole = wire.get(user, after_offset=offset, mentions=True)
    device = NarrowDevice(wire, user, topic)
    try:
        refused = device.ask({"mentions": True, "limit": BULK})
        assert refused.error == "reply_too_large"
        assert refused.value["user_id"] == str(user)
        advised_limit(refused, BULK)
        device.look()
        assert device.states == {
            (state["read_state_type"], int(state["channel_id"])): state for state in whole.states
        }
    finally:
        device.close()
