"""Versions order the log, epoch first."""

from __future__ import annotations

import pytest

from readstates.schemas.version import EPOCH_FIRST, OFFSET_BITS, offset_of, version_of


@pytest.mark.parametrize("epoch", [EPOCH_FIRST, 2**15 - 1])
@pytest.mark.parametrize("offset", [0, 1, 2**OFFSET_BITS - 2])
def test_an_offset_comes_back(epoch: int, offset: int) -> None:
    version = version_of(epoch, offset)
    assert offset_of(version) == offset
    assert 0 < version < 2**63, "a bigint, and a write timestamp"


def test_a_later_record_and_a_later_epoch_are_larger() -> None:
    assert version_of(8, 4) < version_of(8, 5) < version_of(9, 0)


def test_it_is_later_than_any_ordinary_write_timestamp() -> None:
    assert version_of(EPOCH_FIRST, 0) > 2_240_000_000_000_000  # µs, the end of 2040
