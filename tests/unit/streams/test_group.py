"""Errors of the group's coordinator, one at a time."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import errors

from readstates.streams.config import Settings
from readstates.streams.errors import GroupError
from readstates.streams.kafka import group
from readstates.streams.kafka.group import EXPELLED_MAX, GroupErrors

UNKNOWN = errors.KafkaError("UnknownError()")


class Coordinator:
    """aiokafka's, as far as it matters here; its task ends with `end`."""

    def __init__(self) -> None:
        self.resets = 0
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coordination_task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        await self.end

    def reset_generation(self) -> None:
        self.resets += 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "RETRY_S", 0)
    monkeypatch.setattr(group, "ONE_EXPULSION_S", 0)


async def answered(*given: BaseException, name: str = "") -> tuple[int, list[Exception]]:
    """How often it joined anew, and what it refused, after these errors."""
    refused: list[Exception] = []
    coordinator = Coordinator()
    answers = GroupErrors(Settings(), name, coordinator, refused.append)
    for exc in given:
        await answers.answer(exc)
    coordinator.end.set_result(None)
    await coordinator._coordination_task
    return coordinator.resets, refused


async def test_an_unknown_error_is_answered_by_joining_anew() -> None:
    assert await answered(UNKNOWN) == (1, [])


async def test_without_a_name_of_its_own_a_worker_tries_for_ever() -> None:
    assert await answered(*[UNKNOWN] * 5 * EXPELLED_MAX) == (5 * EXPELLED_MAX, [])


async def test_a_named_worker_that_is_expelled_again_and_again_ends() -> None:
    assert (await answered(*[UNKNOWN] * (EXPELLED_MAX - 1), name="twin"))[1] == []
    _, (exc,) = await answered(*[UNKNOWN] * EXPELLED_MAX, name="twin")
    assert isinstance(exc, GroupError)
    assert "'twin'" in str(exc)


@pytest.mark.parametrize("kind", group.ADVICE)
async def test_what_a_person_must_mend_ends_the_worker(kind: type[Exception]) -> None:
    _, (exc,) = await answered(kind())
    assert group.ADVICE[kind] in str(exc)


async def test_a_group_task_that_dies_ends_the_worker() -> None:
    refused: list[Exception] = []
    coordinator = Coordinator()
    GroupErrors(Settings(), "", coordinator, refused.append)
    coordinator.end.set_exception(ValueError("a bug"))
    await asyncio.wait([coordinator._coordination_task])
    await asyncio.sleep(0)
    (exc,) = refused
    assert "ValueError('a bug')" in str(exc)
