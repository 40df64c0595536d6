"""Kafka's requests and responses as bytes: those of the reader, of bundles, and of the login.

The versions are older than the "flexible" ones; brokers take them from Kafka 2.3 on, Kafka 4 too.
A response that does not have the form of an answer to its request raises ProtocolError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from ..errors import ReadStatesError

CLIENT_ID = b"read-states-reader"
PRODUCE, FETCH, LIST_OFFSETS, METADATA, SASL_HANDSHAKE, SASL_AUTHENTICATE = 0, 1, 2, 3, 17, 36
VERSIONS = {
    PRODUCE: 7,
    FETCH: 11,
    LIST_OFFSETS: 5,
    METADATA: 7,
    SASL_HANDSHAKE: 1,
    SASL_AUTHENTICATE: 1,
}
ALL_REPLICAS = -1  # in sync, before a record counts as taken
READ_COMMITTED = 1
EARLIEST = -2  # in place of a time: the first offset of the log
NO_EPOCH = -1  # the broker compares no leader epochs, so a topic that is made anew is no error
LENGTH_BYTES = 4  # in front of every request and response

OFFSET_OUT_OF_RANGE = 1
NOT_LEADER_OR_FOLLOWER = 6
TOPIC_AUTHORIZATION_FAILED = 29
NAMES = {
    OFFSET_OUT_OF_RANGE: "OFFSET_OUT_OF_RANGE",
    2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION",
    5: "LEADER_NOT_AVAILABLE",
    NOT_LEADER_OR_FOLLOWER: "NOT_LEADER_OR_FOLLOWER",
    7: "REQUEST_TIMED_OUT",
    9: "REPLICA_NOT_AVAILABLE",
    10: "MESSAGE_TOO_LARGE",
    19: "NOT_ENOUGH_REPLICAS",
    20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    TOPIC_AUTHORIZATION_FAILED: "TOPIC_AUTHORIZATION_FAILED",
    56: "KAFKA_STORAGE_ERROR",
    33: "UNSUPPORTED_SASL_MECHANISM",
    34: "ILLEGAL_SASL_STATE",
    35: "UNSUPPORTED_VERSION",
    58: "SASL_AUTHENTICATION_FAILED",
}

_FETCH_HEAD = struct.Struct(">iiiibiii")
_FETCH_PARTITION = struct.Struct(">iiqqi")
_FETCHED = struct.Struct(">ihqqqi")
_ABORTED = struct.Struct(">qq")
_PRODUCE_PARTITION = struct.Struct(">ii")
_PRODUCED = struct.Struct(">ihqqq")
_HEADER = struct.Struct(">ihhi")

T = TypeVar("T")


class ProtocolError(ReadStatesError):
    """A broker, or something else at its address, did not answer as Kafka's protocol says."""


class Wanted(NamedTuple):
    """A partition to fetch."""

    number: int
    position: int
    bytes_max: int


class FetchedPartition(NamedTuple):
    """What a broker sent of a partition. `records` are whole batches; the last may be cut off."""

    number: int
    error: int
    high_watermark: int
    last_stable: int
    aborted: list[tuple[int, int]]  # producer's ID, first offset of the transaction
    records: bytes


class Fetched(NamedTuple):
    """A response to a fetch."""

    throttle_ms: int  # the broker takes the next request this much later
    error: int
    partitions: list[FetchedPartition]


class Produced(NamedTuple):
    """A response to a produce request."""

    throttle_ms: int  # the broker takes the next request this much later
    errors: dict[int, int]  # partition → code, of those that were not taken
    stamps: dict[int, int]  # partition → ms since 1970 by the broker's clock, if it stamps records


class Broker(NamedTuple):
    """Where a broker is reached."""

    host: str
    port: int


class TopicMetadata(NamedTuple):
    """The brokers, and the leaders of a topic's partitions that have one."""

    cluster_id: str
    brokers: dict[int, Broker]
    error: int
    leaders: dict[int, int]  # partition → broker


def error_name(code: int) -> str:
    """`NOT_LEADER_OR_FOLLOWER`; the number for a code that has no name here."""
    return NAMES.get(code, f"error {code}")


def request(kind: int, correlation_id: int, body: bytes) -> bytes:
    """A whole request, as it is sent."""
    length = _HEADER.size - LENGTH_BYTES + 2 + len(CLIENT_ID) + len(body)
    head = _HEADER.pack(length, kind, VERSIONS[kind], correlation_id)
    return b"".join((head, struct.pack(">h", len(CLIENT_ID)), CLIENT_ID, body))


def fetch_body(
    topic: str, wanted: Iterable[Wanted], *, wait_ms: int, bytes_min: int, bytes_max: int
) -> bytes:
    """A fetch without a session: the broker keeps nothing about it."""
    head = _FETCH_HEAD.pack(-1, wait_ms, bytes_min, bytes_max, READ_COMMITTED, 0, -1, 1)
    places = [
        _FETCH_PARTITION.pack(number, NO_EPOCH, position, -1, most)
        for number, position, most in wanted
    ]
    end = struct.pack(">ih", 0, 0)  # forgets no partition, is in no rack
    return b"".join((head, _text(topic), struct.pack(">i", len(places)), *places, end))


def produce_body(topic: str, batches: Mapping[int, bytes], timeout_ms: int) -> bytes:
    """One batch for each of these partitions, which the broker leads."""
    head = struct.pack(">hhii", -1, ALL_REPLICAS, timeout_ms, 1)  # -1: in no transaction
    parts = [head, _text(topic), struct.pack(">i", len(batches))]
    for number, batch in batches.items():
        parts += (_PRODUCE_PARTITION.pack(number, len(batch)), batch)
    return b"".join(parts)


