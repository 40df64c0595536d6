"""After a final deletion every event of the user is skipped, wherever it meets the user."""

from __future__ import annotations

from typing import Any

import pytest

from readstates.ops.proof.oracle import RESTORED
from readstates.schemas import fast_decoder
from tests.support.small_world import World, event, query, version

USER = 7
LATE: dict[str, dict[str, Any]] = {
    "ack": {"channel_id": 1, "message_id": 9},
    "mention": {"channel_id": 1, "message_id": 9},
    "retract_mention": {"channel_id": 1, "message_id": 9},
    "pins_ack": {"channel_id": 1, "timestamp": 9},
    "set": {"channel_id": 1, "flags": 1},
    "merge": {"channel_id": 1, "last_message_id": 9, "mention_ids": [10]},
    "bulk_ack": {"acks": [{"channel_id": 1, "message_id": 9}]},
    "delete": {"channel_id": 1, "up_to": 9},
    "delete_user": {},
}
FINAL = (0, 0, 0, 0, 0, 0, 0, 0, version(1), b"")
ENDED = (*FINAL[:8], version(2), RESTORED)  # the mark after a restore at offset 2


def deleted() -> World:
    """A user with one read state, whose deletion at offset 1 is final and in the database."""
    world = World()
    world.feed(event(0, USER, channel_id=1, message_id=5))
    world.load_next()
    world.feed(event(1, USER, "delete_user", final=True))
    world.write_all()
    assert world.db.read(USER) == [FINAL]
    return world


def evict(world: World) -> None:
    table = world.partition.table
    assert table.evict(table.slots - 1, 10)


def late(begin: int = 2) -> list[Any]:
    return [event(n, USER, kind, **fields) for n, (kind, fields) in enumerate(LATE.items(), begin)]


@pytest.mark.parametrize("resident", [True, False])
def test_late_events_are_skipped_and_leave_nothing(resident: bool) -> None:
    """Those of a resident user in runs and one by one; the others after the user was loaded."""
    world = deleted()
    if not resident:
        evict(world)
    assert world.feed(*late()) == len(LATE)
    assert len(world.loads) == (not resident), "a resident user's events are not parked"
    if not resident:
        world.load_next()
    assert world.partition.counts.deleted_user == len(LATE)
    assert world.partition.counts.applied == 2
    assert not world.dead
    assert not world.partition.loading.users
    world.write_all()
    assert world.db.read(USER) == [FINAL]
    assert world.partition.progress.committable() == 2 + len(LATE), "nothing holds the commit"


@pytest.mark.skipif(not fast_decoder.COMPILED, reason="there are no runs without the decoder")
def test_in_a_run_only_the_final_user_is_skipped() -> None:
    world = deleted()
    world.ask(query(8))
    world.load_next()
    users = (8, USER, 9, USER, 8)
    world.feed(
        *[event(n, user, "mention", channel_id=1, message_id=n) for n, user in enumerate(users, 2)]
    )
    assert world.partition.counts.deleted_user == 2
    assert list(world.partition.loading.users) == [9]
    assert len(world.partition.table.states(world.partition.table.find(8))) == 1


@pytest.mark.parametrize("resident", [True, False])
def test_a_query_gets_an_empty_reply(resident: bool) -> None:
    world = deleted()
    if not resident:
        evict(world)
    world.feed(*late())
    world.ask(query(USER, totals=True))
    while world.loads:
        world.load_next()
    answer = world.answers[-1][1]
    assert (answer.rows, answer.full, answer.totals) == ([], True, (0, 0, 0))


def test_a_delta_over_the_final_deletion_is_full() -> None:
    world = deleted()
    world.ask(query(USER, since_version=version(0)))
    assert world.answers[-1][1].full


@pytest.mark.parametrize("resident", [True, False])
def test_restore_user_ends_it(resident: bool) -> None:
    world = deleted()
    if not resident:
        evict(world)
    world.feed(
        event(2, USER, channel_id=1, message_id=6),
        event(3, USER, "restore_user"),
        event(4, USER, channel_id=1, message_id=7),
    )
    while world.loads:
        world.load_next()
    assert world.partition.counts.deleted_user == 1
    world.write_all()
    assert world.db.read(USER) == [
        (*FINAL[:8], version(3), RESTORED),
        (0, 1, 7, 0, 0, 0, 0, 0, version(4), b""),
    ]


def test_the_commit_waits_until_the_deletion_of_a_clean_user_is_written() -> None:
    world = World()
    world.ask(query(USER))
    world.load_next()
    world.feed(event(0, USER, "delete_user", final=True))
    assert world.partition.progress.committable() == 0
    world.write_all()
    assert world.partition.progress.committable() == 1


def replay(world: World, *records: Any) -> None:
    """As the next owner, with no table and no commit; only the database is there."""
    world.partition.incarnation = -1
    world.open(40, 15, incarnation=2)
    world.feed(*records)
    while world.loads:
        world.load_next()


def test_a_deletion_that_was_written_in_part_is_folded_again() -> None:
    """The mark came to the database, in another batch than the deletion of the rest."""
    log = [event(0, USER, channel_id=1, message_id=5), event(1, USER, "delete_user", final=True)]
    world = World()
    world.feed(log[0])
    world.load_next()
    world.write_all()
    world.db.write([(USER, version(1), FINAL)])
    replay(world, *log, *late())
    assert world.partition.counts.deleted_user == len(LATE)
    world.ask(query(USER))
    assert world.answers[-1][1].rows == []
    world.write_all()
    assert world.db.read(USER) == [FINAL]


def test_an_older_deletion_of_a_replay_leaves_the_newer_one() -> None:
    log = [
        event(0, USER, "delete_user", final=True),
        event(1, USER, "restore_user"),
        event(2, USER, channel_id=1, message_id=5),
        event(3, USER, "delete_user", final=True),
    ]
    world = World()
    world.feed(*log)
    world.load_next()
    world.write_all()
    replay(world, *log)
    world.write_all()
    assert world.db.read(USER) == [(*FINAL[:8], version(3), b"")]


def test_events_before_a_restore_are_not_folded_in_a_replay() -> None:
    """They were skipped; a replay that finds the user restored must skip them again."""
    log = [
        event(0, USER, "delete_user", final=True),
        event(1, USER, channel_id=1, message_id=5),
        event(2, USER, "restore_user"),
    ]
    world = World()
    world.feed(*log)
    world.load_next()
    world.write_all()
    assert world.db.read(USER) == [ENDED]
    world.partition.incarnation = -1
    world.open(40, 15, incarnation=2, position=1)  # after the deletion, before the restore
    world.feed(*log[1:])
    world.load_next()
    world.write_all()
    assert world.db.read(USER) == [ENDED]


def test_a_replay_knows_what_was_hidden_since() -> None:
    """A client saw the read state; only a full reply takes it away."""
    log = [
        event(0, USER, "mention", channel_id=1, message_id=5),
        event(1, USER, "delete", channel_id=1, up_to=5),
    ]
    world = World()
    world.feed(*log)
    world.load_next()
    world.write_all()
    replay(world, log[0])
    world.feed(log[1])
    world.ask(query(USER, since_version=version(0)))
    answer = world.answers[-1][1]
    assert (answer.rows, answer.full) == ([], True)
