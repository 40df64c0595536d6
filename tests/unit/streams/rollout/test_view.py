"""Who sends which reply: the rules of a rollout, with workers that read the topic late."""

from __future__ import annotations

import random
from collections import deque

import pytest

from readstates.schemas.rollout import SHARE_MAX, Beat, Candidate, bucket_of
from readstates.streams.rollout.view import (
    BEAT_S,
    GRACE_S,
    LOST_S,
    UNREAD_MAX_S,
    CandidateShares,
    CandidateSplit,
    LiveShares,
    View,
    owner_of,
)

RUN = "0123456789abcdef"
PARTITIONS = frozenset(range(4))
KEYS = [b"%d" % number for number in range(2**60, 2**60 + 300)]
TAKEN_LATE = 9  # steps of 0.05 s within which all workers take a query


def candidate(group: str, share: int, *, compares: bool = True) -> Candidate:
    return Candidate(group, share, compares, RUN)


def viewed(*shares: Candidate, at: float = 100.0) -> View:
    """A view of these candidates, each with a worker that answers everything."""
    view = View(read_at=at)
    for offset, one in enumerate(shares):
        view.take(one.group.encode(), one, offset, None)
    for one in shares:
        beat = Beat(one.group, "w", len(shares), PARTITIONS)
        view.take(f"{one.group}/w".encode(), beat, 10, at)
    return view


def sent_by_candidate(view: View, group: str) -> set[bytes]:
    split = CandidateShares(group, RUN).split(view, view.read_at)
    return {key for key in KEYS if split.withheld(key, 0) is None}


def sent_by_live(view: View) -> set[bytes]:
    split = view.live_split(view.read_at)
    return {key for key in KEYS if split is None or split.withheld(key, 0) is None}


@pytest.mark.parametrize("share", [1, 2500, 5000, SHARE_MAX - 1, SHARE_MAX])
def test_the_candidate_sends_the_buckets_below_its_share_and_the_live_workers_the_others(
    share: int,
) -> None:
    view = viewed(candidate("b", share))
    expected = {key for key in KEYS if bucket_of(key, "b") < share}
    assert sent_by_candidate(view, "b") == expected
    assert sent_by_live(view) == set(KEYS) - expected
    assert share < 2500 or expected


def test_at_share_0_the_live_workers_do_not_even_look() -> None:
    view = viewed(candidate("b", 0))
    assert view.live_split(view.read_at) is None
    assert sent_by_candidate(view, "b") == set()


def test_what_is_not_sent_is_compared_only_while_the_comparison_is_on() -> None:
    for compares in (True, False):
        view = viewed(candidate("b", SHARE_MAX, compares=compares))
        split = view.live_split(view.read_at)
        assert split is not None
        withheld = split.withheld(KEYS[0], 0)
        assert withheld is not None
        assert withheld.compares is compares


def test_of_several_candidates_the_first_one_whose_share_covers_a_user_has_it() -> None:
    view = viewed(candidate("b", 5000), candidate("a", 3000), candidate("c", 0))
    sent = {group: sent_by_candidate(view, group) for group in "abc"}
    assert sent["a"] == {key for key in KEYS if bucket_of(key, "a") < 3000}
    assert sent["b"] == {key for key in KEYS if bucket_of(key, "b") < 5000} - sent["a"]
    assert sent["b"]
    assert sent["c"] == set()
    assert sent_by_live(view) == set(KEYS) - sent["a"] - sent["b"]


def test_a_group_that_is_no_candidate_sends_nothing_and_takes_nothing() -> None:
    view = viewed(candidate("b", 5000))
    view.take(b"x/w", Beat("x", "w", 5, PARTITIONS), 11, 100.0)
    assert sent_by_candidate(view, "x") == set()
    assert sent_by_live(view) == sent_by_live(viewed(candidate("b", 5000)))


def test_the_live_workers_answer_the_partitions_that_no_worker_of_the_candidate_answers() -> None:
    view = viewed(candidate("b", SHARE_MAX))
    view.take(b"b/w", Beat("b", "w", 1, frozenset({1, 2})), 12, 100.0)
    split = view.live_split(100.0)
    assert split is not None
    answered = [number for number in PARTITIONS if split.withheld(KEYS[0], number)]
    assert answered == [1, 2]
    view.take(b"b/w", None, 13, None)
    assert view.live_split(100.0) is None, "the last worker has stopped"


def test_a_candidate_that_is_silent_loses_its_users_but_not_if_the_topic_cannot_be_read() -> None:
    view = viewed(candidate("b", SHARE_MAX))
    assert view.live_split(100.0 + UNREAD_MAX_S) is not None, "S3: nobody's silence means anything"
    assert view.live_split(100.1 + UNREAD_MAX_S) is None
    view.read_at = 100.0 + LOST_S
    assert view.live_split(view.read_at) is not None
    view.read_at += 0.01
    assert view.live_split(view.read_at) is None


