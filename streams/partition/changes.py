"""Makes the records of the change feed, which tell consumers what has changed for a user.

How it works. An update that changes read states puts its user into the *line*, which is a queue.
Further changes of this user are added to the same entry. `take` makes a record for each user in the
line. The record has the present values of the changed read states, and a version, which says how
much of the log the partition has applied. `sent` ends the record when the broker has it. If the
broker does not take it, the user joins the line again. Until the broker has it, commits stay at or
below the offset of the user's first change.

An owner of the partition may die after a change is in the table or in Cassandra, but before its
record is in the feed. When the next owner reads the log, it skips this update, because the change
is there already. So the next owner must *retell*: it reads a part of the log again, and makes a
record for each user in it. The part begins where the feed is known to be complete. It ends at the
last position that an earlier owner may have reached.

F1: a consumer starts from a reply to the query `get`, and then applies the records. After each
    record, it has what `get` would have returned for this user at the record's version. A consumer
    must skip a record whose version is lower than the one that it has for the user. F1 needs four
    rules:
    - The partition makes no records until it has caught up, because its table may be ahead of its
      position. Its position must also have passed all loaded rows, because another owner may have
      written newer ones.
    - It makes no record for a user who is not in the table, or whose updates wait for a load. It
      first loads the user.
    - A record has every read state that changed since the user's last acknowledged record. To
      ensure this, a user has at most one unacknowledged record. If it fails, the next record
      repeats its read states.
    - Until the partition has retold everything, each record has all read states of its user.
    There is one exception. If an owner has lost the partition but does not know it yet, it may read
    a later deletion from Cassandra. Its records then show the deletion with too low a version.
F2: the feed misses no change. An offset is committed only when the broker has acknowledged the
    record for its change. Any change that a crash may have kept out of the feed is retold. Records
    of an owner that has lost the partition may arrive late, but their versions are lower.
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

KEYS_MAX = 100  # If more read states of a user change, the record has all of the user's.
UNDER_WAY_MAX = 2_000  # maximum number of unacknowledged records
LOADING_MAX = 32  # maximum number of users who are being loaded only for the feed
ROWS_AT_ONCE = 2_000  # `take` stops after this many read states.
LOOK_FACTOR = 4  # maximum number of users that `take` checks, as a multiple of its limit
RETELL_BYTES = 32 << 10  # how much of the log is read again at once: about 1 ms of work
MASK_32 = 0xFFFFFFFF  # The table stores times modulo 2^32.

Key = tuple[int, int]  # read_state_type, channel_id


@dataclass(slots=True, eq=False)
class Noted:
    """The changes of a user that the next record must contain."""

    offset: int  # the offset of the first change; commits stay at or below it
    since_ms: int  # the time of the first change, modulo 2^32
    keys: dict[Key, None]
    whole: bool = False  # True: the record has all read states of the user
    causes: int = 0  # the types of the events, as a bit set (`schemas/changes.py`)


@dataclass(slots=True, eq=False)
class Told:
    """A record that describes a user at `version`. Compared by identity."""

    user_id: int
    version: int
    rows: list[Row]
    deleted: list[Key]
    totals: tuple[int, int, int]
    noted: Noted


class Changes:
    """See the module docstring. The feed is known to be complete below the offset `told_to`.

    If `waiting_max` users wait for the broker, the partition takes no more updates.
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
        self._loading = weakref.proxy(loading)  # weak, because `loading` refers to this object
        assert progress.feed_mark is not None
        self.mark = progress.feed_mark
        self._line: dict[int, Noted] = {}  # in the order of the first change
        self._blocked: dict[int, Noted] = {}  # users who wait for a load or an acknowledgment
        self._asked: set[int] = set()  # the users in `_blocked` who are loaded only for the feed
        self._under_way: dict[int, Told] = {}  # records that the broker has not acknowledged
        self._made: list[Told] = []  # records for the next `take`; also in `_under_way`
        self._retell_to = progress.catch_up_to
        self.retold_to = min(told_to, self._retell_to)
        if self.is_retelling:
            self.mark.hold(self.retold_to)

    @property
    def is_retelling(self) -> bool:
        """True until the partition has retold everything; see the module docstring."""
        return self.retold_to < self._retell_to

    @property
    def waiting(self) -> int:
        """The number of users whose changes the broker does not have yet."""
        return len(self._line) + len(self._blocked) + len(self._under_way)

    @property
    def is_full(self) -> bool:
        """True while so many users wait for the broker that the partition takes no updates."""
        return self.waiting >= self._waiting_max and self._may_tell

    def oldest_ms(self, now_ms: int) -> int:
        """How long the oldest change has waited for the broker, in ms."""
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
        # Always note a deletion. An owner that has lost the partition may have written it to the
        # database already. In that case, it changes nothing here.
        if code & (CHANGED | REPLAYED) or isinstance(event, (Delete, DeleteUser)):
            self._note(table.user_id(user), offset, event)
        return code

    def note_run(
        self, numbers: Sequence[int], records: Sequence[Record], begin: int, codes: bytes
    ) -> None:
        """Note the changes of a run. `numbers` and `codes` are those of `Table.fold_run`."""
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
        """The user's entry. It holds `offset` or a lower offset."""
        noted = self._line.get(user_id) or self._blocked.get(user_id)
        if noted is None:
            noted = self._line[user_id] = Noted(offset, self._table.now_ms, {})
            self.mark.hold(offset)
        elif offset < noted.offset:  # because the update was parked, or because it is retold
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
        """How many bytes of the log to read again now. Any thread may read this."""
        ready = self.is_retelling and self._progress.caught_up
        return RETELL_BYTES if ready and self.waiting < max(1, self._waiting_max // 2) else 0

    def retell(self, batch: Batch, now_ms: int) -> None:
        """Put the users of a batch into the line. The batch was read again from the log."""
        if batch.start != self.retold_to or not self.is_retelling:
            return
        self._table.now_ms = now_ms & MASK_32
        for record in batch.records:
            if record.offset >= self._retell_to:
                break  # From here on, the fold notes the changes.
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
        """True if the table and all loaded rows are not ahead of the partition's position (F1)."""
        progress = self._progress
        return progress.caught_up and progress.version >= self._loading.newest

    def take(self, limit: int) -> tuple[list[Told], bool]:
        """Return the records to send now, and True if there are more. Call `sent` for each record.

        There are at most `limit` records, besides those of users who have just been loaded.
        O(read states in the records).
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
        """The rows of these read states, by type and channel. A deleted read state has no row."""
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
        """Immediately make the record for a user who has been loaded but may soon be evicted."""
        self._asked.discard(user_id)
        if user_id in self._blocked and user_id not in self._under_way:
            noted = self._blocked.pop(user_id)
            if self._may_tell:
                self._made.append(self._tell(user_id, user, noted))
            else:
                self._line[user_id] = noted

    def sent(self, told: Told, taken: bool) -> None:
        """End a record. If the broker has not `taken` it, put the user back into the line."""
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
        """Assert that all untold changes hold offsets, and that no user is in the line twice."""
        held = self.waiting + self.is_retelling
        assert len(self.mark) == held, f"F2: {len(self.mark)} holds instead of {held}"
        assert not self._line.keys() & self._blocked.keys(), "F1: a user is in the line twice"
        for user_id in self._blocked:
            assert user_id in self._under_way or user_id in self._pending, (
                f"F2: user {user_id} is blocked for no reason"
            )
        assert self._asked <= self._blocked.keys(), "a user is loaded for no reason"
