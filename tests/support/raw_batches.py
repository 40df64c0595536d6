"""Record batches made byte by byte, and the request that gives them to a broker as they are.

A producer library compresses what it has in memory and refuses what is large; whoever means harm
does neither. A value here is one letter repeated, compressed as it is made, so that a batch that
unpacks to gigabytes costs the test its compressed bytes only.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cramjam

from readstates.schemas.log_records import Checksum

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
PIECE = 1 << 20
XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
PRODUCE, VERSION = 0, 7
CHECKED_FROM = 21  # where the bytes begin that a batch's checksum is of
APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
_checksum = Checksum()


class Record(NamedTuple):
    """A record whose value is `letter`, repeated `size` times, or `value` where that is given."""

    key: bytes
    value: bytes | None = None
    letter: bytes = b"a"
    size: int = 0
    headers: tuple[tuple[str | bytes, bytes | None], ...] = ()
    delta: int | None = None  # of its offset; None: its place among the records
    time: int = 0  # after the batch's own

    @property
    def value_bytes(self) -> int:
        return self.size if self.value is None else len(self.value)


def varint(number: int) -> bytes:
    """Zigzag, as a record's fields are written."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def pieces(records: Iterable[Record]) -> Iterator[bytes]:
    """The records one after the other, in pieces of at most PIECE bytes."""
    for number, record in enumerate(records):
        size = record.value_bytes
        delta = number if record.delta is None else record.delta
        head = b"\0" + varint(record.time) + varint(delta) + varint(len(record.key)) + record.key
        head += varint(size)
        tail = varint(len(record.headers))
        for name, value in record.headers:
            encoded = name.encode() if isinstance(name, str) else name
            tail += varint(len(encoded)) + encoded
            tail += varint(-1) if value is None else varint(len(value)) + value
        yield varint(len(head) + size + len(tail)) + head
        if record.value is not None:
            yield record.value
        else:
            for at in range(0, size, PIECE):
                yield record.letter * min(PIECE, size - at)
        yield tail


def compressed(codec: int, parts: Iterator[bytes]) -> bytes:
    """The parts as one stream of that codec."""
    if codec == NONE:
        return b"".join(parts)
    if codec == GZIP:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        return b"".join([*map(packer.compress, parts), packer.flush()])
    if codec == SNAPPY:
        blocks = [bytes(cramjam.snappy.compress_raw(part)) for part in parts]
        return XERIAL + b"".join(struct.pack(">i", len(block)) + block for block in blocks)
    stream = (
        cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
        if codec == LZ4
        else cramjam.zstd.Compressor()
    )
    for part in parts:
        stream.compress(part)
    return bytes(stream.finish())


def batch_of(
    codec: int,
    records: list[Record],
    payload: bytes | None = None,
    attributes: int = 0,
    *,
    producer: int = -1,
    times: tuple[int, int] = (0, 0),
    last_delta: int | None = None,
) -> bytes:
    """A batch of these records; `payload` takes the place of what they compress to.

    `times`: the batch's own, and the largest of its records.
    """
    if payload is None:
        payload = compressed(codec, pieces(records))
    count = len(records)
    last = count - 1 if last_delta is None else last_delta
    more = (*times, producer, -1, -1, count)
    rest = struct.pack(">hiqqqhii", codec | attributes, last, *more) + payload
    head = struct.pack(">ibI", -1, 2, 0)
    return sealed(struct.pack(">qi", 0, len(head) + len(rest)) + head + rest)


def sealed(batch: bytes) -> bytes:
    """The batch with the checksum that its bytes have."""
    crc = struct.pack(">I", _checksum.of(batch, CHECKED_FROM))
    return batch[: CHECKED_FROM - len(crc)] + crc + batch[CHECKED_FROM:]


def at(offset: int, batch: bytes) -> bytes:
    """The batch as it stands in the log at an offset, which its checksum leaves out."""
    return struct.pack(">q", offset) + batch[8:]


def marker(offset: int, producer: int, *, aborts: bool) -> bytes:
    """The control batch that ends a transaction."""
    key = struct.pack(">hh", 0, 0 if aborts else 1)
    kind = CONTROL | TRANSACTIONAL
    return at(offset, batch_of(NONE, [Record(key, b"")], attributes=kind, producer=producer))


def bomb(codec: int, size: int, key: bytes = b"1", count: int = 1) -> bytes:
    """A batch of records that unpack to `size` bytes together."""
    return batch_of(codec, [Record(key, size=size // count)] * count)


def text(value: str | None) -> bytes:
    if value is None:
        return struct.pack(">h", -1)
    return struct.pack(">h", len(value)) + value.encode()


def produce(bootstrap: str, topic: str, partition: int, batch: bytes, timeout_s: float = 60) -> int:
    """The batch's first offset, once the broker has it; below 0 its error code, negated."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    body = text(None) + struct.pack(">hii", -1, int(timeout_s * 1000), 1) + text(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    header = struct.pack(">hhi", PRODUCE, VERSION, 1) + text("raw-batches")
    request = header + body
    with socket.create_connection((host, int(port)), timeout_s) as link:
        link.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", exactly(link, 4))
        answer = exactly(link, size)
    at = 4 + 4 + 2 + len(topic) + 4 + 4  # correlation ID, one topic with its name, one partition
    code, offset = struct.unpack_from(">hq", answer, at)
    return offset if code == 0 else -int(code)


def exactly(link: socket.socket, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        part = link.recv(size - len(out))
        assert part, "the broker closed the connection"
        out += part
    return bytes(out)
