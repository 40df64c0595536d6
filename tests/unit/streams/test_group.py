"""Which commands of a partition's owner count, and what an error of the group means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from readstates.streams.config import Settings
from readstates.streams.errors import SharedNameError
from readstates.streams.kafka import group_errors
from readstates.streams.kafka.group import Commit, Group
from readstates.streams.kafka.group_consumer import Committed, TopicPartition
from readstates.streams.kafka.group_errors import (
    ADVICE,
    ERROR_LOG_S,
    FENCED_MAX,
    FENCED_WITHIN_S,
    SESSION_MARGIN_S,
    TWIN_SESSION_MAX_S,
    Judge,
    Sparing,
    cause,
)
from readstates.streams.kafka.ownership import Ownership

AT_ONCE = sorted(ADVICE.keys() - group_errors.TWIN - {KafkaError.INCONSISTENT_GROUP_PROTOCOL})


# -- ownership -----------------------------------------------------------------------------------


def owning(*numbers: int) -> tuple[Ownership, int]:
    ownership = Ownership()
    return ownership, ownership.assign(numbers)


def test_what_was_revoked_is_let_go_when_all_of_it_was_released() -> None:
    ownership, _ = owning(1, 2, 3)
    heard = ownership.revoke([1, 2])
    ownership.release([1], heard)
    assert not ownership.may_let_go()
    ownership.release([2], heard)
    assert ownership.may_let_go()
    ownership.let_go()
    assert ownership.owned == {3}
    assert not ownership.pending
    assert not ownership.may_let_go()


def test_only_what_is_revoked_can_be_released() -> None:
    ownership, heard = owning(1, 2)
    ownership.release([1, 7], heard)
    assert not ownership.may_let_go()
    heard = ownership.revoke([1])
    assert not ownership.may_let_go()
    ownership.release([1, 2], heard)
    assert ownership.may_let_go()
    ownership.let_go()
    assert ownership.owned == {2}


def test_a_release_of_an_earlier_revocation_does_not_count() -> None:
    ownership, _ = owning(1)
    early = ownership.revoke([1])
    ownership.assign([1])  # given back
    ownership.release([1], early)
    late = ownership.revoke([1])
    ownership.release([1], early)
    assert not ownership.may_let_go()
    ownership.release([1], late)
    assert ownership.may_let_go()


def test_what_is_given_back_before_its_release_stays() -> None:
    ownership, _ = owning(1, 2)
    heard = ownership.revoke([1, 2])
    ownership.release([1], heard)
    heard = ownership.assign([1, 2])
    assert ownership.owned == {1, 2}
    assert not ownership.pending
    assert not ownership.may_let_go()
    assert ownership.may_commit(1, heard)


def test_a_commit_counts_for_what_is_owned_and_not_released() -> None:
    ownership, heard = owning(1, 2)
    assert ownership.may_commit(1, heard)
    assert not ownership.may_commit(3, heard)
    heard = ownership.revoke([1])
    assert ownership.may_commit(1, heard)
    ownership.release([1], heard)
    assert not ownership.may_commit(1, heard)
    assert ownership.may_commit(2, heard)


def test_a_commit_of_an_earlier_ownership_does_not_count() -> None:
    ownership, early = owning(1)
    change, lost = ownership.lose()
    assert lost == {1}
    assert not ownership.may_commit(1, change)
    late = ownership.assign([1])
    assert not ownership.may_commit(1, early)
    assert not ownership.may_commit(1, change)
    assert ownership.may_commit(1, late)


def test_a_loss_ends_what_was_pending() -> None:
    ownership, _ = owning(1, 2)
    heard = ownership.revoke([1])
    ownership.release([1], heard)
    assert ownership.lose()[1] == {1, 2}
    assert not ownership.may_let_go()
    assert ownership.pending_for_s() == 0.0


# -- the thread ----------------------------------------------------------------------------------


class FakeMember:
    look_s = 1.0

    def __init__(self) -> None:
        self.calls: list[str] = []

    def is_expelled(self) -> bool:
        return False

    def let_go(self) -> None:
        self.calls.append("let go")

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        self.calls.append(f"commit {sorted(place.partition for place in offsets)}")


async def test_nothing_is_let_go_while_a_commit_names_it() -> None:
    """G1, and G2: the next commit waits for its turn."""
    member: Any = FakeMember()
    owner: Any = SimpleNamespace(**dict.fromkeys(("assigned", "revoked", "lost"), lambda _: None))
    group = Group(Settings(), "", lambda _error: None)
    group._owner, group._loop = owner, asyncio.get_running_loop()

    async def turn() -> None:
        await asyncio.sleep(0)  # the owner hears of the changes
        group._take_commands()
        group._watch(member)

    def commit(*numbers: int) -> asyncio.Future[bool]:
        offsets = {TopicPartition("updates", number): (1, "") for number in numbers}
        answer = group._loop.create_future()
        group._commands.append(Commit(offsets, group._heard, answer))
        return answer

    group.on_assigned({1, 2})
    await asyncio.sleep(0)
    first = commit(1, 2)
    await turn()
    group.on_revoked({1})
    await asyncio.sleep(0)
    group.release({1})
    second = commit(1, 2)
    await turn()
    assert member.calls == ["commit [1, 2]"]
    group.on_commit([])
    await turn()
    assert member.calls == ["commit [1, 2]", "let go", "commit [2]"]
    group.on_commit([])
    assert (await first, await second) == (True, False)  # of the second, a part was left out


async def test_a_queries_topic_that_is_gone_does_not_hold_up_the_updates() -> None:
    settings, member = Settings(), FakeMember()
    group = Group(settings, "", lambda _error: None)
    group._loop, group._member = asyncio.get_running_loop(), cast(Any, member)
    gone = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    updates = {TopicPartition(settings.updates_topic, n): (1, "") for n in (1, 2)}
    queries = {TopicPartition(settings.queries_topic, n): (1, "") for n in (3, 4)}

    def begin(offsets: Mapping[TopicPartition, Committed]) -> asyncio.Future[bool]:
        answer = group._loop.create_future()
        group._under_way = Commit(offsets, 0, answer)
        group.on_commit([gone])
        return answer

    both = begin(updates | queries)
    assert member.calls == ["commit [1, 2]"]
    group.on_commit([])
    assert await both
    refused = begin(updates | queries)
    group.on_commit([gone])
    assert not await refused, "the topic of updates is gone, too"
    assert not await begin(updates)
    assert member.calls == ["commit [1, 2]"] * 2


# -- errors --------------------------------------------------------------------------------------


def fatal(code: int) -> KafkaError:
    """As librdkafka reports it: with the cause in the text."""
    text = KafkaError(code).str()
    return KafkaError(KafkaError._FATAL, f"Fatal error: {text}: Fatal consumer error: {text}")


@pytest.mark.parametrize("code", AT_ONCE)
def test_what_a_person_must_correct_ends_the_worker(code: int) -> None:
    settings = Settings(kafka_group="a-group")
    for error in (KafkaError(code), fatal(code)):
        found, end = Judge(settings, "").judge(error, 0.0)
        assert found == code
        assert f"group a-group: {ADVICE[code]}" in str(end)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError._ALL_BROKERS_DOWN,
    ],
)
def test_any_other_error_does_not(code: int) -> None:
    judge = Judge(Settings(), "")
    for at in range(1000):
        assert judge.judge(KafkaError(code), float(at)) == (code, None)


@pytest.mark.parametrize(
    ("code", "patience_s"),
    [
        (KafkaError.INCONSISTENT_GROUP_PROTOCOL, Settings().session_timeout_s + SESSION_MARGIN_S),
        (KafkaError.UNRELEASED_INSTANCE_ID, TWIN_SESSION_MAX_S),
    ],
)
def test_an_error_that_another_session_causes_may_pass(code: int, patience_s: float) -> None:
    judge = Judge(Settings(), "")
    assert judge.judge(KafkaError(code), 0.0).end is None
    assert judge.judge(KafkaError(code), patience_s - 1).end is None
    judge.joined()
    assert judge.judge(KafkaError(code), patience_s).end is None
    assert judge.judge(KafkaError(code), 2 * patience_s).end is not None


def test_a_member_whose_place_is_taken_again_and_again_ends() -> None:
    judge = Judge(Settings(), "twin")
    error = fatal(KafkaError.FENCED_INSTANCE_ID)
    for at in range(1, FENCED_MAX):
        assert judge.judge(error, float(at)).end is None
        judge.joined()
    end = judge.judge(error, float(FENCED_MAX)).end
    assert isinstance(end, SharedNameError), "a supervisor does not start it again"
    assert "is using the INSTANCE_ID 'twin'" in str(end)


def test_a_place_that_is_taken_now_and_then_is_taken_back() -> None:
    judge = Judge(Settings(), "twin")
    for turn in range(10):
        error = fatal(KafkaError.FENCED_INSTANCE_ID)
        assert judge.judge(error, turn * FENCED_WITHIN_S).end is None


def test_a_fatal_error_of_another_cause() -> None:
    assert cause(KafkaError(KafkaError._FATAL, "a text")) == KafkaError._FATAL


def test_each_kind_of_error_is_logged_sparingly() -> None:
    sparing, error = Sparing(), KafkaError(KafkaError.NOT_COORDINATOR)
    assert [sparing.is_due(error, at) for at in (0.0, 1.0, ERROR_LOG_S)] == [True, False, True]
    assert sparing.is_due(KafkaError(KafkaError._ALL_BROKERS_DOWN), 1.0)
    assert all(sparing.is_due(fatal(KafkaError.FENCED_INSTANCE_ID), 1.0) for _ in range(2))
