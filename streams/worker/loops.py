"""The repeated work of a worker, apart from its agents'; each part is an endless coroutine.

The service runs them as its tasks; the simulation runs them as tasks of a loop on virtual time.
"""

from __future__ import annotations

import asyncio

from ..cassandra.addresses import Addresses
from ..cassandra.store import Store
from ..kafka.pulse import Pulse
from ..priorities import EXPIRE_INTERVAL_S
from .commits import Commits
from .partitions import Partitions

SILENT_MAX_S = 60.0  # a turn takes at most some seconds, even if no server answers
ADDRESSES_SILENT_MAX_S = 300.0  # names and nodes that do not answer have their time limits, in turn


class BackgroundLoops:
    """See the module."""

    def __init__(self, partitions: Partitions, commits: Commits, store: Store) -> None:
        self._partitions = partitions
        self._commits = commits
        self._store = store
        wait_s = partitions.settings.commit_interval_s
        self._write_out_pulse = Pulse("write_out", SILENT_MAX_S, is_vital=True)
        self._commit_pulse = Pulse("commit", wait_s + SILENT_MAX_S, is_vital=True)
        self._tell_pulse = Pulse("tell", SILENT_MAX_S)
        self._expire_pulse = Pulse("expire", SILENT_MAX_S)
        self._addresses_pulse = Pulse("follow_addresses", ADDRESSES_SILENT_MAX_S)
        self.pulses = (
            partitions.pulse,
            self._write_out_pulse,
            self._commit_pulse,
            self._tell_pulse,
            self._expire_pulse,
            self._addresses_pulse,
        )

    async def fold(self) -> None:
        """Run the partitions' slices."""
        await self._partitions.run()

    async def write_out(self) -> None:
        """Start the writes that are due, and end the requests to Cassandra whose time is up."""
        while True:
            self._write_out_pulse.beat()
            pause_s = await self._partitions.write_out()
            self._store.expire()
            await asyncio.sleep(pause_s)

    async def tell(self) -> None:
        """Send the changes that are due to the change feed, if there is one."""
        feed = self._partitions.feed
        while feed is not None:
            self._tell_pulse.beat()
            pause_s = feed.step()
            await asyncio.sleep(pause_s)

    async def expire(self) -> None:
        """End the queries whose time is up; `look` ends the wait for queries."""
        queries = self._partitions.queries
        while True:
            self._expire_pulse.beat()
            await queries.some_wait.wait()
            queries.expire()
            await asyncio.sleep(EXPIRE_INTERVAL_S)

    def look(self) -> None:
        """Have `expire` take a turn, to show that it moves; the service calls this regularly."""
        self._partitions.queries.some_wait.set()

    async def follow_addresses(self) -> None:
        """Find the nodes of Cassandra again if all of them have moved."""
        await Addresses(self._store, self._addresses_pulse.beat).follow()

    async def commit(self) -> None:
        """Commit the watermarks that moved."""
        while True:
            self._commit_pulse.beat()
            await asyncio.sleep(self._partitions.settings.commit_interval_s)
            owned = self._partitions.active()
            if owned:
                await self._commits.commit(owned)