def test_a_candidate_that_cannot_read_the_topic_ends_at_share_0() -> None:
    view, shares = viewed(candidate("b", SHARE_MAX)), CandidateShares("b", RUN)
    after = 100.0 + UNREAD_MAX_S
    assert shares.split(view, after).withheld(KEYS[0], 0) is None
    shares.split(view, after + 0.1)
    assert shares.split(view, after + 0.05 + GRACE_S).withheld(KEYS[0], 0) is None
    assert shares.split(view, after + 0.15 + GRACE_S).withheld(KEYS[0], 0) is not None


def test_beats_that_were_in_the_topic_before_say_nothing() -> None:
    view = View(read_at=100.0)
    view.take(b"b", candidate("b", SHARE_MAX), 0, None)
    view.take(b"b/w", Beat("b", "w", 1, PARTITIONS), 1, None)
    assert view.live_split(100.0) is None


def test_a_worker_that_follows_an_older_record_is_not_relied_on() -> None:
    view = viewed(candidate("b", 5000))
    view.take(b"b", candidate("b", SHARE_MAX), 20, 100.0)
    assert view.live_split(100.0) is None, "S1: it may not know yet that it has these users"
    view.take(b"b/w", Beat("b", "w", 21, PARTITIONS), 21, 100.1)
    assert view.live_split(100.1) is not None


def test_a_record_that_compaction_took_is_not_missed() -> None:
    """The end of another candidate is in no later reader's view, but it has read past it."""
    live = viewed(candidate("b", SHARE_MAX))
    live.take(b"a", None, 30, 100.0)
    late = View()
    late.take(b"b", candidate("b", SHARE_MAX), 0, None)
    late.take(b"b/w", None, 35, None)
    live.take(b"b/w", Beat("b", "w", late.position, PARTITIONS), 36, 100.0)
    assert live.live_split(100.0) is not None


def test_a_live_worker_goes_on_for_a_while_and_begins_again_at_once() -> None:
    view, shares = viewed(candidate("b", SHARE_MAX)), LiveShares()
    assert shares.split(view, 100.0) is None, "S1: the candidate may have taken the query before"
    view.read_at = 100.0 + GRACE_S / 2
    assert shares.split(view, view.read_at) is None
    late = shares.split(view, 100.1 + GRACE_S)
    assert late is not None
    assert late.withheld(KEYS[0], 0)
    view.take(b"b", candidate("b", 0), 20, 101.1)
    assert shares.split(view, 101.1) is None


class Actor:
    """A worker that reads the topic some time after it was written."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name, self._rng = name, rng
        self.view, self._position, self._inbox = View(), 0, deque[float]()
        self.shares = CandidateShares(name, RUN) if name != "live" else None
        self.live = LiveShares()
        self.next_beat = 0.0
        self.sent = deque[dict[bytes, bool]](maxlen=TAKEN_LATE)  # the newest last

    def read(self, log: list[tuple[bytes, Candidate | Beat | None, float]], now: float) -> None:
        late = self._rng.uniform(0, 0.3)
        while self._position < len(log) and log[self._position][2] + late <= now:
            key, record, _ = log[self._position]
            self.view.take(key, record, self._position, now)
            self._position += 1
        self.view.read_at = now - late

    def sends(self, key: bytes, partition: int, now: float) -> bool:
        if self.shares is None:
            split = self.live.split(self.view, now)
            return split is None or split.withheld(key, partition) is None
        candidate_split: CandidateSplit = self.shares.split(self.view, now)
        return candidate_split.withheld(key, partition) is None


@pytest.mark.parametrize("seed", range(15))
def test_nobody_is_left_without_a_reply_while_shares_change(seed: int) -> None:
    """S1 and S2, with candidates that come, go and change, and workers that read late.

    They also take the same query at different moments: some of them fold more slowly.
    """
    rng = random.Random(seed)
    keys = rng.sample(KEYS, 10)
    log: list[tuple[bytes, Candidate | Beat | None, float]] = []
    actors = [Actor(name, rng) for name in ("live", "a", "b")]
    now, quiet_since = 0.0, 0.0
    doubled = checked = 0
    for step in range(400):
        now += 0.05
        if step % 200 < 120 and rng.random() < 0.15:
            group = rng.choice("ab")
            share = rng.choice([0, 0, 1000, 5000, 10000])
            record = None if rng.random() < 0.1 else candidate(group, share)
            log.append((group.encode(), record, now))
            quiet_since = now
        for actor in actors:
            actor.read(log, now)
            if actor.shares is not None:
                actor.shares.split(actor.view, now)
                if now >= actor.next_beat:
                    actor.next_beat = now + BEAT_S
                    beat = Beat(actor.name, "w", actor.view.position, PARTITIONS)
                    log.append((f"{actor.name}/w".encode(), beat, now))
        for actor in actors:
            actor.sent.append({key: actor.sends(key, 1, now) for key in keys})
        for key in keys:
            senders = [actor.name for actor in actors if rng.choice(actor.sent)[key]]
            assert senders, (seed, now, key, owner_of(key, actors[0].view.shares))
            doubled += len(senders) > 1
            if now - quiet_since > 2 * GRACE_S + LOST_S + 0.6:
                checked += 1
                assert len(senders) == 1, (seed, now, senders)
    assert checked > 200
    assert doubled, "make before break: for a moment there are two"
