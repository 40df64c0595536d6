"""A candidate beside live workers, on real servers: what it writes, what it loads, who answers."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.worker import WorkerProcess
from readstates.schemas.rollout import SHARE_MAX
from tests.integration.test_workers import OPENED, traffic
from tests.support.expected_replies import mentions, shown
from tests.support.load import Load, Log
from tests.support.rollout import (
    RELEASED,
    Asking,
    MakeCandidate,
    Pair,
    ack,
    replies_to,
    wait_durable,
)
from tests.support.rows import rows_of
from tests.support.service import Make, Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, new_user


def check_replies(service: Service, log: Log) -> None:
    """Whoever answers: each user's reply is the fold of the log."""
    for user in log.oracle.users:
        reply = service.wire.get(user, mentions=True)
        expected = shown(log.oracle.stored(user))
        assert rows_of(reply) == [row[:9] for row in expected], user
        found = [tuple(map(int, state["mentions"])) for state in reply.states]
        assert found == [mentions(row) for row in expected], user


def of_live(service: Service) -> dict[str, Any]:
    """All that a candidate must not change."""
    wire = service.wire
    return {
        "rows": wire.rows.all(),
        "commits": service.committed(),
        "dead letters": wire.ends(wire.dead_letters_topic),
        "changes": wire.ends(f"{wire.prefix}.changes"),
        "log": service.cql("SELECT * FROM {keyspace}.log"),
        "epochs": service.cql("SELECT * FROM {keyspace}.epochs"),
    }


def played(load: Load, log: Log, seconds_of: int) -> list[int]:
    """So many updates; the log's ends after them."""
    before = load.sent
    load.go()
    until(lambda: load.sent > before + seconds_of, "updates are sent")
    load.pause()
    return log.read()


def test_it_writes_nothing_of_the_live_workers_and_loads_what_both_wrote(
    services: Make, candidates: MakeCandidate, tmp_path: Path
) -> None:
    """The base is older than the overlay, then newer: each user's reply is the fold of the log."""
    service = services("cand", changes="on")
    live = service.start()
    live.wait_ready()
    log, load = Log(service.wire), Load(service.wire, traffic(27, users=40), 600)
    try:
        service.wait_durable(played(load, log, 1200))
        live.stop()
        candidate = candidates(service, "new")
        assert candidate.committed() == service.committed(), "it begins where the live group is"
        before = of_live(service)
        worker = candidate.start(cache_dir=tmp_path / "first")
        worker.wait_ready()
        bad = service.wire.produce(new_user(), b"{")
        service.wire.produce(new_user(), {"type": "unknown"})
        ends = played(load, log, 2400)
        wait_durable(candidate, ends)
        assert of_live(service) == before
        rows = candidate.overlay()
        marks = [row for row in rows if row[4] == b"\1"]
        assert len(rows) - len(marks) > 100
        assert any(row[2] == b"\xff\xff" for row in marks), "of deleted users"
        assert any(row[2] != b"\xff\xff" for row in marks), "of deleted read states"

        # Cold: all comes from the two tables.
        worker.kill()
        candidate.set_share(SHARE_MAX)
        worker = candidate.start(cache_dir=tmp_path / "second")
        worker.wait_ready()
        check_replies(service, log)
        assert service.wire.dead_letters() == []

        # The live workers fold the same, and are ahead of the candidate in the end.
        worker.kill()
        live = service.start()
        live.wait_ready()
        service.wire.dead_letter(bad)
        ends = played(load, log, 600)
        service.wait_durable(ends)
        assert service.wire.rows.all() == log.rows()
        worker = candidate.start(cache_dir=tmp_path / "third")
        worker.wait_ready()
        candidate.wait_followed(SHARE_MAX, live, worker)
        shadowed = len(candidate.shadow())
        check_replies(service, log)
        until(lambda: len(candidate.shadow()) > shadowed, "the live worker's go to the shadow")
        assert {reply.headers["read-states-role"] for reply in candidate.shadow()[shadowed:]} == {
            b"live"
        }
        wait_durable(candidate, ends)
        assert service.wire.rows.all() == log.rows()
    finally:
        load.close()
        log.close()


def test_it_goes_on_with_its_table_after_a_death(services: Make, candidates: MakeCandidate) -> None:
    service = services("candwarm", flush_delay_s=30)
    live = service.start()
    live.wait_ready()
    candidate = candidates(service, "new")
    worker = candidate.start()
    worker.wait_ready()
    log, load = Log(service.wire), Load(service.wire, traffic(28, users=30), 600)
    try:
        played(load, log, 900)
        candidate.set_share(SHARE_MAX)
        candidate.wait_followed(SHARE_MAX, live, worker)
        check_replies(service, log)
        worker.kill()
        again = candidate.start()
        again.wait_ready()
        assert OPENED.findall(again.output()).count("True") == PARTITIONS
        candidate.wait_followed(SHARE_MAX, live, again)
        check_replies(service, log)
    finally:
        load.close()
        log.close()


@pytest.fixture
def pair(services: Make, candidates: MakeCandidate, request: pytest.FixtureRequest) -> Pair:
    service = services(f"pair{zlib.crc32(request.node.name.encode())}")
    return Pair(service, candidates(service, "new"))


