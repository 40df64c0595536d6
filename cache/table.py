# cython: language_level=3, boundscheck=True, wraparound=False
"""The table of one partition: wholly resident users and their read states in one mapped buffer.

Plain Python that Cython compiles as it stands; `COMPILED` says which runs. No Python object per
entry: numbers in the slots that `layout.py` describes, links as slot numbers, so the collector has
nothing to scan. The LRU is of users: a user is resident with all its read states or not at all.

A "user" in this interface is its slot number, valid until the user is evicted. Fold methods return
a set of the bits below. Costs are O(1) unless said otherwise. Damage raises IndexError or
TableDamaged: bounds are checked, and no walk is longer than the table.

Invariants: layout.py, I1-I10.
"""

import cython

from readstates.cache import layout

COMPILED: bool = cython.compiled

CHANGED = 1  # a field of a read state changed value, or read states went
DIRTIED = 2  # the user was clean and has its first unwritten change now
REPLAYED = 4  # the version is not newer than what is there
STALE = 8  # an older message or timestamp, or nothing to act on
DUPLICATE = 16  # nothing would change
TOO_MANY = 32  # the user has user_states_max read states
NO_ROOM = 64  # no free slot; nothing was changed

KEEP = -1
COUNT_MAX = 0xFFFFFFFF

_MASK = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)
_C1 = cython.declare(cython.ulonglong, 0x9E3779B97F4A7C15)
_C2 = cython.declare(cython.ulonglong, 0xC2B2AE3D27D4EB4F)
_C3 = cython.declare(cython.ulonglong, 0x165667B19E3779F9)

_USER = cython.declare(cython.int, 1)
_STATE = cython.declare(cython.int, 2)
_DIRTY = cython.declare(cython.int, 4)
_TOMBSTONE = cython.declare(cython.int, 8)
_QUEUED = cython.declare(cython.int, 16)
_IN_FLIGHT = cython.declare(cython.int, 32)
_Q0 = cython.declare(cython.longlong, 512)  # of slot 0 in 8-byte words
_D0 = cython.declare(cython.longlong, 1024)  # in 4-byte words
_H0 = cython.declare(cython.longlong, 2048)  # in 2-byte words
_B0 = cython.declare(cython.longlong, 4096)  # in bytes


class TableFull(Exception):
    """No free slot: evict first."""


class TableDamaged(Exception):
    """The file contradicts itself; drop it and replay."""


@cython.cfunc
@cython.inline
def _mix(a: cython.ulonglong, b: cython.ulonglong) -> cython.ulonglong:
    x: cython.ulonglong = (a * _C1) & _MASK
    x = (x ^ (x >> 32) ^ b) & _MASK
    x = (x * _C2) & _MASK
    x = x ^ (x >> 29)
    return (x * _C3) & _MASK


