"""A group and topics of each test's own, and members that leave at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.streams.config import CLASSIC, CONSUMER, Settings
from tests.support.group import Holder, Joins, fresh


@pytest.fixture(params=[CLASSIC, CONSUMER])
def settings(stack: Stack, request: pytest.FixtureRequest) -> Settings:
    return fresh(stack, request.param)


@pytest.fixture
def classic(stack: Stack) -> Settings:
    return fresh(stack, CLASSIC)


@pytest.fixture
async def joins() -> AsyncIterator[Joins]:
    """Makes members, which leave at the end."""
    holders: list[Holder] = []

    def join(settings: Settings, **more: Any) -> Holder:
        holders.append(Holder(replace(settings, **more)).start())
        return holders[-1]

    yield join
    for holder in holders:
        await holder.group.leave()
