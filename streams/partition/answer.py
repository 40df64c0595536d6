"""Answers a query about a resident user: with all read states asked for, or the changed ones."""

from __future__ import annotations

from readstates.cache.table import Table
from readstates.schemas.read_state import TYPE, VERSION

from .effects import Effects
from .progress import Progress
from .query import Query


def answer(
    effects: Effects, table: Table, progress: Progress, query: Query, user: int, hit: bool
) -> None:
    """Answer with the user's read states in the table, as of the partition's position.

    The answer is complete (`full`) if `since_version` cannot be relied on: it is older than what
    the table knows of the user, or newer than the position (then it is from another log, or from a
    zombie).
    """
    get, version = query.get, progress.epoch_bits | progress.position
    since = get.since_version
    full = since is None or since < table.floor(user) or since > version  # Q3
    kind = get.read_state_type
    if get.channel_ids is None:
        rows = table.states(user)
        if kind is not None:
            rows = [row for row in rows if row[TYPE] == kind]
    else:
        rows = table.get_some(user, kind or 0, get.channel_ids)
    if since is not None and not full:
        rows = [row for row in rows if row[VERSION] > since]
    effects.answer(query, version, full, rows, hit)