@cython.cclass
class Table:
    """See the module. `buffer`: a formatted, writable file of layout.py's form."""

    _q: cython.longlong[:]
    _u: cython.ulonglong[:]
    _d: cython.uint[:]
    _h: cython.ushort[:]
    _b: cython.uchar[:]
    _views: object
    _x0: cython.longlong
    _entries: cython.ulonglong
    _lru_head: cython.longlong
    _lru_tail: cython.longlong
    _dirty_head: cython.longlong
    _dirty_tail: cython.longlong
    _free_head: cython.longlong
    _used: cython.longlong
    slots = cython.declare(cython.longlong, visibility="readonly")
    free = cython.declare(cython.longlong, visibility="readonly")
    resident_users = cython.declare(cython.longlong, visibility="readonly")
    resident_states = cython.declare(cython.longlong, visibility="readonly")
    dirty_states = cython.declare(cython.longlong, visibility="readonly")
    dirty_users = cython.declare(cython.longlong, visibility="readonly")
    evictions = cython.declare(cython.longlong, visibility="readonly")
    user_states_max = cython.declare(cython.longlong, visibility="readonly")
    now_ms = cython.declare(cython.longlong, visibility="public")

    def __init__(self, buffer: object, user_states_max: int) -> None:
        whole = memoryview(buffer).cast("B")
        views = [whole, whole.cast("q"), whole.cast("Q"), whole.cast("I"), whole.cast("H")]
        self._views = views
        self._b, self._q, self._u, self._d, self._h = views
        self.user_states_max = user_states_max
        self.now_ms = 0
        self.evictions = 0
        self.slots = self._q[layout.AT_SLOTS // 8]
        self._entries = self._q[layout.AT_INDEX // 8]
        self._x0 = _D0 + self.slots * 16
        if self._x0 + self._entries > len(views[3]):
            raise TableDamaged("the header names more slots than the file holds")
        self.resident_users = self._q[layout.AT_USERS // 8]
        self.resident_states = self._q[layout.AT_STATES // 8]
        self.dirty_states = self._q[layout.AT_DIRTY_STATES // 8]
        self.dirty_users = self._q[layout.AT_DIRTY_USERS // 8]
        self._lru_head = self._q[layout.AT_LRU_HEAD // 8]
        self._lru_tail = self._q[layout.AT_LRU_TAIL // 8]
        self._dirty_head = self._q[layout.AT_DIRTY_HEAD // 8]
        self._dirty_tail = self._q[layout.AT_DIRTY_TAIL // 8]
        self._free_head = self._q[layout.AT_FREE_HEAD // 8]
        self.free = self._q[layout.AT_FREE // 8]
        self._used = self._q[layout.AT_USED // 8]

    def save(self) -> None:
        """Write counts and list ends into the header, for a close or a check."""
        self._q[layout.AT_USERS // 8] = self.resident_users
        self._q[layout.AT_STATES // 8] = self.resident_states
        self._q[layout.AT_DIRTY_STATES // 8] = self.dirty_states
        self._q[layout.AT_DIRTY_USERS // 8] = self.dirty_users
        self._q[layout.AT_LRU_HEAD // 8] = self._lru_head
        self._q[layout.AT_LRU_TAIL // 8] = self._lru_tail
        self._q[layout.AT_DIRTY_HEAD // 8] = self._dirty_head
        self._q[layout.AT_DIRTY_TAIL // 8] = self._dirty_tail
        self._q[layout.AT_FREE_HEAD // 8] = self._free_head
        self._q[layout.AT_FREE // 8] = self.free
        self._q[layout.AT_USED // 8] = self._used

    def close(self) -> None:
        """Save, and let go of the buffer; the table cannot be used any more."""
        self.save()
        empty = memoryview(bytearray(8))
        self._b, self._q, self._u = empty, empty.cast("q"), empty.cast("Q")
        self._d, self._h = empty.cast("I"), empty.cast("H")
        views = self._views
        self._views = None
        for view in reversed(views):
            view.release()

    @property
    def position(self) -> int:
        """The next offset to take when the file is used again; kept in the header."""
        return self._q[layout.AT_POSITION // 8]

    @position.setter
    def position(self, offset: int) -> None:
        self._q[layout.AT_POSITION // 8] = offset

    # -- index --------------------------------------------------------------------------------

    @cython.cfunc
    @cython.inline
    def _place(self, hashed: cython.ulonglong) -> cython.longlong:
        return ((hashed >> 32) * self._entries) >> 32

    @cython.cfunc
    @cython.inline
    def _hash_of(self, slot: cython.longlong) -> cython.ulonglong:
        key: cython.ulonglong = self._u[_Q0 + slot * 8]
        if self._b[_B0 + slot * 64 + 61] & _USER:
            return _mix(key, 0)
        owner: cython.ulonglong = self._d[_D0 + slot * 16 + 12]
        kind: cython.ulonglong = self._b[_B0 + slot * 64 + 60]
        return _mix(key, ((owner << 8) | kind) + 1)

    @cython.cfunc
    def _index_add(self, slot: cython.longlong) -> cython.void:
        place: cython.longlong = self._place(self._hash_of(slot))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        while self._d[self._x0 + place]:
            place += 1
            if place == entries:
                place = 0
            steps += 1
            if steps > entries:
                raise TableDamaged("I2: the index is full")
        self._d[self._x0 + place] = slot

    @cython.cfunc
    def _index_drop(self, slot: cython.longlong) -> cython.void:
        """Remove, and shift what follows back, so that no probe meets a hole."""
        place: cython.longlong = self._place(self._hash_of(slot))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        found: cython.longlong
        while True:
            found = self._d[self._x0 + place]
            if found == slot:
                break
            steps += 1
            if found == 0 or steps > entries:
                raise TableDamaged("I2: a slot is not in the index")
            place += 1
            if place == entries:
                place = 0
        hole: cython.longlong = place
        home: cython.longlong
        while True:
            place += 1
            if place == entries:
                place = 0
            found = self._d[self._x0 + place]
            if found == 0 or place == hole:
                break
            home = self._place(self._hash_of(found))
            # may `found` move to the hole? only if its home is not in (hole, place]
            if (place - home + entries) % entries >= (place - hole + entries) % entries:
                self._d[self._x0 + hole] = found
                hole = place
        self._d[self._x0 + hole] = 0

    @cython.ccall
    def find(self, user_id: cython.longlong) -> cython.longlong:
        """The user's slot, or 0 if it is not resident."""
        place: cython.longlong = self._place(_mix(cython.cast(cython.ulonglong, user_id), 0))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        slot: cython.longlong
        while True:
            slot = self._d[self._x0 + place]
            if slot == 0:
                return 0
            if self._q[_Q0 + slot * 8] == user_id and self._b[_B0 + slot * 64 + 61] & _USER:
                return slot
            place += 1
            if place == entries:
                place = 0
            steps += 1
            if steps > entries:
                raise TableDamaged("I2: the index has no empty entry")

    @cython.cfunc
    def _find_state(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> cython.longlong:
        """The slot of a state or tombstone, or 0."""
        owner: cython.ulonglong = user
        place: cython.longlong = self._place(
            _mix(
                cython.cast(cython.ulonglong, channel_id),
                ((owner << 8) | cython.cast(cython.ulonglong, kind)) + 1,
            )
        )
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        slot: cython.longlong
        while True:
            slot = self._d[self._x0 + place]
            if slot == 0:
                return 0
            if (
                self._q[_Q0 + slot * 8] == channel_id
                and self._d[_D0 + slot * 16 + 12] == user
                and self._b[_B0 + slot * 64 + 61] & _STATE
                and self._b[_B0 + slot * 64 + 60] == kind
            ):
                return slot
            place += 1
            if place == entries:
                place = 0
            steps += 1
            if steps > entries:
                raise TableDamaged("I2: the index has no empty entry")

    # -- slots --------------------------------------------------------------------------------

    @cython.cfunc
    def _sum_of(self, slot: cython.longlong) -> cython.ulonglong:
        base: cython.longlong = _Q0 + slot * 8
        status: cython.ulonglong = self._b[_B0 + slot * 64 + 61]
        tail: cython.ulonglong = self._b[_B0 + slot * 64 + 60]
        x: cython.ulonglong
        if status & _USER:
            x = _mix(self._u[base], self._u[base + 1])
            x = _mix(x ^ self._u[base + 2], self._u[base + 3])
            x = _mix(x, (tail << 8) | (status & (_USER | _DIRTY)))
        else:
            x = _mix(self._u[base], self._u[base + 1])
            x = _mix(x ^ self._u[base + 2], self._u[base + 3])
            x = _mix(x ^ self._u[base + 4], self._u[base + 5])
            x = _mix(x ^ self._d[_D0 + slot * 16 + 12], (tail << 8) | status)
        return x >> 48

    @cython.cfunc
    @cython.inline
    def _seal(self, slot: cython.longlong) -> cython.void:
        self._h[_H0 + slot * 32 + 31] = self._sum_of(slot)

    @cython.cfunc
    def _new_slot(self) -> cython.longlong:
        slot: cython.longlong = self._free_head
        if slot:
            self._free_head = self._d[_D0 + slot * 16 + 13]
        elif self._used < self.slots:
            slot = self._used
            self._used += 1
        else:
            raise TableFull(f"all {self.slots - 1} slots are used")
        self.free -= 1
        base: cython.longlong = _Q0 + slot * 8
        index: cython.longlong
        for index in range(8):
            self._q[base + index] = 0
        return slot

    @cython.cfunc
    def _free_slot(self, slot: cython.longlong) -> cython.void:
        self._b[_B0 + slot * 64 + 61] = 0
        self._d[_D0 + slot * 16 + 13] = self._free_head
        self._free_head = slot
        self.free += 1

    @cython.cfunc
    def _add_state(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> cython.longlong:
        slot: cython.longlong = self._new_slot()
        d: cython.longlong = _D0 + slot * 16
        self._q[_Q0 + slot * 8] = channel_id
        self._b[_B0 + slot * 64 + 60] = kind
        self._b[_B0 + slot * 64 + 61] = _STATE
        self._d[d + 12] = user
        head: cython.longlong = self._d[_D0 + user * 16 + 12]
        self._d[d + 13] = head
        if head:
            self._d[_D0 + head * 16 + 14] = slot
        self._d[_D0 + user * 16 + 12] = slot
        self._d[_D0 + user * 16 + 13] += 1
        self.resident_states += 1
        self._index_add(slot)
        return slot

    @cython.cfunc
    def _drop_state(self, user: cython.longlong, slot: cython.longlong) -> cython.void:
        """Unlink and free a state or tombstone; counts are the caller's."""
        self._index_drop(slot)
        following: cython.longlong = self._d[_D0 + slot * 16 + 13]
        before: cython.longlong = self._d[_D0 + slot * 16 + 14]
        if before:
            self._d[_D0 + before * 16 + 13] = following
        else:
            self._d[_D0 + user * 16 + 12] = following
        if following:
            self._d[_D0 + following * 16 + 14] = before
        self._free_slot(slot)

    # -- LRU ----------------------------------------------------------------------------------

    @cython.cfunc
    def _lru_drop(self, user: cython.longlong) -> cython.void:
        colder: cython.longlong = self._d[_D0 + user * 16 + 8]
        warmer: cython.longlong = self._d[_D0 + user * 16 + 9]
        if warmer:
            self._d[_D0 + warmer * 16 + 8] = colder
        else:
            self._lru_head = colder
        if colder:
            self._d[_D0 + colder * 16 + 9] = warmer
        else:
            self._lru_tail = warmer

    @cython.cfunc
    def _lru_add(self, user: cython.longlong, cold: cython.bint) -> cython.void:
        other: cython.longlong
        if cold:
            other = self._lru_tail
            self._d[_D0 + user * 16 + 8] = 0
            self._d[_D0 + user * 16 + 9] = other
            if other:
                self._d[_D0 + other * 16 + 8] = user
            else:
                self._lru_head = user
            self._lru_tail = user
        else:
            other = self._lru_head
            self._d[_D0 + user * 16 + 8] = other
            self._d[_D0 + user * 16 + 9] = 0
            if other:
                self._d[_D0 + other * 16 + 9] = user
            else:
                self._lru_tail = user
            self._lru_head = user

    @cython.ccall
    def touch(self, user: cython.longlong) -> cython.void:
        """Move a user to the warm end."""
        if self._lru_head != user:
            self._lru_drop(user)
            self._lru_add(user, False)

    def insert(self, user_id: cython.longlong, floor: cython.longlong, cold: cython.bint) -> int:
        """Make a user resident, without read states yet. Raises TableFull."""
        user: cython.longlong = self._new_slot()
        self._q[_Q0 + user * 8] = user_id
        self._q[_Q0 + user * 8 + 1] = floor
        self._b[_B0 + user * 64 + 61] = _USER
        self._index_add(user)
        self._lru_add(user, cold)
        self.resident_users += 1
        self._seal(user)
        return user

    def load(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        last_message_id: cython.longlong, last_mention_id: cython.longlong,
        mention_count: cython.longlong, last_pin_timestamp: cython.longlong,
        flags: cython.longlong, last_viewed: cython.longlong, version: cython.longlong,
    ) -> None:
        """Add a read state as the database has it; it is clean. Raises TableFull."""
        slot: cython.longlong = self._add_state(user, kind, channel_id)
        base: cython.longlong = _Q0 + slot * 8
        self._q[base + 1] = last_message_id
        self._q[base + 2] = last_mention_id
        self._q[base + 3] = version
        self._u[base + 4] = (last_pin_timestamp << 16) | last_viewed
        self._d[_D0 + slot * 16 + 10] = mention_count
        self._d[_D0 + slot * 16 + 11] = flags
        self._seal(slot)

    def evict(
        self, needed: cython.longlong, scan_max: cython.longlong, keep: cython.longlong = 0
    ) -> bool:
        """Evict clean users from the cold end until `needed` slots are free; True if they are.

        Looks at no more than `scan_max` users and never evicts `keep`. O(read states evicted).
        """
        user: cython.longlong = self._lru_tail
        warmer: cython.longlong
        looked: cython.longlong = 0
        while self.free < needed and user and looked < scan_max:
            warmer = self._d[_D0 + user * 16 + 9]
            if user != keep and not self._b[_B0 + user * 64 + 61] & (_QUEUED | _IN_FLIGHT):
                self._evict(user)
            user = warmer
            looked += 1
        return self.free >= needed

    @cython.cfunc
    def _evict(self, user: cython.longlong) -> cython.void:
        slot: cython.longlong = self._d[_D0 + user * 16 + 12]
        following: cython.longlong
        steps: cython.longlong = 0
        while slot:
            following = self._d[_D0 + slot * 16 + 13]
            self._index_drop(slot)
            self._free_slot(slot)
            self.resident_states -= 1
            self.evictions += 1
            slot = following
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        self._lru_drop(user)
        self._index_drop(user)
        self._free_slot(user)
        self.resident_users -= 1

    def cold_dirty(self, limit: cython.longlong) -> list:
        """Up to `limit` users waiting in the dirty queue, the coldest first.

        Looks at no more than 4 * limit users.
        """
        found: list = []
        user: cython.longlong = self._lru_tail
        looked: cython.longlong = 0
        while user and looked < 4 * limit and len(found) < limit:
            if self._b[_B0 + user * 64 + 61] & _QUEUED:
                found.append(user)
            user = self._d[_D0 + user * 16 + 9]
            looked += 1
        return found

    # -- dirty queue --------------------------------------------------------------------------

    @cython.cfunc
    def _queue_add(self, user: cython.longlong, at_head: cython.bint) -> cython.void:
        self._b[_B0 + user * 64 + 61] |= _QUEUED
        self.dirty_users += 1
        other: cython.longlong
        if at_head:
            other = self._dirty_head
            self._d[_D0 + user * 16 + 10] = other
            self._d[_D0 + user * 16 + 11] = 0
            if other:
                self._d[_D0 + other * 16 + 11] = user
            else:
                self._dirty_tail = user
            self._dirty_head = user
        else:
            other = self._dirty_tail
            self._d[_D0 + user * 16 + 10] = 0
            self._d[_D0 + user * 16 + 11] = other
            if other:
                self._d[_D0 + other * 16 + 10] = user
            else:
                self._dirty_head = user
            self._dirty_tail = user

    @cython.cfunc
    def _queue_drop(self, user: cython.longlong) -> cython.void:
        younger: cython.longlong = self._d[_D0 + user * 16 + 10]
        older: cython.longlong = self._d[_D0 + user * 16 + 11]
        if older:
            self._d[_D0 + older * 16 + 10] = younger
        else:
            self._dirty_head = younger
        if younger:
            self._d[_D0 + younger * 16 + 11] = older
        else:
            self._dirty_tail = older
        self._b[_B0 + user * 64 + 61] &= ~_QUEUED & 0xFF
        self.dirty_users -= 1

    @cython.cfunc
    def _user_changed(
        self, user: cython.longlong, version: cython.longlong
    ) -> cython.longlong:
        """Note a change of the user; returns DIRTIED if it is its first unwritten one."""
        if self._q[_Q0 + user * 8 + 2]:
            return 0
        self._q[_Q0 + user * 8 + 2] = version
        self._d[_D0 + user * 16 + 14] = self.now_ms & 0xFFFFFFFF
        if not self._b[_B0 + user * 64 + 61] & _IN_FLIGHT:
            self._queue_add(user, False)
        self._seal(user)
        return 2

    @cython.cfunc
    def _changed(
        self, user: cython.longlong, slot: cython.longlong, version: cython.longlong
    ) -> cython.longlong:
        """A state has new values: stamp, mark dirty, seal; returns CHANGED or CHANGED|DIRTIED."""
        self._q[_Q0 + slot * 8 + 3] = version
        if not self._b[_B0 + slot * 64 + 61] & _DIRTY:
            self._b[_B0 + slot * 64 + 61] |= _DIRTY
            self.dirty_states += 1
        self._seal(slot)
        return 1 | self._user_changed(user, version)

    def dirty_head(self) -> int:
        """The user that waits longest to be written out, or 0."""
        return self._dirty_head

    def dirty_since_ms(self, user: cython.longlong) -> int:
        """`now_ms` of the user's first unwritten change, modulo 2^32."""
        return self._d[_D0 + user * 16 + 14]

    def first_version(self, user: cython.longlong) -> int:
        """Version of the first change not handed to a write, or 0."""
        return self._q[_Q0 + user * 8 + 2]

    def is_dirty(self, user: cython.longlong) -> bool:
        """True if the user is queued to be written out, or under way."""
        return bool(self._b[_B0 + user * 64 + 61] & (_QUEUED | _IN_FLIGHT))

    def in_flight(self, user: cython.longlong) -> bool:
        """True between `take` and `written` or `write_failed`."""
        return bool(self._b[_B0 + user * 64 + 61] & _IN_FLIGHT)

    def take(self, user: cython.longlong) -> tuple:
        """Take a queued user's changes to write them: (first_version, delete_version, rows).

        `rows`: (deleted, ReadState) for each dirty one. They stay dirty until `written`.
        O(read states of the user).
        """
        if not self._b[_B0 + user * 64 + 61] & _QUEUED:
            raise TableDamaged("I5: the user is not queued")
        self._queue_drop(user)
        self._b[_B0 + user * 64 + 61] |= _IN_FLIGHT
        first: cython.longlong = self._q[_Q0 + user * 8 + 2]
        self._q[_Q0 + user * 8 + 2] = 0
        self._seal(user)
        rows: list = []
        slot: cython.longlong = self._d[_D0 + user * 16 + 12]
        steps: cython.longlong = 0
        status: cython.int
        while slot:
            status = self._b[_B0 + slot * 64 + 61]
            if status & _DIRTY:
                rows.append((bool(status & _TOMBSTONE), self._row(slot)))
            slot = self._d[_D0 + slot * 16 + 13]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        return first, self._q[_Q0 + user * 8 + 3], rows

    def written(self, user: cython.longlong, delete_version: cython.longlong, rows: list) -> None:
        """What `take` gave is in the database: clean now, unless changed again meanwhile."""
        slot: cython.longlong
        for deleted, row in rows:
            slot = self._find_state(user, row[0], row[1])
            if slot == 0 or self._q[_Q0 + slot * 8 + 3] != row[8]:
                continue
            if not self._b[_B0 + slot * 64 + 61] & _DIRTY:
                continue
            self.dirty_states -= 1
            if deleted:
                self._drop_state(user, slot)
            else:
                self._b[_B0 + slot * 64 + 61] &= ~_DIRTY & 0xFF
                self._seal(slot)
        if delete_version and self._q[_Q0 + user * 8 + 3] == delete_version:
            self._q[_Q0 + user * 8 + 3] = 0
        self._b[_B0 + user * 64 + 61] &= ~_IN_FLIGHT & 0xFF
        self._seal(user)
        if self._q[_Q0 + user * 8 + 2]:
            self._queue_add(user, False)

    def write_failed(self, user: cython.longlong, first_version: cython.longlong) -> None:
        """What `take` gave must be written again: to the head of the queue with it."""
        self._b[_B0 + user * 64 + 61] &= ~_IN_FLIGHT & 0xFF
        self._q[_Q0 + user * 8 + 2] = first_version
        self._seal(user)
        self._queue_add(user, True)

    # -- the fold -----------------------------------------------------------------------------

    @cython.cfunc
    def _may_create(
        self, user: cython.longlong, slot: cython.longlong, version: cython.longlong
    ) -> cython.longlong:
        """0 if a read state may be made at `slot` (0: a new one), else the reason."""
        if version <= self._q[_Q0 + user * 8 + 3]:
            return 4
        if self._d[_D0 + user * 16 + 13] >= self.user_states_max:
            return 32
        if slot == 0 and self.free == 0:
            return 64
        return 0

    @cython.cfunc
    def _create(
        self, user: cython.longlong, slot: cython.longlong, kind: cython.longlong,
        channel_id: cython.longlong,
    ) -> cython.longlong:
        """A read state of zeros at a new slot, or where a tombstone was."""
        if slot == 0:
            return self._add_state(user, kind, channel_id)
        self._b[_B0 + slot * 64 + 61] &= ~_TOMBSTONE & 0xFF
        self._clear(slot)
        self._d[_D0 + user * 16 + 13] += 1
        self.resident_states += 1
        return slot

    @cython.cfunc
    def _clear(self, slot: cython.longlong) -> cython.void:
        self._q[_Q0 + slot * 8 + 1] = 0
        self._q[_Q0 + slot * 8 + 2] = 0
        self._u[_Q0 + slot * 8 + 4] = 0
        self._d[_D0 + slot * 16 + 10] = 0
        self._d[_D0 + slot * 16 + 11] = 0

    @cython.cfunc
    @cython.inline
    def _alive(self, slot: cython.longlong) -> cython.bint:
        return slot != 0 and not self._b[_B0 + slot * 64 + 61] & _TOMBSTONE

    @cython.cfunc
    def _options(
        self, slot: cython.longlong, flags: cython.longlong, last_viewed: cython.longlong
    ) -> cython.bint:
        """Set flags and last_viewed where given; True if one of them changed."""
        changed: cython.bint = False
        packed: cython.ulonglong
        if flags >= 0 and self._d[_D0 + slot * 16 + 11] != flags:
            self._d[_D0 + slot * 16 + 11] = flags
            changed = True
        if last_viewed >= 0:
            packed = self._u[_Q0 + slot * 8 + 4]
            if (packed & 0xFFFF) != cython.cast(cython.ulonglong, last_viewed):
                self._u[_Q0 + slot * 8 + 4] = (packed >> 16 << 16) | last_viewed
                changed = True
        return changed

    @cython.ccall
    def ack(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        message_id: cython.longlong, flags: cython.longlong, last_viewed: cython.longlong,
        version: cython.longlong,
    ) -> cython.longlong:
        """A plain ack: forward only; clears the count if it covers the last mention."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        refused: cython.longlong
        if slot and version <= self._q[_Q0 + slot * 8 + 3]:
            return 4
        if not self._alive(slot):
            refused = self._may_create(user, slot, version)
            if refused:
                return refused
            slot = self._create(user, slot, kind, channel_id)
        base: cython.longlong = _Q0 + slot * 8
        if message_id < self._q[base + 1]:
            return 8
        changed: cython.bint = self._options(slot, flags, last_viewed)
        if message_id != self._q[base + 1]:
            self._q[base + 1] = message_id
            changed = True
        if message_id >= self._q[base + 2] and self._d[_D0 + slot * 16 + 10]:
            self._d[_D0 + slot * 16 + 10] = 0
            changed = True
        if not changed:
            return 16
        return self._changed(user, slot, version)

    @cython.ccall
    def mark_unread(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        message_id: cython.longlong, mention_count: cython.longlong, flags: cython.longlong,
        last_viewed: cython.longlong, version: cython.longlong,
    ) -> cython.longlong:
        """A manual ack: sets the last message and the count, also backwards."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        refused: cython.longlong
        if slot and version <= self._q[_Q0 + slot * 8 + 3]:
            return 4
        if not self._alive(slot):
            refused = self._may_create(user, slot, version)
            if refused:
                return refused
            slot = self._create(user, slot, kind, channel_id)
        base: cython.longlong = _Q0 + slot * 8
        changed: cython.bint = self._options(slot, flags, last_viewed)
        if message_id != self._q[base + 1]:
            self._q[base + 1] = message_id
            changed = True
        if mention_count != self._d[_D0 + slot * 16 + 10]:
            self._d[_D0 + slot * 16 + 10] = mention_count
            changed = True
        if not changed:
            return 16
        return self._changed(user, slot, version)

    @cython.ccall
    def mention(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        message_id: cython.longlong, version: cython.longlong,
    ) -> cython.longlong:
        """One mention more, unless its message was read or is the last one counted."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        refused: cython.longlong
        if slot and version <= self._q[_Q0 + slot * 8 + 3]:
            return 4
        if not self._alive(slot):
            refused = self._may_create(user, slot, version)
            if refused:
                return refused
            slot = self._create(user, slot, kind, channel_id)
        base: cython.longlong = _Q0 + slot * 8
        if message_id <= self._q[base + 1]:
            return 8
        if message_id == self._q[base + 2]:
            return 16
        changed: cython.bint = False
        if self._d[_D0 + slot * 16 + 10] < 0xFFFFFFFF:
            self._d[_D0 + slot * 16 + 10] += 1
            changed = True
        if message_id > self._q[base + 2]:
            self._q[base + 2] = message_id
            changed = True
        if not changed:
            return 16
        return self._changed(user, slot, version)

    @cython.ccall
    def retract(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        message_id: cython.longlong, version: cython.longlong,
    ) -> cython.longlong:
        """One mention less, if the message is unread; never below 0, never makes a state."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        if slot and version <= self._q[_Q0 + slot * 8 + 3]:
            return 4
        if (
            not self._alive(slot)
            or message_id <= self._q[_Q0 + slot * 8 + 1]
            or self._d[_D0 + slot * 16 + 10] == 0
        ):
            return 8
        self._d[_D0 + slot * 16 + 10] -= 1
        return self._changed(user, slot, version)

    @cython.ccall
    def pins_ack(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        timestamp: cython.longlong, version: cython.longlong,
    ) -> cython.longlong:
        """The larger pin timestamp (ms) stays."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        refused: cython.longlong
        if slot and version <= self._q[_Q0 + slot * 8 + 3]:
            return 4
        if not self._alive(slot):
            if timestamp == 0:
                return 8
            refused = self._may_create(user, slot, version)
            if refused:
                return refused
            slot = self._create(user, slot, kind, channel_id)
        packed: cython.ulonglong = self._u[_Q0 + slot * 8 + 4]
        known: cython.longlong = packed >> 16
        if timestamp < known:
            return 8
        if timestamp == known:
            return 16
        self._u[_Q0 + slot * 8 + 4] = (
            cython.cast(cython.ulonglong, timestamp) << 16
        ) | (packed & 0xFFFF)
        return self._changed(user, slot, version)

    @cython.ccall
    def delete(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        version: cython.longlong,
    ) -> cython.longlong:
        """The read state becomes a tombstone until the deletion is written (I7)."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        if slot and version <= self._q[_Q0 + slot * 8 + 3]:
            return 4
        if not self._alive(slot):
            return 8
        self._clear(slot)
        self._b[_B0 + slot * 64 + 61] |= _TOMBSTONE
        self._d[_D0 + user * 16 + 13] -= 1
        self.resident_states -= 1
        self._raise_floor(user, version)
        return self._changed(user, slot, version)

    @cython.cfunc
    def _raise_floor(self, user: cython.longlong, version: cython.longlong) -> cython.void:
        if version > self._q[_Q0 + user * 8 + 1]:
            self._q[_Q0 + user * 8 + 1] = version
        self._seal(user)

    def delete_user(self, user: cython.longlong, version: cython.longlong) -> int:
        """All read states older than `version` go; the deletion waits to be written.

        O(read states of the user).
        """
        if version <= self._q[_Q0 + user * 8 + 3]:
            return 4
        slot: cython.longlong = self._d[_D0 + user * 16 + 12]
        following: cython.longlong
        steps: cython.longlong = 0
        status: cython.int
        while slot:
            following = self._d[_D0 + slot * 16 + 13]
            if self._q[_Q0 + slot * 8 + 3] < version:
                status = self._b[_B0 + slot * 64 + 61]
                if status & _DIRTY:
                    self.dirty_states -= 1
                if not status & _TOMBSTONE:
                    self._d[_D0 + user * 16 + 13] -= 1
                    self.resident_states -= 1
                self._drop_state(user, slot)
            slot = following
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        self._q[_Q0 + user * 8 + 3] = version
        self._raise_floor(user, version)
        return 1 | self._user_changed(user, version)

    # -- reading ------------------------------------------------------------------------------

    @cython.cfunc
    def _row(self, slot: cython.longlong) -> tuple:
        base: cython.longlong = _Q0 + slot * 8
        packed: cython.ulonglong = self._u[base + 4]
        return (
            self._b[_B0 + slot * 64 + 60],
            self._q[base],
            self._q[base + 1],
            self._q[base + 2],
            self._d[_D0 + slot * 16 + 10],
            packed >> 16,
            self._d[_D0 + slot * 16 + 11],
            packed & 0xFFFF,
            self._q[base + 3],
        )

    def has(self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong) -> bool:
        """True if the user has this read state."""
        return bool(self._alive(self._find_state(user, kind, channel_id)))

    def get(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> object:
        """The read state as a tuple in the order of `readstates.schemas.replies`, or None."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        return self._row(slot) if self._alive(slot) else None

    def states(self, user: cython.longlong) -> list:
        """All read states of a user by type and channel. O(n log n)."""
        rows: list = []
        slot: cython.longlong = self._d[_D0 + user * 16 + 12]
        steps: cython.longlong = 0
        while slot:
            if not self._b[_B0 + slot * 64 + 61] & _TOMBSTONE:
                rows.append(self._row(slot))
            slot = self._d[_D0 + slot * 16 + 13]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        rows.sort()
        return rows

    def count(self, user: cython.longlong) -> int:
        """How many read states the user has."""
        return self._d[_D0 + user * 16 + 13]

    def floor(self, user: cython.longlong) -> int:
        """A `since_version` below this is not safe: loaded or deleted something since."""
        return self._q[_Q0 + user * 8 + 1]

    def user_id(self, user: cython.longlong) -> int:
        """The ID of the user in a slot."""
        return self._q[_Q0 + user * 8]

    def users(self) -> list:
        """Slots of all residents, the warmest first. O(users)."""
        found: list = []
        user: cython.longlong = self._lru_head
        while user:
            found.append(user)
            if len(found) > self.slots:
                raise TableDamaged("I4: the LRU does not end")
            user = self._d[_D0 + user * 16 + 8]
        return found
