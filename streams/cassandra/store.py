"""The keyspace in Cassandra: its schema, its epochs, loads and writes.

An epoch is one log: a topic ID and a partition count (see `epochs.py`). The methods for the schema
and for epochs are blocking. Loads and writes are not: `requests.py` calls their callbacks on the
event loop. All reads and writes use LOCAL_QUORUM. The write timestamp of a row is its version (the
epoch and offset of its last update), so a late or repeated write never replaces a newer row.
"""

from __future__ import annotations

import logging
import math
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from readstates.cache.layout import side_slots_max, slots_for
from readstates.schemas.cql import statements
from readstates.schemas.read_state import Row
from readstates.schemas.version import EPOCH_FIRST

from ..config import Settings
from ..errors import SchemaMissingError, StoreError
from .driver import DRIVER_ERRORS, connect, is_invalid_request, packed_batch, patiently, prepare
from .epochs import Log, database_id_of, is_last, present_log
from .loaded_rows import COLUMNS, SELECTED, user_and_row
from .requests import Request, Requests
from .row_bytes import Change, RowBytes

PAGE_ROWS = 5000
LOAD_ROWS_MAX = 2 * PAGE_ROWS  # limit of one `load`; its last page may exceed the limit
STATEMENT_TIMEOUT_S = 10.0  # for a statement on the schema or the epochs
READ_ALL_TIMEOUT_S = 60.0  # for one page of `read_all`
PATIENCE_S = 30.0  # how long a statement at start-up is repeated while Cassandra is too slow

INIT = (
    "Run: readstates init. But if the keyspace existed before, read ops/runbooks/restore.md first: "
    "somebody dropped the keyspace, or CASSANDRA_HOSTS names another cluster"
)

log = logging.getLogger(__name__)

_BIGINT = struct.Struct(">q").pack


