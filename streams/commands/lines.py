"""Reads files of lines, each within a limit: a file without line ends must not fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from readstates.schemas.saved import SAVED_BYTES_MAX

LINE_BYTES_MAX = SAVED_BYTES_MAX  # also of a recording's line, which is one record of the log


class LineTooLongError(ValueError):
    """A line has more than LINE_BYTES_MAX bytes; the text begins with its number."""


def bounded_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines. Raises LineTooLongError."""
    number = 0
    while line := source.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise LineTooLongError(f"line {number}: it has more than {LINE_BYTES_MAX} bytes")
        yield number, line
