"""Cassandra: the only module that knows the driver.

Loads and writes are started here and finish in callbacks on the driver's thread; they are handed
back to the event loop. Every driver exception becomes a StoreError. Reads and writes are at
LOCAL_QUORUM; every write carries its version as the write timestamp, so that a late or repeated
one can never overwrite a newer one.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import struct
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    ProtocolVersion,
    Timeout,
    Unavailable,
    UnresolvableContactPoints,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import (
    BatchMessage,
    ErrorMessage,
    OverloadedErrorMessage,
    ProtocolHandler,
)
from cassandra.query import BatchStatement, BatchType, tuple_factory
from readstates.schemas.cql import statements
from readstates.schemas.replies import ReadState
from readstates.streams.config import Settings
from readstates.streams.epochs import Log, is_last, present_log
from readstates.streams.errors import StoreError
from readstates.streams.row_bytes import Change, Packed, RowBytes
from readstates.streams.security import tls_context
from readstates.streams.version import EPOCH_FIRST

log = logging.getLogger(__name__)
logging.getLogger("cassandra").setLevel(logging.ERROR)

COLUMNS = (
    "read_state_type, channel_id, last_message_id, last_mention_id, mention_count, "
    "last_pin_timestamp, flags, last_viewed, version"
)
PAGE_ROWS = 5000
RECONNECT_MAX_S = 10.0  # between two looks at a node that is down
STATEMENT_TIMEOUT_S = 10.0  # of a statement on the schema or the epoch
PATIENCE_S = 30.0  # at a start it is tried again for so long where Cassandra is too slow for it
TRY_AGAIN_S = 0.5
TOO_SLOW = (OperationTimedOut, Timeout, Unavailable, OverloadedErrorMessage)
ANSWERS_A_TURN_S = 0.001  # of the event loop, then other work runs; at least one answer

_BIGINT = struct.Struct(">q").pack


class PackedBatch(BatchMessage):  # type: ignore[misc]  # the driver has no types
    """A BATCH whose queries are bytes already (row_bytes.py)."""

    def send_body(self, f: Any, protocol_version: int) -> None:
        has_long_flags = ProtocolVersion.uses_int_query_flags(protocol_version)
        f.write(struct.pack(">BH", self.batch_type.value, self.queries.queries))
        f.write(self.queries.body)
        f.write(struct.pack(">HI" if has_long_flags else ">HB", self.consistency_level, 0))


class Protocol(ProtocolHandler):  # type: ignore[misc]  # the driver has no types
    """The driver's own, except for batches of ours."""

    @classmethod
    def encode_message(cls, msg: Any, *rest: Any, **more: Any) -> Any:
        if type(msg) is BatchMessage and isinstance(msg.queries, Packed):
            msg.__class__ = PackedBatch
        return super().encode_message(msg, *rest, **more)


class Request:
    """A request under way: `done` gets `result`, or None after an error. Compared by identity."""

    __slots__ = ("done", "error", "result", "what")

    def __init__(self, done: Callable[[Any], None], what: str, result: Any) -> None:
        self.done = done
        self.what = what
        self.result = result
        self.error: Exception | None = None


