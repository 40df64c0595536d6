"""The list of commands: name → module, function, one-line help. Each is imported when called."""

from __future__ import annotations

import click

from .commands.lazy import LazyCommand, LazyGroup

COMMANDS = {
    "ack": LazyCommand(
        "readstates.streams.commands.ack",
        "ack",
        "Publish an ack: USER has read CHANNEL up to MESSAGE.",
    ),
    "dead-letters": LazyCommand(
        "readstates.streams.commands.dead_letters",
        "dead_letters",
        "List the updates that could not be applied, or send them again.",
    ),
    "delete-user": LazyCommand(
        "readstates.streams.commands.delete_user",
        "delete_user",
        "Publish the deletion of all read states of USER.",
    ),
    "demo": LazyCommand(
        "readstates.ops.demo.__main__",
        "demo",
        "Start everything on this machine, send sample traffic, and check the result.",
        extra="local",
    ),
    "fsck": LazyCommand(
        "readstates.streams.commands.fsck",
        "fsck",
        "Check the invariants of a table file without changing it.",
    ),
    "get": LazyCommand(
        "readstates.streams.commands.get",
        "get",
        "Query the read states of USER: all of them, or those of each CHANNEL.",
    ),
    "import": LazyCommand(
        "readstates.streams.commands.import_states",
        "import_states",
        "Import the read states in FILE (JSON lines) through the updates topic.",
    ),
    "init": LazyCommand(
        "readstates.streams.commands.init",
        "init",
        "Create or upgrade the topics and the Cassandra schema; safe to repeat.",
    ),
    "plan": LazyCommand(
        "readstates.ops.plan",
        "command",
        "Compute the partitions, workers and tables for a load, and the traffic it causes.",
    ),
    "record": LazyCommand(
        "readstates.streams.commands.record",
        "record",
        "Record in FILE the updates and queries that arrive from now on.",
    ),
    "replay": LazyCommand(
        "readstates.streams.commands.replay",
        "replay",
        "Send the updates and queries in FILE, a recording, to the topics again.",
    ),
    "restore-user": LazyCommand(
        "readstates.streams.commands.restore_user",
        "restore_user",
        "Publish an event that ends a final deletion of USER.",
    ),
    "rewind": LazyCommand(
        "readstates.streams.commands.rewind",
        "command",
        "Replay updates from an earlier time or offset, after a database restore.",
    ),
    "stack": LazyCommand(
        "readstates.ops.local.cli",
        "stack",
        "Start, stop and describe a local Kafka and Cassandra, for development.",
    ),
    "status": LazyCommand(
        "readstates.streams.commands.status",
        "status",
        "Show the workers, partitions, commits and epoch, and what is wrong with them.",
    ),
    "worker": LazyCommand(
        "readstates.streams.commands.worker",
        "worker",
        "Run one worker until SIGTERM, SIGINT or SIGHUP.",
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"max_content_width": 100})
@click.version_option(package_name="readstates")
def main() -> None:
    """Read States knows which messages each user has read, and how many mentions are waiting.
    Updates and queries reach it through Kafka.
    """


if __name__ == "__main__":
    main()
