"""What a query gets from a table, against a naive reading of the interface."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from readstates.schemas.events import (
    SNOWFLAKE_MAX,
    Ack,
    Delete,
    Mention,
    RetractMention,
    SetOptions,
    Update,
)
from readstates.schemas.queries import Get
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer
from readstates.streams.partition.answer import answer
from readstates.streams.partition.fold import fold
from tests.support.table_builds import BUILDS, Build, new_buffer

USER = 7
EPOCH_BITS = 8 << 48
CHANNELS, KINDS = 8, 3
SEEDS = 60
QUERIES_EACH = 60


class World:
    """A resident user in a real table."""

    def __init__(self, build: Build) -> None:
        self.table = build.Table(new_buffer(400), 190)
        self.position = 1
        self.user = self.table.insert(USER, EPOCH_BITS | 1, False, [])

    def fold(self, event: Update) -> None:
        self.position += 1
        fold(self.table, self.user, event, EPOCH_BITS | self.position)

    def ask(self, **fields: Any) -> Answer:
        answers: list[Answer] = []
        effects: Any = SimpleNamespace(answer=lambda _query, found, _hit: answers.append(found))
        progress: Any = SimpleNamespace(epoch_bits=EPOCH_BITS, position=self.position)
        query: Any = SimpleNamespace(get=Get(USER, **fields))
        answer(effects, self.table, progress, query, self.user, hit=True)
        return answers.pop()


def event(rand: random.Random) -> Update:
    channel, kind = rand.randint(1, CHANNELS), rand.randrange(KINDS)
    message = rand.randint(1, 40)
    events: list[Update] = [
        Ack(USER, channel, message, kind),
        Mention(USER, channel, message, kind, rand.randint(0, 1)),
        RetractMention(USER, channel, message, kind),
        SetOptions(USER, channel, kind, rand.randint(0, 1)),
        Delete(USER, channel, kind, rand.choice([-1, message])),
    ]
    return rand.choices(events, [3, 8, 3, 1, 0.4])[0]


def naive(world: World, get: Get) -> Answer:
    """The interface, word by word, on all rows that the user has."""
    everything: list[Row] = world.table.states(world.user)
    version = EPOCH_BITS | world.position
    since, kind, channels = get.since_version, get.read_state_type, get.channel_ids
    full = since is None or get.mentioned or not world.table.floor(world.user) <= since <= version
    rows = everything
    if channels is not None:
        rows = [row for row in rows if row[1] in channels and row[0] == (kind or 0)]
    elif kind is not None:
        rows = [row for row in rows if row[0] == kind]
    if not full and since is not None:
        rows = [row for row in rows if row[8] > since]
    if get.mentioned:
        rows = [row for row in rows if row[4]]
    if get.after is not None:
        rows = [row for row in rows if row[:2] > get.after]
    following = None
    if get.limit is not None and len(rows) > get.limit:
        rows = rows[: get.limit]
        following = rows[-1][:2]
    totals = None
    if get.totals:
        of = [row for row in everything if kind is None or row[0] == kind]
        totals = (len(of), sum(row[4] > 0 for row in of), sum(row[4] for row in of))
    return Answer(version, full, rows, totals, following)  # type: ignore[arg-type]


def question(rand: random.Random, world: World) -> dict[str, Any]:
    channels = rand.sample(range(1, CHANNELS + 3), rand.randint(0, CHANNELS))
    after = rand.randrange(KINDS), rand.choice([rand.randint(1, CHANNELS), SNOWFLAKE_MAX])
    return {
        "channel_ids": rand.choice([None, None, tuple(channels)]),
        "read_state_type": rand.choice([None, None, *range(KINDS + 1)]),
        "since_version": rand.choice([None, EPOCH_BITS | rand.randint(0, world.position + 1)]),
        "mentions": rand.random() < 0.5,
        "mentioned": rand.random() < 0.3,
        "totals": rand.random() < 0.5,
        "limit": rand.choice([None, 1, 2, 5, 10_000]),
        "after": rand.choice([None, after]),
    }


@pytest.mark.parametrize("build", BUILDS)
def test_every_combination_of_fields(build: str) -> None:
    seen = {"next": 0, "delta": 0, "full": 0}
    for seed in range(SEEDS):
        rand = random.Random(seed)
        world = World(BUILDS[build])
        for _ in range(rand.choice([3, 30, 120])):
            world.fold(event(rand))
        for _ in range(QUERIES_EACH):
            fields = question(rand, world)
            found = world.ask(**fields)
            assert found == naive(world, Get(USER, **fields)), (seed, fields)
            seen["next"] += found.next is not None
            seen["full" if found.full else "delta"] += fields["since_version"] is not None
            if rand.random() < 0.1:
                world.fold(event(rand))
    assert seen["next"] > 100
    assert seen["delta"] > 100
    assert seen["full"] > 100


@pytest.mark.parametrize("build", BUILDS)
def test_pages_are_the_whole_and_next_is_there_only_if_more_follow(build: str) -> None:
    for seed in range(SEEDS):
        rand = random.Random(seed)
        world = World(BUILDS[build])
        for _ in range(100):
            world.fold(event(rand))
        fields = question(rand, world) | {"limit": None, "after": None}
        whole = world.ask(**fields)
        assert whole.next is None
        limit = rand.choice([1, 2, 3, max(1, len(whole.rows))])
        rows, after = [], None
        while True:
            page = world.ask(**fields | {"limit": limit, "after": after})
            assert (page.full, page.totals) == (whole.full, whole.totals)
            rows += page.rows
            if page.next is None:
                break
            assert len(page.rows) == limit
            after = page.next
        assert rows == whole.rows, (seed, fields)
        assert page.rows or not whole.rows, "a page said that more follow, and nothing did"


@pytest.mark.parametrize("build", BUILDS)
def test_a_read_state_whose_mentions_were_read_does_not_stay_mentioned(build: str) -> None:
    """Whoever asks for mentioned ones only, and then for what changed, must learn of it."""
    world = World(BUILDS[build])
    world.fold(Mention(USER, 1, 5))
    world.fold(Mention(USER, 2, 6))
    first = world.ask(mentioned=True)
    assert [row[1] for row in first.rows] == [1, 2]
    world.fold(Ack(USER, 1, 5))
    later = world.ask(mentioned=True, since_version=first.version)
    assert (later.full, [row[1] for row in later.rows]) == (True, [2])


@pytest.mark.parametrize("build", BUILDS)
def test_totals_alone_are_of_all_types(build: str) -> None:
    world = World(BUILDS[build])
    for kind in range(3):
        for message in range(kind + 1):
            world.fold(Mention(USER, 1, 5 + message, kind))
    world.fold(Ack(USER, 2, 5))
    world.fold(RetractMention(USER, 3, 5))  # hidden: no total counts it
    assert world.ask(channel_ids=(), totals=True)[2:] == ([], (4, 3, 6), None)
    assert world.ask(channel_ids=(1,), totals=True).totals == (4, 3, 6)
    assert world.ask(channel_ids=(), totals=True, read_state_type=2).totals == (1, 1, 3)
    assert world.ask(channel_ids=(), totals=True, read_state_type=9).totals == (0, 0, 0)
    assert world.ask(limit=1, mentioned=True, totals=True).totals == (4, 3, 6)
    assert world.ask().totals is None
