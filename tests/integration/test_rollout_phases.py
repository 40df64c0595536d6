"""A rollout on real servers: `advance`, `watch` and `finish`, while clients ask all the time."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.drills.prometheus import PrometheusError
from readstates.schemas.rollout import SHARE_MAX
from tests.support.expected_replies import shown
from tests.support.load import Load, Log
from tests.support.prometheus import Asked, RealPrometheus, prometheus, steady
from tests.support.promql import OPS
from tests.support.rollout import Asking, MakeCandidate, Pair, ack, replies_to
from tests.support.rows import rows_of
from tests.support.service import Make, Service
from tests.support.waiting import until

GATES = OPS / "rollout.toml"
# Of two processes that share a machine with others, these say nothing. `peak` is of hours.
OF_A_QUIET_MACHINE = {"age-p99", "age-p99.9", "cpu", "memory", "pauses", "comparable", "peak"}
PAIRS = 60
Begin = Callable[..., subprocess.Popen[str]]


def scaled_plan() -> str:
    """The gates of this version whose figures mean something here, without their hours."""
    head, *gates = GATES.read_text("utf-8").split("[[gates]]")
    kept = [
        gate for gate in gates if re.findall('name = "(.*)"', gate)[0] not in OF_A_QUIET_MACHINE
    ]
    assert len(kept) == len(gates) - len(OF_A_QUIET_MACHINE)
    text = "[[gates]]".join([head, *kept])
    text = re.sub(r"hours = \d+", "hours = 0", text)
    text = re.sub(r"hold_s = \d+", "hold_s = 0", text)
    return text.replace("1_000_000", str(PAIRS))


@pytest.fixture
def pair(services: Make, candidates: MakeCandidate, request: pytest.FixtureRequest) -> Pair:
    name = re.sub(r"\W", "", request.node.name)[-12:]
    service = services(f"phase{name}")
    return Pair(service, candidates(service, "new"))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealPrometheus]:
    try:
        made = RealPrometheus(tmp_path / "prometheus")
    except PrometheusError as exc:
        pytest.skip(str(exc))
    yield made
    made.stop()


@pytest.fixture
def begun() -> Iterator[Begin]:
    """Starts commands of a service that go on; they end with the test."""
    made: list[subprocess.Popen[str]] = []

    def begin(service: Service, *arguments: str) -> subprocess.Popen[str]:
        made.append(service.begin(*arguments))
        return made[-1]

    yield begin
    for one in made:
        if one.poll() is None:
            one.kill()
        one.communicate()


def updates_of(users: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Acks of these users, in turn, that always change something."""
    message = 1_000
    while True:
        for user in users:
            message += 1
            yield user, ack(7, message)


def port_of(compare: subprocess.Popen[str]) -> str:
    assert compare.stderr is not None
    found = re.search(r"http port=(\d+)", compare.stderr.readline())
    assert found
    return f"http://127.0.0.1:{found[1]}"


def test_from_the_shadow_to_the_end(
    pair: Pair, real: RealPrometheus, begun: Begin, tmp_path: Path
) -> None:
    service, candidate, group = pair.service, pair.candidate, pair.candidate.group
    plan = tmp_path / "plan.toml"
    plan.write_text(scaled_plan(), "utf-8")
    where = ("--plan", str(plan), "--prometheus", real.url)
    compare = begun(service, "rollout", "compare", group, "--metrics-port", "0")
    port = port_of(compare)
    real.scrape(pair.live.url, pair.new.url, port)
    early = service.cli("rollout", "advance", *where)
    assert early.returncode == 1
    assert "keeps share 0, because these gates do not hold: pairs" in early.stderr

    log, load = Log(service.wire), Load(service.wire, updates_of(pair.users), 50)
    with closing(log), Asking(service, pair.users) as asking, closing(load):
        load.go()
        for share in (100, 1000, 5000, SHARE_MAX):
            said: list[str] = []

            def advanced(said: list[str] = said) -> bool:
                done = service.cli("rollout", "advance", *where)
                said.append(done.stdout + done.stderr)
                return done.returncode == 0

            until(advanced, f"the gates hold before {share}", 120)
            assert said[-1].endswith(f"-> {share}\n"), said[-1]
            assert "holds  agreement: share of the compared pairs that are equal: 1," in said[-1]
            candidate.wait_followed(share, pair.new)
            asking.wait_for(60)

        check_every_gate(pair, real.url)
        note_and_replace(pair, where, asking)
        real.scrape(pair.live.url, pair.new.url, port)

        def finished() -> bool:
            done = service.cli("rollout", "finish", *where)
            said.append(done.stdout + done.stderr)
            return done.returncode == 0

        until(finished, "finish sees the new live worker", 120)
        assert said[-1].endswith(f"{group} has ended: the live workers answer everybody\n")
        until(lambda: pair.new.returncode is not None, "the candidate's worker ends", 60)
        assert "rollout finish or abort was run" in pair.new.output()
        asking.wait_for(60)
        load.pause()
        check_the_end(pair, log)
    got = replies_to(service, asking.asked)
    assert len(got) > 400
    assert not [reply for replies in got.values() for reply in replies if reply.error]
    done = service.cli("rollout", "finish", *where)
    assert (done.returncode, "say which candidate is meant" in done.stderr) == (1, True)


def check_every_gate(pair: Pair, url: str) -> None:
    """Every gate of this version has a figure on what real workers export."""
    every_gate = ("rollout", "gates", str(GATES), "--prometheus", url, "--json")
    until(
        lambda: all(
            gate["value"] is not None or gate["name"] == "peak"
            for gate in json.loads(pair.service.cli(*every_gate).stdout)
        ),
        "each gate has a figure",
        120,
    )


