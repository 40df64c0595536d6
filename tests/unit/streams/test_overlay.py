"""The two tables of a candidate make one: V1 and V2, against a fold of random logs."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from readstates.schemas.read_state import Row
from readstates.streams.cassandra.overlay import ALL_DELETED, Overlaid, merged, overlay_rows

Key = tuple[int, int]
KEYS: list[Key] = [(0, 1), (0, 2), (1, 1), (7, 9)]
FINAL: Key = (0, 0)


class Event(NamedTuple):
    """`key` is set or deleted; without one, the user is deleted."""

    version: int
    key: Key | None
    deletes: bool


def row(key: Key, version: int) -> Row:
    return (*key, version, 0, 0, 0, 0, 0, version, b"")


def random_log(rng: random.Random, length: int) -> list[Event]:
    events = []
    for version in range(1, length + 1):
        draw = rng.random()
        key = None if draw < 0.1 else rng.choice(KEYS)
        events.append(Event(version, key, draw < 0.35))
    return events


def fold(rows: Iterable[Row], events: Iterable[Event]) -> list[Row]:
    """As the service does: what a row has already is skipped."""
    found = {one[:2]: one for one in rows}
    for version, key, deletes in events:
        if key is None:
            found = {k: one for k, one in found.items() if one[8] >= version}
            if version % 3 == 0:  # a final one, which leaves a row of its own version
                found.setdefault(FINAL, row(FINAL, version))
        elif key not in found or found[key][8] < version:
            found.pop(key, None)
            if not deletes:
                found[key] = row(key, version)
    return [one for _, one in sorted(found.items())]


def overlay_of(events: Iterable[Event]) -> list[Overlaid]:
    """What a candidate has written of these events."""
    found: dict[Key, Overlaid] = {}
    for version, key, deletes in events:
        if key is None:
            mark = (ALL_DELETED, 0)
            found = {mark: Overlaid(mark, version, None)}
            if version % 3 == 0:
                found[FINAL] = Overlaid(FINAL, version, row(FINAL, version))
        else:
            found[key] = Overlaid(key, version, None if deletes else row(key, version))
    return list(found.values())


@pytest.mark.parametrize("seed", range(300))
def test_a_load_gives_the_fold_wherever_the_live_workers_are(seed: int) -> None:
    """The candidate began at or below what the base had then, and has written up to `own`."""
    rng = random.Random(seed)
    log = random_log(rng, 40)
    begin = rng.randint(0, 30)
    base_at, own = rng.randint(begin, 40), rng.randint(begin, 40)
    rows = merged(fold([], log[:base_at]), overlay_of(log[begin:own]))
    assert rows == sorted(rows)
    if base_at <= own:
        assert rows == fold([], log[:own])
    # Behind the live workers, it gets there by folding on: it skips what the rows have.
    end = rng.randint(max(base_at, own), 40)
    assert fold(rows, log[own:end]) == fold([], log[:end])


def test_without_an_overlay_the_rows_are_those_of_the_base() -> None:
    rows = [row((0, 1), 5), row((0, 2), 3)]
    assert merged(rows, []) == rows


def test_the_larger_version_counts_and_of_two_equal_ones_the_candidates_own() -> None:
    own = (0, 1, 77, 0, 0, 0, 0, 0, 5, b"")
    assert merged([row((0, 1), 5)], [Overlaid((0, 1), 5, own)]) == [own]
    assert merged([row((0, 1), 6)], [Overlaid((0, 1), 5, own)]) == [row((0, 1), 6)]


def test_a_mark_hides_what_is_older_and_a_newer_row_hides_the_mark() -> None:
    mark = Overlaid((0, 1), 5, None)
    assert merged([row((0, 1), 4)], [mark]) == []
    assert merged([row((0, 1), 6)], [mark]) == [row((0, 1), 6)]


def test_a_deleted_user_has_only_what_came_later_and_the_mark_of_a_final_deletion() -> None:
    mark = Overlaid((ALL_DELETED, 0), 5, None)
    base = [row(FINAL, 5), row((0, 1), 4), row((0, 2), 6)]
    assert merged(base, [mark]) == [row(FINAL, 5), row((0, 2), 6)]


def test_selected_rows_are_marks_by_their_column_and_have_the_time_of_the_last_write() -> None:
    stale = (0, 1, 7, 0, 0, 0, 0, 0, 4, b"")
    by_user: dict[int, list[Overlaid]] = {42: []}
    overlay_rows([(42, *stale, True, 9), (42, *row((0, 2), 8), False, 8)], by_user)
    assert by_user[42] == [Overlaid((0, 1), 9, None), Overlaid((0, 2), 8, row((0, 2), 8))]
