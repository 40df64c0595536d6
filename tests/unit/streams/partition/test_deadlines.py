"""When a waiting query's error must go out."""

from __future__ import annotations

import pytest

from readstates.streams.partition.query import (
    ERROR_MARGIN_MIN_MS,
    ERROR_MARGIN_MS,
    SWEEP_MIN,
    Deadlines,
    Query,
)
from tests.support.small_world import query


def waiting(deadline_ms: int) -> Query:
    """A query with that deadline."""
    made = query(1)
    made.deadline_ms = deadline_ms
    return made


@pytest.mark.parametrize(
    ("left", "margin"),
    [
        (5000, ERROR_MARGIN_MS),
        (1000, 200),
        (100, ERROR_MARGIN_MIN_MS),
        (63, 31),
        (1, 0),
        (0, 0),
        (-5, 0),
    ],
)
def test_the_error_goes_out_before_the_deadline(left: int, margin: int) -> None:
    deadlines, one = Deadlines(), waiting(10_000 + left)
    deadlines.add(one, 10_000)
    assert list(deadlines.due(10_000 + left - margin - 1)) == []
    assert list(deadlines.due(10_000 + left - margin)) == [one]
    assert len(deadlines) == 0


def test_the_earliest_comes_first_and_equals_in_order() -> None:
    deadlines = Deadlines()
    queries = [waiting(ms) for ms in (9000, 7000, 8000, 7000)]
    for one in queries:
        deadlines.add(one, 0)
    assert list(deadlines.due(8000)) == [queries[1], queries[3], queries[2]]
    assert list(deadlines.due(10**6)) == [queries[0]]


def test_done_ones_are_left_out() -> None:
    deadlines, one = Deadlines(), waiting(1000)
    deadlines.add(one, 0)
    one.done = True
    assert list(deadlines.due(0)) == []
    assert len(deadlines) == 0


def test_done_ones_do_not_pile_up_behind_one_that_waits() -> None:
    deadlines = Deadlines()
    deadlines.add(waiting(1000), 0)
    for _ in range(20 * SWEEP_MIN):
        one = waiting(60_000)
        deadlines.add(one, 0)
        one.done = True
    assert len(deadlines) <= SWEEP_MIN + 1
    assert len(list(deadlines.due(1000))) == 1
