"""The scenarios of badges in the table and in the oracle, without Kafka and Cassandra.

tests/integration/test_badges.py runs the same on the real ones.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from readstates.schemas.read_state import Row, mentions_of
from tests.model.test_marks import World
from tests.support.badges import SCENARIOS, Right
from tests.support.table_builds import BUILDS


def nothing(_world: World) -> None:
    pass


BETWEEN: dict[str, Callable[[World], None]] = {
    "at once": nothing,
    "evicted": World.reload,
    "written out": World.write_out,
}


def right_of(rows: list[Row], channel: int) -> Right | None:
    """What the rows that are shown say of a channel."""
    for row in rows:
        if row[1] == channel:
            assert row[3] == max(mentions_of(row), default=0)
            return Right(row[4], mentions_of(row), row[2], row[6], row[5])
    return None


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("build", BUILDS)
def test_scenario(build: str, name: str, between: str) -> None:
    scenario, world = SCENARIOS[name], World(BUILDS[build])
    versions: dict[tuple[int, str], int] = {}
    for number, step in enumerate(scenario.steps, 1):
        for event in step.events:
            known = {} if step.known is None else {"if_version": str(versions[step.known])}
            world.apply({**scenario.event(event), **known})
        shown = world.table.states(world.user)
        assert right_of(shown, scenario.channel) == step.right, number
        assert shown == world.oracle.shown(7)
        versions[number, "reply"] = 8 << 48 | world.offset
        for row in shown:
            versions[number, "read_state"] = row[8]
        BETWEEN[between](world)
    world.check()
    world.check_database()