def note_and_replace(pair: Pair, where: tuple[str, ...], asking: Asking) -> None:
    """The first run of `finish`, and another live worker in place of the old one."""
    done = pair.service.cli("rollout", "finish", *where)
    assert done.returncode == 1
    assert "the gates of the last phase hold" in done.stdout
    assert "Restart all live workers" in done.stderr
    assert pair.candidate.status()["finishing_ms"] > 0
    assert pair.live.stop() == 0
    asking.wait_for(60)
    pair.live = pair.service.start()
    pair.live.wait_ready()


def check_the_end(pair: Pair, log: Log) -> None:
    """Nothing is lost, and nothing is answered twice any more."""
    service, ends = pair.service, log.read()
    service.wait_durable(ends)
    assert service.wire.rows.all() == log.rows()
    asked = {service.wire.ask(user, deadline_s=20): user for user in pair.users}
    for correlation_id, replies in replies_to(service, asked).items():
        (reply,) = replies
        expected = shown(log.oracle.stored(asked[correlation_id]))
        assert rows_of(reply) == [row[:9] for row in expected]


def test_a_candidate_that_cuts_pins_is_refused_and_taken_back(
    services: Make, candidates: MakeCandidate, real: RealPrometheus, begun: Begin, tmp_path: Path
) -> None:
    service = services("phasepins")
    pair = Pair(service, candidates(service, "new"), module="tests.support.cut_pins")
    group, plan = pair.candidate.group, tmp_path / "plan.toml"
    plan.write_text(scaled_plan(), "utf-8")
    where = ("--plan", str(plan), "--prometheus", real.url)
    examples = tmp_path / "examples.jsonl"
    compare = begun(
        service, "rollout", "compare", group, "--metrics-port", "0", "--examples", str(examples)
    )
    real.scrape(pair.live.url, pair.new.url, port_of(compare))

    def said(text: str, *arguments: str) -> str:
        """What `advance` says, once it has said this."""
        found: list[str] = []

        def has_said() -> bool:
            done = service.cli("rollout", "advance", *where, *arguments)
            assert done.returncode == 1, done.stdout
            found.append(done.stdout + done.stderr)
            return text in found[-1]

        until(has_said, f"advance says {text!r}", 60)
        return found[-1]

    said("differences: pairs that differ: 0, ")
    pins = {"type": "pins_ack", "channel_id": "7", "timestamp": 1_700_000_000_123}
    service.wire.produce_update(pair.users[0], pins)
    with Asking(service, pair.users) as asking:
        asking.wait_for(200)
    replies_to(service, asking.asked)
    said("these gates do not hold: differences, agreement\n")
    example = json.loads(examples.read_text("utf-8").splitlines()[0])
    (difference,) = example["differences"]
    assert difference["field"] == "read_states[0:7].last_pin_timestamp"
    assert (difference["live"], difference["candidate"]) == (1_700_000_000_123, 1_700_000_000_000)

    # A reason explains the differences, but too many of them are still too many.
    accepted = said("these gates do not hold: agreement\n", "--accept", "whole seconds will do")
    assert "differences: pairs that differ" in accepted
    assert pair.candidate.status()["accepted"][0]["reason"] == "whole seconds will do"

    # Somebody gives it users by hand: the watch takes them back.
    pair.candidate.set_share(5000)
    watch = begun(service, "rollout", "watch", *where, "--interval-s", "0.5")
    assert watch.wait(60) == 1
    assert watch.stdout is not None
    assert re.search(r"going back: agreement is 0\.\d+, wants at least ", watch.stdout.read())
    pair.candidate.wait_followed(0, pair.live, pair.new)


WATCHED = """
[[phases]]
share = 0
hours = 0
[[phases]]
share = 5000
hours = 0
[[gates]]
name = "age"
means = "age, candidate / live"
expr = "age_ratio"
at_most = 1.1
"""


@pytest.fixture
def asked() -> Iterator[Asked]:
    with prometheus() as made:
        yield made


def test_a_watch_takes_a_slow_candidate_back(
    pair: Pair, asked: Asked, begun: Begin, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(WATCHED, "utf-8")
    where = ("--plan", str(plan), "--prometheus", asked.url)
    asked.series["age_ratio"] = steady("1.2")
    assert pair.service.cli("rollout", "advance", *where).returncode == 1
    asked.series["age_ratio"] = steady("1")
    done = pair.service.cli("rollout", "advance", *where)
    assert done.returncode == 0, done.stdout + done.stderr
    pair.candidate.wait_followed(5000, pair.live, pair.new)

    watch = begun(pair.service, "rollout", "watch", *where, "--interval-s", "0.2")
    assert watch.stdout is not None
    assert f"{pair.candidate.group} has share 5000" in watch.stdout.readline()
    assert "age is within its limit: 1" in watch.stdout.readline()
    with Asking(pair.service, pair.users) as asking:
        asking.wait_for(60)
        assert watch.poll() is None
        asked.series["age_ratio"] = steady("1.2")
        pair.candidate.wait_followed(0, pair.live, pair.new)
        asking.wait_for(60)
    assert watch.wait(30) == 1
    assert f"{pair.candidate.group}: share 5000 -> 0\n" in watch.stdout.read()
    got = replies_to(pair.service, asking.asked)
    assert not [reply for replies in got.values() for reply in replies if reply.error]
