"""`Partition.check` goes red for each thing that may be wrong, and says what it is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from readstates.streams.partition.batch import Batch
from readstates.streams.partition.loading import State
from readstates.streams.partition.partition import Partition
from tests.support.small_world import World, event, query, record


def busy() -> World:
    """A world with one of everything: what is dirty, under way, parked, rejected and waiting."""
    world = World(slots=60, states_max=10)
    for user_id in (1, 2, 3):
        world.feed(event(user_id, user_id, channel_id=1, message_id=5))
        world.load_next()
    world.partition.take_writes(world.now_ms, 0, 1, 10**9)  # user 1 is under way …
    world.feed(event(4, 1, channel_id=2, message_id=5))  # … and changed again
    world.feed(record(5, b"1", b"{"))
    world.feed(event(6, 7, channel_id=1, message_id=5), event(7, 7, channel_id=2, message_id=5))
    world.ask(query(8))
    world.ask(query(1, after_offset=100))
    arriving = [event(n, 1, channel_id=3, message_id=n) for n in (8, 9)]
    world.partition.take(Batch(8, arriving, 10, size_bytes=40))
    world.partition.take(Batch(10, [event(10, 1, channel_id=3, message_id=10)], 11, size_bytes=20))
    world.partition.check()
    return world


def short_of_room() -> World:
    """A world whose table is full of what is dirty; user 9's rows wait for room."""
    world = World(slots=7, states_max=3)
    for user_id in (1, 2, 3):
        world.feed(event(user_id, user_id, channel_id=1, message_id=5))
        world.load_next()
    world.feed(event(9, 9, channel_id=1, message_id=5))
    world.load_next()
    assert world.partition.loading.users[9].state is State.LOADED
    return world


def wrong_order(partition: Partition) -> None:
    partition.loading.users[7].updates.reverse()


def taken_twice(partition: Partition) -> None:
    partition.inbox.batches.appendleft(partition.inbox.batches[0])


def not_counted(partition: Partition) -> None:
    partition.inbox.records += 1


def jumped(partition: Partition) -> None:
    partition.progress.position += 1


def arrival_lost(partition: Partition) -> None:
    partition.inbox.next_arrival += 1


def parked_lost(partition: Partition) -> None:
    partition.loading.users[7].updates.pop()


def released_early(partition: Partition) -> None:
    partition.watermark.release(2)  # of user 2, who is dirty


def held_for_ever(partition: Partition) -> None:
    partition.watermark.hold(4)


def letter_forgotten(partition: Partition) -> None:
    partition._outcomes.dead_letters_pending.clear()
    partition._outcomes.dead_letters_bytes = 0


def letter_bytes_not_counted(partition: Partition) -> None:
    partition._outcomes.dead_letters_bytes += 1


def inbox_bytes_not_counted(partition: Partition) -> None:
    partition.inbox.size_bytes += 1


def parked_bytes_not_counted(partition: Partition) -> None:
    partition.loading.parked_bytes += 1


def committed_too_far(partition: Partition) -> None:
    partition.watermark.last = 1 << 20


def table_too_far(partition: Partition) -> None:
    partition.table.position = partition.position + 1


def resident_and_pending(partition: Partition) -> None:
    partition.table.insert(7, 0, False)


def state_forgotten(partition: Partition) -> None:
    partition.loading.users[7].state = State.ADMITTED


def nothing_waits(partition: Partition) -> None:
    partition.loading.users[8].queries.clear()


def ticket_of_another(partition: Partition) -> None:
    partition.loading.users[8].ticket = partition.loading.users[7].ticket


def sleeps_too_long(partition: Partition) -> None:
    partition.queries._next_wakeup = 10**6


def not_woken(partition: Partition) -> None:
    partition.progress.catch_up_to = 0
    (waiting,) = partition.queries._waiting_for_position
    waiting.get = query(1, after_offset=1).get
    partition.queries._next_wakeup = 0


def asked_too_early(partition: Partition) -> None:
    partition.progress.catch_up_to = 10**6


def not_live(partition: Partition) -> None:
    partition.progress.live_committed = False


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (taken_twice, "P1"),
        (not_counted, "P1"),
        (jumped, "P1"),
        (arrival_lost, "P1"),
        (wrong_order, "P2: user 7"),
        (parked_lost, "P2"),
        (released_early, "P3"),
        (held_for_ever, "P3"),
        (letter_forgotten, "P6"),
        (letter_bytes_not_counted, "3 bytes counted, dead letters of 2 are pending"),
        (inbox_bytes_not_counted, "61 bytes counted, 60 there"),
        (parked_bytes_not_counted, "bytes parked"),
        (committed_too_far, "W1"),
        (table_too_far, "P6"),
        (resident_and_pending, "user 7, LOADING: is in the table"),
        (state_forgotten, "user 7, ADMITTED: in waiting_for_room: False"),
        (nothing_waits, "user 8, LOADING: nothing waits"),
        (ticket_of_another, "two users have the same ticket"),
        (sleeps_too_long, "P4: would wake"),
        (not_woken, "P4: a query waits for 2"),
        (asked_too_early, "P4: loaded too early"),
        (not_live, "P8"),
    ],
)
def test_what_is_broken_is_said(broken: Callable[[Partition], None], said: str) -> None:
    partition = busy().partition
    broken(partition)
    with pytest.raises(AssertionError, match=said):
        partition.check()


def not_waiting(partition: Partition) -> None:
    partition.loading.waiting_for_room.clear()


def stall_lost(partition: Partition) -> None:
    partition.room.end_stall()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (not_waiting, "user 9, LOADED: in waiting_for_room: False"),
        (stall_lost, "a user waits without a stall"),
    ],
)
def test_what_is_broken_while_room_is_short_is_said(
    broken: Callable[[Partition], None], said: str
) -> None:
    partition = short_of_room().partition
    broken(partition)
    with pytest.raises(AssertionError, match=said):
        partition.check()


def test_a_stall_with_nothing_to_write_is_said() -> None:
    partition = World().partition
    partition.room.stalled = True
    with pytest.raises(AssertionError, match="nothing to write out"):
        partition.check()


def test_a_second_answer_to_one_request_is_dropped() -> None:
    """Its user may be in the table already, or its first rows may wait for room."""
    world = short_of_room()
    ticket = world.partition.loading.users[9].ticket
    world.partition.loaded(1, 9, ticket, [(0, 5, 5, 0, 0, 0, 0, 0, 1, b"")])
    world.partition.check()
    world.write_all(delay_ms=10**6)
    table = world.partition.table
    assert [row[:3] for row in table.states(table.find(9))] == [(0, 1, 5)]


def test_what_is_parked_goes_with_its_partition() -> None:
    """At a handover, without the collector: Cassandra may be away and thousands be parked."""
    world = World()
    world.feed(event(0, 1, channel_id=1, message_id=5))
    world.loads.clear()
    pending = weakref.ref(world.partition.loading)
    gc.disable()
    try:
        del world.partition
        assert pending() is None
    finally:
        gc.enable()
