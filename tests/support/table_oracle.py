"""What the table must do, with dicts and lists: the fold as interface.md words it, and residents.

Written from the interface's table of events, not from table.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

CHANGED, DIRTIED, REPLAYED, STALE, DUPLICATE, TOO_MANY, NO_ROOM = 1, 2, 4, 8, 16, 32, 64

Key = tuple[int, int]  # read_state_type, channel_id
ReadState = tuple[int, int, int, int, int, int, int, int, int]


@dataclass
class Row:
    """A read state, or a tombstone: all zero but its version."""

    message: int = 0
    mention: int = 0
    count: int = 0
    pins: int = 0
    flags: int = 0
    viewed: int = 0
    version: int = 0
    dirty: bool = False
    tombstone: bool = False

    def fields(self) -> tuple[int, ...]:
        return self.message, self.mention, self.count, self.pins, self.flags, self.viewed

    def read_state(self, key: Key) -> ReadState:
        return cast(ReadState, (*key, *self.fields(), self.version))


@dataclass
class User:
    """One user with everything it has."""

    floor: int = 0
    first_version: int = 0
    delete_version: int = 0
    dirty_since: int = 0
    in_flight: bool = False
    rows: dict[Key, Row] = field(default_factory=dict)

    def states(self) -> list[ReadState]:
        rows = sorted(self.rows.items())
        return [row.read_state(key) for key, row in rows if not row.tombstone]

    def count(self) -> int:
        return sum(not row.tombstone for row in self.rows.values())


def ack(row: Row, message: int, flags: int, viewed: int) -> int:
    """A plain ack."""
    if message < row.message:
        return STALE
    row.message = message
    if message >= row.mention:
        row.count = 0
    _options(row, flags, viewed)
    return 0


def mark_unread(row: Row, message: int, count: int, flags: int, viewed: int) -> int:
    """A manual ack."""
    row.message, row.count = message, count
    _options(row, flags, viewed)
    return 0


def mention(row: Row, message: int) -> int:
    """One more, unless read or the same again."""
    if message <= row.message:
        return STALE
    if message == row.mention:
        return DUPLICATE
    row.count = min(row.count + 1, 2**32 - 1)
    row.mention = max(row.mention, message)
    return 0


def retract(row: Row, message: int) -> int:
    """One less."""
    if message <= row.message or row.count == 0:
        return STALE
    row.count -= 1
    return 0


def pins_ack(row: Row, timestamp: int) -> int:
    """The larger."""
    if timestamp < row.pins:
        return STALE
    row.pins = timestamp
    return 0


def _options(row: Row, flags: int, viewed: int) -> None:
    if flags >= 0:
        row.flags = flags
    if viewed >= 0:
        row.viewed = viewed


RULES: dict[str, Callable[..., int]] = {
    "ack": ack,
    "mark_unread": mark_unread,
    "mention": mention,
    "retract": retract,
    "pins_ack": pins_ack,
}


class Oracle:
    """Users, the LRU as a list (warmest first), the dirty queue as a list (oldest first)."""

    def __init__(self, slots: int, user_states_max: int) -> None:
        self.slots = slots
        self.user_states_max = user_states_max
        self.users: dict[int, User] = {}
        self.lru: list[int] = []
        self.queue: list[int] = []
        self.now = 0
        self.evictions = 0

    @property
    def free(self) -> int:
        used = sum(1 + len(user.rows) for user in self.users.values())
        return self.slots - 1 - used

    def insert(self, user_id: int, floor: int, cold: bool) -> None:
        self.users[user_id] = User(floor)
        self.lru.insert(len(self.lru) if cold else 0, user_id)

    def touch(self, user_id: int) -> None:
        self.lru.remove(user_id)
        self.lru.insert(0, user_id)

    def evict(self, needed: int, scan_max: int, keep: int) -> bool:
        for user_id in self.lru[::-1][:scan_max]:
            if self.free >= needed:
                break
            user = self.users[user_id]
            if user_id != keep and user_id not in self.queue and not user.in_flight:
                self.evictions += len(user.rows)
                del self.users[user_id]
                self.lru.remove(user_id)
        return self.free >= needed

    def cold_dirty(self, limit: int) -> list[int]:
        looked = self.lru[::-1][: 4 * limit]
        return [user_id for user_id in looked if user_id in self.queue][:limit]

    # -- the fold

    def fold(self, user_id: int, name: str, key: Key, args: tuple[int, ...], version: int) -> int:
        user = self.users[user_id]
        row = user.rows.get(key)
        if version <= (row.version if row else user.delete_version):
            return REPLAYED
        alive = row is not None and not row.tombstone
        if name == "delete":
            user.floor = max(user.floor, version)
            if row is None or row.tombstone:
                return STALE
            user.rows[key] = Row(version=version, dirty=True, tombstone=True)
            return CHANGED | self._changed(user_id, version)
        if not alive and (name == "retract" or (name == "pins_ack" and args == (0,))):
            return STALE
        if not alive and user.count() >= self.user_states_max:
            return TOO_MANY
        if row is None and self.free == 0:
            return NO_ROOM
        now = replace(row) if row is not None and alive else Row()
        before = now.fields()
        refused = RULES[name](now, *args)
        if refused or now.fields() == before:
            return refused or DUPLICATE
        now.version, now.dirty = version, True
        user.rows[key] = now
        return CHANGED | self._changed(user_id, version)

    def delete_user(self, user_id: int, version: int) -> int:
        user = self.users[user_id]
        if version <= user.delete_version:
            return REPLAYED
        user.rows = {key: row for key, row in user.rows.items() if row.version >= version}
        user.delete_version = version
        user.floor = max(user.floor, version)
        return CHANGED | self._changed(user_id, version)

    def _changed(self, user_id: int, version: int) -> int:
        user = self.users[user_id]
        if user.first_version:
            return 0
        user.first_version, user.dirty_since = version, self.now
        if not user.in_flight:
            self.queue.append(user_id)
        return DIRTIED

    # -- writing out

    def take(self, user_id: int) -> tuple[int, int, set[tuple[bool, ReadState]]]:
        user = self.users[user_id]
        self.queue.remove(user_id)
        first, user.first_version, user.in_flight = user.first_version, 0, True
        dirty = {
            (row.tombstone, row.read_state(key)) for key, row in user.rows.items() if row.dirty
        }
        return first, user.delete_version, dirty

    def written(self, user_id: int, delete_version: int, rows: set[tuple[bool, ReadState]]) -> None:
        user = self.users[user_id]
        for deleted, state in rows:
            row = user.rows.get(state[:2])
            if row is not None and row.version == state[8]:
                row.dirty = False
                if deleted:
                    del user.rows[state[:2]]
        if user.delete_version == delete_version:
            user.delete_version = 0
        user.in_flight = False
        if user.first_version:
            self.queue.append(user_id)

    def write_failed(self, user_id: int, first_version: int, since_ms: int) -> None:
        user = self.users[user_id]
        user.in_flight = False
        user.first_version, user.dirty_since = first_version, since_ms
        self.queue.insert(0, user_id)

    def recover(self, first_version: int) -> int:
        """Reopened: what is dirty waits again, all of it since now and from `first_version` on."""
        for user_id in self.lru:
            user = self.users[user_id]
            if user.in_flight:
                self.queue.insert(0, user_id)
            if user_id in self.queue:
                user.in_flight = False
                user.dirty_since, user.first_version = self.now, first_version
        return len(self.queue)
