"""ID_EPOCH_MS: a message ID of over a day after its record is refused, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from readstates.streams.partition.plausible_ids import PlausibleIds
from tests.support.small_world import World, event, query, record

EPOCH_MS = 1_420_070_400_000  # 2015-01-01
NOW_MS = 1_700_000_000_000  # 2023-11-14T22:13:20
DAY_MS = 86_400_000
LAST_GOOD = ((NOW_MS + DAY_MS - EPOCH_MS + 1) << 22) - 1
BAD = LAST_GOOD + 1

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "message_id": ("ack", {"channel_id": 1, "message_id": "?"}),
    "message_id of an ack with flags": ("ack", {"channel_id": 1, "message_id": "?", "flags": 1}),
    "message_id of a manual ack": ("ack", {"channel_id": 1, "message_id": "?", "manual": True}),
    "message_id of a mention": ("mention", {"channel_id": 1, "message_id": "?"}),
    "message_id of a retraction": ("retract_mention", {"channel_id": 1, "message_id": "?"}),
    "mention_ids": (
        "ack",
        {"channel_id": 1, "message_id": 5, "manual": True, "mention_ids": [6, "?"]},
    ),
    "acks.message_id": (
        "bulk_ack",
        {"acks": [{"channel_id": 1, "message_id": 5}, {"channel_id": 2, "message_id": "?"}]},
    ),
    "last_message_id": ("merge", {"channel_id": 1, "last_message_id": "?"}),
    "mention_ids of a merge": ("merge", {"channel_id": 1, "mention_ids": [6, "?"]}),
    "up_to": ("delete", {"channel_id": 1, "up_to": "?"}),
}


def naming(value: Any, message_id: int) -> Any:
    if isinstance(value, dict):
        return {key: naming(each, message_id) for key, each in value.items()}
    if isinstance(value, list):
        return [naming(each, message_id) for each in value]
    return str(message_id) if value == "?" else value


def sent(offset: int, kind: str, user_id: int = 1, timestamp: int = NOW_MS, **fields: Any) -> Any:
    made = event(offset, user_id, kind, **fields)
    made.timestamp = timestamp
    return made


def world_of(*residents: int) -> World:
    world = World(ids=PlausibleIds(EPOCH_MS))
    for user_id in residents:
        world.ask(query(user_id))
        world.load_next()
    return world


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("name", NAMED)
def test_any_field_that_names_a_message(name: str, resident: bool) -> None:
    kind, fields = NAMED[name]
    world = world_of(*[1] * resident)
    world.feed(sent(0, kind, **naming(fields, BAD)), sent(1, "ack", channel_id=3, message_id=4))
    while world.loads:
        world.load_next()
    ((_, _, letter, reason),) = world.dead
    assert (letter.offset, reason) == (0, "implausible_id")
    table = world.partition.table
    assert [row[:3] for row in table.states(table.find(1))] == [(0, 3, 4)]
    assert world.texts[0].startswith(f"{name.split()[0]} {BAD} is of 2023-11-15T22:13:20.001+00:00")
    assert "2023-11-14T22:13:20.000+00:00" in world.texts[0]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("name", NAMED)
def test_a_day_ahead_is_plausible(name: str, resident: bool) -> None:
    kind, fields = NAMED[name]
    world = world_of(*[1] * resident)
    world.feed(sent(0, kind, **naming(fields, LAST_GOOD)))
    while world.loads:
        world.load_next()
    assert not world.dead


def test_each_record_of_a_run_has_its_own_bound() -> None:
    """The run's bound is that of its earliest record: the others are looked at one by one."""
    world = world_of(1, 2)
    later = [(0, 1, LAST_GOOD, 0), (1, 2, BAD, 1), (2, 1, BAD + 5, 0), (3, 2, 9, -1), (4, 1, 7, 5)]
    world.feed(
        *[
            sent(n, "mention", user, NOW_MS + more, channel_id=1, message_id=message)
            for n, user, message, more in later
        ]
    )
    assert [letter.offset for _, _, letter, _ in world.dead] == [2]
    assert world.partition.counts.applied == 4


def test_a_retraction_of_an_implausible_message_is_refused_as_well() -> None:
    """A message of the year 2262, one bad ID: nobody counts it, and later ones count normally."""
    world = world_of(1)
    events = (
        ("ack", 100), ("mention", 2**62), ("ack", 110), ("retract_mention", 2**62), ("mention", 120)
    )  # fmt: skip
    world.feed(*[sent(n, k, channel_id=1, message_id=m) for n, (k, m) in enumerate(events)])
    assert [letter.offset for _, _, letter, _ in world.dead] == [1, 3]
    table = world.partition.table
    assert [row[:5] for row in table.states(table.find(1))] == [(0, 1, 110, 120, 1)]


def test_unset_nothing_is_checked() -> None:
    world = World()
    world.feed(event(0, 1, channel_id=1, message_id=2**63 - 1))
    world.load_next()
    assert not world.dead


def test_what_is_no_event_is_refused_for_that() -> None:
    world = world_of(1)
    world.feed(record(0, b"1", b"{"), record(1, b"2", sent(1, "ack").value))
    assert [reason for *_, reason in world.dead] == ["invalid_json", "invalid_field"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("merge", {"mention_count": 3}),
        ("merge", {"last_message_id": 0, "flags": 3}),
        ("delete", {}),
    ],
)
def test_a_message_that_is_not_named_is_plausible_at_any_time(
    kind: str, fields: dict[str, Any]
) -> None:
    world = world_of(1)
    early_ms = EPOCH_MS - 2 * DAY_MS
    world.feed(sent(0, kind, timestamp=early_ms, channel_id=1, **fields))
    assert not world.dead


@pytest.mark.parametrize("timestamp", [-(2**61), 2**61], ids=["past", "future"])
def test_a_time_that_no_calendar_has(timestamp: int) -> None:
    """A producer stamps what it likes while the topic has `message.timestamp.type=CreateTime`."""
    world = world_of(1)
    world.feed(sent(0, "ack", timestamp=timestamp, channel_id=1, message_id=2**62))
    assert world.partition.position == 1
    assert [letter[3] for letter in world.dead] == ["implausible_id"] * (timestamp < 0)
