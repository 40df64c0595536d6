"""Sends a record to each of many partitions, with one request to each of their leaders.

A producer library sends a request for each partition, and a broker carries out the requests of a
connection one after the other. So 256 records arrive one by one, and whoever reads the partitions
gets a few of them with each fetch. Records of one request arrive together.

Nothing here waits: `step` takes what the brokers have answered, and sends what can be sent. If a
broker does not answer, or no longer leads a partition, the record is sent again once the leaders
are known anew; so it may arrive twice. What is not taken until its time is up is refused. A request
has at most one record of a partition, and one request is under way to each broker.

All methods are for one thread.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import ReadStatesError
from . import protocol
from .broker import Connection
from .broker_clocks import monotonic_ms
from .fetch_link import Link
from .login import Login
from .protocol import Broker

log = logging.getLogger(__name__)

TIMEOUT_MS = 3_000  # of the replicas, for a request
WAITING_MAX = 10_000  # records that are not taken yet; more are refused
NO_LEADER = "the partition has no leader"


class Item(NamedTuple):
    """A record for a partition, as a batch. `token` says to the caller which one it is."""

    number: int
    token: bytes
    batch: bytes
    until: float  # time.monotonic() at which it is refused


class Bundles:
    """See the module. `refused` is called, in `step`, with the token and the reason.

    `stamped` is called with the partition of a record that a broker has taken and stamped, when its
    request was sent, the stamp, and when the answer came.
    """

    def __init__(
        self,
        topic: str,
        login: Login | None,
        refused: Callable[[bytes, str], None],
        stamped: Callable[[int, float, int, float], None],
    ) -> None:
        self._topic, self._login = topic, login
        self._refused, self._stamped = refused, stamped
        self._sent_ms: dict[Link[Item], float] = {}  # by the monotonic clock
        self._waiting: deque[Item] = deque()
        self._leaders: dict[int, int] = {}  # partition → broker
        self._links: dict[int, Link[Item]] = {}  # by broker
        self._opened: deque[tuple[Link[Item], Connection | Exception]] = deque()  # by threads
        self._why: dict[int, str] = {}  # the last error of each partition; none once it took one
        self._lacks_leaders = False  # those that are known may be outdated

    @property
    def is_busy(self) -> bool:
        """True if some records are not taken yet, so that `step` should be called soon."""
        return bool(self._waiting) or any(link.asked for link in self._links.values())

    @property
    def lacks_leaders(self) -> bool:
        """True if records wait for `note_leaders`."""
        return self._lacks_leaders and bool(self._waiting)

    def note_leaders(self, leaders: Mapping[int, int], brokers: Mapping[int, Broker]) -> None:
        """Take the leader of each partition that has one, and where the brokers are."""
        now = time.monotonic()
        for number, link in [*self._links.items()]:
            if brokers.get(number) != link.place:
                self._waiting.extend(link.close(now))
                self._sent_ms.pop(link, None)
                del self._links[number]
        for number in {*leaders.values()} & brokers.keys() - self._links.keys():
            self._links[number] = Link(brokers[number], self._login)
        self._leaders, self._lacks_leaders = dict(leaders), False

    def send(self, items: list[Item]) -> None:
        """Have these sent by the next `step`."""
        for item in items:
            if len(self._waiting) < WAITING_MAX:
                self._waiting.append(item)
            else:
                self._refused(item.token, f"{WAITING_MAX} records wait for the brokers")

    def step(self) -> None:
        """See the module."""
        now = time.monotonic()
        while self._opened:
            link, result = self._opened.popleft()
            if isinstance(result, Exception):
                self._lose(link, result)
            else:
                link.opened(result)
        for link in self._links.values():
            if link.asked is not None:
                self._receive(link, now)
        if self._waiting:
            self._refuse_late(now)
            self._send(now)

    def close(self) -> None:
        """Close the connections. What is not taken yet is not spoken of again."""
        now = time.monotonic()
        for link in self._links.values():
            link.close(now)
        self._links.clear()
        self._sent_ms.clear()
        self._leaders.clear()
        self._waiting.clear()

    def _send(self, now: float) -> None:
        waiting, self._waiting = self._waiting, deque()
        requests: dict[int, dict[int, Item]] = {}  # by leader, then by partition
        for item in waiting:
            leader = self._leaders.get(item.number, -1)
            link = self._links.get(leader)
            request = requests.setdefault(leader, {})
            if link is None or link.asked is not None or item.number in request:
                self._lacks_leaders |= link is None
                self._waiting.append(item)
            else:
                request[item.number] = item
        for leader, request in requests.items():
            if request:
                self._send_to(self._links[leader], request, now)

    def _send_to(self, link: Link[Item], request: dict[int, Item], now: float) -> None:
        if link.connection is None:
            link.open(now, lambda *result: self._opened.append(result))
            self._waiting.extend(request.values())
            return
        batches = {number: item.batch for number, item in request.items()}
        body = protocol.produce_body(self._topic, batches, TIMEOUT_MS)
        self._sent_ms[link] = monotonic_ms()
        try:
            link.send(body, [*request.values()], now, 0.0, protocol.PRODUCE)
        except OSError as exc:
            self._waiting.extend(request.values())
            self._lose(link, exc)

    def _receive(self, link: Link[Item], now: float) -> None:
        assert link.connection is not None
        try:
            response = link.connection.receive()
            if response is None:
                if now > link.deadline:
                    raise TimeoutError("the broker does not answer")
                return
            produced = protocol.read_produced(response)
        except (OSError, ReadStatesError) as exc:
            self._lose(link, exc)
            return
        sent_ms, now_ms = self._sent_ms[link], monotonic_ms()
        for number, stamp_ms in produced.stamps.items():
            self._stamped(number, sent_ms, stamp_ms, now_ms)
        for item in link.answered(produced.throttle_ms):
            code = produced.errors.get(item.number, 0)
            if code:
                self._send_again([item], protocol.error_name(code))
            else:
                self._why.pop(item.number, None)

    def _lose(self, link: Link[Item], exc: Exception) -> None:
        """Drop a connection: what was sent over it is sent again."""
        asked = link.failed(time.monotonic())
        why = f"{link.place.host}:{link.place.port}: {exc}"
        for item in self._waiting:
            if self._links.get(self._leaders.get(item.number, -1)) is link:
                self._why[item.number] = why
        log.debug("bundle_connection_lost broker=%s:%d error=%r", *link.place, exc)
        self._lacks_leaders = True
        self._send_again(asked, why)

    def _send_again(self, items: list[Item], why: str) -> None:
        """Keep these until `note_leaders` says who leads their partitions."""
        for item in items:
            self._why[item.number] = why
            self._leaders.pop(item.number, None)
        self._waiting.extend(items)

    def _refuse_late(self, now: float) -> None:
        if all(item.until > now for item in self._waiting):
            return
        late = [item for item in self._waiting if item.until <= now]
        self._waiting = deque(item for item in self._waiting if item.until > now)
        for item in late:
            self._refused(item.token, self._why.get(item.number, NO_LEADER))
