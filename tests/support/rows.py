"""The service's rows in Cassandra, as the tests read them: past its code, by CQL."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from readstates.ops.local import cql

from .waiting import until

if TYPE_CHECKING:
    from .wire import Reply

Row = tuple[Any, ...]  # numbers; in some, the marks at the end

COLUMNS = (  # that replies show
    "read_state_type",
    "channel_id",
    "last_message_id",
    "last_mention_id",
    "mention_count",
    "last_pin_timestamp",
    "flags",
    "last_viewed",
    "version",
)
ENTRY = struct.Struct("=qQ")  # of the marks: a value, and tag << 40 | payload
MARK, UNCOUNTED = 0, 1  # two of the tags
FIRST_BYTES = 1 + len(COLUMNS)  # the place of the marks, after the user and the columns


class Rows:
    """The table `read_states` of one keyspace."""

    def __init__(self, host: str, port: int, keyspace: str) -> None:
        self._address, self._keyspace = (host, port), keyspace

    def _select(self, more: tuple[str, ...], where: str = "") -> list[tuple[int, Row, list[bytes]]]:
        """Each user and row, the marks at its end; and the raw values of `more` columns."""
        names = ("user_id", *COLUMNS, "marks", *more)
        query = f"SELECT {', '.join(names)} FROM {self._keyspace}.read_states {where}"
        found = []
        for row in cql.query(*self._address, query, 20):
            values = [value for value in row if value is not None]
            assert len(values) == len(row), f"a column is missing: {row}"
            user, *numbers = (int.from_bytes(v, "big", signed=True) for v in values[:FIRST_BYTES])
            whole = (*numbers, values[FIRST_BYTES])
            _check_marks(whole)
            found.append((user, whole, values[FIRST_BYTES + 1 :]))
        return found

    def of(self, user: int) -> list[Row]:
        """A user's rows in the order of `COLUMNS`, hidden ones among them."""
        return [row[:-1] for row in self.with_marks(user)]

    def with_marks(self, user: int) -> list[Row]:
        """The same rows, each with its marks at the end."""
        written = tuple(f"WRITETIME({name})" for name in (*COLUMNS[2:], "mentions", "marks"))
        rows = self._select(written, f"WHERE user_id = {user}")
        for _, row, times in rows:
            assert {int.from_bytes(time) for time in times} == {row[8]}, f"in parts: {row}"
        return [row for _, row, _ in rows]

    def mentions(self, user: int) -> list[list[int]]:
        """The mentions of each of the rows, as `cqlsh` shows them."""
        found = []
        for _, _, (value,) in self._select(("mentions",), f"WHERE user_id = {user}"):
            assert len(value) == 4 + 12 * int.from_bytes(value[:4])  # each has its length, 8
            found.append([message_id for _, message_id in struct.iter_unpack(">iq", value[4:])])
        return found

    def all(self) -> dict[tuple[int, int, int], Row]:
        """The whole table with marks, by (user, type, channel)."""
        return {(user, *row[:2]): row for user, row, _ in self._select(())}

    def wait(self, user: int, expected: list[Row]) -> None:
        """Until Cassandra has these rows of the user, and no others."""
        until(lambda: self.of(user) == expected or None, f"rows of {user}: {expected}")


def _check_marks(row: Row) -> None:
    """The count and the last mention against the marks."""
    entries = [
        (value, info >> 40, info & (1 << 40) - 1) for value, info in ENTRY.iter_unpack(row[9])
    ]
    mentioned = [value for value, tag, rank in entries if tag == MARK and not rank & 1]
    if not entries and row[4]:
        mentioned = [row[3]]  # the fields alone say it
    uncounted = sum(payload for _, tag, payload in entries if tag == UNCOUNTED)
    assert row[4] == min(len(mentioned) + uncounted, 2**32 - 1), f"count and marks differ: {row}"
    assert row[3] == max(mentioned, default=0), f"last mention and marks differ: {row}"


def rows_of(reply: Reply) -> list[Row]:
    """A complete reply as the rows that Cassandra must hold."""
    return [tuple(int(state[name]) for name in COLUMNS) for state in reply.states]
