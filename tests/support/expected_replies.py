"""What a reply must say, made from the rows of the oracle and the words of the interface."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from readstates.ops.proof.oracle import Row

Place = tuple[int, int]  # read_state_type, channel_id
TYPE: Final = 0
CHANNEL: Final = 1
COUNT: Final = 4
VERSION: Final = 8
EXTRA: Final = 9


class Expected(NamedTuple):
    """Rows in their order; totals and next as in a reply."""

    rows: list[Row]
    totals: tuple[int, int, int] | None
    next: Place | None


def shown(rows: list[Row]) -> list[Row]:
    """Those that a reply has: one field at least is not zero."""
    return [row for row in rows if any(row[2:8])]


def places(rows: Iterable[Row]) -> list[Place]:
    """Their types and channels."""
    return [row[:2] for row in rows]


def asked_for(query: dict[str, Any]) -> Callable[[Row], bool]:
    """Whether a query is about a row, whatever it says of versions, mentions and pages."""
    channels, kind = query.get("channel_ids"), query.get("read_state_type")
    if channels is None:
        return lambda row: kind is None or row[TYPE] == kind
    return lambda row: row[TYPE] == (kind or 0) and row[CHANNEL] in channels


def expected(rows: list[Row], query: dict[str, Any], above: int) -> Expected:
    """The reply to a query, IDs as integers, if these are the user's rows.

    `above`: the `since_version` of a reply that is not full, or -1.
    """
    known = shown(rows)
    wanted = [row for row in known if asked_for(query)(row) and row[VERSION] > above]
    if query.get("mentioned"):
        wanted = [row for row in wanted if row[COUNT]]
    if query.get("after") is not None:
        wanted = [row for row in wanted if row[:2] > tuple(query["after"])]
    following, limit = None, query.get("limit")
    if limit is not None and len(wanted) > limit:
        wanted = wanted[:limit]
        following = wanted[-1][:2]
    totals = None
    if query.get("totals"):
        kind = query.get("read_state_type")
        counts = [row[COUNT] for row in known if kind is None or row[TYPE] == kind]
        totals = len(counts), sum(count > 0 for count in counts), sum(counts)
    return Expected(wanted, totals, following)


def mentions(row: Row) -> tuple[int, ...]:
    """The messages that mention the user, ascending."""
    if not row[EXTRA]:
        return (row[3],) if row[COUNT] else ()
    entries = struct.iter_unpack("<qQ", row[EXTRA])
    return tuple(message for message, info in entries if info >> 40 == 0 and info % 2 == 0)
