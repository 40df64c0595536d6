"""`readstates watch`: changes as they happen, from the change feed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, with_settings
from .shell_client import shell_client

if TYPE_CHECKING:
    from readstates.schemas.changes import Change


@click.command(cls=SettingsCommand)
@click.argument("user", type=int, nargs=-1)
@click.option("--from-start", is_flag=True, help="Begin with the oldest change in the topic.")
@click.option("--changes-max", type=click.IntRange(1), help="Stop after this many changes.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each change.")
@with_settings(*KAFKA_ONLY)
def watch(
    settings: Settings,
    user: tuple[int, ...],
    from_start: bool,
    changes_max: int | None,
    as_json: bool,
) -> None:
    """Print changes of read states as they happen: of each USER, or of all users.

    The workers must run with CHANGES=on. The command reads the change feed, joins no consumer group
    and changes nothing. It runs until SIGINT.
    """
    import orjson

    signal.signal(signal.SIGINT, lambda *_: os._exit(0))  # there is nothing to close or to flush
    users = frozenset(user)
    wanted = users.__contains__ if users else None
    with (
        shell_client(settings) as client,
        client.changes("start" if from_start else "end", wanted=wanted) as changes,
    ):
        click.echo("watching", err=True)
        for count, change in enumerate(changes, 1):
            click.echo(orjson.dumps(as_object(change)).decode() if as_json else text_of(change))
            if count == changes_max:
                break


def as_object(change: Change) -> dict[str, Any]:
    """A change as it is on the wire, with its causes."""
    from .get import state_as_object

    body: dict[str, Any] = {
        "user_id": str(change.user_id),
        "version": str(change.version),
        "causes": change.causes,
        "read_states": [state_as_object(state) for state in change.read_states],
        "deleted": [
            {"channel_id": str(channel), "read_state_type": kind}
            for kind, channel in change.deleted
        ],
        "totals": change.totals._asdict(),
    }
    return body | ({"all_deleted": True} if change.all_deleted else {})


def text_of(change: Change) -> str:
    """A change for people: a line for the user, and one for each read state."""
    sums = change.totals
    lines = [
        f"user {change.user_id}, version {change.version}, {','.join(change.causes)}: "
        f"{sums.mentions} mentions in {sums.mentioned} of {sums.read_states} read states"
    ]
    if change.all_deleted:
        lines.append("  all are deleted but these:" if change.read_states else "  all are deleted")
    lines += [
        f"  {state.read_state_type}:{state.channel_id} read up to {state.last_message_id}, "
        f"{state.mention_count} mentions"
        for state in change.read_states
    ]
    lines += [f"  {kind}:{channel} is deleted" for kind, channel in change.deleted]
    return "\n".join(lines)
