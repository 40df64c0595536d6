"""Reads a record of the queries topic: its question, checked against its partition and its key."""

from __future__ import annotations

from readstates.schemas.fields import DecodeError
from readstates.schemas.headers import Headers, ReplyAddress, deadline_ms
from readstates.schemas.partitioner import misrouted, partition_of
from readstates.schemas.probes import HEADER_PROBE, decode_probe
from readstates.schemas.queries import decode_query
from readstates.schemas.wire import key_bytes

from ..partition.batch import Record
from ..partition.query import Query
from .owned import OwnedPartition


def size_of(record: Record) -> int:
    """Bytes of a record's key, value and headers."""
    parts = [record.key, record.value, *(part for header in record.headers for part in header)]
    return sum(len(part) for part in parts if part is not None)


def query_of(
    owned: OwnedPartition, record: Record, address: ReplyAddress, headers: Headers, taken_ns: int
) -> Query:
    """The query of a record. Raises DecodeError, with the user's ID if that can be read."""
    partition, ahead_ms = owned.partition, owned.clock_ahead_ms
    get = (decode_probe if HEADER_PROBE in headers else decode_query)(record.value)
    user_id = get.user_id
    key = key_bytes(user_id)
    try:
        if record.key != key:
            raise DecodeError("key_mismatch", "key", f"expected the user_id, {user_id}")
        if not partition.table.find(user_id):  # a resident user belongs to this partition
            right = partition_of(key, partition.partitions)
            if right != partition.number:
                text = misrouted(user_id, partition.number, right)
                raise DecodeError("misrouted", "partition", text)
        deadline = deadline_ms(headers, record.timestamp, ahead_ms)
    except DecodeError as exc:
        exc.user_id = user_id
        raise
    return Query(
        get,
        address,
        key=key,
        partition=partition.number,
        incarnation=partition.incarnation,
        offset=record.offset,
        timestamp_ms=record.timestamp + ahead_ms,
        deadline_ms=deadline,
        taken_ns=taken_ns,
    )
