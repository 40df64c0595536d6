"""Opens partitions: reads what is committed, checks it, and opens the table file.

1. Read what is committed, with its metadata, and the log's start and end. Partitions that are
   assigned together are looked up together.
2. Refuse if a committed offset is below the epoch's first offset (E1), or outside the log because
   Kafka lost data, or if the commit was made over another database, or by a candidate and this is
   another one or a live worker. A partition without a commit begins at the epoch's first offset.
3. Open the table file, closed clean or left by a process that died. It is used if its position is
   not below the committed offset or the log's start, nor above the log's end; otherwise it is
   dropped. A thread does that, because the whole file is read; meanwhile other partitions go on.
4. Start at the table's position, or else at the committed offset; dirty users in the table hold
   the committed offset.
5. Queries wait until the partition has passed the last owner's position, if a clean handover left
   it in the metadata, or otherwise the log's end at the time of the opening.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from readstates.cache.tablefile import TableFile
from readstates.schemas.version import offset_of

from ..cassandra.epochs import Log, check_commit_of
from ..config import FULL_SHARES, IDS_UNCHECKED
from ..errors import DataLossError, EarlierEpochError, EpochError, RolloutError
from ..kafka.group_consumer import Membership, TopicPartition
from ..kafka.restore_fence import is_restoring, unfinished
from ..partition.decode_buffer import DecodeBuffer
from ..partition.partition import Partition
from ..partition.plausible_ids import PlausibleIds
from ..partition.watermark import Watermark
from .commits import catch_up_target, is_of_a_worker, run_in, told_to
from .owned import OwnedPartition
from .partitions import Partitions
from .tables import Tables

log = logging.getLogger(__name__)

WRITE_OUT_DELAY_AFTER_OPEN_S = 3.0  # of changes found in a table: catching up has priority
LOOK_UP_RETRY_S = 0.2  # after the brokers did not say what is committed


class Place(NamedTuple):
    """Where a partition stands in Kafka when it is opened."""

    committed: int
    metadata: str
    start: int  # of the log of updates
    end: int
    query_offset: int


class Opener:
    """See the module. It keeps nothing of a partition that it opened."""

    def __init__(
        self,
        partitions: Partitions,
        tables: Tables,
        epoch: Log,
        member: Membership,
        run: str = "",
    ) -> None:
        self._partitions = partitions
        self._settings = partitions.settings
        self._tables = tables
        self._epoch = epoch
        self._member = member
        self._run = run
        self._reader = DecodeBuffer()
        epoch_ms = self._settings.id_epoch_ms
        self._ids = None if epoch_ms == IDS_UNCHECKED else PlausibleIds(epoch_ms)
        self._incarnations = 0
        self._asked: dict[int, asyncio.Future[Place]] = {}  # for the next look-up
        self._look_ups: set[asyncio.Task[None]] = set()  # the loop keeps no reference to them

    async def open(self, number: int, wanted: Callable[[], bool]) -> OwnedPartition | None:
        """Open a partition; None if it is no longer wanted once its place in Kafka is known.

        Raises EarlierEpochError, DataLossError, ConfigError: all mean "refuse to start".
        """
        place = None
        while place is None and wanted():
            try:
                place = await self._look_up(number)
            except TimeoutError:
                await asyncio.sleep(LOOK_UP_RETRY_S)
        if place is None or not wanted():
            return None
        # Step 3. Open the table file. Changes found in it have already waited: they are written out
        # soon, but not while all partitions catch up.
        waited_s = max(0.0, self._settings.flush_delay_s - WRITE_OUT_DELAY_AFTER_OPEN_S)
        dirty_since_ms = self._partitions.now_ms() - int(waited_s * 1000)
        loop = asyncio.get_running_loop()
        file, newest = await loop.run_in_executor(
            None, self._open_file, number, place, dirty_since_ms
        )
        return self._make(number, place, file, newest)

    # -- steps 1 and 2 ------------------------------------------------------------------------

    async def _look_up(self, number: int) -> Place:
        """The partition's place, from a look-up that begins after this call."""
        if not self._asked:
            task = asyncio.create_task(self._look_up_asked())
            self._look_ups.add(task)
            task.add_done_callback(self._look_ups.discard)
        future = self._asked.get(number)
        if future is None:
            future = self._asked[number] = asyncio.get_running_loop().create_future()
        return await future

    async def _look_up_asked(self) -> None:
        """Look up, in one go, everything that was asked for before this task began to run."""
        asked, self._asked = self._asked, {}
        try:
            places = await self._places(sorted(asked))
        except Exception as exc:  # noqa: BLE001 (whoever asked raises it)
            for future in asked.values():
                future.set_exception(exc)
        else:
            for number, future in asked.items():
                future.set_result(places[number])

    async def _places(self, numbers: list[int]) -> dict[int, Place]:
        settings = self._settings
        updates = [TopicPartition(settings.updates_topic, number) for number in numbers]
        queries = [TopicPartition(settings.queries_topic, number) for number in numbers]
        # Step 1. Read what is committed, and the logs' starts and ends.
        committed = await self._member.committed(updates + queries)
        ranges = await self._member.log_ranges(updates + queries)
        places: dict[int, Place] = {}
        for update, query in zip(updates, queries, strict=True):
            number, (start, end) = update.partition, ranges[update]
            first = self._epoch.first_offsets[number]
            offset, metadata = committed.get(update, (max(start, first), ""))
            # Step 2. Refuse commits that would fold an earlier epoch again, or hide a loss.
            check_epoch(update, offset, first, self._epoch.epoch)
            check_commit(update, offset, start, end)
            if update in committed:
                check_run(update, metadata, self._run, settings.kafka_group)
            check_database(metadata, self._epoch, settings.cassandra_keyspace)
            queries_start, queries_end = ranges[query]
            query_offset = max(committed.get(query, (0, ""))[0], queries_start)
            places[number] = Place(offset, metadata, start, end, min(query_offset, queries_end))
        return places

    # -- steps 3 to 5 -------------------------------------------------------------------------

    def _open_file(self, number: int, place: Place, dirty_since_ms: int) -> tuple[TableFile, int]:
        """Open the table file, and find the newest version in it. This runs in a thread."""
        file = self._tables.open(
            number,
            committed=place.committed,
            start=place.start,
            end=place.end,
            dirty_since_ms=dirty_since_ms,
            is_of_a_worker=is_of_a_worker(place.metadata),
        )
        return file, file.table.newest() if file.warm else 0

    def _make(self, number: int, place: Place, file: TableFile, newest: int) -> OwnedPartition:
        settings, committed = self._settings, place.committed
        # Step 4. Choose where to start. Step 5. Choose the position that queries wait for.
        position, target = committed, catch_up_target(place.metadata, place.end)
        if file.warm:
            position = file.table.position
            target = max(target, offset_of(newest) + 1)  # R5
        file.table.position = position
        self._incarnations += 1
        log.info(
            "table_open partition=%d warm=%s why=%s position=%d committed=%d end=%d",
            number,
            file.warm,
            file.why,
            position,
            committed,
            place.end,
        )
        partition = Partition(
            number,
            table=file.table,
            position=position,
            committed=committed,
            catch_up_to=max(position, target),
            epoch=self._epoch.epoch,
            partitions=self._epoch.partitions,
            incarnation=self._incarnations,
            parked_max=self._share(settings.parked_max),
            parked_bytes_max=self._share(settings.parked_bytes_max),
            inbox_max=self._share(settings.inbox_max),
            inbox_bytes_max=self._share(settings.inbox_bytes_max),
            effects=self._partitions,
            reader=self._reader,
            ids=self._ids,
            told_to=(
                told_to(place.metadata, committed, place.end) if settings.tells_changes else None
            ),
            changes_max=self._share(settings.changes_waiting_max),
            is_candidate=settings.is_candidate,
        )
        return OwnedPartition(partition, file, place.query_offset, Watermark(place.query_offset))

    def _share(self, limit: int) -> int:
        """A partition's part of a limit; the sum of all parts is at most FULL_SHARES limits."""
        return max(1, min(limit, limit * FULL_SHARES // max(1, self._epoch.partitions)))


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
        "database was put back to an older state, run readstates restore instead"
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


def check_run(place: TopicPartition, metadata: str, run: str, group: str) -> None:
    """Raises RolloutError if the commit is not of this run, or of a candidate's and `run` is empty.

    What is below a candidate's commit is in the overlay of its run, and may be nowhere else.
    """
    found = run_in(metadata)
    if found == run:
        return
    where = f"{place.topic} partition {place.partition}: the commit of group {group}"
    if run:
        raise RolloutError(
            f"{where} is {f'of the run {found}' if found else 'of no candidate'}, and this is the "
            f"run {run}. The worker refuses to start and changes nothing. Run: readstates rollout "
            f"abort {group}, and then: readstates rollout start {group}"
        )
    raise RolloutError(
        f"{where} is a candidate's (run {found}), and this worker has ROLE=live. It would leave "
        "out what the candidate has folded. The worker refuses to start and changes nothing. Set "
        "KAFKA_GROUP to the group of the live workers, or ROLE to candidate"
    )


def check_database(metadata: str, epoch: Log, keyspace: str) -> None:
    """Raises EpochError if the commit was made over another database, or one half restored."""
    if is_restoring(metadata):
        raise EpochError(f"{unfinished()}. The worker refuses to start and changes nothing")
    text = check_commit_of(metadata, epoch, keyspace)
    if text:
        raise EpochError(text)
