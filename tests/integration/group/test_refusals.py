"""What a person must correct: members end and say why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from readstates.streams.config import Settings
from readstates.streams.kafka import group_errors, group_member, topics
from readstates.streams.kafka.group_consumer import TopicPartition
from tests.support.group import PARTITIONS, Joins, eventually, owning_all, told


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
