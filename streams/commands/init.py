"""`readstates init`: topics, schema and epoch; also the way to more partitions."""

from __future__ import annotations

from typing import Any

import click

from .options import (
    CASSANDRA,
    KAFKA_ONLY,
    SettingsCommand,
    errors_as_messages,
    settings_of,
    with_settings,
)

PARTITIONS = 8  # of topics that do not exist yet, without --partitions
USED = (*KAFKA_ONLY, "kafka_group", *CASSANDRA, "cassandra_replication")


@click.command(cls=SettingsCommand)
@click.option(
    "--partitions",
    type=int,
    help=f"Partitions of `updates` and `queries` that are created.  [default: {PARTITIONS}]",
)
@click.option(
    "--replication-factor", default=1, show_default=True, help="Replication factor of the topics."
)
@click.option(
    "--new-epoch",
    is_flag=True,
    help="Begin a new log, with more partitions or in another topic: see above.",
)
@with_settings(*USED)
def init(partitions: int | None, replication_factor: int, new_epoch: bool, **flags: Any) -> None:
    """Create the topics and the Cassandra schema; safe to repeat.

    To add partitions: stop the producers, wait until everything is in Cassandra, stop the workers,
    run this with --partitions and --new-epoch, and start them again. It refuses whatever would lose
    an update.
    """
    from ..cassandra.store import Store
    from ..errors import TopicError
    from ..kafka import topics
    from . import new_epoch as epochs

    settings = settings_of(flags)
    with errors_as_messages():
        created = topics.create(settings, partitions or PARTITIONS, replication_factor)
        mended = topics.mend(settings)
        store = Store(settings)
        try:
            store.create_schema()
            if new_epoch:
                epochs.prepare(settings, store.logs().get(settings.updates_topic), partitions)
            topic = topics.check(settings)
            if partitions not in (None, topic.partitions):
                raise TopicError(
                    f"{settings.updates_topic} has {topic.partitions} partitions, not "
                    f"{partitions}. Another number moves users to other partitions; with "
                    "producers and workers stopped: readstates init --partitions "
                    f"{partitions} --new-epoch"
                )
            epoch = store.claim_epoch(
                settings.updates_topic, topic.topic_id, topic.partitions, new_epoch=new_epoch
            )
        finally:
            store.close()
    click.echo(f"topics: {', '.join(created) or 'all there'}; {topic.partitions} partitions")
    for setting in mended:
        click.echo(f"set {setting}")
    click.echo(f"keyspace: {settings.cassandra_keyspace}; epoch {epoch}")
