"""A compiler may make stores in another order: no order that the barriers allow loses anything.

The plain table is recorded store by store. What a death may leave is then everything before a
barrier, and any part of the stores between it and the next one. Of all those parts are tried: each
store made first, each made last, every run of changes of single slots made last, each change of a
slot made first, and many drawn at random. The same without one of the barriers shows what it is
for. That the compiled table has them is in `test_compiled_barriers.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from readstates.cache import layout
from tests.support.deaths import (
    EVENTS,
    ROWS,
    SLOTS,
    STATES_MAX,
    dirty_user,
    recorded,
    reopened,
    same,
    written,
)
from tests.support.table_builds import PLAIN, Build, new_buffer

DRAWS = 100  # random parts of each stretch between two barriers

Store = dict[int, int]  # the bytes that it changes
Operation = Callable[[Any], object]
ORDERED: dict[str, tuple[Operation, int, int]] = {
    # by the pairs of layout.py, in their order: what it does, how many users it may leave out, and
    # how many barriers it has
    "O1": (lambda table: table.insert(4, 9, True, ROWS), 1, 1),
    "O2": (lambda table: table.evict(table.free + 1, 9), 1, 1),
    "O3": (EVENTS["delete_user"], 0, 1),
    "O3 for good": (EVENTS["delete_user for good"], 0, 1),
    "O4, O7": (EVENTS["delete"], 0, 2),
    "O4, O6, O7": (EVENTS["delete up to"], 0, 2),
    "O4, O6, O7 of a retraction": (EVENTS["retraction of all"], 0, 2),
    "O6, O7": (EVENTS["mention, the fifth"], 0, 2),
    "O6": (EVENTS["edit"], 0, 2),
    "O7": (EVENTS["ack of all marks"], 0, 2),
    "O6 of a new one": (EVENTS["merge of a new channel"], 0, 2),
    "O6 of the mark of a final deletion": (EVENTS["restore_user"], 0, 2),
}
UNORDERED: dict[str, tuple[Operation, int, int]] = {
    "ack": (EVENTS["ack"], 0, 0),
    "ack of a new channel": (EVENTS["ack of a new channel"], 0, 0),
    "mention": (EVENTS["mention"], 0, 0),
    "pins_ack": (EVENTS["pins_ack"], 0, 0),
    "set": (EVENTS["set"], 0, 0),
    "take": (lambda table: table.take(table.find(1)), 0, 0),
    "written": (written, 0, 0),
    "write_failed": (lambda table: table.write_failed(table.find(3), 5, 0), 0, 0),
    "recover": (lambda table: table.recover(1), 0, 0),
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
        for layer in PLAIN.layers[:-1]:  # the last one has no barrier
            monkeypatch.setattr(layer, "store_barrier", lambda: cuts.append(len(kept) - 1))
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
    parts += [set(range(begin, end)) for begin, end in itertools.pairwise(cuts)]
    draw = random.Random(seed)
    for _ in range(DRAWS):
        share = draw.random()
        parts.append({number for number in every if draw.random() < share})
    yield from {after(kept[0], stores, part): None for part in parts}  # each once


def repaired(build: Build, kept: list[bytes]) -> int:
    """How often a file is used in which one slot's change was made before all other stores."""
    stores = stores_of(kept)
    cuts = changes_of_slots(stores)
    parts = [range(begin, end) for begin, end in itertools.pairwise(cuts)]
    return sum(reopened(build, after(kept[0], stores, part)) is not None for part in parts)


def slot_of(store: Store) -> int:
    """Which slot it changes; some other number if it changes something else."""
    return (min(store) - layout.HEADER_BYTES) // layout.SLOT_BYTES


def wrong(
    build: Build, cut: list[list[bytes]], missing_max: int, again: Operation | None = None
) -> list[str]:
    """What is neither as before nor as after, nor refused.

    `again`: the event is folded again, and must lead to what it would have led to.
    """
    before, finished = reopened(build, cut[0][0]), reopened(build, cut[-1][-1])
    assert before is not None
    assert finished is not None
    found: list[str] = []
    if again:
        before = finished
    for number, kept in enumerate(cut):
        for data in left_behind(kept, number):
            users = reopened(build, data, again)
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
    operation, missing_max, barriers = (ORDERED | UNORDERED)[name]
    cut = stretches(operation, monkeypatch)
    assert len(cut) == 1 + barriers
    again = operation if name == "O3 for good" else None  # in two steps: see test_rebuild
    assert wrong(build, cut, missing_max, again) == []


@pytest.mark.parametrize("name", ["O1", "O2", "O3", "O4, O7", "O4, O6, O7 of a retraction"])
def test_without_its_barrier_some_order_loses_something(
    build: Build, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, missing_max, _ = ORDERED[name]
    first, second, *others = stretches(operation, monkeypatch)
    assert wrong(build, [first + second[1:], *others], missing_max)


def test_without_its_barrier_a_final_deletion_is_not_folded_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O3: with the mark made first, the event is skipped, and the read states are still there."""
    operation, missing_max, _ = ORDERED["O3 for good"]
    first, second = stretches(operation, monkeypatch)
    assert wrong(build, [first + second[1:]], missing_max, operation)


@pytest.mark.parametrize(("name", "number"), [("O6", 0), ("O7", 1), ("O6, O7", 0), ("O6, O7", 1)])
def test_without_its_barrier_a_cut_change_is_dropped_not_repaired(
    build: Build, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O6, O7: a read state that leads to what is no extension of its own is damage."""
    cut = stretches(ORDERED[name][0], monkeypatch)
    with_barrier = repaired(build, cut[number]) + repaired(build, cut[number + 1])
    assert with_barrier > repaired(build, cut[number] + cut[number + 1][1:])
