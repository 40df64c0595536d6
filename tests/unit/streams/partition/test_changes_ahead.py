"""What a partition tells the change feed while the database is ahead: another owner wrote there."""

from __future__ import annotations

from tests.support.small_world import World, event, query, version
from tests.support.told_world import fed, resident, tell


def told(world: World) -> list[tuple[int, int]]:
    """Of whom something is said now, and as of which version."""
    return [(one.user_id, one.version) for one in tell(world)]


def test_nothing_is_said_before_the_position_has_passed_what_was_loaded() -> None:
    """Another owner has written it. The partition goes on meanwhile, although its line is full."""
    world = fed(changes_max=2)
    resident(world, 1, 2)
    world.ask(query(3))
    world.load_next([(0, 7, 9, 0, 0, 0, 0, 0, version(4), b"")])
    world.feed(event(0, 1, channel_id=7, message_id=5), event(1, 2, channel_id=7, message_id=5))
    assert told(world) == []
    assert not world.partition.held_back  # nothing else would move the position
    world.feed(*(event(n, 3, channel_id=7, message_id=n) for n in (2, 3)))
    assert told(world) == []
    world.feed(event(4, 3, channel_id=7, message_id=9))
    assert told(world) == [(user, version(4)) for user in (1, 2, 3)]
