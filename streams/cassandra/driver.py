"""Cassandra's driver; no other module imports it.

This module makes a session, with its login, policies and timeouts. It sends batches as the bytes
that `row_bytes.py` has packed, and maps the driver's exceptions to what the operator should do.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable
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

from ..config import Settings
from ..errors import StoreError
from ..tls import tls_context
from .row_bytes import Packed

log = logging.getLogger(__name__)
logging.getLogger("cassandra").setLevel(logging.ERROR)

CONNECT_TIMEOUT_S = 10
HEARTBEAT_S = 10
# Without it, a load waits up to 40 ms for the acknowledgement of a batch sent before it.
NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
RECONNECT_MAX_S = 10.0  # between two attempts to reach a node that is down
TRY_AGAIN_S = 0.5
DRIVER_ERRORS = (DriverException, ErrorMessage, NoHostAvailable)
TOO_SLOW = (OperationTimedOut, Timeout, Unavailable, OverloadedErrorMessage)


def is_invalid_request(exc: BaseException | None) -> bool:
    """True if a node says that a statement names a table or column that does not exist."""
    return isinstance(exc, InvalidRequest)


def connect(settings: Settings) -> Session:
    """Connect to the nodes; returns the session. Raises StoreError, which says what to check."""
    try:
        cluster = _cluster(settings)
    except UnresolvableContactPoints as exc:
        raise StoreError(
            f"CASSANDRA_HOSTS: no address is known for any of {settings.cassandra_hosts}"
        ) from exc
    try:
        session = cluster.connect()
    except DRIVER_ERRORS as exc:
        cluster.shutdown()
        raise StoreError(
            f"no Cassandra at {settings.cassandra_hosts}:{settings.cassandra_port}: {exc}. "
            f"{_advice(exc)}"
        ) from exc
    session.client_protocol_handler = Protocol
    return session


def _cluster(settings: Settings) -> Cluster:
    policy = DCAwareRoundRobinPolicy(settings.cassandra_local_dc or "")
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(policy),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        row_factory=tuple_factory,
    )
    auth = tls = None
    if settings.cassandra_username:
        auth = PlainTextAuthProvider(settings.cassandra_username, settings.cassandra_password)
    if settings.cassandra_tls_ca:
        files = (getattr(settings, f"cassandra_tls_{name}") for name in ("ca", "cert", "key"))
        tls = tls_context("CASSANDRA_TLS_…", *files)
    return Cluster(
        settings.cassandra_hosts.split(","),
        port=settings.cassandra_port,
        auth_provider=auth,
        ssl_context=tls,
        sockopts=[NO_DELAY],
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=CONNECT_TIMEOUT_S,
        idle_heartbeat_interval=HEARTBEAT_S,
        # the driver's own policy waits up to ten minutes between attempts, and gives up at last
        reconnection_policy=ExponentialReconnectionPolicy(1.0, RECONNECT_MAX_S, max_attempts=None),
    )


def _advice(exc: Exception) -> str:
    """What to check, depending on the errors of the hosts."""
    causes = list(exc.errors.values()) if isinstance(exc, NoHostAvailable) else [exc]
    if any(isinstance(cause, AuthenticationFailed) for cause in causes):
        return "Check CASSANDRA_USERNAME and CASSANDRA_PASSWORD"
    if any("[SSL" in str(cause) for cause in causes):  # the driver makes an SSLError an OSError
        return (
            "Check CASSANDRA_TLS_CA, and that a node's certificate carries the address by which "
            "it is known"
        )
    return (
        "Check CASSANDRA_HOSTS and CASSANDRA_PORT; nodes that want TLS need CASSANDRA_TLS_CA; or "
        "start one: readstates stack up"
    )


def patiently(query: str, run: Callable[[], Any], patience_s: float) -> Any:
    """Call `run()`, and repeat it for `patience_s` while Cassandra is too slow for it.

    A statement that timed out may have been applied nevertheless. Raises StoreError after that
    time; raises any other error of the driver at once and unchanged.
    """
    end_s = time.monotonic() + patience_s
    while True:
        try:
            return run()
        except TOO_SLOW as exc:
            if time.monotonic() >= end_s:
                raise StoreError(
                    f"Cassandra was too slow for {query!r}: {exc}. Look at its load and its log, "
                    "and try again: that goes on from what has been done so far"
                ) from exc
            log.warning("cassandra_slow error=%.200s", exc)
            time.sleep(TRY_AGAIN_S)


def prepare(session: Session, query: str) -> Any:
    """A prepared statement that may be repeated, at LOCAL_QUORUM."""
    statement = session.prepare(query)
    statement.consistency_level = ConsistencyLevel.LOCAL_QUORUM
    statement.is_idempotent = True
    return statement


def packed_batch(packed: Packed, routing_key: bytes, keyspace: str) -> BatchStatement:
    """An unlogged batch of rows that are already packed, for the replicas of `routing_key`."""
    batch = BatchStatement(
        batch_type=BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM
    )
    batch.is_idempotent = True
    batch.routing_key, batch.keyspace = routing_key, keyspace
    batch._statements_and_parameters = packed  # noqa: SLF001 (see Protocol)
    return batch


class PackedBatch(BatchMessage):  # type: ignore[misc]  # the driver has no types
    """A BATCH whose queries are already packed (row_bytes.py)."""

    def send_body(self, f: Any, protocol_version: int) -> None:
        has_long_flags = ProtocolVersion.uses_int_query_flags(protocol_version)
        f.write(struct.pack(">BH", self.batch_type.value, self.queries.queries))
        f.write(self.queries.body)
        f.write(struct.pack(">HI" if has_long_flags else ">HB", self.consistency_level, 0))


class Protocol(ProtocolHandler):  # type: ignore[misc]  # the driver has no types
    """The driver's own protocol, except for packed batches."""

    @classmethod
    def encode_message(cls, msg: Any, *args: Any, **kwargs: Any) -> Any:
        if type(msg) is BatchMessage and isinstance(msg.queries, Packed):
            msg.__class__ = PackedBatch
        return super().encode_message(msg, *args, **kwargs)
