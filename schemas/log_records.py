# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return, attr-defined"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""Reads the records of a batch of Kafka's log (format 2), and computes a batch's checksum.

Cython compiles this module unchanged, like the table; `COMPILED` says whether it is compiled. A C
pointer and a bytes object are indexed and sliced alike, so the same code reads through either. A
pointer checks no bounds: `LogRecords` goes through the whole batch once, before anything is taken
from it, and raises MalformedBatch unless every record lies within the bytes. So a batch is read as
a whole or not at all, however its records are then taken.
"""

from array import array

import cython  # type: ignore[import-untyped]  # Cython publishes no types

COMPILED: bool = cython.compiled

POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_TIME_MAX = cython.declare(cython.longlong, 1 << 62)  # so that the sum of two cannot overflow


class MalformedBatch(ValueError):
    """The bytes of a batch are not the records that its header promises."""


def _crc_tables() -> array:  # type: ignore[type-arg]
    """Eight tables of 256: the checksum after a byte, and after up to seven zero bytes more."""
    tables = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        tables.append(value)
    for at in range(256, 8 * 256):
        before = tables[at - 256]
        tables.append(before >> 8 ^ tables[before & 255])
    return array("I", tables)


@cython.final
@cython.cclass
class Checksum:
    """CRC-32C, eight bytes at a time. The interpreter's lock is released meanwhile."""

    _tables: cython.uint[::1]

    def __init__(self) -> None:
        self._tables = memoryview(_crc_tables())

    def of(self, data: bytes, begin: cython.Py_ssize_t) -> int:
        """The checksum of `data[begin:]`."""
        stop: cython.Py_ssize_t = len(data)
        at: cython.Py_ssize_t = begin
        crc: cython.uint = 0xFFFFFFFF
        tables: cython.uint[::1] = self._tables
        byte: cython.p_const_uchar = data
        with cython.nogil:
            while stop - at >= 8:
                crc = (
                    tables[1792 + (byte[at] ^ (crc & 255))]
                    ^ tables[1536 + (byte[at + 1] ^ (crc >> 8 & 255))]
                    ^ tables[1280 + (byte[at + 2] ^ (crc >> 16 & 255))]
                    ^ tables[1024 + (byte[at + 3] ^ (crc >> 24))]
                    ^ tables[768 + byte[at + 4]]
                    ^ tables[512 + byte[at + 5]]
                    ^ tables[256 + byte[at + 6]]
                    ^ tables[byte[at + 7]]
                )
                at += 8
            while at < stop:
                crc = crc >> 8 ^ tables[(crc ^ byte[at]) & 255]
                at += 1
        return crc ^ 0xFFFFFFFF


@cython.freelist(512)
@cython.final
@cython.cclass
class LogRecord:
    """A record of the log: a `Record` of `streams/partition/batch.py`."""

    offset = cython.declare(cython.longlong, visibility="readonly")
    timestamp = cython.declare(cython.longlong, visibility="readonly")  # ms since the epoch
    key = cython.declare(bytes, visibility="readonly")  # or None, like the value
    value = cython.declare(bytes, visibility="readonly")
    _headers = cython.declare(bytes)  # as they are in the log; None if there are none

    @property
    def headers(self) -> list:  # type: ignore[type-arg]
        """(name, value) each; bytes of a name that are not UTF-8 are replaced."""
        if self._headers is None:
            return []
        reader: LogRecords = LogRecords.__new__(LogRecords)
        reader._data = self._headers
        reader._byte = reader._data
        reader._at = 0
        reader._stop = len(reader._data)
        return reader._read_headers()

    def __repr__(self) -> str:
        return f"LogRecord(offset={self.offset}, key={self.key!r}, value={self.value!r})"


