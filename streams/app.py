"""The Faust application: the picture of the service, in code.

read-states.updates ─► take_updates ─► Partition.take ─► run ─► table ─► WriteBehind ─► Cassandra
                                          │ not resident: park ─► Loader ─► Cassandra    │
                                                 commit ◄── watermark ◄── written ◄──────┘
read-states.queries ─► QueryReader ─► take_queries ─► Partition.ask ─► table ─► Output ─► replies
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import faust
import uvloop
from faust.tables.manager import TableManager
from faust.types import TP
from mode import CrashingSupervisor, Service
from readstates.cache.tablefile import default_cache_dir, own_folder
from readstates.streams import agents, logs, metrics, security, topics, transport
from readstates.streams.cassandra import Store
from readstates.streams.config import Settings
from readstates.streams.errors import ConfigError, ReadStatesError
from readstates.streams.http import Endpoints, listen
from readstates.streams.query_reader import QueryChannel
from readstates.streams.rebalance import Handover
from readstates.streams.replies import Output
from readstates.streams.turns import Turns

log = logging.getLogger(__name__)

GAUGES_S = 1.0
STUCK_S = 60.0  # liveness: lag without progress for this long
GC_THRESHOLDS = (2_000, 20, 20)  # what lives here is short-lived or frozen; see gc.set_threshold
GIL_SWITCH_S = 0.0005  # a query must not wait 5 ms for the interpreter while a thread decodes


class ConsumerOnly(faust.App.BootStrategy):  # type: ignore[misc]
    """Faust's producer is not started: replies go out through `Output`."""

    enable_kafka_producer = False


class NoTables(TableManager):  # type: ignore[misc]
    """Faust waits a second at each start for tables of its own to register: there are none."""

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class App(faust.App):  # type: ignore[misc]
    """Faust's app with our partitions; refuses to go on after an error of ours."""

    BootStrategy = ConsumerOnly

    partitions: Handover
    read_states_settings: Settings
    query_channel: QueryChannel

    fatal: Exception | None = None
    _last_resort: threading.Timer | None = None

    def refuse(self, exc: Exception) -> None:
        """Stop the worker over an error that a person must look at; its text says what to do."""
        if self.fatal is None:
            self.fatal = exc
            log.critical("%s", exc)
            os.kill(os.getpid(), signal.SIGTERM)

    def end_in_time(self) -> None:
        """From now on the process has SHUTDOWN_TIMEOUT_S, whatever state it is in."""
        if self._last_resort is None:
            self._last_resort = threading.Timer(
                self.read_states_settings.shutdown_timeout_s, _give_up
            )
            self._last_resort.daemon = True
            self._last_resort.start()

    async def on_stop(self) -> None:
        """SIGTERM: Faust does not call the revoke hook then, so hand over here."""
        self.end_in_time()
        if self.fatal is None:
            await self.partitions.write_out_first()
        self.flow_control.suspend()
        self.consumer.stop_flow()
        self.consumer.queries.stop_reading()
        await self.partitions.hand_over(self.consumer, shutdown=True)
        self.consumer.queries.close()
        await super().on_stop()


