"""Follows the nodes to new addresses, if the names in CASSANDRA_HOSTS lead to others than before.

The driver looks the names up once, when it connects. Afterwards it goes by the addresses that the
nodes tell each other. So it finds a node that comes back under another address as long as any node
stays; but if all of them have moved, such as the only one, it asks the old addresses for ever.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable

from ..errors import StoreError
from .store import Store

log = logging.getLogger(__name__)

LOOK_S = 5.0  # between two looks, while no node answers
LOG_S = 60.0


def addresses_of(hosts: str) -> set[str]:
    """The addresses of these names, as far as they can be looked up. Blocks."""
    found: set[str] = set()
    for name in hosts.split(","):
        try:
            found |= {str(info[4][0]) for info in socket.getaddrinfo(name.strip(), None)}
        except OSError:
            continue  # whoever is in charge of the name is away as well
    return found


def _end(store: Store) -> None:
    """Close connections that nobody needs any more."""
    try:
        store.close()
    except Exception as exc:  # noqa: BLE001 (they are of no use anyway)
        log.warning("cassandra_shutdown_failed error=%r", exc)


class Addresses:
    """See the module. `beat` is called at every turn."""

    def __init__(self, store: Store, beat: Callable[[], None]) -> None:
        self._store, self._beat = store, beat
        self._logged_at = -LOG_S

    async def follow(self) -> None:
        """Look again and again; endless."""
        while True:
            self._beat()
            await asyncio.sleep(LOOK_S)
            if not self._store.is_cut_off:
                continue
            found = await asyncio.to_thread(self._find)
            if found is not None:
                self._store.take_over(found)
                threading.Thread(target=_end, args=(found,), daemon=True).start()  # takes its time
                log.warning(
                    "cassandra_moved hosts=%s: no node answered at its old address, and the names "
                    "lead to others now; the worker has connected to these",
                    self._store.settings.cassandra_hosts,
                )

    def _find(self) -> Store | None:
        """A store at the new addresses, prepared; None if there are none, or nobody answers."""
        if addresses_of(self._store.settings.cassandra_hosts) <= self._store.addresses:
            return None  # the driver asks these
        found = None
        try:
            found = self._store.another()
            found.check_epoch_of(self._store)
            found.prepare()
        except StoreError as exc:
            if found is not None:
                found.close()
            if time.monotonic() - self._logged_at > LOG_S:
                self._logged_at = time.monotonic()
                log.warning("cassandra_not_found error=%s; the worker tries again", exc)
            return None
        return found