class Store:
    """A session with the keyspace, and the statements the service uses.

    `broken` is called with an answer that could not be applied: the worker must stop.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broken: Callable[[Exception], None] = _raise
        self.commitlog_sync = ""  # how the nodes acknowledge; empty: not known
        self._open: dict[Request, float] = {}  # by deadline: all have the same time
        self._answers: deque[Request] = deque()
        self._delivering = False
        self._loop: asyncio.AbstractEventLoop
        try:
            self._cluster = _cluster(settings)
        except UnresolvableContactPoints as exc:
            raise StoreError(
                f"CASSANDRA_HOSTS: no address is known of any of {settings.cassandra_hosts}"
            ) from exc
        try:
            self._session: Session = self._cluster.connect()
        except (DriverException, NoHostAvailable) as exc:
            self._cluster.shutdown()
            raise StoreError(
                f"no Cassandra at {settings.cassandra_hosts}:{settings.cassandra_port}: {exc}. "
                f"{_advice(exc)}"
            ) from exc

    def close(self) -> None:
        """End the session; callbacks still under way may not come."""
        self._cluster.shutdown()

    # -- schema and epoch ---------------------------------------------------------------------

    def create_schema(self) -> None:
        """Keyspace and tables, where they are not there yet."""
        settings = self.settings
        for statement in statements(settings.cassandra_keyspace, settings.cassandra_replication):
            self._execute(statement, (), PATIENCE_S)

    def logs(self, patience_s: float = 0.0) -> dict[str, Log]:
        """The logs that this keyspace was written from, by topic.

        Raises StoreError, which names `readstates init` where the table lacks a column.
        """
        table = f"{self.settings.cassandra_keyspace}.log"
        query = (
            "SELECT topic, epoch, topic_id, partitions, first_offsets, WRITETIME(epoch), "
            f"WRITETIME(first_offsets) FROM {table}"
        )
        try:
            rows = self._execute(query, (), patience_s)
        except StoreError as exc:
            if not isinstance(exc.__cause__, InvalidRequest):
                raise
            raise StoreError(
                f"{exc}. The schema is missing or of an earlier version. Run: readstates init"
            ) from exc
        logs = {}
        for topic, epoch, topic_id, partitions, firsts, began_us, kept_us in rows:
            # those of an earlier epoch stay where an older version of the service begins one
            known = firsts is not None and len(firsts) == partitions and kept_us >= began_us
            first_offsets = tuple(firsts) if known else ()
            logs[topic] = Log(int(epoch), topic_id, partitions, first_offsets, began_us)
        return logs

    def claim_epoch(
        self,
        topic: str,
        topic_id: uuid.UUID,
        partitions: int,
        *,
        new_epoch_from: Sequence[int] | None = None,
    ) -> Log:
        """The epoch of this topic's log; the first topic of a keyspace sets it, by LWT.

        `new_epoch_from`: where the topic or its partition count is another one, a new epoch begins
        at these offsets of its partitions, above all that was written so far. Raises EpochError
        where it is another one and no new epoch may begin, or where it is not known at which
        offsets the epoch began.
        """
        table = f"{self.settings.cassandra_keyspace}.log"
        logs = self.logs(PATIENCE_S)
        if not logs:
            self._execute(
                f"INSERT INTO {table} (topic, epoch, topic_id, partitions, first_offsets) "
                "VALUES (%s, %s, %s, %s, %s) IF NOT EXISTS",
                (topic, EPOCH_FIRST, topic_id, partitions, [0] * partitions),
                PATIENCE_S,
            )
            return self.claim_epoch(topic, topic_id, partitions)
        if new_epoch_from is None or is_last(logs, topic, topic_id, partitions):
            keyspace = self.settings.cassandra_keyspace
            return present_log(logs, topic, topic_id, partitions, keyspace)
        known, last = logs.get(topic), max(log.epoch for log in logs.values())
        self._execute(
            f"UPDATE {table} SET epoch = %s, topic_id = %s, partitions = %s, first_offsets = %s "
            "WHERE topic = %s IF epoch = %s",
            (last + 1, topic_id, partitions, list(new_epoch_from), topic, known and known.epoch),
            PATIENCE_S,
        )
        return self.claim_epoch(topic, topic_id, partitions)

    def keep_first_offsets(self, topic: str, epoch: int, first_offsets: Sequence[int]) -> None:
        """Of an epoch that an earlier version of the service began, which did not keep them."""
        self._execute(
            f"UPDATE {self.settings.cassandra_keyspace}.log SET first_offsets = %s "
            "WHERE topic = %s IF epoch = %s",
            (list(first_offsets), topic, epoch),
            PATIENCE_S,
        )

    def _execute(self, query: str, values: tuple[Any, ...], patience_s: float) -> Any:
        """Run a statement that may be run twice; raises StoreError."""
        run = partial(self._session.execute, query, values, timeout=STATEMENT_TIMEOUT_S)
        try:
            return _patiently(query, run, patience_s)
        except (DriverException, ErrorMessage, NoHostAvailable) as exc:
            raise StoreError(f"Cassandra refused {query!r}: {exc}") from exc

    def prepare(self) -> None:
        """Prepare the hot statements. Raises StoreError where the schema is not there."""
        table = f"{self.settings.cassandra_keyspace}.read_states"
        where = "WHERE user_id = ? AND read_state_type = ? AND channel_id = ?"
        try:
            prepare = self._prepare
            self._insert = prepare(
                f"INSERT INTO {table} (user_id, {COLUMNS}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
            )
            self._delete = prepare(f"DELETE FROM {table} USING TIMESTAMP ? {where}")
            self._delete_user = prepare(f"DELETE FROM {table} USING TIMESTAMP ? WHERE user_id = ?")
            limit = self.settings.user_states_max
            self._select = prepare(
                f"SELECT user_id, {COLUMNS} FROM {table} WHERE user_id IN ? "
                f"PER PARTITION LIMIT {limit}"
            )
        except (DriverException, NoHostAvailable) as exc:
            raise StoreError(
                f"Cassandra refused a statement on {table}: {exc}. Run: readstates init"
            ) from exc
        self.commitlog_sync = self._setting("commitlog_sync")
        for statement in (self._insert, self._delete, self._delete_user, self._select):
            statement.consistency_level = ConsistencyLevel.LOCAL_QUORUM
            statement.is_idempotent = True
        self._select.fetch_size = PAGE_ROWS
        written = (self._insert, self._delete, self._delete_user)
        self._row_bytes = RowBytes(*(statement.query_id for statement in written))
        self._session.client_protocol_handler = Protocol

    def _prepare(self, query: str) -> Any:
        return _patiently(query, partial(self._session.prepare, query), PATIENCE_S)

    def _setting(self, name: str) -> str:
        """A setting of the node that answers; empty where this user may not see it."""
        try:
            query = "SELECT value FROM system_views.settings WHERE name = %s"
            found = self._session.execute(query, [name]).one()
        except (DriverException, ErrorMessage, NoHostAvailable):
            return ""
        return str(found[0]) if found else ""

    # -- the hot two --------------------------------------------------------------------------

    def load(
        self,
        user_ids: list[int],
        done: Callable[[dict[int, list[ReadState]] | None], None],
    ) -> None:
        """Fetch all read states of some users; `done` gets them by user, None for a failure.

        Users without rows are there with an empty list. Called on the event loop, as `done` is.
        """
        found: dict[int, list[ReadState]] = {user_id: [] for user_id in user_ids}
        self._send(self._select, (user_ids,), Request(done, f"load users={len(found)}", found))

    def write(self, changes: list[Change], done: Callable[[bool | None], None]) -> None:
        """Write one unlogged batch; `done` gets True once Cassandra acknowledged it, else None.

        A change is (user_id, version, row): a row to set; a row of which only type and channel
        count, negative version, to delete; no row, to delete all of the user's up to `version`.
        """
        batch = BatchStatement(
            batch_type=BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM
        )
        batch.is_idempotent = True
        batch.routing_key, batch.keyspace = _BIGINT(changes[0][0]), self._insert.keyspace
        batch._statements_and_parameters = self._row_bytes.pack(changes)  # see Protocol
        self._send(batch, None, Request(done, f"write rows={len(changes)}", True))

    def group_of(self, user_id: int) -> object:
        """What the user's rows share with those of others: the node that is their first replica.

        None where every node is a replica of everything. Costs some µs.
        """
        metadata = self._cluster.metadata
        replicas = metadata.get_replicas(self.settings.cassandra_keyspace, _BIGINT(user_id))
        return None if len(replicas) in (0, len(metadata.all_hosts())) else replicas[0]

    def _send(self, statement: Any, values: Any, request: Request) -> None:
        """Start a request without the driver's timer, which would keep it alive, answered or
        not, for all of its timeout: thousands of objects for the collector to walk.
        """
        self._loop = asyncio.get_running_loop()
        self._open[request] = time.monotonic() + self.settings.cassandra_timeout_s
        try:
            future = self._session.execute_async(statement, values, timeout=None)
        except (DriverException, NoHostAvailable) as exc:
            self._answered(request, exc)
            return
        about = (request, future)
        future.add_callbacks(self._page, self._failed, callback_args=about, errback_args=about)

    def _page(self, rows: Any, request: Request, future: Any) -> None:
        error: Exception | None = None
        try:
            for row in rows or ():
                request.result[row[0]].append(row[1:])
            if future.has_more_pages:
                future.start_fetching_next_page()
                return
        except Exception as exc:  # noqa: BLE001 (the driver would swallow it)
            error = exc
        future.clear_callbacks()  # they hold the future that holds them
        self._answered(request, error)

    def _failed(self, exc: Exception, request: Request, future: Any) -> None:
        future.clear_callbacks()
        self._answered(request, exc)

    def _answered(self, request: Request, error: Exception | None) -> None:
        """On any thread: hand an answer to the loop, which is woken once for many."""
        request.error = error
        self._answers.append(request)
        if not self._delivering and not self._loop.is_closed():
            self._delivering = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        end = time.monotonic() + ANSWERS_A_TURN_S
        while self._answers:
            request = self._answers.popleft()
            if self._open.pop(request, None) is None:  # too late, its time was over
                continue
            if request.error is not None:
                log.warning("cassandra_failed %s error=%.200s", request.what, request.error)
            try:
                request.done(None if request.error else request.result)
            except Exception as exc:
                log.exception("cassandra_answer_not_applied %s", request.what)
                self.broken(
                    StoreError(
                        f"what Cassandra answered to {request.what} could not be applied: {exc!r}. "
                        "The worker stops; nothing is lost. If a row was written by hand, mend it"
                    )
                )
            if time.monotonic() > end:
                break
        if self._answers and not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def expire(self) -> None:
        """End requests that took longer than CASSANDRA_TIMEOUT_S; a late answer is dropped."""
        now = time.monotonic()
        for request, deadline in self._open.items():
            if deadline > now:
                break
            self._answered(
                request, TimeoutError(f"no answer in {self.settings.cassandra_timeout_s} s")
            )

    def read_user(self, user_id: int) -> list[ReadState]:
        """All read states of one user, blocking; for tools and checks, not the service."""
        return [row[1:] for row in self._session.execute(self._select, ([user_id],))]

    def read_all(self) -> Iterable[tuple[int, ReadState]]:
        """Every (user, read state) of the keyspace, page by page; for checks."""
        table = f"{self.settings.cassandra_keyspace}.read_states"
        for row in self._session.execute(f"SELECT user_id, {COLUMNS} FROM {table}", timeout=60):
            yield row[0], row[1:]


def logs_of(settings: Settings) -> dict[str, Log]:
    """The logs that the keyspace was written from, for a command. Raises StoreError."""
    store = Store(settings)
    try:
        return store.logs()
    finally:
        store.close()


def _raise(exc: Exception) -> None:
    raise exc


def _patiently(query: str, run: Callable[[], Any], patience_s: float) -> Any:
    """`run()`, and for `patience_s` again where Cassandra is too slow for it.

    A statement that timed out may have been applied all the same. Raises StoreError after that
    time; any other error of the driver at once, as it is.
    """
    end_s = time.monotonic() + patience_s
    while True:
        try:
            return run()
        except TOO_SLOW as exc:
            if time.monotonic() >= end_s:
                raise StoreError(
                    f"Cassandra was too slow for {query!r}: {exc}. Look at its load and its log, "
                    "and try again: what was done so far is found then"
                ) from exc
            log.warning("cassandra_slow error=%.200s", exc)
            time.sleep(TRY_AGAIN_S)


def _advice(exc: Exception) -> str:
    """What to look at, by what the hosts answered."""
    causes = list(exc.errors.values()) if isinstance(exc, NoHostAvailable) else [exc]
    if any(isinstance(cause, AuthenticationFailed) for cause in causes):
        return "Check CASSANDRA_USERNAME and CASSANDRA_PASSWORD"
    if any("[SSL" in str(cause) for cause in causes):  # the driver makes an OSError of SSLError
        return (
            "Check CASSANDRA_TLS_CA, and that a node's certificate carries the address by which "
            "it is known"
        )
    return (
        "Check CASSANDRA_HOSTS and CASSANDRA_PORT; nodes that want TLS need CASSANDRA_TLS_CA; or "
        "start one: readstates stack up"
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    ca, cert, key = (getattr(settings, f"cassandra_tls_{name}") for name in ("ca", "cert", "key"))
    return tls_context("CASSANDRA_TLS_…", ca, cert, key) if ca else None


def _cluster(settings: Settings) -> Cluster:
    policy = DCAwareRoundRobinPolicy(settings.cassandra_local_dc or "")
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(policy),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        row_factory=tuple_factory,
    )
    auth = None
    if settings.cassandra_username:
        auth = PlainTextAuthProvider(settings.cassandra_username, settings.cassandra_password)
    return Cluster(
        settings.cassandra_hosts.split(","),
        port=settings.cassandra_port,
        auth_provider=auth,
        ssl_context=_tls(settings),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=10,
        idle_heartbeat_interval=10,
        # the driver's own waits up to ten minutes before it looks again, and gives up in the end
        reconnection_policy=ExponentialReconnectionPolicy(1.0, RECONNECT_MAX_S, max_attempts=None),
    )
