"""`make demo`: the service at work on a real Kafka and Cassandra, with a proof at the end."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
from confluent_kafka import Consumer, TopicPartition

from readstates.streams.client import Client, QueryError
from readstates.streams.config import Settings
from readstates.streams.kafka import topics

from ..local.owner import command
from ..local.stack import Stack
from ..local.worker import WorkerProcess
from ..proof.oracle import Oracle
from ..proof.sender import Sender
from ..proof.traffic import Traffic

if TYPE_CHECKING:
    from readstates.streams.cassandra.store import Store

PARTITIONS = 8
FLUSH_DELAY_S = 5.0
CACHE_STATES = 12_000  # per partition: less than the users need, so that it evicts
DRAIN_TIMEOUT_S = 120.0
EXPECT_QUERIES_SHARE = 0.99


@dataclass
class Queries:
    """Round trips of the queries, in seconds from the moment each was due."""

    seconds: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


async def ask(settings: Settings, traffic: Traffic, count: int, seconds: float) -> Queries:
    """Open loop: each query is due at its time, whether earlier ones were answered or not."""
    queries = Queries()
    users = traffic.users(count)
    async with Client(
        settings.kafka_bootstrap, "read-states.replies.demo", create_reply_topic=True
    ) as client:
        start = time.monotonic() + 0.5

        async def one(number: int, user_id: int, due: float) -> None:
            # most are session starts, which fetch everything; some look at one screen
            channels = traffic.channels_of(user_id)[:20] if number % 3 == 0 else None
            try:
                await client.get(user_id, channels, deadline_s=10)
                queries.seconds.append(time.monotonic() - due)
            except QueryError as exc:
                queries.errors[exc.code] = queries.errors.get(exc.code, 0) + 1
            except TimeoutError:
                queries.errors["no reply"] = queries.errors.get("no reply", 0) + 1

        tasks: list[asyncio.Task[None]] = []
        for number, user_id in enumerate(users):
            due = start + number / count * seconds
            if due - time.monotonic() > 0.001:
                await asyncio.sleep(due - time.monotonic())
            tasks.append(asyncio.create_task(one(number, user_id, due)))
        await asyncio.gather(*tasks)
    return queries


def say(text: str) -> None:
    click.echo(text)


async def watch(worker: WorkerProcess, sender: Sender, updates: int) -> None:
    """Show a live line: a terminal's rewrites itself; elsewhere a new one comes every 5 seconds."""
    live = sys.stdout.isatty()
    while True:
        await asyncio.sleep(1 if live else 5)
        seen = await asyncio.to_thread(worker.metrics)
        line = (
            f"  sent {sender.sent:>9,}/{updates:,}"
            f" · lag {seen.get('read_states_processing_lag_records', 0):>8,.0f}"
            f" · queries {seen.get('read_states_queries_total', 0):>6,.0f}"
            f" · resident {seen.get('read_states_resident_states', 0):>7,.0f}"
            f" · rows written {seen.get('read_states_cassandra_rows_written_total', 0):>8,.0f}"
        )
        click.echo(f"\r{line}\033[K" if live else line, nl=not live)


def log_ends(settings: Settings) -> dict[int, int]:
    """End offsets of the updates topic, by partition."""
    consumer = Consumer(settings.librdkafka(**{"group.id": "demo-ends"}))
    try:
        return {
            number: consumer.get_watermark_offsets(
                TopicPartition(settings.updates_topic, number), timeout=10
            )[1]
            for number in range(PARTITIONS)
        }
    finally:
        consumer.close()


def wait_durable(settings: Settings, ends: dict[int, int]) -> float:
    """Wait until the group's commits are the log's ends; returns the seconds it took."""
    start = time.monotonic()
    consumer = Consumer(settings.librdkafka(**{"group.id": settings.kafka_group}))
    places = [TopicPartition(settings.updates_topic, number) for number in ends]
    try:
        while True:
            found = {p.partition: p.offset for p in consumer.committed(places, timeout=10)}
            if found == ends:
                return time.monotonic() - start
            if time.monotonic() - start > DRAIN_TIMEOUT_S:
                raise click.ClickException(f"not all durable: committed {found}, ends {ends}")
            time.sleep(0.1)
    finally:
        consumer.close()


