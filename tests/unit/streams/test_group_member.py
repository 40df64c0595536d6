"""A member's use of confluent-kafka, whose callbacks a fake consumer runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Set
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from readstates.streams.config import CLASSIC, CONSUMER, Settings
from readstates.streams.kafka import group_member
from readstates.streams.kafka.group_member import CLOSE_NAME, Member


class FakeConsumer:
    """Notes its calls, in order. `queued` are callbacks that the next polls run, one in each."""

    def __init__(self, config: dict[str, Any], **_more: Any) -> None:
        self.config = config
        self.calls: list[str] = []
        self.queued: list[Callable[[], None]] = []
        self.id = ""

    def subscribe(self, _topics: list[str], **callbacks: Any) -> None:
        self.calls.append("subscribe")
        self.on = callbacks

    def run(self, which: str, *numbers: int) -> None:
        places = [TopicPartition("read-states.updates", number) for number in numbers]
        # A leader of another kind may assign anything; this is none of ours.
        self.on[which](self, [*places, TopicPartition("another", 9)])

    def poll(self, _timeout_s: float) -> None:
        self.calls.append("poll")
        if self.queued:
            self.queued.pop(0)()

    def memberid(self) -> str:
        return self.id

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self.calls.append(f"assign {places}")

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        self.calls.append(f"unassign {places}")

    def unsubscribe(self) -> None:
        self.calls.append("unsubscribe")

    def close(self) -> None:
        self.calls.append("close")


class Heard:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_assigned(self, numbers: Set[int]) -> None:
        self.heard.append(("assigned", numbers))

    def on_revoked(self, numbers: Set[int]) -> None:
        self.heard.append(("revoked", numbers))

    def on_lost(self, why: str) -> None:
        self.heard.append("lost")

    def on_commit(self, errors: list[KafkaError]) -> None:
        self.heard.append(("commit", [error.code() for error in errors]))

    def on_connection_error(self, error: KafkaError) -> None:
        self.heard.append(error.code())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Member, Any, list[object]]]:
    monkeypatch.setattr(group_member, "Consumer", FakeConsumer)

    def make(name: str = "", **settings: Any) -> tuple[Member, Any, list[object]]:
        heard = Heard()
        given = Settings(**settings)
        member = Member(given, name or given.instance_id, heard)
        return member, member._consumer, heard.heard

    return make


Made = Callable[..., tuple[Member, Any, list[object]]]


def test_every_callback_makes_one_call_that_changes_nothing(made: Made) -> None:
    """Without a call, confluent-kafka would assign, fetch, and let go by itself."""
    _, consumer, heard = made()
    consumer.run("on_assign", 1, 2)
    consumer.run("on_revoke", 2)
    consumer.run("on_lost", 1)
    assert consumer.calls == ["subscribe"] + ["assign []"] * 3
    assert heard == [("assigned", {1, 2}), ("revoked", {2}), "lost"]


def test_letting_go(made: Made) -> None:
    member, consumer, _ = made()
    member.let_go()
    assert consumer.calls[-1] == "unassign []"


@pytest.mark.parametrize(
    ("ids", "expelled"),
    [
        (["", "a", "a"], [False, False, False]),
        (["a", "", "b"], [False, True, False]),
        (["a", "b"], [False, True]),
    ],
)
def test_a_member_id_that_changes_shows_an_expulsion(
    made: Made, ids: Iterable[str], expelled: list[bool]
) -> None:
    member, consumer, _ = made()
    found = []
    for consumer.id in ids:
        found.append(member.is_expelled())
    assert found == expelled


def test_what_is_queued_is_served_before_the_close(made: Made) -> None:
    """A second callback inside `close` would hold the interpreter's lock for ever."""
    member, consumer, heard = made()
    consumer.queued = [lambda: consumer.run("on_assign"), lambda: consumer.run("on_revoke", 1)]
    member.close()
    assert consumer.calls == [
        *("subscribe", "unassign []", "unsubscribe"),
        *("poll", "assign []", "poll", "unassign []", "poll", "close"),
    ]
    assert not consumer.queued
    assert not heard  # it is over


def test_a_static_member_is_dropped_and_does_not_leave(made: Made) -> None:
    member, consumer, _ = made(instance_id="one")
    member.close()
    assert consumer.calls == ["subscribe"]
    assert not hasattr(member, "_consumer")


def test_a_member_whose_name_was_not_given_leaves(made: Made) -> None:
    """Nobody will come back under it soon, if the worker was stopped."""
    member, consumer, _ = made("kept")
    assert consumer.config["group.instance.id"] == "kept"
    member.close()
    assert consumer.calls[-1] == "close"


def test_a_member_that_is_replaced_does_not_put_out_who_has_its_name_next(made: Made) -> None:
    member, consumer, _ = made("kept")
    member.retire()
    for thread in threading.enumerate():
        if thread.name == CLOSE_NAME:
            thread.join()
    assert consumer.calls == ["subscribe"]


def test_a_static_member_of_the_new_protocol_says_that_it_will_be_back(made: Made) -> None:
    member, consumer, _ = made(instance_id="one", group_protocol=CONSUMER)
    member.close()
    assert consumer.calls[-1] == "close"


def test_each_protocol_has_its_settings(made: Made) -> None:
    own = {"partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"}
    _, classic, _ = made(session_timeout_s=12.5)
    assert own <= classic.config.keys()
    assert classic.config["session.timeout.ms"] == 12500
    assert classic.config["max.poll.interval.ms"] == 12500
    _, other, _ = made(group_protocol=CONSUMER)
    assert not own & other.config.keys()
    assert (classic.config["group.protocol"], other.config["group.protocol"]) == (CLASSIC, CONSUMER)


def test_the_answer_to_a_commit_has_the_errors_of_all_its_partitions(made: Made) -> None:
    _, consumer, heard = made()
    consumer.config["on_commit"](None, [TopicPartition("t", 1)])
    consumer.config["on_commit"](KafkaError(KafkaError.UNKNOWN_MEMBER_ID), [])
    assert heard == [("commit", []), ("commit", [KafkaError.UNKNOWN_MEMBER_ID])]
