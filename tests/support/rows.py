"""The service's rows in Cassandra, as the tests read them: past its code, by CQL."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from readstates.ops.local import cql

from .waiting import until

if TYPE_CHECKING:
    from .wire import Reply

Row = tuple[Any, ...]  # as `COLUMNS`; a whole one has the bytes of the column `marks` as well

ENTRY = struct.Struct("=qQ")  # of the column `marks`: a value, and tag << 40 | payload
MARK, UNCOUNTED = 0, 1  # two of the tags

COLUMNS = (
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


class Rows:
    """The table `read_states` of one keyspace."""

    def __init__(self, host: str, port: int, keyspace: str) -> None:
        self._address, self._keyspace = (host, port), keyspace

    def _select(self, columns: str, where: str = "") -> list[list[bytes]]:
        query = f"SELECT {columns} FROM {self._keyspace}.read_states {where}"
        found: list[list[bytes]] = []
        for row in cql.query(*self._address, query, 20):
            values = [value for value in row if value is not None]
            assert len(values) == len(row), f"a column is missing: {row}"
            found.append(values)
        return found

    def of(self, user: int) -> list[Row]:
        """A user's rows in the order of `COLUMNS`; those that no reply shows as well."""
        return [row[: len(COLUMNS)] for row in self.whole(user)]

    def whole(self, user: int) -> list[Row]:
        """The same with the bytes of `marks`."""
        columns = [*COLUMNS, "marks", "mentions"]
        columns += [f"WRITETIME({name})" for name in columns[2:]]
        found: list[Row] = []
        for row in self._select(", ".join(columns), f"WHERE user_id = {user}"):
            assert len(set(row[len(COLUMNS) + 2 :])) == 1, f"written in parts: {row}"
            found.append(_whole(row))
        return found

    def all(self) -> dict[tuple[int, int, int], Row]:
        """The whole table, by (user, type, channel), but for the marks of final deletions."""
        return {place: row for place, row in self._all().items() if place[2]}

    def final(self) -> set[int]:
        """Users whose deletion is marked as final."""
        return {user for user, kind, channel in self._all() if (kind, channel) == (0, 0)}

    def _all(self) -> dict[tuple[int, int, int], Row]:
        found = {}
        for user, *row in self._select(f"user_id, {', '.join(COLUMNS)}, marks, mentions"):
            values = _whole(row)
            found[_number(user), values[0], values[1]] = values
        return found

    def wait(self, user: int, expected: list[Row]) -> None:
        """Until Cassandra has these rows of the user, and no others."""
        until(lambda: self.of(user) == expected or None, f"rows of {user}: {expected}")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def _whole(values: list[bytes]) -> Row:
    """A row's integers and its marks, checked against each other and the list of mentions."""
    row = tuple(_number(value) for value in values[: len(COLUMNS)])
    marks, mentions = values[len(COLUMNS) : len(COLUMNS) + 2]
    entries = [
        (value, info >> 40, info & (1 << 40) - 1) for value, info in ENTRY.iter_unpack(marks)
    ]
    mentioned = [value for value, tag, rank in entries if tag == MARK and not rank & 1]
    if not entries and row[4]:
        mentioned = [row[3]]  # a single mention is in the fields alone
    uncounted = sum(payload for _, tag, payload in entries if tag == UNCOUNTED)
    assert row[4] == min(len(mentioned) + uncounted, 2**32 - 1), f"count and marks differ: {row}"
    assert row[3] == max(mentioned, default=0), f"last mention and marks differ: {row}"
    assert _ids(mentions) == mentioned, f"mentions and marks differ: {row}"
    return (*row, marks)


def _ids(mentions: bytes) -> list[int]:
    """A list of bigint, as the protocol has it: a count, then each with its length."""
    (count,) = struct.unpack_from(">i", mentions)
    found = [(length, value) for length, value in struct.iter_unpack(">iq", mentions[4:])]
    assert len(found) == count
    assert all(length == 8 for length, _ in found)
    return [value for _, value in found]


def rows_of(reply: Reply) -> list[Row]:
    """A complete reply as the rows that Cassandra must hold."""
    return [tuple(int(state[name]) for name in COLUMNS) for state in reply.states]
