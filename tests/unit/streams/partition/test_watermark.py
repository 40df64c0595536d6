"""The watermark: never above what is held, never back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readstates.streams.partition.watermark import BUCKET_BITS, Watermark


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=60))
def test_at_or_below_every_hold_and_never_back(steps: list[tuple[bool, int]]) -> None:
    held: list[int] = []
    mark, next_offset, last = Watermark(0), 0, 0
    for hold, number in steps:
        if hold or not held:
            next_offset += number + 1
            mark.hold(next_offset - 1)
            held.append(next_offset - 1)
        else:
            mark.release(held.pop(number % len(held)))
        position = mark.position(next_offset)
        assert last <= position <= min([next_offset, *held])
        assert len(mark) == len(held)
        if not held:
            assert position == next_offset
        last = position


def test_low_by_less_than_a_bucket() -> None:
    mark = Watermark(0)
    mark.hold(1000)
    assert 1000 - (1 << BUCKET_BITS) < mark.position(5000) <= 1000


def test_nothing_held_is_the_next_offset() -> None:
    mark = Watermark(5)
    assert len(mark) == 0
    assert mark.position(5) == 5
    assert mark.position(9) == 9


def test_held_offsets_are_counted() -> None:
    mark = Watermark(0)
    mark.hold(1000)
    mark.hold(1000)
    assert len(mark) == 2
    mark.release(1000)
    assert mark.position(2000) <= 1000
    mark.release(1000)
    assert len(mark) == 0
    assert mark.position(2000) == 2000


def test_it_never_goes_back_even_where_an_older_offset_is_held() -> None:
    mark = Watermark(500)
    assert mark.position(400) == 500
    mark.hold(100)
    assert mark.position(900) == 500


def test_a_release_too_many_raises() -> None:
    with pytest.raises(KeyError):
        Watermark(0).release(7)
