"""The group's members on a real broker: who owns what, who is told what, and what is refused."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewPartitions

from readstates.ops.local.stack import Stack
from readstates.streams.config import CLASSIC, CONSUMER, Settings
from readstates.streams.kafka import group_errors, group_member, topics
from readstates.streams.kafka.group_consumer import TopicPartition
from tests.support.expel import expel
from tests.support.group import Holder, eventually, told
from tests.support.group_process import member_process

PARTITIONS = 8
ALL = frozenset(range(PARTITIONS))
SESSION_S = 6.0  # the least that brokers allow
LONG_SESSION_S = 120.0  # longer than any test waits

Joins = Callable[..., Holder]


@pytest.fixture(params=[CLASSIC, CONSUMER])
def settings(stack: Stack, request: pytest.FixtureRequest) -> Settings:
    return fresh(stack, request.param)


@pytest.fixture
def classic(stack: Stack) -> Settings:
    return fresh(stack, CLASSIC)


def fresh(stack: Stack, protocol: str) -> Settings:
    """A group and topics of one's own."""
    name = f"group-{uuid.uuid4().hex[:8]}"
    settings = Settings.load(
        stack.env(),
        topic_prefix=name,
        kafka_group=name,
        group_protocol=protocol,
        session_timeout_s=SESSION_S,
        handover_timeout_s=1.0,
    )
    topics.create(settings, PARTITIONS, 1)
    return settings


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


async def owning_all(holder: Holder) -> Holder:
    await eventually(lambda: holder.owned == ALL, "it owns all")
    return holder


async def shared(joins: Joins, settings: Settings) -> tuple[Holder, Holder]:
    """Two members; the first one has been asked for some of its partitions, and holds them."""
    first = await owning_all(joins(settings))
    first.holds = True
    second = joins(settings)
    await eventually(lambda: first.pending, "some are revoked")
    return first, second


# -- joining and leaving -------------------------------------------------------------------------


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


async def partitions_of(process: subprocess.Popen[str]) -> int:
    """How many partitions a process has, once it has any."""
    assert process.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
    return int(line)


# -- letting go ----------------------------------------------------------------------------------


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


# -- commits -------------------------------------------------------------------------------------


async def test_commits_of_both_topics_and_their_metadata(settings: Settings, joins: Joins) -> None:
    holder = await owning_all(joins(settings))
    offsets = {
        TopicPartition(settings.updates_topic, 1): (11, "clean:11;"),
        TopicPartition(settings.queries_topic, 1): (12, ""),
    }
    assert await holder.group.commit_offsets(offsets)
    unknown = TopicPartition(settings.updates_topic, 2)
    assert await told(lambda: holder.group.committed([*offsets, unknown])) == offsets
    ranges = await told(lambda: holder.group.log_ranges([*offsets]))
    assert ranges == dict.fromkeys(offsets, (0, 0))


async def test_only_the_owner_commits(settings: Settings, joins: Joins) -> None:
    first, second = await shared(joins, settings)
    moved, stays = sorted(first.pending), sorted(ALL - first.pending)
    first.release(moved)
    await eventually(lambda: second.owned, "they have moved")
    assert await second.commit(7, *moved)
    assert not await first.commit(3, moved[0])
    assert not await first.commit(3, moved[0], stays[0])  # the rest of it is committed
    assert await second.committed(moved[0]) == (7, "live:1;")
    assert await second.committed(stays[0]) == (3, "live:1;")


# -- losing --------------------------------------------------------------------------------------


def member_id(holder: Holder) -> str:
    member: Any = holder.group._member
    return str(member._id)


async def test_an_expelled_member_loses_everything_and_joins_again(
    settings: Settings, joins: Joins
) -> None:
    holder = await owning_all(joins(settings))
    expel(settings, await eventually(lambda: member_id(holder), "its ID"))
    await eventually(lambda: "lost" in holder.kinds(), "it is lost")
    await owning_all(holder)
    assert holder.told == [("assigned", ALL), ("lost", ALL), ("assigned", ALL)]
    assert await holder.commit(5, *ALL)
    assert not holder.refusals


