"""How many read states fit: pages that are cut, and limits that errors advise."""

from __future__ import annotations

import struct

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readstates.cache.marks import MARKS_MAX
from readstates.schemas.queries import LIMIT_MAX
from readstates.schemas.read_state import Row
from readstates.schemas.replies import (
    NEXT_BYTES_MAX,
    Answer,
    Totals,
    encode_reply,
    wrap_faust,
)
from readstates.schemas.reply_sizes import limit_that_fits, shortened, too_large

USER = 2**63 - 1
BIG = 1_300_000_000_000_000_000  # 19 digits
LAST = (255, 2**63 - 1)
TOTALS = Totals(2**32, 2**32, 2**40)


def row(number: int, marks: int, size: int = BIG) -> Row:
    """A read state with so many mentions; the size of its numbers is that of `size`."""
    ids = [size + n for n in range(marks)]
    extra = b"".join(struct.pack("=qQ", message_id, 0) for message_id in ids)
    return (0, BIG + number, size, ids[-1] if ids else 0, marks, size >> 20, 0, 0, size, extra)


states = st.builds(
    row,
    st.integers(0, 10**6),
    st.integers(0, 4) | st.just(MARKS_MAX),
    st.sampled_from([1, 10**9, BIG]),
)
many = st.lists(states, max_size=30, unique_by=lambda one: one[1]).map(sorted)


def pages(rows: list[Row], limit: int) -> list[list[Row]]:
    return [rows[at : at + limit] for at in range(0, len(rows), limit)]


@settings(deadline=None)
@given(many, st.integers(100, 8_000), st.booleans(), st.booleans())
def test_every_page_of_the_advised_limit_fits(
    rows: list[Row], bytes_max: int, mentions: bool, faust: bool
) -> None:
    def encoded(answer: Answer) -> bytes:
        body = encode_reply(USER, answer, mentions)
        return wrap_faust(body, b"%d" % USER, b'[{"}]},{') if faust else body

    whole = encoded(Answer(BIG, True, rows, TOTALS))
    limit = limit_that_fits(whole, bytes_max)
    if limit is None:
        assert not rows or len(encoded(Answer(BIG, True, rows, TOTALS, LAST))) > bytes_max
        return
    for page in pages(rows, limit):
        assert len(encoded(Answer(BIG, True, page, TOTALS, LAST))) <= bytes_max
    if len(whole) > bytes_max:
        assert limit < len(rows), "the same query again would be refused again"


@settings(deadline=None)
@given(many, st.integers(100, 8_000), st.booleans())
def test_a_page_is_cut_to_what_fits(rows: list[Row], bytes_max: int, mentions: bool) -> None:
    answer = Answer(BIG, True, rows, TOTALS)
    body = encode_reply(USER, answer, mentions)
    page = shortened(answer, body, bytes_max)
    if page is None:
        one = encode_reply(USER, answer._replace(rows=rows[:1]), mentions)
        assert not rows or len(one) + NEXT_BYTES_MAX >= bytes_max
        return
    assert page.rows == rows[: len(page.rows)]
    assert page.next == rows[len(page.rows) - 1][:2]
    assert page[:2] == answer[:2]
    assert page.totals == TOTALS
    assert len(encode_reply(USER, page, mentions)) <= bytes_max
    if len(page.rows) < len(rows):
        longer = answer._replace(rows=rows[: len(page.rows) + 1])
        assert len(encode_reply(USER, longer, mentions)) + NEXT_BYTES_MAX >= bytes_max


def test_later_pages_may_be_a_little_larger() -> None:
    """An eighth is free, so read states that grow between two pages still fit."""
    rows = [row(number, 4) for number in range(20_000)]
    limit = limit_that_fits(encode_reply(USER, Answer(BIG, True, rows), True), 1_000_000)
    assert limit is not None
    grown = [row(number, 5) for number in range(limit)]
    assert len(encode_reply(USER, Answer(BIG, True, grown), True)) <= 1_000_000


def test_an_advised_limit_is_one_that_a_query_may_have() -> None:
    rows = [row(number, 0, 1) for number in range(LIMIT_MAX + 5_000)]
    body = encode_reply(USER, Answer(BIG, True, rows), False)
    assert limit_that_fits(body, 100_000_000) == LIMIT_MAX


def test_one_large_read_state_fits_although_an_eighth_of_the_bytes_is_not_free() -> None:
    body = encode_reply(USER, Answer(BIG, True, [row(1, MARKS_MAX), row(2, 0)]), True)
    one = encode_reply(USER, Answer(BIG, True, [row(1, MARKS_MAX)], next=LAST), True)
    assert limit_that_fits(body, len(one) + 10) == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"channel_id":"', b'{"a":[{}]}'])
def test_what_has_no_read_states_has_no_limit(body: bytes) -> None:
    assert limit_that_fits(body, 10**6) is None


def test_the_error_says_what_to_do() -> None:
    text = too_large(2_000, "REPLY_BYTES_MAX (1024)", 4)
    assert text == (
        "the reply has 2000 bytes, more than REPLY_BYTES_MAX (1024) allows; ask for pages: the "
        'same query with "limit": 4, and then with the "next" of each reply as "after", until a '
        "reply has none"
    )
    assert "the operator has to raise that" in too_large(2_000, "REPLY_BYTES_MAX (1024)", None)
    assert orjson.loads(orjson.dumps(text)) == text
