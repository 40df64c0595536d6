"""Adapts Faust's application and process to this service, and says why each part differs.

- `App` refuses to go on after an error of ours, and hands over at SIGTERM: Faust does not call the
  revoke hook then.
- `WorkerProcess` starts the clock of the shutdown at the signal, even if it is still starting. It
  takes SIGHUP, the end of its terminal, like SIGTERM.
- `ConsumerOnly` leaves out Faust's producer, which nothing uses: `ReplyProducer` sends replies.
- `NoTables` leaves out the second that Faust waits at each start for its own tables to register.
- `_settings` says which of Faust's features are off or bounded.
`transport.py` overrides the consumer, below the application.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

import faust
from faust.tables.manager import TableManager
from mode import CrashingSupervisor

from ..config import Settings
from . import transport
from .group_consumer import GroupConsumer, TopicPartition
from .login import login as kafka_login
from .query_reader import QueryChannel

log = logging.getLogger(__name__)


class Ownership(Protocol):
    """The object that the hooks of Faust's app and consumer call: `worker.rebalance.Rebalancer`."""

    async def open(self, consumer: GroupConsumer) -> dict[TopicPartition, int]: ...
    async def hand_over(self, consumer: GroupConsumer) -> bool: ...
    async def shut_down(self, consumer: GroupConsumer, *, write_out: bool) -> None: ...


class ConsumerOnly(faust.App.BootStrategy):  # type: ignore[misc]
    """See the module."""

    enable_kafka_producer = False


class NoTables(TableManager):  # type: ignore[misc]
    """Like Faust's own, but it does not sleep for a second first."""

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class App(faust.App):  # type: ignore[misc]
    """See the module. The consumer finds `partitions`, `rebalancer` and `instance_id` here.

    `instance_id`: the worker's name in the group, or empty. `partitions` is
    `worker.partitions.Partitions`, which this package must not import.
    """

    BootStrategy = ConsumerOnly

    fatal: Exception | None = None
    _last_resort: threading.Timer | None = None

    def __init__(
        self,
        settings: Settings,
        instance_id: str,
        partitions: Any,
        rebalancer: Ownership,
        cache_dir: Path,
    ) -> None:
        hosts = settings.kafka_bootstrap.replace(",", ";")
        super().__init__(
            settings.kafka_group,
            broker=f"{transport.register()}://{hosts}",
            **_settings(settings, instance_id, cache_dir),
        )
        self.instance_id = instance_id
        self.read_states_settings = settings
        self.partitions = partitions
        self.rebalancer = rebalancer
        self.updates, queries = (
            self.topic(name, acks=False, schema=transport.BatchSchema(), internal=False)
            for name in (settings.updates_topic, settings.queries_topic)
        )
        self.topics.add(queries)  # so that their partitions are assigned with those of updates
        self.query_channel = QueryChannel(self)

    def refuse(self, exc: Exception) -> None:
        """Stop the worker over an error that a person must look at; its text says what to do."""
        if self.fatal is None:
            self.fatal = exc
            log.critical("%s", exc)
            os.kill(os.getpid(), signal.SIGTERM)

    def end_in_time(self) -> None:
        """Start the clock: the process ends after SHUTDOWN_TIMEOUT_S, whatever state it is in."""
        if self._last_resort is None:
            self._last_resort = threading.Timer(
                self.read_states_settings.shutdown_timeout_s, _give_up
            )
            self._last_resort.daemon = True
            self._last_resort.start()

    async def on_stop(self) -> None:
        self.end_in_time()
        await self.rebalancer.shut_down(self.consumer, write_out=self.fatal is None)
        await super().on_stop()


def _give_up() -> None:
    print(
        "read-states: shutdown took too long, ending now; nothing is lost, the log is replayed",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _settings(settings: Settings, instance_id: str, cache_dir: Path) -> dict[str, Any]:
    identity: dict[str, Any] = {}
    if instance_id:
        # fixed: a changed URL would make a static member look like another one
        identity["canonical_url"] = f"http://{instance_id}:6066"
    return {
        "autodiscover": False,
        "broker_credentials": credentials(settings),
        "broker_heartbeat_interval": 1.0,
        "broker_max_poll_records": 2000,
        "broker_session_timeout": settings.session_timeout_s,
        "consumer_auto_offset_reset": "earliest",
        "datadir": str(cache_dir / "faust"),  # Faust needs a folder and keeps nothing in it
        "agent_supervisor": CrashingSupervisor,  # a bug stops the worker and loses no batch
        "store": "memory://",
        "TableManager": NoTables,
        "stream_buffer_maxsize": 16,  # batches
        "stream_wait_empty": False,
        "table_standby_replicas": 1,  # selects the copartitioning, sticky assignor
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        **identity,
    }


def credentials(settings: Settings) -> Any:
    """KAFKA_CONFIG's login as Faust's consumer takes it; None for a plain connection."""
    login = kafka_login(settings)
    if login is None or not login.mechanism:
        return faust.SSLCredentials(login.tls) if login else None
    return faust.SASLCredentials(
        mechanism=login.mechanism,
        username=login.username,
        password=login.password,
        ssl_context=login.tls,
    )


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
