"""What the headers of a dead letter may be, whoever wrote them."""

from __future__ import annotations

import pytest

from readstates.schemas.dead_letters import Origin, origin_headers, origin_of

ORIGIN = Origin("too_large", "read-states.updates", 3, 2**62, 70_000, 2**62 + 5, 2_000)


def test_what_is_written_is_read() -> None:
    assert origin_of(origin_headers(ORIGIN)) == ORIGIN


@pytest.mark.parametrize("digits", [b"9" * 5_000, b"9" * 20, "٣".encode(), b"-1", b"1.0", b""])
def test_a_header_that_is_no_number(digits: bytes) -> None:
    """Python refuses to read a number of thousands of digits, and the list of letters would end."""
    headers = dict(origin_headers(ORIGIN))
    for name in ("partition", "offset"):
        assert origin_of(headers | {name: digits}) is None
    found = origin_of(headers | dict.fromkeys(("cut", "last_offset", "key_cut"), digits))
    assert found == ORIGIN._replace(cut=0, last_offset=None, key_cut=0)
