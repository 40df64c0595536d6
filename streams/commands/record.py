"""`readstates record`: writes the updates and queries that a running system gets into a file."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .recording import QUERIES, REPLIES, UPDATES, head_line

if TYPE_CHECKING:
    from .recorder import Recorder

FILE_MODE = 0o600
KEY_BYTES_MIN, KEY_BYTES_MAX = 16, 64


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
@click.option("--replies", is_flag=True, help="Also record the replies, for replay --compare.")
@click.option("--anonymise", is_flag=True, help="Replace the IDs of users, channels and messages.")
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --anonymise: a file with the secret key, 16 to 64 bytes.  [default: a random key]",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@with_settings(*KAFKA_ONLY, "reply_topics")
def record(
    settings: Settings,
    file: Path,
    seconds: float | None,
    records_max: int,
    replies: bool,
    anonymise: bool,
    key_file: Path | None,
    force: bool,
) -> None:
    """Record all new updates and queries in FILE.

    `readstates replay` sends them again. FILE keeps the order of arrival and the time between
    arrivals, to the millisecond. With --replies, it also contains the replies on all topics that
    match REPLY_TOPICS. The command joins no consumer group and changes nothing. FILE contains
    users' IDs and what they have read. Only its owner can read it. Protect it as you protect the
    topics.

    With --anonymise, the IDs of users, channels and messages in FILE are replaced. Users stay in
    their partitions, and the messages of a channel keep their order. Unknown fields and headers,
    and records that cannot be decoded, are left out. Times and counts stay, so somebody who knows
    when a user read a message may recognise the user. Two recordings with the same key use the same
    IDs. Without --key-file, the key is random and is not stored.
    """
    key = _key(anonymise, key_file)
    from ..kafka.admin import connect_admin
    from .anonymiser import Anonymiser
    from .id_permutation import NewIds
    from .reading import open_reader
    from .recorder import RecordedTopics, Recorder

    with errors_as_messages():
        connect_admin(settings)
        reader = open_reader(settings, settings.updates_topic, settings.queries_topic)
        try:
            topics = RecordedTopics(settings, reader.consumer, replies)
            with os.fdopen(open_private(file, force), "wb") as out:
                partitions = sum(topic == settings.updates_topic for topic, _ in reader.ranges)
                out.write(head_line(partitions, is_anonymous=anonymise))
                anonymiser = None if key is None else Anonymiser(NewIds(key, partitions))
                recorder = Recorder(topics, out, records_max, anonymiser)
                click.echo("recording", err=True)
                _until_the_end(recorder, seconds)
        finally:
            reader.consumer.close()
    counts = recorder.counts
    found = f"{counts[UPDATES]} updates and {counts[QUERIES]} queries"
    click.echo(f"{found}{f' and {counts[REPLIES]} replies' if replies else ''} are in {file}")
    if anonymiser is not None and anonymiser.left_out:
        click.echo(f"{anonymiser.left_out} records could not be anonymised and are left out")


def _key(anonymise: bool, key_file: Path | None) -> bytes | None:
    """The key of an anonymised recording; None if it is not anonymised."""
    if not anonymise:
        if key_file is not None:
            raise click.UsageError("--key-file is for --anonymise")
        return None
    if key_file is None:
        return os.urandom(KEY_BYTES_MAX)
    with key_file.open("rb") as source:
        key = source.read(KEY_BYTES_MAX + 1)
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise click.UsageError(
            f"--key-file: {key_file} must have {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes. "
            f"One way to make it: head -c 32 /dev/urandom > {key_file}"
        )
    return key


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


def _until_the_end(recorder: Recorder, seconds: float | None) -> None:
    """Record until the time is up, the file is full or a signal comes."""
    signals: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while not signals and not recorder.is_full and (end is None or time.monotonic() < end):
            recorder.step()
    finally:
        recorder.finish()
        for number, handler in handlers.items():
            signal.signal(number, handler)
