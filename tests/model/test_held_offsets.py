"""A user's first unwritten change says so, whatever event it was: its offset is then held.

Without that the offset could be committed before the change is in the database, and a release of
what was never held would end the worker.
"""

from __future__ import annotations

import os
import random

import pytest

from readstates.cache.table import CHANGED, DIRTIED
from tests.model.test_marks import World, anything
from tests.support.table_builds import BUILDS

CASES = int(os.environ.get("CASES", "300"))
WRITTEN_SHARE = 0.3


@pytest.mark.parametrize("build", BUILDS)
def test_the_first_unwritten_change_of_a_user_says_so(build: str) -> None:
    seen = set()
    for seed in range(CASES if build == "compiled" else CASES // 10):
        draw = random.Random(f"held {seed}")
        world = World(BUILDS[build])
        for step in range(60):
            event = anything(draw, 30)
            before = world.table.first_version(world.user)
            code = world.apply(event)
            after = world.table.first_version(world.user)
            assert bool(code & DIRTIED) == (not before and after != 0), (seed, step, event)
            assert bool(code & CHANGED) or before == after, (seed, step, event)
            seen |= {event["type"]} if code & DIRTIED else set()
            if draw.random() < WRITTEN_SHARE:
                world.write_out()
    assert len(seen) >= 10, "every type of event was the first change of some user"
