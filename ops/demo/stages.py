"""The demo: what the service does and at what cost, on real parts, with the proof at the end.

1. A Kafka, a Cassandra and a worker start; they are warmed up, or the first stretch would measure
   their compilers.
2. Three stretches, each with a report of its own: steady traffic, a burst, a storm of mentions.
3. The proof: a fold of the whole log against every row in Cassandra. The exit status depends on
   that, on errors and on unanswered queries; never on times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from readstates.cache.table import COMPILED
from readstates.streams.cassandra.store import Store
from readstates.streams.client import BlockingClient
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.owner import command
from ..local.stack import Stack
from ..local.worker import WorkerProcess
from ..proof.sender import Sender
from ..proof.traffic import Traffic
from . import report, stretches
from .asking import (
    ABSENT,
    ECHO,
    RESIDENT,
    SELECT,
    Questions,
    Selects,
    bare_echo,
    errors_in,
    loop,
    query,
)
from .machine import Machine
from .progress import Progress, say
from .proof import compare, fold_log, log_ends, wait_durable
from .stretches import Scale, Seen, World

PARTITIONS = 8
FLUSH_DELAY_S = 5.0
CACHE_STATES_PER_USER = 0.6  # of a partition's table: less than the users have, so it evicts
USER_STATES_MAX = 1_000
RESIDENTS = 400  # users who are asked for again and again; they stay in the table
ABSENT_FROM = 2 * 10**18  # IDs of the absent users, above those of the traffic
EXPECT_ANSWERED_SHARE = 0.99
MAKEFILE = Path(__file__).parents[2] / "Makefile"  # there is one in a checkout only
NEXT = "\nThree things to try next:\n"
IN_A_CHECKOUT = """\
  make sim SEEDS=300                 takes the same code through 300 simulated runs with faults
  make kills                         kills a process 1,000 times in the middle of a table operation
  . .venv/bin/activate; readstates stack up; eval "$(readstates stack env)"; readstates init
"""
IN_A_PACKAGE = """\
  readstates worker --help           shows every setting, with its unit and its default
  readstates plan --help             says how to plan the partitions and workers for your load
  readstates stack up; eval "$(readstates stack env)"; readstates init
