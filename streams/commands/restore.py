"""`readstates restore`: brings the database back from the log and a backup, or the log alone.

1. Read the history of epochs from Kafka and Cassandra, and what the log still has (`restore/plan`).
2. Say what will be done and what is missing, and ask.
3. Keep the workers out (`kafka/restore_fence`).
4. Fold each epoch with its own versions (`restore/fold`).
5. Give the database the epochs of the history, and set the group's commits to where the fold ended.

Steps 3 to 5 are in `restore/restorer.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from ..config import COUNT, Settings
from ..errors import EpochError, RestoreError
from .options import SettingsCommand, errors_as_messages, with_settings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from readstates.schemas.epoch_history import Epoch, History

    from ..cassandra.store import Store
    from ..restore.plan import Plan, TopicLog


@click.command("restore", cls=SettingsCommand)
@click.option(
    "--backup-time",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    help="When the backup began, in UTC. Records that are more than an hour older than the backup "
    "are left out.  [default: the whole log is used]",
)
@click.option("--yes", is_flag=True, help="Do not ask before beginning.")
@with_settings()
def restore(settings: Settings, backup_time: datetime | None, yes: bool) -> None:
    """Restore the database from the log and a backup, or from the log alone.

    First stop all workers. If you have a backup, restore its tables. The backup may be from before
    a change of partitions. The command creates the schema if it is missing, and applies the log to
    the database, epoch by epoch. Use the settings of the workers, above all USER_STATES_MAX and
    ID_EPOCH_MS. Producers may continue meanwhile. If the command is interrupted, run it again.
    Workers refuse to start until it has finished, and then continue from its last offset.

    If records that the database may need are missing from the log, the command lists them and
    stops, unless MISSING_UPDATES is `count`.
    """
    backup_ms = None
    if backup_time is not None:
        backup_ms = int(backup_time.replace(tzinfo=UTC).timestamp() * 1000)
        if backup_time.replace(tzinfo=UTC) > datetime.now(UTC):
            raise click.UsageError("--backup-time is in the future; it is in UTC")
    with errors_as_messages():
        _restore(settings, backup_ms, yes)


def _restore(settings: Settings, backup_ms: int | None, yes: bool) -> None:
    from ..cassandra.store import Store
    from ..kafka.admin import connect_admin
    from ..kafka.group_commits import no_workers
    from ..kafka.topics import described
    from ..restore.plan import plan_of
    from ..restore.restorer import Restorer

    client = connect_admin(settings)
    no_workers(client, settings, RestoreError)
    store = Store(settings)
    try:
        history = _history(settings, store)
        logs = _logs(client, history, backup_ms)
        plan = plan_of(history, logs, backup_ms)
        for line in _said(settings, history, plan, backup_ms):
            click.echo(line)
        if plan.missing and settings.missing_updates != COUNT:
            raise RestoreError(_refusal(backup_ms))
        if not yes:
            click.confirm("Begin?", abort=True)

        def progress(seconds: float, folded: int) -> None:
            click.echo(f"{seconds:.0f} s: {folded} of {plan.records} records folded", err=True)

        missing = Restorer(settings, client, store, history, logs, plan, progress).run()
    finally:
        store.close()
    for text in missing:
        click.echo(f"MISSING: {text}")
    last = history[max(history)]
    click.echo(f"The restore has ended: {settings.cassandra_keyspace} is at {last.said}")
    found = described(client, settings.updates_topic)
    here = (settings.updates_topic, *found.topic) if found else None
    if here == last[1:4]:
        click.echo("Start the workers")
    else:
        click.echo(
            f"{settings.updates_topic} is another log than that. Before you start the workers, "
            "run: readstates init --new-epoch"
        )


def _history(settings: Settings, store: Store) -> History:
    """Every epoch that Kafka or Cassandra knows. Raises EpochError if neither knows any."""
    from ..restore.history import known_before_restore

    history = known_before_restore(settings, store)
    if not history:
        raise EpochError(
            f"neither {settings.cassandra_keyspace} nor {settings.epochs_topic} knows which epochs "
            "there were, so the versions of the log's records are not known. If partitions were "
            "never added and the topic was never replaced, run readstates init, and then this again"
        )
    return history


def _logs(client: AdminClient, history: History, backup_ms: int | None) -> dict[str, TopicLog]:
    """What Kafka has of each topic in the history that still exists."""
    from ..kafka.group_commits import log_offsets
    from ..kafka.topics import described
    from ..restore.plan import BEFORE_BACKUP_S, TopicLog

    since_ms = None if backup_ms is None else max(0, backup_ms - BEFORE_BACKUP_S * 1000)
    logs = {}
    for name in {epoch.topic for epoch in history.values()}:
        found = described(client, name)
        if found is not None:
            topic_id, partitions = found.topic
            logs[name] = TopicLog(topic_id, *log_offsets(client, name, partitions, since_ms))
    return logs


def _said(
    settings: Settings, history: Mapping[int, Epoch], plan: Plan, backup_ms: int | None
) -> Iterator[str]:
    """The plan, in lines."""
    since = "" if backup_ms is None else ", from an hour before the backup on,"
    yield (
        f"{plan.records} records of the log{since} are folded into keyspace "
        f"{settings.cassandra_keyspace}; what it has already is kept. Until the restore has ended, "
        f"workers refuse to start. Group {settings.kafka_group} then continues where it ended"
    )
    folded = {part.epoch.epoch: part.records for part in plan.parts}
    for number, epoch in history.items():
        records = f"{folded[number]} records" if number in folded else "nothing is folded"
        yield f"  {epoch.said}: {records}"
    yield from (f"MISSING: {text}" for text in plan.missing)


def _refusal(backup_ms: int | None) -> str:
    say_when = "say when the backup began, with --backup-time; or " if not backup_ms else ""
    return (
        "the database may lack records that the log does not have any more; see the lines with "
        f"MISSING. Nothing was changed. If there is a backup, {say_when}put a later one back. To "
        "accept the loss, add --missing-updates count"
    )