def fold_log(settings: Settings, ends: dict[int, int]) -> Oracle:
    """Fold the log from its beginning into the oracle, with a plain consumer."""
    oracle = Oracle()
    consumer = Consumer(
        settings.librdkafka(**{"group.id": "demo-oracle", "enable.auto.commit": False})
    )
    consumer.assign([TopicPartition(settings.updates_topic, number, 0) for number in ends])
    left = sum(ends.values())
    try:
        while left:
            for message in consumer.consume(5000, 1.0):
                if message.error() is None:
                    offset = message.offset()
                    assert offset is not None
                    oracle.apply(message.key(), message.value(), offset)
                    left -= 1
    finally:
        consumer.close()
    return oracle


def compare(store: Store, oracle: Oracle) -> tuple[int, list[str]]:
    """Compare all rows of Cassandra and the oracle; returns how many, and the differences."""
    expected = {
        (user_id, *row[:2]): row for user_id in oracle.users for row in oracle.rows(user_id)
    }
    count, differences = len(expected), []
    for user_id, row in store.read_all():
        wanted = expected.pop((user_id, *row[:2]), None)
        if wanted != row:
            differences.append(f"user {user_id}: Cassandra has {row}, expected {wanted}")
    differences += [f"user {key[0]}: missing {row}" for key, row in expected.items()]
    return count, differences


def quantile_bounds(seen: dict[str, float], name: str) -> str:
    """Upper bounds of two quantiles of one of the worker's histograms, ms."""
    buckets = sorted(
        (float(key.partition("le=")[2][:-1]), value)
        for key, value in seen.items()
        if key.startswith(f"{name}_bucket{{")
    )
    total = seen[f"{name}_count"]
    bounds = [
        next((le for le, value in buckets if value >= share * total), float("inf"))
        for share in (0.5, 0.99)
    ]
    return f"p50 <= {bounds[0] * 1e3:g} ms · p99 <= {bounds[1] * 1e3:g} ms"


def report(
    seen: dict[str, float], sender: Sender, queries: Queries, took_s: float, durable_s: float
) -> None:
    """Print the figures, one on each line."""
    rows = seen["read_states_cassandra_rows_written_total"]
    applied = seen["read_states_updates_applied_total"]
    hits, misses = (seen[f"read_states_queries_total{{outcome={o}}}"] for o in ("hit", "miss"))
    reasons = {
        key.partition("reason=")[2][:-1]: int(value)
        for key, value in seen.items()
        if key.startswith("read_states_dead_letters_total{") and value
    }
    lines = [
        (
            "updates",
            f"{sender.sent:,} in {took_s:.1f} s = {sender.sent / took_s:,.0f}/s "
            f"({applied:,.0f} changed a state)",
        ),
        (
            "durable",
            f"{durable_s:.1f} s after the last one was sent (FLUSH_DELAY_S {FLUSH_DELAY_S:g})",
        ),
        ("queries", f"{len(queries.seconds):,} answered, errors: {queries.errors or 'none'}"),
        (
            "round trip",
            f"p50 {queries.quantile_ms(0.5):.1f} ms · p99 "
            f"{queries.quantile_ms(0.99):.1f} ms · p99.9 "
            f"{queries.quantile_ms(0.999):.1f} ms",
        ),
        ("query age", quantile_bounds(seen, "read_states_query_age_seconds")),
        ("service time", quantile_bounds(seen, "read_states_query_service_seconds")),
        ("hits, misses", f"{hits:,.0f}, {misses:,.0f} ({hits / max(1, hits + misses):.0%} hits)"),
        ("evictions", f"{seen['read_states_evictions_total']:,.0f} read states"),
        ("rows written", f"{rows:,.0f}: {applied / max(1, rows):.1f} changes per row"),
        ("dead letters", f"{sum(reasons.values()):,} {reasons}"),
        (
            "collector",
            f"longest pause {seen['read_states_gc_pause_longest_seconds'] * 1000:.1f} ms by the "
            f"clock; longest collection {seen['read_states_gc_cpu_longest_seconds'] * 1000:.1f} ms "
            "of CPU",
        ),
    ]
    for name, text in lines:
        say(f"  {name:<13} {text}")


