# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The table of one partition: its resident users, with all their read states, in a mapped buffer.

This is plain Python that Cython compiles unchanged; `COMPILED` says whether it is compiled. No
entry is a Python object: entries are numbers in the slots that `layout.py` describes, and links are
slot numbers, so the collector has nothing to scan. The LRU is a list of users, because a user is
resident with all its read states or not at all.

A "user" in this interface is its slot number, valid until the user is evicted. Fold methods return
a set of the bits below. Costs are O(1) unless stated otherwise. Damage raises IndexError or
TableDamaged: bounds are checked, checksums are checked where a state is read or folded into, and
no walk is longer than the table.

Contents, in this order:
    opening and closing     the views of the buffer, counts and list ends
    index                   find, _find_state, adding and removing entries
    slots                   checksums, taking and freeing a slot, a user's list of read states
    lists                   _link and _unlink, for the LRU and the dirty queue
    residents               touch, insert, evict, cold_dirty
    the life of a change    take, written, write_failed, recover
    the fold                ack, mention, … delete_user: one event each
    events with marks       what events do to a read state that has entries or gets some
    many events at once     fold_run
    reading                 states, get_some, …

All of it is one file because a plain ack runs through six of these parts, and the C compiler
inlines only within a file. If it were split into two compiled modules, every call between them
would go through a table of pointers (an ack would cost 5 % more), and every memoryview handed from
function to function would be copied. Code that an ack does not run through is elsewhere:
`rebuild.py` repairs a file whose process died, `verify.py` checks one, `tablefile.py` opens and
closes the file itself, and `fsck.py` is a second, independent reader of such files.

How it works. Each field of a slot is a view over all slots (`_version[slot]`); layout.FIELDS says
where it is. A user's and a state's fields share the same bytes: `_status` tells the kinds of slots
apart. `_index` is probed linearly from `hash * entries >> 32`; a removal shifts entries back and
leaves no placeholder. List ends and counts live in the object and go to the header in `save`.

A read state with no mark, or with one mention, needs no slot but its own. If it has more entries
(`marks.py` says what they are), they are in extensions: slots that only the read state leads to. An
extension is never changed. New ones are made, then the read state is sealed with the new link, then
the old ones are freed (O6, O7).

The life of a change: a fold method marks the state DIRTY and queues its user; `take` gives the
user's dirty rows to be written, and the user is then IN_FLIGHT; `written` clears DIRTY if the
version is still the one that was written, and frees tombstones; a change made meanwhile queues the
user again.

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
from .slots import give_way

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

_TURN = cython.declare(i64, 1023)  # a mask, as in slots.py
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


