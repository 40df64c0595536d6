"""The database: its schema, its epoch, loads and writes.

Statements on the schema and the epoch block. Loads and writes are started here and answered on the
event loop by `requests.py`. Every exception of the driver becomes a StoreError. Reads and writes
are at LOCAL_QUORUM; every write carries its version as the write timestamp, so that a late or
repeated one can never overwrite a newer one.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from readstates.schemas.cql import statements
from readstates.schemas.read_state import Row
from readstates.schemas.version import EPOCH_FIRST

from ..config import Settings
from ..errors import EpochError, StoreError
from .driver import DRIVER_ERRORS, connect, packed_batch, patiently, prepare
from .requests import Request, Requests
from .row_bytes import Change, RowBytes

COLUMNS = (
    "read_state_type, channel_id, last_message_id, last_mention_id, mention_count, "
    "last_pin_timestamp, flags, last_viewed, version"
)
PAGE_ROWS = 5000
STATEMENT_TIMEOUT_S = 10.0  # of a statement on the schema or the epoch
READ_ALL_TIMEOUT_S = 60.0  # of one page
PATIENCE_S = 30.0  # at a start, a statement for which Cassandra is too slow is repeated this long

_BIGINT = struct.Struct(">q").pack


class Log(NamedTuple):
    """A log that the keyspace was written from."""

    epoch: int
    topic_id: uuid.UUID
    partitions: int


class Store:
    """A session with the keyspace, and the statements the service uses.

    `broken` is called with an answer that could not be applied: the worker must stop.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broken: Callable[[Exception], None] = _raise
        self.commitlog_sync = ""  # how the nodes acknowledge; empty: not known
        self._requests = Requests(settings.cassandra_timeout_s, lambda exc: self.broken(exc))
        self._session = connect(settings)

    def close(self) -> None:
        """End the session; callbacks still under way may not come."""
        self._session.cluster.shutdown()

    # -- schema and epoch ---------------------------------------------------------------------

    def create_schema(self) -> None:
        """Keyspace and tables, where they are not there yet."""
        settings = self.settings
        for statement in statements(settings.cassandra_keyspace, settings.cassandra_replication):
            self._execute(statement, (), PATIENCE_S)

    def logs(self, patience_s: float = 0.0) -> dict[str, Log]:
        """The logs that this keyspace was written from, by topic. Raises StoreError."""
        table = f"{self.settings.cassandra_keyspace}.log"
        query = f"SELECT topic, epoch, topic_id, partitions FROM {table}"
        rows = self._execute(query, (), patience_s)
        return {topic: Log(int(epoch), *more) for topic, epoch, *more in rows}

    def claim_epoch(
        self, topic: str, topic_id: uuid.UUID, partitions: int, *, new_epoch: bool = False
    ) -> int:
        """The epoch of this topic's log; the first topic of a keyspace sets it, by LWT.

        Raises EpochError where the database was written from another topic or partition count;
        with `new_epoch` the log begins anew, above all that was written so far.
        """
        table = f"{self.settings.cassandra_keyspace}.log"
        logs = self.logs(PATIENCE_S)
        last = max(logs.values(), default=None)
        known = logs.get(topic)
        if known is not None and known == (last.epoch, topic_id, partitions):  # type: ignore[union-attr]
            return known.epoch
        if last is None:
            self._execute(
                f"INSERT INTO {table} (topic, epoch, topic_id, partitions) "
                "VALUES (%s, %s, %s, %s) IF NOT EXISTS",
                (topic, EPOCH_FIRST, topic_id, partitions),
                PATIENCE_S,
            )
            return self.claim_epoch(topic, topic_id, partitions)
        if new_epoch:
            self._execute(
                f"UPDATE {table} SET epoch = %s, topic_id = %s, partitions = %s "
                "WHERE topic = %s IF epoch = %s",
                (last.epoch + 1, topic_id, partitions, topic, known and known.epoch),
                PATIENCE_S,
            )
            return self.claim_epoch(topic, topic_id, partitions)
        name = next(name for name, log in logs.items() if log == last)
        raise EpochError(
            f"{topic} has topic ID {topic_id} and {partitions} partitions, but "
            f"{self.settings.cassandra_keyspace} was last written from {name}, topic ID "
            f"{last.topic_id} with {last.partitions} partitions (epoch {last.epoch}). Offsets "
            "would run backwards and new changes would be taken for old ones. Point "
            "KAFKA_BOOTSTRAP, TOPIC_PREFIX and CASSANDRA_KEYSPACE at each other; if the log was "
            "replaced on purpose and the old one is written out, run: readstates init --new-epoch"
        )

    def _execute(self, query: str, values: tuple[Any, ...], patience_s: float) -> Any:
        """Run a statement that may be run twice; raises StoreError."""
        run = partial(self._session.execute, query, values, timeout=STATEMENT_TIMEOUT_S)
        try:
            return patiently(query, run, patience_s)
        except DRIVER_ERRORS as exc:
            raise StoreError(f"Cassandra refused {query!r}: {exc}") from exc

    def prepare(self) -> None:
        """Prepare the hot statements. Raises StoreError where the schema is not there."""
        table = f"{self.settings.cassandra_keyspace}.read_states"
        where = "WHERE user_id = ? AND read_state_type = ? AND channel_id = ?"
        try:
            self._insert = self._prepare(
                f"INSERT INTO {table} (user_id, {COLUMNS}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
            )
            self._delete = self._prepare(f"DELETE FROM {table} USING TIMESTAMP ? {where}")
            self._delete_user = self._prepare(
                f"DELETE FROM {table} USING TIMESTAMP ? WHERE user_id = ?"
            )
            self._select = self._prepare(
                f"SELECT user_id, {COLUMNS} FROM {table} WHERE user_id IN ? "
                f"PER PARTITION LIMIT {self.settings.user_states_max}"
            )
        except DRIVER_ERRORS as exc:
            raise StoreError(
                f"Cassandra refused a statement on {table}: {exc}. Run: readstates init"
            ) from exc
        self.commitlog_sync = self._setting("commitlog_sync")
        self._select.fetch_size = PAGE_ROWS
        written = (self._insert, self._delete, self._delete_user)
        self._row_bytes = RowBytes(*(statement.query_id for statement in written))

    def _prepare(self, query: str) -> Any:
        return patiently(query, partial(prepare, self._session, query), PATIENCE_S)

    def _setting(self, name: str) -> str:
        """A setting of the node that answers; empty where this user may not see it."""
        try:
            query = "SELECT value FROM system_views.settings WHERE name = %s"
            row = self._session.execute(query, [name]).one()
        except DRIVER_ERRORS:
            return ""
        return str(row[0]) if row else ""

    # -- the hot two --------------------------------------------------------------------------

    def load(
        self,
        user_ids: list[int],
        done: Callable[[dict[int, list[Row]] | None], None],
    ) -> None:
        """Fetch all read states of some users; `done` gets them by user, None for a failure.

        Users without rows are there with an empty list. Called on the event loop, as `done` is.
        """
        rows: dict[int, list[Row]] = {user_id: [] for user_id in user_ids}
        self._send(self._select, (user_ids,), Request(done, f"load users={len(rows)}", rows))

    def write(self, changes: list[Change], done: Callable[[bool | None], None]) -> None:
        """Write one unlogged batch; `done` gets True once Cassandra acknowledged it, else None.

        A change is (user_id, version, row): a row to set; a row of which only type and channel
        count, negative version, to delete; no row, to delete all of the user's up to `version`.
        """
        routing_key, keyspace = _BIGINT(changes[0][0]), self._insert.keyspace
        batch = packed_batch(self._row_bytes.pack(changes), routing_key, keyspace)
        self._send(batch, None, Request(done, f"write rows={len(changes)}", True))

    def group_of(self, user_id: int) -> object:
        """What the user's rows share with those of others: the node that is their first replica.

        None where every node is a replica of everything. Costs some µs.
        """
        metadata = self._session.cluster.metadata
        replicas = metadata.get_replicas(self.settings.cassandra_keyspace, _BIGINT(user_id))
        return None if len(replicas) in (0, len(metadata.all_hosts())) else replicas[0]

    def _send(self, statement: Any, values: Any, request: Request) -> None:
        """Start a request without the driver's timer, which would keep it alive, answered or
        not, for all of its timeout: thousands of objects for the collector to walk.
        """
        self._requests.begin(request)
        try:
            future = self._session.execute_async(statement, values, timeout=None)
        except DRIVER_ERRORS as exc:
            self._requests.answer(request, exc)
        else:
            self._requests.follow(request, future)

    def expire(self) -> None:
        """End requests that took longer than CASSANDRA_TIMEOUT_S; a late answer is dropped."""
        self._requests.expire()

    def read_all(self) -> Iterable[tuple[int, Row]]:
        """Every (user, read state) of the keyspace, page by page; for checks."""
        table = f"{self.settings.cassandra_keyspace}.read_states"
        for row in self._session.execute(
            f"SELECT user_id, {COLUMNS} FROM {table}", timeout=READ_ALL_TIMEOUT_S
        ):
            yield row[0], row[1:]


def _raise(exc: Exception) -> None:
    raise exc
