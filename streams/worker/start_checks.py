"""What a worker checks before it starts, and then goes on watching.

Whatever needs no server is checked first. While the session with Cassandra begins, a thread reads
Kafka's copy of the epochs.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..cassandra.candidate_store import CandidateStore
from ..cassandra.epochs import Log
from ..cassandra.store import Store
from ..config import Settings
from ..kafka import topic_check
from ..kafka.cluster import Cluster
from ..kafka.delivery import Delivery
from ..kafka.faust_app import App
from ..kafka.group_consumer import Reading
from ..kafka.topics import Topic
from ..restore.history import claim, topic_epochs
from ..rollout.control import run_of
from .http import listen
from .owned import OwnedPartition
from .probe import Probe
from .tables import own_cache_dir
from .watch import Watch


class Checked(NamedTuple):
    """What the rest of a start needs."""

    cache_dir: Path
    listening: socket.socket  # of the HTTP endpoints
    cluster: Cluster
    topic: Topic  # of updates
    store: Store
    epoch: Log
    run: str  # of a candidate; empty for a live worker


def check(settings: Settings) -> Checked:
    """Check the machine, Kafka and Cassandra.

    Raises TopicError, EpochError, StoreError, ConfigError: all mean "refuse to start".
    """
    cache_dir = own_cache_dir(settings)
    listening = listen(settings.http_host, settings.http_port)
    cluster = Cluster()
    topic = topic_check.check(settings, cluster)
    run = run_of(settings) if settings.is_candidate else ""
    with ThreadPoolExecutor(1) as beside:
        in_kafka = beside.submit(topic_epochs, settings)
        store = CandidateStore(settings, run) if run else Store(settings)
        store.prepare()
        epoch = claim(settings, store, topic, in_kafka.result)
    return Checked(cache_dir, listening, cluster, topic, store, epoch, run)


def watch_of(
    settings: Settings,
    checked: Checked,
    readings: Mapping[str, Reading],
    owned: Mapping[int, OwnedPartition],
    delivery: Delivery,
    probe: Probe,
    app: App,
) -> Watch:
    """The watch for changes of what was checked; clients of a topic that was made anew are told."""
    topics = topic_check.Topics(settings, checked.topic)

    def made_anew(name: str) -> None:
        delivery.topic_made_anew(name)
        probe.topic_made_anew(name)

    return Watch(
        settings,
        topics,
        checked.store,
        checked.epoch,
        readings,
        owned,
        app.refuse,
        made_anew,
        probe.found,
    )
