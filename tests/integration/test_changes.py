"""What a worker checked at its start changes while it runs: it notices, says so, and decides.

`streams/deviations.py` has the decisions. Each test makes one change on a real stack. Most workers
look more often than usual; that of the first test does not.
"""

from __future__ import annotations

import os
import signal
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from readstates.ops.local.worker import WorkerProcess
from tests.support.service import LOOKING_OFTEN, Make, Service
from tests.support.topic_settings import set_topic
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user, partition_of

ACK = {"type": "ack", "channel_id": "1", "message_id": "1"}
LONG_S = 90.0  # the broker's cleaner, or the watch and a shutdown after it
COMMIT_FAILURES = "read_states_commit_failures_total"
GONE_S = 12.0  # longer than any client's timer: nobody makes a topic anew in between


def ended(worker: WorkerProcess) -> str:
    """What a worker said that had to end by itself."""
    until(lambda: worker.returncode is not None, "the worker ends", LONG_S)
    said = worker.output()
    assert worker.returncode == 1
    assert "Traceback" not in said, said
    assert "AssertionError" not in said, said
    return said


def deviations(service: Service) -> set[str]:
    """Those that the worker's metrics show."""
    prefix = "read_states_deviation{name="
    found = service.workers[-1].metrics().items()
    return {key[len(prefix) : -1] for key, value in found if key.startswith(prefix) and value}


def problems(service: Service) -> str:
    """What `readstates status` finds."""
    return service.cli("status").stdout


def noticed(service: Service, name: str, *said: str) -> None:
    """The worker shows the deviation and says what to do, and so does the status."""
    until(lambda: name in deviations(service), f"{name} is shown", LONG_S)
    lines = service.workers[-1].output().splitlines()
    (line,) = (each for each in lines if f"deviation name={name} " in each)
    for text in said:
        assert text in line
    assert f"PROBLEM deviation {name}: " in problems(service)


def over(service: Service, name: str) -> None:
    until(lambda: name not in deviations(service), f"{name} is over", LONG_S)
    assert f"deviation_over name={name}" in service.workers[-1].output()
    assert f"deviation {name}" not in problems(service)


def test_updates_deleted(services: Make) -> None:
    service = services("deleted")
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.get(user, after_offset=wire.produce_update(user, ACK))
    wire.admin.delete_topics([wire.updates])[wire.updates].result(WAIT_S)
    said = ended(worker)
    assert wire.updates in said
    time.sleep(GONE_S)
    assert wire.updates not in wire.topics(), "nobody made it by asking for it"
    again = service.start()
    assert "see updates_deleted" in ended(again)


def test_queries_deleted_and_made_anew(services: Make) -> None:
    """Also with more records than the position: none of them is passed over."""
    service = services("anew", module=LOOKING_OFTEN)
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.get(user, after_offset=wire.produce_update(user, ACK))
    wire.admin.delete_topics([wire.queries])[wire.queries].result(WAIT_S)
    noticed(service, "queries_deleted", wire.queries, "Run: readstates init")
    assert service.cli("init", "--partitions", str(PARTITIONS)).returncode == 0
    over(service, "queries_deleted")
    reply = until(lambda: wire.query(user, timeout_s=2), "a reply", LONG_S)
    assert [state["channel_id"] for state in reply.states] == ["1"]
    assert worker.returncode is None


def test_commits_of_updates_count_without_the_queries_topic(services: Make) -> None:
    service = services("uncommitted")
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.get(user, after_offset=wire.produce_update(user, ACK))
    wire.admin.delete_topics([wire.queries])[wire.queries].result(WAIT_S)
    until(lambda: wire.queries not in wire.topics(), "the topic is gone")
    failures = worker.metrics()[COMMIT_FAILURES]
    for message in range(2, 5):
        wire.produce_update(user, {**ACK, "message_id": str(message)})
        service.wait_durable(wire.ends(wire.updates))
    noticed(service, "queries_deleted", wire.queries)
    assert worker.metrics()[COMMIT_FAILURES] == failures
    assert worker.stop() == 0


def test_queries_that_expired_meanwhile(services: Make) -> None:
    service = services("expired", session_timeout_s=30)
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.get(user)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            wire.ask(user)
        number = partition_of(user)
        place = TopicPartition(wire.queries, number, wire.ends(wire.queries)[number])
        wire.admin.delete_records([place])[place].result(WAIT_S)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    wire.get(user)
    said = worker.output()
    assert f"queries_gone topic={wire.queries} partition={number}" in said
    assert "CRITICAL" not in said
    assert worker.stop() == 0


def test_partitions_raised_on_queries_only(services: Make) -> None:
    service = services("uneven_later", module=LOOKING_OFTEN)
    wire, user = service.wire, new_user()
    service.start().wait_ready()
    more = [NewPartitions(wire.queries, PARTITIONS + 2)]
    wire.admin.create_partitions(more)[wire.queries].result(WAIT_S)
    noticed(service, "queries_partitions", f"{wire.queries} {PARTITIONS + 2}", "--new-epoch")
    assert wire.query(user, partition=partition_of(user)) is not None, "the others are served"


def test_settings_of_topics(services: Make) -> None:
    service = services("settings", module=LOOKING_OFTEN)
    wire = service.wire
    service.start().wait_ready()
    set_topic(wire, wire.updates, cleanup_policy="compact", retention_ms="1000")
    set_topic(wire, wire.queries, message_timestamp_type="CreateTime")
    set_topic(wire, wire.dead_letters_topic, min_insync_replicas="2", retention_bytes="-1")
    names = {"cleanup_policy", "retention", "timestamp_type", "min_isr", "retention_bytes"}
    until(lambda: deviations(service) == names, "all of them", LONG_S)
    for name in names:
        noticed(service, name, "Set it with: readstates init")
    assert service.cli("init", "--partitions", str(PARTITIONS)).returncode == 0
    until(lambda: not deviations(service), "none", LONG_S)