@click.command()
@click.option("--updates", default=1_000_000, show_default=True, help="Updates to send.")
@click.option("--queries", default=20_000, show_default=True, help="Queries to send.")
@click.option("--users", default=30_000, show_default=True, help="Users who take part.")
@click.option("--seconds", default=80.0, show_default=True, help="How long the traffic takes.")
@click.option("--seed", default=1, show_default=True, help="The same seed sends the same traffic.")
def demo(updates: int, queries: int, users: int, seconds: float, seed: int) -> None:
    """Start everything on this machine, send sample traffic, and check the result.

    It starts a real Kafka, a real Cassandra and a worker, and stops them at the end. Exit status:
    0 only if every read state in Cassandra equals a fold of the whole log.
    """
    import_module("readstates.streams.cassandra.store")  # what is missing is named before a start
    with command("read-states-demo-") as owner:
        stack = owner.stack(progress=say)
        same = run(stack, owner.folder, updates, queries, users, seconds, seed)
    say("stopped: nothing is left running")
    sys.exit(0 if same else 1)


def run(
    stack: Stack,
    folder: Path,
    updates: int,
    query_count: int,
    users: int,
    seconds: float,
    seed: int,
) -> bool:
    """The traffic on a running stack; True if Cassandra equals the oracle."""
    # Here, because `readstates demo --help` works without the packages of a worker.
    from readstates.cache.table import COMPILED
    from readstates.streams.cassandra.store import Store

    env = {
        **stack.env(),
        "READ_STATES_FLUSH_DELAY_S": str(FLUSH_DELAY_S),
        "READ_STATES_CACHE_STATES": str(CACHE_STATES),
        "READ_STATES_USER_STATES_MAX": "1000",
        "READ_STATES_CACHE_DIR": str(folder / "tables"),
    }
    settings = Settings.load(env)
    topics.create(settings, PARTITIONS, 1)
    store = Store(settings)
    store.create_schema()
    store.prepare()
    worker = WorkerProcess(env, folder / "worker.log").start()
    try:
        worker.wait_ready()
        say(
            f"worker ready{'' if COMPILED else ' (no C compiler: its table is plain Python)'}; "
            f"{updates:,} updates and {query_count:,} queries of {users:,} users, "
            f"seed {seed}"
        )
        traffic = Traffic(seed, users)
        sender = Sender(settings, seed, users, updates, seconds)
        start = time.monotonic()
        queries = asyncio.run(
            _drive(settings, traffic, sender, worker, updates, query_count, seconds)
        )
        sender.join()
        ends = log_ends(settings)
        took_s = time.monotonic() - start
        durable_s = wait_durable(settings, ends)
        seen = worker.metrics()
        say("")
        report(seen, sender, queries, took_s, durable_s)
        say("  checking      every read state in Cassandra against a fold of the log …")
        oracle = fold_log(settings, ends)
        count, differences = compare(store, oracle)
    finally:
        status = worker.stop()
        store.close()
    for difference in differences[:5]:
        say(f"  DIFFERENT: {difference}")
    answered = len(queries.seconds) >= EXPECT_QUERIES_SHARE * query_count
    good = not differences and answered and not sender.failed and status == 0
    bad = int(seen["read_states_dead_letters_total"])
    if bad < oracle.bad:
        say(f"  DIFFERENT: {oracle.bad} bad records in the log, {bad} dead letters")
        good = False
    say(
        f"  {'EQUAL' if good else 'NOT EQUAL'}: {count:,} read states of "
        f"{len(oracle.users):,} users, {len(differences)} differences; worker exit {status}"
    )
    return good


async def _drive(
    settings: Settings,
    traffic: Traffic,
    sender: Sender,
    worker: WorkerProcess,
    updates: int,
    query_count: int,
    seconds: float,
) -> Queries:
    sender.start()
    watching = asyncio.create_task(watch(worker, sender, updates))
    queries = await ask(settings, traffic, query_count, seconds)
    await asyncio.to_thread(sender.join)
    watching.cancel()
    return queries


if __name__ == "__main__":
    demo()
