"""How a worker opens the partitions assigned to it, and hands them over.

Opening, after each assignment, before the flow starts:
 1. read what is committed, with its metadata, and the log's start and end;
 2. refuse all partitions if a committed offset is below the epoch's first offset (E1), or outside
    the log because Kafka lost data. A partition without a commit begins at the epoch's first
    offset;
 3. open the table file, closed clean or left by a process that died. It is used if its position is
    not below the committed offset or the log's start, nor above the log's end; otherwise it is
    dropped;
 4. start at the table's position, or else at the committed offset; dirty users in the table hold
    the committed offset;
 5. queries wait until the partition has passed the last owner's position, if a clean handover left
    it in the metadata, or otherwise the log's end at the time of the opening;
 6. commit, so that the metadata says that an owner is at work. Before that commit no query is
    answered and nothing is written out.

Handing over, at each revocation and at shutdown; running it twice does no harm:
 0. only at shutdown: write out the dirty users while the worker still serves, within
    HANDOVER_TIMEOUT_S, so that little is left for step 2, during which no query is answered;
 1. the partitions take nothing more;
 2. write out the dirty users: at shutdown within HANDOVER_TIMEOUT_S, at a revocation within
    REVOKED_WRITE_OUT_S, because the whole group stops until its last member is ready. Most
    partitions come back to the same owner, which still has the rest in its table; a new owner folds
    again what was not written out;
 3. commit the watermark, with the position reached;
 4. close the tables cleanly, each with the position from which a later run may continue. Changes
    that were not written out in time stay dirty in the table, and the commit stays below them.

R1: a partition is opened by one path and handed over by one path; doing either twice at the same
    time has the effect of doing it once.
R2: no query is answered, and nothing written out, before a commit of this owner says `live` (P8).
R3: a position that a commit calls `clean` is never behind one that any owner may have answered
    from, even if an owner leaves before it has caught up with its predecessor.
R4: a commit of another generation does not count (Kafka's own rule), and a write of another owner
    does no harm (its timestamp is its version). So an owner that has lost a partition without
    knowing it can neither lose an update nor apply one twice.
R5: a table may be ahead of the position from which it continues, and of the metadata, if its owner
    could not commit; its content is shown only after the log has been folded that far.
"""

from __future__ import annotations

import asyncio
import logging
import time

from readstates.schemas.version import offset_of

from .. import metrics
from ..cassandra.epochs import Log
from ..cassandra.write_behind import drain
from ..config import FULL_SHARES, IDS_UNCHECKED
from ..errors import DataLossError, EarlierEpochError, EpochError
from ..kafka.group_consumer import GroupConsumer, TopicPartition
from ..partition.decode_buffer import DecodeBuffer
from ..partition.partition import Partition
from ..partition.plausible_ids import PlausibleIds
from ..partition.watermark import Watermark
from .commits import Commits, catch_up_target
from .owned import OwnedPartition
from .partitions import Partitions
from .tables import Tables

log = logging.getLogger(__name__)

REVOKED_WRITE_OUT_S = 0.3
WRITE_OUT_DELAY_AFTER_OPEN_S = 3.0  # of changes found in a table: catching up has priority
EARLY_WRITE_OUT_UNTIL_AGE_S = 0.3  # step 0 ends when no change is older than this
POLL_INTERVAL_S = 0.005


