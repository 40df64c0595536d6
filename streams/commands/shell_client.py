"""The client as commands use it: its errors end the command with a line, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ..config import Settings
from .options import errors_as_messages

if TYPE_CHECKING:
    from ..client import BlockingClient


@contextmanager
def shell_client(settings: Settings) -> Iterator[BlockingClient]:
    """A client of the brokers that the settings name."""
    from ..client import BlockingClient, QueryError
    from ..kafka.admin import connect_admin

    with errors_as_messages():
        connect_admin(settings)  # says what is wrong with a login; a client would only time out
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


def place_of(settings: Settings, user: int, offset: int) -> str:
    """The offset of an update of the user, and its partition, in words."""
    from readstates.schemas.partitioner import partition_of
    from readstates.schemas.wire import key_bytes

    from ..kafka.admin import connect_admin
    from ..kafka.topics import describe

    name = settings.updates_topic
    partitions = describe(connect_admin(settings), name).partitions
    return f"offset {offset} in partition {partition_of(key_bytes(user), partitions)} of {name}"
