# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, type-arg, return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""Deletions: of a read state, of a user, and of a user for good.

A deleted read state is a tombstone until the deletion is written (I7). If the event names a
message, the read state stays instead, hidden, and remembers that message. The deletion of a user
frees its read states at once; its version stays in the user's slot until it is written. A user who
is deleted for good also has a mark: a hidden read state of type 0 and channel 0. Fold methods
return a set of bits, as those of `kernel.py` do.
"""

import cython  # type: ignore[import-untyped]  # Cython publishes no types
from cython import longlong as i64

from . import layout
from .kernel import CHANGED, DUPLICATE, NO_ROOM, REPLAYED, STALE, TOO_MANY
from .marked import Marked

if cython.compiled:
    from cython.cimports.store_barrier import store_barrier  # type: ignore[import-untyped]
else:
    from .kernel import store_barrier  # type: ignore[attr-defined]

COMPILED: bool = cython.compiled

_CHANGED = cython.declare(i64, CHANGED)
_REPLAYED = cython.declare(i64, REPLAYED)
_STALE = cython.declare(i64, STALE)
_DUPLICATE = cython.declare(i64, DUPLICATE)
_TOO_MANY = cython.declare(i64, TOO_MANY)
_NO_ROOM = cython.declare(i64, NO_ROOM)

_DIRTY = cython.declare(cython.int, layout.DIRTY)
_TOMBSTONE = cython.declare(cython.int, layout.TOMBSTONE)
_FINAL = cython.declare(cython.int, layout.FINAL)
_EXTENDED = cython.declare(cython.int, layout.EXTENDED)
_HIDDEN = cython.declare(cython.int, layout.HIDDEN)


@cython.cclass
class Deletions(Marked):
    """A table with the deletions of the module."""

    def delete(self, user: i64, kind: i64, channel_id: i64, up_to: i64, version: i64) -> int:
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

    @cython.final
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
