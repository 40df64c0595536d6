"""The Faust application: the picture of the service, in code.

read-states.updates ─► Reader ─► agents ─► Partition ─► fold ─► table ─► WriteBehind ─► Cassandra
                                   │ not resident: park ─► Loader ─► Cassandra  │
                                   │ not applicable: DeadLetterProducer         │
                          Group: commit ◄── watermark ◄── written ◄─────────────┘
read-states.queries ─► Reader ─► QueryIntake.answer_now, in the reader's thread ────────┐
                          │ needs more than the table: agents ─► QueryIntake.take_queries ─► table
    replies ◄── ReplyProducer ◄── QueryIntake: encode, refuse what is late or too large
With CHANGES=on: Partition ─► ChangeFeed ─► ChangeProducer ─► read-states.changes
read-states.rollout ─► Follower: which replies ReplyProducer withholds while there is a candidate
Group: assigned, revoked, lost ─► Rebalancer: open, hand over, close each partition by itself
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from . import agents, metrics
from .cassandra.candidate_store import CandidateStore
from .cassandra.epochs import Log
from .cassandra.store import Store
from .config import Settings
from .kafka import topic_check
from .kafka.broker_clocks import BrokerClocks
from .kafka.change_producer import ChangeProducer
from .kafka.cluster import Cluster
from .kafka.dead_letter_producer import DeadLetterProducer
from .kafka.delivery import Delivery
from .kafka.faust_app import App
from .kafka.group import Group
from .kafka.no_dead_letters import NoDeadLetters
from .kafka.prober import Prober
from .kafka.reader import Reader
from .kafka.reading import QUERIES, UPDATES
from .kafka.reply_producer import ReplyProducer
from .kafka.topics import Topic
from .restore.history import claim, topic_epochs
from .rollout.beats import Beats
from .rollout.control import run_of
from .rollout.follower import Follower
from .rollout.service import RolloutService
from .worker.http import listen
from .worker.instance import Instance, instance_of
from .worker.partitions import Partitions
from .worker.probe import Probe
from .worker.rebalance import Rebalancer
from .worker.service import WorkerService
from .worker.tables import Tables, own_cache_dir
from .worker.watch import Watch


def build(settings: Settings) -> tuple[App, Instance]:
    """A worker's app, checked against Kafka and Cassandra and ready to run, and its name.

    Raises TopicError, EpochError, StoreError, ConfigError: all mean "refuse to start".
    """
    # Check everything that must be right before anything starts; first what needs no server.
    cache_dir = own_cache_dir(settings)
    listening = listen(settings.http_host, settings.http_port)
    cluster = Cluster()
    topic = topic_check.check(settings, cluster)
    run = run_of(settings) if settings.is_candidate else ""
    store, epoch = _database(settings, topic, run)
    instance = instance_of(settings, cache_dir)

    # Make the producers of replies and dead letters.
    delivery = Delivery(settings)
    replies = ReplyProducer(settings, delivery)
    dead_letters = NoDeadLetters() if run else DeadLetterProducer(settings, delivery)

    # Make the partitions and their tables, and the Faust application with its two agents.
    metrics.describe_worker(settings, topic.partitions)
    clocks = BrokerClocks(settings, delivery)
    clocks.measure_first(topic.partitions)
    changes = ChangeProducer(settings, delivery) if settings.tells_changes else None
    partitions = Partitions(
        settings, store, replies, dead_letters, changes=changes, clock_ahead_ms=clocks.ahead_ms
    )
    tables = Tables(settings, cache_dir, topic.topic_id.bytes, epoch.epoch, run)
    app = App(settings, cache_dir)
    store.broken = app.refuse
    agents.define(app, partitions)

    # Make the member of the group, the readers, and the rebalancer, which opens what is assigned.
    member = Group(settings, instance.name, app.refuse)
    updates, queries = _readers(settings, app, partitions, cluster)
    rebalancer = Rebalancer(partitions, tables, epoch, member, updates, queries, app.refuse, run)
    app.shut_down = rebalancer.shut_down
    rollout = _rollout(app, delivery, replies, partitions, instance.said, run)

    # The watch looks for changes of what was checked above; the probe asks as a client does.
    probe = Probe(partitions, Prober(settings, topic.partitions, clocks.note_probe))
    topics = topic_check.Topics(settings, topic)
    watch = _watch(app, topics, store, epoch, partitions, updates, queries, delivery, probe)
    app.service(
        WorkerService(
            partitions,
            tables,
            rebalancer,
            store,
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


def _watch(
    app: App,
    topics: topic_check.Topics,
    store: Store,
    epoch: Log,
    partitions: Partitions,
    updates: Reader,
    queries: Reader,
    delivery: Delivery,
    probe: Probe,
) -> Watch:
    """The watch, which tells the producers and the probe of topics that were made anew."""
    settings = partitions.settings

    def made_anew(name: str) -> None:
        delivery.topic_made_anew(name)
        probe.topic_made_anew(name)

    readings = {settings.updates_topic: updates, settings.queries_topic: queries}
    return Watch(
        settings,
        topics,
        store,
        epoch,
        readings,
        partitions.owned,
        app.refuse,
        made_anew,
        probe.found,
    )


def _database(settings: Settings, topic: Topic, run: str) -> tuple[Store, Log]:
    """The store, prepared, and the epoch. `run`: of a candidate; empty for a live worker."""
    with ThreadPoolExecutor(1) as beside:  # while the session with Cassandra begins
        in_kafka = beside.submit(topic_epochs, settings)
        store = CandidateStore(settings, run) if run else Store(settings)
        store.prepare()
        return store, claim(settings, store, topic, in_kafka.result)


def _rollout(
    app: App,
    delivery: Delivery,
    replies: ReplyProducer,
    partitions: Partitions,
    name: str,
    run: str,
) -> RolloutService:
    """Follows which role sends which replies; a candidate also says what it answers."""
    settings = partitions.settings
    follower = Follower(settings, replies, app.refuse, run)
    beats = Beats(settings, delivery, follower, partitions.owned, name) if run else None
    return RolloutService(follower, beats, app.refuse)


def _readers(
    settings: Settings, app: App, partitions: Partitions, cluster: Cluster
) -> tuple[Reader, Reader]:
    """The readers of updates and of queries, which hand them to the agents' channels.

    With a change feed, it gets a reader of updates of its own.
    """
    updates = Reader(
        settings,
        settings.updates_topic,
        UPDATES,
        app.updates.put_now,
        app.refuse,
        partitions.wants_updates,
        cluster=cluster,
    )
    queries = Reader(
        settings,
        settings.queries_topic,
        QUERIES,
        app.queries.put_now,
        app.refuse,
        partitions.wants_queries,
        partitions.queries.answer_now,
        cluster,
    )
    if partitions.feed is not None:
        partitions.feed.retelling = Reader(
            settings,
            settings.updates_topic,
            UPDATES,
            partitions.feed.retell,
            app.refuse,
            partitions.feed.wants,
            cluster=cluster,
        )
    return updates, queries
