"""What the table must do, with dicts and lists: residents, the life of a change, and the limits.

What an event makes of one read state is said by `ops/proof/oracle.py`, straight from the interface.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from readstates.ops.proof.oracle import Key
from readstates.ops.proof.oracle_state import FOLDS, State
from readstates.schemas.read_state import Row as ReadState

CHANGED, DIRTIED, REPLAYED, STALE, DUPLICATE, TOO_MANY, NO_ROOM = 1, 2, 4, 8, 16, 32, 64
DELETED_USER = 256
FINAL: Key = (0, 0)  # the read state that marks a user as deleted for good
NOTHING = STALE | DUPLICATE  # nothing changed; which of the two it was, test_table.py says
Write = tuple[int, int, set[tuple[bool, ReadState]]]


@dataclass
class Row:
    """A read state, or a tombstone: all zero but its version."""

    state: State = field(default_factory=State)
    dirty: bool = False
    tombstone: bool = False

    @property
    def shown(self) -> bool:
        return not self.tombstone and self.state.shown

    @property
    def side(self) -> int:
        """How many slots it takes beyond that of a shown read state."""
        return extensions(self.state) + (not self.tombstone and not self.state.shown)

    def read_state(self, key: Key) -> ReadState:
        return (*key, *self.state.fields(), self.state.version, self.state.extra())


def extensions(state: State) -> int:
    """How many slots of three entries it takes."""
    return -(-len(state.extra()) // 48)


def copied(state: State) -> State:
    return replace(state, marks=dict(state.marks))


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
        """Those that replies have."""
        return [row.read_state(key) for key, row in sorted(self.shown().items())]

    def everything(self) -> list[ReadState]:
        """Hidden ones, too: what the database has."""
        rows = sorted(self.rows.items(), key=lambda item: item[0])
        return [row.read_state(key) for key, row in rows if not row.tombstone]

    def shown(self) -> dict[Key, Row]:
        return {key: row for key, row in self.rows.items() if row.shown}

    def side(self) -> int:
        return sum(row.side for row in self.rows.values())

    def slots(self) -> int:
        return 1 + sum(1 + extensions(row.state) for row in self.rows.values())

    @property
    def final(self) -> bool:
        return FINAL in self.rows and not self.restored_at

    @property
    def restored_at(self) -> int:
        """When a final deletion ended: the mark stays, deleted up to a message."""
        mark = self.rows.get(FINAL, Row()).state
        return mark.version if mark.deleted_up_to else 0


class Oracle:
    """Users, the LRU as a list (warmest first), the dirty queue as a list (oldest first)."""

    def __init__(self, slots: int, user_states_max: int) -> None:
        self.slots = slots
        self.user_states_max = user_states_max
        self.side_max = max(user_states_max, slots // 16)
        self.marks_max = self.side_max - self.side_max // 8
        self.users: dict[int, User] = {}
        self.lru: list[int] = []
        self.queue: list[int] = []
        self.now = 0
        self.evictions = 0

    @property
    def free(self) -> int:
        return self.slots - 1 - sum(user.slots() for user in self.users.values())

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
                self.evictions += len(user.shown())
                del self.users[user_id]
                self.lru.remove(user_id)
        return self.free >= needed

    def cold_dirty(self, limit: int) -> list[int]:
        looked = self.lru[::-1][: 4 * limit]
        return [user_id for user_id in looked if user_id in self.queue][:limit]

    # -- the fold

    def fold(self, user_id: int, event: dict[str, Any], version: int) -> int:
        """An event of one read state, or of a user, in the form of the interface."""
        user, kind = self.users[user_id], event["type"]
        if version <= user.restored_at:
            return REPLAYED
        if user.final and kind != "restore_user":
            return DELETED_USER
        if kind == "delete_user":
            return self._delete_user(user_id, version, bool(event.get("final")))
        if kind == "restore_user":
            return self._restore_user(user_id, version)
        key = (event.get("read_state_type", 0), event["channel_id"])
        row = user.rows.get(key)
        if version <= (row.state.version if row else user.delete_version):
            return REPLAYED
        if kind == "delete":
            return self._delete(user_id, key, event.get("up_to", 0), version)
        state = copied(row.state) if row and not row.tombstone else State()
        fold = State.mark_unread if event.get("manual") else FOLDS[kind]
        fold(state, event, version)
        if same(state, row.state if row else State()):
            return NOTHING
        if kind != "retract_mention":
            in_place = (
                row is not None
                and row.shown
                and (kind == "pins_ack" or (kind == "set" and row.state.last_message_id != 0))
            )  # the slot is changed, and its marks stay where they are
            return self._put(user_id, key, state, version, in_place)
        return self._retract(user_id, key, state, version)

    def _retract(self, user_id: int, key: Key, state: State, version: int) -> int:
        """At a limit it takes its mention away, and is not remembered."""
        user = self.users[user_id]
        row = user.rows.get(key)
        missing = row is None or row.tombstone
        code = TOO_MANY
        if not missing or (
            len(user.shown()) < self.user_states_max and user.side() < self.marks_max
        ):
            code = self._put(user_id, key, state, version)
        if code != TOO_MANY:
            return code
        if missing:
            user.floor = max(user.floor, version)
        counted = 0 if row is None else row.state.mention_count
        if missing or state.mention_count or not counted:
            return NOTHING
        state.marks, state.unread_version = {}, 0
        state.uncounted = state.uncounted_up_to = 0
        return self._put(user_id, key, state, version)

    def _put(
        self, user_id: int, key: Key, state: State, version: int, in_place: bool = False
    ) -> int:
        user = self.users[user_id]
        row = user.rows.get(key)
        was_shown = row is not None and row.shown
        if state.shown and not was_shown and len(user.shown()) >= self.user_states_max:
            return TOO_MANY
        before = extensions(row.state) if row else 0
        others = user.side() - (row.side if row else 0) + (not state.shown)
        while (
            others + extensions(state) > self.marks_max
            and extensions(state) > max(1, before)
        ):  # fmt: skip
            smallest = min(state.marks)
            _, retracted = state.marks.pop(smallest)
            state.uncounted += not retracted
            state.uncounted_up_to = smallest
        side = others + extensions(state)
        if side > max(self.side_max, user.side()):
            if state.shown or not was_shown:
                return TOO_MANY
            return self._bury(user_id, key, version)
        if not in_place and extensions(state) + (row is None) > self.free:
            return NO_ROOM
        if was_shown and not state.shown:
            user.floor = max(user.floor, version)
        state.version = version
        user.rows[key] = Row(state, dirty=True)
        return CHANGED | self._changed(user_id, version)

    def _delete(self, user_id: int, key: Key, up_to: int, version: int) -> int:
        user = self.users[user_id]
        row = user.rows.get(key)
        alive = row is not None and not row.tombstone
        old = row.state if row is not None and alive else State()
        if old.deleted_up_to and up_to <= old.deleted_up_to:
            return NOTHING
        if up_to:
            state = State(deleted_up_to=up_to)
            if old.deleted_up_to:
                state = copied(old)
                state.deleted_up_to = up_to
                state.marks = {m: mark for m, mark in old.marks.items() if m > up_to}
            code = self._put(user_id, key, state, version)
            if code != TOO_MANY:
                return code
        if not alive:
            user.floor = max(user.floor, version)
            return NOTHING
        return self._bury(user_id, key, version)

    def _bury(self, user_id: int, key: Key, version: int) -> int:
        user = self.users[user_id]
        user.floor = max(user.floor, version)
        user.rows[key] = Row(State(version=version), dirty=True, tombstone=True)
        return CHANGED | self._changed(user_id, version)

    def _delete_user(self, user_id: int, version: int, final: bool) -> int:
        user = self.users[user_id]
        marks_what_is_deleted = final and FINAL not in user.rows  # a death came between the two
        if version <= user.delete_version - marks_what_is_deleted:
            return REPLAYED
        if final and FINAL not in user.rows and self.free == 0:
            return NO_ROOM
        user.rows = {k: row for k, row in user.rows.items() if row.state.version >= version}
        user.delete_version = version
        user.floor = max(user.floor, version)
        if final and FINAL not in user.rows:
            user.rows[FINAL] = Row(State(version=version), dirty=True)
        return CHANGED | self._changed(user_id, version)

    def _restore_user(self, user_id: int, version: int) -> int:
        user = self.users[user_id]
        row = user.rows.get(FINAL)
        if version <= (row.state.version if row else user.delete_version):
            return REPLAYED
        if not user.final:
            return NOTHING
        if self.free == 0:
            return NO_ROOM
        user.rows[FINAL] = Row(State(deleted_up_to=1, version=version), dirty=True)
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

    def take(self, user_id: int) -> Write:
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
            if row is not None and row.state.version == state[8]:
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


def same(one: State, other: State) -> bool:
    """Whether they are the same but for their versions."""
    return one.fields() == other.fields() and one.extra() == other.extra()


def coarse(code: int) -> int:
    """A code of the table as the oracle says it: STALE and DUPLICATE are the same."""
    return NOTHING if code & NOTHING else code


class Endless(Oracle):
    """One whose table is never full: it never evicts anybody."""

    def __init__(self, user_states_max: int) -> None:
        super().__init__(0, user_states_max)

    @property
    def free(self) -> int:
        return 1 << 40
