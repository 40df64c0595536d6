"""`readstates import`: reads read states from a file and sends them through Kafka as events.

The command reads the file twice: it sends nothing before every line is known to be valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from readstates.schemas.events import Update
from readstates.schemas.fields import DecodeError
from readstates.schemas.saved import decode_saved, events_of
from readstates.schemas.wire import encode_update, key_bytes

from ..config import Settings
from .lines import LineTooLongError, bounded_lines
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings

ERRORS_SHOWN = 20


class LineError(ValueError):
    """A line cannot be imported; the text begins with its number."""


def events_in(line: bytes, number: int, replace: bool) -> list[Update]:
    """The events that one line of a file becomes. Raises LineError."""
    try:
        return [
            event
            for user_id, state in decode_saved(line)
            for event in events_of(user_id, state, replace=replace)
        ]
    except (DecodeError, ValueError) as exc:
        raise LineError(f"line {number}: {exc}") from None


def lines_of(file: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, blank ones left out. Raises ClickException for one that is too long."""
    with file.open("rb") as source:
        try:
            yield from ((n, line) for n, line in bounded_lines(source) if not line.isspace())
        except LineTooLongError as exc:
            raise click.ClickException(f"{file}: {exc}; nothing was sent") from None


@click.command("import", cls=SettingsCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--mode",
    type=click.Choice(["newer", "replace"]),
    default="newer",
    show_default=True,
    help="newer: keep the larger value of each field. replace: delete each read state first.",
)
@click.option("--dry-run", is_flag=True, help="Check the file and count the records; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY)
def import_states(settings: Settings, file: Path, mode: str, dry_run: bool, as_json: bool) -> None:
    """Send the read states in FILE (JSON lines) to the updates topic.

    Each line is one read state. It has "user_id", "channel_id" and "last_message_id". It may also
    have "read_state_type", "mentions" (the IDs of unread messages that mention the user),
    "mention_count", "last_mention_id", "last_pin_timestamp" [ms], "flags" and "last_viewed" [days].
    A line may also be a whole reply from `readstates get USER --mentions --json`. A file of two
    lines:

    \b
    {"user_id": "42", "channel_id": "7", "last_message_id": "1000", "mentions": ["1001", "1004"]}
    {"user_id": "43", "channel_id": "7", "last_message_id": "998"}

    You can repeat an import, and an old file does no harm. Each line becomes one `merge` event,
    which keeps the larger value of each field. So messages that users have read since the file was
    written stay read. With --mode replace, a `delete` event comes first, so the read state becomes
    that of the file, even if the file is older. In both modes, a user who was deleted for good
    stays deleted. A read state deleted by a `delete` event with `up_to` also stays deleted, unless
    the file has a message newer than `up_to`.

    Include "mentions" if you can. The service then knows which mentions to remove when messages are
    read or deleted. If a line has only "mention_count", the service knows only the last mention
    ("last_mention_id"), and the next ack removes all others. For each read state, the service keeps
    the IDs of the newest 64 mentions, and counts the others. If mentions are counted in a channel
    that was never read ("last_message_id": 0), the service sets last_message_id to 1.

    Versions are not imported, so clients must discard any stored versions that they would send as
    since_version. Read states whose fields are all 0 are skipped. If a user would exceed
    USER_STATES_MAX read states, the updates become dead letters: see readstates dead-letters list.

    If any line is wrong, the command sends nothing and exits with 1. Otherwise it prints the last
    offset of each partition. To check that a partition has
    applied its part of the import, send a query with that offset as --after-offset: it is answered
    once the part is applied.
    """
    from .sending import Progress

    replace = mode == "replace"
    checked, events, errors = Progress("lines checked"), 0, 0
    for number, line in lines_of(file):
        try:
            events += len(events_in(line, number, replace))
        except LineError as exc:
            errors += 1
            if errors <= ERRORS_SHOWN:
                click.echo(str(exc), err=True)
        checked.step()
    if errors:
        raise click.ClickException(f"{errors} lines of {file} are wrong; nothing was sent")
    if not events and not as_json:
        click.echo(f"{file} has no read state that is not all 0: nothing was sent")
        return
    if dry_run:
        click.echo(json.dumps({"records": events}) if as_json else f"{events} records, none sent")
        return
    with errors_as_messages():
        offsets = _send(settings, file, replace)
    if as_json:
        ends = {str(number): str(offset) for number, offset in offsets.items()}
        click.echo(json.dumps({"records": events, "last_offsets": ends}))
        return
    click.echo(f"{events} records are in {settings.updates_topic}")
    for number, offset in offsets.items():
        click.echo(f"partition {number}: up to offset {offset}")


def _send(settings: Settings, file: Path, replace: bool) -> dict[int, int]:
    """Send every event of the file; returns the last offset of each partition."""
    from ..kafka.admin import connect_admin
    from .sending import Progress, Sender

    connect_admin(settings)
    sender, progress = Sender(settings), Progress("records sent")
    topic = settings.updates_topic
    for number, line in lines_of(file):
        for event in events_in(line, number, replace):
            sender.send(topic, key_bytes(event.user_id), encode_update(event))
            progress.step()
    sender.finish()
    return {partition: offset for (_, partition), offset in sorted(sender.last_offsets.items())}
