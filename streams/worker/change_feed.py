"""Sends the changes of the owned partitions to the change feed, and reads the log to retell them.

A partition's `Changes` decides what is told and when; it states F1 and F2. This module takes what
is due, encodes it and sends it, and reports back what the broker took. After an opening it also
hands the partition the part of the log of updates whose changes may be missing in the feed. A
reader of its own reads that part, only as fast as it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from readstates.schemas.changes import ROWS_MAX, encode_cause, encode_change

from ..config import Settings
from ..kafka.change_producer import ChangeProducer
from ..kafka.group_consumer import Reading
from ..partition.batch import Poll
from ..partition.changes import Told
from ..partition.partition import Partition
from ..priorities import CHANGES_AT_ONCE, CHANGES_SOON_S, CHANGES_STEP_S
from .owned import OwnedPartition

RETRY_MS = 1000  # after the broker did not take a record of a partition


def values_of(told: Told) -> list[bytes]:
    """What is said of a user, as the values of one or more records."""
    user_id, version, totals = told.user_id, told.version, told.totals
    first, rest = told.rows[:ROWS_MAX], told.rows[ROWS_MAX:]
    values = [encode_change(user_id, version, first, told.deleted, told.noted.whole, totals)]
    for begin in range(0, len(rest), ROWS_MAX):  # only the first record removes anything
        rows = rest[begin : begin + ROWS_MAX]
        values.append(encode_change(user_id, version, rows, [], False, totals))
    return values


class ChangeFeed:
    """See the module. `owned` is the registry of `Partitions`, which this only reads.

    `woken` is called when a partition that was held back by its line can take updates again.

    `retelling`, the reader of what is to be retold, is set before anything is read.
    """

    retelling: Reading

    def __init__(
        self,
        settings: Settings,
        owned: Mapping[int, OwnedPartition],
        producer: ChangeProducer,
        now_ms: Callable[[], int],
        woken: Callable[[], None],
    ) -> None:
        self._woken = woken
        self._delay_ms = settings.changes_delay_ms
        self._told_ms = 0  # when all that waited was told last
        self._owned = owned
        self._producer = producer
        self._now_ms = now_ms
        self._paused_to_ms: dict[int, int] = {}  # by incarnation: after a failure

    # -- telling ------------------------------------------------------------------------------

    def step(self) -> float:
        """Send what is due now; returns the seconds until it is to be called again.

        All that waits is due CHANGES_DELAY_MS after what was told last, so that changes share
        records and requests. After a quiet time, a change is due at once.
        """
        self._producer.poll()
        now_ms = self._now_ms()
        since_ms = now_ms - self._told_ms
        is_due = not 0 <= since_ms < self._delay_ms
        some = more = False
        for owned in list(self._owned.values()):
            partition = owned.partition
            changes = partition.changes
            if changes is None or not changes.waiting or partition.closing:
                continue
            in_haste = changes.is_full or changes.is_retelling or partition.write_out.everything
            if is_due or in_haste:
                some = True
                more |= self._tell(partition, now_ms)
        if more:
            return CHANGES_SOON_S
        shortest, longest = CHANGES_STEP_S
        if is_due:
            self._told_ms, since_ms = (now_ms if some else self._told_ms), 0
        return min(max(shortest, (self._delay_ms - since_ms) / 1000), longest)

    def _tell(self, partition: Partition, now_ms: int) -> bool:
        """Send some of what waits; True if there is more."""
        life = partition.incarnation
        if now_ms < self._paused_to_ms.get(life, 0):
            return False
        told, more = partition.take_changes(CHANGES_AT_ONCE)
        for one in told:
            values, one.rows = values_of(one), []  # the rows are not needed any more
            self._producer.send(
                partition.number,
                b"%d" % one.user_id,
                values,
                encode_cause(one.noted.causes),
                partial(self._sent, partition, life, one),
            )
        return more

    def _sent(self, partition: Partition, life: int, told: Told, taken: bool) -> None:
        was_full = partition.changes is not None and partition.changes.is_full
        partition.change_sent(life, told, taken)
        if was_full:
            self._woken()
        if not taken:
            lives = {owned.partition.incarnation for owned in self._owned.values()}
            self._paused_to_ms = {n: to for n, to in self._paused_to_ms.items() if n in lives}
            self._paused_to_ms[life] = self._now_ms() + RETRY_MS

    # -- retelling ----------------------------------------------------------------------------

    def start(self, partition: Partition) -> None:
        """Read anew what may be missing in the feed, if there is anything."""
        changes = partition.changes
        if changes is not None and changes.is_retelling:
            self.retelling.start(partition.number, changes.retold_to, partition.incarnation)

    def stop(self, number: int) -> None:
        """Read nothing more of a partition."""
        self.retelling.stop(number)

    def wants(self, number: int) -> int:
        """Bytes of a partition's log that may be read anew; the reader's thread calls this."""
        owned = self._owned.get(number)
        changes = owned.partition.changes if owned is not None else None
        return 0 if changes is None else changes.wants_bytes

    def retell(self, poll: Poll) -> None:
        """Take what was read anew, unless it was read for an earlier incarnation."""
        for number, token, batch in poll:
            owned = self._owned.get(number)
            if owned is None or not owned.is_open(token) or owned.partition.changes is None:
                continue
            owned.partition.changes.retell(batch, self._now_ms())
            if not owned.partition.changes.is_retelling:
                self.stop(number)

    def close(self) -> None:
        """Read nothing more."""
        self.retelling.close()
