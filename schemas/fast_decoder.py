# cython: language_level=3, boundscheck=True, wraparound=False
# mypy: disable-error-code="untyped-decorator, misc, valid-type, no-any-return"
#   (Cython publishes no types: its decorators are untyped, its C types count as Any)
"""Reads the commonest updates, simple acks and mentions, straight into numbers, without objects.

Cython compiles this module unchanged, like the table; `COMPILED` says whether it is compiled. It
reads less than JSON: one object with `type` ("ack" or "mention"), `user_id`, `channel_id`,
`message_id` and perhaps `ts`, each once and in any order. The identifiers are decimal, with or
without quotes, there is at most one space after a colon or comma, and the record's key has the same
digits as `user_id`. An update that differs in any way is not simple. That is no error:
`decode_update` of `wire.py` reads it, and says what is wrong, if anything is. `decode_update` reads
every simple update as the same values; a test compares the two.
"""

from typing import Any

import cython  # type: ignore[import-untyped]  # Cython publishes no types

COMPILED: bool = cython.compiled

NUMBERS = 8  # of an update: user_id, read_state_type, channel_id, message_id, flags, last_viewed,
#              version, 1 for a mention and 0 for an ack
_TYPE = cython.declare(cython.int, 1)
_USER = cython.declare(cython.int, 2)
_CHANNEL = cython.declare(cython.int, 4)
_MESSAGE = cython.declare(cython.int, 8)
_TS = cython.declare(cython.int, 16)


@cython.final
@cython.cclass
class FastDecoder:
    """Reads records into `numbers`, 64-bit signed and writable, NUMBERS for each record."""

    _numbers: cython.longlong[:]
    _at: cython.longlong  # the next byte

    def __init__(self, numbers: Any) -> None:
        self._numbers = numbers
        self._at = 0

    def read(
        self, records: list, begin: cython.longlong, stop: cython.longlong,  # type: ignore[type-arg]
        epoch_bits: cython.longlong,
    ) -> int:
        """Read records[begin:stop] up to the first that is not simple; returns how many it read.

        `epoch_bits`: a record's version is this number plus its offset + 1.
        """
        index: cython.longlong
        key: bytes
        value: bytes
        for index in range(begin, stop):
            record = records[index]
            if type(record.key) is not bytes or type(record.value) is not bytes:
                return index - begin
            key = record.key
            value = record.value
            try:
                if not self._read(key, value, (index - begin) * 8):
                    return index - begin
            except IndexError:  # the value ends too early
                return index - begin
            self._numbers[(index - begin) * 8 + 6] = epoch_bits | (record.offset + 1)
        return stop - begin

    @cython.cfunc
    @cython.exceptval(-1)
    def _read(self, key: bytes, value: bytes, at: cython.longlong) -> cython.int:
        """One update into the numbers from `at` on; 0 if it is not simple."""
        seen: cython.int = 0
        field: cython.int
        char: cython.int
        number: cython.longlong
        if value[0] != 0x7B:  # {
            return 0
        self._at = 1
        while True:
            field = self._name(value)
            if field == 0 or seen & field:
                return 0
            seen |= field
            if field == _TYPE:
                number = self._form(value)
            elif field == _USER:
                number = self._number(value, key, True, 1)
            elif field == _TS:
                number = self._number(value, key, False, 0)
            else:
                number = self._number(value, key, False, 1)
            if number < 0:
                return 0
            if field == _TYPE:
                self._numbers[at + 7] = number
            elif field == _USER:
                self._numbers[at] = number
            elif field == _CHANNEL:
                self._numbers[at + 2] = number
            elif field == _MESSAGE:
                self._numbers[at + 3] = number
            char = value[self._at]
            self._at += 1
            if char == 0x7D:  # }
                break
            if char != 0x2C:  # ,
                return 0
            if value[self._at] == 0x20:
                self._at += 1
        if seen & 15 != 15 or self._at != len(value):
            return 0
        self._numbers[at + 1] = 0
        self._numbers[at + 4] = -1
        self._numbers[at + 5] = -1
        return 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _word(self, value: bytes, word: bytes) -> cython.int:
        """Step over a word; 0 if it is not there."""
        index: cython.longlong
        for index in range(len(word)):
            if value[self._at + index] != word[index]:
                return 0
        self._at += len(word)
        return 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _name(self, value: bytes) -> cython.int:
        """The field whose name and colon are next; 0 if it is none of the five."""
        field: cython.int
        char: cython.int = value[self._at + 1]
        if char == 0x75:
            field = _USER if self._word(value, b'"user_id":') else 0
        elif char == 0x63:
            field = _CHANNEL if self._word(value, b'"channel_id":') else 0
        elif char == 0x6D:
            field = _MESSAGE if self._word(value, b'"message_id":') else 0
        elif value[self._at + 2] == 0x79:
            field = _TYPE if self._word(value, b'"type":') else 0
        else:
            field = _TS if self._word(value, b'"ts":') else 0
        if value[self._at] == 0x20:
            self._at += 1
        return field

    @cython.cfunc
    @cython.exceptval(-2)
    def _form(self, value: bytes) -> cython.longlong:
        """0 for an ack, 1 for a mention, -1 for anything else."""
        if value[self._at + 1] == 0x61:
            return 0 if self._word(value, b'"ack"') else -1
        return 1 if self._word(value, b'"mention"') else -1

    @cython.cfunc
    @cython.exceptval(-2)
    def _number(
        self, value: bytes, key: bytes, is_key: cython.bint, low: cython.longlong
    ) -> cython.longlong:
        """An integer low … 2^63 - 1, quoted or not (not where `low` is 0); -1 for anything else.

        `is_key`: the digits must be those of the key.
        """
        quoted: cython.bint = low == 1 and value[self._at] == 0x22
        number: cython.ulonglong = 0
        digit: cython.int
        count: cython.longlong = 0
        if quoted:
            self._at += 1
        while True:
            digit = value[self._at] - 0x30
            if digit < 0 or digit > 9:
                break
            if count == 19 or (is_key and (count >= len(key) or key[count] != value[self._at])):
                return -1
            number = number * 10 + digit
            count += 1
            self._at += 1
        if count == 0 or number > 0x7FFFFFFFFFFFFFFF or (is_key and count != len(key)):
            return -1
        if value[self._at - count] == 0x30 and (low == 1 or count > 1):
            return -1
        if quoted:
            if value[self._at] != 0x22:
                return -1
            self._at += 1
        return number