def test_an_open_transaction(services: Make) -> None:
    service = services("open_transaction", module=LOOKING_OFTEN)
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    number = partition_of(user)
    producer = Producer({"bootstrap.servers": wire.bootstrap, "transactional.id": "left-open"})
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce(wire.updates, b"{}", b"1", partition=number)
    assert producer.flush(WAIT_S) == 0
    offset = wire.produce_update(user, ACK)
    refused = wire.query(user, {"after_offset": str(offset)})
    assert refused is not None
    assert refused.error == "not_caught_up"
    noticed(service, "open_transaction", f"{wire.updates} partition {number} ", "find-hanging")
    labels = f"{{partition={number},topic={wire.updates}}}"
    found = worker.metrics()
    assert found[f"read_states_open_transaction_seconds{labels}"] > 0
    assert found[f"read_states_processing_lag_records{labels}"] == 2
    producer.abort_transaction(WAIT_S)
    over(service, "open_transaction")
    assert wire.get(user, after_offset=offset).states
    gauge = f"read_states_processing_lag_records{labels}"
    until(lambda: worker.metrics()[gauge] == 0, "no lag")


def test_compaction_of_updates(services: Make) -> None:
    """While no worker runs: the policy is right again when one starts."""
    service = services("compacted", module=LOOKING_OFTEN)
    wire, user = service.wire, new_user()
    number = partition_of(user)
    set_topic(
        wire,
        wire.updates,
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.0",
        max_compaction_lag_ms="100",
    )
    for message in range(1, 13):
        event = {"type": "mention", "channel_id": "7", "message_id": str(message)}
        wire.produce_update(user, event)
        time.sleep(0.15)
    left = until(lambda: n if (n := records_of(service, number)) < 12 else 0, "a gap", LONG_S)
    set_topic(
        wire,
        wire.updates,
        cleanup_policy="delete",
        segment_ms=None,
        min_cleanable_dirty_ratio=None,
        max_compaction_lag_ms=None,
    )
    left = records_of(service, number)
    said = ended(service.start())
    assert f"deviation updates_missing: {wire.updates} partition {number}: updates 0 …" in said
    assert "MISSING_UPDATES=count" in said
    service.start(missing_updates="count").wait_ready()
    reply = wire.get(user, after_offset=11)
    assert [state["mention_count"] for state in reply.states] == [left]
    assert service.metric("read_states_updates_missing_total") == 12 - left
    until(lambda: "updates_missing" in deviations(service), "it is shown", LONG_S)


def records_of(service: Service, number: int) -> int:
    """How many records a partition of updates has."""
    consumer = Consumer({"bootstrap.servers": service.wire.bootstrap, "group.id": "count"})
    place = TopicPartition(service.wire.updates, number, 0)
    consumer.assign([place])
    try:
        _, end = consumer.get_watermark_offsets(place, WAIT_S)
        count, at = 0, 0
        while at < end:
            message = consumer.poll(WAIT_S)
            assert message is not None
            count, at = count + 1, message.offset() + 1
        return count
    finally:
        consumer.close()


def drop_and_make(service: Service) -> None:
    service.cql("DROP KEYSPACE {keyspace}")
    make_anew(service)


def make_anew(service: Service) -> None:
    """The command does this only where nobody knows of the keyspace that was there before."""
    refused = service.cli("init", "--partitions", str(PARTITIONS))
    assert refused.returncode == 1
    assert "readstates restore" in refused.stderr
    service.lose_epochs_topic()
    assert service.cli("init", "--partitions", str(PARTITIONS)).returncode == 0


def test_keyspace_made_anew_before_a_start(services: Make) -> None:
    service = services("emptied")
    wire, user = service.wire, new_user()
    worker = service.start()
    worker.wait_ready()
    wire.produce_update(user, ACK)
    service.wait_durable(wire.ends(wire.updates))
    assert worker.stop() == 0
    drop_and_make(service)
    said = ended(service.start(cache_dir=service.folder / "another"))
    assert "is another database than the one" in said
    assert "PROBLEM deviation database_replaced: " in problems(service)
    done = service.cli("rewind", "--to-epoch-start")
    assert done.returncode == 0, done.stderr
    service.start(cache_dir=service.folder / "another").wait_ready()
    assert wire.get(user).states, "the log was folded into the new one"
    assert "database_replaced" not in problems(service)


def test_keyspace_dropped_and_made_anew_under_a_worker(services: Make) -> None:
    service = services("emptied_later", module=LOOKING_OFTEN)
    wire, resident, other = service.wire, new_user(), new_user()
    worker = service.start()
    worker.wait_ready()
    wire.get(resident, after_offset=wire.produce_update(resident, ACK))
    service.wait_durable(wire.ends(wire.updates))
    service.cql("DROP KEYSPACE {keyspace}")
    refused = wire.query(other)
    assert refused is not None
    assert refused.error == "store_unavailable"
    until(lambda: "database_missing" in deviations(service), "it is shown", LONG_S)
    assert worker.get("/readyz")[0] == 503
    assert wire.get(resident).states
    make_anew(service)
    refused = wire.query(other)
    assert refused is None or refused.error == "store_unavailable", refused.value
    said = ended(worker)
    assert "deviation database_replaced: " in said
    assert "is another database than the one" in ended(service.start())
