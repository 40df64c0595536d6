"""Knows which broker leads each partition of a topic, and asks again when that may have changed.

A thread of its own asks, because connecting, resolving names and logging in block. It does nothing
in between.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Callable

from ..errors import ReadStatesError
from . import broker, protocol
from .cluster import Cluster
from .login import Login
from .protocol import Broker, TopicMetadata
from .pulse import Pulse

log = logging.getLogger(__name__)

REFRESH_S = 30.0  # so that leaders which move without an error are noticed, too
SILENT_MAX_S = 300.0  # it may wait for some brokers in turn, which do not answer
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0  # between two questions; doubles as long as they go on


class Leaders:
    """Asks brokers for a topic's metadata. `told` and `failed` are called in its thread."""

    def __init__(
        self,
        topic: str,
        bootstrap: str,
        login: Login | None,
        cluster: Cluster,
        told: Callable[[TopicMetadata], None],
        failed: Callable[[Broker, Exception], None],
    ) -> None:
        self._body, self._login = protocol.metadata_body(topic), login
        self._bootstrap, self._cluster = addresses(bootstrap), cluster
        self._brokers: list[Broker] = []
        self._told, self._failed = told, failed
        self._sock: socket.socket | None = None
        self._at: Broker | None = None  # where that leads
        self._suspect: Broker | None = None
        self._asked, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"leaders-{topic}", daemon=True)
        self.pulse = Pulse(self._thread.name, SILENT_MAX_S)

    def start(self) -> None:
        self._thread.start()

    def ask(self, suspect: Broker | None = None) -> None:
        """Ask now, or after a pause if that was just done; returns at once, from any thread.

        `suspect`: a broker that may not answer, and so is the last to be asked.
        """
        self._suspect = suspect or self._suspect
        self._asked.set()

    def close(self) -> None:
        """End the thread; one that waits for a broker ends later by itself."""
        self._closing.set()
        self._asked.set()

    def _run(self) -> None:
        pause_s = PAUSE_MIN_S
        while not self._closing.is_set():
            self.pulse.beat()
            began = time.monotonic()
            self._asked.clear()
            found = self._metadata()
            if self._closing.is_set():
                break
            if found is not None:
                self._brokers = list(found.brokers.values())
                self._told(found)
            self._closing.wait(pause_s)
            if found is not None:
                self._asked.wait(REFRESH_S)
            quiet = time.monotonic() - began > 2 * PAUSE_MAX_S and found is not None
            pause_s = PAUSE_MIN_S if quiet else min(2 * pause_s, PAUSE_MAX_S)
        self._close_socket()

    def _metadata(self) -> TopicMetadata | None:
        """The answer of the first broker that gives one: the last one asked, or any other."""
        places = list({*self._brokers, *self._bootstrap})
        random.shuffle(places)
        places.sort(key=lambda place: (place == self._suspect, place != self._at))
        self._suspect = None
        for place in places:
            if self._closing.is_set():
                return None
            self.pulse.beat()
            if place != self._at:
                self._close_socket()
            for _ in range(2 if self._sock is not None else 1):  # it may have been closed meanwhile
                try:
                    if self._sock is None:
                        self._sock, self._at = broker.connect(place, self._login), place
                    data = broker.ask(self._sock, protocol.METADATA, self._body)
                    found = protocol.read_metadata(data)
                    self._cluster.check(place, found.cluster_id)
                except (OSError, ReadStatesError) as exc:
                    error = exc
                    self._close_socket()
                else:
                    return found
            self._failed(place, error)
        return None

    def _close_socket(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it may be closed already
                self._sock.close()
        self._sock = None


def addresses(bootstrap: str) -> list[Broker]:
    """`host:port,[host]:port` as addresses; 9092 where there is no port."""
    found = []
    for entry in bootstrap.split(","):
        host, colon, port = entry.strip().rpartition(":")
        if not colon or "]" in port:
            host, port = entry.strip(), "9092"
        found.append(Broker(host.strip("[]"), int(port)))
    return found
