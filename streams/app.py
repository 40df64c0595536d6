"""Builds a worker's Faust application. The picture shows its parts and what flows between them.

read-states.updates ─► Reader ─► agents ─► Partition ─► fold ─► table ─► WriteBehind ─► Cassandra
                                   │ not resident: park ─► Loader ─► Cassandra  │
                                   │ not applicable: DeadLetterProducer         │
                          Group: commit ◄── watermark ◄── written ◄─────────────┘
read-states.queries ─► Reader ─► QueryIntake.answer_now, in the reader's thread ────────┐
                          │ needs more than the table: agents ─► QueryIntake.take_queries ─► table
    replies ◄── ReplyProducer ◄── QueryIntake: encode the reply, or send an error
With CHANGES=on: Partition ─► ChangeFeed ─► ChangeProducer ─► read-states.changes
read-states.rollout ─► Follower ─► ReplyProducer: withhold some replies while a candidate runs
Group: assigned, revoked, lost ─► Rebalancer: open, hand over or close each partition separately
                              open: Tables ─► verify the table file, or rebuild it after a crash

To park an update is to hold it back until its user's rows are loaded. The watermark is the offset
below which all updates are durable. A candidate is a group of workers of another version, which
runs beside the live workers.
"""

from __future__ import annotations

from . import agents, metrics
from .config import Settings
from .kafka.broker_clocks import BrokerClocks
from .kafka.change_producer import ChangeProducer
from .kafka.dead_letter_producer import DeadLetterProducer
from .kafka.delivery import Delivery
from .kafka.faust_app import App
from .kafka.group import Group
from .kafka.no_dead_letters import NoDeadLetters
from .kafka.prober import Prober
from .kafka.reply_producer import ReplyProducer
from .rollout.service import rollout_of
from .worker.instance import Instance, instance_of
from .worker.partitions import Partitions
from .worker.probe import Probe
from .worker.readers import reader_of_queries, reader_of_updates, reader_to_retell
from .worker.rebalance import Rebalancer
from .worker.service import WorkerService
from .worker.start_checks import check, watch_of
from .worker.tables import Tables


def build(settings: Settings) -> tuple[App, Instance]:
    """Check Kafka and Cassandra, then build the app and choose the worker's name in the group.

    Raises TopicError, EpochError, StoreError or ConfigError if the worker must not start.
    """
    checked = check(settings)
    cache_dir, listening, cluster, topic, cassandra, epoch, run = checked
    instance = instance_of(settings, cache_dir)
    metrics.describe_worker(settings, topic.partitions)

    # These send replies, dead letters and the change feed to Kafka.
    delivery = Delivery(settings)
    replies = ReplyProducer(settings, delivery)
    dead_letters = NoDeadLetters() if run else DeadLetterProducer(settings, delivery)
    changes = ChangeProducer(settings, delivery) if settings.tells_changes else None
    clocks = BrokerClocks(settings, delivery)
    clocks.measure_first(topic.partitions)

    # These are the partitions, their tables, and the Faust application with its two agents.
    partitions = Partitions(
        settings, cassandra, replies, dead_letters, changes=changes, clock_ahead_ms=clocks.ahead_ms
    )
    tables = Tables(settings, cache_dir, topic.topic_id.bytes, epoch.epoch, run)
    app = App(settings, cache_dir)
    agents.define(app, partitions)
    cassandra.broken = app.refuse

    # These read updates and queries from the partitions that the group assigns.
    updates = reader_of_updates(settings, app, partitions, cluster)
    queries = reader_of_queries(settings, app, partitions, cluster)
    if partitions.feed is not None:
        partitions.feed.retelling = reader_to_retell(settings, app, partitions.feed, cluster)
    member = Group(settings, instance.name, app.refuse)
    rebalancer = Rebalancer(partitions, tables, epoch, member, updates, queries, app.refuse, run)
    app.shut_down = rebalancer.shut_down

    # While a candidate runs, the rollout decides which replies this worker withholds.
    owned, name = partitions.owned, instance.said
    rollout = rollout_of(settings, replies, delivery, owned, name, run, app.refuse)

    # The probe sends queries as a client does. The watch repeats the checks made at start-up.
    probe = Probe(partitions, Prober(settings, topic.partitions, clocks.note_probe))
    readings = {settings.updates_topic: updates, settings.queries_topic: queries}
    watch = watch_of(settings, checked, readings, owned, delivery, probe, app)
    app.service(
        WorkerService(
            partitions,
            tables,
            rebalancer,
            cassandra,
            delivery,
            clocks,
            member,
            updates,
            queries,
            probe,
            watch,
            listening,
            (delivery.pulse, member.pulse, *updates.pulses, *queries.pulses, *rollout.pulses),
            app.refuse,
        )
    )
    app.service(rollout)
    return app, instance
