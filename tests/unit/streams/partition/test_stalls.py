"""Where a partition could stand still or forget: loads that come late, tables without room."""

from __future__ import annotations

import pytest

from readstates.schemas import fast_decoder
from readstates.schemas.read_state import CHANNEL, Row
from readstates.streams.errors import BatchGapError
from readstates.streams.partition import room
from readstates.streams.partition.batch import Batch, UnreadBatch
from readstates.streams.partition.effects import (
    DEAD_LETTERS_BYTES_MAX,
    DEAD_LETTERS_PENDING_MAX,
)
from tests.support.small_world import World, event, query, record, version


def row(channel_id: int, message_id: int = 5, at: int = 1) -> Row:
    """A read state as the database has it, with one mention."""
    return (0, channel_id, message_id, message_id + 1, 1, 0, 0, 0, at, b"")


def test_a_load_overtaken_by_another_is_dropped() -> None:
    """Its rows are older than what was written since."""
    world = World()
    hasty = query(1)
    world.ask(hasty)
    slow = world.loads.pop()
    world.partition.queries.forget(hasty)
    world.feed(event(0, 1, channel_id=7, message_id=10))
    world.load_next()
    assert world.write_all() == 1
    table = world.partition.table
    assert table.evict(table.free + 1, 10)
    world.feed(event(1, 1, channel_id=8, message_id=10))
    slow[0].loaded(*slow[1:], [])  # read before the first update was written
    assert len(world.loads) == 1, "the load that counts is still under way"
    world.load_next()
    asked = query(1)
    world.ask(asked)
    assert [state[CHANNEL] for state in world.answers[-1][1].rows] == [7, 8]


def test_a_user_evicted_half_admitted_is_loaded_again() -> None:
    """Its rows were in the table, its parked updates found no room, another took its place."""
    world = World(slots=10, states_max=4)
    for user_id in (1, 2):  # eight of nine slots, dirty
        world.feed(
            *[event(user_id * 10 + n, user_id, channel_id=n + 1, message_id=5) for n in range(3)]
        )
        world.load_next()
    table = world.partition.table
    assert table.free == 1
    world.db.write([(3, 1, None)])
    world.feed(event(40, 3, channel_id=7, message_id=10))
    world.load_next([])  # user 3 takes the last slot; its update has none
    assert world.partition.room.stalled
    assert table.find(3)
    world.ask(query(4))
    world.load_next()  # evicts user 3, who is clean
    assert not table.find(3)
    world.db.write([(3, 20, row(9, at=20))])
    world.write_all()
    while world.loads:
        world.load_next()
    world.ask(query(3))
    assert [state[CHANNEL] for state in world.answers[-1][1].rows] == [7, 9]
    assert not world.partition.loading.users


