"""Virtual time, and event loops that run on it.

One `Clock` holds all future events in order of time; events at the same time keep the order in
which they were scheduled. Each worker has its own `Loop`, so that it can be killed between any two
steps, or stopped for a while, and none of its code goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
STEP_S = 2e-5  # what one step of a worker takes


class Killed(BaseException):
    """A worker dies in the middle of a function; no handler of its own may catch this."""


class Clock:
    """The time, in seconds, and what is to happen next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        # time, order, and a Handle of the loop, or a function where there is no loop
        self._due: list[tuple[float, int, Loop | None, Any]] = []
        self._count = itertools.count()
        self._running: Loop | None = None

    def enter(self, loop: Loop | None) -> None:
        """Make this the loop that asyncio knows of; it stays so until another one's turn."""
        if self._running is not loop:
            self._running = loop
            asyncio._set_running_loop(loop)

    def push(self, when: float, loop: Loop | None, what: Any) -> None:
        heapq.heappush(self._due, (when, next(self._count), loop, what))

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        """Something that happens outside of the workers."""
        self.push(self.now + delay_s, None, what)

    def step(self) -> None:
        """The next thing happens."""
        when, _, loop, what = heapq.heappop(self._due)
        if when > self.now:
            self.now = when
        if loop is None:
            what()
        elif loop.frozen_until > self.now:
            self.push(loop.frozen_until, loop, what)
        elif not loop.dead and not what.cancelled():
            self.now += STEP_S
            self.steps += 1
            loop.step(what)


class Loop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, on virtual time and without input or output."""

    def __init__(
        self,
        clock: Clock,
        failed: Callable[[str, BaseException | None], None],
        died: Callable[[], None],
        check: Callable[[], None],
        delay: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._delay = delay
        self._failed = failed
        self._check = check
        self._died = died
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.dead = False
        self.frozen_until = 0.0
        self.steps_left = -1  # steps until it is killed; negative: it is not

    def step(self, handle: asyncio.Handle) -> None:
        self._clock.enter(self)
        handle._run()
        if not self.dead:
            self._check()
        if self.steps_left == 0:
            self.dead = True
        self.steps_left -= 1
        if self.dead:
            self._died()

    def kill(self) -> None:
        """Nothing of it runs any more. Its coroutines end here, before the collector meets them."""
        self.dead = True
        for task in list(self._tasks):
            # asyncio's own switch, without a type: else it logs each task that did not end
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.get_coro().close()

    # -- what asyncio calls -------------------------------------------------------------------

    def time(self) -> float:
        return self._clock.now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._clock.push(self._clock.now, self, handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._clock.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._clock.push(when, self, handle)
        return handle

    def run_in_executor(
        self, _executor: Any, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """The function runs all at once, after a while, unless the worker has died by then."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if self.frozen_until > self._clock.now:
                self._clock.push(self.frozen_until, None, run)
            elif not self.dead:
                try:
                    self.call_soon(future.set_result, func(*args))
                except Exception as exc:  # noqa: BLE001 (whoever waits for the result raises it)
                    self.call_soon(future.set_exception, exc)

        self._clock.later(self._delay(), run)
        return future

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            exc = context.get("exception")
            self._failed(f"{context.get('message')}: {exc!r}", exc)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.dead

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays where it is and does nothing."""
