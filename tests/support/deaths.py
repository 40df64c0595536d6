"""What a process that dies between two stores leaves, and what a new one makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from readstates.cache import fsck, layout
from tests.support.table_builds import PLAIN, Build, residents, verify

SLOTS = 60
STATES_MAX = 20
ROWS = [(0, channel, 100, 90, 2, 5, 6, 7, channel) for channel in range(1, 6)]
User = tuple[int, tuple[Any, ...], frozenset[tuple[bool, Any]]]  # floor, states, what is dirty


class Recorder:
    """A view of the buffer that keeps what is in it after each store."""

    def __init__(self, view: memoryview, whole: bytearray, kept: list[bytes]) -> None:
        self._view, self._whole, self._kept = view, whole, kept

    def __getitem__(self, index: int) -> Any:
        return self._view[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._view[index] = value
        self._kept.append(bytes(self._whole))


def recorded(buffer: bytearray, operation: Callable[[Any], object]) -> list[bytes]:
    """The buffer before, and after each store of an operation on the table."""
    kept = [bytes(buffer)]
    whole: Any = PLAIN.Table(buffer, STATES_MAX)
    views = {f"_{name}": view for name, view in whole._views.items() if hasattr(whole, f"_{name}")}
    assert {"_words", "_links", "_status", "_checksum", "_version", "_header"} <= views.keys()
    for name, view in views.items():
        setattr(whole, name, Recorder(view, buffer, kept))
    operation(whole)
    for name, view in views.items():
        setattr(whole, name, view)
    whole.close()
    return kept


def recorded_rebuild(buffer: bytearray) -> list[bytes]:
    """The same of a rebuild."""
    kept = [bytes(buffer)]
    views = layout.views(buffer)
    recorders = {name: Recorder(view, buffer, kept) for name, view in views.items()}
    PLAIN.rebuild_module.Rebuild(recorders).rebuild(PLAIN.slots.Slots(recorders))
    for view in views.values():
        view.release()
    return kept


def users(table: Any) -> dict[int, User]:
    """All residents with what a reader and the database get of them. Takes what is dirty."""
    found: dict[int, User] = {}
    while user := table.dirty_head():
        _, delete_version, rows = table.take(user)
        dirty = frozenset([*rows, (True, delete_version)])
        found[table.user_id(user)] = (table.floor(user), tuple(table.states(user)), dirty)
    for user in residents(table):
        known = (table.floor(user), tuple(table.states(user)), frozenset([(True, 0)]))
        found.setdefault(table.user_id(user), known)
    return found


def reopened(build: Build, data: bytes) -> dict[int, User] | None:
    """What a new process makes of the buffer; None if it drops it."""
    buffer = bytearray(data)
    try:
        build.rebuild(buffer)
        build.verify(buffer)
    except layout.TableDamaged:
        return None
    table = build.Table(buffer, STATES_MAX)
    assert fsck.check_bytes(bytes(buffer), saved=True) == []
    dirty = table.recover(1)
    assert dirty == table.dirty_users
    assert fsck.check_bytes(bytes(buffer), saved=False) == []
    verify(table)
    found = users(table)
    table.close()
    return found


def dirty_user(table: Any) -> int:
    """User 1 with five read states, two of them changed; user 2, clean; user 3, under way."""
    table.insert(2, 8, False, ROWS)
    table.insert(3, 8, False, ROWS)
    user: int = table.insert(1, 8, False, ROWS)
    table.ack(user, 0, 1, 200, -1, -1, 21)
    table.mention(user, 0, 7, 200, 22)
    table.ack(table.find(3), 0, 1, 300, -1, -1, 23)
    table.take(table.find(3))
    return user


def same(before: User | None, after: User | None) -> list[User]:
    """What a user may look like: before, after; or with the floor raised, which is always safe."""
    known = [user for user in (before, after) if user is not None]
    if before is not None and after is not None:
        known.append((after[0], *before[1:]))
    return known
