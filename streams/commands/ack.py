"""`readstates ack`: a producer from the shell."""

from __future__ import annotations

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, with_settings
from .shell_client import place_of, shell_client


@click.command(cls=SettingsCommand)
@click.argument("user", type=int)
@click.argument("channel", type=int)
@click.argument("message", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY)
def ack(settings: Settings, user: int, channel: int, message: int, as_json: bool) -> None:
    """Publish an ack: USER has read CHANNEL up to MESSAGE. Print the ack's partition and offset."""
    import orjson

    with shell_client(settings) as client:
        offset = client.ack(user, channel, message)
        text = place_of(settings, user, offset)
    click.echo(orjson.dumps({"offset": str(offset)}).decode() if as_json else text)
