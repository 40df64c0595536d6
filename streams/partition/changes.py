"""The change feed of a partition: the users of whom consumers must be told, and what.

How it works. The fold notes each change: its user joins the line, and further changes of the user
join the first one. `take` says what the user's changed read states are now, in absolute values,
with the partition's version; `sent` ends that once the broker has the record,
or puts the user back into the line. Each user in the line holds the offset of its first change,
and so does a record under way: the feed's own watermark keeps the commit at or below them.

An owner before this one may have died after a change was in the table or in Cassandra, and before
the broker had it in the feed. The fold then skips the update as applied already. So an owner does
not rely on what its own fold changes: it reads the log anew (`retell`) from where the feed is known
to be complete up to where an owner before it may have been, and tells of every user in it.

F1: for each user, a consumer that starts from a reply to `get` and then applies each record holds,
    at each record, what `get` would have answered at that record's version. It skips a record whose
    version is below the one that it holds of the user. Otherwise a read state replaces an older
    one, and a deletion removes an older one. This rests on four rules.
    - Nothing is said before the partition has caught up: the table may be ahead of its position.
      Nor before its position has passed all that was loaded: another owner may have written it.
    - Nothing is said of a user with parked updates, or who is not resident: such a user is loaded.
    - A record names all read states that changed since the user's last record that the broker has:
      at most one record of a user is under way, and what it named is named again if it failed.
    - Until everything is retold, each record has all of the user's read states (`all_deleted`).
    An owner that does not know yet that it has lost the partition may find a read state gone that
    the next owner has deleted since. Its record says so with too low a version, as its replies do.
F2: nothing is left out. An offset is not committed before its change was acknowledged in the feed,
    and what a crash may have kept from the feed is told again, as it is then. A record of an owner
    that has lost the partition may arrive after a newer one; its version says that it is older.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from readstates.cache.table import ABSENT, CHANGED, NO_ROOM, REPLAYED, Table
from readstates.schemas.changes import ACK, MENTION, cause_of
from readstates.schemas.events import BulkAck, Delete, DeleteUser, RestoreUser, Update
from readstates.schemas.fast_decoder import NUMBERS
from readstates.schemas.fields import DecodeError
from readstates.schemas.partitioner import partition_of
from readstates.schemas.read_state import Row
from readstates.schemas.version import offset_of
from readstates.schemas.wire import decode_update

from .batch import Batch, Record
from .fold import fold
from .loading import Loading
from .progress import Progress

KEYS_MAX = 100  # read states noted for one user; if there are more, all of the user's are told
UNDER_WAY_MAX = 2_000  # records of a partition that the broker has not acknowledged
LOADING_MAX = 32  # users of a partition that are loaded at once only to be told of
ROWS_AT_ONCE = 2_000  # read states that `take` reads from the table; the last user may exceed it
LOOK_FACTOR = 4  # `take` looks at so many times as many users as it may return
RETELL_BYTES = 32 << 10  # of the log that are read anew at once: about a millisecond's work
MASK_32 = 0xFFFFFFFF  # the table keeps times modulo 2^32

Key = tuple[int, int]  # read_state_type, channel_id


@dataclass(slots=True, eq=False)
class Noted:
    """A user of whom consumers must be told."""

    offset: int  # of the first change; held in the feed's watermark
    since_ms: int  # when it was noted, modulo 2^32
    keys: dict[Key, None]
    whole: bool = False  # all read states of the user are told
    causes: int = 0  # event types, as `schemas/changes.py` has them


@dataclass(slots=True, eq=False)
class Told:
    """What is said of a user, as of `version`; compared by identity."""

    user_id: int
    version: int
    rows: list[Row]
    deleted: list[Key]
    totals: tuple[int, int, int]
    noted: Noted


class Changes:
    """See the module. `told_to`: the feed is known to be complete below this offset.

    `waiting_max`: users in the line, after which the partition takes no updates.
    """

    def __init__(
        self,
        table: Table,
        progress: Progress,
        *,
        number: int,
        partitions: int,
        told_to: int,
        waiting_max: int,
        loading: Loading,
    ) -> None:
        self._table, self._progress = table, progress
        self._number, self._partitions = number, partitions
        self._waiting_max = waiting_max
        self._pending = loading.users
        self._loading = weakref.proxy(loading)  # weak: `loading` has a reference to this
        assert progress.feed_mark is not None
        self.mark = progress.feed_mark
        self._line: dict[int, Noted] = {}  # the oldest first
        self._blocked: dict[int, Noted] = {}  # a record of the user is under way, or a load
        self._asked: set[int] = set()  # of these, the users whom this had loaded
        self._under_way: dict[int, Told] = {}
        self._made: list[Told] = []  # under way, and not yet handed out
        self._retell_to = progress.catch_up_to
        self.retold_to = min(told_to, self._retell_to)
        if self.is_retelling:
            self.mark.hold(self.retold_to)

    @property
    def is_retelling(self) -> bool:
        """True until the log has been read anew up to where an earlier owner may have been."""
        return self.retold_to < self._retell_to

    @property
    def waiting(self) -> int:
        """How many users consumers must still be told of."""
        return len(self._line) + len(self._blocked) + len(self._under_way)

    @property
    def is_full(self) -> bool:
        """True while so many users wait for the broker that no update may follow them."""
        return self.waiting >= self._waiting_max and self._may_tell

    def oldest_ms(self, now_ms: int) -> int:
        """How long the oldest change has waited for the broker."""
        told = next(iter(self._under_way.values()), None)
        first = (told.noted if told else None, next(iter(self._line.values()), None))
        blocked = next(iter(self._blocked.values()), None)
        return max(
            ((now_ms - one.since_ms) & MASK_32 for one in (*first, blocked) if one), default=0
        )

    # -- noting -------------------------------------------------------------------------------

    def fold(self, table: Table, user: int, event: Update, version: int) -> int:
        """Fold an event as `fold` does, and note what it changed."""
        code = fold(table, user, event, version)
        offset = offset_of(version)
        if offset < self._retell_to or code & NO_ROOM:
            return code
        # A deletion counts always: its read state may be gone from the database already, because an
        # owner that lost the partition has written it.
        if code & (CHANGED | REPLAYED) or isinstance(event, (Delete, DeleteUser)):
            self._note(table.user_id(user), offset, event)
        return code

    def note_run(
        self, numbers: Sequence[int], records: Sequence[Record], begin: int, codes: bytes
    ) -> None:
        """Note the changes of a run; `numbers` and `codes` as for `Table.fold_run`."""
        if not codes or records[begin + len(codes) - 1].offset < self._retell_to:
            return
        line, at = self._line, 0
        for index, code in enumerate(codes, begin):
            if code & (CHANGED | REPLAYED) and not code & ABSENT:
                user_id = numbers[at]
                noted = line.get(user_id) or self._noted(user_id, records[index].offset)
                if len(noted.keys) < KEYS_MAX:
                    noted.keys[numbers[at + 1], numbers[at + 2]] = None
                else:
                    noted.whole = True
                noted.causes |= MENTION if numbers[at + 7] else ACK
            at += NUMBERS

    def _noted(self, user_id: int, offset: int) -> Noted:
        """The user's entry, which holds `offset` or a lower one."""
        noted = self._line.get(user_id) or self._blocked.get(user_id)
        if noted is None:
            noted = self._line[user_id] = Noted(offset, self._table.now_ms, {})
            self.mark.hold(offset)
        elif offset < noted.offset:  # it was parked, or is retold
            self.mark.hold(offset)
            self.mark.release(noted.offset)
            noted.offset = offset
        return noted

    def _note(self, user_id: int, offset: int, event: Update) -> None:
        noted = self._noted(user_id, offset)
        noted.causes |= cause_of(event)
        if isinstance(event, DeleteUser):
            noted.whole = True
        elif isinstance(event, BulkAck):
            noted.keys.update(dict.fromkeys(ack[:2] for ack in event.acks))
        elif not isinstance(event, RestoreUser):
            noted.keys[event.read_state_type, event.channel_id] = None
        noted.whole = noted.whole or len(noted.keys) > KEYS_MAX

    # -- retelling ----------------------------------------------------------------------------

    @property
    def wants_bytes(self) -> int:
        """Bytes of the log that may be read anew now. Any thread may ask."""
        ready = self.is_retelling and self._progress.caught_up
        return RETELL_BYTES if ready and self.waiting < max(1, self._waiting_max // 2) else 0

    def retell(self, batch: Batch, now_ms: int) -> None:
        """Tell of the users of a part of the log that is read anew."""
        if batch.start != self.retold_to or not self.is_retelling:
            return
        self._table.now_ms = now_ms & MASK_32
        for record in batch.records:
            if record.offset >= self._retell_to:
                break  # the fold notes its change
            try:
                event = decode_update(record.value)
            except DecodeError:
                continue
            key = b"%d" % event.user_id
            if key == record.key and partition_of(key, self._partitions) == self._number:
                noted = self._noted(event.user_id, record.offset)
                noted.whole = True
                noted.causes |= cause_of(event)
        self.mark.release(self.retold_to)
        self.retold_to = batch.end
        if self.is_retelling:
            self.mark.hold(self.retold_to)

    # -- telling ------------------------------------------------------------------------------

    @property
    def _may_tell(self) -> bool:
        """True if the table is not ahead of the partition's position (F1)."""
        progress = self._progress
        return progress.caught_up and progress.version >= self._loading.newest

    def take(self, limit: int) -> tuple[list[Told], bool]:
        """What is to be sent now, and whether there is more; a call of `sent` ends each.

        At most `limit` records, and those of users just loaded. O(read states told of, and all read
        states of users told of as a whole).
        """
        made, self._made = self._made, []
        if not self._may_tell:  # F1
            return made, False
        looked: list[int] = []
        rows, more = sum(len(told.rows) for told in made), False
        for count, (user_id, noted) in enumerate(self._line.items()):
            if count >= LOOK_FACTOR * limit:
                break
            if len(made) >= limit or rows >= ROWS_AT_ONCE:
                more = True
                break
            if user_id in self._under_way or user_id in self._pending:  # F1
                self._blocked[user_id] = noted
            elif user := self._table.find(user_id):
                if len(self._under_way) >= UNDER_WAY_MAX:
                    break
                made.append(self._tell(user_id, user, noted))
                rows += len(made[-1].rows)
            elif len(self._asked) < LOADING_MAX:
                self._blocked[user_id] = noted
                self._asked.add(user_id)
            else:
                continue
            looked.append(user_id)
        for user_id in looked:
            del self._line[user_id]
            if user_id in self._blocked and user_id not in self._under_way:
                self._loading.want(user_id)
        return made, more

    def _tell(self, user_id: int, user: int, noted: Noted) -> Told:
        table, keys = self._table, noted.keys
        deleted: list[Key] = []
        if noted.whole or self.is_retelling:  # F1
            noted.whole = True
            rows = table.states(user)
        else:
            rows = self._rows(user, keys)
            if len(rows) < len(keys):
                shown = {row[:2] for row in rows}
                deleted = [key for key in keys if key not in shown]
        told = Told(user_id, self._progress.version, rows, deleted, table.totals(user, -1), noted)
        self._under_way[user_id] = told
        return told

    def _rows(self, user: int, keys: Collection[Key]) -> list[Row]:
        """Those of these read states that there are, by type and channel."""
        if len(keys) == 1:
            ((kind, channel_id),) = keys
            return self._table.get_some(user, kind, (channel_id,))
        by_type: dict[int, list[int]] = {}
        for kind, channel_id in sorted(keys):
            by_type.setdefault(kind, []).append(channel_id)
        rows: list[Row] = []
        for kind, channel_ids in by_type.items():
            rows += self._table.get_some(user, kind, tuple(channel_ids))
        return rows

    def admitted(self, user_id: int, user: int) -> None:
        """Tell of a user that was waited for at once: it may be evicted again before it is due."""
        self._asked.discard(user_id)
        if user_id in self._blocked and user_id not in self._under_way:
            noted = self._blocked.pop(user_id)
            if self._may_tell:
                self._made.append(self._tell(user_id, user, noted))
            else:
                self._line[user_id] = noted

    def sent(self, told: Told, taken: bool) -> None:
        """End a record: the broker has it, or (if not `taken`) the user must be told of again."""
        del self._under_way[told.user_id]
        newer = self._line.get(told.user_id) or self._blocked.get(told.user_id)
        if told.user_id in self._blocked:
            if told.user_id in self._pending:
                self._loading.want(told.user_id)
            else:
                self._line[told.user_id] = self._blocked.pop(told.user_id)
        noted = told.noted
        if taken:
            self.mark.release(noted.offset)  # F2
            return
        if newer is None:
            self._line[told.user_id] = noted
            return
        self.mark.release(max(newer.offset, noted.offset))
        newer.offset = min(newer.offset, noted.offset)
        newer.since_ms = noted.since_ms
        newer.keys.update(noted.keys)
        newer.causes |= noted.causes
        newer.whole = newer.whole or noted.whole or len(newer.keys) > KEYS_MAX

    def check(self) -> None:
        """Assert that all that is not told is held, and that no user is in two places."""
        held = self.waiting + self.is_retelling
        assert len(self.mark) == held, f"F2: {len(self.mark)} holds, not {held}"
        assert not self._line.keys() & self._blocked.keys(), "F1: a user is in the line twice"
        for user_id in self._blocked:
            assert user_id in self._under_way or user_id in self._pending, (
                f"F2: user {user_id} waits for nothing"
            )
        assert self._asked <= self._blocked.keys(), "a user is loaded who is not waited for"
