"""Adapts Faust's application and process to this service, and says why each part differs.

Faust has the worker's life: its services, its agents, the signals. It reads nothing from Kafka:
`group.py` and `reader.py` do, and hand what they read to the agents' channels.

- `App` starts neither Faust's consumer nor its producer, conductor and tables; it refuses to go on
  after an error of ours, and hands the partitions over before anything else stops. It also refuses
  to go on if any thread dies, or if a call of the event loop fails: Python would only print that.
- `PollChannel` is an agent's queue. One event carries everything queued.
- `WorkerProcess` starts the clock of the shutdown at the signal, even if it is still starting. It
  takes SIGHUP, the end of its terminal, like SIGTERM.
- `_settings` says which of Faust's features are off or bounded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import faust
from mode import CrashingSupervisor

from ..config import Settings
from ..errors import EndedError, ReadStatesError
from ..partition.batch import Poll

log = logging.getLogger(__name__)

# Faust makes a transport for every application, and this one is never started. It is the driver of
# confluent-kafka, which the worker uses anyway; its address is not used.
UNUSED_BROKER = "confluent://localhost"


class WithoutKafka(faust.App.BootStrategy):  # type: ignore[misc]
    """See the module."""

    enable_kafka = False


class PollChannel(faust.Channel):  # type: ignore[misc]
    """The queue from a reader to an agent; one event carries everything queued.

    While a backlog of updates is being folded, the agent runs only now and then. The reader limits
    what waits.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: deque[Poll] = deque()

    def put_now(self, poll: Poll) -> None:
        """Hand a poll to the agent, which empties the queue."""
        self._waiting.append(poll)
        if len(self._waiting) == 1:
            for subscriber in self._subscribers:
                subscriber.queue.put_nowait(self._waiting)


class App(faust.App):  # type: ignore[misc]
    """See the module. `shut_down` hands the partitions over; it is set before the app starts."""

    BootStrategy = WithoutKafka

    fatal: Exception | None = None
    shut_down: Callable[..., Awaitable[None]]
    _last_resort: threading.Timer | None = None

    def __init__(self, settings: Settings, cache_dir: Path) -> None:
        super().__init__(settings.kafka_group, broker=UNUSED_BROKER, **_settings(cache_dir))
        self.read_states_settings = settings
        self.updates, self.queries = PollChannel(self), PollChannel(self)

    def refuse(self, exc: Exception) -> None:
        """Stop the worker over an error that a person must look at; its text says what to do."""
        if self.fatal is None:
            self.fatal = exc
            is_bug = not isinstance(exc, ReadStatesError)
            log.critical("%s", exc, exc_info=exc if is_bug else None)
            os.kill(os.getpid(), signal.SIGTERM)

    def thread_died(self, died: threading.ExceptHookArgs) -> None:
        """For `threading.excepthook`: a thread of the worker, or of a library, has ended."""
        name = "?" if died.thread is None else died.thread.name
        self._has_failed(f"the thread {name} has died: {died.exc_value!r}", died.exc_value)

    def _call_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """For the event loop: a callback has raised an error, or a task that nobody waits for.

        What fails at a connection ends only that connection.
        """
        error = context.get("exception")
        if error is None or "transport" in context or "protocol" in context:
            loop.default_exception_handler(context)
        else:
            self._has_failed(f"{context.get('message')}: {error!r}", error)

    def _has_failed(self, what: str, error: BaseException | None) -> None:
        log.critical("ended_unexpectedly what=%r", what, exc_info=error)
        if not self.should_stop:
            self.refuse(EndedError(what))

    def end_in_time(self) -> None:
        """Start the clock: the process ends after SHUTDOWN_TIMEOUT_S, whatever state it is in."""
        if self._last_resort is None:
            self._last_resort = threading.Timer(
                self.read_states_settings.shutdown_timeout_s, _give_up
            )
            self._last_resort.daemon = True
            self._last_resort.start()

    async def on_start(self) -> None:
        """Do no more than is needed without a consumer: Faust would make one here."""
        asyncio.get_running_loop().set_exception_handler(self._call_failed)
        self.finalize()

    async def _wait_for_table_recovery_completed(self) -> bool:
        """Faust's tables are not started, so nothing would end this wait. False: go on."""
        return False

    async def on_stop(self) -> None:
        self.end_in_time()
        await self.shut_down(write_out=self.fatal is None)
        await super().on_stop()


def _give_up() -> None:
    print(
        "read-states: shutdown took too long, ending now; nothing is lost, the log is replayed",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _settings(cache_dir: Path) -> dict[str, Any]:
    return {
        "agent_supervisor": CrashingSupervisor,  # a bug stops the worker and loses no batch
        "autodiscover": False,
        "datadir": str(cache_dir / "faust"),  # Faust needs a folder and keeps nothing in it
        "store": "memory://",
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
    }


class WorkerProcess(faust.Worker):  # type: ignore[misc]
    """See the module. Our own logging has been set up, so Faust's is left out."""

    def __init__(self, app: App, loglevel: str) -> None:
        super().__init__(
            app, loglevel=loglevel, override_logging=False, redirect_stdouts=False, quiet=True
        )
        self.spinner = None  # it would write cursor codes among the log lines

    def install_signal_handlers(self) -> None:
        super().install_signal_handlers()
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` sets it
            self.loop.add_signal_handler(signal.SIGHUP, self._schedule_shutdown, signal.SIGHUP)

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        self.app.end_in_time()
        super()._schedule_shutdown(number)

    def run(self) -> int:
        """Run until a signal or an error; returns the exit status."""
        status = 0
        try:
            self.execute_from_commandline()
        except SystemExit as exc:
            status = 1 if exc.code else 0
        if self.app.fatal:
            return int(getattr(self.app.fatal, "exit_status", 1))
        return 1 if self.app.crashed else status