def calm_collector() -> None:
    """What is there now lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _give_up() -> None:
    print(
        "read-states: shutdown took too long, ending now; nothing is lost, the log is replayed",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def build(settings: Settings) -> App:
    """A worker's app, checked against Kafka and Cassandra and ready to run.

    Raises TopicError, EpochError, StoreError, ConfigError: all mean "refuse to start".
    """
    listening = listen(settings.http_host, settings.http_port)
    topic = topics.check(settings)
    store = Store(settings)
    store.prepare()
    epoch = store.claim_epoch(settings.updates_topic, topic.topic_id, topic.partitions)
    cache_dir = _cache_dir(settings)
    hosts = settings.kafka_bootstrap.replace(",", ";")
    app = App(
        settings.kafka_group,
        broker=f"{transport.register()}://{hosts}",
        **_faust_settings(settings, cache_dir),
    )
    output = Output(settings)
    partitions = Handover(settings, store, output, epoch)
    partitions.topic_id = topic.topic_id.bytes
    partitions.partition_count = topic.partitions
    partitions.cache_dir = cache_dir
    metrics.describe_worker(settings, topic.partitions)
    app.read_states_settings = settings
    app.partitions = partitions
    store.broken = app.refuse

    updates, queries = (
        app.topic(name, acks=False, schema=transport.BatchSchema(), internal=False)
        for name in (settings.updates_topic, settings.queries_topic)
    )
    app.topics.add(queries)  # so that their partitions are assigned with those of updates
    app.query_channel = QueryChannel(app)
    agents.define(app, partitions, updates, app.query_channel)
    duties = Duties(app, store, output, listening)
    app.service(duties)
    return app


def _cache_dir(settings: Settings) -> Path:
    path = Path(settings.cache_dir) if settings.cache_dir else default_cache_dir()
    try:
        return own_folder(path)
    except OSError as exc:
        raise ConfigError(f"CACHE_DIR: {path} cannot be used: {exc.strerror}") from exc


def credentials(settings: Settings) -> Any:
    """KAFKA_CONFIG's login as Faust's consumer takes it; None for a plain connection."""
    login = security.login(settings)
    if login is None or not login.mechanism:
        return faust.SSLCredentials(login.tls) if login else None
    return faust.SASLCredentials(
        mechanism=login.mechanism,
        username=login.username,
        password=login.password,
        ssl_context=login.tls,
    )


def _faust_settings(settings: Settings, cache_dir: Path) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if settings.instance_id:
        # fixed: a changed URL would make a static member look like another one
        more["canonical_url"] = f"http://{settings.instance_id}:6066"
    return {
        "autodiscover": False,
        "broker_credentials": credentials(settings),
        "broker_heartbeat_interval": 1.0,
        "broker_max_poll_records": 2000,
        "broker_session_timeout": settings.session_timeout_s,
        "consumer_auto_offset_reset": "earliest",
        "datadir": str(cache_dir / "faust"),  # it wants one and keeps nothing there
        "agent_supervisor": CrashingSupervisor,  # a bug stops the worker, it does not lose a batch
        "store": "memory://",
        "TableManager": NoTables,
        "stream_buffer_maxsize": 16,  # batches
        "stream_wait_empty": False,
        "table_standby_replicas": 1,  # selects the copartitioning, sticky assignor
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        **more,
    }


class Worker(faust.Worker):  # type: ignore[misc]
    """Faust's worker; a signal starts the clock of the shutdown even while it is starting."""

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        self.app.end_in_time()
        super()._schedule_shutdown(signal)


class Shown:
    """A partition's series, and what they show."""

    def __init__(self, number: int, updates_topic: str, queries_topic: str) -> None:
        self.series = metrics.OfPartition(number, updates_topic, queries_topic)
        self.state: tuple[int, ...] = ()
        self.evictions = 0


