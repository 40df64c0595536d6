"""A candidate whose database is ahead of it: nobody sees a read state of a later version (Q3)."""

from __future__ import annotations

from readstates.schemas.read_state import Row
from tests.support.small_world import EPOCH, World, event, query


def row(channel: int, message: int, offset: int) -> Row:
    version = EPOCH << 48 | offset + 1
    return (0, channel, message, 0, 0, 0, 0, 0, version, b"")


def acks(world: World, begin: int, end: int) -> None:
    """User 2's, at these offsets."""
    world.feed(*[event(n, 2, channel_id=1, message_id=n + 1) for n in range(begin, end)])
    while world.loads:
        world.load_next()


def test_a_query_waits_until_the_newest_row_of_its_user_was_passed() -> None:
    world = World(slots=200, states_max=50, is_candidate=True)
    acks(world, 0, 3)
    asked = world.ask(query(1))
    world.load_next([row(7, 50, 5), row(8, 60, 1)])
    assert world.answers == []
    again = world.ask(query(1))  # the user is resident now
    acks(world, 3, 5)
    assert world.answers == []
    world.feed(event(5, 1, channel_id=7, message_id=50))  # the row has it already
    assert [one for one, _ in world.answers] == [asked, again]
    for _, answer in world.answers:
        assert answer.version == EPOCH << 48 | 6
        assert [one[1:3] for one in answer.rows] == [(7, 50), (8, 60)]
    later = world.ask(query(1))
    assert world.answers[-1][0] is later


def test_a_user_whose_rows_are_not_newer_is_answered_at_once() -> None:
    world = World(slots=200, states_max=50, is_candidate=True)
    acks(world, 0, 3)
    asked = world.ask(query(1))
    world.load_next([row(7, 50, 2)])
    assert [one for one, _ in world.answers] == [asked]


def test_users_who_were_passed_are_forgotten() -> None:
    world = World(slots=200, states_max=50, is_candidate=True)
    for user in (11, 12, 13):
        world.ask(query(user))
        world.load_next([row(7, 50, 4)])
    assert len(world.partition.loading.ahead) == 3
    acks(world, 0, 6)
    world.ask(query(14))
    world.load_next([])
    assert world.partition.loading.ahead == {}


def test_a_live_worker_answers_at_once() -> None:
    """Its queries wait for the log's end after an opening; nobody else writes its rows."""
    world = World(slots=200, states_max=50)
    asked = world.ask(query(1))
    world.load_next([row(7, 50, 5)])
    assert [one for one, _ in world.answers] == [asked]
