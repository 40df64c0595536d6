"""Makes record batches as a producer sends them, so that a bench needs no broker to read some."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from readstates.schemas.log_records import Checksum

FORMAT, CHECKED_FROM = 2, 21  # of a batch, and where the bytes begin that its checksum is of


def record_batch(first: int, records: Iterable[tuple[bytes, bytes]], time_ms: int = 0) -> bytes:
    """One batch without compression; `records` are keys and values, `first` their first offset."""
    body, count = bytearray(), 0
    for key, value in records:
        head = b"\0\0" + _varint(count) + _varint(len(key)) + key + _varint(len(value))
        body += _varint(len(head) + len(value) + 1) + head + value + b"\0"
        count += 1
    rest = struct.pack(">hiqqqhii", 0, count - 1, time_ms, time_ms, -1, -1, -1, count) + body
    length = CHECKED_FROM - 12 + len(rest)
    start = struct.pack(">qiib", first, length, -1, FORMAT)
    checksum = Checksum().of(start + b"\0\0\0\0" + rest, CHECKED_FROM)
    return start + struct.pack(">I", checksum) + bytes(rest)


def _varint(number: int) -> bytes:
    """A length as a record has it; zigzag, so twice the number."""
    number *= 2
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
