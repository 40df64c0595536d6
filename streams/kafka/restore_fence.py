"""Keeps workers out while a database is being restored, by what the group's commits say.

The first step of a restore gives each of the group's commits metadata that names no database. A
worker that finds it refuses to open the partition, of whatever version it is. Kafka takes the
commits only while the group is empty. So no worker folds a record over a database that is restored
in part, even if it was already starting, and even if the restore is interrupted. The last step sets
the commits to where the restore ended, and names the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..config import Settings
from ..errors import ReadStatesError
from .group_consumer import Committed

NO_DATABASE = 0  # where the name of a database has its ID or, in earlier versions, a time
RESTORING = re.compile(rf"live:[0-9]+;[0-9]+@{NO_DATABASE};")


def restoring(epoch: int) -> str:
    """The metadata of commits while the database is restored up to this epoch."""
    return f"live:0;{epoch}@{NO_DATABASE};"


def is_restoring(metadata: str | None) -> bool:
    """True if a restore has not ended."""
    return RESTORING.match(metadata or "") is not None


def unfinished() -> str:
    """The text if a restore has not ended."""
    return (
        "the group's commits say that a restore of the database has begun and has not ended, so "
        "the database may lack updates. Run readstates restore again, until it says that the "
        "restore has ended"
    )


def refuse_while_restoring(
    settings: Settings, commits: Iterable[Committed], error: type[ReadStatesError]
) -> None:
    """Raise `error` if one of the group's commits says that a restore has not ended."""
    if any(is_restoring(metadata) for _, metadata in commits):
        raise error(f"group {settings.kafka_group}: {unfinished()}")
