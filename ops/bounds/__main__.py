"""`make bounds`: a worker under what would fill its memory, and whether it comes back by itself.

Each trial prints the worker's anonymous memory (RssAnon: the mapped tables have their own, fixed
size) before, at its highest and after, and what went out meanwhile. The limit it is held against
is stated in ARCHITECTURE.md: `LIMIT_MIB` for the settings below.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import orjson
from confluent_kafka import Producer

from readstates.streams.client import BlockingClient, QueryError
from readstates.streams.config import Settings

from ..local.one_worker import one_worker
from ..local.owner import command
from ..local.stack import Stack
from ..local.worker import WorkerProcess

PARTITIONS = 8
LIMIT_MIB = 400  # 100, and 0.75 KiB for each of PARKED_MAX updates in PARTITIONS partitions
SETTINGS = {
    "CACHE_STATES": 120_000,
    "USER_STATES_MAX": 50_000,
    "FLUSH_DELAY_S": 5,
    "CASSANDRA_TIMEOUT_S": 2,
}
BIG_USER_STATES = 50_000
QUEUE_MAX = 200_000  # records on their way to the broker
QUERIES = 12_000  # more than QUERIES_WAITING_MAX
TRIALS = ("cold users", "big user", "many queries", "no database")
STUCK_S = 60.0  # without progress for so long while something waits: it does not recover
WAITING = ("processing_lag_records", "parked_updates", "queries_waiting")


class Memory(threading.Thread):
    """Watches a process; `highest` MiB since `mark`."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._path = Path(f"/proc/{pid}/status")
        self.highest = self.now()
        self.start()

    def now(self) -> float:
        """Anonymous memory, MiB; 0 where the process is gone."""
        try:
            for line in self._path.read_text().splitlines():
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) / 1024
        except OSError:
            pass
        return 0.0

    def mark(self) -> None:
        self.highest = self.now()

    def run(self) -> None:
        while self._path.exists():
            self.highest = max(self.highest, self.now())
            time.sleep(0.2)


