"""Opens the partitions that the group assigns, hands them over, and closes those that were lost.

The group assigns and revokes individual partitions. Each partition of this worker has its own task,
called its tenure. So a change of one partition does not delay the others.

Opening a partition (`opening.py` has steps 1-5):
 6. Read the partition's updates and queries.
 7. Commit metadata that says `live`: an owner is at work. Before this commit, the worker answers no
    query of the partition and writes nothing out.

Handing partitions over, after a revocation or at shutdown:
 0. Continue for a while: fold, answer queries, and write out dirty users without the delay of
    FLUSH_DELAY_S. A revoked partition continues for LET_GO_AFTER_S, because the group waits that
    long anyway. At shutdown, step 0 ends when few changes are left, or after HANDOVER_TIMEOUT_S.
 1. Read no more updates, but fold, answer and write out the rest. All partitions that leave
    together wait for each other, because the group releases them together. If one closed earlier,
    nobody would serve it until the others are done. This step takes at most REVOKED_DRAIN_S, or
    HANDOVER_TIMEOUT_S at shutdown.
 2. Accept nothing more. Commit the watermark, with metadata that says `clean` and the position.
 3. Close the table cleanly, with the position where a later owner may continue. Changes that are
    not written out yet stay dirty in the table, and the commit stays below them.
 4. Release the partition. Only now can the group assign it to another owner.

A lost partition may already have another owner, so the worker closes it at once, without a commit.
The group may also give a revoked partition back. During step 0, such a partition simply
continues. After step 0, the worker closes the partition and opens it again, without a release.

R1: A partition is opened and closed only by its tenure, so it is never open twice.
R2: Before a commit of this owner says `live`, the worker answers no query of the partition and
    writes nothing out (P8).
R3: The position in a `clean` commit is never behind a position at which any owner may have
    answered a query. This also holds if an owner leaves before it has caught up with the previous
    owner.
R4: Kafka lets a member commit any partition, so each owner fences itself. It commits a partition
    only while the partition is open, and releases it only after closing it. Kafka fences expelled
    members: it rejects their commits. An expelled owner may not know yet that it has lost the
    partition. Its writes to Cassandra do no harm, because a row's timestamp is its version. So even
    if a partition briefly has two owners, no update is lost or applied twice.
R5: A table may be ahead of the position and metadata in the commit, if its owner could not commit.
    The next owner answers from the table only after it has folded the log that far.
R6: An ownership ends once: by a release, a loss, or the end of the membership. A partition that is
    lost or given back during a pending release is not released.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Set

from .. import metrics
from ..cassandra.epochs import Log
from ..errors import EndedError, EpochError
from ..kafka.group_consumer import Membership, Reading
from ..kafka.topic_check import more_partitions
from ..partition.partition import Partition
from ..priorities import OTHER
from .commits import Commits, written_to
from .opening import Opener
from .owned import OwnedPartition
from .partitions import Partitions
from .tables import Tables

log = logging.getLogger(__name__)

LET_GO_AFTER_S = 1.1  # librdkafka needs about this long to release a partition
REVOKED_DRAIN_S = 0.3  # short, because nobody folds new updates during step 1
EARLY_WRITE_OUT_UNTIL_AGE_S = 0.3  # step 0 of a shutdown ends when no change is older
LIVE_RETRY_S = 0.05  # short, because queries wait for the first commit
POLL_INTERVAL_S = 0.005


class Departure:
    """Partitions that leave together. Those in `waiting` still have changes to write out."""

    def __init__(self, numbers: Set[int]) -> None:
        self.waiting = set(numbers)


class Tenure:
    """This worker's ownership of one partition. `wanted` is True until it must end."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.owned: OwnedPartition | None = None  # set while the partition is open
        self.unwanted = asyncio.Event()  # set by a revocation, a loss or a shutdown
        self.departure = Departure(set())
        self.losses = 0
        self.since = time.monotonic()  # time of the last change of ownership

    @property
    def wanted(self) -> bool:
        return not self.unwanted.is_set()

    def keep(self) -> None:
        """Continue the ownership, because the group has assigned the partition again."""
        self.since = time.monotonic()
        self.departure.waiting.discard(self.number)
        self.unwanted.clear()

    def end(self, departure: Departure) -> None:
        """End the ownership, together with the other partitions of the departure."""
        self.since = time.monotonic()
        self.departure.waiting.discard(self.number)
        self.departure = departure
        self.unwanted.set()


