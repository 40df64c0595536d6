"""What counts as a failed probe, and when a worker is not ready because of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from readstates.schemas.replies import NOT_CAUGHT_UP, STORE_UNAVAILABLE
from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.deviations import ANSWERED_TWICE
from readstates.streams.kafka.prober import UNSENT, Taken
from readstates.streams.worker import probe as module
from readstates.streams.worker.probe import (
    ANSWER_S,
    FAILURES_MAX,
    RECENT,
    RENEW_S,
    TWICE_S,
    Probe,
)

INTERVAL_S = 5.0


class Prober:
    """Notes what it is asked; a test makes the replies."""

    def __init__(self) -> None:
        self.asked: list[dict[bytes, int]] = []
        self.reopened: list[int] = []  # after how many rounds
        self.has_topic = True

    def ask(self, numbers: Sequence[int]) -> dict[bytes, int]:
        asked = numbers if self.has_topic else []
        ids = {b"%d/%d" % (len(self.asked), number): number for number in asked}
        self.asked.append(ids)
        return ids

    def reopen(self) -> None:
        self.reopened.append(len(self.asked))


def partition(number: int) -> Any:
    return SimpleNamespace(
        partition=SimpleNamespace(
            number=number,
            closing=False,
            incarnation=number + 1,
            position=10,
            progress=SimpleNamespace(caught_up=True),
        )
    )


class World:
    """A probe of two partitions, and the time by which it is asked."""

    def __init__(self) -> None:
        self.owned = {number: partition(number) for number in range(2)}
        self.prober = Prober()
        given = SimpleNamespace(owned=self.owned, settings=Settings(probe_interval_s=INTERVAL_S))
        self.probe = Probe(cast(Any, given), cast(Any, self.prober))
        self.now = time.monotonic()

    def ask(self, after_s: float = INTERVAL_S) -> None:
        self.now += after_s
        self.probe._ask(self.now)
        pending = self.probe._pending
        pending.update({key: asked._replace(at=self.now) for key, asked in pending.items()})

    def reply(self, number: int, code: str = "", text: str = "", after_s: float = 0.01) -> None:
        ids = self.prober.asked[-1]
        correlation_id = next(key for key, value in ids.items() if value == number)
        self.probe._note(Taken(correlation_id, code, text, self.now + after_s))

    def silence(self) -> None:
        """The time of all that is under way is over."""
        self.probe._give_up(float("inf"))

    def failed(self, number: int) -> int:
        return sum(map(bool, self.probe._recent.get(number, ())))


@pytest.fixture
def world() -> World:
    return World()


def test_answers_are_good(world: World) -> None:
    for _ in range(5):
        world.ask()
        for number in world.owned:
            world.reply(number)
        world.silence()
    assert world.probe.ready() == (True, "probes are answered")
    assert not world.prober.reopened


def test_silence_is_not(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for count in range(1, FAILURES_MAX + 1):
        assert world.probe.ready()[0]
        world.ask()
        world.reply(0)
        world.silence()
        assert (world.failed(0), world.failed(1)) == (0, count)
    assert world.probe.ready() == (
        False,
        f"probes fail, partitions 1; 1: no answer: within {ANSWER_S:g} s",
    )
    (line,) = [r.getMessage() for r in caplog.records if "probe_failed" in r.getMessage()]
    assert "topic=read-states.queries partition=1 failures=3 of=3 error=no answer" in line
    with caplog.at_level(logging.INFO):
        for _ in range(RECENT - FAILURES_MAX + 1):
            assert not world.probe.ready()[0]
            world.ask()
            world.reply(1)
    assert world.probe.ready()[0]
    assert caplog.text.count("probe_answered partition=1") == 1


def test_an_answer_after_the_deadline_is_a_failure(world: World) -> None:
    """No client with the default deadline waits for it, for instance while brokers throttle."""
    for _ in range(FAILURES_MAX):
        assert world.probe.ready()[0]
        world.ask()
        world.reply(0, after_s=module.LATE_S)
        world.reply(1, after_s=module.LATE_S + 0.1)
    assert world.probe.ready() == (
        False,
        "probes fail, partitions 1; 1: late: the answer took 5.1 s",
    )


def test_what_is_not_asked_is_not_judged(world: World) -> None:
    """The topic for the replies is gone: the watch reports it, and users are served."""
    for _ in range(FAILURES_MAX):
        world.ask()
        world.silence()
    assert not world.probe.ready()[0]
    world.prober.has_topic = False
    world.ask()
    assert world.probe.ready()[0]


def test_some_failures_between_answers_are_too_many(world: World) -> None:
    for count in range(FAILURES_MAX):
        assert world.probe.ready()[0], count
        for replies in (True, False):
            world.ask()
            if replies:
                world.reply(0)
            world.reply(1)
            world.silence()
    assert not world.probe.ready()[0]


def test_failures_do_not_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        world.ask()
        world.silence()
    assert caplog.text.count("probe_failed") == 1


@pytest.mark.parametrize("code", [STORE_UNAVAILABLE, "invalid_query", UNSENT])
def test_an_error_is_a_failure(world: World, code: str) -> None:
    for _ in range(FAILURES_MAX):
        world.ask()
        world.reply(0, code, "why")
        world.reply(1)
    assert world.probe.ready() == (False, f"probes fail, partitions 0; 0: {code}: why")


def test_who_is_behind_and_moves_has_not_failed(world: World) -> None:
    for _ in range(2 * FAILURES_MAX):
        world.ask()
        world.owned[0].partition.position += 1
        for number in world.owned:
            world.reply(number, NOT_CAUGHT_UP)
    assert (world.failed(0), world.failed(1)) == (0, 2 * FAILURES_MAX)


def test_who_is_not_caught_up_is_not_asked(world: World) -> None:
    world.owned[0].partition.progress.caught_up = False
    world.owned[1].partition.closing = True
    world.ask()
    assert not world.prober.asked
    world.owned[0].partition.progress.caught_up = True
    world.ask()
    assert [*world.prober.asked[0].values()] == [0]


@pytest.mark.parametrize("how", ["leaves", "is closing", "was opened again"])
def test_whose_partition_left_has_not_failed(world: World, how: str) -> None:
    for _ in range(FAILURES_MAX):
        world.ask()
        one = world.owned[0].partition
        if how == "leaves":
            world.owned.pop(0, None)
        elif how == "is closing":
            one.closing = True
        else:
            one.incarnation += 1
        world.silence()
        one.closing = False
        world.owned.setdefault(0, SimpleNamespace(partition=one))
    assert (world.failed(0), world.failed(1)) == (0, FAILURES_MAX)


def test_failures_leave_with_their_partition(world: World) -> None:
    for _ in range(FAILURES_MAX):
        world.ask()
        world.silence()
    del world.owned[0]
    world.ask()
    assert (world.failed(0), world.failed(1)) == (0, FAILURES_MAX)


def test_new_clients_are_tried_if_nothing_at_all_is_heard(world: World) -> None:
    world.ask(ANSWER_S + INTERVAL_S - 1)
    assert not world.prober.reopened
    world.ask()
    assert len(world.prober.reopened) == 1
    world.ask()
    assert len(world.prober.reopened) == 1  # the new ones have their time, too
    world.reply(0, "overloaded")
    world.ask(ANSWER_S)
    assert len(world.prober.reopened) == 1


def test_new_clients_are_tried_if_one_partition_does_not_answer(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are heard all the time."""
    renewed = metrics.CLIENTS_RENEWED.labels("probe")._value
    before, rounds = renewed.get(), 30
    for _ in range(rounds):
        world.ask()
        world.reply(0)
        world.silence()
    first, *_ = world.prober.reopened
    assert first == FAILURES_MAX, "before the next probes after it has turned bad"
    most = rounds * INTERVAL_S / RENEW_S
    assert most / 2 < len(world.prober.reopened) <= most
    assert renewed.get() == before + len(world.prober.reopened)
    logged = caplog.text.count("client_renewed client=probe why='partition 1 does not answer'")
    assert 1 < logged < len(world.prober.reopened)


