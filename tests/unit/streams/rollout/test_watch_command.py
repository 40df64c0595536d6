"""`rollout watch`: the topic and Prometheus are the test's."""

from __future__ import annotations

import time
from typing import Any

import pytest

from readstates.schemas.rollout import Candidate
from tests.support.prometheus import Series, steady
from tests.support.rollout_world import GROUP, Worlds, candidate

NOW = ("--interval-s", "0.01", "--blind-s", "0.2")


def test_a_watch_goes_back_when_a_gate_breaks(worlds: Worlds) -> None:
    world = worlds(candidate(100))
    looks = iter(["1", "1", "1", "1.3"])
    world.asked.series["age_ratio"] = lambda *times: steady(next(looks))(*times)
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.share) == (1, 0)
    assert [line[9:] for line in done.output.splitlines()] == [
        "new has share 100",
        "age is within its limit: 1, wants at most 1.1",
        "age is broken: 1.3, wants at most 1.1",
        "going back: age is 1.3, wants at most 1.1",
        "new: share 100 -> 0",
    ]


def test_it_goes_back_again_if_a_share_comes_at_the_same_moment(worlds: Worlds) -> None:
    """An `advance` that had read the record just before writes its own after the watch's."""
    world = worlds(candidate(100))
    world.set(age_ratio="1.3")
    advances = iter([True])

    def advance() -> None:
        is_back = bool(world.topic.written)
        if is_back and next(advances, False):
            world.topic.candidates[GROUP] = candidate(10_000)

    world.topic.on_read = advance
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.share) == (1, 0)
    assert [one.share for one in world.topic.written if one is not None] == [0, 0]
    assert "another command has given it a share at the same moment" in done.output


def test_a_goal_that_is_not_reached_yet_is_no_break(worlds: Worlds) -> None:
    world = worlds(candidate(100))
    world.set(differ_total="7")
    looks = iter(range(20))
    world.topic.on_read = lambda: next(looks, None) is None and world.topic.candidates.clear()  # type: ignore[assignment,func-returns-value]
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.topic.written) == (0, []), done.output
    assert done.output.endswith(" new has ended\n")


@pytest.mark.parametrize("answer", [steady("NaN"), lambda *_times: []], ids=["NaN", "nothing"])
def test_a_blind_watch_goes_back_after_a_while(worlds: Worlds, answer: Any) -> None:
    world = worlds(candidate(100))
    world.asked.series["age_ratio"] = answer
    begun = time.monotonic()
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.share) == (1, 0)
    assert time.monotonic() - begun > 0.2
    assert "age is without a figure: Prometheus has no figure, wants at most 1.1" in done.output
    assert "going back: age has had no figure for 0 s" in done.output


def test_a_figure_that_is_away_for_a_moment_is_tolerated(worlds: Worlds) -> None:
    world = worlds(candidate(100))
    looks = iter([True, False, True, False, True])

    def answer(*times: float) -> Series:
        if (there := next(looks, None)) is None:
            world.topic.candidates.clear()
        return steady("1")(*times) if there else []

    world.asked.series["age_ratio"] = answer
    done = world.run("watch", "--interval-s", "0.01")
    assert (done.exit_code, world.topic.written) == (0, []), done.output


def test_it_goes_back_though_prometheus_is_away_and_kafka_hesitates(worlds: Worlds) -> None:
    world = worlds(candidate(100))
    world.asked.url = "http://127.0.0.1:1"
    world.topic.fails = 1
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.share) == (1, 0)
    assert "gave no answer to 'age_ratio'" in done.output
    assert "trying again: the brokers do not answer" in done.output


@pytest.mark.parametrize(
    "one", [candidate(0), candidate(10_000, finishing_ms=1)], ids=["share 0", "finishing"]
)
def test_there_is_nothing_to_take_back(worlds: Worlds, one: Candidate) -> None:
    world = worlds(one)
    world.set(age_ratio="9")
    looks = iter(range(20))
    world.topic.on_read = lambda: next(looks, None) is None and world.topic.candidates.clear()  # type: ignore[assignment,func-returns-value]
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.topic.written) == (0, []), done.output
    assert "age is broken: 9, wants at most 1.1" in done.output


def test_it_follows_the_phases(worlds: Worlds) -> None:
    """The candidate gets its share while the watch runs; the gate breaks later."""
    world = worlds(candidate(0))
    looks = iter(range(4))

    def answer(*times: float) -> Series:
        look = next(looks)
        if look == 1:
            world.topic.candidates[GROUP] = candidate(100)
        return steady("1.5" if look == 3 else "1")(*times)

    world.asked.series["age_ratio"] = answer
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.share) == (1, 0)
    said = [line[9:] for line in done.output.splitlines()]
    assert (said[0], said[2]) == ("new has share 0", "new has share 100")
