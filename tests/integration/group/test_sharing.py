"""Members on a real broker share the partitions: who owns what, and who is told what."""

from __future__ import annotations

import asyncio
import signal

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from readstates.streams.config import Settings
from readstates.streams.kafka import group_member
from tests.support.group import (
    ALL,
    PARTITIONS,
    Joins,
    eventually,
    owning_all,
    partitions_of,
    shared,
)
from tests.support.group_process import member_process


async def test_members_share_the_partitions_and_inherit_them(
    settings: Settings, joins: Joins
) -> None:
    first = await owning_all(joins(settings))
    second, third = joins(settings), joins(settings)
    both = (first, second, third)
    await eventually(
        lambda: (
            all(len(one.owned) in {2, 3} for one in both)
            and first.owned | second.owned | third.owned == ALL
        ),
        "they share",
    )
    assert sum(len(one.owned) for one in both) == PARTITIONS
    stayed = set(second.owned)
    await third.group.leave()
    await eventually(lambda: first.owned | second.owned == ALL, "two inherit")
    assert stayed <= second.owned
    await first.group.leave()
    await owning_all(second)
    assert "lost" not in first.kinds() + second.kinds() + third.kinds()
    assert not first.refusals + second.refusals + third.refusals


async def test_what_stays_is_not_mentioned(settings: Settings, joins: Joins) -> None:
    first = await owning_all(joins(settings))
    second = joins(settings)
    await eventually(lambda: len(second.owned) == PARTITIONS // 2, "half of them moved")
    moved = frozenset(second.owned)
    assert first.told == [("assigned", ALL), ("revoked", moved)]
    assert second.told == [("assigned", moved)]


async def test_a_killed_member_is_replaced_when_its_session_is_over(
    classic: Settings, joins: Joins
) -> None:
    with member_process(classic) as process:
        await partitions_of(process)
        survivor = joins(classic)
        await eventually(lambda: survivor.owned, "they share")
        process.send_signal(signal.SIGKILL)
        await owning_all(survivor)


async def test_what_is_revoked_goes_to_nobody_before_its_release(
    settings: Settings, joins: Joins
) -> None:
    first, second = await shared(joins, settings)
    moving = set(first.pending)
    await asyncio.sleep(2 * first.settings.commit_interval_s)
    assert await first.commit(0, *ALL)  # heartbeats and commits go on
    assert not second.owned
    first.release(moving)
    await eventually(lambda: second.owned == moving, "they have moved")
    assert await second.commit(0, *moving)


async def test_what_one_revocation_took_is_let_go_together(
    settings: Settings, joins: Joins
) -> None:
    """librdkafka would join again as the owner of none of it, and another would get the rest."""
    first, second = await shared(joins, settings)
    early, *late = sorted(first.pending)
    first.release([early])
    await asyncio.sleep(2 * first.settings.commit_interval_s)
    assert not second.owned
    assert await first.commit(0, *late)
    assert not await first.commit(0, early)  # it was released
    first.release(late)
    await eventually(lambda: second.owned == {early, *late}, "they have moved")


async def test_what_comes_back_is_assigned_after_the_release(
    settings: Settings, joins: Joins
) -> None:
    first, second = await shared(joins, settings)
    moving = frozenset(first.pending)
    await second.group.leave()
    await asyncio.sleep(2 * first.settings.commit_interval_s)
    assert first.told == [("assigned", ALL), ("revoked", moving)]
    first.release(moving)
    await owning_all(first)
    assert first.told == [("assigned", ALL), ("revoked", moving), ("assigned", moving)]
    assert await first.commit(0, *ALL)


async def test_a_release_that_does_not_come_is_a_loss(
    classic: Settings, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_member, "REBALANCE_TIMEOUT_MIN_S", 0.0)
    first, second = await shared(joins, classic)
    await eventually(lambda: ("lost", ALL) in first.told, "all is lost")
    first.holds = False
    await eventually(lambda: first.owned | second.owned == ALL, "they share")
    assert not first.owned & second.owned


async def test_a_member_leaves_while_a_release_is_pending(settings: Settings, joins: Joins) -> None:
    first, second = await shared(joins, settings)
    await first.group.leave()
    await owning_all(second)


async def test_more_partitions_are_passed_on(
    settings: Settings, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_member, "METADATA_MS", 1000)
    holder = await owning_all(joins(settings))
    admin = AdminClient(settings.librdkafka())
    (done,) = admin.create_partitions([NewPartitions(settings.updates_topic, 10)]).values()
    done.result(30)
    await eventually(lambda: holder.owned == set(range(10)), "the new ones are assigned")
    assert holder.told == [("assigned", ALL), ("assigned", frozenset({8, 9}))]
