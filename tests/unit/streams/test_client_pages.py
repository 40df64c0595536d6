"""A whole read goes page by page, and what it returns may be gone on from with deltas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from readstates.schemas.queries import Get
from readstates.schemas.read_state import ReadState
from readstates.schemas.replies import Reply, Totals
from readstates.streams.client import Client, QueryError
from readstates.streams.client.client import PAGE_STATES

KINDS = 3
Moment = Callable[[int], tuple[bool, list[int]]]


class Service:
    """In place of the connection: one user's read states, asked for as the interface says.

    `fits`: how many read states fit in a reply. `advises`: whether the error says so. Each query is
    answered at a later version, and `at(n)` says of the n-th whether it is full and which numbers
    of read states it can show.
    """

    def __init__(self, at: Moment, fits: int = 10**9, *, advises: bool = True) -> None:
        self._at, self._fits, self._advises = at, fits, advises
        self.asked: list[Get] = []

    async def ask(self, get: Get, _deadline_s: float) -> Reply:
        number = len(self.asked)
        self.asked.append(get)
        full, shown = self._at(number)
        full = full or get.since_version is None
        numbers = shown if not full else range(len(SORTED))
        rows = [SORTED[n] for n in numbers if SORTED[n][:2] > (get.after or (-1, 0))]
        limit = len(rows) if get.limit is None else get.limit
        if min(limit, len(rows)) > self._fits:
            raise QueryError("reply_too_large", "too large", self._fits if self._advises else None)
        page = [row._replace(version=100 + number) for row in rows[:limit]]
        more = page[-1][:2] if len(rows) > len(page) else None
        totals = Totals(9, 8, number) if get.totals else None
        return Reply(get.user_id, 100 + number, full, page, totals, more)


SORTED = sorted(
    ReadState(n % KINDS, 2**62 + n, 5, 0, 0, 0, 0, 0, 1) for n in range(2 * PAGE_STATES + 5)
)
EVERYTHING = [row[:2] for row in SORTED]


def client_of(service: Service, monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client("127.0.0.1:1", "replies")
    monkeypatch.setattr(made, "_connection", service)
    return made


def places(reply: Reply) -> list[Any]:
    return [state[:2] for state in reply.read_states]


def always_full(_number: int) -> tuple[bool, list[int]]:
    return True, []


async def test_a_whole_read_has_all_pages_and_the_first_ones_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service(always_full)
    reply = await client_of(service, monkeypatch).get(7, totals=True, after_offset=3)
    assert places(reply) == EVERYTHING
    assert (reply.user_id, reply.version, reply.full, reply.next) == (7, 100, True, None)
    assert reply.totals == (9, 8, 0)  # the first page's
    assert [get.limit for get in service.asked] == [PAGE_STATES] * 3
    assert [get.totals for get in service.asked] == [True, False, False]
    assert {get.after_offset for get in service.asked} == {3}


@pytest.mark.parametrize("advises", [True, False])
async def test_a_page_that_is_too_large_becomes_smaller(
    advises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(always_full, 700, advises=advises)
    reply = await client_of(service, monkeypatch).get(7)
    assert places(reply) == EVERYTHING
    fits = 700 if advises else PAGE_STATES // 4
    assert service.asked[-1].limit == fits
    refused = [get.limit for get in service.asked].index(fits)
    assert reply.version == 100 + refused  # that of the first page that came
    assert len(service.asked) == refused + -(-len(SORTED) // fits)  # no page is asked for twice


async def test_channels_that_do_not_fit_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(always_full, 700)
    reply = await client_of(service, monkeypatch).get(7, [1, 2])
    assert places(reply) == EVERYTHING
    assert [get.limit for get in service.asked[:2]] == [None, 700]
    assert {get.channel_ids for get in service.asked} == {(1, 2)}


async def test_one_read_state_that_does_not_fit_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service(always_full, 0, advises=False)
    with pytest.raises(QueryError) as caught:
        await client_of(service, monkeypatch).get(7)
    assert caught.value.code == "reply_too_large"
    assert service.asked[-1].limit == 1


@pytest.mark.parametrize("advice", [10_000, 0])
async def test_advice_that_does_not_help_comes_to_an_end(
    advice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(always_full)

    async def ask(get: Get, _deadline_s: float) -> Reply:
        service.asked.append(get)
        assert len(service.asked) <= PAGE_STATES.bit_length()
        raise QueryError("reply_too_large", "too large", advice)

    monkeypatch.setattr(service, "ask", ask)
    with pytest.raises(QueryError):
        await client_of(service, monkeypatch).get(7, [1])


async def test_a_limit_asks_for_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(always_full, 10)
    client = client_of(service, monkeypatch)
    first = await client.get(7, limit=2)
    assert (places(first), first.next) == (EVERYTHING[:2], EVERYTHING[1])
    second = await client.get(7, limit=2, after=first.next)
    assert places(second) == EVERYTHING[2:4]
    with pytest.raises(QueryError) as caught:
        await client.get(7, limit=11)
    assert caught.value.limit == 10


async def test_a_delta_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = list(range(0, len(SORTED), 2))
    service = Service(lambda _number: (False, changed))
    reply = await client_of(service, monkeypatch).get(7, since_version=50)
    assert places(reply) == [EVERYTHING[n] for n in changed]
    assert (reply.version, reply.full) == (100, False)
    assert {get.since_version for get in service.asked} == {50}


async def test_a_complete_first_page_is_followed_by_complete_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A delta behind it would leave out what has not changed, and the reply says `full`."""
    service = Service(lambda number: (number == 0, []))
    reply = await client_of(service, monkeypatch).get(7, since_version=50)
    assert reply.full
    assert places(reply) == EVERYTHING


async def test_a_complete_page_behind_a_delta_leaves_it_a_delta(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next delta begins at the first page's version, so it shows a deletion in between."""
    changed = list(range(PAGE_STATES + 1))
    service = Service(lambda number: (number > 0, changed))
    reply = await client_of(service, monkeypatch).get(7, since_version=50)
    assert (reply.version, reply.full) == (100, False)
    assert places(reply) == EVERYTHING
