"""The repeated work of a worker, apart from its agents'; each part is an endless coroutine.

The service runs them as its tasks; the simulation runs them as tasks of a loop on virtual time.
"""

from __future__ import annotations

import asyncio

from ..cassandra.addresses import Addresses
from ..cassandra.store import Store
from .commits import Commits
from .partitions import Partitions

POLL_INTERVAL_S = 0.02  # between two steps of write-behind, and two passes of the deadlines
IDLE_POLL_S = 0.1  # the same while nothing is dirty: a new change waits for FLUSH_DELAY_S anyway


class BackgroundLoops:
    """See the module."""

    def __init__(self, partitions: Partitions, commits: Commits, store: Store) -> None:
        self._partitions = partitions
        self._commits = commits
        self._store = store

    async def fold(self) -> None:
        """Run the partitions' slices."""
        await self._partitions.run()

    async def write_out(self) -> None:
        """Start the writes that are due."""
        while True:
            dirty = await self._partitions.write_out()
            await asyncio.sleep(POLL_INTERVAL_S if dirty else IDLE_POLL_S)

    async def expire(self) -> None:
        """End the queries, and the requests to Cassandra, whose time is up."""
        while True:
            self._partitions.queries.expire()
            self._store.expire()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def follow_addresses(self) -> None:
        """Find the nodes of Cassandra again if all of them have moved."""
        await Addresses(self._store).follow()

    async def commit(self) -> None:
        """Commit the watermarks that moved."""
        while True:
            await asyncio.sleep(self._partitions.settings.commit_interval_s)
            owned = self._partitions.active()
            if owned:
                await self._commits.commit(owned)
