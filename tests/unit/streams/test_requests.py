"""Requests to the database that come page by page."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from readstates.streams.cassandra.requests import Request, Requests

ROW = (1, 0, 7, 1, 0, 0, 0, 0, 0, 5, b"", 5)  # of user 1, as `SELECTED` has it


class Pages:
    """A future of the driver: so many pages of so many rows."""

    def __init__(self, pages: int, rows: int) -> None:
        self._left, self._rows = pages, rows
        self.has_more_pages = True
        self.fetched = 0

    def add_callbacks(
        self, callback: Any, errback: Any, *, callback_args: Any, errback_args: Any
    ) -> None:
        assert errback_args == callback_args
        self._callback, self._about = callback, callback_args
        self.start_fetching_next_page()

    def start_fetching_next_page(self) -> None:
        self._left -= 1
        self.has_more_pages = self._left > 0
        self.fetched += 1
        self._callback([ROW] * self._rows, *self._about)

    def clear_callbacks(self) -> None: ...


@pytest.mark.parametrize(
    ("pages", "rows_max", "fetched", "rows"),
    [(5, math.inf, 5, 500), (5, 200, 2, None), (2, 200, 2, 200), (1, 50, 1, 100), (3, 250, 3, 300)],
)
async def test_no_more_pages_are_fetched_than_memory_may_hold(
    pages: int, rows_max: float, fetched: int, rows: int | None
) -> None:
    """What is complete is used, even if it has more rows than that."""
    answers: list[Any] = []
    requests, future = Requests(5, answers.append), Pages(pages, 100)
    request = Request(answers.append, "load", {1: []}, rows_max)
    requests.begin(request)
    requests.follow(request, future)
    await asyncio.sleep(0)
    assert future.fetched == fetched
    (answer,) = answers
    assert answer == {} if rows is None else len(answer[1]) == rows
