# cython: language_level=3, boundscheck=True, wraparound=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""The table of one partition: wholly resident users and their read states in one mapped buffer.

Plain Python that Cython compiles as it stands; `COMPILED` says which runs. No Python object per
entry: numbers in the slots that `layout.py` describes, links as slot numbers, so the collector has
nothing to scan. The LRU is of users: a user is resident with all its read states or not at all.

A "user" in this interface is its slot number, valid until the user is evicted. Fold methods return
a set of the bits below. Costs are O(1) unless said otherwise. Damage raises IndexError or
TableDamaged: bounds are checked, checksums are checked where a state is read or folded into, and
no walk is longer than the table.

How it works. `_q`, `_u`, `_d`, `_h`, `_b` are one view of the slots as 64-bit (signed, unsigned),
32-, 16- and 8-bit numbers, so `_q[slot * 8 + 3]` is the number at byte 24 of a slot, `_d[slot * 16
+ 13]` that at byte 52, `_b[slot * 64 + 61]` the status: layout.py says what stands where.
The index `_x` is probed linearly from `hash * entries >> 32`; removal shifts entries back instead
of leaving marks. List ends and counts live in the object and go to the header in `save`.

The life of a change: a fold method marks the state DIRTY and queues its user; `take` gives the
user's dirty rows to be written, the user is IN_FLIGHT; `written` clears DIRTY where the version is
still the one that was written, and frees tombstones; what changed meanwhile queues the user again.

