"""The list of commands, each with its line in `--help`; a module is imported when it is called."""

from __future__ import annotations

import click

from .commands.lazy import LazyCommand, LazyGroup


def _here(function: str, text: str, module: str = "") -> LazyCommand:
    return LazyCommand(f"readstates.streams.commands.{module or function}", function, text)


COMMANDS = {
    "ack": _here("ack", "Publish an ack: USER has read CHANNEL up to MESSAGE."),
    "dead-letters": _here(
        "dead_letters", "List the updates that could not be applied, or send them again."
    ),
    "delete-user": _here("delete_user", "Publish the deletion of all read states of USER."),
    "demo": LazyCommand(
        "readstates.ops.demo.__main__",
        "demo",
        "Start everything on this machine, send sample traffic, and check the result.",
        extra="local",
    ),
    "fsck": _here("fsck", "Check the invariants of a table file without changing it."),
    "get": _here("get", "Query the read states of USER: all of them, or those in each CHANNEL."),
    "import": _here(
        "import_states", "Send the read states in FILE (JSON lines) to the updates topic."
    ),
    "init": _here("init", "Create or upgrade the topics and the Cassandra schema; safe to repeat."),
    "plan": LazyCommand(
        "readstates.ops.plan",
        "command",
        "Compute the partitions, workers and tables for a load, and the traffic it causes.",
    ),
    "profile": _here(
        "profile", "Write a flame graph (SVG) of the worker at HTTP_HOST and HTTP_PORT to FILE."
    ),
    "record": _here("record", "Record all new updates and queries in FILE."),
    "replay": _here(
        "replay", "Send the updates and queries of a recording, FILE, to the topics again."
    ),
    "restore": _here(
        "restore", "Restore the database from the log and a backup, or from the log alone."
    ),
    "restore-user": _here(
        "restore_user", "Reverse a final deletion of USER: new events are applied again."
    ),
    "rewind": _here(
        "command",
        "Make workers read the updates again from an earlier time or offset.",
        "rewind",
    ),
    "rollout": _here(
        "rollout",
        "Run another version or configuration beside the live workers, as a candidate.",
    ),
    "stack": LazyCommand(
        "readstates.ops.local.cli",
        "stack",
        "Start, stop and describe a local Kafka and Cassandra, for development.",
    ),
    "status": _here(
        "status", "Show the workers, partitions, commits and epoch, and any problems with them."
    ),
    "watch": _here(
        "watch", "Print changes of read states as they happen: of each USER, or of all users."
    ),
    "worker": _here("worker", "Run one worker until SIGTERM, SIGINT or SIGHUP."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"max_content_width": 100})
@click.version_option(package_name="readstates")
def main() -> None:
    """Read States knows which messages each user has read, and how many mentions are waiting.
    Updates and queries reach it through Kafka.
    """


if __name__ == "__main__":
    main()