def test_each_role_answers_its_half_and_the_other_one_goes_to_the_shadow(pair: Pair) -> None:
    for share in (0, 5000, SHARE_MAX):
        pair.candidate.set_share(share)
        pair.candidate.wait_followed(share, pair.new)
        if share:
            pair.candidate.wait_followed(share, pair.live)
        while True:  # a machine that stands still for a second has the live worker step in
            released = pair.live.metrics()[RELEASED]
            got, kept = pair.ask_all()
            if pair.live.metrics()[RELEASED] == released:
                break
        for user in pair.users:
            (reply,), (shadow,) = got[user], kept[user]
            role = shadow.headers.pop("read-states-role")
            assert (role == b"live") == pair.candidate.has(user, share), (user, share)
            assert reply.value == shadow.value
            assert (reply.key, reply.headers) == (shadow.key, shadow.headers)
    halves = [pair.candidate.has(user, 5000) for user in pair.users]
    assert any(halves)
    assert not all(halves)


def test_without_comparison_nothing_is_kept(pair: Pair) -> None:
    pair.candidate.set_share(5000, compares=False)
    pair.candidate.wait_followed(5000, pair.live, pair.new)
    before = len(pair.candidate.shadow())
    asked = {pair.service.wire.ask(user, deadline_s=20): user for user in pair.users}
    replies_to(pair.service, asked)
    assert len(pair.candidate.shadow()) == before


def test_errors_are_shared_as_replies_are(pair: Pair) -> None:
    pair.follow(5000)
    got, kept = pair.ask_all({"channel_ids": "no list"})
    for user in pair.users:
        assert {reply.error for reply in (*got[user], *kept[user])} == {"invalid_query"}
        if len(kept[user]) == 1:
            is_live = kept[user][0].headers["read-states-role"] == b"live"
            assert is_live == pair.candidate.has(user, 5000)


def test_no_reply_is_lost_while_the_share_changes(pair: Pair) -> None:
    with Asking(pair.service, pair.users) as asking:
        for share in (5000, SHARE_MAX, 2500, 0, SHARE_MAX):
            pair.candidate.set_share(share)
            asking.wait_for(40)
        done = pair.service.cli("rollout", "back")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{pair.candidate.group}: share {SHARE_MAX} -> 0\n"
        pair.candidate.wait_followed(0, pair.live, pair.new)
        asking.wait_for(40)
    got = replies_to(pair.service, asking.asked)
    assert len(got) > 200
    assert not [reply for replies in got.values() for reply in replies if reply.error]


def test_the_live_worker_answers_at_once_when_the_candidate_dies(pair: Pair) -> None:
    """Also the queries that came before anybody could know of the death."""
    pair.follow(SHARE_MAX)
    with Asking(pair.service, pair.users) as asking:
        asking.wait_for(60)
        pair.new.kill()
        asking.wait_for(120)
    got = replies_to(pair.service, asking.asked)
    assert not [reply for replies in got.values() for reply in replies if reply.error]
    assert pair.live.metrics()[RELEASED] > 0
    pair.candidate.wait_followed(0, pair.live)
    assert pair.candidate.status()["share"] == SHARE_MAX, "nobody has changed it"

    again = pair.candidate.start()
    again.wait_ready()
    pair.candidate.wait_followed(SHARE_MAX, pair.live, again)


def refused(worker: WorkerProcess) -> str:
    until(lambda: worker.returncode is not None, "the worker ends", 60)
    assert worker.returncode == 1
    return worker.output()


def test_several_candidates_and_what_is_none(services: Make, candidates: MakeCandidate) -> None:
    service = services("candmany")
    live = service.start()
    live.wait_ready()
    user = new_user()
    service.wire.produce_update(user, ack(7, 5))

    # A group that was not started, and a live worker in a candidate's group.
    unknown = service.start(role="candidate", kafka_group="unknown")
    assert "there is no candidate unknown" in refused(unknown)
    one, two = candidates(service, "one"), candidates(service, "two")
    first, second = one.start(), two.start()
    for worker in (first, second):
        worker.wait_ready()
    done = service.cli("rollout", "start", service.group)
    assert "is the group of the live workers" in done.stderr
    done = service.cli("rollout", "start", one.group)
    assert "is a candidate already" in done.stderr
    done = service.cli("rollout", "back")
    assert "say which candidate is meant" in done.stderr

    # Both have the user: the first by name answers, and one reply comes.
    for candidate in (one, two):
        candidate.set_share(SHARE_MAX)
    for worker in (live, first, second):
        one.wait_followed(SHARE_MAX, worker)
    assert service.wire.get(user).states
    until(lambda: one.shadow(), "the live worker keeps its reply for the first candidate")
    until(lambda: two.shadow(), "the second candidate keeps its own")
    assert {reply.headers["read-states-role"] for reply in one.shadow()} == {b"live"}
    assert {reply.headers["read-states-role"] for reply in two.shadow()} == {b"candidate"}

    # The first one is aborted: its worker ends, and the second one answers.
    done = service.cli("rollout", "abort", one.group)
    assert done.returncode == 0, done.stderr
    assert "has ended: readstates rollout finish or abort was run" in refused(first)
    assert service.wire.get(user).states
    until(lambda: b"live" in {r.headers["read-states-role"] for r in two.shadow()}, "it answers")

    # What it has committed is nobody's place to go on from but its own run's.
    mistaken = service.start(kafka_group=one.group)
    assert "is a candidate's" in refused(mistaken)
    until(
        lambda: not service.cli("rollout", "start", one.group).returncode,
        "its group has no members any more",
    )
    assert not one.overlay(), "a new run knows nothing of the earlier one"
    again = one.start()
    again.wait_ready()