class Duties(Service):  # type: ignore[misc]
    """What runs beside the agents: the partitions' turns, write-behind, commits, gauges, HTTP."""

    def __init__(self, app: App, store: Store, output: Output, listening: socket.socket) -> None:
        super().__init__()
        self.listening = listening
        self.app = app
        self.partitions = app.partitions
        self.settings = app.read_states_settings
        self.store = store
        self.output = output
        self.turns = Turns(app.partitions, store, lambda: app.consumer)
        self._progress: tuple[int, float] = (-1, time.monotonic())
        self._shown: dict[int, Shown] = {}  # by incarnation

    def on_init_dependencies(self) -> list[Any]:
        return [Endpoints(self.listening, self.health, self.ready)]

    def health(self) -> tuple[bool, str]:
        """The process lives, and is not stuck before records it could apply."""
        position, since = self._progress
        stuck_s = time.monotonic() - since
        if stuck_s > STUCK_S:
            return False, f"records wait and nothing moved for {stuck_s:.0f} s (at {position})"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        return self.partitions.ready

    async def on_start(self) -> None:
        sys.setswitchinterval(GIL_SWITCH_S)
        calm_collector()
        metrics.CollectorPauses()  # from here on: the start's own collection is nobody's pause

    async def on_stop(self) -> None:
        self.output.close()
        self.store.close()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        await self.turns.fold()

    @Service.task  # type: ignore[untyped-decorator]
    async def _write_behind(self) -> None:
        await self.turns.write_out()

    @Service.task  # type: ignore[untyped-decorator]
    async def _deadlines(self) -> None:
        await self.turns.expire()

    @Service.task  # type: ignore[untyped-decorator]
    async def _commits(self) -> None:
        await self.turns.commit()

    @Service.task  # type: ignore[untyped-decorator]
    async def _gauges(self) -> None:
        while not self.should_stop:
            self._measure()
            await self.sleep(GAUGES_S)

    def _measure(self) -> None:
        applied, waiting = 0, False
        updates, queries = self.settings.updates_topic, self.settings.queries_topic
        shown: dict[int, Shown] = {}
        consumer = self.app.consumer
        for number, owned in self.partitions.owned.items():
            partition, table = owned.partition, owned.partition.table
            life = partition.incarnation
            of = shown[life] = self._shown.get(life) or Shown(number, updates, queries)
            applied += partition.position
            lag = behind(consumer._thread.end(TP(updates, number)), partition.position)
            queries_lag = behind(consumer.queries.end(number), owned.query_position)
            waiting |= lag > 0 and not partition.held_back
            state = (
                lag,
                queries_lag,
                partition.position,
                partition.parked_updates,
                partition.inbox_bytes,
                len(partition.watermark),
                table.resident_users,
                table.resident_states,
                table.evictions,
            )
            if of.state == state and not len(partition.watermark):
                continue  # of many partitions most have nothing new
            counts, series = partition.counts, of.series
            series.applied.inc(counts.applied)
            for reason, skipped in metrics.SKIPPED.items():
                skipped.inc(getattr(counts, reason))
            counts.applied = counts.replayed = counts.stale = counts.duplicate = 0
            series.resident_states.set(table.resident_states)
            series.resident_users.set(table.resident_users)
            series.dirty_states.set(table.dirty_states)
            series.parked_updates.set(partition.parked_updates)
            series.inbox_bytes.set(partition.inbox_bytes)
            series.parked_bytes.set(partition.parked_bytes)
            series.letters_bytes.set(partition.letters_bytes)
            metrics.EVICTIONS.inc(table.evictions - of.evictions)
            of.evictions = table.evictions
            series.durability_lag.set(partition.position - partition.watermark_position())
            series.durability_lag_s.set(partition.oldest_change_s(self.partitions.now_ms()))
            series.updates_lag.set(lag)
            series.queries_lag.set(queries_lag)
            of.state = state
        self._shown = shown
        metrics.QUERIES_WAITING.set(self.partitions.waiting_queries)
        if applied != self._progress[0] or not waiting:
            self._progress = (applied, time.monotonic())


def behind(end: int | None, position: int) -> int:
    """Records between a position and the log's end; 0 while the end is not known."""
    return 0 if end is None else max(0, end - position)


def run(settings: Settings, loglevel: str, log_format: str) -> int:
    """Run a worker until a signal or an error; returns the exit status."""
    uvloop.install()  # a turn of the loop costs half; first, for whoever asks for a loop keeps it
    try:
        app = build(settings)
    except ReadStatesError as exc:
        print(f"read-states: {exc}", file=sys.stderr)
        return 1
    logs.set_up(log_format, loglevel)  # not before: the error says it better than the driver does
    if app.partitions.store.commitlog_sync == "periodic":
        log.warning(
            "cassandra_acknowledges_unsynced commitlog_sync=periodic: what Cassandra acknowledged "
            "in its last moments is lost where all nodes that have a row are killed at once; set "
            "commitlog_sync to group in cassandra.yaml"
        )
    worker = Worker(
        app, loglevel=loglevel, override_logging=False, redirect_stdouts=False, quiet=True
    )
    worker.spinner = None  # it would write cursor codes among the log lines
    try:
        worker.execute_from_commandline()
    except SystemExit as exc:
        if exc.code:
            return 1
    return 1 if app.fatal or app.crashed else 0