class Store:
    """A session with the keyspace, and its prepared statements.

    If a callback raises an exception, `broken` is called with it and must stop the worker.
    """

    taken_over: tuple[str, ...] = (
        "_session", "_insert", "_delete", "_delete_user", "_select", "_row_bytes"
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broken: Callable[[Exception], None] = _raise
        self.replication: dict[str, str] = {}  # the keyspace's replication at start-up
        self.commitlog_sync = ""  # Cassandra's setting; empty if not known
        slots = slots_for(settings.cache_states)
        hidden = side_slots_max(settings.user_states_max, slots)
        # One more than the rows that a user may have. A load of this many rows was cut short.
        self._rows_max = settings.user_states_max + hidden + 1
        self._requests = Requests(
            settings.cassandra_timeout_s, lambda exc: self.broken(exc), self._note_failure
        )
        # While this is True, loads fail, because somebody may have replaced the database with an
        # empty one. The store calls `doubted`, which must have the database checked.
        self.is_doubted = False
        self.doubted: Callable[[], None] = lambda: None
        self._session = connect(settings)
        self._claimed: tuple[str, Log] | None = None  # the topic and its log

    def close(self) -> None:
        """End the session. The callbacks of unfinished requests may never be called."""
        self._session.cluster.shutdown()

    # -- nodes at new addresses (addresses.py) ------------------------------------------------

    @property
    def addresses(self) -> set[str]:
        """The addresses of all nodes that the driver knows."""
        return {str(host.address) for host in self._session.cluster.metadata.all_hosts()}

    @property
    def is_cut_off(self) -> bool:
        """True if every node that the driver knows is down."""
        return not any(host.is_up for host in self._session.cluster.metadata.all_hosts())

    def check_epoch_of(self, other: Store) -> None:
        """Check that both stores are connected to the same database. Raises StoreError if not."""
        if other._claimed is None:
            return
        topic, claimed = other._claimed
        found = self.logs().get(topic)
        if found is None or found.database.name != claimed.database.name:
            raise StoreError(
                f"CASSANDRA_HOSTS names another database: for {topic}, that database has "
                f"{found.database.said if found else 'no epoch'}, not {claimed.database.said}. "
                "Correct CASSANDRA_HOSTS, or restore the database: ops/runbooks/restore.md"
            )

    def another(self) -> Store:
        """Connect a second store. Call its `prepare` before you use it. Raises StoreError."""
        return Store(self.settings)

    def take_over(self, found: Store) -> None:
        """Swap connections and statements with the store `found`, which the caller then closes.

        Requests on the old connections end within CASSANDRA_TIMEOUT_S.
        """
        for name in self.taken_over:
            old = getattr(self, name)
            setattr(self, name, getattr(found, name))
            setattr(found, name, old)

    # -- schema and epoch ---------------------------------------------------------------------

    def create_schema(self) -> None:
        """Create the keyspace and the tables that do not exist yet.

        If the keyspace exists, this sends no CREATE KEYSPACE: even with IF NOT EXISTS, Cassandra
        would require the permission to create keyspaces.
        """
        settings = self.settings
        there = self.execute(
            "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s",
            (settings.cassandra_keyspace,),
            PATIENCE_S,
        ).one()
        for statement in statements(settings.cassandra_keyspace, settings.cassandra_replication):
            if there is None or not statement.startswith("CREATE KEYSPACE"):
                self.execute(statement, (), PATIENCE_S)

    def logs(self, patience_s: float = 0.0) -> dict[str, Log]:
        """The logs from which this keyspace was written, by topic. Raises StoreError.

        The error is a SchemaMissingError if the table or one of its columns is missing.
        """
        table = f"{self.settings.cassandra_keyspace}.log"
        query = (
            "SELECT topic, epoch, topic_id, partitions, first_offsets, WRITETIME(epoch), "
            f"WRITETIME(first_offsets), database_id FROM {table}"
        )
        try:
            rows = self.execute(query, (), patience_s)
        except StoreError as exc:
            if not is_invalid_request(exc.__cause__):
                raise
            raise SchemaMissingError(
                f"{exc}. The schema is missing or from an earlier version. {INIT}"
            ) from exc
        logs = {}
        for topic, epoch, topic_id, partitions, firsts, began_us, kept_us, database_id in rows:
            # An older version of the service begins an epoch without setting first_offsets.
            known = firsts is not None and len(firsts) == partitions and kept_us >= began_us
            first_offsets = tuple(firsts) if known else ()
            logs[topic] = Log(
                int(epoch), topic_id, partitions, first_offsets, began_us, database_id
            )
        return logs

    def claim_epoch(
        self,
        topic: str,
        topic_id: uuid.UUID,
        partitions: int,
        *,
        new_epoch_from: Sequence[int] | None = None,
    ) -> Log:
        """Return the log of this topic. If its epoch or the database's ID is missing, store it.

        A new topic ID or partition count requires a new epoch, with `new_epoch_from` as the first
        offset of each partition. Raises EpochError if a required `new_epoch_from` is None, or if
        the present epoch's first offsets are not known. All writes are lightweight transactions.
        """
        table = f"{self.settings.cassandra_keyspace}.log"
        logs = self.logs(PATIENCE_S)
        if not logs:
            self.execute(
                f"INSERT INTO {table} "
                "(topic, epoch, topic_id, partitions, first_offsets, database_id) "
                "VALUES (%s, %s, %s, %s, %s, %s) IF NOT EXISTS",
                (topic, EPOCH_FIRST, topic_id, partitions, [0] * partitions, database_id_of(logs)),
                PATIENCE_S,
            )
            return self.claim_epoch(topic, topic_id, partitions)
        if new_epoch_from is None or is_last(logs, topic, topic_id, partitions):
            keyspace = self.settings.cassandra_keyspace
            log_of_topic = present_log(logs, topic, topic_id, partitions, keyspace)
            if log_of_topic.database_id is None:
                self.execute(
                    f"UPDATE {table} SET database_id = %s "
                    "WHERE topic = %s IF epoch = %s AND database_id = null",
                    (database_id_of(logs), topic, log_of_topic.epoch),
                    PATIENCE_S,
                )
                return self.claim_epoch(topic, topic_id, partitions)
            self._claimed = topic, log_of_topic
            return log_of_topic
        known, last = logs.get(topic), max(log.epoch for log in logs.values())
        self.execute(
            f"UPDATE {table} SET epoch = %s, topic_id = %s, partitions = %s, first_offsets = %s, "
            "database_id = %s WHERE topic = %s IF epoch = %s",
            (
                *(last + 1, topic_id, partitions, list(new_epoch_from), database_id_of(logs)),
                *(topic, known and known.epoch),
            ),
            PATIENCE_S,
        )
        return self.claim_epoch(topic, topic_id, partitions)

    def keep_first_offsets(self, topic: str, epoch: int, first_offsets: Sequence[int]) -> None:
        """Store the first offsets of an epoch that was stored without them."""
        self.execute(
            f"UPDATE {self.settings.cassandra_keyspace}.log SET first_offsets = %s "
            "WHERE topic = %s IF epoch = %s",
            (list(first_offsets), topic, epoch),
            PATIENCE_S,
        )

    def execute(self, query: str, values: tuple[Any, ...], patience_s: float) -> Any:
        """Run a statement that is safe to repeat. Raises StoreError."""
        run = partial(self._session.execute, query, values, timeout=STATEMENT_TIMEOUT_S)
        try:
            return patiently(query, run, patience_s)
        except DRIVER_ERRORS as exc:
            raise StoreError(f"Cassandra refused {query!r}: {exc}") from exc

    def prepare(self) -> None:
        """Prepare the statements for loads and writes. Raises StoreError if a table is missing."""
        table = f"{self.settings.cassandra_keyspace}.read_states"
        where = "WHERE user_id = ? AND read_state_type = ? AND channel_id = ?"
        try:
            self._insert = self._prepare(
                f"INSERT INTO {table} (user_id, {COLUMNS}, mentions) "
                # TTL 0 overrides the table's default_time_to_live.
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL 0"
            )
            self._delete = self._prepare(f"DELETE FROM {table} USING TIMESTAMP ? {where}")
            self._delete_user = self._prepare(
                f"DELETE FROM {table} USING TIMESTAMP ? WHERE user_id = ?"
            )
            self._select = self._prepare(
                f"SELECT {SELECTED} FROM {table} WHERE user_id IN ? "
                f"PER PARTITION LIMIT {self._rows_max}"
            )
        except DRIVER_ERRORS as exc:
            raise StoreError(f"Cassandra refused a statement on {table}: {exc}. {INIT}") from exc
        self.replication = self.replication_now()
        self.commitlog_sync = self._setting("commitlog_sync")
        self._select.fetch_size = PAGE_ROWS
        written = (self._insert, self._delete, self._delete_user)
        self._row_bytes = RowBytes(*(statement.query_id for statement in written))

    def replication_now(self) -> dict[str, str]:
        """The current replication of the keyspace. Raises StoreError."""
        query = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s"
        rows = list(self.execute(query, (self.settings.cassandra_keyspace,), 0.0))
        return {str(key): str(value) for row in rows for key, value in row[0].items()}

    def _prepare(self, query: str) -> Any:
        return patiently(query, partial(prepare, self._session, query), PATIENCE_S)

    def _setting(self, name: str) -> str:
        """Read a setting of one node. Returns an empty text if this user has no permission."""
        try:
            query = "SELECT value FROM system_views.settings WHERE name = %s"
            row = self._session.execute(query, [name]).one()
        except DRIVER_ERRORS:
            return ""
        return str(row[0]) if row else ""

    # -- loads and writes ---------------------------------------------------------------------

    def load(
        self,
        user_ids: list[int],
        done: Callable[[dict[int, list[Row]] | None], None],
    ) -> None:
        """Load the rows of some users. `done` gets them by user, or None after a failure.

        A user without rows has an empty list. If there are more than LOAD_ROWS_MAX rows, `done`
        gets an empty dict. In that case, call `load_large` for one user at a time. Call this on the
        event loop, where `done` is called, too.
        """
        self._load(user_ids, done, LOAD_ROWS_MAX)

    def load_large(
        self,
        user_ids: list[int],
        done: Callable[[dict[int, list[Row]] | None], None],
    ) -> None:
        """Like `load`, but without LOAD_ROWS_MAX.

        A user may have 2 × USER_STATES_MAX rows of 0.5 KiB each, so limit the number of requests.
        """
        self._load(user_ids, done, math.inf)

    def _load(
        self,
        user_ids: list[int],
        done: Callable[[dict[int, list[Row]] | None], None],
        rows_max: float,
    ) -> None:
        def loaded(by_user: dict[int, list[Row]] | None) -> None:
            if by_user and any(len(rows) == self._rows_max for rows in by_user.values()):
                self._warn_of_a_cut(by_user)
            done(by_user)

        rows: dict[int, list[Row]] = {user_id: [] for user_id in user_ids}
        request = Request(loaded, f"load users={len(rows)}", rows, rows_max)
        self._load_from(self._select, user_ids, request)

    def _load_from(self, select: Any, user_ids: list[int], request: Request) -> None:
        if self.is_doubted:
            self._requests.begin(request)
            self._requests.answer(request, StoreError("the database may have been replaced"))
        else:
            self._send(select, (user_ids,), request)

    def _note_failure(self, exc: Exception) -> None:
        """Stop all loads if a table is missing: somebody may create it again, but without rows."""
        if is_invalid_request(exc) and not self.is_doubted:
            self.is_doubted = True
            self.doubted()

    def _warn_of_a_cut(self, by_user: dict[int, list[Row]]) -> None:
        cut = [user_id for user_id, rows in by_user.items() if len(rows) == self._rows_max]
        log.error(
            "load_cut_short users=%d rows_max=%d: a user has more read states than USER_STATES_MAX "
            "(%d) allows. Replies lack the read states with the largest types and channel IDs. Set "
            "USER_STATES_MAX as high as it was before. The log level DEBUG shows the user IDs",
            len(cut), self._rows_max, self.settings.user_states_max,
        )  # fmt: skip
        log.debug("load_cut_short user_ids=%s", cut)

    def write(self, changes: list[Change], done: Callable[[bool | None], None]) -> None:
        """Write one unlogged batch. `done` gets True if Cassandra acknowledges it, otherwise None.

        A change is (user_id, version, row). A positive version sets the row. A negative version
        deletes it; then only the row's type and channel are used. Without a row, the change deletes
        all read states of the user that are older than `version`.
        """
        routing_key, keyspace = _BIGINT(changes[0][0]), self._insert.keyspace
        batch = packed_batch(self._row_bytes.pack(changes), routing_key, keyspace)
        self._send(batch, None, Request(done, f"write rows={len(changes)}", True))

    def group_of(self, user_id: int) -> object:
        """The group of a user. All users in a batch have the same group. Takes a few µs.

        It is the node with the user's first replica, or None if every node has all rows.
        """
        metadata = self._session.cluster.metadata
        replicas = metadata.get_replicas(self.settings.cassandra_keyspace, _BIGINT(user_id))
        return None if len(replicas) in (0, len(metadata.all_hosts())) else replicas[0]

    def _send(self, statement: Any, values: Any, request: Request) -> None:
        """Start a request without the driver's timer. Even after the answer, the timer would keep
        the request in memory, and the garbage collector would have thousands of objects to scan.
        """
        self._requests.begin(request)
        try:
            future = self._session.execute_async(statement, values, timeout=None)
        except DRIVER_ERRORS as exc:
            self._requests.answer(request, exc)
        else:
            self._requests.follow(request, future)

    def expire(self) -> None:
        """Fail the requests that have taken longer than CASSANDRA_TIMEOUT_S. Drop late answers."""
        self._requests.expire()

    def read_all(self) -> Iterable[tuple[int, Row]]:
        """Yield (user ID, row) for every row of the keyspace, page by page. Checks use this.

        This includes read states that replies do not show, and the rows that record final
        deletions of users (type 0, channel 0).
        """
        table = f"{self.settings.cassandra_keyspace}.read_states"
        for row in self._session.execute(
            f"SELECT {SELECTED} FROM {table}", timeout=READ_ALL_TIMEOUT_S
        ):
            yield user_and_row(row)


def logs_of(settings: Settings) -> dict[str, Log]:
    """Connect, read `Store.logs`, and disconnect. Raises StoreError."""
    store = Store(settings)
    try:
        return store.logs()
    finally:
        store.close()


def _raise(exc: Exception) -> None:
    raise exc
