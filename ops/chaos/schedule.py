"""Which faults there are, how often each comes, and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .faults import (
    cut_off,
    damage_tables,
    full_cache,
    guest,
    kill_coordinator,
    kill_one,
    kill_worker,
    no_cassandra,
    offsets_deleted,
    pause_one,
    rolling_restart,
    zombie,
)
from .history import ZOMBIE, Excuse
from .outside import clock_jumps, open_transaction, queries_made_anew, topic_settings
from .world import BROKERS, NODES, World


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `weight`: how often beyond the first time; `of`: what it lays hands on."""

    name: str
    of: str
    weight: int
    act: Callable[[World, random.Random], str]
    excuse: Excuse = Excuse.UNTIL_WELL


WORKER, SERVER, ALONE = "worker", "server", "alone"
KINDS = (
    Kind("worker killed", WORKER, 6, kill_worker),
    Kind("tables damaged", WORKER, 3, damage_tables),
    Kind(ZOMBIE, WORKER, 3, zombie),
    Kind("rolling restart", ALONE, 3, rolling_restart),
    Kind("a guest worker", ALONE, 3, guest),
    Kind("cache folder full", ALONE, 1, full_cache),
    Kind("broker killed", SERVER, 3, partial(kill_one, BROKERS)),
    Kind("coordinator killed", SERVER, 2, kill_coordinator),
    Kind("broker paused", SERVER, 3, partial(pause_one, BROKERS, 12)),
    Kind("node killed", SERVER, 2, partial(kill_one, NODES)),
    Kind("node paused", SERVER, 3, partial(pause_one, NODES, 10)),
    Kind("one cut off", SERVER, 3, cut_off),
    Kind("no Cassandra", ALONE, 0, no_cassandra),
    Kind("offsets deleted", ALONE, 0, offsets_deleted),
    Kind("queries made anew", ALONE, 0, queries_made_anew, Excuse.UNTIL_UNDONE),
    Kind("open transaction", ALONE, 0, open_transaction, Excuse.NEVER),
    Kind("topic settings", ALONE, 1, topic_settings, Excuse.NEVER),
    Kind("clock jumps", ALONE, 0, clock_jumps),
)
NAMES = tuple(kind.name for kind in KINDS)
OVERLAP_SHARE = 0.25


def schedule(
    count: int, rng: random.Random, names: Sequence[str] = NAMES
) -> list[tuple[Kind, ...]]:
    """`count` faults in steps of one, or of two at the same time: a worker's and a server's.

    They are of the kinds with these names. Every kind comes at least once where there are enough.
    What replays the whole log comes early, while the log is short.
    """
    chosen = [kind for kind in KINDS if kind.name in names]
    kinds = list(chosen) if count >= len(chosen) else rng.sample(chosen, count)
    weights = [kind.weight for kind in chosen]
    weights = weights if any(weights) else [1] * len(chosen)
    kinds += rng.choices(chosen, weights, k=count - len(kinds))
    rng.shuffle(kinds)
    replays = [kind for kind in kinds if kind.act is offsets_deleted]
    for kind in replays:
        kinds.remove(kind)
        kinds.insert(rng.randrange(1 + len(kinds) // 4), kind)
    steps: list[tuple[Kind, ...]] = []
    for kind in kinds:
        last = steps[-1] if steps else ()
        fits = len(last) == 1 and {last[0].of, kind.of} == {WORKER, SERVER}
        if fits and rng.random() < 2 * OVERLAP_SHARE:
            steps[-1] = (*last, kind)
        else:
            steps.append((kind,))
    return steps
