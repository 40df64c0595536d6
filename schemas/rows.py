# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# mypy: ignore-errors
#   (Cython publishes no types, and C pointers are none of Python's)
"""Read states of a reply as JSON: in Python, formatting the numbers is a third of a query's cost.

This module works only when compiled: it writes through C pointers into memory that is large enough
for every row. Without this module `replies.py` formats in Python; a test compares the two.
"""

import cython

if not cython.compiled:
    raise ImportError("rows.py works only when compiled")

from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy

ROW_BYTES_MAX = 180 + 10 * 23  # the names, nine numbers, the ID of a mention without an entry
MENTION_BYTES_MAX = 23  # 20 digits, quotes, a comma
ENTRY_BYTES = 16

_ROW_BYTES_MAX = cython.declare(cython.Py_ssize_t, ROW_BYTES_MAX)
_MENTION_BYTES_MAX = cython.declare(cython.Py_ssize_t, MENTION_BYTES_MAX)
_ENTRY_BYTES = cython.declare(cython.Py_ssize_t, ENTRY_BYTES)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _text(at: cython.p_char, text: cython.p_char, length: cython.Py_ssize_t) -> cython.p_char:
    memcpy(at, text, length)
    return at + length


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _number(at: cython.p_char, number: cython.ulonglong) -> cython.p_char:
    digits = cython.declare(cython.char[20])
    first: cython.int = 20
    while True:
        first -= 1
        digits[first] = 48 + number % 10
        number = number // 10
        if number == 0:
            break
    memcpy(at, cython.address(digits[first]), 20 - first)
    return at + 20 - first


@cython.cfunc
@cython.exceptval(check=False)
def _mentions(
    at: cython.p_char, extra: cython.p_char, entries: cython.Py_ssize_t
) -> cython.p_char:
    """The mentioned marks among the entries of a read state; marks.py has their form."""
    index: cython.Py_ssize_t
    entry = cython.declare(cython.ulonglong[2])
    first: cython.p_char = at
    for index in range(entries):
        memcpy(cython.address(entry[0]), extra + index * _ENTRY_BYTES, _ENTRY_BYTES)
        if entry[1] >> 40 == 0 and entry[1] & 1 == 0:
            if at != first:
                at = _text(at, b",", 1)
            at = _text(_number(_text(at, b'"', 1), entry[0]), b'"', 1)
    return at


def encode_rows(rows: list, mentions: cython.bint) -> bytes:
    """The rows as JSON objects with commas between. Each has nine integers below 2^64, and bytes.

    `mentions`: each object also has the IDs of the messages that mention the user.
    """
    size: cython.Py_ssize_t = len(rows) * _ROW_BYTES_MAX + 1
    extra: bytes
    if mentions:
        for row in rows:
            extra = row[9]
            size += len(extra) // _ENTRY_BYTES * _MENTION_BYTES_MAX
    start: cython.p_char = cython.cast(cython.p_char, malloc(size))
    at: cython.p_char = start
    if start == cython.NULL:
        raise MemoryError
    try:
        for row in rows:
            if at != start:
                at = _text(at, b",", 1)
            kind, channel, last, last_mention, count, pins, flags, viewed, version, extra = row
            at = _number(_text(at, b'{"channel_id":"', 15), channel)
            at = _number(_text(at, b'","read_state_type":', 20), kind)
            at = _number(_text(at, b',"last_message_id":"', 20), last)
            at = _number(_text(at, b'","mention_count":', 18), count)
            at = _number(_text(at, b',"last_mention_id":"', 20), last_mention)
            at = _number(_text(at, b'","last_pin_timestamp":', 23), pins)
            at = _number(_text(at, b',"flags":', 9), flags)
            at = _number(_text(at, b',"last_viewed":', 15), viewed)
            at = _number(_text(at, b',"version":"', 12), version)
            at = _text(at, b'"', 1)
            if mentions:
                at = _text(at, b',"mentions":[', 13)
                if extra:
                    at = _mentions(at, extra, len(extra) // _ENTRY_BYTES)
                elif cython.cast(cython.ulonglong, count):
                    at = _text(_number(_text(at, b'"', 1), last_mention), b'"', 1)
                at = _text(at, b"]", 1)
            at = _text(at, b"}", 1)
        return PyBytes_FromStringAndSize(start, at - start)
    finally:
        free(start)
