"""`rollout advance`, `watch`, `finish` and `status`: the topic and Prometheus are the test's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from readstates.schemas.rollout import Accepted, Candidate
from readstates.streams.commands.rollout import rollout
from readstates.streams.rollout import finishing
from tests.support.prometheus import Asked, Series, prometheus, steady
from tests.support.rollout_topic import Topic

PLAN = """
[[phases]]
share = 0
hours = 1
[[phases]]
share = 100
hours = 1
[[phases]]
share = 10000
hours = 1
[[gates]]
name = "age"
means = "age, candidate / live"
expr = "age_ratio"
at_most = 1.1
hold_s = 600
[[gates]]
name = "pairs"
means = "pairs"
expr = "pairs_total"
at_least = 5
shares = [0]
goal = true
[[gates]]
name = "differences"
means = "pairs that differ"
expr = "differ_total"
at_most = 0.5
goal = true
accepts = true
"""
GROUP, RUN = "new", "0123456789abcdef"
OLDEST_LIVE = finishing.OLDEST_LIVE.strip()


def candidate(share: int = 0, hours: float = 2, **more: Any) -> Candidate:
    """One that has had this share for so many hours."""
    since_ms = int((time.time() - hours * 3600) * 1000)
    return Candidate(GROUP, share, True, RUN, since_ms, since_ms)._replace(**more)


class World:
    """All gates hold; a test changes what it wants."""

    def __init__(self, folder: Path, asked: Asked, topic: Topic) -> None:
        self.asked, self.topic = asked, topic
        self._plan = folder / "plan.toml"
        self._plan.write_text(PLAN, "utf-8")
        self.set(age_ratio="1", pairs_total="7", differ_total="0")

    def set(self, **values: str) -> None:
        self.asked.series |= {name: steady(value) for name, value in values.items()}

    def run(self, command: str, *arguments: str) -> Result:
        argv = [command, "--plan", str(self._plan), "--prometheus", self.asked.url, *arguments]
        return CliRunner().invoke(rollout, argv, catch_exceptions=False)

    @property
    def share(self) -> int:
        return self.topic.candidates[GROUP].share


@pytest.fixture
def worlds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Candidate], World]]:
    with prometheus() as asked:

        def make(one: Candidate) -> World:
            topic = Topic(one)
            topic.put_in(monkeypatch)
            return World(tmp_path, asked, topic)

        yield make


Worlds = Callable[[Candidate], World]


# -- advance --------------------------------------------------------------------------------------


def test_each_phase_follows_the_one_before(worlds: Worlds) -> None:
    world = worlds(candidate())
    for before, share in ((0, 100), (100, 10_000)):
        since_ms = int(time.time() * 1000)
        done = world.run("advance")
        assert done.exit_code == 0, done.output
        assert done.output.splitlines()[-1] == f"{GROUP}: share {before} -> {share}"
        found = world.topic.candidates[GROUP]
        assert (found.share, found.run) == (share, RUN)
        assert found.since_ms >= since_ms
        done = world.run("advance")  # the new phase has just begun
        assert (done.exit_code, world.share) == (1, share)
        if share < 10_000:
            assert "FAILS  hours: hours with this share: " in done.output
            world.topic.candidates[GROUP] = found._replace(since_ms=since_ms - 7_200_000)
    assert "has the last share, 10000. To end the rollout, run: readstates rollout finish" in (
        done.output
    )


def test_every_gate_says_what_it_wants_what_is_there_and_since_when(worlds: Worlds) -> None:
    world = worlds(candidate())
    world.set(age_ratio="1.2", pairs_total="3")
    done = world.run("advance")
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert lines[0].startswith("holds  hours: hours with this share: 2")
    assert ", wants at least 1, for 36" in lines[0]
    assert lines[1:4] == [
        "FAILS  age: age, candidate / live: 1.2, wants at most 1.1, not now",
        "FAILS  pairs: pairs: 3, wants at least 5, not now",
        lines[3],
    ]
    assert lines[3].startswith("holds  differences: pairs that differ: 0, wants at most 0.5, for 1")
    assert lines[4] == ("Error: new keeps share 0, because these gates do not hold: age, pairs")
    assert world.topic.written == []


def only_now(_start: float, end: float, _step: float) -> Series:
    return [{"metric": {}, "values": [[end, "1"]]}]


@pytest.mark.parametrize(
    "answer",
    [steady("1.11"), steady("NaN"), only_now, lambda *_times: []],
    ids=["above", "NaN", "only now", "nothing"],
)
def test_one_gate_is_enough_to_refuse(worlds: Worlds, answer: Any) -> None:
    world = worlds(candidate())
    world.asked.series["age_ratio"] = answer
    done = world.run("advance")
    assert (done.exit_code, world.share) == (1, 0)
    assert "these gates do not hold: age\n" in done.output


def test_no_prometheus_refuses(worlds: Worlds) -> None:
    world = worlds(candidate())
    world.asked.url = "http://127.0.0.1:1"
    done = world.run("advance")
    assert (done.exit_code, world.share) == (1, 0)
    assert "gave no answer to 'age_ratio'" in done.output


def test_a_record_without_times_is_no_proof_of_time(worlds: Worlds) -> None:
    world = worlds(candidate()._replace(since_ms=0, started_ms=0))
    done = world.run("advance")
    assert (done.exit_code, world.share) == (1, 0)
    assert "do not hold: hours" in done.output


def test_a_change_in_the_meantime_stays(worlds: Worlds) -> None:
    """A watch goes back while `advance` judges."""
    world = worlds(candidate(100))

    def answer(*times: float) -> Series:
        world.topic.candidates[GROUP] = candidate(0, 0)
        return steady("1")(*times)

    world.asked.series["age_ratio"] = answer
    done = world.run("advance")
    assert (done.exit_code, world.share) == (1, 0)
    assert "candidate new was changed, and has share 0 in the meantime" in done.output


def test_differences_are_accepted_with_a_reason_that_is_kept(worlds: Worlds) -> None:
    world = worlds(candidate())
    world.set(differ_total="2.9991")  # `increase` extrapolates
    done = world.run("advance")
    assert (done.exit_code, world.share) == (1, 0)
    assert (
        "FAILS  differences: pairs that differ: 2.9991, wants at most 0.5, not now" in done.output
    )

    world.set(age_ratio="1.2")  # the reason is kept, though another gate fails
    done = world.run("advance", "--accept", "pins are kept now")
    assert (done.exit_code, world.share) == (1, 0)
    assert "accepted: 3 differences in all, because: pins are kept now" in done.output
    assert "wants at most 0.5 above the 3 that are accepted" in done.output
    world.set(age_ratio="1")

    world.set(differ_total="4.001")
    assert world.run("advance").exit_code == 1, "a fourth one, which nobody has explained"
    done = world.run("advance", "--accept", "and the order")
    assert (done.exit_code, world.share) == (0, 100), done.output
    accepted = world.topic.candidates[GROUP].accepted
    assert [(one.reason, one.differences) for one in accepted] == [
        ("pins are kept now", 3),
        ("and the order", 4),
    ]


def test_nothing_to_accept(worlds: Worlds) -> None:
    world = worlds(candidate(accepted=(Accepted("known", 2, 1),)))
    world.set(differ_total="2")
    done = world.run("advance", "--accept", "again")
    assert (done.exit_code, world.share) == (0, 100), done.output
    assert "there is no difference that is not accepted yet" in done.output
    assert world.topic.candidates[GROUP].differences == 2
    for reason in (" ", "x" * 1001):
        assert world.run("advance", "--accept", reason).exit_code == 2


def test_differences_without_a_figure_are_not_accepted(worlds: Worlds) -> None:
    world = worlds(candidate())
    world.asked.series["differ_total"] = lambda *_times: []
    done = world.run("advance", "--accept", "x")
    assert (done.exit_code, world.topic.written) == (1, [])
    assert "does not say how many differences there are" in done.output


def test_an_expression_may_ask_for_the_run_and_the_phase(worlds: Worlds) -> None:
    world = worlds(candidate(hours=2)._replace(started_ms=1))
    plan = PLAN.replace("age_ratio", "x[$phase] / x[$run] / y[$phase]")
    world._plan.write_text(plan, "utf-8")
    now = int(time.time())
    world.run("status")
    asked = world.asked.expressions[0]
    phase, run, again = (int(part.split("s]")[0]) for part in asked.split("[")[1:])
    assert phase == again
    assert 7200 <= phase < 7300
    assert 0 <= run - now < 100


# -- status ---------------------------------------------------------------------------------------


def test_status_shows_the_figure_of_every_gate(worlds: Worlds) -> None:
    world = worlds(candidate(100, accepted=(Accepted("known", 2, 1),)))
    done = world.run("status")
    assert done.exit_code == 0, done.output
    assert "  accepted 2 differences: known\n" in done.output
    assert "  holds  age: age, candidate / live: 1, wants at most 1.1, for 6" in done.output
    (one,) = json.loads(world.run("status", "--json").output)["candidates"]
    assert [gate["name"] for gate in one["gates"]] == ["hours", "age", "differences"]
    assert one["accepted"] == [{"reason": "known", "differences": 2, "at_ms": 1}]


# -- watch ----------------------------------------------------------------------------------------

NOW = ("--interval-s", "0.01", "--blind-s", "0.2")


def test_a_watch_goes_back_when_a_gate_breaks(worlds: Worlds) -> None:
    world = worlds(candidate(100))
    looks = iter(["1", "1", "1", "1.3"])
    world.asked.series["age_ratio"] = lambda *times: steady(next(looks))(*times)
    done = world.run("watch", *NOW)
    assert (done.exit_code, world.share) == (1, 0)
    assert [line[9:] for line in done.output.splitlines()] == [
        "new has share 100",
        "age is within its bound: 1, wants at most 1.1",
        "age is broken: 1.3, wants at most 1.1",
        "going back: age is 1.3, wants at most 1.1",
        "new: share 100 -> 0",
    ]


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


# -- finish ---------------------------------------------------------------------------------------


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the live workers have not committed yet, at each look."""
    left: list[int] = []

    def wait(_settings: Any, _timeout_s: float, show: Callable[[int], None]) -> None:
        for count in (*left, 0):
            show(count)

    monkeypatch.setattr(finishing, "wait_for_commits", wait)
    return left


