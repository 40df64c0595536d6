"""A compiler may make stores in another order: no order that the barriers allow loses anything.

The plain table is recorded store by store. What a death may leave is then everything before a
barrier, and any part of the stores between it and the next one. Of all those parts are tried: each
store made first, each made last, every run of changes of single slots made last, and many drawn at
random. The same without one of the barriers shows what it is for. That the compiled table has them
is in `test_compiled_barriers.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from readstates.cache import layout
from tests.support.deaths import ROWS, SLOTS, STATES_MAX, dirty_user, recorded, reopened, same
from tests.support.table_builds import PLAIN, Build, new_buffer

DRAWS = 100  # random parts of each stretch between two barriers

Store = dict[int, int]  # the bytes that it changes
Operation = Callable[[Any], object]
ORDERED: dict[str, tuple[Operation, int]] = {
    # by the pair of layout.py: what it does, and how many users it may leave out
    "O1": (lambda table: table.insert(4, 9, True, ROWS), 1),
    "O2": (lambda table: table.evict(table.free + 1, 9), 1),
    "O3": (lambda table: table.delete_user(table.find(1), 40), 0),
    "O4": (lambda table: table.delete(table.find(2), 0, 1, 40), 0),
}
UNORDERED: dict[str, tuple[Operation, int]] = {
    "ack": (lambda table: table.ack(table.find(2), 0, 1, 500, 3, 4, 40), 0),
    "ack of a new channel": (lambda table: table.ack(table.find(2), 0, 9, 500, 3, 4, 40), 0),
    "mark_unread": (lambda table: table.mark_unread(table.find(1), 0, 1, 5, 6, 7, 8, 40), 0),
    "mention": (lambda table: table.mention(table.find(2), 0, 1, 500, 40), 0),
    "retract": (lambda table: table.retract(table.find(2), 0, 1, 500, 40), 0),
    "pins_ack": (lambda table: table.pins_ack(table.find(2), 0, 1, 500, 40), 0),
    "take": (lambda table: table.take(table.find(1)), 0),
    "written": (lambda table: table.written(table.find(3), 0, [(False, ROWS[0])]), 0),
    "write_failed": (lambda table: table.write_failed(table.find(3), 5, 0), 0),
    "recover": (lambda table: table.recover(1), 0),
}


def stretches(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The buffer after each store, cut at the barriers; each stretch begins with its start."""
    buffer = new_buffer(SLOTS)
    table = PLAIN.Table(buffer, STATES_MAX)
    dirty_user(table)
    table.close()
    cuts: list[int] = []

    def counted(table: Any) -> None:
        kept = table._status._kept
        monkeypatch.setattr(PLAIN.table, "store_barrier", lambda: cuts.append(len(kept) - 1))
        operation(table)

    kept = recorded(buffer, counted)
    ends = [0, *cuts, len(kept) - 1]
    return [kept[begin : end + 1] for begin, end in itertools.pairwise(ends)]


def stores_of(kept: list[bytes]) -> list[Store]:
    """The stores between each of these states of the buffer and the next."""
    stores: list[Store] = []
    for before, after in itertools.pairwise(kept):
        bytes_ = enumerate(zip(before, after, strict=True))
        if changed := {at: new for at, (old, new) in bytes_ if old != new}:
            stores.append(changed)
    return stores


def changes_of_slots(stores: list[Store]) -> list[int]:
    """Where in the stores another slot is changed than just before; and their end."""
    every = range(len(stores))
    cuts = [n for n in every if n == 0 or slot_of(stores[n]) != slot_of(stores[n - 1])]
    return [*cuts, len(stores)]


def after(start: bytes, stores: list[Store], part: Iterable[int]) -> bytes:
    """The buffer if only these of the stores were made; two stores of one byte keep their order."""
    data = bytearray(start)
    for number in sorted(part):
        for at, value in stores[number].items():
            data[at] = value
    return bytes(data)


def left_behind(kept: list[bytes], seed: int) -> Iterator[bytes]:
    """What a death in one stretch may leave."""
    stores = stores_of(kept)
    every = set(range(len(stores)))
    parts = [{number} for number in every] + [every - {number} for number in every]
    cuts = changes_of_slots(stores)
    parts += [every - set(range(begin, end)) for begin in cuts for end in cuts if begin < end]
    draw = random.Random(seed)
    for _ in range(DRAWS):
        share = draw.random()
        parts.append({number for number in every if draw.random() < share})
    for part in parts:
        yield after(kept[0], stores, part)


def repaired(build: Build, kept: list[bytes]) -> int:
    """How often a file is used in which one slot's change was made before all other stores."""
    stores = stores_of(kept)
    cuts = changes_of_slots(stores)
    parts = [range(begin, end) for begin, end in itertools.pairwise(cuts)]
    return sum(reopened(build, after(kept[0], stores, part)) is not None for part in parts)


def slot_of(store: Store) -> int:
    """Which slot it changes; some other number if it changes something else."""
    return (min(store) - layout.HEADER_BYTES) // layout.SLOT_BYTES


def wrong(build: Build, cut: list[list[bytes]], missing_max: int) -> list[str]:
    """What is neither as before nor as after, nor refused."""
    before, finished = reopened(build, cut[0][0]), reopened(build, cut[-1][-1])
    assert before is not None
    assert finished is not None
    found: list[str] = []
    for number, kept in enumerate(cut):
        for data in left_behind(kept, number):
            users = reopened(build, data)
            if users is None:
                continue
            if len(before.keys() | finished.keys()) - len(users) > missing_max:
                found.append(f"stretch {number}: only users {sorted(users)}")
            found += [
                f"stretch {number}: user {user_id} is {user}"
                for user_id, user in users.items()
                if user not in same(before.get(user_id), finished.get(user_id))
            ]
    return found


@pytest.mark.parametrize("name", [*ORDERED, *UNORDERED])
def test_any_order_between_barriers_is_harmless(
    build: Build, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, missing_max = (ORDERED | UNORDERED)[name]
    cut = stretches(operation, monkeypatch)
    assert len(cut) == (2 if name in ORDERED else 1)
    assert wrong(build, cut, missing_max) == []


@pytest.mark.parametrize("name", ["O1", "O3", "O4"])
def test_without_its_barrier_some_order_loses_something(
    build: Build, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, missing_max = ORDERED[name]
    first, second = stretches(operation, monkeypatch)
    assert wrong(build, [first + second[1:]], missing_max)


def test_without_its_barrier_a_cut_eviction_is_dropped_not_repaired(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O2: a user who lacks a read state and is not PARTIAL has a wrong count."""
    first, second = stretches(ORDERED["O2"][0], monkeypatch)
    assert repaired(build, second) > repaired(build, first + second[1:])
