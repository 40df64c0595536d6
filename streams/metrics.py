"""Defines every metric of the service. No label contains a user ID.

A *candidate* is a group of workers of another version or configuration, beside the live workers.
A worker's *role* is live or candidate. Each role computes a reply to each query; the reply that is
not sent to the client goes to the *shadow topic* (`kafka/withheld_replies.py`), to be compared.
CONTRIBUTING.md ("Words") explains other terms, such as "resident", "dirty" and "fold".
"""

from __future__ import annotations

import gc
import time
from bisect import bisect_left
from contextlib import suppress
from dataclasses import fields

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from readstates.schemas.dead_letters import REASONS

from .config import ROLES, Settings
from .deviations import DEVIATIONS
from .priorities import WORKS

# The `_created` series would double the size of /metrics, and nothing uses them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client

FINE = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01,
    0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip


class FastHistogram(Histogram):
    """A fast histogram for queries, without labels: `observe` takes 0.5 µs instead of 2 µs."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Record a value like `Histogram.observe`, by bisection and without exemplars."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


UPDATES_APPLIED = Counter(
    "read_states_updates_applied_total", "update events that changed the table", ["partition"]
)
UPDATES_SKIPPED = Counter(
    "read_states_updates_skipped_total", "update events that changed nothing, by reason", ["reason"]
)
QUERIES = Counter("read_states_queries_total", "finished queries, by outcome", ["outcome"])
QUERY_SERVICE_SECONDS = FastHistogram(
    "read_states_query_service_seconds",
    "time from reading a query to passing its reply to the producer",
    buckets=FINE,
)
QUERY_AGE_SECONDS = FastHistogram(
    "read_states_query_age_seconds",
    "time from a query's Kafka timestamp to passing its reply to the producer",
    buckets=FINE,
)
QUERY_WAITED_SECONDS = Counter(
    "read_states_query_waited_seconds_total",
    "total time that queries waited for other work of the worker, by kind of work",
    ["work"],
)
PROCESSING_LAG = Gauge(
    "read_states_processing_lag_records",
    "end of the log (including open transactions) minus the next offset to apply",
    ["topic", "partition"],
)
DURABILITY_LAG = Gauge(
    "read_states_durability_lag_records",
    "records that are applied but not yet durable in Cassandra",
    ["partition"],
)
DURABILITY_LAG_SECONDS = Gauge(
    "read_states_durability_lag_seconds",
    "age of the oldest change that is not yet in Cassandra",
    ["partition"],
)
RESIDENT_STATES = Gauge("read_states_resident_states", "read states in the table", ["partition"])
RESIDENT_USERS = Gauge("read_states_resident_users", "users in the table", ["partition"])
DIRTY_STATES = Gauge(
    "read_states_dirty_states",
    "read states with changes that are not yet in Cassandra",
    ["partition"],
)
EVICTIONS = Counter("read_states_evictions_total", "read states evicted from the tables")
LOADS = Counter(
    "read_states_cassandra_loads_total", "loads of users from Cassandra, by outcome", ["outcome"]
)
ROWS_WRITTEN = Counter(
    "read_states_cassandra_rows_written_total",
    "rows that Cassandra acknowledged as written or deleted",
)
WRITE_FAILURES = Counter(
    "read_states_cassandra_write_failures_total", "batches that Cassandra did not acknowledge"
)
LOAD_SECONDS = Histogram(
    "read_states_cassandra_load_seconds", "duration of a load request", buckets=FINE
)
WRITE_SECONDS = Histogram(
    "read_states_cassandra_write_seconds", "duration of a batch write", buckets=FINE
)
DEAD_LETTERS = Counter(
    "read_states_dead_letters_total",
    "records that could not be applied and became dead letters",
    ["reason"],
)
GC_PAUSE_SECONDS = Histogram(
    "read_states_gc_pause_seconds", "pauses for garbage collection", ["generation"], buckets=FINE
)
REBALANCES = Counter(
    "read_states_rebalances_total", "assignments, revocations and losses of partitions"
)
REBALANCE_SECONDS = Histogram(
    "read_states_rebalance_seconds",
    "time to open an assigned partition, or to release a revoked partition",
    buckets=FINE,
)
GC_PAUSE_LONGEST = Gauge(
    "read_states_gc_pause_longest_seconds", "longest pause for garbage collection since the start"
)
GC_CPU_LONGEST = Gauge(
    "read_states_gc_cpu_longest_seconds",
    "largest CPU time of a single garbage collection since the start",
)
QUERIES_WAITING = Gauge(
    "read_states_queries_waiting",
    "queries waiting for a load, for an update, or for their partition to open",
)
PARKED_UPDATES = Gauge(
    "read_states_parked_updates",
    "updates held back until their users are loaded",
    ["partition"],
)
PARKED_BYTES = Gauge("read_states_parked_bytes", "bytes of the parked updates", ["partition"])
INBOX_BYTES = Gauge(
    "read_states_inbox_bytes", "bytes of updates that are read but not yet folded", ["partition"]
)
DEAD_LETTERS_BYTES = Gauge(
    "read_states_dead_letters_waiting_bytes",
    "bytes of dead letters that the broker has not yet acknowledged",
    ["partition"],
)
QUERY_BATCHES_SKIPPED = Counter(
    "read_states_query_batches_skipped_total",
    "unreadable batches of queries that were skipped",
)
REPLY_FAILURES = Counter("read_states_reply_failures_total", "replies that a broker did not accept")
DEAD_LETTER_FAILURES = Counter(
    "read_states_dead_letter_failures_total",
    "failed attempts to send a dead letter; the worker retries",
)
CHANGES = Counter("read_states_changes_total", "change feed records that a broker acknowledged")
CHANGES_BYTES = Counter(
    "read_states_changes_bytes_total", "bytes in the values of acknowledged change feed records"
)
CHANGES_FAILURES = Counter(
    "read_states_changes_failures_total",
    "change feed records that a broker did not accept; the worker sends the changes again",
)
CHANGES_LAG = Gauge(
    "read_states_changes_lag_records",
    "updates that are applied but not yet acknowledged in the change feed",
    ["partition"],
)
CHANGES_LAG_SECONDS = Gauge(
    "read_states_changes_lag_seconds",
    "age of the oldest change that is not yet acknowledged in the change feed",
    ["partition"],
)
CHANGES_WAITING = Gauge(
    "read_states_changes_waiting_users",
    "users with changes that are not yet in the change feed",
    ["partition"],
)
PROBE_REPLY_FAILURES = Counter(
    "read_states_probe_reply_failures_total", "replies to probes that a broker did not accept"
)
ROLE = Gauge("read_states_role", "1 for this worker's role, 0 for the other role", ["role"])
ROLLOUT_SHARE = Gauge(
    "read_states_rollout_share",
    "how many of 10,000 users the candidate answers, as far as this worker knows",
)
WITHHELD = Counter(
    "read_states_withheld_replies_total",
    "replies withheld because the other role (live or candidate) sends them, by outcome: shadowed "
    "= sent to the shadow topic, for comparison; shadow_failed = not accepted by that topic; "
    "released = sent to the client because the candidate stopped responding; dropped = discarded "
    "to limit memory",
    ["outcome"],
)
CLIENTS_RENEWED = Counter(
    "read_states_clients_renewed_total",
    "Kafka clients replaced because they might no longer reach a topic, by client",
    ["client"],
)
CLOCK_FAILURES = Counter(
    "read_states_clock_failures_total", "failed comparisons with a broker's clock"
)
CLOCK_OFFSET = Gauge(
    "read_states_clock_offset_seconds",
    "how far this machine's clock is ahead of the clock of the partition's leader",
    ["partition"],
)
PROBE_SECONDS = Histogram(
    "read_states_probe_seconds",
    "time from sending a probe (a worker's query to itself) to its reply",
    ["partition"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),  # few, because each partition has its own series
)
PROBE_FAILURES = Counter(
    "read_states_probe_failures_total",
    "probes that got an error or no reply in time",
    ["partition"],
)
DEVIATION = Gauge(
    "read_states_deviation",
    "1 while the named deviation from the required state of Kafka or Cassandra exists",
    ["name"],
)
STUCK = Gauge(
    "read_states_stuck", "1 while a thread or loop of the worker makes no progress", ["name"]
)
OPEN_TRANSACTION_SECONDS = Gauge(
    "read_states_open_transaction_seconds",
    "how long an open transaction has blocked the partition",
    ["topic", "partition"],
)
UPDATES_MISSING = Counter(
    "read_states_updates_missing_total", "updates that compaction removed before they were read"
)
QUERIES_GONE = Counter(
    "read_states_queries_gone_total", "queries that were deleted before they were read"
)
COMMIT_FAILURES = Counter("read_states_commit_failures_total", "failed offset commits")
TABLES_ON_DISK = Gauge(
    "read_states_tables_on_disk", "1 if the table files are on disk, 0 if they are in memory"
)
TABLES_FOLDER_BYTES = Gauge(
    "read_states_tables_folder_bytes",
    "size of the file system that holds the table files",
    ["file_system"],
)
TOPIC_PARTITIONS = Gauge("read_states_topic_partitions", "partitions of the updates topic")
SETTING = Gauge("read_states_setting", "value of a numeric setting, for use in alerts", ["name"])

PARTITION_GAUGES = (
    DURABILITY_LAG,
    DURABILITY_LAG_SECONDS,
    RESIDENT_STATES,
    RESIDENT_USERS,
    DIRTY_STATES,
    PARKED_UPDATES,
    PARKED_BYTES,
    INBOX_BYTES,
    DEAD_LETTERS_BYTES,
    CLOCK_OFFSET,
    CHANGES_LAG,
    CHANGES_LAG_SECONDS,
    CHANGES_WAITING,
)
QUERIES_ENDED = {  # cached, because `labels` costs more than `inc`
    outcome: QUERIES.labels(outcome)
    for outcome in ("hit", "miss", "expired", "error", "no_reply_address")
}
CLIENTS = (
    "replies",
    "refused-replies",
    "dead-letters",
    "clocks",
    "probe",
    "watch",
    "questions",
    "shadow",
    "rollout",
)
WITHHELD_REPLIES = {
    outcome: WITHHELD.labels(outcome)
    for outcome in ("shadowed", "shadow_failed", "released", "dropped")
}
QUERY_WAITS = {work: QUERY_WAITED_SECONDS.labels(work) for work in WORKS}
SKIPPED = {
    reason: UPDATES_SKIPPED.labels(reason)
    for reason in ("replayed", "stale", "duplicate", "deleted_user")
}
for _client in CLIENTS:
    CLIENTS_RENEWED.labels(_client)
for _outcome in ("loaded", "failed"):
    LOADS.labels(_outcome)
for _name in DEVIATIONS:
    DEVIATION.labels(_name)
for _reason in REASONS:
    DEAD_LETTERS.labels(_reason)


class CollectorPauses:
    """Times all garbage collections after this object is created.

    Pauses are wall-clock times, because queries wait that long. On a busy machine, the collecting
    thread may lose its core during a pause. The CPU time shows whether that happened.
    """

    def __init__(self) -> None:
        self._longest_s = self._longest_cpu_s = 0.0
        self._started = self._started_cpu = 0.0
        self._by_generation = [GC_PAUSE_SECONDS.labels(str(number)) for number in range(3)]
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._started, self._started_cpu = time.perf_counter(), time.thread_time()
            return
        pause_s = time.perf_counter() - self._started
        cpu_s = time.thread_time() - self._started_cpu
        if pause_s > self._longest_s:
            self._longest_s = pause_s
            GC_PAUSE_LONGEST.set(pause_s)
        if cpu_s > self._longest_cpu_s:
            self._longest_cpu_s = cpu_s
            GC_CPU_LONGEST.set(cpu_s)
        self._by_generation[info["generation"]].observe(pause_s)


def describe_worker(settings: Settings, partitions: int) -> None:
    """Export the worker's settings, its role and the topic's partition count."""
    TOPIC_PARTITIONS.set(partitions)
    for role in ROLES:
        ROLE.labels(role).set(role == settings.role)
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if isinstance(value, int | float):
            SETTING.labels(setting.name).set(value)


class OfPartition:
    """The metrics of one partition, with their labels; `forget_partition` removes the gauges."""

    def __init__(self, number: int, updates_topic: str, queries_topic: str) -> None:
        label = str(number)
        self.applied = UPDATES_APPLIED.labels(label)
        self.updates_lag = PROCESSING_LAG.labels(updates_topic, label)
        self.queries_lag = PROCESSING_LAG.labels(queries_topic, label)
        self.updates_open_s = OPEN_TRANSACTION_SECONDS.labels(updates_topic, label)
        self.queries_open_s = OPEN_TRANSACTION_SECONDS.labels(queries_topic, label)
        self.durability_lag = DURABILITY_LAG.labels(label)
        self.durability_lag_s = DURABILITY_LAG_SECONDS.labels(label)
        self.resident_states = RESIDENT_STATES.labels(label)
        self.resident_users = RESIDENT_USERS.labels(label)
        self.dirty_states = DIRTY_STATES.labels(label)
        self.parked_updates = PARKED_UPDATES.labels(label)
        self.parked_bytes = PARKED_BYTES.labels(label)
        self.inbox_bytes = INBOX_BYTES.labels(label)
        self.dead_letters_bytes = DEAD_LETTERS_BYTES.labels(label)


class FeedOfPartition:
    """The change feed metrics of one partition; unused if the feed is off."""

    def __init__(self, number: int) -> None:
        self.lag = CHANGES_LAG.labels(str(number))
        self.lag_s = CHANGES_LAG_SECONDS.labels(str(number))
        self.waiting = CHANGES_WAITING.labels(str(number))


class ProbeOfPartition:
    """The probe metrics of one partition."""

    def __init__(self, number: int) -> None:
        self.seconds = PROBE_SECONDS.labels(str(number))
        self.failures = PROBE_FAILURES.labels(str(number))


def forget_partition(number: int, updates_topic: str, queries_topic: str) -> None:
    """Remove the gauges of a partition that this worker no longer owns."""
    # Older versions of prometheus_client raise KeyError if the series does not exist.
    label = str(number)
    for gauge in PARTITION_GAUGES:
        with suppress(KeyError):
            gauge.remove(label)
    for topic in (updates_topic, queries_topic):
        for gauge in (PROCESSING_LAG, OPEN_TRANSACTION_SECONDS):
            with suppress(KeyError):
                gauge.remove(topic, label)