async def test_a_commit_of_an_expelled_member_is_refused(settings: Settings, joins: Joins) -> None:
    holder = await owning_all(joins(settings))
    expel(settings, await eventually(lambda: member_id(holder), "its ID"))
    assert not await holder.commit(5, *ALL)
    await eventually(lambda: "lost" in holder.kinds(), "it is lost")
    await owning_all(holder)
    assert await holder.committed(0) is None


async def test_a_loss_while_a_release_is_pending(settings: Settings, joins: Joins) -> None:
    """librdkafka does not report this loss, and would later believe that it owns what stayed."""
    first, second = await shared(joins, settings)
    expel(settings, member_id(first))
    assert not await first.commit(5, *ALL)
    await eventually(lambda: ("lost", ALL) in first.told, "all is lost")
    first.holds = False
    await eventually(
        lambda: first.owned | second.owned == ALL and not first.owned & second.owned, "they share"
    )
    assert await second.commit(6, *second.owned)
    assert await first.commit(6, *first.owned)


async def test_a_loss_while_a_release_is_pending_shows_in_the_member_id(
    classic: Settings, joins: Joins
) -> None:
    """No commit is made, and the release may be pending for longer than the test waits."""
    patient = replace(classic, session_timeout_s=LONG_SESSION_S)
    first, _ = await shared(joins, patient)
    expel(patient, await eventually(lambda: member_id(first), "its ID"))
    await eventually(lambda: ("lost", ALL) in first.told, "all is lost")


# -- static members ------------------------------------------------------------------------------


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


# -- what a person must correct ------------------------------------------------------------------


async def test_a_session_timeout_that_the_brokers_refuse(classic: Settings, joins: Joins) -> None:
    holder = joins(classic, session_timeout_s=5.5)
    await eventually(lambda: holder.refusals, "it ends")
    assert "SESSION_TIMEOUT_S is outside what the brokers allow" in holder.refusals[0]


@pytest.fixture
def other_kind(classic: Settings) -> Iterator[Consumer]:
    """A member that shares partitions by other rules."""
    config = {"group.id": classic.kafka_group, "partition.assignment.strategy": "range"}
    consumer = Consumer(classic.librdkafka(**config))
    consumer.subscribe([classic.updates_topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    yield consumer
    consumer.close()


async def test_members_of_another_kind(
    classic: Settings, joins: Joins, other_kind: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_errors, "SESSION_MARGIN_S", 1.0 - classic.session_timeout_s)
    holder = joins(classic)
    await eventually(lambda: holder.refusals, "it ends")
    assert "the group has members of another kind" in holder.refusals[0]


async def test_members_of_another_kind_that_leave(
    classic: Settings, joins: Joins, other_kind: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    holder = joins(classic)
    await eventually(lambda: "Inconsistent group protocol" in caplog.text, "it may not join yet")
    await asyncio.to_thread(other_kind.close)
    await owning_all(holder)
    assert not holder.refusals


# -- the topic -----------------------------------------------------------------------------------


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


def delete_topic(settings: Settings) -> None:
    admin = AdminClient(settings.librdkafka())
    (done,) = admin.delete_topics([settings.updates_topic]).values()
    done.result(30)


async def test_the_topic_is_deleted(
    classic: Settings, joins: Joins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_member, "METADATA_MS", 1000)
    holder = await owning_all(joins(classic))
    delete_topic(classic)
    await eventually(lambda: holder.refusals, "it ends")
    assert f"topic {classic.updates_topic} was deleted" in holder.refusals[0]


async def test_the_topic_is_replaced(settings: Settings, joins: Joins) -> None:
    holder = await owning_all(joins(settings))
    place = TopicPartition(settings.updates_topic, 0)
    assert await told(lambda: holder.group.log_ranges([place])) == {place: (0, 0)}
    delete_topic(settings)
    topics.create(settings, PARTITIONS, 1)
    with pytest.raises(TimeoutError, match="created anew"):
        await holder.group.log_ranges([place])
    assert "was deleted and created anew" in holder.refusals[0]
