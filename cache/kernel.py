# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The kernel of the table: index, slots and lists, the most frequent events, and reading.

This is plain Python that Cython compiles unchanged; `COMPILED` says whether it is compiled. No
user or read state is a Python object: both are numbers in the slots that `layout.py` describes, and
links are slot numbers, so the collector has nothing to scan. The LRU is a list of users, because a
user is resident with all its read states or not at all.

Contents, in this order:
    opening and closing     the views of the buffer, counts and list ends
    index                   find, _find_state, adding and removing entries
    slots                   checksums, taking and freeing a slot, a user's list of read states
    extensions              the slots for a read state's marks (marks.py explains marks)
    lists                   _link and _unlink, for the LRU and the dirty queue
    residents               touch, insert, evict
    the dirty queue         _changed, which notes a change
    the fold                ack and mention: one event each
    many events at once     fold_run
    reading                 get_some, states, select, totals

A plain ack runs through six of these parts. They are in one file, because the C
compiler inlines only within a file. The rest of the table is in modules whose classes derive from
`Kernel`; `table.py` lists them. They use the kernel's fields in place, but call its methods through
function pointers, so the most frequent calls are made here. Either all of them are compiled, or
none.

The .pxd files in `cache/pxd/` tell Cython the fields and C functions of each class. C functions are
`final`, so that calls within a file are direct. `_ack_marks` and `_mark` are not: the kernel calls
them, and `marked.py` defines them.

How it works. Each field of a slot is a view over all slots (`_version[slot]`); layout.FIELDS says
where it is. A user's and a state's fields share the same bytes: `_status` tells the kinds of slots
apart. `_index` is probed linearly from place `(hash >> 32) * entries >> 32`; a removal shifts
entries back and leaves no placeholder. List ends and counts live in the object; `save` copies them
to the header.

The invariants I1-I15 are in layout.py. Where one rests on the order of two stores (O1-O4, O6 and O7
in "After a death"), there is a `store_barrier()` between them, and nowhere else.

