"""The command line. Each command's code is imported when it is called: `--help` stays fast, and
what only a worker needs may be missing where only the client is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from readstates.streams.options import (
    CASSANDRA,
    KAFKA_ONLY,
    settings_of,
    spoken_errors,
    with_settings,
)

if TYPE_CHECKING:
    from readstates.streams.client import BlockingClient

OFFSET_MAX = (1 << 48) - 2  # more does not fit into a version
PARTITIONS = 8  # of topics that `init` makes, unless told otherwise
INIT = (
    *KAFKA_ONLY,
    "kafka_group",
    *CASSANDRA,
    "cassandra_replication",
)


class Elsewhere(NamedTuple):
    """A command in a module of its own, and its line in `readstates --help`."""

    module: str
    name: str
    help: str


ELSEWHERE = {
    "dead-letters": Elsewhere(
        "readstates.streams.dead_letters",
        "dead_letters",
        "Records of `updates` that could not be applied: see them, send them again.",
    ),
    "import": Elsewhere(
        "readstates.streams.importer",
        "import_states",
        "Bring in the read states of FILE, JSON lines, through the updates topic.",
    ),
    "plan": Elsewhere(
        "readstates.ops.plan",
        "command",
        "Partitions, workers, tables and traffic for a load, from measured figures.",
    ),
    "record": Elsewhere(
        "readstates.streams.recording",
        "record",
        "Write the updates and queries that arrive from now on to FILE, for `readstates replay`.",
    ),
    "replay": Elsewhere(
        "readstates.streams.replay",
        "replay",
        "Send the updates and queries of FILE, a recording, to the topics again.",
    ),
    "stack": Elsewhere(
        "readstates.ops.local.cli", "stack", "A local Kafka and Cassandra, for development."
    ),
    "status": Elsewhere(
        "readstates.streams.status",
        "status",
        "The group at a glance: workers, partitions, commits, epoch; what is wrong with them.",
    ),
}


class Commands(click.Group):
    """The commands of this module and those of ELSEWHERE."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        elsewhere = ELSEWHERE.get(cmd_name)
        if elsewhere is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(elsewhere.module), elsewhere.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in ELSEWHERE:
                rows.append((name, ELSEWHERE[name].help))
            else:
                rows.append((name, self.commands[name].get_short_help_str(limit=80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as exc:
            if (exc.name or "").startswith("readstates."):
                raise
            raise click.ClickException(
                f"{ctx.invoked_subcommand} needs the Python package of {exc.name}: "
                "pip install 'readstates[worker]'"
            ) from exc


@click.group(cls=Commands, context_settings={"max_content_width": 100})
@click.version_option(package_name="readstates")
def main() -> None:
    """Read states: what is unread, for every user and channel, through Kafka."""


@main.command()
@click.option(
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="what is logged: this and what is worse",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="of standard output; json: one object a line  (READ_STATES_LOG_FORMAT)",
    envvar="READ_STATES_LOG_FORMAT",
)
@with_settings()
def worker(loglevel: str, log_format: str, **given: Any) -> None:
    """Run one worker until SIGTERM or SIGINT."""
    from readstates.streams.app import run

    sys.exit(run(settings_of(given), loglevel, log_format))


@main.command()
@click.option(
    "--partitions", type=int, help="of `updates` and `queries`, where they are made  [default: 8]"
)
@click.option("--replication-factor", default=1, show_default=True, help="of the topics")
@click.option(
    "--new-epoch", is_flag=True, help="the log begins anew: more partitions, or another topic"
)
@click.option(
    "--first-offsets",
    callback=lambda _context, _option, given: offsets_in(given),
    metavar="OFFSET,…",
    help="of each partition in the present epoch; only where an error asks for them",
)
@with_settings(*INIT)
def init(
    partitions: int | None,
    replication_factor: int,
    new_epoch: bool,
    first_offsets: list[int] | None,
    **given: Any,
) -> None:
    """Create the topics and the Cassandra schema, or upgrade it. Safe to repeat.

    To add partitions: stop the producers, wait until all is in Cassandra, stop the workers, run
    this with --partitions and --new-epoch, start again. It refuses what would lose something.
    """
    from readstates.streams import new_epoch as epochs
    from readstates.streams import topics
    from readstates.streams.cassandra import Store
    from readstates.streams.errors import TopicError

    if new_epoch and first_offsets is not None:
        raise click.UsageError("--first-offsets is about the epoch that is there: no --new-epoch")
    settings = settings_of(given)
    with spoken_errors():
        created = topics.create(settings, partitions or PARTITIONS, replication_factor)
        mended = topics.mend(settings)
        store = Store(settings)
        try:
            store.create_schema()
            ends = None
            if new_epoch:
                known = store.logs().get(settings.updates_topic)
                ends = epochs.prepare(settings, known, partitions)
            topic = topics.check(settings)
            if partitions not in (None, topic.partitions):
                raise TopicError(
                    f"{settings.updates_topic} has {topic.partitions} partitions, not "
                    f"{partitions}. Another number moves users to other partitions; with "
                    "producers and workers stopped: readstates init --partitions "
                    f"{partitions} --new-epoch"
                )
            epochs.complete(settings, store, topic, first_offsets)
            epoch = store.claim_epoch(settings.updates_topic, *topic, new_epoch_from=ends).epoch
        finally:
            store.close()
    click.echo(f"topics: {', '.join(created) or 'all there'}; {topic.partitions} partitions")
    for setting in mended:
        click.echo(f"set {setting}")
    click.echo(f"keyspace: {settings.cassandra_keyspace}; epoch {epoch}")


def offsets_in(given: str | None) -> list[int] | None:
    """Offsets between commas."""
    if given is None:
        return None
    found = [int(one) if one.strip().isdecimal() else -1 for one in given.split(",")]
    if min(found) < 0 or max(found) > OFFSET_MAX:
        raise click.BadParameter(f"{given!r}: expected an offset for each partition, as in 12,0,3")
    return found


@main.command()
@click.argument("user", type=int)
@click.argument("channel", type=int)
@click.argument("message", type=int)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@with_settings(*KAFKA_ONLY)
def ack(user: int, channel: int, message: int, as_json: bool, **given: Any) -> None:
    """Publish an ack: USER has read CHANNEL up to MESSAGE. Prints the record's offset."""
    import orjson

    with _client(given) as client:
        offset = client.ack(user, channel, message)
    shown = orjson.dumps({"offset": str(offset)}).decode() if as_json else f"offset {offset}"
    click.echo(shown)


@main.command()
@click.argument("user", type=int)
@with_settings(*KAFKA_ONLY)
def delete_user(user: int, **given: Any) -> None:
    """Publish the deletion of all of USER's read states. Prints the record's offset."""
    from readstates.schemas.events import DeleteUser

    with _client(given) as client:
        click.echo(f"offset {client.publish(DeleteUser(user))}")


@main.command()
@click.argument("user", type=int)
@click.argument("channel", type=int, nargs=-1)
@click.option("--after-offset", type=int, help="wait until this offset of `updates` is applied")
@click.option("--deadline-s", default=5.0, show_default=True, help="how long to wait [s]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@with_settings(*KAFKA_ONLY)
def get(
    user: int,
    channel: tuple[int, ...],
    after_offset: int | None,
    deadline_s: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Query the read states of USER, all of them or those of each CHANNEL."""
    from readstates.schemas.replies import encode_reply

    with _client(given) as client:
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
    for kind, channel_id, last, last_mention, mentions, pins, *_ in reply.read_states:
        click.echo(
            f"{kind:>4} {channel_id:>20} {last:>20} {mentions:>8} {last_mention:>20} {pins:>15}"
        )


@contextmanager
def _client(given: dict[str, Any]) -> Iterator[BlockingClient]:
    """A client whose errors end the command with a line, not a traceback."""
    from readstates.streams.client import BlockingClient, QueryError
    from readstates.streams.security import connect

    settings = settings_of(given)
    with spoken_errors():
        connect(settings)  # says what is wrong with a login; a client would only time out
        try:
            with BlockingClient(
                settings.kafka_bootstrap,
                f"{settings.topic_prefix}.replies.shell",
                topic_prefix=settings.topic_prefix,
                create_reply_topic=True,
                config=settings.kafka_extra,
            ) as client:
                yield client
        except (QueryError, ValueError) as exc:
            raise click.ClickException(str(exc)) from exc


@main.command()
@click.option(
    "--to-time",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    help="to the first record at this time or later, UTC",
)
@click.option("--to-offset", type=click.IntRange(0), help="to this offset; with --partition")
@click.option(
    "--to-epoch-start", is_flag=True, help="to the first record of the present epoch that there is"
)
@click.option("--partition", type=int, help="of this partition only  [default: all]")
@with_settings(*KAFKA_ONLY, "kafka_group", *CASSANDRA)
def rewind(
    to_time: datetime | None,
    to_offset: int | None,
    to_epoch_start: bool,
    partition: int | None,
    **given: Any,
) -> None:
    """Have the updates folded again from an earlier place: after a restore of the database.

    First stop all workers and delete their table files. Going too far back is safe within the
    present epoch: a row skips what it already has. What is before it, from before a change of
    partitions, is refused. Commits move back only.
    """
    from readstates.streams.rewind import rewind as move

    if [to_time is None, to_offset is None, not to_epoch_start].count(False) != 1:
        raise click.UsageError("give one of --to-time, --to-offset and --to-epoch-start")
    if to_offset is not None and partition is None:
        raise click.UsageError("--to-offset needs --partition: each has offsets of its own")
    to_ms = None if to_time is None else int(to_time.replace(tzinfo=UTC).timestamp() * 1000)
    settings = settings_of(given)
    with spoken_errors():
        steps = move(settings, to_ms=to_ms, to_offset=to_offset, only=partition)
    for step in steps:
        up = ", where the epoch begins" if step.after > step.before else ""
        click.echo(f"partition {step.partition}: {step.before} -> {step.after}{up}")
    again = sum(max(0, step.before - step.after) for step in steps)
    click.echo(f"{again} records will be folded again")


@main.command()
@click.argument("file", type=click.Path())
def fsck(file: str) -> None:
    """Check a table file's invariants, read-only. Exits 0 sound, 1 damaged, 2 not a table file."""
    from readstates.cache.fsck import main as check

    sys.exit(check([file]))


if __name__ == "__main__":
    main()