class Trials:
    """One worker and its surroundings; each method is a trial and says what it saw."""

    def __init__(
        self, stack: Stack, settings: Settings, worker: WorkerProcess, minutes_gone: float
    ) -> None:
        self.stack, self.settings, self.worker = stack, settings, worker
        self.minutes_gone = minutes_gone
        self.producer = Producer(
            settings.librdkafka(
                **{
                    "partitioner": "murmur2_random",
                    "linger.ms": 20,
                    "queue.buffering.max.messages": 2 * QUEUE_MAX,
                }
            )
        )

    # -- tools --------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        user_id: int,
        body: dict[str, object],
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        value, key = orjson.dumps(body), b"%d" % user_id
        while len(self.producer) >= QUEUE_MAX:
            self.producer.poll(0.05)
        self.producer.produce(topic, value, key, headers=headers or [])

    def acks(self, users: Iterator[int], count: int, per_second: float) -> None:
        """Acks of many users, paced."""
        start = time.monotonic()
        for number, user_id in zip(range(count), users, strict=False):
            event = {"type": "ack", "user_id": user_id, "channel_id": 1 + number % 50}
            self.send(self.settings.updates_topic, user_id, {**event, "message_id": 1 + number})
            if number % 500 == 0:
                self.producer.poll(0)
                ahead_s = number / per_second - (time.monotonic() - start)
                if ahead_s > 0:
                    time.sleep(ahead_s)
        self.producer.flush(60)

    def calm(self) -> float:
        """Seconds until nothing lags and nothing is parked. Raises where it gets stuck."""
        start = moved = time.monotonic()
        least = float("inf")
        while True:
            seen = self.worker.metrics()
            left = sum(seen.get(f"read_states_{name}", 0) for name in WAITING)
            if seen and not left:
                return time.monotonic() - start
            if seen and left < least:
                least, moved = left, time.monotonic()
            if self.worker.returncode is not None or time.monotonic() - moved > STUCK_S:
                raise click.ClickException(
                    f"it does not recover, {left:,.0f} updates and queries are waiting:\n"
                    f"{self.worker.output()[-2000:]}"
                )
            time.sleep(0.5)

    def outcomes(self) -> dict[str, float]:
        seen = self.worker.metrics()
        return {
            name: seen.get(f"read_states_queries_total{{outcome={name}}}", 0.0)
            for name in ("hit", "miss", "expired", "error")
        }

    # -- trials -------------------------------------------------------------------------------

    def cold_users(self) -> str:
        """Updates of 400,000 users who were never seen, as fast as they can be sent."""
        self.acks(iter(range(10**6, 10**6 + 400_000)), 400_000, 1e9)
        return "400,000 updates, each of another user"

    def database_gone(self) -> str:
        """Cassandra stands still under a full load of updates of residents and of new users."""
        minutes = self.minutes_gone
        seconds = minutes * 60
        count = int(seconds * 4000)
        with self.stack.standing_still("cassandra"):
            self.acks((10**6 + n * 7919 % 500_000 for n in range(count)), count, 4000)
            seen = self.worker.metrics()
        parked = seen["read_states_parked_updates"]
        lag = seen["read_states_processing_lag_records"]
        return (
            f"{count:,} updates in {minutes:g} min; {parked:,.0f} parked, {lag:,.0f} left in Kafka"
        )

    def many_queries(self) -> str:
        """12,000 queries of users who cannot be loaded, at once; nobody reads the replies."""
        before = self.outcomes()
        headers = [("kafka_replyTopic", f"{self.settings.topic_prefix}.replies.shell".encode())]
        with self.stack.standing_still("cassandra"):
            for number in range(QUERIES):
                user_id = 10**9 + number
                body = {"type": "get", "user_id": user_id}
                self.send(self.settings.queries_topic, user_id, body, headers)
            self.producer.flush(60)
            end = time.monotonic() + 30
            while sum(self.outcomes().values()) - sum(before.values()) < QUERIES:
                if time.monotonic() > end:
                    raise click.ClickException("queries without an end")
                time.sleep(0.2)
        after = self.outcomes()
        return ", ".join(f"{name} {after[name] - before[name]:,.0f}" for name in after)

    def big_user(self) -> str:
        """All of a user with 50,000 read states, and 1,000 of them."""
        user_id = 10**10
        for first in range(1, BIG_USER_STATES + 1, 1000):
            acks = [{"channel_id": c, "message_id": 5} for c in range(first, first + 1000)]
            self.send(
                self.settings.updates_topic,
                user_id,
                {"type": "bulk_ack", "user_id": user_id, "acks": acks},
            )
        self.producer.flush(60)
        self.calm()
        with BlockingClient(
            self.settings.kafka_bootstrap,
            f"{self.settings.topic_prefix}.replies.shell",
            create_reply_topic=True,
        ) as client:
            some = client.get(user_id, tuple(range(1, 1001)), deadline_s=30)
            try:
                client.get(user_id, deadline_s=30)
            except QueryError as exc:
                return f"1,000 asked: {len(some.read_states):,}; all asked: {exc}"
        raise click.ClickException("a reply over REPLY_BYTES_MAX went out")


@click.command()
@click.option("--only", type=click.Choice(TRIALS), help="Run only this trial.")
@click.option("--minutes-gone", default=5.0, show_default=True, help="Minutes without Cassandra.")
def bounds(only: str | None, minutes_gone: float) -> None:
    """Memory, errors and recovery of one worker under four kinds of flood."""
    good = True
    with command("read-states-bounds-") as run:
        stack = run.stack(progress=click.echo)
        settings, worker = one_worker(stack, run.folder, PARTITIONS, SETTINGS)
        trials, memory = Trials(stack, settings, worker, minutes_gone), Memory(worker.pid)
        each = (
            trials.cold_users,
            trials.big_user,
            trials.many_queries,
            trials.database_gone,
        )
        for name, trial in zip(TRIALS, each, strict=True):
            if only in (None, name):
                good &= _run(name, trial, trials, memory)
        status = worker.stop()
        click.echo(f"worker exit {status}; limit {LIMIT_MIB} MiB: {'kept' if good else 'BROKEN'}")
        good &= status == 0
    sys.exit(0 if good else 1)


def _run(name: str, trial: Callable[[], str], trials: Trials, memory: Memory) -> bool:
    memory.mark()
    before, start = memory.now(), time.monotonic()
    click.echo(f"{name}: {trial.__doc__ or ''}".rstrip(": ").splitlines()[0])
    said = trial()
    took_s, calm_s = time.monotonic() - start, trials.calm()
    click.echo(
        f"  {said}\n  {took_s:.0f} s, calm after {calm_s:.0f} s more · memory {before:.0f} MiB "
        f"before, {memory.highest:.0f} highest, {memory.now():.0f} after"
    )
    return memory.highest <= LIMIT_MIB


if __name__ == "__main__":
    bounds()
