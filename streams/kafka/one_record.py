"""A record batch of Kafka's log (format 2) with one record, as a producer sends it."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from readstates.schemas.log_records import Checksum

MAGIC = 2  # the format
NO_EPOCH = -1
_SMALL = 1 << 10  # sizes below this are encoded in advance
_HEAD = struct.Struct(">qiibI")
_BODY = struct.Struct(">hiqqqhii")
_BEFORE_BODY = 4 + 1 + 4  # bytes that the batch's length counts: epoch, format, checksum

_checksum = Checksum()


def varint(number: int) -> bytes:
    """A size as a record has it: zigzag, seven bits in each byte."""
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_VARINTS = tuple(map(varint, range(_SMALL)))


def encoded_headers(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Headers as a record has them, without their count in front."""
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        parts += (varint(len(encoded)), encoded, varint(len(value)), value)
    return b"".join(parts)


def batch_of(key: bytes, value: bytes, headers: bytes, count: int, time_ms: int) -> bytes:
    """The batch; 3 µs. `headers`: `count` of them, encoded. A key, a value below 1 KiB each."""
    record = b"".join(
        (
            b"\0\0\0",  # no attributes, no difference of time, no difference of offset
            _VARINTS[len(key)],
            key,
            _VARINTS[len(value)],
            value,
            _VARINTS[count],
            headers,
        )
    )
    body = b"".join(
        (
            _BODY.pack(0, 0, time_ms, time_ms, -1, -1, -1, 1),  # of no idempotent producer
            varint(len(record)),
            record,
        )
    )
    checksum = _checksum.of(body, 0)
    return _HEAD.pack(0, _BEFORE_BODY + len(body), NO_EPOCH, MAGIC, checksum) + body
