"""A screenshot with at most 256 colours: about a quarter of what the browser sends.

`smaller` reads what Chromium writes, 8 bits a channel, RGB or RGBA, not interlaced; seconds a
picture, since it is plain Python.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {2: 3, 6: 4}  # of a colour type
COLOURS = 256


def smaller(png: bytes) -> bytes:
    """The same picture with a palette. Raises ValueError for a form that it does not read."""
    parts = list(_parts(png))
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", parts[0][1])
    if depth != 8 or kind not in CHANNELS or interlaced:
        raise ValueError(f"a PNG of colour type {kind}, depth {depth} is not read")
    packed = zlib.decompress(b"".join(data for name, data in parts if name == b"IDAT"))
    size = CHANNELS[kind]
    rows = list(_rows(packed, width * size, size))
    pixels = [[bytes(row[at : at + 3]) for at in range(0, len(row), size)] for row in rows]
    counted = Counter(colour for row in pixels for colour in row)
    palette = [colour for colour, _ in counted.most_common(COLOURS)]
    nearest = {colour: _nearest(colour, palette) for colour in counted}
    lines = b"".join(b"\0" + bytes(nearest[colour] for colour in row) for row in pixels)
    return SIGNATURE + b"".join(
        (
            _part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _part(b"PLTE", b"".join(palette)),
            _part(b"IDAT", zlib.compress(lines, 9)),
            _part(b"IEND", b""),
        )
    )


def _parts(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _part(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def _rows(packed: bytes, length: int, size: int) -> Iterator[bytearray]:
    """Undoes the filters: each row says by its first byte how it was made."""
    above = bytearray(length)
    for start in range(0, len(packed), length + 1):
        filter_, row = packed[start], bytearray(packed[start + 1 : start + 1 + length])
        for at in range(length):
            left = row[at - size] if at >= size else 0
            corner = above[at - size] if at >= size else 0
            row[at] = (row[at] + _predicted(filter_, left, above[at], corner)) & 255
        yield row
        above = row


def _predicted(filter_: int, left: int, up: int, corner: int) -> int:
    if filter_ < 4:
        return (0, left, up, (left + up) // 2)[filter_]
    from_left, from_up, from_corner = (
        abs(up - corner),
        abs(left - corner),
        abs(left + up - 2 * corner),
    )
    if from_left <= from_up and from_left <= from_corner:
        return left
    return up if from_up <= from_corner else corner


def _nearest(colour: bytes, palette: list[bytes]) -> int:
    return min(
        range(len(palette)),
        key=lambda at: sum((a - b) ** 2 for a, b in zip(colour, palette[at], strict=True)),
    )
