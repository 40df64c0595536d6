"""`readstates dead-letters`: lists the updates that could not be applied, and sends them again.

A record that was kept twice (dead letters are delivered at least once) counts once, by the place
that it came from.
"""

from __future__ import annotations

from collections import Counter, deque

import click

from readstates.schemas.dead_letters import REASONS, Origin
from readstates.schemas.other_partitioners import explain

from ..cassandra.epochs import Log, unknown_first_offsets
from ..config import Settings
from ..errors import EpochError
from .letters import ODD, Letter, as_json, read, shown
from .options import CASSANDRA, KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings

LIMIT = 100
EXPLANATIONS_SHOWN = 4  # of the partitioners that may have chosen the partitions
MISROUTED = "misrouted"
CURABLE = (MISROUTED, "too_many_states")  # reasons that may not hold for the same bytes next time
EARLIER = "before the epoch"  # why a misrouted record is left where it is


@click.group("dead-letters")
def dead_letters() -> None:
    """List the updates that could not be applied, or send them again."""


_reasons = click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice(REASONS),
    help="Select only dead letters with this reason; repeatable.",
)


@dead_letters.command(
    "list", cls=SettingsCommand, short_help="Show dead letters, and count them by reason."
)
@_reasons
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    help="Show at most this many dead letters, the newest ones.",
)
@click.option(
    "--json", "json_lines", is_flag=True, help="Print each complete record as a JSON line."
)
@with_settings(*KAFKA_ONLY)
def list_letters(
    settings: Settings, reasons: tuple[str, ...], limit: int, json_lines: bool
) -> None:
    """Show dead letters, the newest last: reason, origin, key, value.

    A dead letter is an update that could not be applied. The counts by reason go to standard error.
    The command changes nothing.
    """
    newest: deque[Letter] = deque(maxlen=limit)
    counts: Counter[str] = Counter()
    with errors_as_messages():
        for letter in read(settings):
            counts[letter.reason] += 1
            if not reasons or letter.reason in reasons:
                newest.append(letter)
    for letter in sorted(newest, key=lambda letter: letter.timestamp_ms):
        click.echo(as_json(letter) if json_lines else _line(letter))
    _say_counts("dead letters", counts)


def _line(letter: Letter) -> str:
    origin = letter.origin or Origin(ODD, "?", -1, -1)
    place = f"{shown(origin.topic.encode())}/{origin.partition}/{origin.offset}"
    reason, key = shown(origin.reason.encode(), 20), shown(letter.key, 24)
    if origin.last_offset is not None:
        size = origin.cut or len(letter.value or b"")
        return f"{reason:<15} {place} … {origin.last_offset} a batch of {size} bytes, not read"
    return f"{reason:<15} {place} key {key} value {shown(letter.value)}"


def _say_counts(what: str, counts: Counter[str]) -> None:
    each = ", ".join(f"{shown(r.encode(), 20)} {n}" for r, n in counts.most_common())
    click.echo(f"{counts.total()} {what}" + (f": {each}" if each else ""), err=True)


@dead_letters.command(
    "partitioner",
    cls=SettingsCommand,
    short_help="Find the partitioner that misrouted the records.",
)
@with_settings(*KAFKA_ONLY)
def partitioner(settings: Settings) -> None:
    """Find the partitioner that chose the partitions of the misrouted records.

    For each known partitioner, the command counts the users whose records are where that
    partitioner puts them. The best match comes first. You need misrouted records of about twenty
    users for a reliable answer. The command changes nothing.
    """
    from ..kafka.admin import connect_admin
    from ..kafka.topics import describe

    name = settings.updates_topic
    with errors_as_messages():
        places = {
            (letter.key or b"", letter.origin.partition)
            for letter in read(settings)
            if letter.origin and (letter.origin.reason, letter.origin.topic) == (MISROUTED, name)
        }
        partitions = describe(connect_admin(settings), name).partitions
    users = len({key for key, _ in places})
    click.echo(f"{users} users have misrouted records in {name}, {partitions} partitions")
    for found in explain(places, partitions)[:EXPLANATIONS_SHOWN]:
        click.echo(f"{found.users:>6} {found.name:<24} {found.remedy}")


@dead_letters.command(
    "resend", cls=SettingsCommand, short_help="Send dead letters to `updates` again."
)
@_reasons
@click.option(
    "--partition",
    type=click.IntRange(0),
    help="Send only records that were in this partition of `updates`.",
)
@click.option(
    "--offset",
    type=click.IntRange(0),
    help="Send only the record that was at this offset of `updates`; needs --partition.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent; send nothing.")
