"""A picture keeps its colours where it has few, and comes near where it has many."""

from __future__ import annotations

import struct
import zlib

import pytest

from readstates.ops.console.png import SIGNATURE, _part, _parts, _predicted, smaller


def a_png(rows: list[list[tuple[int, int, int]]], filters: list[int], depth: int = 8) -> bytes:
    """An RGB picture, each row with the filter given."""
    packed, above = b"", bytes(3 * len(rows[0]))
    for row, filter_ in zip(rows, filters, strict=True):
        raw = bytes(value for colour in row for value in colour)
        packed += bytes([filter_])
        for at, value in enumerate(raw):
            left = raw[at - 3] if at >= 3 else 0
            corner = above[at - 3] if at >= 3 else 0
            packed += bytes([(value - _predicted(filter_, left, above[at], corner)) & 255])
        above = raw
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), depth, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(packed)), (b"IEND", b""))
    return SIGNATURE + b"".join(_part(name, data) for name, data in parts)


def colours(png: bytes) -> list[list[tuple[int, ...]]]:
    parts = dict(_parts(png))
    width, height = struct.unpack_from(">II", parts[b"IHDR"])
    palette, lines = parts[b"PLTE"], zlib.decompress(parts[b"IDAT"])
    found = []
    for y in range(height):
        row = lines[y * (width + 1) + 1 : (y + 1) * (width + 1)]
        found.append([tuple(palette[3 * at : 3 * at + 3]) for at in row])
    return found


def test_few_colours_stay() -> None:
    rows = [[(10 * x, 20 * y, 200 - x * y) for x in range(7)] for y in range(5)]
    assert colours(smaller(a_png(rows, [0, 1, 2, 3, 4]))) == rows


def test_many_become_near_ones() -> None:
    rows = [[(x, y, 0) for x in range(40)] for y in range(40)]
    found = colours(smaller(a_png(rows, [4] * 40)))
    assert len({colour for row in found for colour in row}) <= 256
    pairs = [(a, b) for x, y in zip(rows, found, strict=True) for a, b in zip(x, y, strict=True)]
    assert max(sum(abs(p - q) for p, q in zip(a, b, strict=True)) for a, b in pairs) < 80


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 16"):
        smaller(a_png([[(0, 0, 0)]], [0], depth=16))
