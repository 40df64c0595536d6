"""W1 and W2, against a plain multiset of offsets."""

from __future__ import annotations

import random

import pytest
from readstates.streams.watermark import BUCKET_BITS, Watermark


def test_nothing_held_is_the_next_offset() -> None:
    mark = Watermark(5)
    assert mark.idle
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
    assert mark.idle
    assert mark.position(2000) == 2000


def test_it_never_goes_back_even_where_an_older_offset_is_held() -> None:
    mark = Watermark(500)
    assert mark.position(400) == 500
    mark.hold(100)
    assert mark.position(900) == 500


def test_a_release_too_many_raises() -> None:
    with pytest.raises(KeyError):
        Watermark(0).release(7)


@pytest.mark.parametrize("seed", range(20))
def test_it_stays_at_or_below_every_held_offset(seed: int) -> None:
    rand = random.Random(seed)
    mark, held, next_offset, before = Watermark(0), [], 0, 0
    for _ in range(500):
        next_offset += rand.choice((0, 1, 1, 50))
        if rand.random() < 0.5:
            offset = next_offset
            mark.hold(offset)
            held.append(offset)
            next_offset += 1
        elif held:
            mark.release(held.pop(rand.randrange(len(held))))
        position = mark.position(next_offset)
        assert before <= position <= min(held, default=next_offset)
        assert position > min(held, default=next_offset) - (1 << BUCKET_BITS)
        assert len(mark) == len(held)
        before = position
