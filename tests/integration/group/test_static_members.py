"""Members with an INSTANCE_ID: they keep their place, and no two have the same."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from readstates.ops.local.stack import Stack
from readstates.streams.config import CONSUMER, Settings
from readstates.streams.kafka import group_errors
from tests.support.group import (
    ALL,
    LONG_SESSION_S,
    PARTITIONS,
    Joins,
    eventually,
    fresh,
    owning_all,
    partitions_of,
)
from tests.support.group_process import member_process


async def test_a_static_member_is_back_at_once_after_a_kill(
    classic: Settings, joins: Joins
) -> None:
    """Its session would outlast the test, and the other member hears of nothing."""
    patient = replace(classic, session_timeout_s=LONG_SESSION_S)
    named = replace(patient, instance_id="one")
    with member_process(named) as process:
        await partitions_of(process)
        other = joins(patient)
        await eventually(lambda: len(other.owned) == PARTITIONS // 2, "they share")
        told = list(other.told)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with member_process(named) as again:
            assert await partitions_of(again) == PARTITIONS // 2
        assert other.told == told


async def test_a_static_member_that_leaves_keeps_its_place(classic: Settings, joins: Joins) -> None:
    patient = replace(classic, session_timeout_s=LONG_SESSION_S)
    named = await owning_all(joins(patient, instance_id="one"))
    other = joins(patient)
    await eventually(lambda: len(other.owned) == PARTITIONS // 2, "they share")
    kept = set(named.owned)
    await named.group.leave()
    again = joins(patient, instance_id="one")
    await eventually(lambda: again.owned == kept, "it has them again")
    assert len(other.owned) == PARTITIONS // 2


async def test_of_two_with_the_same_name_one_ends(classic: Settings, joins: Joins) -> None:
    twins = [joins(classic, instance_id="twin") for _ in range(2)]
    await eventually(lambda: any(twin.refusals for twin in twins), "one of them ends")
    (loser,) = [twin for twin in twins if twin.refusals]
    assert "another process is using the INSTANCE_ID 'twin'" in loser.refusals[0]
    (winner,) = [twin for twin in twins if not twin.refusals]
    await owning_all(winner)
    assert not loser.owned


async def test_of_two_with_the_same_name_the_second_ends(
    stack: Stack, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_errors, "TWIN_SESSION_MAX_S", 1.0)
    settings = fresh(stack, CONSUMER)
    first = await owning_all(joins(settings, instance_id="twin"))
    second = joins(settings, instance_id="twin")
    await eventually(lambda: second.refusals, "the second one ends")
    assert "another process is using the INSTANCE_ID 'twin'" in second.refusals[0]
    assert first.told == [("assigned", ALL)]
