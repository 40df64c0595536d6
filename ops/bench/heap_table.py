"""A table of Python objects, to compare with `cache.table.Table` in the benchmarks.

It is an LRU cache: an `OrderedDict` of users. Each user is an object with a dict of read states.
Each read state is an object with a dict of its mentions, if it has any. This is the usual design in
Python. Two choices make it cheaper: `__slots__`, and integer keys, which the collector does not
track.

The class has the methods of `Table` that the service needs for acks, mentions, queries, loads,
evictions and writing out. Their results are the same: `tests/unit/streams/test_heap_peer.py` feeds
one log to both tables. Both have room for the same number of users and read states. This table has
no retractions, and it forgets the mentions beyond MARKS_MAX, which `Table` still counts. A user in
this interface is an object; in `Table`, it is a slot number.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Any

from readstates.cache.layout import EXTENSION_ENTRIES
from readstates.cache.marks import MARKS_MAX
from readstates.cache.table import (
    ABSENT,
    CHANGED,
    DIRTIED,
    DUPLICATE,
    NO_ROOM,
    REPLAYED,
    STALE,
    TOO_MANY,
)
from readstates.schemas.fast_decoder import NUMBERS
from readstates.schemas.read_state import Row

ENTRY = struct.Struct("=qQ")

NO_MARKS: dict[int, int] = {}  # shared by read states without mentions; never changed


class State:
    """One read state. `marks` maps the IDs of messages that mention the user to their ranks."""

    __slots__ = (
        "channel_id",
        "dirty",
        "flags",
        "kind",
        "last_message_id",
        "last_pin_timestamp",
        "last_viewed",
        "marks",
        "version",
    )

    def __init__(self, row: Row) -> None:
        kind, channel_id, last, last_mention, count, pins, flags, viewed, version, extra = row
        self.kind = kind
        self.channel_id = channel_id
        self.last_message_id = last
        self.last_pin_timestamp = pins
        self.flags = flags
        self.last_viewed = viewed
        self.version = version
        self.dirty = False
        self.marks = NO_MARKS
        if extra:
            self.marks = dict(ENTRY.iter_unpack(extra))
        elif count:
            self.marks = {last_mention: 0}

    @property
    def slots(self) -> int:
        """Return how many extension slots `Table` would need for the marks."""
        return marked_slots(self.marks)

    def row(self) -> Row:
        """Return the read state as a plain tuple in the form of a Row, as `Table` does."""
        marks, extra = self.marks, b""
        if marked_slots(marks):
            extra = b"".join([ENTRY.pack(*mark) for mark in sorted(marks.items())])
        return (
            self.kind,
            self.channel_id,
            self.last_message_id,
            max(marks, default=0),
            len(marks),
            self.last_pin_timestamp,
            self.flags,
            self.last_viewed,
            self.version,
            extra,
        )


def marked_slots(marks: dict[int, int]) -> int:
    """Return how many extension slots `Table` would need for these marks."""
    if len(marks) <= 1 and not any(marks.values()):
        return 0
    return -(-len(marks) // EXTENSION_ENTRIES)


class User:
    """A resident user. The keys of `states` are `channel_id << 8 | read_state_type`."""

    __slots__ = ("first_version", "floor", "in_flight", "queued", "since_ms", "states", "user_id")

    def __init__(self, user_id: int, floor: int, rows: Iterable[Row]) -> None:
        self.user_id = user_id
        self.floor = floor
        self.states = {row[1] << 8 | row[0]: State(row) for row in rows}
        self.first_version = 0
        self.since_ms = 0
        self.queued = False
        self.in_flight = False

    @property
    def slots(self) -> int:
        """Return how many slots `Table` would need for the user."""
        return 1 + sum(1 + state.slots for state in self.states.values())


class HeapTable:
    """See the module. It has room for as many users and read states as a `Table` of `slots`."""

    def __init__(self, slots: int, user_states_max: int) -> None:
        self._users: OrderedDict[int, User] = OrderedDict()  # least recently used first
        self._queue: OrderedDict[User, None] = OrderedDict()  # changed users, oldest first
        self.free = slots - 1
        self.user_states_max = user_states_max
        self.now_ms = 0
        self.position = 0
        self.evictions = 0
        self.resident_states = 0
        self.dirty_states = 0

    @property
    def resident_users(self) -> int:
        return len(self._users)

    @property
    def dirty_users(self) -> int:
        return len(self._queue)

    def recover(self, first_version: int) -> int:
        """Return 0, because no dirty user survives a restart."""
        return 0

    # -- residents ----------------------------------------------------------------------------

    def find(self, user_id: int) -> Any:
        """Return the user, or 0."""
        return self._users.get(user_id, 0)

    def touch(self, user: User) -> None:
        self._users.move_to_end(user.user_id)

    def insert(self, user_id: int, floor: int, cold: bool, rows: Iterable[Row] = ()) -> User:
        """Make a user resident. The caller must have made room."""
        user = self._users[user_id] = User(user_id, floor, rows)
        if cold:
            self._users.move_to_end(user_id, last=False)
        self.free -= user.slots
        self.resident_states += len(user.states)
        return user

    def evict(self, needed: int, scan_max: int, keep: User | int = 0) -> bool:
        """Evict clean users, coldest first, until `needed` slots are free. Return success."""
        going, room = [], self.free
        for user in islice(self._users.values(), scan_max):
            if room >= needed:
                break
            if user is not keep and not user.queued and not user.in_flight:
                going.append(user)
                room += user.slots
        for user in going:
            del self._users[user.user_id]
            self.evictions += len(user.states)
            self.resident_states -= len(user.states)
        self.free = room
        return room >= needed

    # -- the fold -----------------------------------------------------------------------------

    def ack(
        self,
        user: User,
        kind: int,
        channel_id: int,
        message_id: int,
        flags: int,
        last_viewed: int,
        version: int,
    ) -> int:
        state = self._open(user, kind, channel_id, version)
        if type(state) is int:
            return state
        if message_id < state.last_message_id:
            return STALE
        if flags < 0:
            flags = state.flags
        if last_viewed < 0:
            last_viewed = state.last_viewed
        if (message_id, flags, last_viewed) == (
            state.last_message_id,
            state.flags,
            state.last_viewed,
        ):
            return DUPLICATE
        if state.marks:
            marks = {message: rank for message, rank in state.marks.items() if message > message_id}
            if not self._keep(state, marks):
                return NO_ROOM
        state.last_message_id, state.flags, state.last_viewed = message_id, flags, last_viewed
        return self._changed(user, state, version)

    def mark(
        self, user: User, kind: int, channel_id: int, message_id: int, rank: int, version: int
    ) -> int:
        """Fold a mention. The benchmarks have no retractions."""
        assert rank & 1 == 0
        state = self._open(user, kind, channel_id, version)
        if type(state) is int:
            return state
        if message_id <= state.last_message_id:
            return STALE
        if state.marks.get(message_id, -1) >= rank:
            return DUPLICATE
        marks = {**state.marks, message_id: rank}
        if len(marks) > MARKS_MAX:
            del marks[min(marks)]
        if not self._keep(state, marks):
            return NO_ROOM
        return self._changed(user, state, version)

    def mention(self, user: User, kind: int, channel_id: int, message_id: int, version: int) -> int:
        return self.mark(user, kind, channel_id, message_id, 0, version)

    def _keep(self, state: State, marks: dict[int, int]) -> bool:
        """Set the marks. Return False if there is no room.

        As in `Table`, the new slots are taken before the old ones are freed.
        """
        before, after = state.slots, marked_slots(marks)
        if after > self.free:
            return False
        self.free += before - after
        state.marks = marks or NO_MARKS
        return True

    def fold_run(self, events: Any, count: int, codes: bytearray) -> int:
        """Fold decoded updates, one by one; see `Table.fold_run`."""
        for index in range(count):
            at = index * NUMBERS
            user_id, kind, channel, message, flags, viewed, version, mention = events[
                at : at + NUMBERS
            ]
            user = self._users.get(user_id)
            if user is None:
                code = ABSENT
            elif mention:
                code = self.mention(user, kind, channel, message, version)
            else:
                self._users.move_to_end(user_id)
                code = self.ack(user, kind, channel, message, flags, viewed, version)
            if code == NO_ROOM:
                return index
            codes[index] = code
        return count

    def _open(self, user: User, kind: int, channel_id: int, version: int) -> Any:
        """Return the read state to change, or a code. Add a missing read state."""
        key = channel_id << 8 | kind
        state = user.states.get(key)
        if state is not None:
            return state if version > state.version else REPLAYED
        if len(user.states) >= self.user_states_max:
            return TOO_MANY
        if self.free == 0:
            return NO_ROOM
        self.free -= 1
        self.resident_states += 1
        state = user.states[key] = State((kind, channel_id, 0, 0, 0, 0, 0, 0, 0, b""))
        return state

    def _changed(self, user: User, state: State, version: int) -> int:
        state.version = version
        if not state.dirty:
            state.dirty = True
            self.dirty_states += 1
        if user.first_version:
            return CHANGED
        user.first_version, user.since_ms = version, self.now_ms
        if not user.in_flight:
            user.queued = True
            self._queue[user] = None
        return CHANGED | DIRTIED

    # -- the dirty queue ----------------------------------------------------------------------

    def dirty_head(self) -> Any:
        """Return the user that has waited longest to be written out, or 0."""
        return next(iter(self._queue), 0)

    def dirty_since_ms(self, user: User) -> int:
        return user.since_ms

    def first_version(self, user: User) -> int:
        return user.first_version

    def user_id(self, user: User) -> int:
        return user.user_id

    def cold_dirty(self, limit: int) -> list[User]:
        """Return up to `limit` queued users among the `4 * limit` coldest users."""
        some = islice(self._users.values(), 4 * limit)
        return list(islice((user for user in some if user.queued), limit))

    def take(self, user: User) -> tuple[int, int, list[tuple[bool, Row]]]:
        """Take a queued user's changes for a write. Return (first_version, 0, rows)."""
        del self._queue[user]
        user.queued, user.in_flight = False, True
        first, user.first_version = user.first_version, 0
        return first, 0, [(False, state.row()) for state in user.states.values() if state.dirty]

    def written(self, user: User, delete_version: int, rows: list[tuple[bool, Row]]) -> None:
        """Mark the rows of `take` as clean, except those that have changed since."""
        for _, row in rows:
            state = user.states[row[1] << 8 | row[0]]
            if state.version == row[8] and state.dirty:
                state.dirty = False
                self.dirty_states -= 1
        user.in_flight = False
        if user.first_version:
            user.queued = True
            self._queue[user] = None

    def write_failed(self, user: User, first_version: int, since_ms: int) -> None:
        """Queue the user again, before all other users."""
        user.in_flight, user.queued = False, True
        user.first_version, user.since_ms = first_version, since_ms
        self._queue[user] = None
        self._queue.move_to_end(user, last=False)

    # -- reading ------------------------------------------------------------------------------

    def has(self, user: User, kind: int, channel_id: int) -> bool:
        return channel_id << 8 | kind in user.states

    def get_some(self, user: User, kind: int, channel_ids: tuple[int, ...]) -> list[Row]:
        """Return the user's read states of these channels, in order."""
        states = (user.states.get(channel_id << 8 | kind) for channel_id in sorted(channel_ids))
        return [state.row() for state in states if state is not None]

    def select(
        self,
        user: User,
        kind: int,
        since: int,
        mentioned: bool,
        after_kind: int,
        after_channel: int,
        most: int,
    ) -> list[Row]:
        """Return a user's read states by type and channel; see `Table.select`."""
        after = after_kind, after_channel
        chosen = [
            state
            for state in user.states.values()
            if kind in (-1, state.kind)
            and state.version > since
            and (state.marks or not mentioned)
            and (state.kind, state.channel_id) > after
        ]
        chosen.sort(key=lambda state: (state.kind, state.channel_id))
        return [state.row() for state in chosen[: most or None]]

    def slots_needed(self, user: User, kind: int, channel_id: int, more: int) -> int:
        """See `Table.slots_needed`."""
        state = user.states.get(channel_id << 8 | kind)
        entries = 0 if state is None or not state.slots else len(state.marks)
        if more or entries > 1:
            more = -(-(entries + more) // EXTENSION_ENTRIES)
        return more + (state is None)

    def is_final(self, user: User) -> bool:
        return False

    def restored_at(self, user: User) -> int:
        return 0

    def count(self, user: User) -> int:
        return len(user.states)

    def floor(self, user: User) -> int:
        return user.floor
