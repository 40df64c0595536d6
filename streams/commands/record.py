"""`readstates record`: writes the updates and queries that a running system gets into a file."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from readstates.schemas.headers import HEADER_CLOCK, headers_of
from readstates.schemas.probes import HEADER_PROBE

from ..config import Settings
from ..errors import TopicError
from .options import KAFKA_ONLY, RIGHTS, SettingsCommand, errors_as_messages, with_settings
from .recording import QUERIES, UPDATES, Merge, Recorded, encode, head_line

BATCH_MESSAGES = 1_000
IDLE_S = 0.2
FILE_MODE = 0o600


@click.command("record", cls=SettingsCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Seconds to record.  [default: until SIGINT or SIGTERM]",
)
@click.option(
    "--records-max",
    type=click.IntRange(1),
    default=10_000_000,
    show_default=True,
    help="Stop after this many records; each takes about 250 bytes in FILE.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@with_settings(*KAFKA_ONLY)
def record(
    settings: Settings, file: Path, seconds: float | None, records_max: int, force: bool
) -> None:
    """Record in FILE the updates and queries that arrive from now on.

    `readstates replay` sends them again. FILE keeps the order of arrival and the gaps between
    arrivals, to the millisecond; replies are not recorded. The command reads alongside the workers,
    without joining a group, and changes nothing. FILE holds users' IDs and what they have read.
    Only its owner can read it. Protect it as you protect the topics.
    """
    from ..kafka.admin import connect_admin
    from .reading import open_reader

    with errors_as_messages():
        connect_admin(settings)
        reader = open_reader(settings, settings.updates_topic, settings.queries_topic)
        try:
            with os.fdopen(open_private(file, force), "wb") as out:
                partitions = sum(topic == settings.updates_topic for topic, _ in reader.ranges)
                out.write(head_line(partitions))
                click.echo("recording", err=True)
                counts = _record(settings, reader.consumer, out, seconds, records_max)
        finally:
            reader.consumer.close()
    click.echo(f"{counts[UPDATES]} updates and {counts[QUERIES]} queries are in {file}")


def open_private(file: Path, force: bool) -> int:
    """A descriptor of FILE, which only its owner can read from now on, if it was there before, too.

    Raises OSError: FILE exists and `force` is not set, or it belongs to somebody else.
    """
    found = os.open(file, os.O_CREAT | os.O_WRONLY | (0 if force else os.O_EXCL), FILE_MODE)
    try:
        if stat.S_ISREG(os.fstat(found).st_mode):
            os.fchmod(found, FILE_MODE)
            os.ftruncate(found, 0)
    except OSError:
        os.close(found)
        raise
    return found


def _record(
    settings: Settings, consumer: Any, out: BinaryIO, seconds: float | None, records_max: int
) -> dict[str, int]:
    """Write until the time is up, the file is full or a signal comes; returns counts by topic."""
    signals: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    names = {settings.updates_topic: UPDATES, settings.queries_topic: QUERIES}
    counts = {UPDATES: 0, QUERIES: 0}
    merge = Merge()
    end = None if seconds is None else time.monotonic() + seconds

    def write(ordered: Iterator[tuple[int, Recorded]]) -> None:
        for timestamp_ms, record in ordered:
            out.write(encode(record._replace(timestamp_ms=timestamp_ms)))

    try:
        while not signals and (end is None or time.monotonic() < end):
            for message in consumer.consume(BATCH_MESSAGES, IDLE_S):
                if message.error() is not None:
                    topics, why = " and ".join(names), message.error().str()
                    raise TopicError(f"{topics} cannot be read: {why}. {RIGHTS}")
                headers = headers_of(message)
                kinds = {name for name, _ in headers}
                if HEADER_PROBE in kinds or (message.value() is None and HEADER_CLOCK in kinds):
                    continue  # no client's query: a worker asks itself, or compares clocks
                record = Recorded(
                    0,
                    names[message.topic()],
                    message.partition(),
                    message.key(),
                    message.value(),
                    headers,
                )
                counts[record.topic] += 1
                place = (record.topic, record.partition)
                write(merge.add(message.timestamp()[1], place, record))
                if sum(counts.values()) >= records_max:
                    return counts
            out.flush()  # a reader, and a kill, find all but the last REORDER_MS
        return counts
    finally:
        write(merge.rest())
        for number, handler in handlers.items():
            signal.signal(number, handler)