@click.option("--yes", is_flag=True, help="Send without asking for confirmation.")
@click.option(
    "--force", is_flag=True, help="Also send records that will probably be rejected again."
)
@with_settings(*KAFKA_ONLY, *CASSANDRA)
def resend(
    settings: Settings,
    reasons: tuple[str, ...],
    partition: int | None,
    offset: int | None,
    dry_run: bool,
    yes: bool,
    force: bool,
) -> None:
    """Send dead letters to `updates` again, unchanged, to the right partition.

    By default, the command sends only records that may succeed now. These are misrouted records,
    whose producer had another partitioner, and records with too_many_states. The latter may succeed
    if the user has fewer read states now, or USER_STATES_MAX is higher. --force also sends all
    other records, with two exceptions: records whose key or value was cut, and whole batches that
    could not be read.

    The records are applied as new events, after everything that was sent in the meantime. The dead
    letters stay in their topic, so a second resend sends them again.

    Some dead letters exist only because a record from before a change of partitions was read again
    after it. Such a record was already applied before the change, so the command skips it. If a
    record was misrouted even before the change, send it with --partition, --offset and --force.
    """
    if offset is not None and partition is None:
        raise click.UsageError("--offset needs --partition: each partition has its own offsets")
    hopeless = [reason for reason in reasons if reason not in CURABLE]
    if hopeless and not force:
        raise click.UsageError(
            f"{', '.join(hopeless)}: the same records would be rejected again. Correct and produce "
            "them anew, or use --force"
        )
    wanted = reasons or (REASONS if force else CURABLE)
    chosen: dict[Origin, tuple[int, int]] = {}
    left: Counter[str] = Counter()
    with errors_as_messages():
        by_place = force and offset is not None
        log = _log(settings) if MISROUTED in wanted and not by_place else None
        for letter in read(settings):
            origin = letter.origin
            if origin is None or origin.topic != settings.updates_topic:
                continue
            if partition is not None and origin.partition != partition:
                continue
            if offset is not None and origin.offset != offset:
                continue
            if why := _why_left(origin, wanted, log):
                left[why] += 1
                continue
            if dry_run and origin not in chosen:
                click.echo(_line(letter))
            chosen.setdefault(origin, (letter.partition, letter.offset))
        _say_counts("to send", Counter(origin.reason for origin in chosen))
        _say_left(left, log)
        if not chosen or dry_run:
            return
        if not yes:
            click.confirm(
                f"Send {len(chosen)} records to {settings.updates_topic} again?", abort=True
            )
        click.echo(f"sent {_send(settings, set(chosen.values()))}")


def _log(settings: Settings) -> Log:
    """The row of the updates topic, with its first offsets. Raises EpochError, StoreError."""
    from ..cassandra.store import logs_of

    name = settings.updates_topic
    log = logs_of(settings).get(name)
    if log is None:
        raise EpochError(
            f"{settings.cassandra_keyspace} was never written from {name}. Run: readstates init"
        )
    if not log.first_offsets:
        raise EpochError(unknown_first_offsets(name, log))
    return log


def _why_left(origin: Origin, wanted: tuple[str, ...], log: Log | None) -> str:
    """Why a dead letter is not sent again; empty if it is sent.

    `log`: misrouted records from before its epoch are not sent. They were in the right partition of
    the smaller topic, and were applied. They became dead letters when the log was folded again.
    """
    if origin.last_offset is not None:  # many values, or half of one: neither is an event
        return "a whole batch"
    if origin.cut or origin.key_cut:
        return "cut"
    if origin.reason not in wanted:
        return origin.reason
    if log is not None and origin.reason == MISROUTED:
        first = log.first_offsets[origin.partition : origin.partition + 1]
        if first and origin.offset < first[0]:
            return EARLIER
    return ""


def _say_left(left: Counter[str], log: Log | None) -> None:
    if left:
        _say_counts("left where they are", left)
    if log is not None and left[EARLIER]:
        click.echo(
            f"{left[EARLIER]} misrouted are from before {log.said}: they were in the right "
            "partition then and were applied; if sent again, some would take effect twice. "
            "To send one that was misrouted even then, use --partition, --offset and --force",
            err=True,
        )


def _send(settings: Settings, places: set[tuple[int, int]]) -> int:
    """Read the topic again and send the records at these places, so that no value is kept."""
    from .sending import Progress, Sender

    sender, progress = Sender(settings), Progress("sent")
    for letter in read(settings):
        if (letter.partition, letter.offset) in places:
            sender.send(settings.updates_topic, letter.key, letter.value)
            progress.step()
    sender.finish()
    return sender.delivered
