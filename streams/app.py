"""The Faust application: the picture of the service, in code.

read-states.updates ─► agents ─► Partition.take ─► run ─► fold ─► table ─► WriteBehind ─► Cassandra
                                   │ not resident: park ─► Loader ─► Cassandra │
                                   │ not applicable: DeadLetterProducer        │
                                        commit ◄── watermark ◄── written ◄─────┘
read-states.queries ─► QueryReader ─► agents ─► QueryIntake ─► WaitingQueries.ask ─► table ─┐
    replies ◄── ReplyProducer ◄── QueryIntake: encode, refuse what is late or too large ◄───┘
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import uvloop

from . import agents, logs, metrics
from .cassandra.store import Store
from .config import Settings
from .errors import ReadStatesError
from .kafka import topics
from .kafka.broker_clocks import BrokerClocks
from .kafka.dead_letter_producer import DeadLetterProducer
from .kafka.delivery import Delivery
from .kafka.faust_app import App, WorkerProcess
from .kafka.reply_producer import ReplyProducer
from .worker.http import listen
from .worker.partitions import Partitions
from .worker.rebalance import Rebalancer
from .worker.service import WorkerService
from .worker.tables import Tables, own_cache_dir


def build(settings: Settings) -> App:
    """A worker's app, checked against Kafka and Cassandra and ready to run.

    Raises TopicError, EpochError, StoreError, ConfigError: all mean "refuse to start".
    """
    # Check everything that must be right before anything starts; first what needs no server.
    cache_dir = own_cache_dir(settings)
    listening = listen(settings.http_host, settings.http_port)
    topic = topics.check(settings)
    store = Store(settings)
    store.prepare()
    epoch = store.claim_epoch(settings.updates_topic, *topic)
    metrics.describe_worker(settings, topic.partitions)

    # Make the producers of replies and dead letters.
    delivery = Delivery(settings)
    replies = ReplyProducer(settings, delivery)
    dead_letters = DeadLetterProducer(settings, delivery)

    # Make the partitions, their tables, and the rebalancer that opens and hands them over.
    clocks = BrokerClocks(settings, delivery)
    clocks.measure_first(topic.partitions)
    partitions = Partitions(settings, store, replies, dead_letters, clock_ahead_ms=clocks.ahead_ms)
    tables = Tables(settings, cache_dir, topic.topic_id.bytes, epoch.epoch)
    rebalancer = Rebalancer(partitions, tables, epoch)

    # Make Faust, its consumer of both topics, and the two agents, which feed the partitions.
    app = App(settings, partitions, rebalancer, cache_dir)
    store.broken = app.refuse
    agents.define(app, partitions, app.updates, app.query_channel)
    app.service(
        WorkerService(
            partitions,
            tables,
            rebalancer,
            store,
            delivery,
            clocks,
            lambda: app.consumer,
            listening,
        )
    )
    return app


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    """End before Faust's handler of SIGTERM is there: nothing is owned yet, nothing to hand over.

    Process 1 of a container ignores a signal without a handler; and to wait until a server that is
    away answers, or does not, would take longer than an orchestrator waits before it kills.
    """
    print("read-states: SIGTERM before the worker had started", file=sys.stderr, flush=True)
    os._exit(0)


def run(settings: Settings, loglevel: str, log_format: str) -> int:
    """Run a worker until a signal or an error; returns the exit status."""
    signal.signal(signal.SIGTERM, _end_at_once)
    uvloop.install()  # halves the cost of an iteration; must be first, because a loop is kept
    try:
        app = build(settings)
    except ReadStatesError as exc:
        print(f"read-states: {exc}", file=sys.stderr)
        return 1
    logs.set_up(log_format, loglevel)  # after the error, which is clearer than the driver's log
    return WorkerProcess(app, loglevel).run()