def test_new_clients_are_used_for_a_topic_that_was_made_anew(world: World) -> None:
    settings = Settings()
    for topic in (settings.dead_letters_topic, settings.queries_topic, settings.probes_topic):
        world.probe.topic_made_anew(topic)
        world.ask()
        for number in world.owned:
            world.reply(number)
    world.ask()
    assert world.prober.reopened == [1, 2], "before the second and the third round"


def test_a_late_reply_counts_no_more(world: World) -> None:
    world.ask()
    world.silence()
    world.reply(0)
    assert world.failed(0) == 1


def test_another_group_answers_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: world.now)

    def rounds(for_s: float, *, replies: int) -> list[str]:
        for _ in range(int(for_s / INTERVAL_S)):
            world.ask()
            for _ in range(replies):
                world.reply(0)
            world.reply(1)
        return [one.name for one in world.probe.found()]

    assert rounds(2 * TWICE_S, replies=1) == []
    assert rounds(TWICE_S, replies=2) == []
    assert rounds(2 * INTERVAL_S, replies=2) == [ANSWERED_TWICE]
    assert world.probe.ready()[0]
    assert rounds(4 * INTERVAL_S, replies=1) == []
    assert rounds(TWICE_S, replies=2) == [], "it begins anew"


def test_a_probe_that_ends_is_not_silent(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    def broken(_timeout_s: float) -> list[Taken]:
        raise AssertionError("a bug")

    monkeypatch.setattr(world.prober, "take", broken, raising=False)
    monkeypatch.setattr(world.prober, "close", lambda: None, raising=False)
    monkeypatch.setattr(module.log, "exception", lambda _text: None)
    world.probe._run()
    assert world.probe.ready() == (False, "the probe has ended: AssertionError('a bug')")
