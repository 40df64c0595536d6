"""Unpacks compressed batches of the log into a space of limited size.

A batch of 80 KB may unpack to gigabytes, and its length cannot be relied on: zstd and lz4 frames
need not state their length, may follow one another, and may lie. So no stated length is used.
Each codec writes into a space of BATCH_BYTES_MAX, and stops when that is full.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cramjam

from ..errors import BatchTooLargeError, UnpackError

# The most that a batch may unpack to: 16 times the largest compressed batch that the topic takes,
# while updates in JSON shrink to a quarter or a tenth; and 64 times the largest value of an update.
BATCH_BYTES_MAX = 16 << 20
QUERY_BATCH_BYTES_MAX = 4 << 20  # the same of a batch of queries
XERIAL = b"\x82SNAPPY\0"  # the framing in which Java and librdkafka write snappy
XERIAL_HEADER_BYTES = 16
GZIP_WINDOW = 31  # zlib's: a gzip header, and the largest window
FULL = "failed to write whole buffer"  # cramjam's error when the space is full
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4  # as a batch names them


class Unpacker:
    """The four codecs, for one thread, because they share the space.

    Each takes the compressed bytes and returns the unpacked ones. Raises BatchTooLargeError if
    these are more than `bytes_max`, and UnpackError if the bytes are not of that codec.
    """

    def __init__(self, bytes_max: int = BATCH_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._space = memoryview(mmap.mmap(-1, bytes_max))  # only written pages take memory
        self.total_bytes = 0  # unpacked so far

    def unpacked(self, codec: int, data: Any) -> bytes:
        """The bytes that a batch of that codec unpacks to; without a codec, the same bytes."""
        codecs = {GZIP: self.gzip, SNAPPY: self.snappy, LZ4: self.lz4, ZSTD: self.zstd}
        return codecs[codec](data) if codec in codecs else data

    def zstd(self, data: Any) -> bytes:
        return self._taken(self._into(cramjam.zstd.decompress_into, data, 0))

    def lz4(self, data: Any) -> bytes:
        return self._taken(self._into(cramjam.lz4.decompress_into, data, 0))

    def snappy(self, data: Any) -> bytes:
        view, end = memoryview(data), 0
        if bytes(view[: len(XERIAL)]) != XERIAL:
            return self._taken(self._snappy_block(view, 0))
        at = XERIAL_HEADER_BYTES
        while at < len(view):
            try:
                (length,) = struct.unpack_from(">i", view, at)
            except struct.error as exc:
                raise UnpackError(f"snappy: a block's length is cut off: {exc}") from exc
            if not 0 <= length <= len(view) - at - 4:
                raise UnpackError(f"snappy: a block of {length} bytes, but fewer are left")
            end += self._snappy_block(view[at + 4 : at + 4 + length], end)
            at += 4 + length
        return self._taken(end)

    def gzip(self, data: Any) -> bytes:
        """As the others; takes several members, one after the other, and zeros after the last."""
        parts, room = [], self.bytes_max
        while True:
            stream = zlib.decompressobj(GZIP_WINDOW)
            try:
                parts.append(stream.decompress(data, room + 1))
            except zlib.error as exc:
                raise UnpackError(f"gzip: {exc}") from exc
            room -= len(parts[-1])
            if room < 0:
                raise self._too_large()
            if not stream.eof:
                raise UnpackError("gzip: the stream is cut off")
            data = stream.unused_data.lstrip(b"\0")
            if not data:
                break
        self.total_bytes += self.bytes_max - room
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _snappy_block(self, block: Any, at: int) -> int:
        try:
            length = cramjam.snappy.decompress_raw_len(block)
        except cramjam.DecompressionError as exc:
            raise UnpackError(f"snappy: {exc}") from exc
        if length > self.bytes_max - at:
            raise self._too_large()
        return self._into(cramjam.snappy.decompress_raw_into, block, at)

    def _into(self, decompress_into: Callable[[Any, Any], int], data: Any, at: int) -> int:
        try:
            return decompress_into(data, self._space[at:])
        except cramjam.DecompressionError as exc:
            if FULL in str(exc):
                raise self._too_large() from exc
            raise UnpackError(f"{decompress_into.__module__}: {exc}") from exc

    def _taken(self, end: int) -> bytes:
        self.total_bytes += end
        return bytes(self._space[:end])

    def _too_large(self) -> BatchTooLargeError:
        return BatchTooLargeError(f"it unpacks to more than {self.bytes_max} bytes")
