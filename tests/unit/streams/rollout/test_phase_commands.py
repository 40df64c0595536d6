"""`rollout advance`, `finish` and `status`: the topic and Prometheus are the test's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from readstates.schemas.rollout import Accepted
from readstates.streams.commands.rollout import rollout
from readstates.streams.rollout import finishing
from tests.support.prometheus import Series, steady
from tests.support.rollout_world import GROUP, PLAN, RUN, Worlds, candidate

OLDEST_LIVE = finishing.OLDEST_LIVE.strip()


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
    world.plan.write_text(plan, "utf-8")
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


def test_a_finish_that_was_interrupted_is_repeated(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds(candidate(10_000, finishing_ms=1))
    world.asked.series[OLDEST_LIVE] = steady("900")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finishing, "wait_for_commits", interrupted)
    assert world.run("finish").exit_code == 1
    assert world.topic.written == []
    monkeypatch.setattr(finishing, "wait_for_commits", lambda *_: None)
    assert world.run("finish").exit_code == 0
    assert world.topic.written == [None]


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
