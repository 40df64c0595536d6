"""What a partition tells the change feed, and when: the rules of F1 and F2, one by one."""

from __future__ import annotations

import pytest

from readstates.streams.partition.batch import Batch
from readstates.streams.partition.changes import (
    KEYS_MAX,
    LOADING_MAX,
    ROWS_AT_ONCE,
    UNDER_WAY_MAX,
    Told,
)
from tests.support.small_world import World, event, query, version
from tests.support.told_world import committable, fed, feed_of, keys, resident, sent, tell


def test_changes_of_a_while_are_told_together_in_absolute_values() -> None:
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5), event(1, 1, channel_id=8, message_id=5))
    world.feed(event(2, 1, channel_id=7, message_id=6), event(3, 1, "delete", channel_id=8))
    (told,) = tell(world)
    assert (told.user_id, told.version) == (1, version(3))
    assert [row[:3] for row in told.rows] == [(0, 7, 6)]
    assert told.deleted == [(0, 8)]
    assert told.totals == (1, 0, 0)
    assert not told.noted.whole
    assert tell(world) == []


def test_what_changes_nothing_is_not_told() -> None:
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    sent(world, tell(world)[0])
    world.feed(
        event(1, 1, channel_id=7, message_id=5),
        event(2, 1, channel_id=7, message_id=4),
        event(3, 1, "retract_mention", channel_id=7, message_id=3),
        event(4, 1, "pins_ack", channel_id=9, timestamp=0),
    )
    assert tell(world) == []


def test_the_commit_waits_for_the_feed_even_if_all_is_in_the_database() -> None:
    """F2."""
    world = fed()
    resident(world, 1)
    world.feed(event(200, 1, channel_id=7, message_id=5), end=300)
    world.write_all()
    assert world.partition.progress.watermark.position(300) == 300
    assert committable(world) <= 200
    (told,) = tell(world)
    assert committable(world) <= 200
    assert not world.partition.all_durable
    sent(world, told, taken=False)
    assert committable(world) <= 200
    (told,) = tell(world)
    sent(world, told)
    assert committable(world) == 300
    assert world.partition.all_durable


def test_one_record_of_a_user_is_under_way_and_a_failure_is_in_the_next_one() -> None:
    """F1: a record names all that changed since the last one that the broker has."""
    world = fed()
    resident(world, 1, 2)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    (first,) = tell(world)
    world.feed(event(1, 1, channel_id=8, message_id=5), event(2, 2, channel_id=1, message_id=1))
    (other,) = tell(world)
    assert other.user_id == 2
    sent(world, first, taken=False)
    (again,) = tell(world)
    assert keys(again) == {(0, 7), (0, 8)}
    assert again.version == version(2)
    sent(world, again)
    sent(world, other)
    world.write_all()
    assert committable(world) == 3


def test_a_change_before_the_broker_answers_is_told_afterwards() -> None:
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    (first,) = tell(world)
    world.feed(event(1, 1, channel_id=7, message_id=6))
    assert tell(world) == []
    sent(world, first)
    (second,) = tell(world)
    assert [row[2] for row in second.rows] == [6]
    sent(world, second)


def test_nothing_is_told_before_the_partition_has_caught_up() -> None:
    """F1: until then the table may be ahead of its position."""
    world = fed(catch_up_to=5)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    world.load_next([])
    assert tell(world) == []
    feed_of(world).retell(Batch(0, [event(0, 1, channel_id=7, message_id=5)], 5), world.now_ms)
    assert tell(world) == []
    world.feed(end=5)
    (told,) = tell(world)
    assert keys(told) == {(0, 7)}


