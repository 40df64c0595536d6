"""How a worker takes partitions, hands them over, and closes those that it lost.

The group changes owners partition by partition: it assigns some, wants some back, and leaves the
others alone. Each partition of this worker has a task of its own, its tenure, so that a change of
one never makes another wait.

Taking a partition, after `opening.py` has opened it in steps 1-5:
 6. read its updates and queries;
 7. commit, so that the metadata says that an owner is at work. Before that commit no query is
    answered and nothing is written out.

Handing partitions over, when the group wants them back, and at shutdown:
 0. go on: fold, answer, and write out what is dirty, without waiting for FLUSH_DELAY_S. This lasts
    LET_GO_AFTER_S at a revocation, because the group waits that long anyway, and at shutdown until
    little is left, at most HANDOVER_TIMEOUT_S;
 1. read no more updates; fold, answer and write out the rest (for at most REVOKED_DRAIN_S at a
    revocation, HANDOVER_TIMEOUT_S at shutdown) until the others that leave with this partition are
    done, too: the group lets them go together, and nobody serves one that is closed earlier;
 2. take nothing more, and commit the watermark, with the position reached, as clean;
 3. close the table cleanly, with the position from which a later run may continue. Changes that
    were not written out in time stay dirty in the table, and the commit stays below them;
 4. release the partition: only now may the group give it to another owner.

A partition that is lost is closed at once and commits nothing: it may have another owner already.
One that is given back in step 0 goes on as if nothing had happened. One that is given back later is
closed first and then opened anew, without having been released.

R1: a partition is opened and closed by its tenure alone, so it is never open twice.
R2: no query is answered and nothing is written out before a commit of this owner says `live` (P8).
R3: a position that a commit calls `clean` is never behind one that any owner may have answered
    from, even if an owner leaves before it has caught up with its predecessor.
R4: a member may commit any partition, so an owner fences itself: it commits a partition only while
    it is open, and releases it only when it is closed. Kafka fences those that it expelled: their
    commits do not count. A write of another owner does no harm (its timestamp is its version). So
    if there are two owners for a moment, because the first was expelled and does not know it, they
    can neither lose an update nor apply one twice.
R5: a table may be ahead of the position from which it continues, and of the metadata, if its owner
    could not commit; its content is shown only after the log has been folded that far.
R6: an ownership ends once: by its release, by its loss, or by the end of the membership. What was
    lost or given back while its release was pending is not released.
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

LET_GO_AFTER_S = 1.1  # librdkafka needs about this long before it can pass a partition on
REVOKED_DRAIN_S = 0.3  # for the rest: meanwhile nobody folds the partition's new updates
EARLY_WRITE_OUT_UNTIL_AGE_S = 0.3  # a shutdown's step 0 ends when no change is older than this
LIVE_RETRY_S = 0.05  # after a failed commit: queries wait for the first commit
POLL_INTERVAL_S = 0.005


class Departure:
    """Partitions that leave together. `waiting` are those with something left to write out."""

    def __init__(self, numbers: Set[int]) -> None:
        self.waiting = set(numbers)


class Tenure:
    """This worker's ownership of one partition, until it is no longer wanted."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.owned: OwnedPartition | None = None  # while it is open
        self.unwanted = asyncio.Event()  # the group, or a shutdown, ends the ownership
        self.departure = Departure(set())
        self.losses = 0
        self.since = time.monotonic()  # of the last change

    @property
    def wanted(self) -> bool:
        return not self.unwanted.is_set()

    def keep(self) -> None:
        """The group wants this worker to own the partition after all, or again."""
        self.since = time.monotonic()
        self.departure.waiting.discard(self.number)
        self.unwanted.clear()

    def end(self, departure: Departure) -> None:
        """The partition is to leave, together with others."""
        self.since = time.monotonic()
        self.departure.waiting.discard(self.number)
        self.departure = departure
        self.unwanted.set()


