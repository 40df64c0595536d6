"""Carries out the plan of a restore; see `commands/restore.py` for the steps around it.

Each step may be repeated. Whatever interrupts it, workers refuse to start until a later restore has
come to its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from confluent_kafka.admin import AdminClient

from readstates.schemas.epoch_history import History

from ..cassandra.epoch_table import adopt
from ..cassandra.store import Store
from ..config import Settings
from ..errors import RestoreError
from ..kafka.dead_letter_producer import DeadLetterProducer
from ..kafka.delivery import Delivery
from ..kafka.group_commits import commits_of, set_commits
from ..kafka.restore_fence import restoring
from ..worker.commits import metadata_of
from ..worker.tables import own_cache_dir
from .fold import EpochFold
from .history import keep
from .plan import Plan, TopicLog

PROGRESS_S = 2.0  # between two reports of the progress
EMPTY_PATIENCE_S = (
    60.0  # for the group at the end: workers that are refused are members for moments
)
EMPTY_PAUSE_S = 0.5


class Restorer:
    """See the module. `progress` gets the seconds since the beginning, and the records folded.

    `logs`: of the topics in the history that exist, by name.
    """

    def __init__(
        self,
        settings: Settings,
        client: AdminClient,
        store: Store,
        history: History,
        logs: Mapping[str, TopicLog],
        plan: Plan,
        progress: Callable[[float, int], None],
    ) -> None:
        self._settings, self._client, self._store = settings, client, store
        self._history, self._plan, self._progress = history, plan, progress
        self._last = history[max(history)]
        log = logs.get(self._last.topic)
        self._log = log if log is not None and log.topic_id == self._last.topic_id else None

    def run(self) -> list[str]:
        """Restore the database; returns what compaction took out of the log, in sentences.

        Raises ReadStatesError if the restore must be repeated.
        """
        self._store.create_schema()
        self._store.prepare()
        missing = asyncio.run(self._fold(self._keep_workers_out()))
        self._finish()
        return missing

    def _keep_workers_out(self) -> dict[int, int]:
        """Fence the group; returns by partition the offset that it had committed.

        Dead letters of records below it are in their topic already.
        """
        last, log = self._last, self._log
        if log is None:
            return {}
        committed = {}
        for number, one in enumerate(commits_of(self._settings, last.topic, last.partitions)):
            first = max(last.first_offsets[number], log.starts[number])
            committed[number] = one[0] if one[0] >= 0 else first
        mark = restoring(last.epoch)
        fenced = {number: (offset, mark) for number, offset in committed.items()}
        set_commits(self._client, self._settings, last.topic, fenced, RestoreError)
        return committed

    async def _fold(self, committed: Mapping[int, int]) -> list[str]:
        delivery = Delivery(self._settings)
        letters = DeadLetterProducer(self._settings, delivery)
        folder = own_cache_dir(self._settings)
        fold = EpochFold(self._settings, self._store, folder, letters)
        reports = asyncio.create_task(self._report(fold))
        try:
            for part in self._plan.parts:
                is_last = part.epoch.epoch == self._last.epoch
                await fold.fold(part.epoch, part.spans, committed if is_last else {})
        finally:
            reports.cancel()
            delivery.close()
        return fold.missing

    async def _report(self, fold: EpochFold) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._progress(time.monotonic() - began, fold.folded)

    def _finish(self) -> None:
        """Give the database its epochs, and set the commits to where the fold ended."""
        last = self._last
        adopt(self._store, self._history)
        keep(self._settings, self._store)
        if self._log is None:
            return
        name = self._store.logs()[last.topic].database.name
        commits = {
            span.number: (span.end, metadata_of(span.end, clean=False, database=name))
            for span in self._plan.parts[-1].spans
        }
        end = time.monotonic() + EMPTY_PATIENCE_S
        while True:
            try:
                set_commits(self._client, self._settings, last.topic, commits, RestoreError)
            except RestoreError:
                if time.monotonic() > end:
                    raise
                time.sleep(EMPTY_PAUSE_S)
            else:
                return
