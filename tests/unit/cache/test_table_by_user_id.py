"""The entries of the table that take a user's ID do what the single steps do, in both builds."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest

from readstates.cache.table import ABSENT, KEEP
from tests.support.table_builds import new_buffer

USERS, CHANNELS = range(1, 40), range(1, 6)


def filled(build: ModuleType, slots: int) -> Any:
    table = build.Table(new_buffer(slots), 100)
    for user_id in USERS:
        table.insert(user_id, 0, False, [(0, channel, 10, 0, 0, 0, 0, 0, 1) for channel in (1, 2)])
    return table


def acks(count: int, seed: int) -> list[tuple[int, ...]]:
    """Some of users who are not there, some stale, some replayed."""
    source = random.Random(seed)
    return [
        (
            source.randrange(1, 45),
            source.randrange(2),
            source.choice(CHANNELS),
            source.randrange(5, 60),
            source.choice((KEEP, 0, 7)),
            source.choice((KEEP, 0, 7)),
            source.randrange(1, 200),
        )
        for _ in range(count)
    ]


def by_steps(table: Any, ack: tuple[int, ...]) -> int:
    user = table.find(ack[0])
    if user == 0:
        return ABSENT
    table.touch(user)
    code: int = table.ack(user, *ack[1:])
    return code


def everything(table: Any) -> list[Any]:
    table.verify()
    return [(table.user_id(user), table.states(user)) for user in table.users()]


def test_an_ack_by_user_id_is_its_steps(build: ModuleType) -> None:
    given = acks(500, 3)
    steps, calls = (filled(build, 400) for _ in range(2))
    assert [calls.ack_of(*ack) for ack in given] == [by_steps(steps, ack) for ack in given]
    assert everything(calls) == everything(steps)


def test_reading_by_user_id_warms_the_user_up(build: ModuleType) -> None:
    table = filled(build, 400)
    assert table.get_of(5, 0, 2) == (0, 2, 10, 0, 0, 0, 0, 0, 1)
    assert table.user_id(table.users()[0]) == 5
    assert table.states_of(6) == table.states(table.find(6)) != []
    assert table.user_id(table.users()[0]) == 6
    assert table.get_of(5, 0, 3) is None
    assert table.get_of(99, 0, 2) is None
    assert table.states_of(99) is None
    assert table.states_of(6)[0][1] == 1


def test_who_is_admitted_takes_the_room_of_the_coldest(build: ModuleType) -> None:
    table = filled(build, 1 + len(USERS) * 3)
    rows = [(0, 1, 1, 0, 0, 0, 0, 0, 1), (0, 2, 1, 0, 0, 0, 0, 0, 1)]
    assert table.admit(77, 3, False, rows, 10) == table.find(77) != 0
    assert table.find(1) == 0
    assert table.states_of(77) == rows
    for user_id in USERS:
        table.ack_of(user_id, 0, 1, 99, KEEP, KEEP, 99)
    assert table.admit(78, 3, False, rows, 1) == table.find(78) != 0  # 77 is the one clean user
    assert table.admit(79, 3, False, [*rows, *rows], len(USERS)) == 0
    assert table.find(79) == 0
    table.verify()


@pytest.mark.parametrize("seed", range(20))
def test_rows_in_any_order_are_there_once_and_read_in_order(build: ModuleType, seed: int) -> None:
    source = random.Random(seed)
    keys = [(kind, channel) for kind in (0, 1, 255) for channel in range(1, 9)]
    rows = [(*key, 5, 0, 0, 0, 0, 0, 1) for key in source.sample(keys, source.randrange(1, 20))]
    table = filled(build, 400)
    table.insert(50, 0, False, rows)
    assert table.states_of(50) == sorted(rows)
    table.ack_of(50, 2, 1, 7, KEEP, KEEP, 3)
    assert [row[:2] for row in table.states_of(50)] == sorted([*(r[:2] for r in rows), (2, 1)])
    again = [*rows, rows[source.randrange(len(rows))]]
    with pytest.raises(ValueError, match="not a new"):
        table.insert(51, 0, False, again)
    assert table.find(51) == 0
    table.verify()
