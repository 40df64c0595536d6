# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types, so its decorators are untyped and its C types are Any)
"""Rebuilds the index, lists and counts of a table file, before a `Table` uses the file.

`rebuild` repairs the table of a process that died. It completes or undoes the operation that was
interrupted; see "After a death" in layout.py.

This is plain Python that Cython can compile, like `table.py`, because each start reads millions of
slots. It uses only the buffer; counts and the ends of lists are in the buffer's header. The hash
and the look-ups are copies of those in `kernel.py`, because a compiled module cannot inline another
module's functions. `tests/unit/cache/test_definitions.py` checks that all copies are the same.
layout.py explains extensions (extra slots for a read state's marks), and the status bits, such as
FINAL and PARTIAL.
"""

from typing import Any

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64
from cython import ulonglong as u64

from . import layout, slots
from .layout import TableDamaged

COMPILED: bool = cython.compiled

_USER = cython.declare(cython.int, layout.USER)
_STATE = cython.declare(cython.int, layout.STATE)
_DIRTY = cython.declare(cython.int, layout.DIRTY)
_TOMBSTONE = cython.declare(cython.int, layout.TOMBSTONE)
_IN_FLIGHT = cython.declare(cython.int, layout.IN_FLIGHT)
_PARTIAL = cython.declare(cython.int, layout.PARTIAL)
_FINAL = cython.declare(cython.int, layout.FINAL)
_EXTENDED = cython.declare(cython.int, layout.EXTENDED)
_HIDDEN = cython.declare(cython.int, layout.HIDDEN)
_EXTENSION = cython.declare(cython.int, layout.EXTENSION)
_TURN = cython.declare(i64, 1023)  # other threads may run every 1,024 slots, as in slots.py

_MASK = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
_C1 = cython.declare(u64, 0x9E3779B97F4A7C15)
_C2 = cython.declare(u64, 0xC2B2AE3D27D4EB4F)
_C3 = cython.declare(u64, 0x165667B19E3779F9)


def rebuild(buffer: object) -> None:
    """Repair the table of a process that died, in O(slots).

    Then call `verify` and `Table.recover`. Raises TableDamaged if a slot is damaged; the file must
    then be dropped.
    """
    views = layout.views(buffer)
    whole, passes = slots.Slots(views), Rebuild(views)
    try:
        passes.rebuild(whole)
    finally:
        passes.close()
        whole.close()
        for view in views.values():
            view.release()


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _mix(a: u64, b: u64) -> u64:
    x: u64 = (a * _C1) & _MASK
    x = (x ^ (x >> 32) ^ b) & _MASK
    x = (x * _C2) & _MASK
    x = x ^ (x >> 29)
    return (x * _C3) & _MASK


