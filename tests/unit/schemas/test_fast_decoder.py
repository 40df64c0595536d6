"""The reader of simple updates: what it takes, `decode_update` takes with the same values."""

from __future__ import annotations

import importlib.util
from array import array
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import readstates.schemas
from readstates.schemas import events as e
from readstates.schemas import fast_decoder, wire

BITS = 8 << 48
BIG = 2**63 - 1
SPELLINGS = [
    b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"303"}',
    b'{"type":"mention","user_id":101,"channel_id":202,"message_id":303}',
    b'{"type": "ack", "user_id": 101, "channel_id": "202", "message_id": 303, "ts": 0}',
    b'{"ts":1700000000000,"message_id":303,"channel_id":202,"user_id":"101","type":"mention"}',
]
BYTES = b'{}[]",: \\0159-+.eaknu\x00\x1f\xc3\xff\n'


def _from_source() -> ModuleType:
    source = Path(readstates.schemas.__path__[0]) / "fast_decoder.py"
    spec = importlib.util.spec_from_file_location("fast_decoder_source", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.COMPILED
    return module


BUILDS = {"source": _from_source()} | ({"compiled": fast_decoder} if fast_decoder.COMPILED else {})


@pytest.fixture(params=sorted(BUILDS))
def build(request: pytest.FixtureRequest) -> ModuleType:
    """The module, compiled and not."""
    return BUILDS[request.param]


class Reader:
    """The reader of a build over numbers of its own."""

    def __init__(self, build: ModuleType) -> None:
        self.numbers = array("q", bytes(8 * fast_decoder.NUMBERS * 3))
        self._reader = build.FastDecoder(memoryview(self.numbers))

    def read(self, value: object, key: object = b"101") -> list[int] | None:
        """The numbers of a record at offset 7; None if it is not simple."""
        record = SimpleNamespace(key=key, value=value, offset=7)
        return self.numbers[: fast_decoder.NUMBERS].tolist() if self.all([record]) else None

    def all(self, records: list[SimpleNamespace]) -> int:
        """How many from the first on are simple."""
        return int(self._reader.read(records, 0, len(records), BITS))


def numbers_of(event: e.Update) -> list[int]:
    """What the reader must give for it."""
    assert isinstance(event, e.Ack | e.Mention)
    mention = isinstance(event, e.Mention)
    return [event.user_id, 0, event.channel_id, event.message_id, -1, -1, BITS | 8, int(mention)]


@pytest.mark.parametrize("value", SPELLINGS)
def test_every_spelling_is_simple(build: ModuleType, value: bytes) -> None:
    assert Reader(build).read(value) == numbers_of(wire.decode_update(value))


@pytest.mark.parametrize("value", SPELLINGS)
def test_a_changed_byte_is_never_misread(build: ModuleType, value: bytes) -> None:
    reader, taken = Reader(build), 0
    for at in range(len(value) + 1):
        for byte in BYTES:
            one = bytes([byte])
            for changed in (value[:at] + one + value[at:], value[:at] + one + value[at + 1 :]):
                found = reader.read(changed)
                if found is not None:
                    taken += 1
                    assert found == numbers_of(wire.decode_update(changed)), changed
        assert at == len(value) or reader.read(value[:at]) is None
    assert taken > 50


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b'{"type":"ack","user_id":"101","channel_id":"202"}',
        b'{"type":"ack","user_id":101,"user_id":101,"channel_id":2,"message_id":3}',
        b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"9223372036854775808"}',
        b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"18446744073709551617"}',
        b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"03"}',
        b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"303","ts":"1"}',
        b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"303","ts":01}',
        b'{"type":"ack","user_id":"101","channel_id":"202","message_id":"303","flags":1}',
        b'{"type":"bulk_ack","user_id":"101","channel_id":"202","message_id":"303"}',
    ],
)
def test_what_is_not_simple(build: ModuleType, value: bytes | None) -> None:
    assert Reader(build).read(value) is None


@pytest.mark.parametrize("key", [None, b"", b"10", b"1010", b"102", b"0101", "101"])
def test_the_key_must_be_the_user(build: ModuleType, key: object) -> None:
    assert Reader(build).read(SPELLINGS[0], key) is None


def test_the_largest_numbers(build: ModuleType) -> None:
    value = b'{"type":"ack","user_id":"%d","channel_id":"%d","message_id":"%d"}' % (BIG, BIG, BIG)
    assert Reader(build).read(value, b"%d" % BIG) == numbers_of(wire.decode_update(value))


def test_it_stops_before_the_first_that_is_not_simple(build: ModuleType) -> None:
    values = [SPELLINGS[0], SPELLINGS[2], b"{}"]
    records = [SimpleNamespace(key=b"101", value=v, offset=n) for n, v in enumerate(values)]
    reader = Reader(build)
    assert reader.all(records) == 2
    assert reader.numbers[6] == BITS | 1
    assert reader.numbers[fast_decoder.NUMBERS + 6] == BITS | 2