def test_a_warm_table_is_retold_although_the_replay_skips_its_updates() -> None:
    """F2, the crux: applied and not told, then the process dies."""
    world = fed()
    resident(world, 1)
    records = [
        event(0, 1, channel_id=7, message_id=5),
        event(1, 1, channel_id=8, message_id=5),
        event(2, 1, "delete", channel_id=8),
    ]
    world.feed(*records)
    died = bytearray(world.buffer)
    world.open(0, 1500, died, position=3, catch_up_to=3, told_to=0, changes_max=1000)
    changes = feed_of(world)
    assert changes.is_retelling
    assert committable(world) == 0
    assert changes.wants_bytes > 0
    changes.retell(Batch(0, records[:2], 2), world.now_ms)
    assert changes.is_retelling
    (told,) = tell(world)
    assert (keys(told), told.noted.whole, told.version) == ({(0, 7)}, True, version(2))
    assert told.totals == (1, 0, 0)
    sent(world, told)
    assert committable(world) == 0
    changes.retell(Batch(2, records[2:], 3), world.now_ms)
    assert not changes.is_retelling
    assert changes.wants_bytes == 0
    (told,) = tell(world)
    sent(world, told)
    world.write_all()
    assert committable(world) == 3


def test_until_all_is_retold_each_record_has_all_of_the_user() -> None:
    """F1: a change after the opening may come before an older one that was not told."""
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    died = bytearray(world.buffer)
    world.open(0, 1500, died, position=1, catch_up_to=1, told_to=0, changes_max=1000)
    world.feed(event(1, 1, channel_id=8, message_id=5))
    (told,) = tell(world)
    assert told.noted.whole
    assert keys(told) == {(0, 7), (0, 8)}


def test_what_is_retold_holds_its_own_offset_even_of_a_user_in_the_line() -> None:
    """F2: the user is in the line already, because of a later update."""
    world = fed()
    resident(world, 1)
    first = event(0, 1, channel_id=7, message_id=5)
    world.feed(first, end=1000)
    died = bytearray(world.buffer)
    world.open(0, 1500, died, position=1000, catch_up_to=1000, told_to=0, changes_max=1000)
    world.feed(event(1000, 1, channel_id=8, message_id=5))
    feed_of(world).retell(Batch(0, [first], 1000), world.now_ms)
    world.write_all()
    assert committable(world) == 0
    sent(world, tell(world)[0])
    assert committable(world) == 1001


def test_only_users_of_the_partition_are_retold() -> None:
    world = fed(position=4, catch_up_to=4)
    bad = event(1, 2, channel_id=7, message_id=5)
    bad.key = b"3"
    broken = event(2, 2, "no such type")
    feed_of(world).retell(
        Batch(0, [event(0, 1, channel_id=7, message_id=5), bad, broken], 4), world.now_ms
    )
    assert tell(world) == []
    assert [user for _, _, user, _ in world.loads] == [1]
    world.load_next([(0, 7, 5, 0, 0, 0, 0, 0, version(0), b"")])
    (told,) = tell(world)
    assert keys(told) == {(0, 7)}


def test_a_user_who_was_evicted_is_loaded_and_the_deletion_is_not_forgotten() -> None:
    world = fed(slots=40, states_max=15)
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5), event(1, 1, channel_id=8, message_id=5))
    world.feed(event(2, 1, "delete", channel_id=8))
    world.write_all()
    assert world.partition.table.evict(39, 100)
    assert tell(world) == []  # it is being loaded
    world.load_next()
    (told,) = tell(world)
    assert (keys(told), told.deleted) == ({(0, 7)}, [(0, 8)])
    sent(world, told)


def test_a_user_is_told_of_when_it_is_loaded_and_may_be_evicted_then() -> None:
    world = fed(slots=40, states_max=15)
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    world.write_all()
    assert world.partition.table.evict(39, 100)
    tell(world)
    world.load_next()
    assert world.partition.table.evict(39, 100)
    (told,) = tell(world)
    assert keys(told) == {(0, 7)}


def test_a_user_with_parked_updates_is_told_of_after_them() -> None:
    """F1: the table does not have them yet, and the position has passed them."""
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    world.write_all()
    assert world.partition.table.evict(2999, 100)
    world.feed(event(1, 1, channel_id=8, message_id=5))  # parked
    assert tell(world) == []
    world.load_next()
    (told,) = tell(world)
    assert keys(told) == {(0, 7), (0, 8)}


def test_a_query_that_gives_up_does_not_end_a_load_for_the_feed() -> None:
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    world.write_all()
    assert world.partition.table.evict(2999, 100)
    asked = world.ask(query(1))
    assert tell(world) == []
    assert world.partition.loading.forget(asked)
    world.partition.check()
    world.load_next()
    assert len(tell(world)) == 1


