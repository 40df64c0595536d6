"""Applies the updates of one Kafka partition, in log order, to the read states of its users.

This package does not use Kafka, Cassandra, asyncio or a clock. A partition requests work through
`Effects`, and the worker reports each result by a method call. A simulation runs the same code.
The event loop calls all methods, except that another thread may answer queries (`exclusive.py`).

How it works. `take` puts batches of updates into the inbox. `run` takes a *slice* of these updates
and *folds* them: it applies each one to the table. The user of an update must be *resident*, which
means that the table has all of the user's read states. If the user is not resident, the update is
*parked* (held back), and the user's rows are loaded from Cassandra. When they arrive, `loaded`
folds the parked updates in order and answers the user's queries.

A changed user is *dirty* until Cassandra has the changes. `take_writes` returns dirty users to be
written, and `written` reports the result. While an update still needs work, it *holds* its
offset: commits stay at or below this offset (`watermark.py`).

An *incarnation* is one opening of a partition by one process. The invariants P1-P8 are defined in
`inbox.py` (P1), `loading.py` (P2), `waiting_queries.py` (P4), `progress.py` (P3, P6-P8) and here:

P5: a result for an earlier incarnation is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from readstates.cache.table import (
    ABSENT,
    CHANGED,
    DIRTIED,
    DUPLICATE,
    NO_ROOM,
    REPLAYED,
    STALE,
    TOO_MANY,
    Table,
)
from readstates.schemas import fast_decoder
from readstates.schemas.fields import DecodeError
from readstates.schemas.partitioner import misrouted, partition_of
from readstates.schemas.read_state import Row
from readstates.schemas.wire import decode_update

from ..priorities import FOLD, LOAD, OTHER, WRITE_OUT
from .batch import Batch, Record, UnreadBatch
from .changes import Changes, Told
from .decode_buffer import RUN_MAX, DecodeBuffer
from .effects import Effects, Outcomes, OwnEffects
from .exclusive import Exclusive
from .fold import COLD_EVENTS, fold, slots_needed
from .inbox import Inbox
from .loading import Loading
from .plausible_ids import PlausibleIds
from .progress import Progress
from .room import Room
from .waiting_queries import WaitingQueries
from .write_out import Write, WriteOut

OTHER_COST = 10  # a parked update, or one that is not simple, counts as this many simple updates
# Length limit of a run (consecutive simple updates), if over a quarter of the last run was parked.
RUN_MAX_COLD = 16


class Partition:
    """See the module docstring."""

    def __init__(
        self,
        number: int,
        *,
        table: Table,
        position: int,
        committed: int,
        catch_up_to: int,
        epoch: int,
        partitions: int,
        incarnation: int,
        parked_max: int,
        parked_bytes_max: int,
        inbox_max: int,
        inbox_bytes_max: int,
        reader: DecodeBuffer,
        effects: Effects,
        ids: PlausibleIds | None = None,
        told_to: int | None = None,
        changes_max: int = 0,
        is_candidate: bool = False,
    ) -> None:
        self.number, self.partitions = number, partitions
        self.table = table
        self.incarnation = incarnation
        self.closing = False  # Set this only inside `exclusive`.
        self.exclusive = Exclusive()
        self._parked_max, self._parked_bytes_max = parked_max, parked_bytes_max
        self._inbox_max, self._inbox_bytes_max = inbox_max, inbox_bytes_max
        self._reader = reader
        self._ids = ids  # None: message IDs are not checked
        self._run_max = RUN_MAX
        self.left = 0  # how many simple updates the slice may still take
        own = OwnEffects(self, effects)
        self.progress = Progress(
            table,
            position=position,
            committed=committed,
            catch_up_to=catch_up_to,
            epoch=epoch,
            told_to=told_to,
        )
        self.watermark = self.progress.watermark
        self.inbox = Inbox(number, position)
        self.room = Room(table)
        self._outcomes = Outcomes(self.progress, own, table.user_states_max)
        self.counts = self._outcomes.counts
        self.loading = Loading(table, self.room, self.progress, self._outcomes, own, effects)
        self.queries = WaitingQueries(table, self.progress, self.loading, effects)
        self.loading.notes_ahead = is_candidate
        self.write_out = WriteOut(table, self.room, self.progress, self.inbox)
        self.changes: Changes | None = None  # None: there is no change feed
        self._fold = fold
        if told_to is not None:
            self.changes = Changes(
                table,
                self.progress,
                number=number,
                partitions=partitions,
                told_to=told_to,
                waiting_max=changes_max,
                loading=self.loading,
            )
            self._fold = self.loading.fold = self.changes.fold
            self.loading.admitted = self.changes.admitted

    # -- state for the reader and the commits -------------------------------------------------

    @property
    def position(self) -> int:
        """The next offset to fold."""
        return self.progress.position

    @property
    def all_durable(self) -> bool:
        """True if every folded update is in Cassandra and in the change feed.

        This ignores the updates that an earlier owner may not have sent to the feed, because the
        next owner will read them again.
        """
        told = self.changes is None or self.changes.is_retelling or not self.changes.mark
        return told and len(self.watermark) == self.loading.parked_updates

    @property
    def wants_bytes(self) -> int:
        """How many bytes of updates the inbox has room for. Any thread may read this."""
        inbox = self.inbox
        if self.closing or inbox.records >= self._inbox_max:
            return 0
        return max(0, self._inbox_bytes_max - inbox.size_bytes)

    @property
    def held_back(self) -> bool:
        """True while the partition cannot take updates, because it waits for Cassandra or Kafka."""
        return (
            self.room.stalled
            or self.loading.parked_updates >= self._parked_max
            or self.loading.parked_bytes >= self._parked_bytes_max
            or self._outcomes.too_many_pending
            or (self.changes is not None and self.changes.is_full)
        )

    @property
    def can_run(self) -> bool:
        """True if `run` can take updates now."""
        return bool(self.inbox.batches) and not self.held_back

    @property
    def dead_letters_bytes(self) -> int:
        """Total size of the dead letters that the broker has not acknowledged."""
        return self._outcomes.dead_letters_bytes

    def note_live_commit(self) -> None:
        """Record that this owner has made its first commit, so it may answer and write (P8)."""
        if not self.progress.live_committed:
            with self.exclusive(OTHER):
                self.progress.live_committed = True
                self.queries.wake()

    # -- the fold -----------------------------------------------------------------------------

    def take(self, batch: Batch) -> None:
        """Put a batch into the inbox. Raises BatchGapError if it is not the next batch."""
        self.inbox.add(batch)

    def run(self, limit: int, now_ms: int, clock_ahead_ms: int = 0) -> int:
        """Fold a slice of updates from the inbox; returns how many updates it took.

        A slice has up to `limit` simple updates (plain acks and mentions). Any other update takes
        longer, so it counts as OTHER_COST simple ones. The slice ends early if the table has no
        room or if too many updates are parked. `clock_ahead_ms` is our clock minus the broker's.
        """
        with self.exclusive(FOLD):
            return self._run(limit, now_ms, clock_ahead_ms)

    def _run(self, limit: int, now_ms: int, clock_ahead_ms: int) -> int:
        self.table.now_ms = now_ms & 0xFFFFFFFF
        progress, inbox = self.progress, self.inbox
        taken, before = 0, progress.position
        record = None
        self.left = limit
        while self.left > 0 and self.can_run:
            records = inbox.batches[0].records
            begin = inbox.index
            end = inbox.index = self._apply(records, begin)
            if end > begin:
                taken += end - begin
                record = records[end - 1]
            if end == len(records):
                progress.position = inbox.drop_first().end
        if record is not None:
            self.write_out.behind_ms = now_ms - clock_ahead_ms - record.timestamp
        inbox.records -= taken
        progress.store()
        if progress.position != before:  # true even if there were only control records
            self.queries.wake()
        return taken

    def _apply(self, records: Sequence[Record], begin: int) -> int:
        """Fold records from `begin` on; returns the index of the first record that it did not take.

        A run of simple updates takes only two calls: one decodes it, and one folds it.
        """
        index, loading = begin, self.loading
        read, epoch_bits = self._reader.read, self.progress.epoch_bits
        while index < len(records) and self.left > 0:
            run = 0
            if fast_decoder.COMPILED and not loading.waiting_for_room:  # P2
                most = min(self._run_max, self._parked_max - loading.parked_updates, self.left)
                stop = min(len(records), index + most)
                run = read(records, index, stop, epoch_bits)
                if run and self._ids is not None:
                    run = self._ids.run(self._reader.numbers, records, index, run)
            if run:
                before = loading.parked_updates
                taken = self._apply_run(records, index, run)
                parked = loading.parked_updates - before
                self.left -= taken + (OTHER_COST - 1) * parked
                self._run_max = RUN_MAX_COLD if 4 * parked > taken else RUN_MAX
            else:
                taken = int(self._apply_one(records[index]))
                self.left -= OTHER_COST * taken
            index += taken
            if taken:
                self.progress.position = records[index - 1].offset + 1
            if taken < (run or 1):
                break
        return index

    def _apply_run(self, records: Sequence[Record], begin: int, count: int) -> int:
        """Fold a run of simple updates from the decode buffer; returns how many it took."""
        table, counts, numbers = self.table, self.counts, self._reader.numbers
        taken: int = table.fold_run(numbers, count, self._reader.codes)
        codes = bytes(self._reader.codes[:taken])
        applied, stale = codes.count(CHANGED), codes.count(STALE)
        duplicate, replayed = codes.count(DUPLICATE), codes.count(REPLAYED)
        counts.applied += applied
        counts.stale += stale
        counts.duplicate += duplicate
        counts.replayed += replayed
        if self.changes is not None:
            self.changes.note_run(numbers, records, begin, codes)
        if applied + stale + duplicate + replayed < taken:
            for index, code in enumerate(codes, begin):
                if code & (DIRTIED | ABSENT | TOO_MANY):
                    record = records[index]
                    if code & ABSENT:
                        at = (index - begin) * fast_decoder.NUMBERS
                        if table.find(numbers[at]):  # The user is resident, but deleted for good.
                            counts.deleted_user += 1
                        else:
                            self._park(record, numbers[at], warm=not numbers[at + 7])
                    else:
                        if code & DIRTIED:
                            self.watermark.hold(record.offset)  # P3
                        self._outcomes.count(code, record)
        if taken < count:
            at = taken * fast_decoder.NUMBERS
            user_id, kind, channel_id, _, _, _, _, is_mention = numbers[at : at + 8]
            user = table.find(user_id)
            slots = table.slots_needed(user, kind, channel_id, is_mention)
            self.room.make_for_refused(slots, user)
        return taken

    def _apply_one(self, record: Record) -> bool:
        """Fold or park one record; False if there is no room for it yet."""
        table, offset = self.table, record.offset
        event, rejected = None, ("", "")
        try:
            event = decode_update(record.value)
        except DecodeError as exc:
            rejected = exc.reason, str(exc)
        if event is None:  # not in the `except` block: its traceback would keep the record alive
            if isinstance(record, UnreadBatch):
                rejected = record.reason, record.text
            self._outcomes.reject(record, *rejected)
            return True
        user_id = event.user_id
        if record.key != b"%d" % user_id:
            text = f"key {record.key!r:.80} is not {user_id}"
            self._outcomes.reject(record, "key_mismatch", text)
            return True
        if self._ids is not None and (text := self._ids.refusal(event, record.timestamp)):
            self._outcomes.reject(record, "implausible_id", text)
            return True
        user = table.find(user_id)
        warm = not isinstance(event, COLD_EVENTS)
        if user == 0 or user_id in self.loading.users:  # P2
            loading = self.loading
            # Runs do not check `parked_bytes`, because simple updates are small.
            if (
                loading.parked_updates >= self._parked_max
                or loading.parked_bytes >= self._parked_bytes_max
            ):
                return False
            self._park(record, user_id, warm=warm)
            return True
        if warm:
            table.touch(user)
        code = self._fold(table, user, event, self.progress.epoch_bits | (offset + 1))
        if code & NO_ROOM:
            self.room.make_for_refused(slots_needed(table, user, event), user)
            return False  # The caller tries this record again when there is room.
        if code & DIRTIED:
            self.watermark.hold(offset)  # P3
        self._outcomes.count(code, record)
        return True

    def _park(self, record: Record, user_id: int, *, warm: bool) -> None:
        """Park a valid update, or reject it if it is in the wrong partition."""
        if user_id not in self.loading.users:
            right = partition_of(b"%d" % user_id, self.partitions)
            if right != self.number:
                text = misrouted(user_id, self.number, right)
                self._outcomes.reject(record, "misrouted", text)
                return
        assert record.value is not None  # because it was decoded
        self.loading.park(user_id, record.offset, record.value, warm=warm)

    # -- results of requested work ------------------------------------------------------------

    def loaded(self, incarnation: int, user_id: int, ticket: int, rows: Sequence[Row]) -> None:
        """Take the rows of a user from Cassandra. A new user has no rows."""
        if incarnation == self.incarnation:  # P5
            with self.exclusive(LOAD):
                self.loading.loaded(user_id, ticket, rows)

    def wants_load(self, incarnation: int, user_id: int, ticket: int) -> bool:
        """True while an update, a query or the change feed waits for this load."""
        return incarnation == self.incarnation and self.loading.wants(user_id, ticket)

    def dead_letter_kept(self, incarnation: int, offset: int) -> None:
        """Record that the broker has the dead letter of the update at `offset`."""
        if incarnation == self.incarnation:  # P5
            self._outcomes.dead_letter_kept(offset)

    def take_writes(self, now_ms: int, delay_ms: int, rows_max: int, dirty_max: int) -> list[Write]:
        """See `WriteOut.take`. Call `written` when a write ends."""
        with self.exclusive(WRITE_OUT):
            return self.write_out.take(self, now_ms, delay_ms, rows_max, dirty_max)

    def written(self, write: Write) -> None:
        """Record that a write has ended. With `write.failed`, its rows must be written again."""
        if write.incarnation != self.incarnation:  # P5
            return
        with self.exclusive(WRITE_OUT):
            self.write_out.written(write)
            if not write.failed:
                self.loading.retry()

    def take_changes(self, limit: int) -> tuple[list[Told], bool]:
        """See `Changes.take`. Call `change_sent` for each record."""
        assert self.changes is not None
        with self.exclusive(OTHER):
            return self.changes.take(limit)

    def change_sent(self, incarnation: int, told: Told, taken: bool) -> None:
        """Note how sending a change to the feed has ended. `taken`: the broker has it."""
        if incarnation == self.incarnation and self.changes is not None:  # P5
            with self.exclusive(OTHER):
                self.changes.sent(told, taken)

    def check(self) -> None:
        """Assert those parts of P1-P8 that this object's state shows. O(all that waits)."""
        self.inbox.check(self.position)
        self.loading.check()
        self._outcomes.check()
        unfolded = self.loading.parked_updates + len(self._outcomes.dead_letters_pending)
        self.progress.check(unfolded, self.write_out.holds())
        self.queries.check()
        self.write_out.check()
        if self.changes is not None:
            self.changes.check()
        assert self.loading.parked_updates <= self._parked_max
