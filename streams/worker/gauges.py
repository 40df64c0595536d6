"""Exports the gauges of a worker's partitions and watches their progress, once per second."""

from __future__ import annotations

import time
from typing import NamedTuple

from .. import metrics
from ..kafka.group_consumer import Reading
from ..partition.partition import Partition
from .partitions import Partitions

STUCK_S = 60.0  # liveness: records wait and no partition has moved for this long


class Lags(NamedTuple):
    """What a partition has not taken, in records, and how long it has waited for a transaction."""

    updates: int
    queries: int
    updates_open_s: int
    queries_open_s: int


class ExportedPartition:
    """A partition's series, and the values that were exported last."""

    def __init__(self, number: int, updates_topic: str, queries_topic: str) -> None:
        self.series = metrics.OfPartition(number, updates_topic, queries_topic)
        self.state: tuple[int, ...] = ()
        self.evictions = 0
        self.number = number
        self._feed: metrics.FeedOfPartition | None = None

    def export_feed(self, partition: Partition, now_ms: int) -> None:
        """Export what the change feed has not taken, if there is a feed."""
        told, changes = partition.progress.told_to(), partition.changes
        if told is None or changes is None:
            return
        self._feed = self._feed or metrics.FeedOfPartition(self.number)
        self._feed.lag.set(max(0, partition.position - told))
        self._feed.lag_s.set(changes.oldest_ms(now_ms) / 1000)
        self._feed.waiting.set(changes.waiting)


class ExportedGauges:
    """Exports the partitions' gauges and counts; notes when one of them moved last."""

    def __init__(self, partitions: Partitions, updates: Reading, queries: Reading) -> None:
        self._partitions = partitions
        self._updates, self._queries = updates, queries
        self._exported: dict[int, ExportedPartition] = {}  # by incarnation
        self._applied = -1  # sum of the partitions' positions
        self._moved_at = time.monotonic()

    def health(self) -> tuple[bool, str]:
        """False if the worker is stuck before records that it could apply; with the reason."""
        stuck_s = time.monotonic() - self._moved_at
        if stuck_s > STUCK_S:
            where = f"the positions' sum is {self._applied}"
            return False, f"records wait, and no partition moved for {stuck_s:.0f} s; {where}"
        return True, "alive"

    def export(self) -> None:
        """Look at all partitions."""
        applied, waiting = 0, False
        settings = self._partitions.settings
        exported: dict[int, ExportedPartition] = {}
        for number, owned in self._partitions.owned.items():
            partition = owned.partition
            life = partition.incarnation
            item = exported[life] = self._exported.get(life) or ExportedPartition(
                number, settings.updates_topic, settings.queries_topic
            )
            applied += partition.position
            readable = behind(self._updates.end(number), partition.position)
            waiting |= readable > 0 and not partition.held_back
            lags = Lags(
                behind(self._updates.high_watermark(number), partition.position),
                behind(self._queries.high_watermark(number), owned.query_position),
                round(self._updates.open_transaction_s(number)),
                round(self._queries.open_transaction_s(number)),
            )
            self._export_one(item, partition, lags)
        self._exported = exported
        metrics.QUERIES_WAITING.set(self._partitions.queries.waiting)
        if applied != self._applied or not waiting:
            self._applied, self._moved_at = applied, time.monotonic()

    def _export_one(self, item: ExportedPartition, partition: Partition, lags: Lags) -> None:
        table, series = partition.table, item.series
        item.export_feed(partition, self._partitions.now_ms())
        state = (
            *lags,
            partition.position,
            partition.loading.parked_updates,
            partition.inbox.size_bytes,
            len(partition.watermark),
            table.resident_users,
            table.resident_states,
            table.evictions,
        )
        if item.state == state and not len(partition.watermark):
            return  # if there are many partitions, most have nothing new
        counts = partition.counts
        series.applied.inc(counts.applied)
        for reason, skipped in metrics.SKIPPED.items():
            skipped.inc(getattr(counts, reason))
            setattr(counts, reason, 0)
        counts.applied = 0
        series.resident_states.set(table.resident_states)
        series.resident_users.set(table.resident_users)
        series.dirty_states.set(table.dirty_states)
        series.parked_updates.set(partition.loading.parked_updates)
        series.parked_bytes.set(partition.loading.parked_bytes)
        series.inbox_bytes.set(partition.inbox.size_bytes)
        series.dead_letters_bytes.set(partition.dead_letters_bytes)
        metrics.EVICTIONS.inc(table.evictions - item.evictions)
        item.evictions = table.evictions
        series.durability_lag.set(partition.position - partition.progress.committable())
        series.durability_lag_s.set(partition.write_out.oldest_change_s(self._partitions.now_ms()))
        series.updates_lag.set(lags.updates)
        series.queries_lag.set(lags.queries)
        series.updates_open_s.set(lags.updates_open_s)
        series.queries_open_s.set(lags.queries_open_s)
        item.state = state


def behind(end: int | None, position: int) -> int:
    """Records between a position and the log's end; 0 while the end is not known."""
    return 0 if end is None else max(0, end - position)
