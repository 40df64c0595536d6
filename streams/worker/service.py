"""Runs a worker's background loops, its gauges and its HTTP endpoints, alongside the agents."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from typing import Any

from mode import Service

from .. import metrics
from ..cassandra.store import Store
from ..kafka.broker_clocks import STEP_S, BrokerClocks
from ..kafka.delivery import Delivery
from ..kafka.group_consumer import Membership, Reading
from ..priorities import GIL_SWITCH_S
from .gauges import ExportedGauges
from .http import Endpoints, OwnNames
from .loops import BackgroundLoops
from .partitions import Partitions
from .probe import Probe
from .rebalance import Rebalancer
from .tables import Tables
from .watch import Watch

log = logging.getLogger(__name__)

GAUGES_S = 1.0
GC_THRESHOLDS = (2_000, 20, 20)  # objects are short-lived or frozen; see gc.set_threshold


def freeze_heap() -> None:
    """Freeze all present objects: they live as long as the process, so none need scanning."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class WorkerService(Service):  # type: ignore[misc]
    """The tasks of a worker; Faust starts and stops them with the app.

    `listening` is the socket of the HTTP endpoints. Joining the group is the last step of a start.
    The producers and the store are closed here, after everything that uses them.
    """

    def __init__(
        self,
        partitions: Partitions,
        tables: Tables,
        rebalancer: Rebalancer,
        store: Store,
        delivery: Delivery,
        clocks: BrokerClocks,
        member: Membership,
        updates: Reading,
        queries: Reading,
        probe: Probe,
        watch: Watch,
        listening: socket.socket,
    ) -> None:
        super().__init__()
        self._watch = watch
        self._ready_checks = (rebalancer.ready, watch.ready, probe.ready)
        self._tables = tables
        self._store = store
        self._delivery = delivery
        self._clocks = clocks
        self._partitions = partitions
        self._rebalancer = rebalancer
        self._member = member
        self._probe = probe
        self._listening = listening
        self._loops = BackgroundLoops(partitions, rebalancer.commits, store)
        self._gauges = ExportedGauges(partitions, updates, queries)

    def on_init_dependencies(self) -> list[Any]:
        settings = self._partitions.settings
        names = OwnNames(settings.http_host, settings.http_names)
        return [Endpoints(self._listening, self._gauges.health, self._ready, names)]

    def _ready(self) -> tuple[bool, str]:
        """Whether this worker answers, and the first reason if not."""
        answers = [check() for check in self._ready_checks]
        return next((one for one in answers if not one[0]), answers[0])

    async def on_start(self) -> None:
        self._tables.report_folder()
        if self._store.commitlog_sync == "periodic":
            log.warning(
                "cassandra_acknowledges_unsynced commitlog_sync=periodic: rows that Cassandra "
                "acknowledged in its last moments are lost if all nodes that have them are "
                "killed at once; set commitlog_sync to group in cassandra.yaml"
            )
        sys.setswitchinterval(GIL_SWITCH_S)
        freeze_heap()
        metrics.CollectorPauses()  # after the collection of the start, which delays no query
        self._member.start(self._rebalancer)
        self._probe.start()

    async def on_stop(self) -> None:
        self._probe.stop()
        self._watch.close()
        self._delivery.close()
        self._store.close()

    @Service.task  # type: ignore[untyped-decorator]
    async def _fold(self) -> None:
        await self._loops.fold()

    @Service.task  # type: ignore[untyped-decorator]
    async def _write_out(self) -> None:
        await self._loops.write_out()

    @Service.task  # type: ignore[untyped-decorator]
    async def _expire(self) -> None:
        await self._loops.expire()

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow_addresses(self) -> None:
        await self._loops.follow_addresses()

    @Service.task  # type: ignore[untyped-decorator]
    async def _commit(self) -> None:
        await self._loops.commit()

    @Service.task  # type: ignore[untyped-decorator]
    async def _look_for_changes(self) -> None:
        await self._watch.run()

    @Service.task  # type: ignore[untyped-decorator]
    async def _compare_clocks(self) -> None:
        while not self.should_stop:
            self._clocks.step(self._partitions.owned)
            await self.sleep(STEP_S)

    @Service.task  # type: ignore[untyped-decorator]
    async def _export_gauges(self) -> None:
        while not self.should_stop:
            self._gauges.export()
            await self.sleep(GAUGES_S)