@cython.final
@cython.cclass
class Rebuild:
    """Holds the views of one buffer and the counts of one rebuild."""

    _words: i64[:]  # all slots as 64-bit numbers, eight per slot
    _status: cython.uchar[:]
    # fields of a user slot
    _user_id: i64[:]
    _first_version: i64[:]
    _delete_version: i64[:]
    _first_state: cython.uint[:]
    _live_states: cython.ushort[:]
    _side_slots: cython.ushort[:]
    _count_tops: cython.uchar[:]
    # fields of a state slot
    _channel_id: i64[:]
    _version: i64[:]
    _last_mention_id: i64[:]
    _owner: cython.uint[:]
    _next: cython.uint[:]
    _previous: cython.uint[:]
    _type: cython.uchar[:]

    _index: cython.uint[:]
    _header: i64[:]
    _entries: i64
    slots: i64
    _used: i64
    _users: i64
    _live: i64  # read states that replies show: no tombstones (deleted), no hidden ones (all zero)
    _dirty: i64  # dirty read states

    def __init__(self, views: dict) -> None:
        self._attach(views)
        self.slots = self._header[layout.AT_SLOTS // 8]
        self._entries = self._header[layout.AT_INDEX // 8]
        self._used = self._users = self._live = self._dirty = 0

    def _attach(self, v: dict) -> None:
        self._words, self._index, self._header = v["words"], v["index"], v["header"]
        self._status, self._type, self._user_id = v["status"], v["type"], v["user_id"]
        self._first_version, self._delete_version = v["first_version"], v["delete_version"]
        self._first_state, self._live_states = v["first_state"], v["live_states"]
        self._side_slots, self._count_tops = v["side_slots"], v["count_tops"]
        self._last_mention_id = v["last_mention_id"]
        self._channel_id, self._version, self._owner = v["channel_id"], v["version"], v["owner"]
        self._next, self._previous = v["next"], v["previous"]

    def close(self) -> None:
        """Release the views."""
        self._attach(layout.no_views())

    # -- copies from kernel.py ---------------------------------------------------------------------

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place(self, hashed: u64) -> i64:
        return ((hashed >> 32) * self._entries) >> 32

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place_of_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        return self._place(_mix(channel_id, ((user << 8) | kind) + 1))

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _place_of(self, slot: i64) -> i64:
        """Where a slot's entry would be if no other entry were in its way."""
        if self._status[slot] & _USER:
            return self._place(_mix(self._user_id[slot], 0))
        return self._place_of_state(self._owner[slot], self._type[slot], self._channel_id[slot])

    @cython.cfunc
    @cython.exceptval(-1)
    def _index_add(self, slot: i64) -> cython.int:
        place: i64 = self._place_of(slot)
        steps: i64 = 0
        while self._index[place]:
            place += 1
            if place == self._entries:
                place = 0
            steps += 1
            if steps > self._entries:
                raise TableDamaged("I2: the index is full")
        self._index[place] = slot

    @cython.cfunc
    @cython.exceptval(-1)
    def _find(self, user_id: i64) -> i64:
        place: i64 = self._place(_mix(user_id, 0))
        steps: i64 = 0
        while True:
            slot: i64 = self._index[place]
            if slot == 0:
                return 0
            if self._user_id[slot] == user_id and self._status[slot] & _USER:
                return slot
            place += 1
            if place == self._entries:
                place = 0
            steps += 1
            if steps > self._entries:
                raise TableDamaged("I2: the index has no empty entry")

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        """The slot of a state or tombstone, or 0."""
        place: i64 = self._place_of_state(user, kind, channel_id)
        steps: i64 = 0
        while True:
            slot: i64 = self._index[place]
            if slot == 0:
                return 0
            if (
                self._channel_id[slot] == channel_id and self._owner[slot] == user
                and self._status[slot] & _STATE and self._type[slot] == kind
            ):
                return slot
            place += 1
            if place == self._entries:
                place = 0
            steps += 1
            if steps > self._entries:
                raise TableDamaged("I2: the index has no empty entry")

    # -- the passes ---------------------------------------------------------------------------

    def rebuild(self, whole: Any) -> None:
        """Repair the table; see the function `rebuild`. `whole`: `Slots` on the same views."""
        try:
            self._used = whole.check()
            whole.set_used(self._used)
            self._reset_users()
            self._wipe_states()
            self._keep_extensions()
            self._users = whole.rebuild_lru(self._users)
            self._fill_index()
            whole.rebuild_free_list()
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"a link points outside the file: {exc}") from exc
        self._header[layout.AT_USERS // 8] = self._users
        self._header[layout.AT_STATES // 8] = self._live
        self._header[layout.AT_DIRTY_STATES // 8] = self._dirty
        self._header[layout.AT_DIRTY_USERS // 8] = 0  # `Table.recover` fills the queue
        self._header[layout.AT_DIRTY_HEAD // 8] = 0
        self._header[layout.AT_DIRTY_TAIL // 8] = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _reset_users(self) -> cython.int:
        """Clear the untrusted fields of each user."""
        slot: i64
        status: cython.int
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            status = self._status[slot] & (_USER | _PARTIAL)
            if not status & _USER:
                continue
            if self._first_version[slot] or self._delete_version[slot]:
                if status & _PARTIAL:
                    raise TableDamaged(f"I11: the user in slot {slot} is PARTIAL and dirty")
                status |= _IN_FLIGHT
            self._status[slot] = status
            self._first_state[slot] = 0
            self._live_states[slot] = self._side_slots[slot] = self._count_tops[slot] = 0
            self._users += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _wipe_states(self) -> cython.int:
        """Wipe the states of PARTIAL users, and each state older than its user's deletion."""
        slot: i64
        status: cython.int
        owner: i64
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            status = self._status[slot]
            if not status & _STATE:
                continue
            owner = self._owner[slot]
            if not self._status[owner] & _USER:
                raise TableDamaged(f"I3: the state in slot {slot} has no user")
            if self._status[owner] & _PARTIAL:
                if status & _DIRTY:
                    raise TableDamaged(f"I11: slot {slot} is dirty, but its user is PARTIAL")
                self._wipe(slot)
            elif self._version[slot] < self._delete_version[owner]:
                self._wipe(slot)

    @cython.cfunc
    @cython.exceptval(-1)
    def _wipe(self, slot: i64) -> cython.int:
        word: i64
        for word in range(slot * 8, slot * 8 + 8):
            self._words[word] = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _fill_index(self) -> cython.int:
        """Index all users, then all states. Add each state to its user's list."""
        place: i64
        slot: i64
        for place in range(self._entries):
            self._index[place] = 0
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            if not self._status[slot] & _USER:
                continue
            if self._find(self._user_id[slot]):
                raise TableDamaged(f"I2: the user in slot {slot} is in the table twice")
            self._index_add(slot)
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            if self._status[slot] & _STATE:
                self._list_state(slot)

    @cython.cfunc
    @cython.exceptval(-1)
    def _list_state(self, slot: i64) -> cython.int:
        status: cython.int = self._status[slot]
        owner: i64 = self._owner[slot]
        if self._find_state(owner, self._type[slot], self._channel_id[slot]):
            raise TableDamaged(f"I2: the state in slot {slot} is in the table twice")
        self._index_add(slot)
        head: i64 = self._first_state[owner]
        self._next[slot] = head
        self._previous[slot] = 0
        if head:
            self._previous[head] = slot
        self._first_state[owner] = slot
        hidden: i64 = 1 if status & _HIDDEN else 0
        shown: i64 = 0 if status & (_HIDDEN | _TOMBSTONE) else 1
        self._live += shown
        self._count(owner, shown, hidden + self._count_extensions(slot))
        if hidden and self._channel_id[slot] == 0:
            self._status[owner] |= _FINAL
        if status & _DIRTY:
            self._dirty += 1
            self._status[owner] |= _IN_FLIGHT

    @cython.cfunc
    @cython.exceptval(-1)
    def _count(self, user: i64, live: i64, side: i64) -> cython.int:
        """Add to a user's counts of shown states and side slots (hidden states and extensions)."""
        live += self._live_states[user] | (self._count_tops[user] & 15) << 16
        side += self._side_slots[user] | (self._count_tops[user] >> 4) << 16
        self._live_states[user] = live & 0xFFFF
        self._side_slots[user] = side & 0xFFFF
        self._count_tops[user] = (live >> 16) | (side >> 16) << 4

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_extensions(self, slot: i64) -> i64:
        """How many extension slots a read state has; 0 for slot 0."""
        extension: i64 = self._last_mention_id[slot] if self._status[slot] & _EXTENDED else 0
        count: i64 = 0
        while extension:
            count += 1
            extension = self._next[extension]
            if count > self.slots:
                raise TableDamaged(f"I14: the extensions of slot {slot} do not end")
        return count

    @cython.cfunc
    @cython.exceptval(-1)
    def _keep_extensions(self) -> cython.int:
        """Wipe the extension slots that no read state uses.

        While this runs, a `previous` other than 0 marks an extension that is in use.
        """
        slot: i64
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            if self._status[slot] == _EXTENSION:
                self._previous[slot] = 0
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            if self._status[slot] & _STATE and self._status[slot] & _EXTENDED:
                self._note_extensions(slot)
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            if self._status[slot] == _EXTENSION:
                if self._previous[slot] == 0:
                    self._wipe(slot)
                else:
                    self._previous[slot] = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _note_extensions(self, slot: i64) -> cython.int:
        extension: i64 = self._last_mention_id[slot]
        if extension == 0:
            raise TableDamaged(f"I14: the state in slot {slot} has no extension")
        while extension:
            if (
                self._status[extension] != _EXTENSION or self._owner[extension] != slot
                or self._previous[extension]
            ):
                raise TableDamaged(f"I14: slot {extension} is not an extension of slot {slot}")
            self._previous[extension] = slot
            extension = self._next[extension]