def test_a_deletion_that_another_owner_has_written_is_told() -> None:
    """The database lacks the read state already, and consumers still hold it."""
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, "delete", channel_id=7))
    (told,) = tell(world)
    assert told.deleted == [(0, 7)]


def test_delete_user_and_what_follows() -> None:
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5), event(1, 1, "delete_user", final=True))
    world.feed(event(2, 1, channel_id=8, message_id=5), event(3, 1, "restore_user"))
    world.feed(event(4, 1, channel_id=9, message_id=5))
    (told,) = tell(world)
    assert told.noted.whole
    assert keys(told) == {(0, 9)}
    sent(world, told)
    world.feed(event(5, 1, "delete_user", final=True))
    sent(world, tell(world)[0])
    world.feed(event(6, 1, channel_id=8, message_id=5))  # skipped
    assert tell(world) == []


@pytest.mark.parametrize("count", [KEYS_MAX, KEYS_MAX + 1])
def test_of_a_user_with_many_changes_all_is_told(count: int) -> None:
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=5000, message_id=5))
    sent(world, tell(world)[0])
    world.feed(*(event(n, 1, channel_id=n, message_id=5) for n in range(1, count + 1)))
    (told,) = tell(world)
    assert told.noted.whole == (count > KEYS_MAX)
    assert len(told.rows) == count + (count > KEYS_MAX)


def test_a_full_line_stops_the_partition_and_an_answer_of_the_broker_goes_on() -> None:
    world = fed(changes_max=2)
    resident(world, 1, 2, 3)
    world.feed(event(0, 1, channel_id=7, message_id=5), event(1, 2, channel_id=7, message_id=5))
    assert world.partition.held_back
    assert world.feed(event(2, 3, channel_id=7, message_id=5)) == 0
    told = tell(world)
    assert world.partition.held_back
    sent(world, told[0])
    assert not world.partition.held_back
    assert world.run(100) == 1


def test_what_is_under_way_and_loaded_at_once_is_limited() -> None:
    count = UNDER_WAY_MAX + 5
    world = fed(slots=3 * count, changes_max=10 * count)
    resident(world, *range(1, count + 1))
    world.feed(*(event(n, n + 1, channel_id=7, message_id=5) for n in range(count)))
    told: list[Told] = []
    while more := tell(world):
        told += more
    assert len(told) == UNDER_WAY_MAX
    for one in told[:5]:
        sent(world, one)
    assert len(tell(world)) == 5
    world.write_all()


def test_few_read_states_are_read_at_once() -> None:
    world = fed(slots=9000, states_max=4000)
    resident(world, 1, 2, 3)
    for user in (1, 2, 3):
        first = world.partition.position
        world.feed(
            *(event(first + n, user, channel_id=n + 1, message_id=5) for n in range(ROWS_AT_ONCE))
        )
    told, more = world.partition.take_changes(100)
    assert (len(told), more) == (1, True)
    assert len(tell(world)) == 1
    told, more = world.partition.take_changes(100)
    assert (len(told), more) == (1, False)


def test_few_users_are_loaded_at_once() -> None:
    world = fed(position=500, catch_up_to=500)
    users = range(1, LOADING_MAX + 10)
    feed_of(world).retell(
        Batch(0, [event(n, n, channel_id=7, message_id=5) for n in users], 500), world.now_ms
    )
    tell(world)
    assert len(world.loads) == LOADING_MAX
    while world.loads:
        world.load_next([])
        for one in tell(world):
            sent(world, one)
    assert feed_of(world).waiting == 0


def test_an_answer_for_an_earlier_incarnation_is_dropped() -> None:
    """P5."""
    world = fed()
    resident(world, 1)
    world.feed(event(0, 1, channel_id=7, message_id=5))
    (told,) = tell(world)
    world.partition.change_sent(world.partition.incarnation - 1, told, True)
    world.partition.check()
    assert committable(world) == 0


def test_without_a_feed_nothing_is_noted() -> None:
    world = World()
    assert world.partition.changes is None
    assert world.partition.progress.told_to() is None
