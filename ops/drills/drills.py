"""The drills: what is broken, what must fire, and what its runbook says to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .world import REPLIES, SMALL_REPLIES, World


@dataclass(frozen=True)
class Drill:
    """`alerts` must fire after `cause` and be silent again after `fix`."""

    cause: str
    fix: str
    alerts: tuple[str, ...]
    break_it: Callable[[World], None]
    mend_it: Callable[[World], None]


def _three_restarts(world: World) -> None:
    for _ in range(3):
        world.kill_worker()
        world.start_worker()


def _slow(world: World) -> None:
    world.set(reply_topic=REPLIES)
    world.slow_cassandra()


def _still(world: World) -> None:
    world.set(cold_queries_s=40.0, new_users_s=100.0)
    world.stop_cassandra()


def _on(world: World) -> None:
    world.set(cold_queries_s=5.0, new_users_s=20.0)
    world.continue_cassandra()


LEAKY = "readstates.ops.drills.leaky"
STUCK = "readstates.ops.drills.stuck"

# The restart loop is first: other drills restart the worker, too, and those restarts would count.
DRILLS = (
    Drill(
        "the worker is killed three times",
        "stop killing the worker, and wait",
        ("ReadStatesRestartLoop",),
        _three_restarts,
        lambda _world: None,  # it is silent when the first restart is older than its window
    ),
    Drill(
        "a producer sends values that are not JSON",
        "correct the producer",
        ("ReadStatesDeadLetters", "ReadStatesDeadLettersMany"),
        lambda world: world.set(bad_s=40.0),
        lambda world: world.set(bad_s=0.0),
    ),
    Drill(
        "a producer floods three users of one partition",
        "the producer stops",
        ("ReadStatesPartitionHot",),
        lambda world: world.set(hot_s=2500.0),
        lambda world: world.set(hot_s=0.0),
    ),
    Drill(
        "a reply topic accepts no record over 100 bytes",
        "raise its max.message.bytes",
        ("ReadStatesRepliesFail",),
        lambda world: world.set(reply_topic=SMALL_REPLIES),
        lambda world: world.larger_replies(),
    ),
    Drill(
        "the dead-letters topic accepts no record over 100 bytes",
        "raise its max.message.bytes",
        ("ReadStatesDeadLettersFail",),
        lambda world: world.refuse_dead_letters(),
        lambda world: world.take_dead_letters(),
    ),
    Drill(
        "the topic of the change feed accepts no record over 100 bytes",
        "raise its max.message.bytes",
        ("ReadStatesChangesHeld",),
        lambda world: world.refuse_changes(),
        lambda world: world.mend_topics(),
    ),
    Drill(
        "Cassandra runs a quarter of the time",
        "Cassandra runs all the time again",
        ("ReadStatesMissesSlow",),
        _slow,
        lambda world: world.continue_cassandra(),
    ),
    Drill(
        "Cassandra is suspended (SIGSTOP)",
        "Cassandra continues (SIGCONT)",
        (
            "ReadStatesCassandraWritesFail",
            "ReadStatesCassandraLoadsFail",
            "ReadStatesDurabilityLag",
            "ReadStatesQueryBudgetFastBurn",
            "ReadStatesQueryBudgetSlowBurn",
            "ReadStatesFallingBehind",
            "ReadStatesPartitionStuck",
            "ReadStatesCommitHeld",
        ),
        _still,
        _on,
    ),
    Drill(
        "a producer leaves a transaction on updates open",
        "end the transaction",
        ("ReadStatesProbeFails",),
        lambda world: world.open_transaction(),
        lambda world: world.end_transaction(),
    ),
    Drill(
        "a library keeps creating lists and never frees them",
        "restart the worker without the library",
        ("ReadStatesCollectorPauses", "ReadStatesMemoryHigh"),
        lambda world: world.restart_worker(LEAKY),
        lambda world: world.restart_worker(),
    ),
    Drill(
        "the worker's clock is 8 s ahead",
        "correct the clock; the worker needs no restart",
        ("ReadStatesClockOffset",),
        lambda world: world.wrong_clock(),
        lambda world: world.set_clock(0),
    ),
    Drill(
        "a thread of the worker hangs",
        "restart the worker",
        ("ReadStatesWorkerStuck",),
        lambda world: world.restart_worker(STUCK),
        lambda world: world.restart_worker(),
    ),
    Drill(
        "a candidate refuses queries that the live worker answers",
        "readstates rollout abort",
        ("ReadStatesRepliesDiffer",),
        lambda world: world.start_wrong_candidate(),
        lambda world: world.abort_wrong_candidate(),
    ),
    Drill(
        "the worker of a candidate that has all users is killed",
        "readstates rollout back",
        ("ReadStatesCandidateSilent",),
        lambda world: world.kill_candidate(),
        lambda world: world.back_from_candidate(),
    ),
    Drill(
        "somebody sets cleanup.policy=compact on the updates topic",
        "readstates init restores the setting",
        ("ReadStatesDeviation",),
        lambda world: world.compact_updates(),
        lambda world: world.mend_topics(),
    ),
    Drill(
        "CACHE_DIR is a folder on a disk",
        "restart the worker with a CACHE_DIR in memory",
        ("ReadStatesTablesOnDisk",),
        lambda world: world.move_tables(world.on_disk),
        lambda world: world.move_tables(world.in_memory),
    ),
    Drill(
        "the only worker is killed and not restarted",
        "start a worker",
        ("ReadStatesPartitionUnowned", "ReadStatesWorkerDown"),
        lambda world: world.kill_worker(),
        lambda world: world.start_worker(),
    ),
)