@cython.final
@cython.cclass
class Table:
    """See the module. `buffer`: a writable table file, formatted as layout.py describes."""

    # both kinds of slots
    _words: i64[:]  # all slots as numbers of 64 bits, eight each
    _links: cython.uint[:]  # all slots as numbers of 32 bits, sixteen each
    _status: cython.uchar[:]
    _checksum: cython.ushort[:]
    # of a user
    _user_id: i64[:]
    _floor: i64[:]
    _first_version: i64[:]
    _delete_version: i64[:]
    _colder: cython.uint[:]
    _warmer: cython.uint[:]
    _first_state: cython.uint[:]
    _live_states: cython.ushort[:]  # the lower 16 of 20 bits, as in the next field
    _side_slots: cython.ushort[:]
    _count_tops: cython.uchar[:]  # the upper 4 bits of both
    _dirty_since: cython.uint[:]
    # of a state
    _channel_id: i64[:]
    _last_message_id: i64[:]
    _last_mention_id: i64[:]
    _version: i64[:]
    _pins_and_viewed: u64[:]
    _last_viewed: cython.ushort[:]
    _mention_count: cython.uint[:]
    _flags: cython.uint[:]
    _owner: cython.uint[:]
    _next: cython.uint[:]
    _previous: cython.uint[:]
    _type: cython.uchar[:]

    _index: cython.uint[:]
    _header: i64[:]
    _views: dict
    _ends: i64[:]
    _prefetched: i64[:]  # what `_prefetch` and `_prefetch_states` found: users, index places
    _marks: Marks  # of the read state that an event changes
    _buffer: i64[:]  # the entries of `_marks`
    _prefetch_sink: i64  # takes the loaded values, or the compiler would leave the loads out
    _entries: i64
    _free_head: i64
    _used: i64
    slots = cython.declare(i64, visibility="readonly")
    free = cython.declare(i64, visibility="readonly")
    resident_users = cython.declare(i64, visibility="readonly")
    resident_states = cython.declare(i64, visibility="readonly")
    dirty_states = cython.declare(i64, visibility="readonly")
    dirty_users = cython.declare(i64, visibility="readonly")
    evictions = cython.declare(i64, visibility="readonly")
    user_states_max = cython.declare(i64, visibility="readonly")
    _side_max: i64  # a user's slots for extensions and hidden read states
    _marks_max: i64  # how many of these slots marks may take; see `_put`
    now_ms = cython.declare(i64, visibility="public")

    # -- opening and closing ------------------------------------------------------------------

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

    # -- index --------------------------------------------------------------------------------

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
            if from_home >= from_hole:  # otherwise a probe would not find the entry in the hole
                self._index[hole] = entry
                hole = place
        self._index[hole] = 0

    @cython.ccall
    @cython.exceptval(-1)
    def find(self, user_id: i64) -> i64:
        """The user's slot, or 0 if the user is not resident."""
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

    # -- slots --------------------------------------------------------------------------------

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

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _seal(self, slot: i64) -> cython.int:
        self._checksum[slot] = self._sum_of(slot)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _check(self, slot: i64) -> cython.int:
        if self._checksum[slot] != self._sum_of(slot):
            raise TableDamaged(f"I9: the checksum of slot {slot} is wrong")

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

    @cython.cfunc
    @cython.exceptval(-1)
    def _free_slot(self, slot: i64) -> cython.int:
        word: i64
        for word in range(slot * 8, slot * 8 + 8):
            self._words[word] = 0
        self._next[slot] = self._free_head
        self._free_head = slot
        self.free += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _add_state(self, user: i64, kind: i64, channel_id: i64) -> i64:
        slot: i64 = self._new_slot()
        self._fill_state(slot, user, kind, channel_id)
        self._count_live(user, 1)
        return slot

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

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _live(self, user: i64) -> i64:
        """How many read states of the user are shown."""
        return self._live_states[user] | (self._count_tops[user] & 15) << 16

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _side(self, user: i64) -> i64:
        """How many slots the user's hidden read states and extensions take."""
        return self._side_slots[user] | (self._count_tops[user] >> 4) << 16

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_live(self, user: i64, more: i64) -> cython.int:
        count: i64 = self._live(user) + more
        if count >> 20:  # this is true below 0, too
            raise TableDamaged(f"I10: slot {user} counts {count} read states")
        self._live_states[user] = count & 0xFFFF
        self._count_tops[user] = (self._count_tops[user] & 0xF0) | (count >> 16)
        self.resident_states += more

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_side(self, user: i64, more: i64) -> cython.int:
        count: i64 = self._side(user) + more
        if count >> 20:  # this is true below 0, too
            raise TableDamaged(f"I10: slot {user} counts {count} hidden ones and extensions")
        self._side_slots[user] = count & 0xFFFF
        self._count_tops[user] = (self._count_tops[user] & 15) | (count >> 16) << 4

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

    # -- extensions ---------------------------------------------------------------------------

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _first_extension(self, slot: i64) -> i64:
        return self._last_mention_id[slot] if self._status[slot] & _EXTENDED else 0

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

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_marks(self, slot: i64) -> cython.int:
        """Read what `_marks` needs of a read state; slot 0 means that there is none yet."""
        try:
            self._marks.read(self._last_message_id[slot], self._read_entries(slot))
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"I15: the entries of slot {slot}: {exc}") from exc

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _after(self, slot: i64, steps: i64) -> i64:
        """The next state on the user's list, or 0; `steps` counts from the list's head."""
        if steps >= self.slots:
            raise TableDamaged("I3: a user's list does not end")
        return self._next[slot]

    # -- lists: the LRU and the dirty queue ---------------------------------------------------

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

    # -- residents ----------------------------------------------------------------------------

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
        of its field's range or a repeated read state; then nothing has been inserted. O(rows).
        """
        if self.find(user_id):
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

    @cython.cfunc
    @cython.exceptval(-2)
    def _load(self, user: i64, row: tuple, before: i64) -> i64:
        """Load one row; returns its new slot, or _UNORDERED if the rows are not in order.

        `before`: the slot of the previous row, or 0. Rows that come in order, as the database has
        them, are not looked up, because none of them can be there twice.
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

    @cython.cfunc
    @cython.exceptval(-1)
    def _prefetch_states(self, slot: i64) -> cython.int:
        """Load what `_index_drop` needs for a list's first states, so that cache misses overlap."""
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

    def cold_dirty(self, limit: i64) -> list:
        """Up to `limit` queued users among the 4 * limit coldest, the coldest first."""
        users: list = []
        user: i64 = self._ends[_COLD]
        looked: i64 = 0
        while user and looked < 4 * limit and len(users) < limit:
            if self._status[user] & _QUEUED:
                users.append(user)
            user = self._warmer[user]
            looked += 1
        return users

    # -- the life of a change -----------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _queue_add(self, user: i64, end: i64) -> cython.int:
        self._status[user] |= _QUEUED
        self.dirty_users += 1
        self._link(user, end)

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

    def dirty_head(self) -> int:
        """The user that has waited longest to be written out, or 0."""
        return self._ends[_OLDEST]

    def dirty_since_ms(self, user: i64) -> int:
        """`now_ms` at the user's first unwritten change, modulo 2^32."""
        return self._dirty_since[user]

    def first_version(self, user: i64) -> int:
        """The version of the user's first change that no write has taken, or 0."""
        return self._first_version[user]

    def take(self, user: i64) -> tuple:
        """Take a queued user's changes for writing: (first_version, delete_version, rows).

        `rows`: (deleted, ReadState) for each dirty read state, which stays dirty until `written`.
        O(read states of the user).
        """
        if not self._status[user] & _QUEUED:
            raise TableDamaged("I5: the user is not queued")
        self._check(user)
        self._unlink(user, _OLDEST)
        self._status[user] = (self._status[user] & ~_QUEUED) | _IN_FLIGHT
        self.dirty_users -= 1
        first_version: i64 = self._first_version[user]
        self._first_version[user] = 0
        self._seal(user)
        rows: list = []
        slot: i64 = self._first_state[user]
        steps: i64 = 0
        while slot:
            status: cython.int = self._status[slot]
            if status & _DIRTY:
                rows.append((bool(status & _TOMBSTONE), self._row(slot)))
            slot = self._after(slot, steps)
            steps += 1
        return first_version, self._delete_version[user], rows

    def written(self, user: i64, delete_version: i64, rows: list) -> None:
        """Note that the rows of `take` are in the database: those unchanged since become clean."""
        if not self._status[user] & _IN_FLIGHT:
            raise ValueError(f"no write of slot {user} is under way")
        for deleted, row in rows:
            slot: i64 = self._find_state(user, row[0], row[1])
            if not slot or self._version[slot] != row[8] or not self._status[slot] & _DIRTY:
                continue
            self.dirty_states -= 1
            if deleted:
                self._drop_state(user, slot)
            else:
                self._status[slot] &= ~_DIRTY & 0xFF
                self._seal(slot)
        if delete_version and self._delete_version[user] == delete_version:
            self._delete_version[user] = 0
        self._status[user] &= ~_IN_FLIGHT & 0xFF
        self._seal(user)
        if self._first_version[user]:
            self._queue_add(user, _YOUNGEST)

    def write_failed(self, user: i64, first_version: i64, since_ms: i64) -> None:
        """The rows of `take` must be written again: put the user at the head of the queue.

        `first_version`, `since_ms`: the values at `take`; they are older than any change since.
        """
        if not self._status[user] & _IN_FLIGHT:
            raise ValueError(f"no write of slot {user} is under way")
        self._status[user] &= ~_IN_FLIGHT & 0xFF
        self._first_version[user] = first_version
        self._dirty_since[user] = since_ms & _U32_MAX
        self._seal(user)
        self._queue_add(user, _OLDEST)

    def recover(self, first_version: i64) -> int:
        """After opening a used file: queue every user whose changes may not be in the database.

        `first_version`: the version of the committed offset. The first versions of writes that were
        under way are lost, but none is below this one. Each user's wait starts at `now_ms`. Returns
        how many users are queued: each of them holds back the commit. O(users).
        """
        user: i64 = self._ends[_WARM]
        steps: i64 = 0
        while user:
            status: cython.int = self._status[user]
            if status & (_QUEUED | _IN_FLIGHT):
                self._status[user] &= ~_IN_FLIGHT & 0xFF
                self._dirty_since[user] = self.now_ms & _U32_MAX
                self._first_version[user] = first_version
                self._seal(user)
                if not status & _QUEUED:
                    self._queue_add(user, _OLDEST)
            user = self._colder[user]
            steps += 1
            if steps & _TURN == 0:
                give_way()
            if steps > self.slots:
                raise TableDamaged("I4: the LRU does not end")
        return self.dirty_users

    def newest(self) -> int:
        """The largest version in the table, deletions included; 0 if it is empty. O(slots)."""
        slot: i64
        newest: i64 = 0
        for slot in range(1, self._used):
            if slot & _TURN == 0:
                give_way()
            if self._status[slot] == _EXTENSION:
                continue
            version: i64 = self._floor[slot] if self._status[slot] & _USER else self._version[slot]
            if self._status[slot] and version > newest:
                newest = version
        return newest

    # -- the fold: each method returns a set of the bits above --------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _open(self, user: i64, kind: i64, channel_id: i64, value: i64, version: i64) -> i64:
        """Return the slot of a live state to change, added if missing, or minus the refusal's code.

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

    @cython.cfunc
    @cython.exceptval(-1)
    def _known(self, user: i64, kind: i64, channel_id: i64, version: i64) -> i64:
        """The slot of a state or tombstone, 0 if there is none, or minus _REPLAYED."""
        slot: i64 = self._find_state(user, kind, channel_id)
        if version <= (self._version[slot] if slot else self._delete_version[user]):
            return -_REPLAYED
        if slot:
            self._check(slot)
        return slot

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _shown(self, slot: i64) -> cython.bint:
        """True for a read state that replies show."""
        return slot != 0 and not self._status[slot] & (_TOMBSTONE | _HIDDEN)

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

    @cython.ccall
    @cython.exceptval(-1)
    def ack(
        self, user: i64, kind: i64, channel_id: i64,
        message_id: i64, flags: i64, last_viewed: i64, version: i64,
    ) -> i64:
        """Fold a plain ack: it moves forward only, and removes the marks that it covers."""
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

    @cython.ccall
    @cython.exceptval(-1)
    def mention(self, user: i64, kind: i64, channel_id: i64, message_id: i64, version: i64) -> i64:
        """Fold a mention of the user in a message, with edit 0."""
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

    @cython.ccall
    @cython.exceptval(-1)
    def pins_ack(self, user: i64, kind: i64, channel_id: i64, timestamp: i64, version: i64) -> i64:
        """Fold a pins ack: keep the larger pin timestamp (ms)."""
        slot: i64 = self._open(user, kind, channel_id, timestamp, version)
        if slot < 0:
            return -slot
        packed: u64 = self._pins_and_viewed[slot]
        wanted: u64 = timestamp
        known: i64 = packed >> 16
        if timestamp <= known:
            return _STALE if timestamp < known else _DUPLICATE
        packed = (wanted << 16) | (packed & 0xFFFF)
        if self._status[slot] & _HIDDEN:
            return self._show(user, slot, packed, 0, version)
        self._pins_and_viewed[slot] = packed
        return self._changed(user, slot, version)

    @cython.ccall
    @cython.exceptval(-1)
    def set_options(
        self, user: i64, kind: i64, channel_id: i64, flags: i64, last_viewed: i64, version: i64
    ) -> i64:
        """Set flags and last_viewed where given (KEEP: not given), without an ack."""
        slot: i64 = self._open(user, kind, channel_id, max(flags, last_viewed), version)
        if slot < 0:
            return -slot
        if self._last_message_id[slot] == 0:  # the read state may become shown or hidden
            packed: u64 = self._pins_and_viewed[slot]
            if last_viewed >= 0:
                packed = (packed & (_MASK ^ 0xFFFF)) | last_viewed
            if flags < 0:
                flags = self._flags[slot]
            if packed == self._pins_and_viewed[slot] and flags == self._flags[slot]:
                return _DUPLICATE
            return self._show(user, slot, packed, flags, version)
        changed: cython.bint = self._set_options(slot, flags, last_viewed)
        return self._changed(user, slot, version) if changed else _DUPLICATE

    @cython.ccall
    @cython.exceptval(-1)
    def delete(self, user: i64, kind: i64, channel_id: i64, up_to: i64, version: i64) -> i64:
        """Delete a read state: it is a tombstone until the deletion is written (I7).

        `up_to`: a message ID, or 0 for none. If given, the state stays, hidden, and remembers that
        message. Deleting a missing state also raises the floor: during a replay the database may
        already lack it while a client still shows it, and only a full reply corrects that client.
        """
        slot: i64 = self._known(user, kind, channel_id, version)
        if slot < 0:
            return -slot
        self._read_marks(slot)
        deleted_up_to: i64 = self._marks.deleted_up_to
        if deleted_up_to and up_to <= deleted_up_to:
            return _DUPLICATE
        if up_to:
            self._marks.delete(up_to)
            code: i64 = self._put(user, slot, kind, channel_id, 0, 0, version)
            if code != _TOO_MANY:  # otherwise the user's slots are used up: nothing is remembered
                return code
        if slot == 0 or self._status[slot] & _TOMBSTONE:
            self._raise_floor(user, version)
            return _STALE
        return self._bury(user, slot, version)

    @cython.cfunc
    @cython.exceptval(-1)
    def _bury(self, user: i64, slot: i64, version: i64) -> i64:
        """Make a read state a tombstone (I7)."""
        first: i64 = self._first_extension(slot)
        if self._status[slot] & _HIDDEN:
            self._count_side(user, -1)
        else:
            self._count_live(user, -1)
        self._last_message_id[slot] = 0
        self._last_mention_id[slot] = 0
        self._pins_and_viewed[slot] = 0
        self._mention_count[slot] = 0
        self._flags[slot] = 0
        self._status[slot] = (self._status[slot] & (_STATE | _DIRTY)) | _TOMBSTONE
        self._raise_floor(user, version)
        store_barrier()  # O4: the floor is raised before the read state is a tombstone
        code: i64 = self._changed(user, slot, version)
        store_barrier()  # O7: the tombstone is sealed before its extensions are freed
        self._count_side(user, -self._free_extensions(first))
        return code

    @cython.cfunc
    @cython.exceptval(-1)
    def _raise_floor(self, user: i64, version: i64) -> cython.int:
        if version > self._floor[user]:
            self._floor[user] = version
        self._seal(user)

    def delete_user(self, user: i64, version: i64, final: cython.bint = False) -> int:
        """Remove all read states older than `version`; the deletion waits to be written.

        `final`: the user is also marked, by a hidden read state of type 0 and channel 0; no channel
        has this ID. O(read states of the user).
        """
        mark: i64 = self._find_state(user, 0, 0)
        noted: i64 = self._delete_version[user]
        if version < noted or (version == noted and (mark or not final)):
            return _REPLAYED  # otherwise the process died between the deletion and its mark
        if final and mark == 0 and self.free == 0:
            return _NO_ROOM
        self._delete_version[user] = version
        self._raise_floor(user, version)
        store_barrier()  # O3: delete_version is sealed before the first read state is freed
        slot: i64 = self._first_state[user]
        steps: i64 = 0
        while slot:
            following: i64 = self._after(slot, steps)
            if self._version[slot] < version:
                if self._status[slot] & _DIRTY:
                    self.dirty_states -= 1
                self._drop_state(user, slot)
            slot = following
            steps += 1
        code: i64 = _CHANGED | self._user_changed(user, version)
        if self._find_state(user, 0, 0) == 0:  # otherwise the mark is newer than this event
            self._status[user] &= ~_FINAL & 0xFF
            if final:
                code |= self._add_final_mark(user, version)
        return code

    @cython.cfunc
    @cython.exceptval(-1)
    def _add_final_mark(self, user: i64, version: i64) -> i64:
        mark: i64 = self._new_slot()
        self._fill_state(mark, user, 0, 0)
        self._status[mark] |= _HIDDEN
        self._count_side(user, 1)
        self._status[user] |= _FINAL
        return self._changed(user, mark, version)

    def restore_user(self, user: i64, version: i64) -> int:
        """End a final deletion.

        The mark stays, as a read state that is deleted up to a message: its version says which
        events were skipped, so that a replay skips them again.
        """
        mark: i64 = self._known(user, 0, 0, version)
        if mark < 0:
            return -mark
        if mark == 0 or self._status[mark] & _EXTENDED:
            return _STALE
        self._read_marks(mark)
        self._marks.delete(1)
        return self._put(user, mark, 0, 0, 0, 0, version)

    def is_final(self, user: i64) -> bool:
        """True while the user is deleted for good: no event but `restore_user` may be folded."""
        if not self._status[user] & _FINAL:
            return False
        return not self._status[self._find_state(user, 0, 0)] & _EXTENDED

    def restored_at(self, user: i64) -> int:
        """The version at which a final deletion ended, or 0; older events were skipped."""
        if not self._status[user] & _FINAL:
            return 0
        mark: i64 = self._find_state(user, 0, 0)
        return self._version[mark] if self._status[mark] & _EXTENDED else 0

    # -- events with marks --------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(-1)
    def _put(
        self, user: i64, slot: i64, kind: i64, channel_id: i64, packed: u64, flags: i64,
        version: i64,
    ) -> i64:
        """Write a read state anew, with the marks in `_marks`; slot 0 means that there is none yet.

        A user's extensions and hidden read states take at most `_side_max` slots. An eighth of them
        is kept for first extensions, which a second mention needs, and for deletions: once the
        others are used up, marks are given up, as beyond MARKS_MAX. If no slot is left for a state
        that becomes hidden, it is deleted, and nothing of it is kept. Refusals change nothing.
        """
        last_message_id: i64 = self._marks.last_message_id
        status: cython.int = self._status[slot]  # slot 0 is all zero
        hidden: cython.bint = not (
            last_message_id or packed or flags or self._marks.mention_count()
        )
        was_shown: cython.bint = self._shown(slot)
        if not hidden and not was_shown and self._live(user) >= self.user_states_max:
            return _TOO_MANY
        first: i64 = self._first_extension(slot)
        before: i64 = self._count_extensions(slot)
        others: i64 = self._side(user) - before + hidden - bool(status & _HIDDEN)
        entries: i64 = self._marks.write()
        after: i64 = (entries + _ENTRIES - 1) // _ENTRIES
        while others + after > self._marks_max and after > 1 and after > before:
            self._marks.give_up()
            entries = self._marks.write()
            after = (entries + _ENTRIES - 1) // _ENTRIES
        if (  # the mark of a final deletion always has its slots
            others + after > self._side_max and others + after > self._side(user)
            and channel_id
        ):
            return self._bury(user, slot, version) if hidden and was_shown else _TOO_MANY
        if after + (slot == 0) > self.free:
            return _NO_ROOM
        if slot == 0:
            slot = self._new_slot()
            extension: i64 = self._write_entries(slot, entries)
            self._fill_state(slot, user, kind, channel_id)
        else:
            extension = self._write_entries(slot, entries)
        if was_shown and hidden:  # as for a deletion, which no reply to `since_version` can show
            self._raise_floor(user, version)
        store_barrier()  # O4, O6: floor and extensions are sealed before the state that needs them
        self._last_message_id[slot] = last_message_id
        self._last_mention_id[slot] = extension if extension else self._marks.last_mention_id()
        self._mention_count[slot] = self._marks.mention_count()
        self._pins_and_viewed[slot] = packed
        self._flags[slot] = flags
        self._status[slot] = (
            _STATE | status & _DIRTY | (_EXTENDED if extension else 0) | (_HIDDEN if hidden else 0)
        )
        code: i64 = self._changed(user, slot, version)
        store_barrier()  # O7: the state is sealed before its former extensions are freed
        self._free_extensions(first)
        self._count_live(user, (not hidden) - was_shown)
        self._count_side(user, others + after - self._side(user))
        return code

    @cython.cfunc
    @cython.exceptval(-1)
    def _count_extensions(self, slot: i64) -> i64:
        """How many extensions a read state has; 0 for slot 0."""
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
    def _show(self, user: i64, slot: i64, packed: u64, flags: i64, version: i64) -> i64:
        """Set a state's pins, last_viewed and flags, unless it is deleted up to a message."""
        self._read_marks(slot)
        if self._marks.deleted_up_to:
            return _STALE
        return self._put(
            user, slot, self._type[slot], self._channel_id[slot], packed, flags, version
        )

    @cython.cfunc
    @cython.exceptval(-1)
    def _ack_marks(
        self, user: i64, slot: i64, message_id: i64, flags: i64, last_viewed: i64,
        if_version: i64, version: i64,
    ) -> i64:
        self._read_marks(slot)
        marks = self._marks
        if message_id < marks.last_message_id or message_id <= marks.deleted_up_to:
            return _STALE
        if 0 <= if_version < marks.unread_version:
            return _STALE
        packed: u64 = self._pins_and_viewed[slot]
        if last_viewed >= 0:
            packed = (packed & (_MASK ^ 0xFFFF)) | last_viewed
        if flags < 0:
            flags = self._flags[slot]
        if (
            not marks.ack(message_id)
            and flags == self._flags[slot] and packed == self._pins_and_viewed[slot]
        ):
            return _DUPLICATE
        return self._put(
            user, slot, self._type[slot], self._channel_id[slot], packed, flags, version
        )

    def ack_unless_unread(
        self, user: i64, kind: i64, channel_id: i64, message_id: i64, flags: i64,
        last_viewed: i64, if_version: i64, version: i64,
    ) -> int:
        """Fold a plain ack, unless a manual ack has marked the state unread after `if_version`."""
        slot: i64 = self._known(user, kind, channel_id, version)
        if slot > 0 and self._status[slot] & _EXTENDED:
            return self._ack_marks(
                user, slot, message_id, flags, last_viewed, if_version, version
            )
        return self.ack(user, kind, channel_id, message_id, flags, last_viewed, version)

    @cython.ccall
    @cython.exceptval(-1)
    def mark(
        self, user: i64, kind: i64, channel_id: i64, message_id: i64, rank: i64, version: i64
    ) -> i64:
        """Fold a mention or a retraction of any edit; `rank`: see marks.py."""
        if rank == 0:
            return self.mention(user, kind, channel_id, message_id, version)
        slot: i64 = self._known(user, kind, channel_id, version)
        if slot < 0:
            return -slot
        return self._mark(user, slot, kind, channel_id, message_id, rank, version)

    @cython.cfunc
    @cython.exceptval(-1)
    def _mark(
        self, user: i64, slot: i64, kind: i64, channel_id: i64, message_id: i64, rank: i64,
        version: i64,
    ) -> i64:
        self._read_marks(slot)
        if message_id <= self._marks.last_message_id or message_id <= self._marks.deleted_up_to:
            return _STALE
        if not self._marks.mark(message_id, rank):
            return _DUPLICATE
        missing: cython.bint = slot == 0 or self._status[slot] & _TOMBSTONE != 0
        code: i64 = _TOO_MANY
        if not (rank & 1 and missing) or (
            self._live(user) < self.user_states_max
            and self._side(user) < self._marks_max  # see `_put`
        ):
            code = self._put(
                user, slot, kind, channel_id, self._pins_and_viewed[slot], self._flags[slot],
                version,
            )
        if code != _TOO_MANY or rank & 1 == 0:
            return code
        # At a limit a retraction is not remembered, but it takes its mention away.
        if missing:
            self._raise_floor(user, version)  # as when a missing read state is deleted
            return _STALE
        if self._marks.mention_count() or not self._mention_count[slot]:
            return _STALE
        self._marks.read(self._last_message_id[slot], 0)
        return self._put(
            user, slot, kind, channel_id, self._pins_and_viewed[slot], self._flags[slot], version
        )

    def mark_unread(
        self, user: i64, kind: i64, channel_id: i64, message_id: i64, mention_count: i64,
        mention_ids: object, flags: i64, last_viewed: i64, version: i64,
    ) -> int:
        """Fold a manual ack. KEEP (for `mention_ids` None) means that an argument is not given."""
        slot: i64 = self._known(user, kind, channel_id, version)
        if slot < 0:
            return -slot
        self._read_marks(slot)
        marks = self._marks
        if message_id <= marks.deleted_up_to:
            return _STALE
        packed: u64 = self._pins_and_viewed[slot]
        if last_viewed >= 0:
            packed = (packed & (_MASK ^ 0xFFFF)) | last_viewed
        if flags < 0:
            flags = self._flags[slot]
        if (
            not marks.mark_unread(message_id, mention_ids, mention_count)
            and flags == self._flags[slot] and packed == self._pins_and_viewed[slot]
        ):
            return _DUPLICATE
        marks.note_unread(version)
        return self._put(user, slot, kind, channel_id, packed, flags, version)

    def merge(
        self, user: i64, kind: i64, channel_id: i64, last_message_id: i64, mention_ids: tuple,
        mention_count: i64, timestamp: i64, flags: i64, last_viewed: i64, version: i64,
    ) -> int:
        """Keep the larger value of each field. KEEP, or 0 for an ID, means that it is not given."""
        slot: i64 = self._known(user, kind, channel_id, version)
        if slot < 0:
            return -slot
        self._read_marks(slot)
        marks = self._marks
        changed: cython.bint = False
        if marks.deleted_up_to:
            if max(last_message_id, max(mention_ids, default=0)) <= marks.deleted_up_to:
                return _STALE
            marks.come_back()
            changed = True
        if marks.merge(last_message_id, mention_ids, mention_count):
            changed = True
        known: u64 = self._pins_and_viewed[slot]
        pins: i64 = known >> 16
        viewed: i64 = known & 0xFFFF
        flags_now: i64 = self._flags[slot]
        packed: u64 = (max(timestamp, pins) << 16) | max(last_viewed, viewed)
        flags = max(flags, flags_now)
        if not changed and packed == known and flags == self._flags[slot]:
            return _DUPLICATE
        return self._put(user, slot, kind, channel_id, packed, flags, version)

    def slots_needed(self, user: i64, kind: i64, channel_id: i64, more: i64) -> int:
        """The most free slots that a change can need if it adds up to `more` entries."""
        slot: i64 = self._find_state(user, kind, channel_id)
        entries: i64 = self._read_entries(slot) if slot else 0
        if more or entries > 1:
            more = (entries + more + _ENTRIES - 1) // _ENTRIES
        return more + (slot == 0)

    def would_show(self, user: i64, kind: i64, channel_id: i64, message_id: i64) -> bool:
        """True if no read state is shown here yet and an ack would show one."""
        slot: i64 = self._find_state(user, kind, channel_id)
        if slot == 0 or self._status[slot] & _TOMBSTONE:
            return True
        if not self._status[slot] & _HIDDEN:
            return False
        self._read_marks(slot)
        return message_id > self._marks.deleted_up_to

    # -- many events at once ------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(-1)
    def fold_run(self, events: i64[:], count: i64, codes: cython.uchar[:]) -> i64:
        """Fold events into their users; an ack also touches its user. Returns how many were taken.

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
                user: i64 = self._prefetched[index - begin]
                code: i64 = _ABSENT
                if user and self._status[user] & _FINAL:
                    code = self._fold_marked(events, index * 8, user)
                elif user:
                    code = self._fold_one(events, index * 8, user)
                if code == _NO_ROOM:
                    return index
                codes[index] = code
            begin = end
        return count

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _fold_one(self, events: i64[:], at: i64, user: i64) -> i64:
        kind: i64 = events[at + 1]
        channel_id: i64 = events[at + 2]
        message_id: i64 = events[at + 3]
        flags: i64 = events[at + 4]
        last_viewed: i64 = events[at + 5]
        version: i64 = events[at + 6]
        is_mention: i64 = events[at + 7]
        if is_mention:
            return self.mention(user, kind, channel_id, message_id, version)
        self._touch(user)
        return self.ack(user, kind, channel_id, message_id, flags, last_viewed, version)

    @cython.cfunc
    @cython.exceptval(-1)
    def _fold_marked(self, events: i64[:], at: i64, user: i64) -> i64:
        """Fold an event of a marked user; ABSENT while the deletion is final."""
        mark: i64 = self._find_state(user, 0, 0)
        if not self._status[mark] & _EXTENDED:
            return _ABSENT
        if events[at + 6] <= self._version[mark]:
            return _REPLAYED
        return self._fold_one(events, at, user)

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
            user: i64 = self.find(events[at])
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

    # -- reading ------------------------------------------------------------------------------

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
        `after_kind`, `after_channel`: only what comes after. `most`: at most so many, 0 for all.

        Rows are loaded in ascending order, each to the head of the list, so the list is in
        descending order. Reversing it is enough, unless later changes have broken that order.
        """
        found: list = []  # rows; for a page, slots, because most of them are left out
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
        """A `since_version` below this is unsafe: the user was loaded or lost a state after it."""
        return self._floor[user]

    def user_id(self, user: i64) -> int:
        """The ID of the user in a slot."""
        return self._user_id[user]