"""
SERVERS = """\
                                     starts servers of your own; README.md says how to go on"""


def play(updates: int, queries: int, users: int, seconds: float, seed: int) -> bool:
    """The whole demo; True if the proof succeeds."""
    begin = time.monotonic()
    scale = Scale(updates, queries, users, seconds, PARTITIONS)
    absent = range(ABSENT_FROM, ABSENT_FROM + scale.absent)
    with command("read-states-demo-") as owner, Sender(seed, users, absent) as sender:
        stretches.make_ahead(sender, scale)  # while the servers start
        stack = owner.stack(progress=say, brief=True)
        same = run(stack, owner.folder, scale, sender, Traffic(seed, users, absent))
    say(f"stopped after {time.monotonic() - begin:.0f} s: nothing is left running")
    if same:
        say(NEXT + (IN_A_CHECKOUT if MAKEFILE.exists() else IN_A_PACKAGE) + SERVERS)
    return same


def run(stack: Stack, folder: Path, scale: Scale, sender: Sender, traffic: Traffic) -> bool:
    """The stretches on a running stack; True if the proof succeeds."""
    env = {
        **stack.env(),
        "READ_STATES_FLUSH_DELAY_S": str(FLUSH_DELAY_S),
        "READ_STATES_CACHE_STATES": str(
            max(2 * USER_STATES_MAX, int(CACHE_STATES_PER_USER * scale.users))
        ),
        "READ_STATES_USER_STATES_MAX": str(USER_STATES_MAX),
        "READ_STATES_CACHE_DIR": str(folder / "tables"),
    }
    settings = Settings.load(env)
    topics.create(settings, PARTITIONS, 1)
    store = Store(settings)
    worker = WorkerProcess(env, folder / "worker.log")
    try:
        store.create_schema()
        store.prepare()
        worker.start()
        try:
            worker.wait_ready()
            say(f"worker ready{'' if COMPILED else ' (no C compiler: its table is plain Python)'}")
            with _world(stack, settings, worker, scale, sender, traffic) as world:
                seen = _stretches(world, store)
            count, problems = prove(world, store)
        finally:
            status = worker.stop()
    finally:
        store.close()
    problems += _unanswered(seen)
    if status:
        problems.append(f"the worker ended with exit status {status}")
    for problem in problems[:5]:
        say(f"  {problem}")
    say(
        f"  {'NOT EQUAL' if problems else 'EQUAL'}: {count:,} read states in Cassandra and in the "
        f"fold, {len(problems)} differences or errors"
    )
    return not problems


@contextmanager
def _world(
    stack: Stack,
    settings: Settings,
    worker: WorkerProcess,
    scale: Scale,
    sender: Sender,
    traffic: Traffic,
) -> Iterator[World]:
    sender.connect(settings)
    pids = {one.role: one.pid or 0 for one in stack.status().processes}
    pids |= {"worker": worker.pid, "producer": sender.pid, "client": os.getpid()}
    with BlockingClient(
        settings.kafka_bootstrap,
        f"{settings.topic_prefix}.replies.demo",
        topic_prefix=settings.topic_prefix,
        create_reply_topic=True,
    ) as client:
        yield World(settings, scale, worker, sender, Machine(pids), client, traffic)


def _stretches(world: World, store: Store) -> list[Seen]:
    """The warm-up and the three stretches; each is reported when it is over."""
    settings = world.settings
    residents = world.traffic.user_ids[:RESIDENTS]
    with Progress() as progress:
        while not world.sender.wait(0.1):
            progress("making the records of all stretches")
    stretches.fill(world)
    with ExitStack() as open_:
        ours = open_.enter_context(loop(settings, RESIDENT, settings.queries_topic))
        others = open_.enter_context(loop(settings, ABSENT, settings.queries_topic))
        queries = Questions(ours, [query(user_id) for user_id in residents])
        with Progress() as progress:
            world.questions[RESIDENT] = queries
            first = stretches.make_resident(world, progress)
        size = sum(map(len, first.bodies)) // max(1, len(first.bodies))
        echo, echo_pid = open_.enter_context(bare_echo(settings, PARTITIONS, size))
        world.machine.add("echo", echo_pid)
        absent = list(world.traffic.absent)
        middle = len(absent) // 2
        world.questions |= {
            ECHO: Questions(echo, queries.queries),
            ABSENT: Questions(others, [query(user_id) for user_id in absent]),
            SELECT: Questions(Selects(store), absent[middle:] + absent[:middle]),
        }
        rate = stretches.trial(world)
        seen = [stretches.steady(world, rate)]
        _print(report.steady(seen[-1], rate))
        seen.append(stretches.burst(world))
        _print(report.burst(seen[-1]))
        seen.append(stretches.storm(world))
        _print(report.storm(seen[-1]))
    return seen


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        say(line)


def prove(world: World, store: Store) -> tuple[int, list[str]]:
    """Fold the log and compare; how many read states there must be, and what is wrong."""
    settings, worker = world.settings, world.worker
    ends = log_ends(settings, PARTITIONS)
    begin = time.monotonic()
    say(f"proof: a fold of all {sum(ends.values()):,} records against every row in Cassandra")
    with Progress() as progress:
        oracle = fold_log(settings, ends, progress)
        wait_durable(settings, ends, progress)
        count, problems = compare(store, oracle, progress)
    say(f"  took {time.monotonic() - begin:.0f} s")
    if world.sender.failed:
        problems.append(f"Kafka did not take {world.sender.failed:,} updates")
    bad = int(worker.metrics()["read_states_dead_letters_total"])
    if bad < oracle.bad:  # a worker that was replayed may have made one twice
        problems.append(f"{oracle.bad:,} bad records in the log, {bad:,} dead letters")
    return count, problems


def _unanswered(seen: list[Seen]) -> list[str]:
    """What is wrong with the answers: some may be late on a busy machine, but not many."""
    errors: dict[str, int] = {}
    asked = answered = 0
    for stretch in seen:
        for kind in (RESIDENT, ABSENT):
            if kind in stretch.asked:
                one = stretch.asked[kind]
                for code, count in errors_in(one).items():
                    errors[code] = errors.get(code, 0) + count
                asked += len(one.seconds) + one.unanswered
                answered += len(one.seconds)
    wrong = sum(errors.values())
    if asked and (answered - wrong + errors.get("no reply", 0)) < EXPECT_ANSWERED_SHARE * asked:
        return [f"of {asked:,} queries {wrong:,} were not answered as they should be: {errors}"]
    return []
