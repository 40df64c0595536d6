"""`readstates get`: a query from the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, with_settings
from .shell_client import shell_client

if TYPE_CHECKING:
    from readstates.schemas.read_state import ReadState
    from readstates.schemas.replies import Reply


TEXTS = ("channel_id", "last_message_id", "last_mention_id", "version")  # on the wire


class Place(click.ParamType):
    """A read state's type and channel, as `TYPE:CHANNEL`."""

    name = "type:channel"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        kind, _, channel = value.partition(":")
        if not (kind.isascii() and kind.isdigit() and channel.isascii() and channel.isdigit()):
            self.fail(f"expected TYPE:CHANNEL, such as 0:7, got {value!r}", param, ctx)
        return int(kind), int(channel)


@click.command(cls=SettingsCommand)
@click.argument("user", type=int)
@click.argument("channel", type=int, nargs=-1)
@click.option("--mentions", is_flag=True, help="Show which messages mention the user.")
@click.option("--mentioned", is_flag=True, help="Show only read states with a mention.")
@click.option("--totals", is_flag=True, help="Also show totals over all of the user's read states.")
@click.option("--limit", type=int, help="Show one page of at most this many read states.")
@click.option("--after", type=Place(), help="Begin the page after this read state.")
@click.option("--after-offset", type=int, help="Wait until this offset of `updates` is applied.")
@click.option("--deadline-s", default=5.0, show_default=True, help="Seconds to wait for a reply.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY)
def get(
    settings: Settings,
    user: int,
    channel: tuple[int, ...],
    mentions: bool,
    mentioned: bool,
    totals: bool,
    limit: int | None,
    after: tuple[int, int] | None,
    after_offset: int | None,
    deadline_s: float,
    as_json: bool,
) -> None:
    """Query the read states of USER: all of them, or those in each CHANNEL."""
    import orjson

    with shell_client(settings) as client:
        reply = client.get(
            user,
            channel or None,
            mentions=mentions,
            mentioned=mentioned,
            totals=totals,
            limit=limit,
            after=after,
            after_offset=after_offset,
            deadline_s=deadline_s,
        )
    if as_json:
        click.echo(orjson.dumps(as_object(reply)).decode())
    else:
        show(reply)


def as_object(reply: Reply) -> dict[str, Any]:
    """A reply as it is on the wire; its pages are joined."""
    body: dict[str, Any] = {
        "user_id": str(reply.user_id),
        "version": str(reply.version),
        "full": reply.full,
        "read_states": [state_as_object(state) for state in reply.read_states],
    }
    if reply.totals is not None:
        body["totals"] = reply.totals._asdict()
    if reply.next is not None:
        kind, channel_id = reply.next
        body["next"] = {"read_state_type": kind, "channel_id": str(channel_id)}
    return body


def state_as_object(state: ReadState) -> dict[str, Any]:
    """A read state as it is on the wire."""
    body = state._asdict()
    body.update((name, str(body[name])) for name in TEXTS)
    if state.mentions is None:
        del body["mentions"]
    else:
        body["mentions"] = [str(message_id) for message_id in state.mentions]
    return body


def show(reply: Reply) -> None:
    """A reply as a table for people."""
    count = len(reply.read_states)
    click.echo(f"user {reply.user_id}, version {reply.version}, {count} read states")
    if reply.totals is not None:
        sums = reply.totals
        click.echo(
            f"in all: {sums.read_states} read states, "
            f"{sums.mentioned} with mentions, {sums.mentions} mentions"
        )
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
        if state.mention_count and state.mentions is not None:
            click.echo(f"     mentioned in {mentioned_in(state.mention_count, state.mentions)}")
    if reply.next is not None:
        kind, channel_id = reply.next
        click.echo(f"more follow: --after {kind}:{channel_id}")


def mentioned_in(count: int, mentions: tuple[int, ...]) -> str:
    """The messages that mention the user, and how many more there are."""
    more = count - len(mentions)
    parts = [", ".join(map(str, mentions))] if mentions else []
    return " and ".join([*parts, f"{more} that are only counted"] if more else parts)
