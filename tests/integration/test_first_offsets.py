"""Records of an earlier epoch are not folded again, whoever asks for it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from readstates.ops.local.worker import WorkerProcess
from readstates.streams.cassandra.store import Store
from readstates.streams.commands.status_printing import NOTHING_WRONG
from readstates.streams.config import Settings
from readstates.streams.errors import EpochError
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, encode, new_user, partition_of

MORE = 6
GROW = ("init", "--partitions", str(MORE), "--new-epoch")
CHANNEL = 7  # that of Wire.mention_all


@pytest.fixture
def service(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    made = Service(stack.env(), folder, request.node.name.removeprefix("test_")[:24])
    yield made
    made.close()


def run_until_durable(service: Service, partitions: int) -> None:
    """A worker folds and writes out all that there is, and leaves without its tables."""
    worker = service.start()
    worker.wait_ready()
    service.wait_durable(service.wire.ends(service.wire.updates, partitions))
    assert worker.stop() == 0
    shutil.rmtree(service.env["READ_STATES_CACHE_DIR"])


def two_epochs(service: Service) -> list[int]:
    """Mentions of sixty users in four partitions, and one more in six; their first offsets."""
    wire, users = service.wire, [new_user() for _ in range(60)]
    for message in (1, 2):
        wire.mention_all(users, message)
    run_until_durable(service, PARTITIONS)
    first = [*wire.ends(wire.updates), *[0] * (MORE - PARTITIONS)]
    done = service.cli(*GROW)
    assert done.returncode == 0, done.stderr
    wire.mention_all(users, 3)
    run_until_durable(service, MORE)
    assert {row[4] for row in wire.rows.all().values()} == {3}
    return first


def refusal(worker: WorkerProcess) -> str:
    until(lambda: worker.returncode is not None, "the worker ends", 2 * WAIT_S)
    assert worker.returncode == 1
    return worker.output()


def test_from_before_a_change(service: Service) -> None:
    wire, first = service.wire, two_epochs(service)
    rows, ends = wire.rows.all(), wire.ends(wire.updates, MORE)

    # the command refuses, whatever way it is asked, and moves nothing
    for to in (
        ("--to-time", "2000-01-01"),
        ("--partition", "0", "--to-offset", str(first[0] - 1)),
    ):
        refused = service.cli("rewind", *to)
        assert refused.returncode == 1, refused.stdout
        assert f"{wire.updates} partition 0: epoch 9 (since 20" in refused.stderr
        assert f"begins at offset {first[0]}, and you ask for" in refused.stderr
        assert "readstates rewind --to-epoch-start" in refused.stderr
    assert service.committed(MORE) == ends

    # commits that were moved by hand: the worker refuses and changes nothing
    service.commit_by_hand([0] * MORE)
    said = refusal(service.start())
    assert "commit before the epoch: the group's commit is 0, but epoch 9 begins at" in said
    assert "readstates rewind --to-epoch-start" in said
    assert wire.rows.all() == rows
    assert service.committed(MORE) == [0] * MORE
    assert wire.dead_letters() == []
    problems = json.loads(service.cli("status", "--json").stdout)["problems"]
    assert [p for p in problems if "partition 0: commit before the epoch: " in p]
    assert not [p for p in problems if "Kafka lost" in p]

    # as far back as it goes, which is right however often it is done
    for before in ([0] * MORE, ends):
        done = service.cli("rewind", "--to-epoch-start")
        assert done.returncode == 0, done.stderr
        assert service.committed(MORE) == first
        again = sum(max(0, b - f) for b, f in zip(before, first, strict=True))
        assert f"{again} records will be folded again" in done.stdout
        run_until_durable(service, MORE)
        assert wire.rows.all() == rows
    assert wire.dead_letters() == []

    # without a commit a partition begins where the epoch does, not where the log does
    wire.admin.delete_consumer_groups([service.group])[service.group].result(WAIT_S)
    run_until_durable(service, MORE)
    assert wire.rows.all() == rows
    assert wire.dead_letters() == []


def test_resend_from_before_a_change(service: Service) -> None:
    """Dead letters of a version that folded the old records again."""
    wire, first = service.wire, two_epochs(service)
    wire._producer.list_topics(wire.updates)  # or it would not know of the new partitions
    mention = {"type": "mention", "channel_id": str(CHANNEL), "message_id": "2"}
    moved = next(u for u in iter(new_user, 0) if partition_of(u) != partition_of(u, MORE))
    number = partition_of(moved)
    stray = new_user()
    place = wire.produce(stray, mention, partition=(partition_of(stray, MORE) + 1) % MORE)
    for partition, offset in ((number, first[number] - 1), (number, first[number] - 2)):
        headers = {"reason": "misrouted", "topic": wire.updates, "partition": partition}
        named = [(k, str(v).encode()) for k, v in {**headers, "offset": offset}.items()]
        key, value = str(moved).encode(), encode(moved, mention)
        wire.send(wire.dead_letters_topic, key, value, named)
    run_until_durable(service, MORE)
    assert wire.dead_letter(place).reason == "misrouted"

    before = wire.ends(wire.updates, MORE)
    done = service.cli("dead-letters", "resend", "--reason", "misrouted", "--yes")
    assert (done.returncode, done.stdout) == (0, "sent 1\n"), done.stderr
    assert "2 left where they are: before the epoch 2" in done.stderr
    assert "2 misrouted are from before epoch 9" in done.stderr
    before[partition_of(stray, MORE)] += 1
    assert wire.ends(wire.updates, MORE) == before, "the one that was never applied"

    # one that its producer had misrouted before the change, too: by its place
    chosen = ("--partition", str(number), "--offset", str(first[number] - 1))
    done = service.cli("dead-letters", "resend", "--yes", *chosen)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = service.cli("dead-letters", "resend", "--yes", "--force", *chosen)
    assert (done.returncode, done.stdout) == (0, "sent 1\n"), done.stderr


def forget_first_offsets(service: Service) -> None:
    """As an earlier version, which had no history of epochs, left the keyspace and the topics."""
    service.cql("ALTER TABLE {keyspace}.log DROP first_offsets")
    service.cql("DROP TABLE {keyspace}.epochs")
    service.lose_epochs_topic()


def test_an_epoch_of_an_earlier_version(service: Service) -> None:
    """Its row has no first offsets, and its table no such column."""
    wire, first = service.wire, two_epochs(service)
    rows, ends = wire.rows.all(), wire.ends(wire.updates, MORE)
    forget_first_offsets(service)
    for command in (("status",), ("rewind", "--to-epoch-start"), ("dead-letters", "resend")):
        done = service.cli(*command)
        assert done.returncode == 1
        assert "readstates init" in done.stdout + done.stderr
    said = refusal(service.start())
    assert "first_offsets" in said
    assert "from an earlier version. Run: readstates init" in said

    # everything below a commit is durable: what the group has committed is never too small
    done = service.cli("init")
    assert done.returncode == 0, done.stderr
    assert "epoch 9" in done.stdout
    assert service.first_offsets() == ends
    assert service.cli("rewind", "--to-time", "2000-01-01").returncode == 1
    run_until_durable(service, MORE)

    # nothing is committed, and the epoch began when records did: nobody but the operator knows
    forget_first_offsets(service)
    wire.admin.delete_consumer_groups([service.group])[service.group].result(WAIT_S)
    done = service.cli("init")
    assert done.returncode == 1
    assert f"one of 0 … {ends[0]} of partition 0" in done.stderr
    assert f"readstates init --first-offsets {','.join(['0'] * MORE)}" in done.stderr
    said = refusal(service.start())
    assert "did not keep its first offsets" in said
    assert "Run: readstates init" in said
    problems = json.loads(service.cli("status", "--json").stdout)["problems"]
    assert [p for p in problems if "does not say at which offsets epoch 9" in p]
    for wrong in ("1,2", f"{ends[0] + 1},0,0,0,0,0"):
        assert service.cli("init", "--first-offsets", wrong).returncode == 1

    given = ",".join(map(str, first))
    for _ in range(2):
        done = service.cli("init", "--first-offsets", given)
        assert done.returncode == 0, done.stderr
        assert service.first_offsets() == first
    refused = service.cli("init", "--first-offsets", "0,0,0,0,0,0")
    assert refused.returncode == 1
    assert f"begins at other offsets, {given}" in refused.stderr
    worker = service.start()
    worker.wait_ready()
    service.wait_durable(ends)
    assert wire.rows.all() == rows
    text = service.cli("status")
    assert (text.returncode, text.stdout.splitlines()[-1]) == (0, NOTHING_WRONG)


def test_an_earlier_version_begins_an_epoch_later_on(stack: Stack) -> None:
    """It leaves the first offsets of the epoch before, in the same row."""
    keyspace = {"READ_STATES_CASSANDRA_KEYSPACE": "it_left_behind"}
    store = Store(Settings.load({**stack.env(), **keyspace}))
    first, second = uuid.uuid4(), uuid.uuid4()
    try:
        store.create_schema()
        store.claim_epoch("t", uuid.uuid4(), 2)
        log = store.claim_epoch("t", first, 2, new_epoch_from=[5, 6])
        assert log[:4] == (9, first, 2, (5, 6))
        earlier = "UPDATE it_left_behind.log SET epoch = 10, topic_id = %s, partitions = 2 "
        store.execute(earlier + "WHERE topic = 't' IF epoch = 9", (second,), WAIT_S)
        assert store.logs()["t"][:4] == (10, second, 2, ())
        with pytest.raises(EpochError, match="did not keep its first offsets"):
            store.claim_epoch("t", second, 2)
        store.keep_first_offsets("t", 9, [1, 1])
        assert store.logs()["t"].first_offsets == (), "of an epoch that is over"
        store.keep_first_offsets("t", 10, [0, 0])
        assert store.claim_epoch("t", second, 2).first_offsets == (0, 0)
    finally:
        store.close()