@cython.final
@cython.cclass
class LogRecords:
    """The records of one batch, which are taken bit by bit.

    `data[begin:]` are the unpacked records, `count` of them, with offsets from `base_offset` to
    `base_offset + last_delta`. Times count from `base_time`; if `append_time` is not negative, it
    is the time of every record. Raises MalformedBatch.
    """

    left = cython.declare(cython.longlong, visibility="readonly")  # records not yet taken
    taken_bytes = cython.declare(cython.longlong, visibility="readonly")  # by the last `take`
    _data: bytes  # keeps the bytes alive
    _byte: cython.p_const_uchar
    _at: cython.Py_ssize_t
    _stop: cython.Py_ssize_t
    _is_wrong: cython.bint
    _base_offset: cython.longlong
    _base_time: cython.longlong
    _append_time: cython.longlong

    def __init__(
        self, data: bytes, begin: cython.Py_ssize_t, count: cython.longlong,
        base_offset: cython.longlong, last_delta: cython.longlong, base_time: cython.longlong,
        append_time: cython.longlong,
    ) -> None:
        self._data = data
        self._byte = data
        self._at = begin
        self._stop = len(data)
        self._is_wrong = False
        self._base_offset = base_offset
        self._base_time = base_time
        self._append_time = append_time
        self.left = count
        self.taken_bytes = 0
        if count < 0 or begin > self._stop or not -_TIME_MAX < base_time < _TIME_MAX:
            self._is_wrong = True
        else:
            self._check(count, last_delta)
            self._at = begin
        if self._is_wrong:
            raise MalformedBatch(f"its bytes are not the {count} records that its header promises")

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _varint(self) -> cython.longlong:
        """The next number, and 0 if it is cut off or too long: then `_is_wrong` is set."""
        value: cython.ulonglong = 0
        shift: cython.int = 0
        byte: cython.ulonglong
        while self._at < self._stop and shift < 64:
            byte = self._byte[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift == 63 and byte > 1:
                    break
                return cython.cast(cython.longlong, (value >> 1) ^ (-(value & 1)))
            shift += 7
        self._is_wrong = True
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _skip(self, length: cython.longlong, low: cython.longlong) -> cython.void:
        """Step over so many bytes; none if there is no value (-1)."""
        if length < low or length > self._stop - self._at:
            self._is_wrong = True
        elif length > 0:
            self._at += length

    @cython.cfunc
    @cython.exceptval(check=False)
    def _check(self, count: cython.longlong, last_delta: cython.longlong) -> cython.void:
        """Go through all records; sets `_is_wrong` if one is not as it must be."""
        headers: cython.longlong
        length: cython.longlong
        delta: cython.longlong
        before: cython.longlong = -1
        end: cython.Py_ssize_t
        for _ in range(count):
            length = self._varint()
            if length < 1 or length > self._stop - self._at:
                self._is_wrong = True
                return
            end = self._at + length
            self._at += 1  # attributes, of which none is defined
            delta = self._varint()
            if not -_TIME_MAX < delta < _TIME_MAX:
                self._is_wrong = True
            delta = self._varint()
            if delta <= before or delta > last_delta:
                self._is_wrong = True
            before = delta
            self._skip(self._varint(), -1)
            self._skip(self._varint(), -1)
            headers = self._varint()
            if headers < 0 or headers > length:
                self._is_wrong = True
            for _ in range(headers):
                if self._is_wrong:
                    return
                self._skip(self._varint(), 0)
                self._skip(self._varint(), -1)
            if self._at != end:
                self._is_wrong = True
            if self._is_wrong:
                return
        if self._at != self._stop:
            self._is_wrong = True

    def take(
        self, start: cython.longlong, records_max: cython.longlong, bytes_max: cython.longlong
    ) -> list:  # type: ignore[type-arg]
        """The next records from offset `start` on, at most `records_max`.

        The record that reaches `bytes_max` is the last; `taken_bytes` says what they have in all.
        """
        taken: list = []  # type: ignore[type-arg]
        record: LogRecord
        count: cython.longlong = 0
        size: cython.longlong = 0
        offset: cython.longlong
        time: cython.longlong
        begin: cython.Py_ssize_t
        end: cython.Py_ssize_t
        byte: cython.p_const_uchar = self._byte
        length: cython.longlong
        while self.left > 0 and count < records_max and size < bytes_max:
            begin = self._at
            length = self._varint()
            end = self._at + length
            self._at += 1
            time = self._varint()
            offset = self._base_offset + self._varint()
            self.left -= 1
            if offset < start:
                self._at = end
                continue
            record = LogRecord.__new__(LogRecord)
            record.offset = offset
            record.timestamp = (
                self._base_time + time if self._append_time < 0 else self._append_time
            )
            length = self._varint()
            record.key = None if length < 0 else byte[self._at : self._at + length]
            self._at += length if length > 0 else 0
            length = self._varint()
            record.value = None if length < 0 else byte[self._at : self._at + length]
            self._at += length if length > 0 else 0
            record._headers = None if byte[self._at] == 0 else byte[self._at : end]
            self._at = end
            taken.append(record)
            count += 1
            size += end - begin
        self.taken_bytes = size
        return taken

    @cython.cfunc
    def _read_headers(self) -> list:  # type: ignore[type-arg]
        """The bytes as the headers of a record, which the check has gone through."""
        found: list = []  # type: ignore[type-arg]
        byte: cython.p_const_uchar = self._byte
        count: cython.longlong = self._varint()
        length: cython.longlong
        name: bytes
        for _ in range(count):
            length = self._varint()
            name = byte[self._at : self._at + length]
            self._at += length
            length = self._varint()
            if length < 0:
                found.append((name.decode("utf-8", "replace"), None))
            else:
                found.append((name.decode("utf-8", "replace"), byte[self._at : self._at + length]))
                self._at += length
        return found