def test_finish_takes_two_runs(worlds: Worlds, committed: list[int]) -> None:
    world = worlds(candidate(10_000, accepted=(Accepted("known", 2, 1),)))
    world.asked.series[OLDEST_LIVE] = steady("900")
    done = world.run("finish")
    assert done.exit_code == 1
    assert "the gates of the last phase hold" in done.output
    assert "Restart all live workers with the candidate's version" in done.output
    found = world.topic.candidates[GROUP]
    assert (found.share, found.finishing_ms > 0) == (10_000, True)
    assert world.run("finish").exit_code == 1, "nobody has restarted a worker"
    assert len(world.topic.written) == 1

    world.set(age_ratio="9")  # the gates are not judged again, while workers are replaced
    world.topic.candidates[GROUP] = found._replace(finishing_ms=found.finishing_ms - 1_000_000)
    committed += [3, 3, 1]
    done = world.run("finish")
    assert (done.exit_code, world.topic.candidates) == (0, {}), done.output
    assert done.output.splitlines() == [
        "all live workers were started since the last gates held",
        *(f"records that the live workers have not committed yet: {count}" for count in (3, 1, 0)),
        "new has ended: the live workers answer everybody",
        "  2 differences were accepted: known",
    ]


def test_finish_refuses(worlds: Worlds, committed: list[int]) -> None:
    world = worlds(candidate(100))
    world.asked.series[OLDEST_LIVE] = steady("1")
    assert "has share 100, and must have 10000 first" in world.run("finish").output
    assert "is the candidate's group" in world.run("finish", "--kafka-group", GROUP).output
    world.topic.candidates[GROUP] = candidate(10_000)
    world.set(age_ratio="1.2")
    assert "these gates do not hold: age" in world.run("finish").output
    world.set(age_ratio="1")
    world.asked.series[OLDEST_LIVE] = lambda *_times: []
    assert "Prometheus knows no live worker" in world.run("finish").output
    assert world.share == 10_000
    assert committed == []


def test_back_ends_the_finishing(worlds: Worlds, committed: list[int]) -> None:
    world = worlds(candidate(10_000, finishing_ms=5))
    assert CliRunner().invoke(rollout, ["back"]).exit_code == 0
    found = world.topic.candidates[GROUP]
    assert (found.share, found.finishing_ms) == (0, 0)
    assert committed == []
