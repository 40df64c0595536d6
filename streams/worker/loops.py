"""What a worker does over and over beside its agents, each as an endless coroutine.

The application runs them as tasks of a service, the simulation as tasks of a loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..cassandra.store import Store
from .rebalance import Handover

TURN_S = 0.02
CALM_TURN_S = 0.1  # nothing is dirty, and what becomes it waits for FLUSH_DELAY_S first


class Turns:
    """See the module. `consumer` gives the consumer of the moment."""

    def __init__(self, partitions: Handover, store: Store, consumer: Callable[[], Any]) -> None:
        self._partitions = partitions
        self._store = store
        self._consumer = consumer

    async def fold(self) -> None:
        """The partitions' slices."""
        await self._partitions.run()

    async def write_out(self) -> None:
        """Start the writes that are due."""
        while True:
            dirty = await self._partitions.write_out()
            await asyncio.sleep(TURN_S if dirty else CALM_TURN_S)

    async def expire(self) -> None:
        """End queries and requests whose time is over."""
        while True:
            self._partitions.expire()
            self._store.expire()
            await asyncio.sleep(TURN_S)

    async def commit(self) -> None:
        """Commit the watermarks that moved."""
        while True:
            await asyncio.sleep(self._partitions.settings.commit_interval_s)
            live = [o for o in self._partitions.owned.values() if not o.partition.closing]
            consumer = self._consumer()
            if live and not consumer.rebalancing:
                await self._partitions.commit(consumer, live)
