"""A stall always ends: in the smallest legal table, whatever a user has and whatever comes.

A user has at most USER_STATES_MAX read states and as many slots for what is hidden or remembered of
messages, and a change may need CHANGE_SLOTS_MAX more for a moment. `layout.slots_for` gives a table
room for all of that if USER_STATES_MAX is at most half of CACHE_STATES.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from readstates.cache import layout
from readstates.cache.table import NO_ROOM
from readstates.schemas import wire
from readstates.streams.config import Settings
from readstates.streams.errors import ConfigError
from readstates.streams.partition import partition
from readstates.streams.partition.fold import CHANGE_SLOTS_MAX, fold, slots_needed
from readstates.streams.partition.rows import slots_of
from tests.support.events import anything
from tests.support.small_world import World, event, query
from tests.support.table_builds import BUILDS, new_buffer, verify

CACHE_STATES_MIN = 10
SEEDS = 40
EVENTS = 150
OTHERS = 12


@pytest.mark.parametrize("states", [CACHE_STATES_MIN, 11, 100, 511, 512, 513, 200_000, 10**8])
def test_a_legal_table_has_room_for_a_user_and_a_change(states: int) -> None:
    settings = Settings(cache_states=states, user_states_max=states // 2)
    settings.check()
    slots = layout.slots_for(states)
    for most in (1, settings.user_states_max):
        needed = 1 + most + layout.side_slots_max(most, slots)
        assert slots - 1 >= needed + CHANGE_SLOTS_MAX


def test_a_user_of_more_than_half_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most half of CACHE_STATES"):
        Settings(cache_states=10, user_states_max=6).check()


def drive(world: World, records: list[Any]) -> None:
    """Until all is folded and written, as a worker does: slices, loads, writes under a stall."""
    world.feed(*records)
    end = records[-1].offset + 1
    for _ in range(40 * len(records)):
        partition = world.partition
        if partition.position == end and not partition.loading.users:
            return
        if partition.can_run:
            partition.run(20, world.now_ms)
        elif world.loads:
            world.load_next()
        else:
            assert world.write_all(delay_ms=10**9), "stalled, with nothing to write out"
        partition.check()
    raise AssertionError(f"stuck at {partition.position} of {end}, {partition.table.free} free")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_event_finds_room_in_the_smallest_table(seed: int) -> None:
    """One user with all it may have, amid others who are small; the events of all alternate."""
    draw = random.Random(f"room {seed}")
    limit = CACHE_STATES_MIN // 2
    world = World(layout.slots_for(CACHE_STATES_MIN), limit, parked_max=20)
    records = []
    for offset in range(EVENTS):
        if draw.random() < 0.3:
            user_id, fields = 2 + draw.randrange(OTHERS), {"channel_id": draw.randint(1, limit)}
            records.append(event(offset, user_id, "mention", message_id=offset + 1, **fields))
            continue
        more = anything(draw, (1, draw.choice([30, 300])), range(1, 2 * limit))
        records.append(event(offset, 1, more.pop("type"), **more))
    drive(world, records)
    table = world.partition.table
    verify(table)
    while world.write_all(delay_ms=0):
        verify(table)
    assert table.dirty_states == 0


def test_a_user_at_both_limits_fits() -> None:
    """All read states that a user may have, and marks in all the slots for them, all at once."""
    limit = CACHE_STATES_MIN // 2
    world = World(layout.slots_for(CACHE_STATES_MIN), limit, parked_max=1000)
    records = [
        event(offset, 1, "mention", channel_id=1 + offset % limit, message_id=offset + 1)
        for offset in range(64 * limit)
    ]
    drive(world, records)
    table = world.partition.table
    user = table.find(1)
    rows = table.states(user)
    assert len(rows) == limit
    taken = slots_of(rows)
    assert taken == 1 + 2 * limit
    assert table.free == table.slots - 1 - taken
    assert sum(row[4] for row in rows) == 64 * limit, "none is lost: the rest is only counted"


def test_a_load_asks_for_the_slots_of_its_rows_entries() -> None:
    """Otherwise the table refuses the rows halfway, and the worker stops."""
    full = World(200, 50)
    marks = [event(n, 1, "mention", channel_id=1, message_id=n + 1) for n in range(64)]
    full.feed(*marks)
    full.load_next()
    full.write_all()
    small = World(40, 15)
    small.db = full.db
    for user_id in range(2, 22):  # 20 of 39 slots, clean; the rows need 24
        small.ask(query(user_id))
        small.load_next([])
    small.ask(query(1))
    small.load_next()
    assert small.answers[-1][1].rows[0][4] == 64
    assert small.partition.table.find(1)


def crowded() -> World:
    """User 1 has 30 marks; clean users have taken all but three of the slots."""
    world = World(60, 25)
    marks = [event(n, 1, "mention", channel_id=1, message_id=n + 1) for n in range(30)]
    world.feed(*marks)
    world.load_next()
    world.write_all()
    others = iter(range(2, 100))
    while world.partition.table.free > 3:
        world.ask(query(next(others)))
        world.load_next([])
    return world


def test_a_run_makes_room_for_all_slots_of_a_change() -> None:
    """With less than the change needs, the same update would be tried for ever."""
    world = crowded()
    assert world.feed(event(30, 1, "mention", channel_id=1, message_id=99)) == 1
    assert world.partition.counts.applied == 31


@pytest.mark.parametrize("kind", ["mention", "retract_mention"])
def test_a_count_of_slots_that_is_too_small_ends_as_well(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "slots_needed", lambda *_: 0)
    world = crowded()
    assert world.feed(event(30, 1, kind, channel_id=1, message_id=99, edit=1)) == 1
    assert world.partition.counts.applied == 31
    verify(world.partition.table)


@pytest.mark.parametrize("build", BUILDS)
def test_a_change_never_needs_more_than_was_said(build: str) -> None:
    """Random changes of a table that has exactly as many free slots as `slots_needed` says."""
    for seed in range(100 if build == "compiled" else 10):
        draw = random.Random(f"needs {seed}")
        table = BUILDS[build].Table(new_buffer(200), 1000)
        user, filler = table.insert(1, 0, False), 10**6
        for version in range(1, 120):
            fields = anything(draw, (1, 200), range(1, 5))
            update = wire.decode_update(event(0, 1, fields.pop("type"), **fields).value)
            needed = slots_needed(table, user, update)
            assert needed <= CHANGE_SLOTS_MAX
            assert table.evict(needed, 10**6, user)
            while table.free > needed:
                filler += 1
                table.insert(filler, 0, True)
            code = fold(table, user, update, version)
            assert not code & NO_ROOM, (seed, version, update, needed)
