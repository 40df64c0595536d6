"""The reader's connections to one broker, each with at most one fetch under way.

A fetch waits at the broker until there are records, and the broker answers the requests of one
connection one after the other. So a partition that is to be read from now on would wait behind a
fetch of the others. There are two connections for this: `main` has the usual fetches, and `side`
has those that cannot wait for `main`. Fetches at the side are short. The one at `main` ends right
after the one at the side, or the other way round, so that the next one is of all partitions again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ..errors import ReadStatesError
from .broker import Connection, connect
from .login import Login
from .protocol import FETCH, Broker

RESPONSE_TIMEOUT_S = 5.0  # beyond the fetch's own wait, without a byte of the response
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0  # before connecting again; doubles with each failure
SIDE_WORTH_S = 0.02  # a fetch that waits no longer than this is not worth a second connection
TOGETHER_S = 0.005  # that `main` waits longer than the side: who comes back there waits for `main`
SIDE_WAIT_S = 0.05  # of a fetch at the side: no third connection is needed for who comes then

P = TypeVar("P")


class Link(Generic[P]):
    """One of them. `asked` is what the request under way asks for, if there is one."""

    def __init__(self, place: Broker, login: Login | None) -> None:
        self.place, self._login = place, login
        self.connection: Connection | None = None
        self.asked: list[P] | None = None
        self.waits_until = 0.0  # time.monotonic() at which the broker answers at the latest
        self.deadline = 0.0  # time.monotonic() at which the connection counts as dead
        self.retry_at = 0.0  # time.monotonic() from which on it may be opened
        self._pause_s = 0.0
        self._throttled_s = 0.0
        self._is_opening = False
        self._is_closed = False

    def open(self, now: float, opened: Callable[[Link[P], Connection | Exception], None]) -> None:
        """Connect in a thread, unless that is under way or too early; it calls `opened`."""
        if self.connection is None and not self._is_opening and now >= self.retry_at:
            self._is_opening = True
            name = f"connect-{self.place.host}:{self.place.port}"
            threading.Thread(target=self._connect, args=(opened,), name=name, daemon=True).start()

    def _connect(self, opened: Callable[[Link[P], Connection | Exception], None]) -> None:
        result: Connection | Exception
        try:
            result = Connection(connect(self.place, self._login))
        except (OSError, ReadStatesError) as exc:
            result = exc
        opened(self, result)

    def opened(self, connection: Connection) -> bool:
        """Take the connection over; False if this link was closed meanwhile."""
        self._is_opening = False
        if self._is_closed:
            connection.close()
            return False
        self.connection = connection
        return True

    def send(
        self, body: bytes, asked: list[P], now: float, wait_s: float, kind: int = FETCH
    ) -> None:
        """Send a fetch, or a request of another kind. Raises OSError."""
        assert self.connection is not None
        self.connection.send(kind, body)
        self.asked, self.waits_until = asked, now + wait_s
        self.deadline = self.waits_until + self._throttled_s + RESPONSE_TIMEOUT_S

    def goes_on(self, now: float) -> None:
        """A part of the response has come."""
        self.deadline = now + RESPONSE_TIMEOUT_S

    def answered(self, throttle_ms: int) -> list[P]:
        """The fetch is over; returns what it asked for."""
        asked, self.asked, self._pause_s = self.asked or [], None, 0.0
        self._throttled_s = throttle_ms / 1000
        return asked

    def failed(self, now: float) -> list[P]:
        """The connection is of no use; returns what its fetch asked for."""
        asked, self.asked, self._is_opening = self.asked or [], None, False
        self.retry_at = now + self._pause_s
        self._pause_s = min(max(2 * self._pause_s, PAUSE_MIN_S), PAUSE_MAX_S)
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        return asked

    def close(self, now: float) -> list[P]:
        """Close it for good; returns what its fetch asked for."""
        self._is_closed = True
        return self.failed(now)


class BrokerLinks(Generic[P]):
    """Both connections to a broker; the second is opened when it is first needed."""

    def __init__(self, place: Broker, login: Login | None) -> None:
        self.place = place
        self.main: Link[P] = Link(place, login)
        self.side: Link[P] = Link(place, login)

    def __iter__(self) -> Iterator[Link[P]]:
        yield self.main
        yield self.side

    def free(self, now: float) -> Link[P] | None:
        """The link for a fetch, which may have to be opened; None: wait for the fetch under way."""
        if self.main.asked is None:
            return self.main
        if self.main.waits_until - now <= SIDE_WORTH_S or self.side.asked is not None:
            return None
        return self.side

    def wait_s(self, link: Link[P], now: float, most: float) -> float:
        """How long a fetch over `link` may wait, if it may wait for `most`."""
        if link is self.side:
            return min(most, SIDE_WAIT_S, max(self.main.waits_until - now, 0.0))
        if self.side.asked is not None:
            return min(most, max(self.side.waits_until - now, 0.0) + TOGETHER_S)
        return most