class Rebalancer:
    """Opens and closes the partitions of this worker. Implements `Owner` for the membership.

    The rebalancer calls `refuse` with an error that ends the worker. `run`: the candidate's run, or
    empty.
    """

    def __init__(
        self,
        partitions: Partitions,
        tables: Tables,
        epoch: Log,
        member: Membership,
        updates: Reading,
        queries: Reading,
        refuse: Callable[[Exception], None],
        run: str = "",
    ) -> None:
        self._partitions = partitions
        self._owned = partitions.owned
        self._settings = partitions.settings
        self._epoch = epoch
        self._member = member
        self._updates, self._queries = updates, queries
        self._feed = partitions.feed
        partitions.has_room = updates.look
        self._refuse = refuse
        written = written_to(epoch.database.name, run)
        self.commits = Commits(partitions.settings, member, written)
        self.opener = Opener(partitions, tables, epoch, member, run)
        self._tenures: dict[int, Tenure] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.let_go_after_s = LET_GO_AFTER_S

    def ready(self) -> tuple[bool, str]:
        """Return whether all partitions are open and caught up, and the reason if not."""
        opening = [n for n, tenure in self._tenures.items() if tenure.wanted and not tenure.owned]
        if opening:
            return False, f"opening: {', '.join(map(str, sorted(opening)[:8]))}"
        return self._partitions.ready()

    # -- calls from the membership ------------------------------------------------------------

    def assigned(self, numbers: Set[int]) -> None:
        """Open these partitions. Keep those that are being handed over."""
        metrics.REBALANCES.inc()
        if max(numbers, default=0) >= self._epoch.partitions:
            self._refuse(EpochError(more_partitions(self._settings, self._epoch.partitions)))
            return
        for number in sorted(numbers):
            if self._stopping:
                return
            if number in self._tenures:
                self._tenures[number].keep()
            else:
                tenure = self._tenures[number] = Tenure(number)
                task = asyncio.get_running_loop().create_task(self._hold(tenure))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def revoked(self, numbers: Set[int]) -> None:
        """Hand these partitions over and release them."""
        metrics.REBALANCES.inc()
        departure = Departure(numbers & self._tenures.keys())
        for number in numbers & self._tenures.keys():
            self._tenures[number].end(departure)
        closed = numbers - self._tenures.keys()
        if closed:
            self._member.release(closed)

    def lost(self, numbers: Set[int]) -> None:
        """Close these partitions without a commit, because they may have another owner."""
        metrics.REBALANCES.inc()
        log.warning("lost partitions=%s", sorted(numbers))
        for number in numbers & self._tenures.keys():
            tenure = self._tenures[number]
            tenure.losses += 1
            tenure.end(Departure(set()))
            if tenure.owned is not None:
                self._end(tenure.owned)

    # -- a tenure -----------------------------------------------------------------------------

    async def _hold(self, tenure: Tenure) -> None:
        """Run the tenure of a partition until its ownership ends."""
        try:
            while tenure.wanted:
                await self._serve(tenure)  # R1: nothing else opens the partition
        except Exception as exc:  # noqa: BLE001 (after any error, nobody serves the partition)
            self._refuse(exc)
        except asyncio.CancelledError:
            if not self._stopping:
                self._refuse(EndedError(f"the tenure of partition {tenure.number} was cancelled"))
            raise
        tenure.departure.waiting.discard(tenure.number)
        del self._tenures[tenure.number]
        # Step 4. Release the partition (R6). The membership ignores a release without a revocation.
        self._member.release({tenure.number})
        metrics.REBALANCE_SECONDS.observe(time.monotonic() - tenure.since)

    async def _serve(self, tenure: Tenure) -> None:
        """Open the partition, serve it until its ownership ends, and close it."""
        number, losses = tenure.number, tenure.losses

        def ours() -> bool:  # a loss invalidates what was read before it
            return tenure.wanted and tenure.losses == losses

        owned = await self.opener.open(number, ours)
        if owned is None:
            return
        partition = owned.partition
        if ours():
            # Step 6. Read its updates and queries.
            tenure.owned = self._owned[number] = owned
            self._updates.start(number, partition.inbox.next_arrival, partition.incarnation)
            self._queries.start(number, owned.query_position, partition.incarnation)
            if self._feed is not None:
                self._feed.start(partition)
            await self._go_live(tenure, owned)
        else:
            self._end(owned)
        while partition.incarnation >= 0:  # `_end` sets it to -1, here or in `lost`
            await tenure.unwanted.wait()
            if await self._is_given_back(tenure, owned):
                continue
            await self._hand_over(owned, tenure.departure)
        tenure.departure.waiting.discard(number)
        # Step 3. Close the table, in a thread because closing reads the whole file.
        await asyncio.get_running_loop().run_in_executor(None, owned.file.close, True)
        tenure.owned = None

    async def _go_live(self, tenure: Tenure, owned: OwnedPartition) -> None:
        # Step 7. Commit that an owner is at work (R2).
        partition = owned.partition
        while tenure.wanted and partition.incarnation >= 0:
            if await self.commits.commit([owned]):
                metrics.REBALANCE_SECONDS.observe(time.monotonic() - tenure.since)
                log.info("opened partition=%d", tenure.number)
                return
            await asyncio.sleep(LIVE_RETRY_S)

    async def _is_given_back(self, tenure: Tenure, owned: OwnedPartition) -> bool:
        """Continue for a while. Return True if no handover is needed any more."""
        # Step 0. Fold, answer queries, and write out.
        partition = owned.partition

        def is_not_leaving() -> bool:
            return tenure.wanted or partition.incarnation < 0

        if partition.progress.live_committed and not self._stopping:
            partition.write_out.everything = True
            await _until(is_not_leaving, self.let_go_after_s)
            partition.write_out.everything = not tenure.wanted
        return is_not_leaving()

    async def _hand_over(self, owned: OwnedPartition, departure: Departure) -> None:
        partition, number = owned.partition, owned.partition.number
        drain_s = self._settings.handover_timeout_s
        if not self._stopping:
            drain_s = min(drain_s, REVOKED_DRAIN_S)
        # Step 1. Read no more updates, and finish the rest.
        self._updates.stop(number)

        def all_done() -> bool:
            if partition.incarnation < 0 or _is_finished(partition):
                departure.waiting.discard(number)
            return not departure.waiting or partition.incarnation < 0

        drained = await _until(all_done, drain_s)
        departure.waiting.discard(number)
        if partition.incarnation < 0:
            return
        # Step 2. Accept nothing more, and commit.
        with partition.exclusive(OTHER):
            partition.closing = True
        self._queries.stop(number)
        committed = await self.commits.commit([owned], clean=True)
        log.info(
            "handed_over partition=%d position=%d written_out=%s committed=%s",
            number,
            partition.position,
            drained,
            committed,
        )
        self._end(owned)

    def _end(self, owned: OwnedPartition) -> None:
        """Stop all work on the partition. Its table is closed afterwards."""
        partition, settings = owned.partition, self._settings
        if partition.incarnation < 0:
            return
        number = partition.number
        with partition.exclusive(OTHER):
            partition.closing = True
            partition.progress.store()
            partition.incarnation = -1  # P5: later results are dropped
        self._updates.stop(number)
        self._queries.stop(number)
        if self._feed is not None:
            self._feed.stop(number)
        self._owned.pop(number, None)
        self._partitions.queries.drop_queries(partition)
        metrics.forget_partition(number, settings.updates_topic, settings.queries_topic)

    # -- the end ------------------------------------------------------------------------------

    async def shut_down(self, *, write_out: bool = True) -> None:
        """Hand over all partitions and leave the group.

        After a fatal error, pass `write_out=False` to skip step 0.
        """
        self._stopping = True
        if write_out:
            await self._write_out_first()
        departure = Departure(set(self._tenures))
        for tenure in self._tenures.values():
            tenure.end(departure)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._updates.close()
        self._queries.close()
        if self._feed is not None:
            self._feed.close()
        await self._member.leave()

    async def _write_out_first(self) -> None:
        """Do step 0 for all partitions, until few changes are left to write out."""
        partitions, write_behind = self._partitions, self._partitions.write_behind
        for owned in partitions.active():
            owned.partition.write_out.everything = True

        def little_left() -> bool:
            now_ms = partitions.now_ms()
            ages_s = (o.partition.write_out.oldest_change_s(now_ms) for o in partitions.active())
            return write_behind.paused or max(ages_s, default=0.0) < EARLY_WRITE_OUT_UNTIL_AGE_S

        await _until(little_left, self._settings.handover_timeout_s)


def _is_finished(partition: Partition) -> bool:
    """Return True if all updates read so far are durable, or if nothing can be written out."""
    return not partition.progress.live_committed or (
        not partition.inbox.batches and partition.all_durable
    )


async def _until(done: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until `done` returns True. Return False after a timeout."""
    clock = asyncio.get_running_loop().time
    end = clock() + timeout_s
    while not done():
        if clock() >= end:
            return False
        await asyncio.sleep(POLL_INTERVAL_S)
    return True
