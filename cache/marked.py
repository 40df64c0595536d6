# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""Events with marks: those that use a read state's entries, and those that may show or hide it.

A read state with no mark, or with one mention, needs no slot but its own. If it has more entries
(`marks.py` says what they are), they are in extensions: slots that only the read state leads to. An
extension is never changed. New ones are made, then the read state is sealed with the new link, and
then the old ones are freed (O6, O7).

An event reads the entries into a `Marks`, changes them there, and writes the read state anew with
`_put`. This takes O(MARKS_MAX). Fold methods return a set of bits, as those of `kernel.py` do.
"""

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64
from cython import ulonglong as u64

from . import layout
from .kernel import DUPLICATE, NO_ROOM, REPLAYED, STALE, TOO_MANY, Kernel
from .layout import TableDamaged

if cython.compiled:
    from cython.cimports.store_barrier import store_barrier  # type: ignore[import-untyped]
else:
    from .kernel import store_barrier  # type: ignore[attr-defined]

COMPILED: bool = cython.compiled

_REPLAYED = cython.declare(i64, REPLAYED)
_STALE = cython.declare(i64, STALE)
_DUPLICATE = cython.declare(i64, DUPLICATE)
_TOO_MANY = cython.declare(i64, TOO_MANY)
_NO_ROOM = cython.declare(i64, NO_ROOM)

_STATE = cython.declare(cython.int, layout.STATE)
_DIRTY = cython.declare(cython.int, layout.DIRTY)
_TOMBSTONE = cython.declare(cython.int, layout.TOMBSTONE)
_EXTENDED = cython.declare(cython.int, layout.EXTENDED)
_HIDDEN = cython.declare(cython.int, layout.HIDDEN)
_ENTRIES = cython.declare(i64, layout.EXTENSION_ENTRIES)
_MASK = cython.declare(u64, 0xFFFFFFFFFFFFFFFF)


@cython.cclass
class Marked(Kernel):
    """A table with the events of the module."""

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _read_marks(self, slot: i64) -> cython.int:
        """Read what `_marks` needs of a read state; slot 0 means that there is none yet."""
        try:
            self._marks.read(self._last_message_id[slot], self._read_entries(slot))
        except (IndexError, ValueError) as exc:
            raise TableDamaged(f"I15: the entries of slot {slot}: {exc}") from exc

    @cython.final
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

    def pins_ack(self, user: i64, kind: i64, channel_id: i64, timestamp: i64, version: i64) -> int:
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

    def set_options(
        self, user: i64, kind: i64, channel_id: i64, flags: i64, last_viewed: i64, version: i64
    ) -> int:
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

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _raise_floor(self, user: i64, version: i64) -> cython.int:
        if version > self._floor[user]:
            self._floor[user] = version
        self._seal(user)

    @cython.final
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

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _put(
        self, user: i64, slot: i64, kind: i64, channel_id: i64, packed: u64, flags: i64,
        version: i64,
    ) -> i64:
        """Write a read state anew, with the marks in `_marks`; slot 0 means that there is none yet.

        A user's extensions and hidden read states take at most `_side_max` slots. An eighth of them
        is kept for first extensions, which a second mention needs, and for deletions: once the
        others are used up, marks are given up, as they are above MARKS_MAX. If no slot is left for
        a state that becomes hidden, it is deleted, and nothing of it is kept. Refusals change
        nothing.
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

    @cython.final
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

    @cython.final
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
        """Fold an ack, unless a manual ack has marked the state unread after `if_version`."""
        slot: i64 = self._known(user, kind, channel_id, version)
        if slot > 0 and self._status[slot] & _EXTENDED:
            return self._ack_marks(
                user, slot, message_id, flags, last_viewed, if_version, version
            )
        return self._ack(user, kind, channel_id, message_id, flags, last_viewed, version)

    def mark(
        self, user: i64, kind: i64, channel_id: i64, message_id: i64, rank: i64, version: i64
    ) -> int:
        """Fold a mention or a retraction of any edit; `rank`: see marks.py."""
        if rank == 0:
            return self._mention(user, kind, channel_id, message_id, version)
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