def test_room_is_made_however_many_small_users_must_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing dirty, nothing would ever be written, and so nothing would wake a stall."""
    monkeypatch.setattr(room, "EVICT_SCAN_MAX", 2)
    world = World(slots=21, states_max=10)
    for user_id in range(1, 21):
        world.ask(query(user_id))
        world.load_next([])
    assert world.partition.table.free == 0
    world.ask(query(99))
    world.load_next([row(channel) for channel in range(1, 9)])
    assert not world.partition.room.stalled
    assert len(world.answers[-1][1].rows) == 8


def test_a_batch_without_records_releases_queries() -> None:
    """The log's end may be a transaction's marker: no record comes, the position moves."""
    world = World(catch_up_to=2)
    asked = query(1)
    world.ask(asked)
    world.feed(event(0, 1, channel_id=7, message_id=10))
    world.load_next()
    assert not asked.done
    assert world.feed(end=2) == 0
    assert asked.done
    assert world.answers[-1][1].version == version(1)


def test_an_update_that_needs_room_is_taken_in_the_same_slice() -> None:
    """Otherwise the loop sees no progress and sleeps."""
    world = World(slots=5, states_max=2)
    for user_id in (1, 2):
        world.ask(query(user_id))
        world.load_next([row(1)])
    assert world.feed(event(0, 1, channel_id=2, message_id=10)) == 1
    assert world.partition.position == 1


def test_a_stall_ends_when_something_was_written() -> None:
    world = World(slots=7, states_max=3)
    for user_id in (1, 2, 3):
        world.feed(event(user_id, user_id, channel_id=1, message_id=5))
        world.load_next()
    assert world.feed(event(5, 1, channel_id=2, message_id=5)) == 0
    assert world.partition.room.stalled
    assert not world.partition.can_run
    assert world.write_all(delay_ms=10**6) == 3, "a stall does not wait for FLUSH_DELAY_S"
    assert not world.partition.room.stalled
    assert world.partition.run(10, 0) == 1


def test_too_many_parked_wait_in_the_inbox() -> None:
    world = World(parked_max=2)
    assert world.feed(*[event(n, n + 1, channel_id=1, message_id=5) for n in range(4)]) == 2
    assert not world.partition.can_run
    world.load_next()
    assert world.partition.can_run
    assert world.partition.run(10, 0) == 1
    assert world.partition.loading.parked_updates == 2


def test_a_batch_that_is_not_the_next_one_is_refused() -> None:
    world = World()
    with pytest.raises(BatchGapError, match="offset 3, expected 0"):
        world.partition.take(Batch(3, [], 4))


def test_the_age_of_the_oldest_change_grows_without_updates() -> None:
    world = World()
    world.feed(event(0, 1, channel_id=1, message_id=5))
    world.load_next()
    assert world.partition.write_out.oldest_change_s(world.now_ms + 5000) == 5


def test_a_failed_write_is_held_by_its_oldest_change() -> None:
    world = World()
    began_ms = world.now_ms
    world.feed(event(1000, 1, channel_id=1, message_id=5))
    world.load_next()
    (write,) = world.partition.take_writes(0, 0, 10, 10**9)
    world.now_ms += 40_000
    world.feed(event(2000, 1, channel_id=2, message_id=5))
    assert len(world.partition.watermark) == 2
    assert world.partition.write_out.oldest_change_s(world.now_ms) == 40
    write.failed = True
    world.partition.written(write)
    assert len(world.partition.watermark) == 1
    assert world.partition.write_out.oldest_change_s(world.now_ms) == 40
    (again,) = world.partition.take_writes(began_ms + 30_000, 30_000, 10, 10**9)
    again.failed = True
    world.partition.written(again)
    assert world.partition.progress.committable() <= 1000
    assert world.write_all() == 1
    assert world.partition.all_durable
    assert world.partition.progress.committable() == 2001


def test_dead_letters_that_nobody_takes_hold_the_partition_back() -> None:
    world = World(inbox_max=10**6)
    bad = [record(offset, b"1", b"{") for offset in range(DEAD_LETTERS_PENDING_MAX + 5)]
    world.feed(*bad)
    while world.partition.can_run:
        assert world.partition.run(1000, world.now_ms), "what can run makes progress"
    assert len(world.dead) < len(bad)
    assert world.partition.held_back
    for _, incarnation, letter, _ in world.dead:
        world.partition.dead_letter_kept(incarnation, letter.offset)
    while world.partition.can_run:
        assert world.partition.run(1000, world.now_ms), "what can run makes progress"
    assert len(world.dead) == len(bad)


def test_large_dead_letters_hold_the_partition_back() -> None:
    world = World()
    size = DEAD_LETTERS_BYTES_MAX // 2 + 1
    partition, kept = world.partition, 0
    partition.take(Batch(0, [record(offset, b"1", b" " * size) for offset in range(5)], 5))
    while kept < 5:
        while partition.can_run:
            assert partition.run(1, world.now_ms), "what can run makes progress"
        of_each = size + len(b"1")  # its key counts as well
        assert partition.dead_letters_bytes == len(world.dead[kept:]) * of_each <= 2 * of_each
        for _, incarnation, letter, _ in world.dead[kept:]:
            partition.dead_letter_kept(incarnation, letter.offset)
            kept += 1
    assert (partition.dead_letters_bytes, partition.progress.committable()) == (0, 5)


def test_large_parked_updates_wait_in_the_inbox() -> None:
    world = World(parked_bytes_max=1 << 16)
    padding = "x" * (1 << 15)
    updates = [event(n, n + 1, channel_id=1, message_id=5, more=padding) for n in range(5)]
    assert world.feed(*updates) == 2
    assert world.partition.held_back
    while world.loads:  # each load frees the bytes that the next update needs
        assert world.partition.loading.parked_bytes < 3 << 15
        world.load_next()
        world.partition.run(10, 0)
    assert not world.partition.can_run
    assert (world.partition.loading.parked_bytes, world.partition.counts.applied) == (0, 5)


def test_an_inbox_of_many_bytes_takes_no_more() -> None:
    world = World(inbox_bytes_max=1000)
    partition = world.partition
    first = [event(0, 1, channel_id=1, message_id=5), event(1, 1, channel_id=1, message_id=6)]
    partition.take(Batch(0, first, 2, size_bytes=600))
    assert partition.wants_bytes == 400
    partition.take(Batch(2, [], 3, size_bytes=500))
    assert partition.wants_bytes == 0
    partition.run(1, 0)
    assert partition.wants_bytes == 0, "the batch is not done with"
    partition.run(1, 0)
    assert (partition.inbox.size_bytes, partition.wants_bytes) == (500, 500)
    partition.run(1, 0)
    assert (partition.inbox.size_bytes, partition.position) == (0, 3)
    assert partition.wants_bytes == 1000
    partition.closing = True
    assert partition.wants_bytes == 0


def unread(first: int, last: int) -> UnreadBatch:
    return UnreadBatch(last, 0, first, b"raw", "too_large", "it unpacks to more than is allowed")


@pytest.mark.parametrize("resident", [False, True])
def test_a_batch_that_cannot_be_read_holds_its_offsets(resident: bool) -> None:
    world = World()
    if resident:
        world.ask(query(1))
        world.load_next()
    around = [event(n, 1, "mention", channel_id=1, message_id=n + 1) for n in (999, 2000)]
    world.feed(around[0], unread(1000, 1999), around[1])
    if not resident:
        world.load_next()
    ((_, incarnation, letter, reason),) = world.dead
    assert (letter.first, letter.offset, reason) == (1000, 1999, "too_large")
    assert world.partition.counts.applied == 2
    world.write_all()
    assert world.partition.position == 2001
    assert world.partition.progress.committable() <= 1999
    assert world.partition.table.position <= 1999, "P6: it is read again after a crash"
    world.partition.dead_letter_kept(incarnation, letter.offset)
    assert world.partition.progress.committable() == 2001


def test_what_comes_back_after_the_handover_is_dropped() -> None:
    world = World()
    world.feed(event(0, 1, channel_id=1, message_id=5), event(1, 2, channel_id=1, message_id=5))
    world.load_next()
    (write,) = world.partition.take_writes(0, 0, 10, 10**9)
    world.partition.incarnation = -1
    assert not world.partition.wants_load(*world.loads[0][1:])
    world.load_next()
    world.partition.written(write)
    world.partition.dead_letter_kept(1, 0)
    assert len(world.partition.watermark) == 2


def test_a_slice_of_other_updates_is_shorter() -> None:
    """A query waits for its end, and what is not plain costs ten times as much."""
    world = World()
    world.feed(event(0, 1, channel_id=7, message_id=10))
    world.load_next()
    partition = world.partition
    pins = [event(n, 1, "pins_ack", channel_id=7, timestamp=n) for n in range(1, 61)]
    partition.take(Batch(1, pins, 61))
    assert [partition.run(200, 1) for _ in range(3)] == [20, 20, 20]
    assert (partition.run(200, 1), partition.counts.applied) == (0, 61)
    acks = [event(n, 1, channel_id=7, message_id=10 + n) for n in range(61, 361)]
    partition.take(Batch(61, acks, 361))
    slices = [partition.run(200, 1) for _ in range(2)]
    assert slices == ([200, 100] if fast_decoder.COMPILED else [20, 20])
