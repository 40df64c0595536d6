"""Requests under way: the driver's threads finish them, and the event loop answers them.

A request begins on the loop, collects its pages, and is answered once: with its result, with None
after an error, or with None after `timeout_s`, whichever comes first. Answers of many requests are
handed to the loop together and given out in slices, so that other work runs in between.

This module knows only one thing of the driver, the form of a request's future: `PagedFuture`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import StoreError
from ..priorities import DELIVERY_SLICE_S
from .loaded_rows import add_rows

log = logging.getLogger(__name__)


class PagedFuture(Protocol):
    """The driver's future of a request that it has sent."""

    has_more_pages: bool

    def start_fetching_next_page(self) -> None: ...

    def clear_callbacks(self) -> None: ...

    def add_callbacks(
        self, callback: Any, errback: Any, *, callback_args: Any, errback_args: Any
    ) -> None: ...


@dataclass(slots=True, eq=False)
class Request:
    """A request under way: `done` gets `result`, or None after an error. Compared by identity.

    With `rows_max`, no further page is fetched once there are so many rows; then `done` gets `{}`.
    """

    done: Callable[[Any], None]
    what: str
    result: Any
    rows_max: float = math.inf
    rows: int = 0  # that have come
    error: Exception | None = None
    add: Callable[[Any, Any], None] = add_rows  # adds the rows of a page to `result`


class Requests:
    """See the module. `not_applied` is called if a `done` raised: the worker must then stop.

    `failed` is called on the loop with each error that a request ends with.
    """

    def __init__(
        self,
        timeout_s: float,
        not_applied: Callable[[StoreError], None],
        failed: Callable[[Exception], None] = lambda _exc: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._not_applied = not_applied
        self._noted_failure = failed
        # Insertion-ordered, hence ordered by deadline: every request has the same timeout.
        self._deadlines: dict[Request, float] = {}
        self._answered: deque[Request] = deque()
        self._delivering = False
        self._loop: asyncio.AbstractEventLoop

    def begin(self, request: Request) -> None:
        """On the loop: start the request's `timeout_s`."""
        self._loop = asyncio.get_running_loop()
        self._deadlines[request] = time.monotonic() + self._timeout_s

    def follow(self, request: Request, future: PagedFuture) -> None:
        """Take the request's pages, then its answer, from the driver."""
        about = (request, future)
        future.add_callbacks(self._page, self._failed, callback_args=about, errback_args=about)

    def _page(self, rows: Any, request: Request, future: PagedFuture) -> None:
        error: Exception | None = None
        try:
            if rows:
                request.add(rows, request.result)
                request.rows += len(rows)
            if future.has_more_pages:
                if request.rows < request.rows_max:
                    future.start_fetching_next_page()
                    return
                request.result = {}
        except Exception as exc:  # noqa: BLE001 (the driver would swallow it)
            error = exc
        future.clear_callbacks()  # they hold the future that holds them
        self.answer(request, error)

    def _failed(self, exc: Exception, request: Request, future: PagedFuture) -> None:
        future.clear_callbacks()
        self.answer(request, exc)

    def answer(self, request: Request, error: Exception | None) -> None:
        """On any thread: hand an answer to the loop. One wake-up serves many answers."""
        request.error = error
        self._answered.append(request)
        if not self._delivering and not self._loop.is_closed():
            self._delivering = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        end = time.monotonic() + DELIVERY_SLICE_S
        while self._answered:
            request = self._answered.popleft()
            if self._deadlines.pop(request, None) is None:  # it timed out: this answer is too late
                continue
            if request.error is not None:
                log.warning("cassandra_failed %s error=%.200s", request.what, request.error)
                self._noted_failure(request.error)
            try:
                request.done(None if request.error else request.result)
            except Exception as exc:
                log.exception("cassandra_answer_not_applied %s", request.what)
                self._not_applied(
                    StoreError(
                        f"Cassandra's answer to {request.what} could not be applied: {exc!r}. "
                        "The worker stops; nothing is lost. If a row was written by hand, fix it"
                    )
                )
            if time.monotonic() > end:
                break
        if self._answered and not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def expire(self) -> None:
        """On the loop: end the requests whose time is up; a late answer is dropped."""
        now = time.monotonic()
        for request, deadline in self._deadlines.items():
            if deadline > now:
                break
            self.answer(request, TimeoutError(f"no answer within {self._timeout_s} s"))