Invariants: layout.py, I1-I13; it also says which stores must keep their order, for the sake of
`rebuild`, and why they do.
"""

import cython  # type: ignore[import-untyped]  # it publishes none

from readstates.cache import layout

COMPILED: bool = cython.compiled

CHANGED = 1  # a field of a read state changed value, or read states went
DIRTIED = 2  # the user was clean and has its first unwritten change now
REPLAYED = 4  # the version is not newer than what is there
STALE = 8  # an older message or timestamp, or nothing to act on
DUPLICATE = 16  # nothing would change
TOO_MANY = 32  # the user has user_states_max read states
NO_ROOM = 64  # no free slot; nothing was changed
ABSENT = 128  # the user is not resident

KEEP = -1

_MASK = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)
_C1 = cython.declare(cython.ulonglong, 0x9E3779B97F4A7C15)
_C2 = cython.declare(cython.ulonglong, 0xC2B2AE3D27D4EB4F)
_C3 = cython.declare(cython.ulonglong, 0x165667B19E3779F9)
_C4 = cython.declare(cython.ulonglong, 0xD6E8FEB86659FD93)
_C5 = cython.declare(cython.ulonglong, 0xA0761D6478BD642F)
_C6 = cython.declare(cython.ulonglong, 0xE7037ED1A0B428DB)
_C7 = cython.declare(cython.ulonglong, 0x8EBC6AF09C88C6E3)

_USER = cython.declare(cython.int, 1)
_STATE = cython.declare(cython.int, 2)
_DIRTY = cython.declare(cython.int, 4)
_TOMBSTONE = cython.declare(cython.int, 8)
_QUEUED = cython.declare(cython.int, 16)
_IN_FLIGHT = cython.declare(cython.int, 32)
_PARTIAL = cython.declare(cython.int, 64)

_BLOCK = cython.declare(cython.longlong, 32)  # events whose memory `fold_plain` asks for together


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


@cython.final
@cython.cclass
class Table:
    """See the module. `buffer`: a formatted, writable file of layout.py's form."""

    _q: cython.longlong[:]
    _u: cython.ulonglong[:]
    _d: cython.uint[:]
    _h: cython.ushort[:]
    _b: cython.uchar[:]
    _x: cython.uint[:]
    _header: cython.longlong[:]
    _near: cython.longlong[:]
    _sink: cython.longlong
    _views: list | None
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
        whole = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # any writable buffer
        header = whole[: layout.HEADER_BYTES].cast("q")
        slots, entries = header[layout.AT_SLOTS // 8], header[layout.AT_INDEX // 8]
        if slots < 2 or entries < slots or layout.table_size_bytes(slots) != len(whole):
            raise TableDamaged("the header's sizes are not the file's")
        index_at = layout.HEADER_BYTES + slots * layout.SLOT_BYTES
        # a view of the slots only: a link that names none of them raises
        body = whole[layout.HEADER_BYTES : index_at]
        views = [body.cast("q"), body.cast("Q"), body.cast("I"), body.cast("H"), body]
        index = whole[index_at:].cast("I")
        self._q, self._u, self._d, self._h, self._b = views
        self._x, self._header = index, header
        self._views = [*views, index, header, whole]
        self._near = memoryview(bytearray(32 * 8)).cast("q")
        self._sink = 0
        self.user_states_max = user_states_max
        self.now_ms = 0
        self.evictions = 0
        self.slots = slots
        self._entries = entries
        self.resident_users = self._header[layout.AT_USERS // 8]
        self.resident_states = self._header[layout.AT_STATES // 8]
        self.dirty_states = self._header[layout.AT_DIRTY_STATES // 8]
        self.dirty_users = self._header[layout.AT_DIRTY_USERS // 8]
        self._lru_head = self._header[layout.AT_LRU_HEAD // 8]
        self._lru_tail = self._header[layout.AT_LRU_TAIL // 8]
        self._dirty_head = self._header[layout.AT_DIRTY_HEAD // 8]
        self._dirty_tail = self._header[layout.AT_DIRTY_TAIL // 8]
        self._free_head = self._header[layout.AT_FREE_HEAD // 8]
        self.free = self._header[layout.AT_FREE // 8]
        self._used = self._header[layout.AT_USED // 8]

    def save(self) -> None:
        """Write counts and list ends into the header, for a close or a check."""
        self._header[layout.AT_USERS // 8] = self.resident_users
        self._header[layout.AT_STATES // 8] = self.resident_states
        self._header[layout.AT_DIRTY_STATES // 8] = self.dirty_states
        self._header[layout.AT_DIRTY_USERS // 8] = self.dirty_users
        self._header[layout.AT_LRU_HEAD // 8] = self._lru_head
        self._header[layout.AT_LRU_TAIL // 8] = self._lru_tail
        self._header[layout.AT_DIRTY_HEAD // 8] = self._dirty_head
        self._header[layout.AT_DIRTY_TAIL // 8] = self._dirty_tail
        self._header[layout.AT_FREE_HEAD // 8] = self._free_head
        self._header[layout.AT_FREE // 8] = self.free
        self._header[layout.AT_USED // 8] = self._used

    def close(self) -> None:
        """Save, and let go of the buffer; the table cannot be used any more."""
        if self._views is None:
            return
        self.save()
        empty = memoryview(bytearray(8))
        self._b, self._q, self._u = empty, empty.cast("q"), empty.cast("Q")
        self._d, self._h = empty.cast("I"), empty.cast("H")
        self._x, self._header = empty.cast("I"), empty.cast("q")
        views, self._views = self._views, None
        for view in views:
            view.release()

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
    def _place(self, hashed: cython.ulonglong) -> cython.longlong:
        return ((hashed >> 32) * self._entries) >> 32

    @cython.cfunc
    @cython.inline
    def _hash_of(self, slot: cython.longlong) -> cython.ulonglong:
        key: cython.ulonglong = self._u[slot * 8]
        if self._b[slot * 64 + 61] & _USER:
            return _mix(key, 0)
        owner: cython.ulonglong = self._d[slot * 16 + 12]
        kind: cython.ulonglong = self._b[slot * 64 + 60]
        return _mix(key, ((owner << 8) | kind) + 1)

    @cython.cfunc
    def _index_add(self, slot: cython.longlong) -> cython.void:
        place: cython.longlong = self._place(self._hash_of(slot))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        while self._x[place]:
            place += 1
            if place == entries:
                place = 0
            steps += 1
            if steps > entries:
                raise TableDamaged("I2: the index is full")
        self._x[place] = slot

    @cython.cfunc
    def _index_drop(self, slot: cython.longlong) -> cython.void:
        """Remove, and shift what follows back, so that no probe meets a hole."""
        place: cython.longlong = self._place(self._hash_of(slot))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        found: cython.longlong
        while True:
            found = self._x[place]
            if found == slot:
                break
            steps += 1
            if found == 0 or steps > entries:
                raise TableDamaged("I2: a slot is not in the index")
            place += 1
            if place == entries:
                place = 0
        hole: cython.longlong = place
        far: cython.longlong
        step: cython.longlong
        while True:
            place += 1
            if place == entries:
                place = 0
            found = self._x[place]
            if found == 0 or place == hole:
                break
            far = place - self._place(self._hash_of(found))
            if far < 0:
                far += entries
            step = place - hole
            if step < 0:
                step += entries
            # may `found` move to the hole? only if its home is not in (hole, place]
            if far >= step:
                self._x[hole] = found
                hole = place
        self._x[hole] = 0

    @cython.ccall
    def find(self, user_id: cython.longlong) -> cython.longlong:
        """The user's slot, or 0 if it is not resident."""
        place: cython.longlong = self._place(_mix(user_id, 0))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        slot: cython.longlong
        while True:
            slot = self._x[place]
            if slot == 0:
                return 0
            if self._q[slot * 8] == user_id and self._b[slot * 64 + 61] & _USER:
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
        place: cython.longlong = self._place(_mix(channel_id, ((user << 8) | kind) + 1))
        entries: cython.longlong = self._entries
        steps: cython.longlong = 0
        slot: cython.longlong
        while True:
            slot = self._x[place]
            if slot == 0:
                return 0
            if (
                self._q[slot * 8] == channel_id
                and self._d[slot * 16 + 12] == user
                and self._b[slot * 64 + 61] & _STATE
                and self._b[slot * 64 + 60] == kind
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
        base: cython.longlong = slot * 8
        status: cython.ulonglong = self._b[slot * 64 + 61]
        tail: cython.ulonglong = self._b[slot * 64 + 60]
        owner: cython.ulonglong
        x: cython.ulonglong = (
            self._u[base] * _C1 + self._u[base + 1] * _C2
            + self._u[base + 2] * _C3 + self._u[base + 3] * _C4
        )
        if status & _USER:
            x = (x + ((tail << 8) | (status & (_USER | _PARTIAL))) * _C7) & _MASK
        else:
            owner = self._d[slot * 16 + 12]
            tail = (owner << 16) | (tail << 8) | status
            x = (
                x + self._u[base + 4] * _C5 + self._u[base + 5] * _C6 + tail * _C7
            ) & _MASK
        return (((x ^ (x >> 32)) * _C1) & _MASK) >> 48

    @cython.cfunc
    @cython.inline
    def _seal(self, slot: cython.longlong) -> cython.void:
        self._h[slot * 32 + 31] = self._sum_of(slot)

    @cython.cfunc
    @cython.inline
    def _check(self, slot: cython.longlong) -> cython.void:
        if self._h[slot * 32 + 31] != self._sum_of(slot):
            raise TableDamaged(f"I9: the checksum of slot {slot} is wrong")

    @cython.cfunc
    def _new_slot(self) -> cython.longlong:
        slot: cython.longlong = self._free_head
        if slot:
            self._free_head = self._d[slot * 16 + 13]
        elif self._used < self.slots:
            slot = self._used
            self._used += 1
        else:
            raise TableFull(f"all {self.slots - 1} slots are used")
        self.free -= 1
        self._d[slot * 16 + 13] = 0
        return slot

    @cython.cfunc
    def _wipe(self, slot: cython.longlong) -> cython.void:
        base: cython.longlong = slot * 8
        index: cython.longlong
        for index in range(8):
            self._q[base + index] = 0

    @cython.cfunc
    def _free_slot(self, slot: cython.longlong) -> cython.void:
        self._wipe(slot)
        self._d[slot * 16 + 13] = self._free_head
        self._free_head = slot
        self.free += 1

    @cython.cfunc
    def _add_state(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> cython.longlong:
        slot: cython.longlong = self._new_slot()
        d: cython.longlong = slot * 16
        self._q[slot * 8] = channel_id
        self._b[slot * 64 + 60] = kind
        self._b[slot * 64 + 61] = _STATE
        self._d[d + 12] = user
        head: cython.longlong = self._d[user * 16 + 12]
        self._d[d + 13] = head
        if head:
            self._d[head * 16 + 14] = slot
        self._d[user * 16 + 12] = slot
        self._d[user * 16 + 13] += 1
        self.resident_states += 1
        self._index_add(slot)
        return slot

    @cython.cfunc
    def _count_down(self, user: cython.longlong) -> cython.void:
        if self._d[user * 16 + 13] == 0:
            raise TableDamaged("I10: a user has more read states than it counts")
        self._d[user * 16 + 13] -= 1
        self.resident_states -= 1

    @cython.cfunc
    def _drop_state(self, user: cython.longlong, slot: cython.longlong) -> cython.void:
        """Unlink and free a state or tombstone; counts are the caller's."""
        self._index_drop(slot)
        following: cython.longlong = self._d[slot * 16 + 13]
        before: cython.longlong = self._d[slot * 16 + 14]
        if before:
            self._d[before * 16 + 13] = following
        else:
            self._d[user * 16 + 12] = following
        if following:
            self._d[following * 16 + 14] = before
        self._free_slot(slot)

    # -- LRU ----------------------------------------------------------------------------------

    @cython.cfunc
    def _lru_drop(self, user: cython.longlong) -> cython.void:
        colder: cython.longlong = self._d[user * 16 + 8]
        warmer: cython.longlong = self._d[user * 16 + 9]
        if warmer:
            self._d[warmer * 16 + 8] = colder
        else:
            self._lru_head = colder
        if colder:
            self._d[colder * 16 + 9] = warmer
        else:
            self._lru_tail = warmer

    @cython.cfunc
    def _lru_add(self, user: cython.longlong, cold: cython.bint) -> cython.void:
        other: cython.longlong
        if cold:
            other = self._lru_tail
            self._d[user * 16 + 8] = 0
            self._d[user * 16 + 9] = other
            if other:
                self._d[other * 16 + 8] = user
            else:
                self._lru_head = user
            self._lru_tail = user
        else:
            other = self._lru_head
            self._d[user * 16 + 8] = other
            self._d[user * 16 + 9] = 0
            if other:
                self._d[other * 16 + 9] = user
            else:
                self._lru_tail = user
            self._lru_head = user

    @cython.ccall
    def touch(self, user: cython.longlong) -> cython.void:
        """Move a user to the warm end."""
        if self._lru_head != user:
            self._lru_drop(user)
            self._lru_add(user, False)

    def insert(
        self, user_id: cython.longlong, floor: cython.longlong, cold: cython.bint,
        rows: object = (),
    ) -> int:
        """Make a user resident, with all its read states as the database has them, clean.

        `cold`: at the cold end of the LRU. `rows`: ReadState tuples of `schemas.replies`. Raises
        TableFull, and ValueError for a user who is resident, a number that its field cannot hold
        or a read state given twice; nothing of the user is there then. O(rows).
        """
        if self.find(user_id):
            raise ValueError(f"user {user_id} is resident")
        user: cython.longlong = self._new_slot()
        self._q[user * 8] = user_id
        self._q[user * 8 + 1] = floor
        self._b[user * 64 + 61] = _USER | _PARTIAL  # until its last read state is there
        self._index_add(user)
        self._lru_add(user, cold)
        self.resident_users += 1
        self._seal(user)
        before: cython.longlong = 0
        try:
            for row in rows:  # type: ignore[attr-defined]  # any iterable
                before = self._load(user, row, before)
        except (TableFull, ValueError, OverflowError):
            self._evict(user)
            raise
        self._b[user * 64 + 61] &= ~_PARTIAL & 0xFF
        self._seal(user)
        return user

    @cython.cfunc
    def _load(
        self, user: cython.longlong, row: tuple, before: cython.longlong
    ) -> cython.longlong:
        """Returns the new slot, or -1 as soon as rows are not in order.

        `before`: what the row before returned, or 0. Rows in order, as the database has them, are
        not looked up: none is there twice.
        """
        kind: cython.longlong = row[0]
        channel_id: cython.longlong = row[1]
        mention_count: cython.longlong = row[4]
        last_pin_timestamp: cython.longlong = row[5]
        flags: cython.longlong = row[6]
        last_viewed: cython.longlong = row[7]
        ordered: cython.bint = self._d[user * 16 + 12] == before and (
            before == 0
            or kind > self._b[before * 64 + 60]
            or (kind == self._b[before * 64 + 60] and channel_id > self._q[before * 8])
        )
        if (
            kind >> 8 or mention_count >> 32 or last_pin_timestamp >> 48 or flags >> 32
            or last_viewed >> 16
            or (not ordered and self._find_state(user, kind, channel_id))
        ):
            raise ValueError(
                f"not a new, valid read state: type {kind} channel {channel_id} mentions "
                f"{mention_count} pins {last_pin_timestamp} flags {flags} viewed {last_viewed}"
            )
        slot: cython.longlong = self._add_state(user, kind, channel_id)
        base: cython.longlong = slot * 8
        self._q[base + 1] = row[2]
        self._q[base + 2] = row[3]
        self._q[base + 3] = row[8]
        self._u[base + 4] = (last_pin_timestamp << 16) | last_viewed
        self._d[slot * 16 + 10] = mention_count
        self._d[slot * 16 + 11] = flags
        self._seal(slot)
        return slot if ordered else -1

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
            warmer = self._d[user * 16 + 9]
            if user != keep and not self._b[user * 64 + 61] & (_QUEUED | _IN_FLIGHT):
                self.evictions += self._d[user * 16 + 13]
                self._evict(user)
            user = warmer
            looked += 1
        return self.free >= needed

    @cython.cfunc
    def _evict(self, user: cython.longlong) -> cython.void:
        self._b[user * 64 + 61] |= _PARTIAL  # before its first read state goes
        self._seal(user)
        slot: cython.longlong = self._d[user * 16 + 12]
        following: cython.longlong
        steps: cython.longlong = 0
        self._approach_states(slot)
        while slot:
            following = self._d[slot * 16 + 13]
            self._index_drop(slot)
            self._free_slot(slot)
            self.resident_states -= 1
            slot = following
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        self._lru_drop(user)
        self._index_drop(user)
        self._free_slot(user)
        self.resident_users -= 1

    @cython.cfunc
    def _approach_states(self, slot: cython.longlong) -> cython.void:
        """Touch what `_index_drop` will read for the first states of a list, all at once.

        Loads that do not wait for one another: their cache misses overlap.
        """
        entries: cython.longlong = self._entries
        many: cython.longlong = 0
        index: cython.longlong
        step: cython.longlong
        place: cython.longlong
        sink: cython.longlong = 0
        while slot and many < 32:
            place = self._place(self._hash_of(slot))
            sink ^= self._x[place]
            self._near[many] = place
            many += 1
            slot = self._d[slot * 16 + 13]
        for index in range(many):
            place = self._near[index]
            for step in range(4):  # as far as a probe and the shift behind it mostly go
                if place + step < entries:
                    sink ^= self._q[self._x[place + step] * 8]
        self._sink = sink  # or the compiler would leave the loads out

    def cold_dirty(self, limit: cython.longlong) -> list:
        """Up to `limit` users waiting in the dirty queue, the coldest first.

        Looks at no more than 4 * limit users.
        """
        found: list = []
        user: cython.longlong = self._lru_tail
        looked: cython.longlong = 0
        while user and looked < 4 * limit and len(found) < limit:
            if self._b[user * 64 + 61] & _QUEUED:
                found.append(user)
            user = self._d[user * 16 + 9]
            looked += 1
        return found

    # -- dirty queue --------------------------------------------------------------------------

    @cython.cfunc
    def _queue_add(self, user: cython.longlong, at_head: cython.bint) -> cython.void:
        self._b[user * 64 + 61] |= _QUEUED
        self.dirty_users += 1
        other: cython.longlong
        if at_head:
            other = self._dirty_head
            self._d[user * 16 + 10] = other
            self._d[user * 16 + 11] = 0
            if other:
                self._d[other * 16 + 11] = user
            else:
                self._dirty_tail = user
            self._dirty_head = user
        else:
            other = self._dirty_tail
            self._d[user * 16 + 10] = 0
            self._d[user * 16 + 11] = other
            if other:
                self._d[other * 16 + 10] = user
            else:
                self._dirty_head = user
            self._dirty_tail = user

    @cython.cfunc
    def _queue_drop(self, user: cython.longlong) -> cython.void:
        younger: cython.longlong = self._d[user * 16 + 10]
        older: cython.longlong = self._d[user * 16 + 11]
        if older:
            self._d[older * 16 + 10] = younger
        else:
            self._dirty_head = younger
        if younger:
            self._d[younger * 16 + 11] = older
        else:
            self._dirty_tail = older
        self._b[user * 64 + 61] &= ~_QUEUED & 0xFF
        self.dirty_users -= 1

    @cython.cfunc
    def _user_changed(
        self, user: cython.longlong, version: cython.longlong
    ) -> cython.longlong:
        """Note a change of the user; returns DIRTIED if it is its first unwritten one."""
        if self._q[user * 8 + 2]:
            return 0
        self._q[user * 8 + 2] = version
        self._d[user * 16 + 14] = self.now_ms & 0xFFFFFFFF
        if not self._b[user * 64 + 61] & _IN_FLIGHT:
            self._queue_add(user, False)
        self._seal(user)
        return 2

    @cython.cfunc
    def _changed(
        self, user: cython.longlong, slot: cython.longlong, version: cython.longlong
    ) -> cython.longlong:
        """A state has new values: stamp, mark dirty, seal; returns CHANGED or CHANGED|DIRTIED."""
        self._q[slot * 8 + 3] = version
        if not self._b[slot * 64 + 61] & _DIRTY:
            self._b[slot * 64 + 61] |= _DIRTY
            self.dirty_states += 1
        self._seal(slot)
        return 1 | self._user_changed(user, version)

    def dirty_head(self) -> int:
        """The user that waits longest to be written out, or 0."""
        return self._dirty_head

    def dirty_since_ms(self, user: cython.longlong) -> int:
        """`now_ms` of the user's first unwritten change, modulo 2^32."""
        return self._d[user * 16 + 14]

    def first_version(self, user: cython.longlong) -> int:
        """Version of the first change not handed to a write, or 0."""
        return self._q[user * 8 + 2]

    def is_dirty(self, user: cython.longlong) -> bool:
        """True if the user is queued to be written out, or under way."""
        return bool(self._b[user * 64 + 61] & (_QUEUED | _IN_FLIGHT))

    def in_flight(self, user: cython.longlong) -> bool:
        """True between `take` and `written` or `write_failed`."""
        return bool(self._b[user * 64 + 61] & _IN_FLIGHT)

    def take(self, user: cython.longlong) -> tuple:
        """Take a queued user's changes to write them: (first_version, delete_version, rows).

        `rows`: (deleted, ReadState) for each dirty one. They stay dirty until `written`.
        O(read states of the user).
        """
        if not self._b[user * 64 + 61] & _QUEUED:
            raise TableDamaged("I5: the user is not queued")
        self._check(user)
        self._queue_drop(user)
        self._b[user * 64 + 61] |= _IN_FLIGHT
        first: cython.longlong = self._q[user * 8 + 2]
        self._q[user * 8 + 2] = 0
        self._seal(user)
        rows: list = []
        slot: cython.longlong = self._d[user * 16 + 12]
        steps: cython.longlong = 0
        status: cython.int
        while slot:
            status = self._b[slot * 64 + 61]
            if status & _DIRTY:
                rows.append((bool(status & _TOMBSTONE), self._row(slot)))
            slot = self._d[slot * 16 + 13]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        return first, self._q[user * 8 + 3], rows

    def written(self, user: cython.longlong, delete_version: cython.longlong, rows: list) -> None:
        """What `take` gave is in the database: clean now, unless changed again meanwhile."""
        if not self._b[user * 64 + 61] & _IN_FLIGHT:
            raise ValueError(f"nothing of slot {user} is being written")
        slot: cython.longlong
        for deleted, row in rows:
            slot = self._find_state(user, row[0], row[1])
            if slot == 0 or self._q[slot * 8 + 3] != row[8]:
                continue
            if not self._b[slot * 64 + 61] & _DIRTY:
                continue
            self.dirty_states -= 1
            if deleted:
                self._drop_state(user, slot)
            else:
                self._b[slot * 64 + 61] &= ~_DIRTY & 0xFF
                self._seal(slot)
        if delete_version and self._q[user * 8 + 3] == delete_version:
            self._q[user * 8 + 3] = 0
        self._b[user * 64 + 61] &= ~_IN_FLIGHT & 0xFF
        self._seal(user)
        if self._q[user * 8 + 2]:
            self._queue_add(user, False)

    def write_failed(
        self, user: cython.longlong, first_version: cython.longlong, since_ms: cython.longlong
    ) -> None:
        """What `take` gave must be written again: to the head of the queue with it.

        `first_version`, `since_ms`: as they were at `take`, older than anything that came since.
        """
        if not self._b[user * 64 + 61] & _IN_FLIGHT:
            raise ValueError(f"nothing of slot {user} is being written")
        self._b[user * 64 + 61] &= ~_IN_FLIGHT & 0xFF
        self._q[user * 8 + 2] = first_version
        self._d[user * 16 + 14] = since_ms & 0xFFFFFFFF
        self._seal(user)
        self._queue_add(user, True)

    def recover(self, first_version: cython.longlong) -> int:
        """After opening a used file: queue again whatever is not known to be in the database.

        `first_version`: that of the offset committed, for the first changes of what was under way
        are not known any more; none of them is older. All of it waits since `now_ms`. Returns how
        many users are queued: each of them holds back what is committed. O(users).
        """
        user: cython.longlong = self._lru_head
        status: cython.int
        steps: cython.longlong = 0
        while user:
            status = self._b[user * 64 + 61]
            if status & (_QUEUED | _IN_FLIGHT):
                self._b[user * 64 + 61] &= ~_IN_FLIGHT & 0xFF
                self._d[user * 16 + 14] = self.now_ms & 0xFFFFFFFF
                self._q[user * 8 + 2] = first_version
                self._seal(user)
                if not status & _QUEUED:
                    self._queue_add(user, True)
            user = self._d[user * 16 + 8]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I4: the LRU does not end")
        return self.dirty_users

    def newest(self) -> int:
        """The largest version that anything here has, deletions too; 0 if it is empty. O(slots)."""
        slot: cython.longlong
        version: cython.longlong
        found: cython.longlong = 0
        for slot in range(1, self._used):
            version = self._q[slot * 8 + (1 if self._b[slot * 64 + 61] & _USER else 3)]
            if self._b[slot * 64 + 61] and version > found:
                found = version
        return found

    # -- after a death ------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Make index, lists and counts anew from the slots of a table whose process died.

        What was under way is finished or undone (layout.py, "After a death"); `verify` and
        `recover` come next. Raises TableDamaged where a slot is not right. O(slots).
        """
        try:
            self._rebuild_users()
            self._rebuild_states()
            self._rebuild_lru()
            self._rebuild_free()
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"a link leads out of the file: {exc}") from exc

    @cython.cfunc
    def _rebuild_users(self) -> cython.void:
        """Check every slot; the index holds the users then, and their lists are empty."""
        slot: cython.longlong
        status: cython.int
        for slot in range(self._entries):
            self._x[slot] = 0
        self._used = 1
        self.resident_users = self.resident_states = 0
        self.dirty_states = self.dirty_users = self._dirty_head = self._dirty_tail = 0
        for slot in range(1, self.slots):
            status = self._check_status(slot)
            if status == 0:
                continue
            self._used = slot + 1
            self._check(slot)
            if status & _STATE:
                continue
            if self.find(self._q[slot * 8]):
                raise TableDamaged(f"I2: the user in slot {slot} is there twice")
            self._index_add(slot)
            self.resident_users += 1
            self._d[slot * 16 + 12] = 0
            status &= _USER | _PARTIAL
            if self._q[slot * 8 + 2] or self._q[slot * 8 + 3]:
                status |= _IN_FLIGHT
            self._b[slot * 64 + 61] = status

    @cython.cfunc
    def _rebuild_states(self) -> cython.void:
        """Each state goes to its user's list, or goes with its user, or with a deletion."""
        slot: cython.longlong
        status: cython.int
        owner: cython.longlong
        head: cython.longlong
        for slot in range(1, self._used):
            status = self._b[slot * 64 + 61]
            if not status & _STATE:
                continue
            owner = self._d[slot * 16 + 12]
            if not self._b[owner * 64 + 61] & _USER:
                raise TableDamaged(f"I3: the state in slot {slot} has no user")
            if self._b[owner * 64 + 61] & _PARTIAL:
                if status & _DIRTY:
                    raise TableDamaged(f"I11: slot {slot} is dirty, its user is PARTIAL")
                self._wipe(slot)
                continue
            if self._q[slot * 8 + 3] < self._q[owner * 8 + 3]:
                self._wipe(slot)
                continue
            if self._find_state(owner, self._b[slot * 64 + 60], self._q[slot * 8]):
                raise TableDamaged(f"I2: the state in slot {slot} is there twice")
            self._index_add(slot)
            head = self._d[owner * 16 + 12]
            self._d[slot * 16 + 13] = head
            self._d[slot * 16 + 14] = 0
            if head:
                self._d[head * 16 + 14] = slot
            self._d[owner * 16 + 12] = slot
            if not status & _TOMBSTONE:
                self.resident_states += 1
            if status & _DIRTY:
                self.dirty_states += 1
                self._b[owner * 64 + 61] |= _IN_FLIGHT

    @cython.cfunc
    def _rebuild_lru(self) -> cython.void:
        """All users on the LRU, in the old order if that is whole; then PARTIAL users go."""
        user: cython.longlong
        whole: cython.bint = self._lru_is_whole()
        if not whole:
            self._lru_head = self._lru_tail = 0
        for user in range(1, self._used):
            if not self._b[user * 64 + 61] & _USER:
                continue
            if not whole:
                self._lru_add(user, False)
            if self._q[user * 8 + 3]:  # its deletion may have been cut short: count again
                self._d[user * 16 + 13] = self._live(user)
        for user in range(1, self._used):
            if self._b[user * 64 + 61] & _PARTIAL:
                if self._b[user * 64 + 61] & _IN_FLIGHT:
                    raise TableDamaged(f"I11: the user in slot {user} is PARTIAL and dirty")
                self._lru_drop(user)
                self._index_drop(user)
                self._wipe(user)
                self.resident_users -= 1

    @cython.cfunc
    def _lru_is_whole(self) -> cython.bint:
        """Are the users linked as one list, there and back? Finds its ends."""
        user: cython.longlong
        head: cython.longlong = 0
        for user in range(1, self._used):
            if self._b[user * 64 + 61] & _USER and self._d[user * 16 + 9] == 0:
                head = user
        before: cython.longlong = 0
        steps: cython.longlong = 0
        user = head
        while user and steps <= self.resident_users:
            if user >= self._used or not self._b[user * 64 + 61] & _USER:
                return False
            if self._d[user * 16 + 9] != before:
                return False
            before = user
            user = self._d[user * 16 + 8]
            steps += 1
        self._lru_head = head
        self._lru_tail = before
        return steps == self.resident_users

    @cython.cfunc
    def _rebuild_free(self) -> cython.void:
        slot: cython.longlong
        self._free_head = 0
        self.free = self.slots - self._used
        for slot in range(self._used - 1, 0, -1):
            if self._b[slot * 64 + 61] == 0:
                self._free_slot(slot)

    @cython.cfunc
    def _live(self, user: cython.longlong) -> cython.longlong:
        """How many states on a user's list are no tombstones."""
        slot: cython.longlong = self._d[user * 16 + 12]
        found: cython.longlong = 0
        while slot:
            if not self._b[slot * 64 + 61] & _TOMBSTONE:
                found += 1
            slot = self._d[slot * 16 + 13]
        return found

    @cython.cfunc
    def _check_status(self, slot: cython.longlong) -> cython.int:
        """I1 of one slot: returns its status."""
        base: cython.longlong = slot * 8
        index: cython.longlong
        status: cython.int = self._b[slot * 64 + 61]
        if status == 0:
            for index in range(8):
                if index != 6 and self._q[base + index]:
                    raise TableDamaged(f"I1: the free slot {slot} is not zero")
            if self._d[slot * 16 + 12]:
                raise TableDamaged(f"I1: the free slot {slot} is not zero")
        elif status & _STATE:
            if status & ~(_STATE | _DIRTY | _TOMBSTONE):
                raise TableDamaged(f"I1: slot {slot} has status {status}")
        elif not status & _USER or status & ~(_USER | _QUEUED | _IN_FLIGHT | _PARTIAL):
            raise TableDamaged(f"I1: slot {slot} has status {status}")
        return status

    # -- the fold -----------------------------------------------------------------------------

    @cython.cfunc
    def _open(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        value: cython.longlong, version: cython.longlong,
    ) -> cython.longlong:
        """The slot of a live state to change, made where it is missing; or minus the refusal.

        `value`: what the event would set; one that is 0 makes nothing from nothing.
        """
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        if slot:
            self._check(slot)
            if version <= self._q[slot * 8 + 3]:
                return -4
            if not self._b[slot * 64 + 61] & _TOMBSTONE:
                return slot
        if version <= self._q[user * 8 + 3]:
            return -4
        if value <= 0:
            return -8
        if self._d[user * 16 + 13] >= self.user_states_max:
            return -32
        if slot == 0:
            if self.free == 0:
                return -64
            return self._add_state(user, kind, channel_id)
        self._b[slot * 64 + 61] &= ~_TOMBSTONE & 0xFF  # its fields are zero since the deletion
        self._d[user * 16 + 13] += 1
        self.resident_states += 1
        return slot

    @cython.cfunc
    def _find_alive(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        version: cython.longlong,
    ) -> cython.longlong:
        """The slot of a live state to change, or minus the refusal where there is none."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        if version <= self._q[(slot or user) * 8 + 3]:
            return -4
        if not self._alive(slot):
            return -8
        self._check(slot)
        return slot

    @cython.cfunc
    @cython.inline
    def _alive(self, slot: cython.longlong) -> cython.bint:
        return slot != 0 and not self._b[slot * 64 + 61] & _TOMBSTONE

    @cython.cfunc
    def _options(
        self, slot: cython.longlong, flags: cython.longlong, last_viewed: cython.longlong
    ) -> cython.bint:
        """Set flags and last_viewed where given; True if one of them changed."""
        changed: cython.bint = False
        if flags >= 0 and self._d[slot * 16 + 11] != flags:
            self._d[slot * 16 + 11] = flags
            changed = True
        if last_viewed >= 0 and self._h[slot * 32 + 16] != last_viewed:
            self._h[slot * 32 + 16] = last_viewed
            changed = True
        return changed

    @cython.ccall
    def ack(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        message_id: cython.longlong, flags: cython.longlong, last_viewed: cython.longlong,
        version: cython.longlong,
    ) -> cython.longlong:
        """A plain ack: forward only; clears the count if it covers the last mention."""
        slot: cython.longlong = self._open(user, kind, channel_id, message_id, version)
        if slot < 0:
            return -slot
        base: cython.longlong = slot * 8
        if message_id < self._q[base + 1]:
            return 8
        changed: cython.bint = self._options(slot, flags, last_viewed)
        if message_id != self._q[base + 1]:
            self._q[base + 1] = message_id
            changed = True
        if message_id >= self._q[base + 2] and self._d[slot * 16 + 10]:
            self._d[slot * 16 + 10] = 0
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
        slot: cython.longlong = self._open(user, kind, channel_id, message_id, version)
        if slot < 0:
            return -slot
        base: cython.longlong = slot * 8
        changed: cython.bint = self._options(slot, flags, last_viewed)
        if message_id != self._q[base + 1]:
            self._q[base + 1] = message_id
            changed = True
        if mention_count != self._d[slot * 16 + 10]:
            self._d[slot * 16 + 10] = mention_count
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
        slot: cython.longlong = self._open(user, kind, channel_id, message_id, version)
        if slot < 0:
            return -slot
        base: cython.longlong = slot * 8
        if message_id <= self._q[base + 1]:
            return 8
        if message_id == self._q[base + 2]:
            return 16
        changed: cython.bint = False
        if self._d[slot * 16 + 10] < 0xFFFFFFFF:
            self._d[slot * 16 + 10] += 1
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
        slot: cython.longlong = self._find_alive(user, kind, channel_id, version)
        if slot < 0:
            return -slot
        if message_id <= self._q[slot * 8 + 1] or self._d[slot * 16 + 10] == 0:
            return 8
        self._d[slot * 16 + 10] -= 1
        return self._changed(user, slot, version)

    @cython.ccall
    def pins_ack(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        timestamp: cython.longlong, version: cython.longlong,
    ) -> cython.longlong:
        """The larger pin timestamp (ms) stays."""
        slot: cython.longlong = self._open(user, kind, channel_id, timestamp, version)
        if slot < 0:
            return -slot
        packed: cython.ulonglong = self._u[slot * 8 + 4]
        wanted: cython.ulonglong = timestamp
        known: cython.longlong = packed >> 16
        if timestamp < known:
            return 8
        if timestamp == known:
            return 16
        self._u[slot * 8 + 4] = (wanted << 16) | (packed & 0xFFFF)
        return self._changed(user, slot, version)

    @cython.ccall
    def delete(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        version: cython.longlong,
    ) -> cython.longlong:
        """The read state becomes a tombstone until the deletion is written (I7).

        One that is not there raises the floor, too: a replay finds in the database what its last
        owner deleted later on already gone, and a client may still have it.
        """
        slot: cython.longlong = self._find_alive(user, kind, channel_id, version)
        if slot == -8:
            self._raise_floor(user, version)
        if slot < 0:
            return -slot
        self._q[slot * 8 + 1] = 0
        self._q[slot * 8 + 2] = 0
        self._u[slot * 8 + 4] = 0
        self._u[slot * 8 + 5] = 0
        self._b[slot * 64 + 61] |= _TOMBSTONE
        self._count_down(user)
        self._raise_floor(user, version)
        return self._changed(user, slot, version)

    @cython.cfunc
    def _raise_floor(self, user: cython.longlong, version: cython.longlong) -> cython.void:
        if version > self._q[user * 8 + 1]:
            self._q[user * 8 + 1] = version
        self._seal(user)

    def delete_user(self, user: cython.longlong, version: cython.longlong) -> int:
        """All read states older than `version` go; the deletion waits to be written.

        O(read states of the user).
        """
        if version <= self._q[user * 8 + 3]:
            return 4
        self._q[user * 8 + 3] = version  # before the first goes: `rebuild` finishes it
        self._raise_floor(user, version)
        slot: cython.longlong = self._d[user * 16 + 12]
        following: cython.longlong
        steps: cython.longlong = 0
        status: cython.int
        while slot:
            following = self._d[slot * 16 + 13]
            if self._q[slot * 8 + 3] < version:
                status = self._b[slot * 64 + 61]
                if status & _DIRTY:
                    self.dirty_states -= 1
                if not status & _TOMBSTONE:
                    self._count_down(user)
                self._drop_state(user, slot)
            slot = following
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        return 1 | self._user_changed(user, version)

    @cython.ccall
    def fold_plain(
        self, events: cython.longlong[:], count: cython.longlong, codes: cython.uchar[:]
    ) -> cython.longlong:
        """Find the user of each event, touch it if it is an ack, fold it; returns how many.

        `events`: eight numbers each, as `readstates.schemas.plain` has them. `codes` get what `ack`
        or `mention` returns, or ABSENT. Stops before an event that finds no room. A block's events
        are looked up together first: the processor then waits for their memory once, not one after
        another.
        """
        begin: cython.longlong = 0
        end: cython.longlong
        index: cython.longlong
        at: cython.longlong
        user: cython.longlong
        code: cython.longlong
        while begin < count:
            end = min(begin + _BLOCK, count)
            self._approach(events, begin, end)
            for index in range(begin, end):
                at = index * 8
                user = self._near[index - begin]
                if user == 0:
                    code = 128
                elif events[at + 7]:
                    code = self.mention(
                        user, events[at + 1], events[at + 2], events[at + 3], events[at + 6]
                    )
                else:
                    self.touch(user)
                    code = self.ack(
                        user, events[at + 1], events[at + 2], events[at + 3], events[at + 4],
                        events[at + 5], events[at + 6],
                    )
                if code == 64:
                    return index
                codes[index] = code
            begin = end
        return count

    @cython.cfunc
    def _approach(
        self, events: cython.longlong[:], begin: cython.longlong, end: cython.longlong
    ) -> cython.void:
        """Find the users of events[begin:end], and touch the memory that folding them will need.

        Each loop's loads do not wait for one another, so their cache misses overlap.
        """
        index: cython.longlong
        at: cython.longlong
        user: cython.longlong
        place: cython.longlong
        sink: cython.longlong = 0
        for index in range(begin, end):
            sink ^= self._x[self._place(_mix(events[index * 8], 0))]
        for index in range(begin, end):
            sink ^= self._q[self._x[self._place(_mix(events[index * 8], 0))] * 8]
        for index in range(begin, end):
            at = index * 8
            user = self.find(events[at])
            self._near[index - begin] = user
            place = self._place(_mix(events[at + 2], ((user << 8) | events[at + 1]) + 1))
            sink ^= self._x[place]
            sink ^= self._d[self._d[user * 16 + 8] * 16 + 9]
            sink ^= self._d[self._d[user * 16 + 9] * 16 + 8]
        for index in range(begin, end):
            at = index * 8
            user = self._near[index - begin]
            place = self._place(_mix(events[at + 2], ((user << 8) | events[at + 1]) + 1))
            sink ^= self._q[self._x[place] * 8]
        self._sink = sink  # or the compiler would leave the loads out

    # -- reading ------------------------------------------------------------------------------

    @cython.cfunc
    def _row(self, slot: cython.longlong) -> tuple:
        self._check(slot)
        base: cython.longlong = slot * 8
        packed: cython.ulonglong = self._u[base + 4]
        return (
            self._b[slot * 64 + 60],
            self._q[base],
            self._q[base + 1],
            self._q[base + 2],
            self._d[slot * 16 + 10],
            packed >> 16,
            self._d[slot * 16 + 11],
            packed & 0xFFFF,
            self._q[base + 3],
        )

    def has(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> bool:
        """True if the user has this read state."""
        return bool(self._alive(self._find_state(user, kind, channel_id)))

    def get(
        self, user: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> object:
        """The read state, a ReadState tuple of `readstates.schemas.replies`, or None."""
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        return self._row(slot) if self._alive(slot) else None

    def get_some(
        self,
        user: cython.longlong,
        kind: cython.longlong,
        channel_ids: tuple,
    ) -> list:
        """Those of the channels that the user has, as `get` gives them, in order. O(n log n)."""
        rows: list = []
        slot: cython.longlong
        for channel_id in sorted(channel_ids):
            slot = self._find_state(user, kind, channel_id)
            if self._alive(slot):
                rows.append(self._row(slot))
        return rows

    def states(self, user: cython.longlong) -> list:
        """All read states of a user by type and channel. O(n), or O(n log n) after changes."""
        return self._states(user)

    @cython.cfunc
    def _states(self, user: cython.longlong) -> list:
        """As it is filled, in order, a user's list is in descending order: turned, not sorted."""
        rows: list = []
        slot: cython.longlong = self._d[user * 16 + 12]
        steps: cython.longlong = 0
        kind: cython.longlong
        channel_id: cython.longlong
        last_kind: cython.longlong = 256
        last_channel: cython.longlong = 0
        descending: cython.bint = True
        while slot:
            if not self._b[slot * 64 + 61] & _TOMBSTONE:
                kind = self._b[slot * 64 + 60]
                channel_id = self._q[slot * 8]
                if kind > last_kind or (kind == last_kind and channel_id > last_channel):
                    descending = False
                last_kind = kind
                last_channel = channel_id
                rows.append(self._row(slot))
            slot = self._d[slot * 16 + 13]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        rows.reverse()
        if not descending:
            rows.sort()
        return rows

    def count(self, user: cython.longlong) -> int:
        """How many read states the user has."""
        return self._d[user * 16 + 13]

    def floor(self, user: cython.longlong) -> int:
        """A `since_version` below this is not safe: loaded or deleted something since."""
        return self._q[user * 8 + 1]

    def user_id(self, user: cython.longlong) -> int:
        """The ID of the user in a slot."""
        return self._q[user * 8]

    def users(self) -> list:
        """Slots of all residents, the warmest first. O(users)."""
        found: list = []
        user: cython.longlong = self._lru_head
        while user:
            found.append(user)
            if len(found) > self.slots:
                raise TableDamaged("I4: the LRU does not end")
            user = self._d[user * 16 + 8]
        return found

    # -- one call an operation ----------------------------------------------------------------

    def get_of(
        self, user_id: cython.longlong, kind: cython.longlong, channel_id: cython.longlong
    ) -> object:
        """`find`, `touch` and `get` in one; None also where the user is not resident."""
        user: cython.longlong = self.find(user_id)
        if user == 0:
            return None
        self.touch(user)
        slot: cython.longlong = self._find_state(user, kind, channel_id)
        return self._row(slot) if self._alive(slot) else None

    def states_of(self, user_id: cython.longlong) -> object:
        """`find`, `touch` and `states` in one; None if the user is not resident."""
        user: cython.longlong = self.find(user_id)
        if user == 0:
            return None
        self.touch(user)
        return self._states(user)

    @cython.ccall
    def ack_of(
        self, user_id: cython.longlong, kind: cython.longlong, channel_id: cython.longlong,
        message_id: cython.longlong, flags: cython.longlong, last_viewed: cython.longlong,
        version: cython.longlong,
    ) -> cython.longlong:
        """`find`, `touch` and `ack` in one; ABSENT if the user is not resident."""
        user: cython.longlong = self.find(user_id)
        if user == 0:
            return 128
        self.touch(user)
        return self.ack(user, kind, channel_id, message_id, flags, last_viewed, version)

    def admit(
        self, user_id: cython.longlong, floor: cython.longlong, cold: cython.bint, rows: list,
        scan_max: cython.longlong,
    ) -> int:
        """`evict` what is needed and `insert` in one; 0 if there is no room among `scan_max`."""
        if not self.evict(1 + len(rows), scan_max):
            return 0
        return self.insert(user_id, floor, cold, rows)

    # -- checking -----------------------------------------------------------------------------

    def verify(self) -> None:
        """Check I1-I13. Raises TableDamaged, which names the invariant. O(slots)."""
        self.save()
        if self._header[layout.AT_POSITION_INVERTED // 8] != ~self.position:
            raise TableDamaged("I13: the position and its inverse do not agree")
        try:
            self._verify_slots()
            self._verify_free()
            self._verify_lists()
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"a link leads out of the file: {exc}") from exc

    @cython.cfunc
    def _verify_slots(self) -> cython.void:
        slot: cython.longlong
        status: cython.int
        owner: cython.longlong
        listed: cython.longlong = 0
        users: cython.longlong = 0
        states: cython.longlong = 0
        alive: cython.longlong = 0
        dirty: cython.longlong = 0
        queued: cython.longlong = 0
        if self._used < 1 or self._used > self.slots:
            raise TableDamaged("I1: more slots were used than there are")
        for slot in range(1, self._used):
            status = self._check_status(slot)
            if status == 0:
                continue
            self._check(slot)
            if status & _USER:
                users += 1
                if status & _QUEUED:
                    queued += 1
                if self.find(self._q[slot * 8]) != slot:
                    raise TableDamaged(f"I2: the user in slot {slot} is not found")
                listed += self._verify_user(slot, status)
                continue
            states += 1
            owner = self._d[slot * 16 + 12]
            if not self._b[owner * 64 + 61] & _USER:
                raise TableDamaged(f"I3: the state in slot {slot} has no user")
            if self._find_state(owner, self._b[slot * 64 + 60], self._q[slot * 8]) != slot:
                raise TableDamaged(f"I2: the state in slot {slot} is not found")
            if self._q[slot * 8 + 3] < self._q[owner * 8 + 3]:
                raise TableDamaged(f"I12: slot {slot} is older than its user's deletion")
            if status & _DIRTY:
                dirty += 1
                if not self._b[owner * 64 + 61] & (_QUEUED | _IN_FLIGHT):
                    raise TableDamaged(f"I6: slot {slot} is dirty, its user is not")
            elif status & _TOMBSTONE:
                raise TableDamaged(f"I7: the tombstone in slot {slot} is clean")
            if not status & _TOMBSTONE:
                alive += 1
        for slot in range(self._used, self.slots):
            if self._check_status(slot):
                raise TableDamaged(f"I1: slot {slot} was never used and has a status")
        if (users, alive, dirty, queued) != (
            self.resident_users, self.resident_states, self.dirty_states, self.dirty_users
        ) or self.free != self.slots - 1 - users - states:
            raise TableDamaged("I8: the header's counts are not those of the slots")
        if listed != states:
            raise TableDamaged("I3: a state is not on its user's list")
        self._verify_index(users + states)

    @cython.cfunc
    def _verify_user(self, user: cython.longlong, status: cython.int) -> cython.longlong:
        """I3, I5, I6, I10 and I11 of one user; returns the length of its list."""
        slot: cython.longlong = self._d[user * 16 + 12]
        before: cython.longlong = 0
        alive: cython.longlong = 0
        steps: cython.longlong = 0
        while slot:
            if self._d[slot * 16 + 12] != user or self._d[slot * 16 + 14] != before:
                raise TableDamaged(f"I3: slot {slot} is on the list of another user")
            if not self._b[slot * 64 + 61] & _TOMBSTONE:
                alive += 1
            before = slot
            slot = self._d[slot * 16 + 13]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I3: a user's list does not end")
        if alive != self._d[user * 16 + 13]:
            raise TableDamaged(f"I10: the user in slot {user} counts wrong")
        if status & _PARTIAL:
            raise TableDamaged(f"I11: the user in slot {user} is PARTIAL")
        if self._q[user * 8 + 3] and not status & (_QUEUED | _IN_FLIGHT):
            raise TableDamaged(f"I6: the user in slot {user} has a deletion to write")
        if status & _QUEUED and not (self._q[user * 8 + 2] and not status & _IN_FLIGHT):
            raise TableDamaged(f"I5: the user in slot {user} is queued with nothing to write")
        return steps

    @cython.cfunc
    def _verify_index(self, expected: cython.longlong) -> cython.void:
        place: cython.longlong
        held: cython.longlong = 0
        for place in range(self._entries):
            if self._x[place]:
                held += 1
        if held != expected:
            raise TableDamaged(f"I2: the index holds {held} slots of {expected}")

    @cython.cfunc
    def _verify_free(self) -> cython.void:
        slot: cython.longlong = self._free_head
        steps: cython.longlong = self.slots - self._used
        while slot:
            if self._b[slot * 64 + 61] or slot >= self._used:
                raise TableDamaged(f"I1: slot {slot} on the free list is not free")
            slot = self._d[slot * 16 + 13]
            steps += 1
            if steps > self.slots:
                raise TableDamaged("I1: the free list does not end")
        if steps != self.free:
            raise TableDamaged("I1: a free slot is not on the free list")

    @cython.cfunc
    def _verify_lists(self) -> cython.void:
        """I4 and I5: both lists, there and back."""
        user: cython.longlong = self._lru_head
        before: cython.longlong = 0
        steps: cython.longlong = 0
        while user and steps <= self.resident_users:
            if self._d[user * 16 + 9] != before or not self._b[user * 64 + 61] & _USER:
                raise TableDamaged(f"I4: slot {user} does not belong where it is on the LRU")
            before = user
            user = self._d[user * 16 + 8]
            steps += 1
        if steps != self.resident_users or before != self._lru_tail:
            raise TableDamaged("I4: the LRU does not hold every user once")
        user = self._dirty_head
        before = 0
        steps = 0
        while user and steps <= self.dirty_users:
            if self._d[user * 16 + 11] != before or not self._b[user * 64 + 61] & _QUEUED:
                raise TableDamaged(f"I5: slot {user} does not belong where it is in the queue")
            before = user
            user = self._d[user * 16 + 10]
            steps += 1
        if steps != self.dirty_users or before != self._dirty_tail:
            raise TableDamaged("I5: the dirty queue does not hold every queued user once")
