"""Commits on a real broker, and members that the group no longer knows."""

from __future__ import annotations

from dataclasses import replace

from readstates.streams.config import Settings
from readstates.streams.kafka.group_consumer import TopicPartition
from tests.support.expel import expel
from tests.support.group import (
    ALL,
    LONG_SESSION_S,
    Joins,
    eventually,
    member_id,
    owning_all,
    shared,
    told,
)


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
