"""Answers a query about a resident user: with all read states asked for, or the changed ones."""

from __future__ import annotations

from readstates.cache.table import Table
from readstates.schemas.queries import Get
from readstates.schemas.read_state import CHANNEL, MENTION_COUNT, TYPE, VERSION, Row
from readstates.schemas.replies import Answer, Totals

from .effects import Effects
from .progress import Progress
from .query import Query


def answer(
    effects: Effects, table: Table, progress: Progress, query: Query, user: int, hit: bool
) -> None:
    """Answer with the user's read states in the table, as of the partition's position.

    The answer is complete (`full`) if `since_version` cannot be relied on: it is older than what
    the table knows of the user, or newer than the position (then it is from another log, or from a
    zombie). So is every answer with `mentioned`: a read state whose mentions were read since then
    is not in it, and only a complete answer says so.
    """
    get, version = query.get, progress.epoch_bits | progress.position
    since = get.since_version
    full = since is None or get.mentioned or since < table.floor(user) or since > version  # Q3
    above = -1 if since is None or full else since
    rows = _rows(table, user, get, above)
    totals = following = None
    if get.limit is not None and len(rows) > get.limit:
        del rows[get.limit :]
        following = rows[-1][:2]
    if get.totals:
        kind = get.read_state_type
        totals = Totals(*table.totals(user, -1 if kind is None else kind))
    effects.answer(query, Answer(version, full, rows, totals, following), hit)


def _rows(table: Table, user: int, get: Get, above: int) -> list[Row]:
    """The rows asked for with a version over `above`; of a page, one more, if there is one."""
    kind, after = get.read_state_type, get.after or (-1, 0)
    if get.channel_ids is None:
        most = 0 if get.limit is None else get.limit + 1
        wanted = -1 if kind is None else kind
        rows: list[Row] = table.select(user, wanted, above, get.mentioned, *after, most)
        return rows
    return [
        row
        for row in table.get_some(user, kind or 0, get.channel_ids)
        if row[VERSION] > above
        and (row[MENTION_COUNT] or not get.mentioned)
        and (row[TYPE], row[CHANNEL]) > after
    ]
