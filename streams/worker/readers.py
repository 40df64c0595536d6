"""Makes a worker's readers: what each reads, how much of it, and to whom it goes."""

from __future__ import annotations

from ..config import Settings
from ..kafka.cluster import Cluster
from ..kafka.faust_app import App
from ..kafka.reader import Reader
from ..kafka.reading import QUERIES, UPDATES
from .change_feed import ChangeFeed
from .partitions import Partitions


def reader_of_updates(
    settings: Settings, app: App, partitions: Partitions, cluster: Cluster
) -> Reader:
    """Hands updates to the agent `updates`."""
    return Reader(
        settings,
        settings.updates_topic,
        UPDATES,
        app.updates.put_now,
        app.refuse,
        partitions.wants_updates,
        cluster=cluster,
    )


def reader_of_queries(
    settings: Settings, app: App, partitions: Partitions, cluster: Cluster
) -> Reader:
    """Answers queries from the table, and hands the others to the agent `queries`."""
    return Reader(
        settings,
        settings.queries_topic,
        QUERIES,
        app.queries.put_now,
        app.refuse,
        partitions.wants_queries,
        partitions.queries.answer_now,
        cluster,
    )


def reader_to_retell(settings: Settings, app: App, feed: ChangeFeed, cluster: Cluster) -> Reader:
    """Hands the change feed the updates whose changes an earlier owner may not have told."""
    return Reader(
        settings,
        settings.updates_topic,
        UPDATES,
        feed.retell,
        app.refuse,
        feed.wants,
        cluster=cluster,
    )
