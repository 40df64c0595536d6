"""Some hundred seeds; `make sim SEEDS=20000` runs more."""

from __future__ import annotations

import pytest

from . import plan, world

SEEDS = 300
STEP = 20


def _run(seed: int) -> None:
    try:
        world.run(plan.make(seed))
    except BaseException as exc:
        exc.add_note(f"again, and smaller: python -m tests.sim {seed}")
        raise


@pytest.mark.parametrize("first", range(0, SEEDS, STEP))
def test_nothing_lost_nothing_twice(first: int) -> None:
    for seed in range(first, first + STEP):
        _run(seed)


def test_a_seed_is_the_same_world_again() -> None:
    once, again = world.run(plan.make(4)), world.run(plan.make(4))
    assert (once.clock.now, once.clock.steps) == (again.clock.now, again.clock.steps)
    assert once.database.cells == again.database.cells
    assert list(once.trace) == list(again.trace)
    assert once.checks.replies > 0
