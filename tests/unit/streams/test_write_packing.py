"""Changes as the store takes them, and their batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from readstates.schemas.read_state import Row
from readstates.streams.cassandra.write_behind import BATCHES_AT_ONCE, WriteBehind, changes_of, pack
from readstates.streams.config import Settings
from readstates.streams.partition.write_out import Write
from tests.support.small_world import World, event


def row(channel_id: int, version: int) -> Row:
    """A read state."""
    return (0, channel_id, 1, 0, 0, 0, 0, 0, version, b"")


def write_of(user_id: int, rows: int, delete_version: int = 0) -> Write:
    """A write of so many rows."""
    states = [(False, row(channel, 50 + channel)) for channel in range(rows)]
    partition: Any = None
    return Write(partition, 1, user_id, user_id, 50, delete_version, states)


def test_the_deletion_of_the_user_goes_first_and_deleted_rows_are_negative() -> None:
    write = write_of(7, 0, delete_version=40)
    write.rows = [(True, row(1, 51)), (False, row(2, 52))]
    assert changes_of(write) == [(7, 40, None), (7, -51, row(1, 51)), (7, 52, row(2, 52))]


def alone(_user_id: int) -> object:
    """One node: all users are of one group."""
    return None


def test_only_users_of_one_replica_share_a_batch() -> None:
    writes = [write_of(user_id, 2) for user_id in range(1, 7)]
    batches = pack(writes, 4, lambda user_id: user_id % 2)
    assert [[write.user_id for write in waiting] for _, waiting in batches] == [
        [1, 3],
        [5],
        [2, 4],
        [6],
    ]
    assert all(write.pending == 1 for write in writes)


def test_a_final_deletion_and_its_mark_are_in_one_batch() -> None:
    """A mark that reached the database alone would let a replay skip the deletion itself."""
    write = write_of(7, 0, delete_version=60)
    mark = row(0, 60)
    write.rows = [(False, row(1, 61)), (False, mark)]
    batches = pack([write], 1, alone)
    assert [changes for changes, _ in batches] == [
        [(7, 60, None), (7, 60, mark)],
        [(7, 61, row(1, 61))],
    ]


@pytest.mark.parametrize(
    ("rows", "rows_max", "sizes", "owners"),
    [
        ([1, 1, 1], 30, [3], [3]),
        ([2, 2], 2, [2, 2], [1, 1]),
        ([5], 2, [2, 2, 1], [1, 1, 1]),
        ([1, 2, 1], 2, [2, 2], [2, 2]),
        ([0], 2, [], []),
        ([], 2, [], []),
    ],
)
def test_batches(rows: list[int], rows_max: int, sizes: list[int], owners: list[int]) -> None:
    writes = [write_of(user_id, count) for user_id, count in enumerate(rows, 1)]
    batches = pack(writes, rows_max, alone)
    assert [len(changes) for changes, _ in batches] == sizes
    assert [len(waiting) for _, waiting in batches] == owners
    assert [change for changes, _ in batches for change in changes] == [
        change for write in writes for change in changes_of(write)
    ]
    for write in writes:
        assert write.pending == sum(write in waiting for _, waiting in batches)


def changed(users: int) -> World:
    """A partition with so many users, each with one change to write."""
    world = World(slots=200, states_max=50)
    for user_id in range(1, users + 1):
        world.feed(event(user_id, user_id, channel_id=1, message_id=5))
        world.load_next()
    return world


class Held:
    """A store that keeps its writes."""

    def __init__(self) -> None:
        self.writes: list[tuple[list[Any], Callable[[bool], None]]] = []

    group_of = staticmethod(alone)

    def write(self, changes: list[Any], done: Callable[[bool], None]) -> None:
        self.writes.append((changes, done))


async def test_a_partition_with_much_to_write_does_not_keep_the_others_waiting() -> None:
    worlds = [changed(64) for _ in range(2)]
    held: Any = Held()
    settings = Settings(writes_in_flight_max=1, write_batch_rows=4)
    writer = WriteBehind(held, settings, lambda: None)
    partitions = [world.partition for world in worlds]
    partitions[1].number = 1
    for _ in range(2 * BATCHES_AT_ONCE):
        await writer.step(partitions, now_ms=10**6)
        assert len(held.writes) == 1
        held.writes.pop()[1](True)
        await asyncio.sleep(0)
    assert all(partition.table.dirty_users < 64 for partition in partitions)


async def test_a_quarter_is_under_way_until_somebody_waits() -> None:
    world = changed(40)
    held: Any = Held()
    writer = WriteBehind(held, Settings(writes_in_flight_max=8, write_batch_rows=1), lambda: None)
    await writer.step([world.partition], now_ms=1000 + 45_000)
    assert len(held.writes) == 2
    world.partition.write_out.everything = True
    await writer.step([world.partition], now_ms=1000 + 45_000)
    assert len(held.writes) == 8
    while held.writes:
        held.writes.pop()[1](True)


async def test_a_partition_that_is_not_urgent_does_not_starve_beside_an_urgent_one() -> None:
    worlds = [changed(40) for _ in range(2)]
    patient, urgent = (world.partition for world in worlds)
    urgent.number = 1
    held: Any = Held()
    writer = WriteBehind(held, Settings(writes_in_flight_max=12, write_batch_rows=1), lambda: None)
    now_ms = 1000 + 45_000  # waited long enough, but not twice as long
    for _ in range(100):
        urgent.room.stalled = True
        await writer.step([patient, urgent], now_ms=now_ms)
        while len(held.writes) > 6:  # a database that is slow
            held.writes.pop(0)[1](True)
    assert patient.table.dirty_users == 0


def test_what_waits_twice_as_long_as_it_should_is_urgent() -> None:
    world = World()
    world.feed(event(0, 1, channel_id=1, message_id=5))
    world.load_next()
    is_urgent = partial(world.partition.write_out.is_urgent, delay_ms=1000, dirty_max=100)
    assert not is_urgent(world.now_ms + 1999)
    assert is_urgent(world.now_ms + 2000)
    world.write_all()
    assert not is_urgent(world.now_ms + 2000)


async def test_a_user_of_two_batches_is_written_when_both_are_and_failed_if_one_is() -> None:
    world = World()
    world.feed(*[event(n, 1, channel_id=n + 1, message_id=5) for n in range(3)])
    world.load_next()
    held: Any = Held()
    writer = WriteBehind(held, Settings(write_batch_rows=2), lambda: None)
    world.partition.write_out.everything = True
    await writer.step([world.partition], now_ms=10**6)
    (_, first), (_, second) = held.writes
    second(False)
    assert world.partition.table.dirty_users == 0, "not before the other is answered"
    first(True)
    assert world.partition.table.dirty_users == 1
    assert not world.partition.all_durable
    assert writer.idle


class Gone:
    """A store whose database is away: every write fails in the next turn of the loop."""

    writes = 0

    group_of = staticmethod(alone)

    def write(self, changes: list[Any], done: Callable[[bool | None], None]) -> None:
        self.writes += 1
        asyncio.get_running_loop().call_soon(done, None)


async def test_with_the_database_gone_a_step_ends_and_the_next_waits() -> None:
    world = World()
    world.feed(*[event(n, n + 1, channel_id=1, message_id=5) for n in range(8)])
    for _ in range(8):
        world.load_next()
    gone: Any = Gone()
    writer = WriteBehind(gone, Settings(writes_in_flight_max=1, write_retry_s=60), lambda: None)
    for _ in range(2):
        async with asyncio.timeout(10):  # it would go on for ever
            world.partition.write_out.everything = True
            await writer.step([world.partition], now_ms=10**6)
        await asyncio.sleep(0)
        assert gone.writes == 1
    assert world.partition.table.dirty_users == 8


@pytest.mark.parametrize(("everything", "iterations"), [(False, 5), (True, 1)])
async def test_while_it_is_not_urgent_other_work_runs_between_the_batches_taken(
    everything: bool, iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = changed(5 * 4)
    partition = world.partition
    iteration, taken_in = 0, set[int]()
    take = partition.take_writes

    def noted(*arguments: int) -> list[Write]:
        writes = take(*arguments)
        if writes:
            taken_in.add(iteration)
        return writes

    async def other_work() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(partition, "take_writes", noted)
    held: Any = Held()
    writer = WriteBehind(held, Settings(writes_in_flight_max=40, write_batch_rows=4), lambda: None)
    other = asyncio.create_task(other_work())
    partition.write_out.everything = everything
    await writer.step([partition], now_ms=1000 + 45_000)
    other.cancel()
    assert len(taken_in) == iterations
    assert [len(changes) for changes, _ in held.writes] == [4] * 5  # packed together all the same


async def test_what_a_cancelled_step_had_taken_is_written_by_the_next() -> None:
    world = changed(4)
    held: Any = Held()
    writer = WriteBehind(held, Settings(writes_in_flight_max=40, write_batch_rows=4), lambda: None)
    patient = asyncio.create_task(writer.step([world.partition], now_ms=1000 + 45_000))
    await asyncio.sleep(0)
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)
    assert not held.writes
    assert world.partition.table.dirty_users == 0  # all taken
    assert not writer.idle
    world.partition.write_out.everything = True
    await writer.step([world.partition], now_ms=1000 + 45_000)
    while held.writes:
        held.writes.pop()[1](True)
    assert world.partition.all_durable
    assert writer.idle
