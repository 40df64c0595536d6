"""A batch of one record: byte by byte what another encoder makes, and what our reader reads."""

from __future__ import annotations

import pytest

from readstates.streams.kafka.one_record import batch_of, encoded_headers
from tests.support import raw_batches as raw

HEADERS = (("a", b""), ("a-longer-name", b"x" * 70))


@pytest.mark.parametrize(
    ("key", "value"), [(b"1", b"{}"), (b"-4096", b"v" * 63), (b"k" * 64, b"v" * 1023), (b"", b"")]
)
@pytest.mark.parametrize("headers", [(), HEADERS])
def test_the_bytes(key: bytes, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
    made = batch_of(key, value, encoded_headers(headers), len(headers), 1_700_000_000_123)
    record = raw.Record(key, value, headers=headers)
    assert made == raw.batch_of(raw.NONE, [record], times=(1_700_000_000_123,) * 2)
