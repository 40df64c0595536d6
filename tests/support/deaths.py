"""What a process that dies between two stores leaves, and what a new one makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from readstates.cache import fsck, layout
from tests.support.table_builds import (
    PLAIN,
    Build,
    entries,
    everything,
    is_final,
    residents,
    verify,
)

SLOTS = 60
STATES_MAX = 20
FOR_GOOD = 1 << 33 | 1
ROWS = [  # with one mention, with none, with two extensions, a retraction, deleted up to a message
    (0, 1, 100, 150, 1, 5, 6, 7, 1, b""),
    (0, 2, 100, 0, 0, 5, 6, 7, 2, b""),
    (0, 3, 100, 104, 3, 5, 6, 7, 3, entries((0, 101, 0), (0, 102, 3), (0, 103, 0), (0, 104, 0))),
    (0, 4, 0, 0, 0, 0, 0, 0, 4, entries((0, 110, FOR_GOOD))),
    (0, 5, 0, 0, 0, 0, 0, 0, 5, entries((3, 500, 0))),
]
FINAL = (0, 0, 0, 0, 0, 0, 0, 0, 6, b"")  # the mark of a user who is deleted for good
User = tuple[int, tuple[Any, ...], frozenset[tuple[bool, Any]]]  # floor, rows, what is dirty


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
        found[table.user_id(user)] = (table.floor(user), tuple(everything(table, user)), dirty)
    for user in residents(table):
        known = (table.floor(user), tuple(everything(table, user)), frozenset([(True, 0)]))
        found.setdefault(table.user_id(user), known)
    return found


def reopened(
    build: Build, data: bytes, again: Callable[[Any], object] | None = None
) -> dict[int, User] | None:
    """What a new process makes of the buffer; None if it drops it.

    `again`: the operation that was under way, if it is an event: it is folded again.
    """
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
    if again:
        again(table)
        verify(table)
        assert fsck.check_bytes(bytes(buffer), saved=True) == []
    found = users(table)
    table.close()
    return found


def dirty_user(table: Any) -> int:
    """User 1 with five read states, one of them changed, and a new one; user 2, clean, with five;
    user 3, of whom a write is under way; user 5, deleted for good; user 6, restored since.
    """
    table.insert(2, 8, False, ROWS)
    table.insert(3, 8, False, ROWS)
    user: int = table.insert(1, 8, False, ROWS)
    table.ack(user, 0, 1, 200, -1, -1, 21)
    table.mention(user, 0, 7, 200, 22)
    table.ack(table.find(3), 0, 1, 300, -1, -1, 23)
    table.take(table.find(3))
    table.insert(5, 8, False, [FINAL])
    table.restore_user(table.insert(6, 8, False, [FINAL]), 24)
    return user


def event(user_id: int, name: str, *args: object) -> Callable[[Any], object]:
    """An event of a user who is not deleted for good; the last argument is its version."""

    def fold(table: Any) -> object:
        user = table.find(user_id)
        restored_at = table.restored_at(user)
        if args[-1 - (name == "delete_user")] <= restored_at:
            return None
        if is_final(table, user) and name != "restore_user":
            return None
        return getattr(table, name)(user, *args)

    return fold


EVENTS: dict[str, Callable[[Any], object]] = {
    "ack": event(2, "ack", 0, 1, 500, 3, 4, 40),
    "ack of a new channel": event(2, "ack", 0, 9, 500, 3, 4, 40),
    "ack of some marks": event(2, "ack", 0, 3, 102, -1, -1, 40),
    "ack of all marks": event(2, "ack", 0, 3, 500, -1, -1, 40),
    "ack of what was deleted": event(2, "ack", 0, 5, 600, -1, -1, 40),
    "ack unless unread": event(2, "ack_unless_unread", 0, 3, 103, -1, -1, 9, 40),
    "mark_unread": event(1, "mark_unread", 0, 1, 5, 6, None, 7, 8, 40),
    "mark_unread with mentions": event(2, "mark_unread", 0, 3, 60, -1, (70, 80), -1, -1, 40),
    "mention": event(2, "mention", 0, 2, 500, 40),
    "mention, the second": event(2, "mention", 0, 1, 500, 40),
    "mention, the fifth": event(2, "mention", 0, 3, 500, 40),
    "mention of what was deleted": event(2, "mention", 0, 5, 600, 40),
    "edit": event(2, "mark", 0, 1, 150, 4, 40),
    "retraction": event(2, "mark", 0, 3, 104, FOR_GOOD, 40),
    "retraction of nothing": event(2, "mark", 0, 9, 500, FOR_GOOD, 40),
    "retraction of all": event(1, "mark", 0, 7, 200, FOR_GOOD, 40),
    "merge": event(2, "merge", 0, 3, 103, (110, 120), -1, 9, 9, 9, 40),
    "merge of a new channel": event(2, "merge", 0, 9, 103, (110, 120), 7, 9, 9, 9, 40),
    "pins_ack": event(2, "pins_ack", 0, 1, 500, 40),
    "pins_ack of a retraction": event(2, "pins_ack", 0, 4, 500, 40),
    "set": event(2, "set_options", 0, 2, 1, 2, 40),
    "delete": event(2, "delete", 0, 3, 0, 40),
    "delete up to": event(2, "delete", 0, 3, 700, 40),
    "delete of a new channel": event(2, "delete", 0, 9, 700, 40),
    "delete_user": event(1, "delete_user", 40, False),
    "delete_user of one under way": event(3, "delete_user", 40, False),
    "delete_user for good": event(1, "delete_user", 40, True),
    "delete_user for good, again": event(6, "delete_user", 40, True),
    "restore_user": event(5, "restore_user", 40),
}


def written(table: Any) -> None:
    """The write of user 3 ends."""
    user = table.find(3)
    table.written(user, 0, [(False, row) for row in table.get_some(user, 0, (1,))])


def same(before: User | None, after: User | None) -> list[User]:
    """What a user may look like: before, after; or with the floor raised, which is always safe."""
    known = [user for user in (before, after) if user is not None]
    if before is not None and after is not None:
        known.append((after[0], *before[1:]))
    return known
