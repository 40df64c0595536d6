"""How partitions come to a worker and leave it.

Opening, after each assignment, in the barrier before the flow starts:
 1. read what is committed, with its metadata, and the log's start and end;
 2. refuse where the committed offset is outside the log: Kafka lost data;
 3. open the table file, closed clean or left by a process that died; it is used if it stands
    between the committed offset, the log's start and its end, else it is dropped;
 4. start at the table's position, or the committed offset, or the log's start; what is dirty in the
    table holds the committed offset;
 5. queries wait until the partition has passed the last owner's position, which a clean handover
    left in the metadata, or else the log's end as it is now;
 6. commit, so that the metadata says that an owner is at work. No query is answered, and
    nothing written out, before.

Handing over, at each revocation and at shutdown; running it twice does no harm:
 0. at shutdown, first: what is dirty is written out while everything goes on, within
    HANDOVER_TIMEOUT_S, so that little is left for step 2, while nobody answers;
 1. the partitions take nothing more;
 2. what is dirty is written out, within HANDOVER_TIMEOUT_S at shutdown. At a revocation within
    REVOKED_WRITE_OUT_S: the whole group stands until the last member is ready, most partitions
    come back to the one who had them, and of the others the next owner folds the log again;
 3. the watermark is committed, with the position reached;
 4. the tables are closed clean, each with the position at which a later run may take it up. What
    was not written out in time is still dirty in it, and the commit still before it.

R1: a partition is opened, and handed over, by one path each; twice at once is once.
R2: no query is answered, and nothing written out, before a commit of this owner says `live` (P8).
R3: what a commit says with `clean` is never behind what any owner may have answered from, also
    where this one leaves before it has caught up with the one before.
R4: a commit of another generation does not count (Kafka's own rule); a write of another owner
    does no harm (its timestamp is its version). So who does not know that it lost a partition
    can neither lose nor double anything.
R5: a table may be ahead of the position at which it is taken up, and of the metadata, if its owner
    could not commit; what is in it is shown only when the log has been folded as far.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from faust.types import TP
from readstates.cache.tablefile import TableFile, TableIdentity, open_table
from readstates.streams import metrics
from readstates.streams.config import FULL_SHARES
from readstates.streams.errors import DataLossError, EpochError
from readstates.streams.partition import Partition
from readstates.streams.version import offset_of
from readstates.streams.watermark import Watermark
from readstates.streams.worker import Owned, Partitions
from readstates.streams.write_behind import drain

if TYPE_CHECKING:
    from readstates.streams.transport import Consumer

log = logging.getLogger(__name__)

CLEAN, LIVE = "clean", "live"  # what commit metadata says of the position in it
REVOKED_WRITE_OUT_S = 0.3
CALM_S = 3.0  # after an opening: catching up has the machine to itself
LITTLE_S = 0.3  # the oldest change is younger: what is left is written out in no time
LOOK_S = 0.005


def metadata_of(position: int, clean: bool) -> str:
    """Commit metadata: the position that was seen, and whether its owner stopped there."""
    return f"{CLEAN if clean else LIVE}:{position}"


def catch_up_target(metadata: str, log_end: int) -> int:
    """The offset that must be passed before queries are answered."""
    kind, _, position = metadata.partition(":")
    if kind == CLEAN and position.isdecimal():
        return min(int(position), log_end)
    return log_end


class Handover(Partitions):
    """Partitions with the two ways in and out. The transport calls `open` and `hand_over`."""

    topic_id: bytes = bytes(16)
    partition_count: int = 0
    cache_dir: Any = None
    _rebalance_started: float | None = None

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._committing = asyncio.Lock()
        self._opening = asyncio.Lock()

    async def open(self, consumer: Consumer) -> dict[TP, int]:
        """Open what is assigned and not open yet; returns where to seek, for all of it."""
        settings = self.settings
        # Faust seeks in its recovery, and at the same time where a fetch finds the flow stopped: a
        # table opened by both would be leaked by one, locked against every later opening.
        async with self._opening:
            assigned = {
                tp.partition for tp in consumer.assignment() if tp.topic == settings.updates_topic
            }
            if max(assigned, default=0) >= self.partition_count:
                raise EpochError(
                    f"{settings.updates_topic} got more partitions than {self.partition_count} "
                    "while this worker runs: its users belong elsewhere now. Stop producers and "
                    "workers, then: readstates init --new-epoch"
                )
            new = sorted(assigned - self.owned.keys())
            if new:
                await self._open(consumer, new)
        if self._rebalance_started is not None:
            metrics.REBALANCE_SECONDS.observe(time.monotonic() - self._rebalance_started)
            self._rebalance_started = None
        positions: dict[TP, int] = {}
        for number, owned in self.owned.items():
            positions[TP(settings.updates_topic, number)] = owned.partition.next_arrival
            positions[TP(settings.queries_topic, number)] = owned.query_position
        self.wake.set()
        return positions

    async def _open(self, consumer: Consumer, numbers: list[int]) -> None:
        generation = consumer.app.consumer_generation_id
        updates = [TP(self.settings.updates_topic, number) for number in numbers]
        queries = [TP(self.settings.queries_topic, number) for number in numbers]
        committed = await consumer._thread.committed(updates + queries)
        starts = await consumer.earliest_offsets(*updates, *queries)
        ends = await consumer.highwaters(*updates, *queries)
        if consumer.app.consumer_generation_id != generation or consumer.rebalancing:
            return  # the next assignment opens its own
        for update, query in zip(updates, queries, strict=True):
            offset, metadata = committed.get(update, (starts[update], ""))
            check_commit(update, offset, starts[update], ends[update])
            query_offset = max(committed.get(query, (0, ""))[0], starts[query])
            owned = self._open_one(
                update.partition,
                offset,
                metadata,
                starts[update],
                ends[update],
                min(query_offset, ends[query]),
            )
            self.owned[update.partition] = owned
        await self.commit(consumer, [self.owned[number] for number in numbers])
        log.info("opened partitions=%s", numbers)

    def _open_one(
        self, number: int, committed: int, metadata: str, start: int, end: int, query_offset: int
    ) -> Owned:
        settings = self.settings
        identity = TableIdentity(self.topic_id, self.epoch, number, settings.cassandra_keyspace)
        path = self.cache_dir / f"{settings.topic_prefix}-{settings.kafka_group}-{number}.table"
        # what is dirty in it has waited before: it goes out soon, but not while all catch up
        waited_s = max(0.0, settings.flush_delay_s - CALM_S)
        since_ms = self.now_ms() - int(waited_s * 1000)

        def attempt() -> TableFile:
            return open_table(
                path,
                identity,
                settings.cache_states,
                settings.user_states_max,
                now_ms=since_ms & 0xFFFFFFFF,
            )

        file = attempt()
        if file.warm and not max(committed, start) <= file.table.position <= end:
            log.info(
                "table_dropped partition=%d position=%d committed=%d log=%d…%d",
                number,
                file.table.position,
                committed,
                start,
                end,
            )
            file.close(clean=False)
            file = attempt()
        position, target = committed, catch_up_target(metadata, end)
        if file.warm:
            position = file.table.position
            target = max(target, offset_of(file.table.newest()) + 1)  # R5
        file.table.position = position
        self.incarnation += 1
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
            epoch=self.epoch,
            partitions=self.partition_count,
            incarnation=self.incarnation,
            parked_max=self._share(settings.parked_max),
            parked_bytes_max=self._share(settings.parked_bytes_max),
            inbox_max=self._share(settings.inbox_max),
            inbox_bytes_max=self._share(settings.inbox_bytes_max),
            effects=self,
        )
        return Owned(partition, file, query_offset, Watermark(query_offset))

    def _share(self, most: int) -> int:
        """A partition's part of a limit: a worker that has them all holds FULL_SHARES times it."""
        return max(1, min(most, most * FULL_SHARES // max(1, self.partition_count)))

    async def write_out_first(self) -> None:
        """Before a shutdown: write out while everything goes on, until little is left."""
        clock = asyncio.get_running_loop().time
        end = clock() + self.settings.handover_timeout_s
        while clock() < end and not self.write_behind.paused:
            live = [o.partition for o in self.owned.values() if not o.partition.closing]
            await self.write_behind.turn(live, now_ms=self.now_ms(), everything=True)
            ages_s = (partition.oldest_change_s(self.now_ms()) for partition in live)
            if max(ages_s, default=0.0) < LITTLE_S:
                return
            await asyncio.sleep(LOOK_S)

    async def hand_over(self, consumer: Any, *, shutdown: bool = False) -> bool:
        """Let go of all partitions; True if everything applied is in Cassandra and committed."""
        timeout_s = self.settings.handover_timeout_s
        if not shutdown:
            timeout_s = min(timeout_s, REVOKED_WRITE_OUT_S)
        if self._rebalance_started is None:
            self._rebalance_started = time.monotonic()
            metrics.REBALANCES.inc()
        leaving, partitions = list(self.owned.values()), []
        for owned in leaving:
            owned.partition.closing = True
            partitions.append(owned.partition)
        if not leaving:
            return True
        drained = await drain(self.write_behind, partitions, self.now_ms, timeout_s)
        # a shutdown during a rebalance hands over twice at once: the first to come here does it
        leaving = [owned for owned in leaving if owned.partition.incarnation >= 0]
        committed = await self.commit(consumer, leaving, clean=True)
        for owned in leaving:
            partition = owned.partition
            if partition.incarnation < 0:
                continue
            self.owned.pop(partition.number, None)
            partition.incarnation = -1  # P5: nothing that comes back now is taken
            self.leave_queries(partition)
            partition.store_position()
            owned.file.close(clean=True)
            metrics.forget_partition(partition.number)
        log.info(
            "handed_over partitions=%d written_out=%s committed=%s",
            len(leaving),
            drained,
            committed,
        )
        return drained and committed

    async def commit(self, consumer: Any, owned: list[Owned], *, clean: bool = False) -> bool:
        """Commit the watermarks that moved. False: not committed; nothing is lost by it."""
        async with self._committing:  # W2: one at a time, an older commit must not come last
            return await self._commit(consumer, owned, clean)

    async def _commit(self, consumer: Any, owned: list[Owned], clean: bool) -> bool:
        offsets: dict[TP, tuple[int, str]] = {}
        moved: list[tuple[Owned, tuple[int, int]]] = []
        for one in owned:
            partition = one.partition
            if partition.incarnation < 0:  # handed over while this commit waited for its turn
                continue
            marks = (partition.watermark_position(), one.query_mark.position(one.query_position))
            if marks != one.committed or clean:
                moved.append((one, marks))
                number = partition.number
                seen = max(partition.position, partition.catch_up_to)  # R3
                text = metadata_of(seen, clean)
                offsets[TP(self.settings.updates_topic, number)] = (marks[0], text)
                offsets[TP(self.settings.queries_topic, number)] = (marks[1], "")
        if not offsets:
            return True
        done: bool = await consumer.commit_offsets(offsets)
        if not done:
            metrics.COMMIT_FAILURES.inc()
            return False
        for one, marks in moved:
            one.committed = marks
            if not clean:
                one.partition.announce()
        return True


def check_commit(tp: TP, committed: int, start: int, end: int) -> None:
    """Raises DataLossError where the log no longer holds what is not yet durable."""
    if start <= committed <= end:
        return
    what = (
        f"the log begins at {start}: records {committed} … {start - 1} are gone and were not "
        "written to Cassandra"
        if committed < start
        else f"the log ends at {end}: Kafka lost acknowledged records, or the topic was replaced"
    )
    raise DataLossError(
        f"{tp.topic} partition {tp.partition}: committed offset {committed}, but {what}. The "
        "worker refuses to start and changes nothing. Restore the log, or accept the loss by "
        "setting the group's offset by hand (kafka-consumer-groups --reset-offsets)"
    )