Compiled methods report an exception by their return value (`exceptval`), so that callers need not
ask the interpreter after each call. That value is -1, or -2 for `_load`, and means nothing else.
That is why methods without a result return an int, which is 0.
"""

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64
from cython import ulonglong as u64

from . import layout
from .layout import TableDamaged
from .marks import Marks

if cython.compiled:
    from cython.cimports.store_barrier import store_barrier  # type: ignore[import-untyped]
else:

    def store_barrier() -> None:
        """Do nothing: the interpreter makes stores in the order of the program."""


COMPILED: bool = cython.compiled

CHANGED = 1  # a field of a read state changed its value, or read states were removed
DIRTIED = 2  # the user was clean, and this is its first unwritten change
REPLAYED = 4  # the version is not newer than the stored one
STALE = 8  # an older message or timestamp, or nothing to act on
DUPLICATE = 16  # nothing would change
TOO_MANY = 32  # the user has user_states_max read states
NO_ROOM = 64  # no free slot; nothing was changed
ABSENT = 128  # the user is not resident

KEEP = -1

# the same numbers for compiled code
_CHANGED = cython.declare(i64, CHANGED)
_DIRTIED = cython.declare(i64, DIRTIED)
_REPLAYED = cython.declare(i64, REPLAYED)
_STALE = cython.declare(i64, STALE)
_DUPLICATE = cython.declare(i64, DUPLICATE)
_TOO_MANY = cython.declare(i64, TOO_MANY)
_NO_ROOM = cython.declare(i64, NO_ROOM)
_ABSENT = cython.declare(i64, ABSENT)
_UNORDERED = cython.declare(i64, -1)  # returned by `_load`

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
_ENTRIES = cython.declare(i64, layout.EXTENSION_ENTRIES)

# The ends of the two lists of users. An end's number says which 32-bit word of a user's slot links
# to the next user when the list is walked from that end. `_ends[end]` is the user at that end, and
# `end ^ 1` is the other end of the same list.
_WARM = cython.declare(i64, layout.FIELDS["colder"].byte_offset // 4)
_COLD = cython.declare(i64, layout.FIELDS["warmer"].byte_offset // 4)
_OLDEST = cython.declare(i64, layout.FIELDS["younger"].byte_offset // 4)
_YOUNGEST = cython.declare(i64, layout.FIELDS["older"].byte_offset // 4)

_MASK = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)
_C1 = cython.declare(u64, 0x9E3779B97F4A7C15)
_C2 = cython.declare(u64, 0xC2B2AE3D27D4EB4F)
_C3 = cython.declare(u64, 0x165667B19E3779F9)
_C4 = cython.declare(u64, 0xD6E8FEB86659FD93)
_C5 = cython.declare(u64, 0xA0761D6478BD642F)
_C6 = cython.declare(u64, 0xE7037ED1A0B428DB)
_C7 = cython.declare(u64, 0x8EBC6AF09C88C6E3)

_BLOCK = cython.declare(i64, 32)  # events, or read states, whose memory is fetched together
_U32_MAX = cython.declare(i64, 0xFFFFFFFF)


class TableFull(Exception):
    """No free slot: evict first."""


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _mix(a: u64, b: u64) -> u64:
    x: u64 = (a * _C1) & _MASK
    x = (x ^ (x >> 32) ^ b) & _MASK
    x = (x * _C2) & _MASK
    x = x ^ (x >> 29)
    return (x * _C3) & _MASK


@cython.cclass
class Kernel:
    """See the module. `buffer`: a writable table file, formatted as layout.py describes."""

    # -- opening and closing -------------------------------------------------------------------

    def __init__(self, buffer: object, user_states_max: int) -> None:
        self._attach(layout.views(buffer))
        self._ends = memoryview(bytearray(8 * (_YOUNGEST + 1))).cast("q")
        self._prefetched = memoryview(bytearray(8 * _BLOCK)).cast("q")
        self._marks = Marks()
        self._buffer = self._marks.entries
        self.user_states_max = user_states_max
        self.now_ms = self.evictions = 0
        self.slots = self._header[layout.AT_SLOTS // 8]
        self._side_max = layout.side_slots_max(user_states_max, self.slots)
        self._marks_max = self._side_max - (self._side_max >> 3)
        self._entries = self._header[layout.AT_INDEX // 8]
        self.resident_users = self._header[layout.AT_USERS // 8]
        self.resident_states = self._header[layout.AT_STATES // 8]
        self.dirty_states = self._header[layout.AT_DIRTY_STATES // 8]
        self.dirty_users = self._header[layout.AT_DIRTY_USERS // 8]
        self._ends[_WARM] = self._header[layout.AT_LRU_HEAD // 8]
        self._ends[_COLD] = self._header[layout.AT_LRU_TAIL // 8]
        self._ends[_OLDEST] = self._header[layout.AT_DIRTY_HEAD // 8]
        self._ends[_YOUNGEST] = self._header[layout.AT_DIRTY_TAIL // 8]
        self._free_head = self._header[layout.AT_FREE_HEAD // 8]
        self.free = self._header[layout.AT_FREE // 8]
        self._used = self._header[layout.AT_USED // 8]

    def _attach(self, views: dict) -> None:
        v = self._views = views
        self._words, self._links, self._index = v["words"], v["links"], v["index"]
        self._status, self._type, self._checksum = v["status"], v["type"], v["checksum"]
        self._user_id, self._floor, self._dirty_since = v["user_id"], v["floor"], v["dirty_since"]
        self._first_version, self._delete_version = v["first_version"], v["delete_version"]
        self._colder, self._warmer = v["colder"], v["warmer"]
        self._first_state, self._live_states = v["first_state"], v["live_states"]
        self._side_slots, self._count_tops = v["side_slots"], v["count_tops"]
        self._channel_id, self._version, self._flags = v["channel_id"], v["version"], v["flags"]
        self._last_message_id, self._last_mention_id = v["last_message_id"], v["last_mention_id"]
        self._pins_and_viewed, self._last_viewed = v["pins_and_viewed"], v["last_viewed"]
        self._mention_count, self._owner = v["mention_count"], v["owner"]
        self._next, self._previous, self._header = v["next"], v["previous"], v["header"]

    def save(self) -> None:
        """Write counts and list ends into the header, for a close or a check."""
        self._header[layout.AT_USERS // 8] = self.resident_users
        self._header[layout.AT_STATES // 8] = self.resident_states
        self._header[layout.AT_DIRTY_STATES // 8] = self.dirty_states
        self._header[layout.AT_DIRTY_USERS // 8] = self.dirty_users
        self._header[layout.AT_LRU_HEAD // 8] = self._ends[_WARM]
        self._header[layout.AT_LRU_TAIL // 8] = self._ends[_COLD]
        self._header[layout.AT_DIRTY_HEAD // 8] = self._ends[_OLDEST]
        self._header[layout.AT_DIRTY_TAIL // 8] = self._ends[_YOUNGEST]
        self._header[layout.AT_FREE_HEAD // 8] = self._free_head
        self._header[layout.AT_FREE // 8] = self.free
        self._header[layout.AT_USED // 8] = self._used

    def close(self) -> None:
        """Save, and release the buffer; a closed table cannot be used."""
        if not self._views["whole"]:
            return
        self.save()
        views = self._views
        self._attach(layout.no_views())
        for view in views.values():
            view.release()

    @property
    def buffer(self) -> memoryview:
        """The bytes of the whole file; its counts and list ends are those of the last `save`."""
        return self._views["whole"]

    @property
    def position(self) -> int:
        """The next offset to take when the file is used again; kept in the header."""
        return self._header[layout.AT_POSITION // 8]

    @position.setter
    def position(self, offset: int) -> None:
        self._header[layout.AT_POSITION // 8] = offset
        self._header[layout.AT_POSITION_INVERTED // 8] = ~offset

    # -- index ---------------------------------------------------------------------------------

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place(self, hashed: u64) -> i64:
        return ((hashed >> 32) * self._entries) >> 32

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place_of_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        return self._place(_mix(channel_id, ((user << 8) | kind) + 1))

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _place_of(self, slot: i64) -> i64:
        """Where a slot's entry would be if no other entry were in its way."""
        if self._status[slot] & _USER:
            return self._place(_mix(self._user_id[slot], 0))
        return self._place_of_state(self._owner[slot], self._type[slot], self._channel_id[slot])

    @cython.final
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

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _index_drop(self, slot: i64) -> cython.int:
        """Remove an entry, and shift the entries behind it back, so that no probe meets a hole."""
        place: i64 = self._place_of(slot)
        steps: i64 = 0
        while True:
            entry: i64 = self._index[place]
            if entry == slot:
                break
            steps += 1
            if entry == 0 or steps > self._entries:
                raise TableDamaged("I2: a slot is not in the index")
            place += 1
            if place == self._entries:
                place = 0
        hole: i64 = place
        while True:
            place += 1
            if place == self._entries:
                place = 0
            entry = self._index[place]
            if entry == 0 or place == hole:
                break
            from_home: i64 = place - self._place_of(entry)
            if from_home < 0:
                from_home += self._entries
            from_hole: i64 = place - hole
            if from_hole < 0:
                from_hole += self._entries
            if from_home >= from_hole:  # otherwise no probe would find the entry in the hole
                self._index[hole] = entry
                hole = place
        self._index[hole] = 0

    def find(self, user_id: i64) -> int:
        """The user's slot, or 0 if the user is not resident."""
        return self._find(user_id)

    @cython.final
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

    @cython.final
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

    # -- slots ---------------------------------------------------------------------------------

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _sum_of(self, slot: i64) -> i64:
        """The checksum that a slot should have."""
        base: i64 = slot * 8
        status: u64 = self._status[slot]
        x: u64 = (
            self._words[base] * _C1 + self._words[base + 1] * _C2
            + self._words[base + 2] * _C3 + self._words[base + 3] * _C4
        )
        if status & _USER:
            x = (x + (status & (_USER | _PARTIAL)) * _C7) & _MASK
        else:
            owner: u64 = self._owner[slot]
            tail: u64 = self._type[slot]
            tail = (owner << 16) | (tail << 8) | status
            x = (
                x + self._words[base + 4] * _C5 + self._words[base + 5] * _C6 + tail * _C7
            ) & _MASK
            if status == _EXTENSION:
                following: u64 = self._next[slot]
                x = (x + following * _C1) & _MASK
        return (((x ^ (x >> 32)) * _C1) & _MASK) >> 48

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _seal(self, slot: i64) -> cython.int:
        self._checksum[slot] = self._sum_of(slot)

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _check(self, slot: i64) -> cython.int:
        if self._checksum[slot] != self._sum_of(slot):
            raise TableDamaged(f"I9: the checksum of slot {slot} is wrong")

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _new_slot(self) -> i64:
        slot: i64 = self._free_head
        if slot:
            self._free_head = self._next[slot]
        elif self._used < self.slots:
            slot = self._used
            self._used += 1
        else:
            raise TableFull(f"all {self.slots - 1} slots are used")
        self.free -= 1
        self._next[slot] = 0
        return slot

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _free_slot(self, slot: i64) -> cython.int:
        word: i64
        for word in range(slot * 8, slot * 8 + 8):
            self._words[word] = 0
        self._next[slot] = self._free_head
        self._free_head = slot
        self.free += 1

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _add_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        slot: i64 = self._new_slot()
        self._fill_state(slot, user, kind, channel_id)
        self._count_live(user, 1)
        return slot

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _fill_state(self, slot: i64, user: i64, kind: i64, channel_id: i64) -> cython.int:
        """Turn a new slot into a read state of the user; the caller counts and seals it."""
        self._channel_id[slot] = channel_id
        self._type[slot] = kind
        self._status[slot] = _STATE
        self._owner[slot] = user
        head: i64 = self._first_state[user]
        self._next[slot] = head
        if head:
            self._previous[head] = slot
        self._first_state[user] = slot
        self._index_add(slot)

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _live(self, user: i64) -> i64:
        """How many read states of the user are shown."""
        return self._live_states[user] | (self._count_tops[user] & 15) << 16

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _side(self, user: i64) -> i64:
        """How many slots the user's hidden read states and extensions take."""
        return self._side_slots[user] | (self._count_tops[user] >> 4) << 16

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _count_live(self, user: i64, more: i64) -> cython.int:
        count: i64 = self._live(user) + more
        if count >> 20:  # this is true below 0, too
            raise TableDamaged(f"I10: slot {user} counts {count} read states")
        self._live_states[user] = count & 0xFFFF
        self._count_tops[user] = (self._count_tops[user] & 0xF0) | (count >> 16)
        self.resident_states += more

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _count_side(self, user: i64, more: i64) -> cython.int:
        count: i64 = self._side(user) + more
        if count >> 20:  # this is true below 0, too
            raise TableDamaged(f"I10: slot {user} counts {count} hidden read states and extensions")
        self._side_slots[user] = count & 0xFFFF
        self._count_tops[user] = (self._count_tops[user] & 15) | (count >> 16) << 4

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _drop_state(self, user: i64, slot: i64) -> cython.int:
        """Unlink and free a state or tombstone with its extensions, and stop counting it."""
        first: i64 = self._first_extension(slot)
        status: cython.int = self._status[slot]
        if status & _HIDDEN:
            self._count_side(user, -1)
        elif not status & _TOMBSTONE:
            self._count_live(user, -1)
        self._index_drop(slot)
        following: i64 = self._next[slot]
        before: i64 = self._previous[slot]
        if before:
            self._next[before] = following
        else:
            self._first_state[user] = following
        if following:
            self._previous[following] = before
        self._free_slot(slot)
        self._count_side(user, -self._free_extensions(first))

    # -- extensions ----------------------------------------------------------------------------

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _first_extension(self, slot: i64) -> i64:
        return self._last_mention_id[slot] if self._status[slot] & _EXTENDED else 0

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _free_extensions(self, extension: i64) -> i64:
        """Free a read state's former extensions, from the first on; returns how many."""
        count: i64 = 0
        while extension:
            if self._status[extension] != _EXTENSION:
                raise TableDamaged(f"I14: slot {extension} is no extension")
            following: i64 = self._next[extension]
            self._free_slot(extension)
            extension = following
            count += 1
        return count

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _read_entries(self, slot: i64) -> i64:
        """Copy a read state's entries into `_buffer`; returns how many. O(entries)."""
        count: i64 = 0
        word: i64
        if not self._status[slot] & _EXTENDED:
            if self._mention_count[slot]:
                self._buffer[0] = self._last_mention_id[slot]
                self._buffer[1] = 0
                count = 1
            return count
        extension: i64 = self._last_mention_id[slot]
        while extension:
            if self._status[extension] != _EXTENSION or self._owner[extension] != slot:
                raise TableDamaged(f"I14: slot {extension} is no extension of slot {slot}")
            self._check(extension)
            used: i64 = self._type[extension]
            for word in range(2 * used):
                self._buffer[2 * count + word] = self._words[extension * 8 + word]
            count += used
            extension = self._next[extension]
        return count

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _write_entries(self, slot: i64, count: i64) -> i64:
        """Put `count` entries of `_buffer` into new extensions; returns the first one, or 0."""
        word: i64
        following: i64 = 0
        while count > 0:
            used: i64 = count % _ENTRIES or _ENTRIES
            count -= used
            extension: i64 = self._new_slot()
            for word in range(2 * used):
                self._words[extension * 8 + word] = self._buffer[2 * count + word]
            self._status[extension] = _EXTENSION
            self._type[extension] = used
            self._owner[extension] = slot
            self._next[extension] = following
            self._seal(extension)
            following = extension
        return following

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _after(self, slot: i64, steps: i64) -> i64:
        """The next state on the user's list, or 0; `steps` counts from the list's head."""
        if steps >= self.slots:
            raise TableDamaged("I3: a user's list does not end")
        return self._next[slot]

    # -- lists: the LRU and the dirty queue ----------------------------------------------------

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _link(self, user: i64, end: i64) -> cython.int:
        """Put a user at an end of a list."""
        back: i64 = end ^ 1
        other: i64 = self._ends[end]
        self._links[user * 16 + end] = other
        self._links[user * 16 + back] = 0
        if other:
            self._links[other * 16 + back] = user
        else:
            self._ends[back] = user
        self._ends[end] = user

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _unlink(self, user: i64, end: i64) -> cython.int:
        """Take a user off the list that has this end."""
        back: i64 = end ^ 1
        following: i64 = self._links[user * 16 + end]
        before: i64 = self._links[user * 16 + back]
        if before:
            self._links[before * 16 + end] = following
        else:
            self._ends[end] = following
        if following:
            self._links[following * 16 + back] = before
        else:
            self._ends[back] = before

    # -- residents -----------------------------------------------------------------------------

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _touch(self, user: i64) -> cython.int:
        if self._ends[_WARM] != user:
            self._unlink(user, _WARM)
            self._link(user, _WARM)

    def touch(self, user: i64) -> None:
        """Move a user to the warm end."""
        self._touch(user)

    def insert(self, user_id: i64, floor: i64, cold: cython.bint, rows: object = ()) -> int:
        """Make a user resident and clean, with all its read states as the database has them.

        `cold`: put the user at the cold end of the LRU. `rows`: ReadState tuples of
        `schemas.replies`. Raises TableFull, and ValueError for a user who is resident, a number out
        of its field's range or a repeated read state. An error leaves the table as it was. O(rows).
        """
        if self._find(user_id):
            raise ValueError(f"user {user_id} is resident")
        user: i64 = self._new_slot()
        self._user_id[user] = user_id
        self._floor[user] = floor
        self._status[user] = _USER | _PARTIAL
        self._index_add(user)
        self._link(user, _COLD if cold else _WARM)
        self.resident_users += 1
        self._seal(user)
        before: i64 = 0
        try:
            for row in rows:  # type: ignore[attr-defined]  # any iterable
                before = self._load(user, row, before)
        except (TableFull, ValueError, OverflowError):
            self._evict(user)
            raise
        store_barrier()  # O1: the last read state is sealed before PARTIAL is cleared
        self._status[user] &= ~_PARTIAL & 0xFF
        self._seal(user)
        return user

    @cython.final
    @cython.cfunc
    @cython.exceptval(-2)
    def _load(self, user: i64, row: tuple, before: i64) -> i64:
        """Load one row; returns its new slot, or _UNORDERED if the rows are not in order.

        `before`: the slot of the previous row, or 0. Rows that come in order, as the database
        gives them, are not looked up, because none of them can be there twice.
        """
        kind: i64 = row[0]
        channel_id: i64 = row[1]
        last_message_id: i64 = row[2]
        last_mention_id: i64 = row[3]
        mention_count: i64 = row[4]
        last_pin_timestamp: i64 = row[5]
        flags: i64 = row[6]
        last_viewed: i64 = row[7]
        version: i64 = row[8]
        entries: i64 = 0
        valid: cython.bint = last_message_id >= 0
        ordered: cython.bint = self._first_state[user] == before and (
            before == 0
            or kind > self._type[before]
            or (kind == self._type[before] and channel_id > self._channel_id[before])
        )
        if row[9]:
            entries = self._marks.read_extra(last_message_id, row[9])
            mention_count = self._marks.mention_count()
        elif mention_count:  # without entries there is one unread mention, or none
            valid = valid and mention_count == 1 and last_mention_id > last_message_id
        else:
            valid = valid and last_mention_id == 0
        if (
            not valid or kind >> 8 or last_pin_timestamp >> 48 or flags >> 32 or last_viewed >> 16
            or (not ordered and self._find_state(user, kind, channel_id))
        ):
            raise ValueError(
                f"not a new, valid read state: type {kind} channel {channel_id} mentions "
                f"{mention_count} pins {last_pin_timestamp} flags {flags} viewed {last_viewed}"
            )
        if 1 + (entries + _ENTRIES - 1) // _ENTRIES > self.free:
            raise TableFull(f"{self.free} of {self.slots - 1} slots are free")
        slot: i64 = self._new_slot()
        self._fill_state(slot, user, kind, channel_id)
        self._last_message_id[slot] = last_message_id
        self._last_mention_id[slot] = last_mention_id
        self._version[slot] = version
        self._pins_and_viewed[slot] = (last_pin_timestamp << 16) | last_viewed
        self._mention_count[slot] = mention_count
        self._flags[slot] = flags
        if entries:
            self._last_mention_id[slot] = self._write_entries(slot, entries)
            self._status[slot] |= _EXTENDED
            self._count_side(user, (entries + _ENTRIES - 1) // _ENTRIES)
        if last_message_id or mention_count or last_pin_timestamp or flags or last_viewed:
            self._count_live(user, 1)
        else:
            self._status[slot] |= _HIDDEN
            self._count_side(user, 1)
            if channel_id == 0:
                self._status[user] |= _FINAL
        self._seal(slot)
        return slot if ordered else _UNORDERED

    def evict(self, needed: i64, scan_max: i64, keep: i64 = 0) -> bool:
        """Evict clean users from the cold end until `needed` slots are free; True if they are.

        Looks at no more than `scan_max` users and never evicts `keep`. O(read states evicted).
        """
        user: i64 = self._ends[_COLD]
        looked: i64 = 0
        while self.free < needed and user and looked < scan_max:
            warmer: i64 = self._warmer[user]
            if user != keep and not self._status[user] & (_QUEUED | _IN_FLIGHT):
                self.evictions += self._live(user)
                self._evict(user)
            user = warmer
            looked += 1
        return self.free >= needed

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _evict(self, user: i64) -> cython.int:
        self._status[user] |= _PARTIAL
        self._seal(user)
        store_barrier()  # O2: PARTIAL is sealed before the first read state is freed
        self.resident_states -= self._live(user)
        slot: i64 = self._first_state[user]
        steps: i64 = 0
        self._prefetch_states(slot)
        while slot:
            following: i64 = self._after(slot, steps)
            first: i64 = self._first_extension(slot)
            self._index_drop(slot)
            self._free_slot(slot)
            self._free_extensions(first)
            slot = following
            steps += 1
        self._unlink(user, _WARM)
        self._index_drop(user)
        self._free_slot(user)
        self.resident_users -= 1

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _prefetch_states(self, slot: i64) -> cython.int:
        """Touch the memory that `_index_drop` will read, so that its cache misses overlap."""
        count: i64 = 0
        index: i64
        step: i64
        sink: i64 = 0
        while slot and count < _BLOCK:
            place: i64 = self._place_of(slot)
            sink ^= self._index[place]
            self._prefetched[count] = place
            count += 1
            slot = self._next[slot]
        for index in range(count):
            place = self._prefetched[index]
            for step in range(4):  # a probe and its shift seldom go further
                if place + step < self._entries:
                    sink ^= self._channel_id[self._index[place + step]]
        self._prefetch_sink = sink

    # -- the dirty queue -----------------------------------------------------------------------

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _queue_add(self, user: i64, end: i64) -> cython.int:
        self._status[user] |= _QUEUED
        self.dirty_users += 1
        self._link(user, end)

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _user_changed(self, user: i64, version: i64) -> i64:
        """Note a change to a user; returns DIRTIED if it is the user's first unwritten one."""
        if self._first_version[user]:
            return 0
        self._first_version[user] = version
        self._dirty_since[user] = self.now_ms & _U32_MAX
        if not self._status[user] & _IN_FLIGHT:
            self._queue_add(user, _YOUNGEST)
        self._seal(user)
        return _DIRTIED

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _changed(self, user: i64, slot: i64, version: i64) -> i64:
        """Stamp a changed state, mark it dirty and seal it; returns CHANGED or CHANGED|DIRTIED."""
        self._version[slot] = version
        if not self._status[slot] & _DIRTY:
            self._status[slot] |= _DIRTY
            self.dirty_states += 1
        self._seal(slot)
        return _CHANGED | self._user_changed(user, version)

    # -- the fold: each method returns a set of the bits from CHANGED to ABSENT ------------------

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _open(self, user: i64, kind: i64, channel_id: i64, value: i64, version: i64) -> i64:
        """Return the slot of the read state to change, after adding it if it is missing.

        If the event is refused, return the negative of the code, such as -_REPLAYED.

        `value`: the value that the event would set. A missing state is not added for a value of 0.
        """
        slot: i64 = self._find_state(user, kind, channel_id)
        if slot:
            self._check(slot)
            if version <= self._version[slot]:
                return -_REPLAYED
            if not self._status[slot] & _TOMBSTONE:
                return slot
        if version <= self._delete_version[user]:
            return -_REPLAYED
        if value <= 0:
            return -_STALE
        if self._live(user) >= self.user_states_max:
            return -_TOO_MANY
        if slot == 0:
            return self._add_state(user, kind, channel_id) if self.free else -_NO_ROOM
        self._status[slot] &= ~_TOMBSTONE & 0xFF  # the deletion has set its fields to zero
        self._count_live(user, 1)
        return slot

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _set_options(self, slot: i64, flags: i64, last_viewed: i64) -> cython.bint:
        """Set flags and last_viewed where given; True if one of them changed."""
        changed: cython.bint = False
        if flags >= 0 and self._flags[slot] != flags:
            self._flags[slot] = flags
            changed = True
        if last_viewed >= 0 and self._last_viewed[slot] != last_viewed:
            self._last_viewed[slot] = last_viewed
            changed = True
        return changed

    def ack(
        self, user: i64, kind: i64, channel_id: i64,
        message_id: i64, flags: i64, last_viewed: i64, version: i64,
    ) -> int:
        """Fold a plain ack (no manual one, no `if_version`); an older one changes nothing.

        The marks (marks.py) of messages up to it are removed.
        """
        return self._ack(user, kind, channel_id, message_id, flags, last_viewed, version)

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _ack(
        self, user: i64, kind: i64, channel_id: i64,
        message_id: i64, flags: i64, last_viewed: i64, version: i64,
    ) -> i64:
        slot: i64 = self._open(user, kind, channel_id, message_id, version)
        if slot < 0:
            return -slot
        if self._status[slot] & (_EXTENDED | _HIDDEN):
            return self._ack_marks(user, slot, message_id, flags, last_viewed, -1, version)
        if message_id < self._last_message_id[slot]:
            return _STALE
        changed: cython.bint = self._set_options(slot, flags, last_viewed)
        if message_id != self._last_message_id[slot]:
            self._last_message_id[slot] = message_id
            changed = True
        if self._mention_count[slot] and message_id >= self._last_mention_id[slot]:
            self._mention_count[slot] = 0
            self._last_mention_id[slot] = 0
            changed = True
        return self._changed(user, slot, version) if changed else _DUPLICATE

    def mention(self, user: i64, kind: i64, channel_id: i64, message_id: i64, version: i64) -> int:
        """Fold a mention of the user in the first revision of a message (`edit` 0)."""
        return self._mention(user, kind, channel_id, message_id, version)

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _mention(self, user: i64, kind: i64, channel_id: i64, message_id: i64, version: i64) -> i64:
        slot: i64 = self._open(user, kind, channel_id, message_id, version)
        if slot < 0:
            return -slot
        if self._mention_count[slot] or self._status[slot] & (_EXTENDED | _HIDDEN):
            return self._mark(user, slot, kind, channel_id, message_id, 0, version)
        if message_id <= self._last_message_id[slot]:
            return _STALE
        self._mention_count[slot] = 1
        self._last_mention_id[slot] = message_id
        return self._changed(user, slot, version)

    # -- left to `marked.py` -------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _ack_marks(
        self, user: i64, slot: i64, message_id: i64, flags: i64, last_viewed: i64,
        if_version: i64, version: i64,
    ) -> i64:
        """Fold a plain ack into a read state that has entries or is hidden: see `marked.py`."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def _mark(
        self, user: i64, slot: i64, kind: i64, channel_id: i64, message_id: i64, rank: i64,
        version: i64,
    ) -> i64:
        """Fold a mention into a read state that has marks or is hidden: see `marked.py`."""
        raise NotImplementedError

    # -- many events at once -------------------------------------------------------------------

    def fold_run(self, events: i64[:], count: i64, codes: cython.uchar[:]) -> int:
        """Fold events. An ack also moves its user to the warm end. Returns how many were taken.

        `events`: eight numbers each, as `schemas/fast_decoder.py` makes them. `codes` receives the
        result of each `ack` or `mention`, or ABSENT. Stops before an event that finds no room. The
        events of a block are looked up together first, so that the processor waits for their memory
        once, instead of once for each event.
        """
        begin: i64 = 0
        index: i64
        while begin < count:
            end: i64 = min(begin + _BLOCK, count)
            self._prefetch(events, begin, end)
            for index in range(begin, end):
                at: i64 = index * 8
                user: i64 = self._prefetched[index - begin]
                code: i64 = 0 if user else _ABSENT
                if user and self._status[user] & _FINAL:
                    code = self._refusal(user, events[at + 6])
                if code == 0:
                    kind: i64 = events[at + 1]
                    channel_id: i64 = events[at + 2]
                    message_id: i64 = events[at + 3]
                    version: i64 = events[at + 6]
                    if events[at + 7]:
                        code = self._mention(user, kind, channel_id, message_id, version)
                    else:
                        self._touch(user)
                        code = self._ack(
                            user, kind, channel_id, message_id, events[at + 4], events[at + 5],
                            version,
                        )
                if code == _NO_ROOM:
                    return index
                codes[index] = code
            begin = end
        return count

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _refusal(self, user: i64, version: i64) -> i64:
        """ABSENT before `restore_user`; after it, REPLAYED for older events, and 0 for others."""
        mark: i64 = self._find_state(user, 0, 0)
        if not self._status[mark] & _EXTENDED:
            return _ABSENT
        return _REPLAYED if version <= self._version[mark] else 0

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _prefetch(self, events: i64[:], begin: i64, end: i64) -> cython.int:
        """Find the users of events[begin:end], and touch the memory that folding them will need.

        The loads within a loop do not wait for one another, so their cache misses overlap.
        """
        index: i64
        sink: i64 = 0
        for index in range(begin, end):
            sink ^= self._index[self._place(_mix(events[index * 8], 0))]
        for index in range(begin, end):
            sink ^= self._user_id[self._index[self._place(_mix(events[index * 8], 0))]]
        for index in range(begin, end):
            at: i64 = index * 8
            user: i64 = self._find(events[at])
            self._prefetched[index - begin] = user
            place: i64 = self._place_of_state(user, events[at + 1], events[at + 2])
            sink ^= self._index[place]
            sink ^= self._warmer[self._colder[user]]
            sink ^= self._colder[self._warmer[user]]
        for index in range(begin, end):
            at = index * 8
            user = self._prefetched[index - begin]
            place = self._place_of_state(user, events[at + 1], events[at + 2])
            sink ^= self._channel_id[self._index[place]]
        self._prefetch_sink = sink

    # -- reading -------------------------------------------------------------------------------

    @cython.final
    @cython.cfunc
    def _row(self, slot: i64) -> tuple:
        self._check(slot)
        packed: u64 = self._pins_and_viewed[slot]
        last_mention_id: i64 = self._last_mention_id[slot]
        extra: bytes = b""
        if self._status[slot] & _EXTENDED:
            index: i64
            count: i64 = self._read_entries(slot)
            last_mention_id = 0
            for index in range(count):
                if not self._buffer[2 * index + 1] >> 40 and not self._buffer[2 * index + 1] & 1:
                    last_mention_id = self._buffer[2 * index]
            extra = self._marks.extra(count)
        return (
            self._type[slot], self._channel_id[slot], self._last_message_id[slot],
            last_mention_id, self._mention_count[slot], packed >> 16,
            self._flags[slot], packed & 0xFFFF, self._version[slot], extra,
        )

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _shown(self, slot: i64) -> cython.bint:
        """True for a read state that replies show."""
        return slot != 0 and not self._status[slot] & (_TOMBSTONE | _HIDDEN)

    def has(self, user: i64, kind: i64, channel_id: i64) -> bool:
        """True if this read state has a slot, even if no reply shows it."""
        return bool(self._find_state(user, kind, channel_id))

    def get_some(self, user: i64, kind: i64, channel_ids: tuple) -> list:
        """The user's read states of one type in these channels, by channel ID. O(n log n).

        Each is a tuple with the fields of `readstates.schemas.replies.ReadState`, as in `states`.
        """
        rows: list = []
        for channel_id in sorted(channel_ids):
            slot: i64 = self._find_state(user, kind, channel_id)
            if self._shown(slot):
                rows.append(self._row(slot))
        return rows

    def states(self, user: i64) -> list:
        """All read states of a user by type and channel; see `select`."""
        return self.select(user, -1, -1, False, -1, 0, 0)

    @cython.ccall
    def select(
        self, user: i64, kind: i64, since: i64, mentioned: cython.bint, after_kind: i64,
        after_channel: i64, most: i64,
    ) -> list:
        """A user's read states by type and channel. O(n), or O(n log n) after changes.

        `kind`: -1 for all types. `since`: only larger versions. `mentioned`: only with a mention.
        `after_kind`, `after_channel`: only what comes after. `most`: the maximum number of rows; 0
        for no limit.

        Rows are loaded in ascending order, each to the head of the list, so the list is in
        descending order. Reversing it is enough, unless later changes have broken that order.
        """
        found: list = []  # rows; with `most`, slot numbers: rows are built only for the kept ones
        slot: i64 = self._first_state[user]
        steps: i64 = 0
        last_kind: i64 = 256
        last_channel: i64 = 0
        descending: cython.bint = True
        while slot:
            its_kind: i64 = self._type[slot]
            channel_id: i64 = self._channel_id[slot]
            if (
                not self._status[slot] & (_TOMBSTONE | _HIDDEN)
                and (kind < 0 or kind == its_kind)
                and self._version[slot] > since
                and (not mentioned or self._mention_count[slot])
                and (
                    its_kind > after_kind
                    or (its_kind == after_kind and channel_id > after_channel)
                )
            ):
                if its_kind > last_kind or (its_kind == last_kind and channel_id > last_channel):
                    descending = False
                last_kind = its_kind
                last_channel = channel_id
                found.append(slot if most else self._row(slot))
            slot = self._after(slot, steps)
            steps += 1
        found.reverse()
        if not descending:
            found.sort(key=self._place_in_replies if most else None)
        if most:
            del found[most:]
            return [self._row(slot) for slot in found]
        return found

    def _place_in_replies(self, slot: i64) -> tuple:
        return self._type[slot], self._channel_id[slot]

    def totals(self, user: i64, kind: i64) -> tuple:
        """Count the read states, those with a mention, and the mentions. O(n).

        `kind`: only of this type, -1 for all.
        """
        found: i64 = 0
        mentioned: i64 = 0
        mentions: i64 = 0
        slot: i64 = self._first_state[user]
        steps: i64 = 0
        while slot:
            if not self._status[slot] & (_TOMBSTONE | _HIDDEN) and (
                kind < 0 or kind == self._type[slot]
            ):
                found += 1
                mentioned += self._mention_count[slot] != 0
                mentions += self._mention_count[slot]
            slot = self._after(slot, steps)
            steps += 1
        return found, mentioned, mentions

    def count(self, user: i64) -> int:
        """How many read states the user has."""
        return self._live(user)

    def floor(self, user: i64) -> int:
        """The user's floor: a query with a smaller `since_version` gets a full reply."""
        return self._floor[user]

    def user_id(self, user: i64) -> int:
        """The ID of the user in a slot."""
        return self._user_id[user]
