"""The service's rows in Cassandra, as the tests read them: past its code, by CQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from readstates.ops.local import cql

from .waiting import until

if TYPE_CHECKING:
    from .wire import Reply

Row = tuple[int, ...]

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

    def _select(self, columns: str, where: str = "") -> list[tuple[int | None, ...]]:
        query = f"SELECT {columns} FROM {self._keyspace}.read_states {where}"
        return [
            tuple(None if v is None else int.from_bytes(v, "big", signed=True) for v in row)
            for row in cql.query(*self._address, query, 20)
        ]

    def of(self, user: int) -> list[Row]:
        """A user's rows in the order of `COLUMNS`."""
        written = ", ".join(f"WRITETIME({name})" for name in COLUMNS[2:])
        found: list[Row] = []
        for row in self._select(f"{', '.join(COLUMNS)}, {written}", f"WHERE user_id = {user}"):
            values = [v for v in row if v is not None]
            assert len(values) == len(row), f"a column is missing: {row}"
            assert len(set(values[len(COLUMNS) :])) == 1, f"written in parts: {row}"
            found.append(tuple(values[: len(COLUMNS)]))
        return found

    def all(self) -> dict[tuple[int, int, int], Row]:
        """The whole table, by (user, type, channel)."""
        found = {}
        for row in self._select(f"user_id, {', '.join(COLUMNS)}"):
            values = tuple(v for v in row if v is not None)
            assert len(values) == len(row), f"a column is missing: {row}"
            found[values[0], values[1], values[2]] = values[1:]
        return found

    def wait(self, user: int, expected: list[Row]) -> None:
        """Until Cassandra has these rows of the user, and no others."""
        until(lambda: self.of(user) == expected or None, f"rows of {user}: {expected}")


def rows_of(reply: Reply) -> list[Row]:
    """A complete reply as the rows that Cassandra must hold."""
    return [tuple(int(state[name]) for name in COLUMNS) for state in reply.states]