class Rebalancer:
    """Owns the partitions of a `Partitions`; it is the `Owner` that a membership tells of changes.

    `refuse` is called with an error that ends the worker. `run`: of a candidate.
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
        """Whether all partitions are open for queries and caught up, and the reason if not."""
        opening = [n for n, tenure in self._tenures.items() if tenure.wanted and not tenure.owned]
        if opening:
            return False, f"opening: {', '.join(map(str, sorted(opening)[:8]))}"
        return self._partitions.ready()

    # -- what the group says ------------------------------------------------------------------

    def assigned(self, numbers: Set[int]) -> None:
        """Open these partitions, or keep them if they were to be handed over."""
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
        """Hand these partitions over, and release them."""
        metrics.REBALANCES.inc()
        departure = Departure(numbers & self._tenures.keys())
        for number in numbers & self._tenures.keys():
            self._tenures[number].end(departure)
        closed = numbers - self._tenures.keys()
        if closed:
            self._member.release(closed)

    def lost(self, numbers: Set[int]) -> None:
        """Close these partitions without a commit: they may have another owner already."""
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
        """Hold a partition until it is not wanted any more."""
        try:
            while tenure.wanted:
                await self._serve(tenure)  # R1: nothing else opens it
        except Exception as exc:  # noqa: BLE001 (whatever it is, nobody would serve the partition)
            self._refuse(exc)
        except asyncio.CancelledError:
            if not self._stopping:
                self._refuse(EndedError(f"the tenure of partition {tenure.number} was cancelled"))
            raise
        tenure.departure.waiting.discard(tenure.number)
        del self._tenures[tenure.number]
        # Step 4. Release it (R6); the group ignores a release for which it is not waiting.
        self._member.release({tenure.number})
        metrics.REBALANCE_SECONDS.observe(time.monotonic() - tenure.since)

    async def _serve(self, tenure: Tenure) -> None:
        """Open the partition, serve it until it is not wanted or lost, and close it."""
        number, losses = tenure.number, tenure.losses

        def ours() -> bool:  # what was looked up before a loss does not count after it
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
        while partition.incarnation >= 0:  # until `_end`, which `lost` calls, too
            await tenure.unwanted.wait()
            if await self._is_given_back(tenure, owned):
                continue
            await self._hand_over(owned, tenure.departure)
        tenure.departure.waiting.discard(number)
        # Step 3. Close the table; a thread does it, because the whole file is read.
        await asyncio.get_running_loop().run_in_executor(None, owned.file.close, True)
        tenure.owned = None

    async def _go_live(self, tenure: Tenure, owned: OwnedPartition) -> None:
        # Step 7. Say that an owner is at work (R2).
        partition = owned.partition
        while tenure.wanted and partition.incarnation >= 0:
            if await self.commits.commit([owned]):
                metrics.REBALANCE_SECONDS.observe(time.monotonic() - tenure.since)
                log.info("opened partition=%d", tenure.number)
                return
            await asyncio.sleep(LIVE_RETRY_S)

    async def _is_given_back(self, tenure: Tenure, owned: OwnedPartition) -> bool:
        """Go on for a while; True if the partition is not to be handed over after all."""
        # Step 0. Fold, answer, and write out.
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
        # Step 2. Take nothing more, and commit.
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
        """Stop all that concerns the partition; its table is closed after this."""
        partition, settings = owned.partition, self._settings
        if partition.incarnation < 0:
            return
        number = partition.number
        with partition.exclusive(OTHER):
            partition.closing = True
            partition.progress.store()
            partition.incarnation = -1  # P5: results that arrive from here on are dropped
        self._updates.stop(number)
        self._queries.stop(number)
        if self._feed is not None:
            self._feed.stop(number)
        self._owned.pop(number, None)
        self._partitions.queries.drop_queries(partition)
        metrics.forget_partition(number, settings.updates_topic, settings.queries_topic)

    # -- the end ------------------------------------------------------------------------------

    async def shut_down(self, *, write_out: bool = True) -> None:
        """Hand over all partitions, and leave the group.

        Without `write_out`, step 0 is left out, because after a fatal error nothing is served.
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
        """Step 0 of a shutdown: all partitions go on until little is left to be written out."""
        partitions, write_behind = self._partitions, self._partitions.write_behind
        for owned in partitions.active():
            owned.partition.write_out.everything = True

        def little_left() -> bool:
            now_ms = partitions.now_ms()
            ages_s = (o.partition.write_out.oldest_change_s(now_ms) for o in partitions.active())
            return write_behind.paused or max(ages_s, default=0.0) < EARLY_WRITE_OUT_UNTIL_AGE_S

        await _until(little_left, self._settings.handover_timeout_s)


def _is_finished(partition: Partition) -> bool:
    """True if all that was read is folded and durable, or cannot be."""
    return not partition.progress.live_committed or (
        not partition.inbox.batches and partition.all_durable
    )


async def _until(done: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for something; False if the time ran out first."""
    clock = asyncio.get_running_loop().time
    end = clock() + timeout_s
    while not done():
        if clock() >= end:
            return False
        await asyncio.sleep(POLL_INTERVAL_S)
    return True
