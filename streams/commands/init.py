"""`readstates init`: makes the topics, the schema and the epoch, and adds partitions."""

from __future__ import annotations

import click

from ..config import Settings
from .options import CASSANDRA, KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings

PARTITIONS = 8  # of topics that do not exist yet, without --partitions
OFFSET_MAX = (1 << 48) - 2  # a larger one does not fit into a version
USED = (*KAFKA_ONLY, "kafka_group", "changes", *CASSANDRA, "cassandra_replication")


@click.command(cls=SettingsCommand)
@click.option(
    "--partitions",
    type=int,
    help="Number of partitions of `updates` and `queries`.  [default: as many as `updates` has; "
    f"{PARTITIONS} on a new installation]",
)
@click.option(
    "--replication-factor",
    type=click.IntRange(1),
    help="Replication factor of topics that do not exist yet.  [default: that of the others; 1 on "
    "a new installation]",
)
@click.option(
    "--new-epoch",
    is_flag=True,
    help="Begin a new epoch after a change of the topic or its partitions (see above).",
)
@click.option(
    "--first-offsets",
    callback=lambda _context, _option, text: offsets_in(text),
    metavar="OFFSET,…",
    help="First offset of each partition in the present epoch. Use this option only if an error "
    "message asks for it.",
)
@with_settings(*USED)
def init(
    settings: Settings,
    partitions: int | None,
    replication_factor: int | None,
    new_epoch: bool,
    first_offsets: list[int] | None,
) -> None:
    """Create or upgrade the topics and the Cassandra schema; safe to repeat.

    To add partitions: stop the producers, wait until all updates are in Cassandra, and stop the
    workers. Then run this command with --partitions and --new-epoch, and start the workers and the
    producers again. The command refuses any step that would lose an update.
    """
    from ..cassandra.store import Store
    from ..kafka import topic_check, topics
    from ..restore.history import keep, known_epochs, refuse_older, topic_epochs
    from . import new_epoch as epochs

    if new_epoch and first_offsets is not None:
        raise click.UsageError("--first-offsets is about the present epoch: leave --new-epoch out")
    with errors_as_messages():
        store = Store(settings)
        try:
            store.create_schema()
            logs = store.logs()
            known = logs.get(settings.updates_topic)
            there = topics.existing(settings)
            updates = there.get(settings.updates_topic)
            before = updates.topic.partitions if updates else None
            if known and before is None and not new_epoch:
                raise epochs.deleted(settings, known)
            if before is not None and partitions is not None:
                epochs.check_number(settings, before, partitions, new_epoch)
            count = before or partitions or (known.partitions if known else PARTITIONS)
            replicas = replication_factor or max(
                (one.replicas for one in there.values()), default=1
            )
            created = topics.create(settings, count, replicas)
            mended = topics.mend(settings)
            refuse_older(settings, logs, topic_epochs(settings))
            ends = epochs.prepare(settings, known, partitions) if new_epoch else None
            topic = topic_check.check(settings)
            epochs.complete(
                settings, store, topic, first_offsets, known_epochs(settings, store).all
            )
            keep(settings, store)  # the present epoch, before the next one is claimed
            epoch = store.claim_epoch(settings.updates_topic, *topic, new_epoch_from=ends).epoch
            keep(settings, store)
        finally:
            store.close()
    click.echo(f"topics: {topics_done(created, before, topic.partitions)}")
    for setting in mended:
        click.echo(f"set {setting}")
    last = max((log.epoch for log in logs.values()), default=None)
    click.echo(f"keyspace: {settings.cassandra_keyspace}; {epoch_done(epoch, last, new_epoch)}")


def topics_done(created: list[str], before: int | None, partitions: int) -> str:
    """What was done to the topics; `before`: their number of partitions before, if they existed."""
    done = [f"created {', '.join(created)}"] if created else []
    if before not in (None, partitions):
        done.append(f"added partitions: there were {before}")
    return f"{'; '.join(done) or 'all there, nothing to create'}; {partitions} partitions"


def epoch_done(epoch: int, last: int | None, new_epoch: bool) -> str:
    """What was done to the epoch; `last`: the keyspace's largest epoch before, if it had one."""
    if epoch != last:
        return f"epoch {epoch}, which begins now"
    if new_epoch:
        return (
            f"epoch {epoch}, as before: the log and its number of partitions have not changed, so "
            "no new epoch was needed"
        )
    return f"epoch {epoch}, as before"


def offsets_in(text: str | None) -> list[int] | None:
    """Parse offsets that are separated by commas."""
    if text is None:
        return None
    offsets = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if min(offsets) < 0 or max(offsets) > OFFSET_MAX:
        raise click.BadParameter(f"{text!r}: expected an offset for each partition, as in 12,0,3")
    return offsets
