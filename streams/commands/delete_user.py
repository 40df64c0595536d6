"""`readstates delete-user`: all read states of a user, deleted from the shell."""

from __future__ import annotations

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, with_settings
from .shell_client import place_of, shell_client


@click.command("delete-user", cls=SettingsCommand)
@click.argument("user", type=int)
@click.option("--final", is_flag=True, help="Also skip every later event of USER.")
@with_settings(*KAFKA_ONLY)
def delete_user(settings: Settings, user: int, final: bool) -> None:
    """Publish the deletion of all read states of USER. Print the event's partition and offset.

    With --final, later events of USER are skipped until you run `readstates restore-user`.
    """
    with shell_client(settings) as client:
        offset = client.delete_user(user, final=final)
        click.echo(place_of(settings, user, offset))