class Rebalancer:
    """Opens the partitions of a `Partitions`, and hands them over. Faust's hooks call it."""

    def __init__(self, partitions: Partitions, tables: Tables, epoch: Log) -> None:
        self._partitions = partitions
        self._owned = partitions.owned
        self._settings = partitions.settings
        self._tables = tables
        self._epoch = epoch
        self._partition_count = epoch.partitions
        self.commits = Commits(partitions.settings)
        self._reader = DecodeBuffer()
        epoch_ms = self._settings.id_epoch_ms
        self._ids = None if epoch_ms == IDS_UNCHECKED else PlausibleIds(epoch_ms)
        self._opening = asyncio.Lock()
        self._incarnations = 0
        self._rebalance_started: float | None = None

    # -- opening ------------------------------------------------------------------------------

    async def open(self, consumer: GroupConsumer) -> dict[TopicPartition, int]:
        """Open the assigned partitions that are not open; returns the seek position of each."""
        settings = self._settings
        # R1: Faust seeks in its recovery. A fetch that finds the flow stopped may seek at the same
        # time. If both opened a table, one would leak it, locked against later openings.
        async with self._opening:
            assigned = {
                place.partition
                for place in consumer.assigned()
                if place.topic == settings.updates_topic
            }
            if max(assigned, default=0) >= self._partition_count:
                raise EpochError(
                    f"{settings.updates_topic} got more partitions than {self._partition_count} "
                    "while this worker was running: users belong to other partitions now. Stop "
                    "producers and workers, then run: readstates init --new-epoch"
                )
            new = sorted(assigned - self._owned.keys())
            if new:
                await self._open(consumer, new)
        if self._rebalance_started is not None:
            metrics.REBALANCE_SECONDS.observe(time.monotonic() - self._rebalance_started)
            self._rebalance_started = None
        positions: dict[TopicPartition, int] = {}
        for number, owned in self._owned.items():
            updates = TopicPartition(settings.updates_topic, number)
            queries = TopicPartition(settings.queries_topic, number)
            positions[updates] = owned.partition.inbox.next_arrival
            positions[queries] = owned.query_position
        self._partitions.wake.set()
        return positions

    async def _open(self, consumer: GroupConsumer, numbers: list[int]) -> None:
        generation = consumer.generation
        updates = [TopicPartition(self._settings.updates_topic, number) for number in numbers]
        queries = [TopicPartition(self._settings.queries_topic, number) for number in numbers]
        # Step 1. Read what is committed, and the log's start and end.
        committed = dict(await consumer.committed(updates + queries))
        starts = await consumer.log_starts(updates + queries)
        ends = await consumer.log_ends(updates + queries)
        if consumer.generation != generation or consumer.rebalancing:
            return  # the next assignment opens its own partitions
        # Step 2. Refuse if records of an earlier epoch would be folded, or if Kafka lost data.
        for update in updates:
            first = self._epoch.first_offsets[update.partition]
            offset, _ = committed.setdefault(update, (max(starts[update], first), ""))
            check_epoch(update, offset, first, self._epoch.epoch)
            check_commit(update, offset, starts[update], ends[update])
        for update, query in zip(updates, queries, strict=True):
            offset, metadata = committed[update]
            query_offset = max(committed.get(query, (0, ""))[0], starts[query])
            owned = self._open_one(
                update.partition,
                offset,
                metadata,
                starts[update],
                ends[update],
                min(query_offset, ends[query]),
            )
            self._owned[update.partition] = owned
        # Step 6. Say that an owner is at work (R2).
        await self.commits.commit(consumer, [self._owned[number] for number in numbers])
        log.info("opened partitions=%s", numbers)

    def _open_one(
        self, number: int, committed: int, metadata: str, start: int, end: int, query_offset: int
    ) -> OwnedPartition:
        settings = self._settings
        # Step 3. Open the table file. Changes found in it have already waited: they are written out
        # soon, but not while all partitions catch up.
        waited_s = max(0.0, settings.flush_delay_s - WRITE_OUT_DELAY_AFTER_OPEN_S)
        file = self._tables.open(
            number,
            committed=committed,
            start=start,
            end=end,
            dirty_since_ms=self._partitions.now_ms() - int(waited_s * 1000),
        )
        # Step 4. Choose where to start. Step 5. Choose the position that queries wait for.
        position, target = committed, catch_up_target(metadata, end)
        if file.warm:
            position = file.table.position
            target = max(target, offset_of(file.table.newest()) + 1)  # R5
        file.table.position = position
        self._incarnations += 1
        log.info(
            "table_open partition=%d warm=%s why=%s position=%d committed=%d end=%d",
            number,
            file.warm,
            file.why,
            position,
            committed,
            end,
        )
        partition = Partition(
            number,
            table=file.table,
            position=position,
            committed=committed,
            catch_up_to=max(position, target),
            epoch=self._epoch.epoch,
            partitions=self._partition_count,
            incarnation=self._incarnations,
            parked_max=self._share(settings.parked_max),
            parked_bytes_max=self._share(settings.parked_bytes_max),
            inbox_max=self._share(settings.inbox_max),
            inbox_bytes_max=self._share(settings.inbox_bytes_max),
            effects=self._partitions,
            reader=self._reader,
            ids=self._ids,
        )
        return OwnedPartition(partition, file, query_offset, Watermark(query_offset))

    def _share(self, limit: int) -> int:
        """A partition's part of a limit; the sum of all parts is at most FULL_SHARES limits."""
        return max(1, min(limit, limit * FULL_SHARES // max(1, self._partition_count)))

    # -- handing over -------------------------------------------------------------------------

    async def shut_down(self, consumer: GroupConsumer, *, write_out: bool = True) -> None:
        """Run the steps of a shutdown, from the signal until no partition is owned.

        Without `write_out`, step 0 is left out, because after a fatal error nothing is served.
        """
        if write_out:
            await self.write_out_first()
        consumer.stop_delivery()
        await self.hand_over(consumer, shutdown=True)
        consumer.close_queries()

    async def write_out_first(self) -> None:
        """Step 0. Write out while the worker still serves, until little is left."""
        clock = asyncio.get_running_loop().time
        now_ms, write_behind = self._partitions.now_ms, self._partitions.write_behind
        end = clock() + self._settings.handover_timeout_s
        while clock() < end and not write_behind.paused:
            partitions = [owned.partition for owned in self._partitions.active()]
            await write_behind.step(partitions, now_ms=now_ms(), everything=True)
            ages_s = (partition.write_out.oldest_change_s(now_ms()) for partition in partitions)
            if max(ages_s, default=0.0) < EARLY_WRITE_OUT_UNTIL_AGE_S:
                return
            await asyncio.sleep(POLL_INTERVAL_S)

    async def hand_over(self, consumer: GroupConsumer, *, shutdown: bool = False) -> bool:
        """Hand over all partitions; True if everything applied is in Cassandra and committed."""
        timeout_s = self._settings.handover_timeout_s
        if not shutdown:
            timeout_s = min(timeout_s, REVOKED_WRITE_OUT_S)
        if self._rebalance_started is None:
            self._rebalance_started = time.monotonic()
            metrics.REBALANCES.inc()
        # Step 1. The partitions take nothing more.
        leaving, partitions = list(self._owned.values()), []
        for owned in leaving:
            owned.partition.closing = True
            partitions.append(owned.partition)
        if not leaving:
            return True
        # Step 2. Write out what is dirty.
        write_behind, now_ms = self._partitions.write_behind, self._partitions.now_ms
        drained = await drain(write_behind, partitions, now_ms, timeout_s)
        # R1: in a shutdown during a rebalance two calls overlap; the first here does the rest.
        leaving = [owned for owned in leaving if owned.partition.incarnation >= 0]
        # Step 3. Commit the watermarks, with the positions reached.
        committed = await self.commits.commit(consumer, leaving, clean=True)
        # Step 4. Close the tables.
        for owned in leaving:
            if owned.partition.incarnation >= 0:  # R1
                self._close(owned)
        log.info(
            "handed_over partitions=%d written_out=%s committed=%s",
            len(leaving),
            drained,
            committed,
        )
        return drained and committed

    def _close(self, owned: OwnedPartition) -> None:
        partition, settings = owned.partition, self._settings
        self._owned.pop(partition.number, None)
        partition.incarnation = -1  # P5: results that arrive from here on are dropped
        self._partitions.queries.drop_queries(partition)
        partition.progress.store()
        owned.file.close(clean=True)
        metrics.forget_partition(partition.number, settings.updates_topic, settings.queries_topic)


def check_epoch(place: TopicPartition, committed: int, first: int, epoch: int) -> None:
    """Raises EarlierEpochError if records of an earlier epoch would be folded (E1).

    Beginning at the first offset instead would hide a loss: an epoch's commits begin there and only
    grow, so somebody moved this one back, to have the records after it folded again.
    """
    if committed >= first:
        return
    raise EarlierEpochError(
        f"{place.topic} partition {place.partition}: commit before the epoch: the group's commit "
        f"is {committed}, but epoch {epoch} begins at offset {first}. Records {committed} … "
        f"{first - 1} were written to Cassandra in an earlier epoch; folded again, they would be "
        "taken for new ones. The worker refuses to start and changes nothing. To begin where the "
        "epoch begins, stop all workers and run: readstates rewind --to-epoch-start. If the "
        "database was put back to a state from before the epoch, see ops/runbooks/restore.md first"
    )


def check_commit(place: TopicPartition, committed: int, start: int, end: int) -> None:
    """Raises DataLossError if the log does not hold all records that are not yet durable."""
    if start <= committed <= end:
        return
    what = (
        f"the log begins at {start}: records {committed} … {start - 1} are gone and were not "
        "written to Cassandra"
        if committed < start
        else f"the log ends at {end}: Kafka lost acknowledged records, or the topic was replaced"
    )
    raise DataLossError(
        f"{place.topic} partition {place.partition}: committed offset {committed}, but {what}. The "
        "worker refuses to start and changes nothing. Restore the log, or accept the loss by "
        "setting the group's offset by hand (kafka-consumer-groups --reset-offsets)"
    )
