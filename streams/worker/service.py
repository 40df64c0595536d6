"""Runs a worker's background loops, its gauges and its HTTP endpoints, alongside the agents.

None of the loops ends by itself. If one does, whatever the reason, the worker ends.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from mode import Service

from .. import metrics
from ..cassandra.store import Store
from ..errors import EndedError
from ..kafka.broker_clocks import STEP_S, BrokerClocks
from ..kafka.delivery import Delivery
from ..kafka.group_consumer import Membership, Reading
from ..kafka.pulse import Pulse
from ..priorities import GIL_SWITCH_S
from .gauges import ExportedGauges
from .http import Endpoints, OwnNames
from .loops import BackgroundLoops
from .partitions import Partitions
from .probe import Probe
from .pulses import Pulses
from .rebalance import Rebalancer
from .tables import Tables
from .watch import Watch

log = logging.getLogger(__name__)

GAUGES_S = 1.0
SILENT_MAX_S = 60.0  # of the loops that do no more than export something
GC_THRESHOLDS = (2_000, 20, 20)  # objects are short-lived or frozen; see gc.set_threshold


def freeze_heap() -> None:
    """Freeze all present objects: they live as long as the process, so none need scanning."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class WorkerService(Service):  # type: ignore[misc]
    """The tasks of a worker; Faust starts and stops them with the app.

    `listening` is the socket of the HTTP endpoints. `pulses` are those of the threads; `refuse` is
    called with the error that ends the worker. Joining the group is the last step of a start.
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
        pulses: Iterable[Pulse],
        refuse: Callable[[Exception], None],
    ) -> None:
        super().__init__()
        self._watch = watch
        self._refuse = refuse
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
        self._gauges_pulse = Pulse("gauges", SILENT_MAX_S, is_vital=True)
        self._clocks_pulse = Pulse("clocks", SILENT_MAX_S)
        own = (self._gauges_pulse, self._clocks_pulse, watch.pulse, probe.pulse)
        self._pulses = Pulses((*pulses, *self._loops.pulses, *own))
        self._health_checks = (self._gauges.health, self._pulses.health)
        self._ready_checks = (rebalancer.ready, watch.ready, probe.ready, self._pulses.ready)

    def on_init_dependencies(self) -> list[Any]:
        settings = self._partitions.settings
        names = OwnNames(settings.http_host, settings.http_names)
        return [Endpoints(self._listening, self._health, self._ready, names)]

    def _health(self) -> tuple[bool, str]:
        """Whether this worker moves, and the first reason if not."""
        return _first_no([check() for check in self._health_checks])

    def _ready(self) -> tuple[bool, str]:
        """Whether this worker answers, and the first reason if not."""
        return _first_no([check() for check in self._ready_checks])

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
        await self._never_ends("fold", self._loops.fold())

    @Service.task  # type: ignore[untyped-decorator]
    async def _write_out(self) -> None:
        await self._never_ends("write_out", self._loops.write_out())

    @Service.task  # type: ignore[untyped-decorator]
    async def _tell(self) -> None:
        await self._loops.tell()

    @Service.task  # type: ignore[untyped-decorator]
    async def _expire(self) -> None:
        await self._never_ends("expire", self._loops.expire())

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow_addresses(self) -> None:
        await self._never_ends("follow_addresses", self._loops.follow_addresses())

    @Service.task  # type: ignore[untyped-decorator]
    async def _commit(self) -> None:
        await self._never_ends("commit", self._loops.commit())

    @Service.task  # type: ignore[untyped-decorator]
    async def _look_for_changes(self) -> None:
        await self._never_ends("look_for_changes", self._watch.run())

    @Service.task  # type: ignore[untyped-decorator]
    async def _compare_clocks(self) -> None:
        await self._never_ends("compare_clocks", self._compare_clocks_again())

    @Service.task  # type: ignore[untyped-decorator]
    async def _export_gauges(self) -> None:
        await self._never_ends("export_gauges", self._export_again())

    async def _compare_clocks_again(self) -> None:
        while not self.should_stop:
            self._clocks_pulse.beat()
            self._clocks.step(self._partitions.owned)
            await self.sleep(STEP_S)

    async def _export_again(self) -> None:
        while not self.should_stop:
            self._gauges_pulse.beat()
            self._gauges.export()
            self._loops.look()
            self._pulses.log_stuck()
            await self.sleep(GAUGES_S)

    async def _never_ends(self, name: str, loop: Awaitable[None]) -> None:
        """Run one of the loops; `mode` would not mind if it was cancelled, or returned."""
        why = "it returned"
        try:
            await loop
        except asyncio.CancelledError:
            why = "it was cancelled"
            if self.should_stop:
                raise
        if not self.should_stop:
            self._refuse(EndedError(f"the loop {name} has ended: {why}"))


def _first_no(answers: list[tuple[bool, str]]) -> tuple[bool, str]:
    return next((one for one in answers if not one[0]), answers[0])
