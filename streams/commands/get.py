"""`readstates get`: a query from the shell."""

from __future__ import annotations

from typing import Any

import click

from .options import KAFKA_ONLY, SettingsCommand, with_settings
from .shell_client import shell_client


@click.command(cls=SettingsCommand)
@click.argument("user", type=int)
@click.argument("channel", type=int, nargs=-1)
@click.option("--after-offset", type=int, help="Wait until this offset of `updates` is applied.")
@click.option("--deadline-s", default=5.0, show_default=True, help="Seconds to wait for the reply.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY)
def get(
    user: int,
    channel: tuple[int, ...],
    after_offset: int | None,
    deadline_s: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Query the read states of USER: all of them, or those of each CHANNEL."""
    from readstates.schemas.replies import encode_reply

    with shell_client(flags) as client:
        reply = client.get(user, channel or None, after_offset=after_offset, deadline_s=deadline_s)
    if as_json:
        body = encode_reply(reply.user_id, reply.version, reply.full, list(reply.read_states))
        click.echo(body.decode())
        return
    click.echo(f"user {user}, version {reply.version}, {len(reply.read_states)} read states")
    if reply.read_states:
        click.echo(
            f"{'type':>4} {'channel':>20} {'last message':>20} {'mentions':>8} "
            f"{'last mention':>20} {'pins seen (ms)':>15}"
        )
    for state in reply.read_states:
        click.echo(
            f"{state.read_state_type:>4} {state.channel_id:>20} {state.last_message_id:>20} "
            f"{state.mention_count:>8} {state.last_mention_id:>20} {state.last_pin_timestamp:>15}"
        )
