"""A partition with a change feed and nothing around it: what the tests of `Changes` do with it."""

from __future__ import annotations

from typing import Any

from readstates.streams.partition.changes import Changes, Told

from .small_world import World, query


def fed(**more: Any) -> World:
    """A world whose partition has a change feed."""
    return World(**{"told_to": 0, "changes_max": 1000, "slots": 3000, "states_max": 1500, **more})


def tell(world: World) -> list[Told]:
    """What is to be told now."""
    told, _ = world.partition.take_changes(100)
    world.partition.check()
    return told


def sent(world: World, told: Told, taken: bool = True) -> None:
    world.partition.change_sent(world.partition.incarnation, told, taken)
    world.partition.check()


def resident(world: World, *users: int) -> None:
    """Make users resident, without any read state."""
    for user in users:
        world.ask(query(user))
        world.load_next([])


def feed_of(world: World) -> Changes:
    assert world.partition.changes is not None
    return world.partition.changes


def keys(told: Told) -> set[tuple[int, int]]:
    return {row[:2] for row in told.rows}


def committable(world: World) -> int:
    return world.partition.progress.committable()
