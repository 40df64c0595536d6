"""`readstates restore-user`: the end of a final deletion, from the shell."""

from __future__ import annotations

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, with_settings
from .shell_client import place_of, shell_client


@click.command("restore-user", cls=SettingsCommand)
@click.argument("user", type=int)
@with_settings(*KAFKA_ONLY)
def restore_user(settings: Settings, user: int) -> None:
    """Reverse a final deletion of USER: new events are applied again.

    The deleted read states do not come back. The command prints the partition and offset of its
    event.
    """
    with shell_client(settings) as client:
        offset = client.restore_user(user)
        click.echo(place_of(settings, user, offset))
