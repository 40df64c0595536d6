"""`readstates status`: the workers' group, its partitions and the database, seen from one shell.

The command asks Kafka and Cassandra separately. If one does not answer, the command names it as a
problem and shows the rest. It changes nothing. `status_asking.py` asks, `status_judging.py` judges
the answers, and `status_printing.py` prints them.
"""

from __future__ import annotations

import sys

import click

from ..config import Settings
from ..errors import ReadStatesError
from .options import CASSANDRA, KAFKA_ONLY, SettingsCommand, with_settings
from .status_asking import ask_cassandra, ask_kafka
from .status_judging import problems_of
from .status_printing import Status, json_of, text_of

ASKED = (
    *KAFKA_ONLY,
    "kafka_group",
    "changes",
    "group_protocol",
    "session_timeout_s",
    "flush_delay_s",
    "commit_interval_s",
    *CASSANDRA,
    "cassandra_timeout_s",
)


def look(settings: Settings) -> Status:
    """Ask Kafka and Cassandra; never raises, whether they answer or not."""
    problems: list[str] = []
    kafka = cassandra = None
    try:
        kafka = ask_kafka(settings)
    except (ReadStatesError, TimeoutError) as exc:
        problems.append(f"Kafka: {exc or 'no answer'}")
    try:
        cassandra = ask_cassandra(settings)
    except ReadStatesError as exc:
        problems.append(f"Cassandra: {exc}")
    return Status(kafka, cassandra, [*problems, *problems_of(settings, kafka, cassandra)])


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; offsets are strings.")
@with_settings(*ASKED)
def status(settings: Settings, as_json: bool) -> None:
    """Show the workers, partitions, commits and epoch, and any problems with them.

    The workers are the members of the consumer group. A worker that has died remains a member until
    its session ends: after SESSION_TIMEOUT_S or, with GROUP_PROTOCOL=consumer, after a time that
    the brokers set.

    "not committed" counts the updates between the commit and the end of the log. Most of them have
    been applied, but may not be in Cassandra yet. Normally, these updates are at most twice
    FLUSH_DELAY_S old. If they are older, the partition is catching up, cannot write, or has
    stopped. "queries lag" counts the queries without a reply. The metadata of a commit shows how
    far the partition's owner has applied the log: live:OFFSET while the owner runs, clean:OFFSET
    after a clean shutdown.

    The command does not check latency, failed loads, failed writes or dead letters: see the
    metrics.

    Exit status: 0 if nothing is wrong, 1 if something is wrong or does not answer, 2 if the command
    was called wrongly.
    """
    found = look(settings)
    click.echo(json_of(found) if as_json else "\n".join(text_of(settings, found)))
    sys.exit(1 if found.problems else 0)
