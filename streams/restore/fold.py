"""Folds an epoch of the log into the database, with the parts of a worker and without a group.

Each partition of the epoch is a `Partition` as in a worker: with a reader, a table, loads from
Cassandra and write-behind. Its versions are those of the epoch. So a record is folded exactly as a
worker of that epoch folded it, and is skipped if the database has it. That makes it safe to repeat
a restore, wherever it was interrupted, and to begin too early.

An epoch has ended once everything in it is in Cassandra; only then may the next one begin, because
a user may be in another partition there. At most PARTITIONS_AT_ONCE partitions are open at a time,
each with a table of CACHE_STATES read states, which bounds the memory. The tables have no names, so
nothing of an interrupted restore is ever used.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from readstates.cache.tablefile import TableFile, TableIdentity, open_table
from readstates.schemas.epoch_history import Epoch
from readstates.schemas.replies import Answer

from ..cassandra.loader import Loader
from ..cassandra.store import Store
from ..cassandra.write_behind import WriteBehind
from ..config import IDS_UNCHECKED, Settings
from ..kafka.reader import Poll, Reader
from ..kafka.reading import UPDATES
from ..partition.batch import Batch, Record
from ..partition.decode_buffer import DecodeBuffer
from ..partition.effects import KeptRecord
from ..partition.partition import Partition
from ..partition.plausible_ids import PlausibleIds
from ..partition.query import Query
from .plan import Span

PARTITIONS_AT_ONCE = 4
IDLE_S = 0.5  # after which the state of the partitions is looked at, whatever happens
CLOSED = -1  # the incarnation of a partition that is closed: late results are dropped


class Letters(Protocol):
    """Where dead letters go: `kafka.dead_letter_producer.DeadLetterProducer`."""

    def send(
        self, record: Record | KeptRecord, partition: int, reason: str, kept: Callable[[], None]
    ) -> None: ...


@dataclass(slots=True)
class Opened:
    """A partition that is being folded."""

    partition: Partition
    file: TableFile
    span: Span


class EpochFold:
    """See the module. `missing` says what compaction took out of the log, with MISSING_UPDATES.

    `letters` gets the dead letters of the records that no worker has committed.
    """

    def __init__(self, settings: Settings, store: Store, folder: Path, letters: Letters) -> None:
        self._settings, self._store, self._folder = settings, store, folder
        self._letters = letters
        self._letters_from: Mapping[int, int] = {}
        self._wake = asyncio.Event()
        self._loader = Loader(store, settings, self._wake.set)
        self._write_behind = WriteBehind(store, settings, self._wake.set)
        self._buffer = DecodeBuffer()
        epoch_ms = settings.id_epoch_ms
        self._ids = None if epoch_ms == IDS_UNCHECKED else PlausibleIds(epoch_ms)
        self._incarnations = 0
        self._open: dict[int, Opened] = {}
        self._closed_records = 0
        self._reader: Reader
        self._error: Exception | None = None
        self.missing: list[str] = []
        store.broken = self._fail

    @property
    def folded(self) -> int:
        """Offsets that were folded so far."""
        under_way = sum(o.partition.position - o.span.begin for o in self._open.values())
        return self._closed_records + under_way

    async def fold(
        self, epoch: Epoch, spans: Iterable[Span], letters_from: Mapping[int, int] | None = None
    ) -> None:
        """Fold an epoch; returns once all of it is in Cassandra.

        `letters_from`: by partition, the offset from which records that cannot be applied become
        dead letters; no others do, because they became dead letters when a worker folded them.
        Raises DataLossError and StoreError: the restore must then be repeated.
        """
        waiting = deque(span for span in spans if span.begin < span.end)
        self._letters_from = letters_from or {}
        settings = self._settings
        self._reader = Reader(
            settings, epoch.topic, UPDATES, self._take, self._fail, self._wants_bytes
        )
        writing = asyncio.create_task(self._write_out())
        try:
            while waiting or self._open:
                while waiting and len(self._open) < PARTITIONS_AT_ONCE:
                    self._begin(epoch, waiting.popleft())
                await self._step()
                if writing.done():
                    await writing
                if self._error is not None:
                    raise self._error
        finally:
            writing.cancel()
            self._reader.close()
            self.missing += filter(None, [self._reader.missing])
            for number in list(self._open):
                self._close(number)

    def _begin(self, epoch: Epoch, span: Span) -> None:
        settings = self._settings
        self._incarnations += 1
        path = self._folder / f"restore-{self._incarnations}.table"
        path.unlink(missing_ok=True)
        identity = TableIdentity(
            epoch.topic_id.bytes, epoch.epoch, span.number, settings.cassandra_keyspace
        )
        file = open_table(path, identity, settings.cache_states, settings.user_states_max)
        path.unlink(missing_ok=True)
        file.table.position = span.begin
        partition = Partition(
            span.number,
            table=file.table,
            position=span.begin,
            committed=span.begin,
            catch_up_to=span.begin,
            epoch=epoch.epoch,
            partitions=epoch.partitions,
            incarnation=self._incarnations,
            parked_max=settings.parked_max,
            parked_bytes_max=settings.parked_bytes_max,
            inbox_max=settings.inbox_max,
            inbox_bytes_max=settings.inbox_bytes_max,
            reader=self._buffer,
            effects=self,
            ids=self._ids,
        )
        partition.note_live_commit()  # P8: there is no other owner, and no query
        self._open[span.number] = Opened(partition, file, span)
        self._reader.start(span.number, span.begin, self._incarnations)

    def _close(self, number: int) -> None:
        opened = self._open.pop(number)
        self._reader.stop(number)
        self._closed_records += opened.partition.position - opened.span.begin
        opened.partition.closing, opened.partition.incarnation = True, CLOSED
        opened.file.close(clean=False)

    # -- records ------------------------------------------------------------------------------

    def _wants_bytes(self, number: int) -> int:
        """Bytes of updates that a partition takes now; the reader's thread calls this."""
        opened = self._open.get(number)
        return 0 if opened is None else opened.partition.wants_bytes

    def _take(self, poll: Poll) -> None:
        """Take batches, up to the ends of the spans: the rest belongs to the next epoch."""
        for number, token, batch in poll:
            opened = self._open.get(number)
            if opened is None or opened.partition.incarnation != token:
                continue
            end = opened.span.end
            if batch.end >= end:
                batch = _up_to(batch, end)
                self._reader.stop(number)
            opened.partition.take(batch)
        self._wake.set()

    async def _step(self) -> None:
        """Fold a slice of each partition, and close those that are in Cassandra to their end."""
        progressed = False
        now_ms = time.time_ns() // 1_000_000
        for number, opened in list(self._open.items()):
            partition = opened.partition
            if partition.can_run:
                progressed = bool(partition.run(self._settings.slice_updates, now_ms)) or progressed
            if partition.position >= opened.span.end:
                partition.write_out.everything = True
                if not len(partition.watermark):  # P3: nothing is parked, dirty or under way
                    self._close(number)
                    progressed = True
        self._reader.look()
        if progressed:
            await asyncio.sleep(0)
            return
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), IDLE_S)
        except TimeoutError:
            return

    async def _write_out(self) -> None:
        while True:
            partitions = [opened.partition for opened in self._open.values()]
            now_ms = time.time_ns() // 1_000_000
            pause_s = await self._write_behind.step(partitions, now_ms=now_ms)
            self._wake.set()
            self._store.expire()
            await asyncio.sleep(pause_s)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake.set()

    # -- effects ------------------------------------------------------------------------------

    def load(self, partition: Partition, user_id: int, ticket: int, asked: bool) -> None:
        self._loader.want(partition, user_id, ticket, asked=asked)

    def dead_letter(
        self, partition: Partition, record: Record | KeptRecord, reason: str, text: str
    ) -> None:
        incarnation, offset = partition.incarnation, record.offset

        def kept() -> None:
            partition.dead_letter_kept(incarnation, offset)
            self._wake.set()

        first = self._letters_from.get(partition.number)
        if first is not None and offset >= first:
            self._letters.send(record, partition.number, reason, kept)
        else:
            asyncio.get_running_loop().call_soon(kept)

    def answer(self, query: Query, answer: Answer, hit: bool) -> None:
        raise AssertionError("a restore has no queries")


def _up_to(batch: Batch, end: int) -> Batch:
    """The part of a batch below an offset."""
    records = [record for record in batch.records if record.offset < end]
    return batch._replace(records=records, end=end)