def first_offset_body(topic: str, number: int) -> bytes:
    """Asks for the first offset of a partition's log."""
    head = struct.pack(">ibi", -1, READ_COMMITTED, 1) + _text(topic)
    return head + struct.pack(">iiiq", 1, number, NO_EPOCH, EARLIEST)


def metadata_body(topic: str) -> bytes:
    """Asks for one topic, and creates none."""
    return struct.pack(">i", 1) + _text(topic) + b"\0"


def handshake_body(mechanism: str) -> bytes:
    """Names the mechanism of the login that follows."""
    return _text(mechanism)


def authenticate_body(token: bytes) -> bytes:
    """A step of the login."""
    return struct.pack(">i", len(token)) + token


def _checked(read: Callable[[memoryview], T]) -> Callable[[memoryview], T]:
    @wraps(read)
    def checked(data: memoryview) -> T:
        try:
            return read(data)
        except (struct.error, UnicodeDecodeError) as exc:
            raise ProtocolError(f"a response of {len(data)} bytes cannot be read: {exc}") from exc

    return checked


@_checked
def read_fetch(data: memoryview) -> Fetched:
    """The response to `fetch_body`; the partitions' bytes are copied."""
    throttle_ms, error, _session, topics = struct.unpack_from(">ihii", data)
    at, found = 14, []
    for _ in range(topics):
        _topic, at = _read_text(data, at)
        partitions, at = _read_int(data, at)
        for _ in range(partitions):
            number, code, high, stable, _start, count = _FETCHED.unpack_from(data, at)
            at += _FETCHED.size
            end = at + max(count, 0) * _ABORTED.size  # -1 if there is no list
            aborted = list(_ABORTED.iter_unpack(data[at:end]))
            _replica, length = struct.unpack_from(">ii", data, end)
            at = _inside(data, end + 8 + max(length, 0))
            records = bytes(data[end + 8 : at])
            found.append(FetchedPartition(number, code, high, stable, aborted, records))
    return Fetched(throttle_ms, error, found)


@_checked
def read_produced(data: memoryview) -> Produced:
    """The response to `produce_body`."""
    topics, at = _read_int(data, 0)
    errors, stamps = {}, {}
    for _ in range(topics):
        _topic, at = _read_text(data, at)
        partitions, at = _read_int(data, at)
        for _ in range(partitions):
            number, code, _offset, time_ms, _start = _PRODUCED.unpack_from(data, at)
            at += _PRODUCED.size
            if code:
                errors[number] = code
            elif time_ms >= 0:
                stamps[number] = time_ms
    throttle_ms, _at = _read_int(data, at)
    return Produced(throttle_ms, errors, stamps)


@_checked
def read_metadata(data: memoryview) -> TopicMetadata:
    """The response to `metadata_body`."""
    count, at = _read_int(data, 4)  # after the throttle time
    brokers = {}
    for _ in range(count):
        number, at = _read_int(data, at)
        host, at = _read_text(data, at)
        port, at = _read_int(data, at)
        _rack, at = _read_text(data, at)
        brokers[number] = Broker(host, port)
    cluster_id, at = _read_text(data, at)
    _controller, at = _read_int(data, at)
    topics, at = _read_int(data, at)
    if topics != 1:
        raise struct.error(f"it has {topics} topics, not 1")
    (error,) = struct.unpack_from(">h", data, at)
    _topic, at = _read_text(data, at + 2)
    count, at = _read_int(data, at + 1)  # after "is internal"
    leaders = {}
    for _ in range(count):
        _code, number, leader, _epoch = struct.unpack_from(">hiii", data, at)
        at += 14
        for _ in range(3):  # replicas, those in sync, those offline
            nodes, at = _read_int(data, at)
            at += 4 * nodes
        if leader in brokers:
            leaders[number] = leader
    return TopicMetadata(cluster_id, brokers, error, leaders)


@_checked
def read_first_offset(data: memoryview) -> int:
    """The response to `first_offset_body`. Raises ProtocolError if the broker does not say."""
    _topic, at = _read_text(data, 8)  # after the throttle time and the count of topics
    count, _number, code, _time, offset = struct.unpack_from(">iihqq", data, at)
    if code or count != 1:
        raise ProtocolError(f"the broker does not say where the log begins: {error_name(code)}")
    return int(offset)


@_checked
def read_handshake(data: memoryview) -> tuple[int, list[str]]:
    """The error, and the mechanisms that the broker knows."""
    error, count = struct.unpack_from(">hi", data)
    at, names = 6, []
    for _ in range(count):
        name, at = _read_text(data, at)
        names.append(name)
    return error, names


@_checked
def read_authenticate(data: memoryview) -> tuple[int, str, bytes]:
    """The error, what the broker says about it, and its step of the login."""
    (error,) = struct.unpack_from(">h", data)
    message, at = _read_text(data, 2)
    length, at = _read_int(data, at)
    return error, message, bytes(data[at : _inside(data, at + max(length, 0))])


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _read_text(data: memoryview, at: int) -> tuple[str, int]:
    """A text, empty if it is null, and the place after it."""
    (length,) = struct.unpack_from(">h", data, at)
    end = _inside(data, at + 2 + max(length, 0))
    return str(data[at + 2 : end], "utf-8"), end


def _inside(data: memoryview, end: int) -> int:
    if end > len(data):
        raise struct.error(f"it is cut off: {end - len(data)} bytes are missing")
    return end


def _read_int(data: memoryview, at: int) -> tuple[int, Any]:
    return struct.unpack_from(">i", data, at)[0], at + 4
