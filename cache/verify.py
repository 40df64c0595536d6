# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types, so its decorators are untyped and its C types are Any)
"""Checks the invariants I1-I15 of layout.py in a table file, before a `Table` uses the file.

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
from .marks import Marks

COMPILED: bool = cython.compiled

_USER = cython.declare(cython.int, layout.USER)
_STATE = cython.declare(cython.int, layout.STATE)
_DIRTY = cython.declare(cython.int, layout.DIRTY)
_TOMBSTONE = cython.declare(cython.int, layout.TOMBSTONE)
_QUEUED = cython.declare(cython.int, layout.QUEUED)
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


def verify(buffer: object) -> None:
    """Check all invariants in O(slots).

    Raises TableDamaged, which names a broken invariant; the file must then be dropped. The check
    reads counts and the ends of lists from the header. If a `Table` uses the buffer, call
    `Table.save` first.
    """
    views = layout.views(buffer)
    whole, passes = slots.Slots(views), Verify(views)
    try:
        passes.verify(whole)
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
class Verify:
    """Holds the views of one buffer and the counts of one check."""

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
    _words: i64[:]
    _last_message_id: i64[:]
    _last_mention_id: i64[:]
    _pins_and_viewed: u64[:]
    _mention_count: cython.uint[:]
    _flags: cython.uint[:]
    _owner: cython.uint[:]
    _next: cython.uint[:]
    _previous: cython.uint[:]
    _type: cython.uchar[:]

    _index: cython.uint[:]
    _header: i64[:]
    _entries: i64
    slots: i64
    _used: i64
    _live: i64  # read states that replies show: no tombstones (deleted), no hidden ones (all zero)
    _dirty: i64  # dirty read states
    _extensions: i64  # extension slots that some read state leads to
    _marks: Marks
    _buffer: i64[:]  # the entries inside `_marks`

    def __init__(self, views: dict) -> None:
        self._attach(views)
        self.slots = self._header[layout.AT_SLOTS // 8]
        self._entries = self._header[layout.AT_INDEX // 8]
        self._used = self._header[layout.AT_USED // 8]
        self._live = self._dirty = self._extensions = 0
        self._marks = Marks()
        self._buffer = self._marks.entries

    def _attach(self, v: dict) -> None:
        self._index, self._header, self._words = v["index"], v["header"], v["words"]
        self._last_message_id, self._last_mention_id = v["last_message_id"], v["last_mention_id"]
        self._pins_and_viewed, self._flags = v["pins_and_viewed"], v["flags"]
        self._mention_count = v["mention_count"]
        self._status, self._type, self._user_id = v["status"], v["type"], v["user_id"]
        self._first_version, self._delete_version = v["first_version"], v["delete_version"]
        self._first_state, self._live_states = v["first_state"], v["live_states"]
        self._side_slots, self._count_tops = v["side_slots"], v["count_tops"]
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

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _after(self, slot: i64, steps: i64) -> i64:
        """The next state on the user's list, or 0; `steps` counts from the list's head."""
        if steps >= self.slots:
            raise TableDamaged("I3: a user's list does not end")
        return self._next[slot]

    # -- the passes ---------------------------------------------------------------------------

    def verify(self, whole: Any) -> None:
        """Check all invariants; see the function `verify`. `whole`: `Slots` on the same views."""
        position: i64 = self._header[layout.AT_POSITION // 8]
        if self._header[layout.AT_POSITION_INVERTED // 8] != ~position:
            raise TableDamaged("I13: the position and its inverse do not match")
        if self._used < 1 or self._used > self.slots:
            raise TableDamaged("I1: the number of slots ever used is out of range")
        try:
            used: i64 = whole.check()
            if used > self._used:
                raise TableDamaged(f"I1: slot {used - 1} has a status, but was never used")
            self._verify_slots()
            whole.verify_free_list()
            whole.verify_users_lists()
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"a link points outside the file: {exc}") from exc

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_slots(self) -> cython.int:
        slot: i64
        status: cython.int
        listed: i64 = 0
        users: i64 = 0
        states: i64 = 0
        queued: i64 = 0
        extensions: i64 = 0
        self._live = self._dirty = self._extensions = 0
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                slots.give_way()
            status = self._status[slot]
            if status & _USER:
                users += 1
                if status & _QUEUED:
                    queued += 1
                listed += self._verify_user(slot, status)
            elif status & _STATE:
                states += 1
                self._verify_state(slot, status)
            elif status:
                extensions += 1
        free: i64 = self.slots - 1 - users - states - extensions
        if (users, self._live, self._dirty, queued, free) != (
            self._header[layout.AT_USERS // 8],
            self._header[layout.AT_STATES // 8],
            self._header[layout.AT_DIRTY_STATES // 8],
            self._header[layout.AT_DIRTY_USERS // 8],
            self._header[layout.AT_FREE // 8],
        ):
            raise TableDamaged("I8: the header's counts differ from those of the slots")
        if listed != states:
            raise TableDamaged("I3: a state is not on its user's list")
        if extensions != self._extensions:
            raise TableDamaged("I14: an extension belongs to no state")
        self._verify_index(users + states)

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_state(self, slot: i64, status: cython.int) -> cython.int:
        """Check I2, I3, I6, I7, I12, I14 and I15 for one read state, and count the read state."""
        owner: i64 = self._owner[slot]
        if not self._status[owner] & _USER:
            raise TableDamaged(f"I3: the state in slot {slot} has no user")
        if self._find_state(owner, self._type[slot], self._channel_id[slot]) != slot:
            raise TableDamaged(f"I2: the index does not lead to the state in slot {slot}")
        if self._version[slot] < self._delete_version[owner]:
            raise TableDamaged(f"I12: the state in slot {slot} is older than its user's deletion")
        if status & _DIRTY:
            self._dirty += 1
            if not self._status[owner] & (_QUEUED | _IN_FLIGHT):
                raise TableDamaged(f"I6: the state in slot {slot} is dirty, but its user is not")
        elif status & _TOMBSTONE:
            raise TableDamaged(f"I7: the tombstone in slot {slot} is clean")
        if not status & (_TOMBSTONE | _HIDDEN):
            self._live += 1
        self._verify_marks(slot, status)

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_marks(self, slot: i64, status: cython.int) -> cython.int:
        """Check I14 and I15 for one read state."""
        last_message_id: i64 = self._last_message_id[slot]
        mention_count: i64 = self._mention_count[slot]
        count: i64 = 0
        word: i64
        extension: i64 = self._last_mention_id[slot] if status & _EXTENDED else 0
        if status & _EXTENDED and extension == 0:
            raise TableDamaged(f"I14: the state in slot {slot} has no extension")
        while extension:
            if self._status[extension] != _EXTENSION or self._owner[extension] != slot:
                raise TableDamaged(f"I14: slot {extension} is not an extension of slot {slot}")
            for word in range(2 * self._type[extension]):
                self._buffer[2 * count + word] = self._words[extension * 8 + word]
            count += self._type[extension]
            self._extensions += 1
            extension = self._next[extension]
        try:
            self._marks.read(last_message_id, count)
        except ValueError as exc:
            raise TableDamaged(f"I15: slot {slot}: {exc}") from exc
        if count:
            if self._marks.write() != count or self._marks.mention_count() != mention_count:
                raise TableDamaged(f"I15: the entries of slot {slot} contradict its mention count")
        elif mention_count > 1 or (mention_count == 0 and self._last_mention_id[slot]) or (
            mention_count and self._last_mention_id[slot] <= last_message_id
        ):
            raise TableDamaged(f"I15: the mention fields of slot {slot} are inconsistent")
        empty: cython.bint = not (
            last_message_id or mention_count or self._pins_and_viewed[slot] or self._flags[slot]
        )
        if status & _TOMBSTONE == 0 and empty != (status & _HIDDEN != 0):
            raise TableDamaged(f"I15: the HIDDEN bit of slot {slot} contradicts its fields")
        if self._marks.deleted_up_to and not empty:
            raise TableDamaged(f"I15: the state in slot {slot} is deleted, but not all zero (M4)")
        final: cython.bint = self._status[self._owner[slot]] & _FINAL != 0
        if self._channel_id[slot] == 0 and status & _HIDDEN and not final:
            raise TableDamaged(f"I15: the user of slot {slot} should be FINAL")

    @cython.cfunc
    @cython.exceptval(-1)
    def _verify_user(self, user: i64, status: cython.int) -> i64:
        """Check I2, I3, I5, I6, I10, I11 and I15 for one user. Return how many states it has."""
        slot: i64 = self._first_state[user]
        before: i64 = 0
        live: i64 = 0
        side: i64 = 0
        mark: i64 = 0
        steps: i64 = 0
        if self._find(self._user_id[user]) != user:
            raise TableDamaged(f"I2: the index does not lead to the user in slot {user}")
        while slot:
            if self._owner[slot] != user or self._previous[slot] != before:
                raise TableDamaged(f"I3: slot {slot} is on the list of another user")
            if self._status[slot] & _HIDDEN:
                side += 1
                mark = mark or (self._channel_id[slot] == 0)
            elif not self._status[slot] & _TOMBSTONE:
                live += 1
            side += self._count_extensions(slot)
            before = slot
            slot = self._after(slot, steps)
            steps += 1
        tops: i64 = self._count_tops[user]
        if (
            live != (self._live_states[user] | (tops & 15) << 16)
            or side != (self._side_slots[user] | (tops >> 4) << 16)
        ):
            raise TableDamaged(f"I10: the user in slot {user} has wrong counts")
        if status & _FINAL and not mark:
            raise TableDamaged(f"I15: the user in slot {user} is FINAL without a state (0, 0)")
        if status & _PARTIAL:
            raise TableDamaged(f"I11: the user in slot {user} is PARTIAL")
        if self._delete_version[user] and not status & (_QUEUED | _IN_FLIGHT):
            raise TableDamaged(f"I6: the user in slot {user} has a deletion, but is not dirty")
        if status & _QUEUED and not (self._first_version[user] and not status & _IN_FLIGHT):
            raise TableDamaged(f"I5: the user in slot {user} is queued without a new change")
        return steps

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
    def _verify_index(self, expected: i64) -> cython.int:
        place: i64
        held: i64 = 0
        for place in range(self._entries):
            if self._index[place]:
                held += 1
        if held != expected:
            raise TableDamaged(f"I2: the index has {held} entries instead of {expected}")
