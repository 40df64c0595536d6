"""The procedures of ops/runbooks, carried out as printed, under a load, with a proof at the end.

`tests/support/operator.py` says what is run here for each command. A command that has no twin here
fails the test of its page. The tests run in their order on one service, as an operator's would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from readstates.streams.config import Settings
from tests.support.operator import NOT_HERE, Operator
from tests.support.procedure import Producing, Proof
from tests.support.runbook import FOLDER, blocks_of
from tests.support.service import Service
from tests.support.waiting import until

PROCEDURES = [p.stem for p in sorted(FOLDER.glob("*.md")) if p.stem[0].islower()]
PARTITIONS, MORE = 8, 16


class Running:
    """A service that was deployed by the book, with a load on it."""

    def __init__(self, operator: Operator) -> None:
        self.operator, self.partitions = operator, PARTITIONS
        settings = Settings.load(operator.service.env)
        self.load, self.proof = Producing(settings), Proof(settings, PARTITIONS)

    @contextmanager
    def proven(self) -> Iterator[Operator]:
        """Under the load; at the end, Cassandra must have what the log says."""
        before = self.load.sent
        yield self.operator
        until(lambda: self.load.sent > before + 500, "the load goes on")
        self.load.pause()
        try:
            self.proof.equal()
        finally:
            self.load.go()


@pytest.fixture(scope="module")
def running(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("procedures")
    service = Service(
        stack.env(), folder, "procedures", init=False, cache_states=30_000, user_states_max=10_000
    )
    try:
        operator = Operator(service, folder)
        operator.carry_out(*operator.blocks("deploy", count=8))
        assert "nothing is known to be wrong" in operator.said[-1]
        assert "1000" in operator.said[-2]
        made = Running(operator)
        made.load.start()
        yield made
        made.load.finish()
    finally:
        service.close()


def test_deploy(running: Running) -> None:
    with running.proven():
        pass


def test_scale(running: Running) -> None:
    with running.proven() as operator:
        (out,) = operator.blocks("scale", "Out", count=1)
        operator.carry_out(out)
        fewer, settled = operator.blocks("scale", "In", count=2)
        operator.carry_out(fewer)
        operator.settled(settled)


def test_restart(running: Running) -> None:
    with running.proven() as operator:
        before, apply, restart, wait, verify = operator.blocks("restart", count=5)
        operator.carry_out(before, apply, restart, wait)
        operator.settled(verify[:1])
        operator.carry_out(verify[1:])


@pytest.mark.long
def test_upgrade(running: Running) -> None:
    """The newer version is the same one; everything else is as printed."""
    with running.proven() as operator:
        note, apply, watch, back, *_ = operator.blocks("upgrade", count=6)
        operator.carry_out(
            note, apply, ["kubectl -n read-states rollout restart statefulset/read-states"]
        )
        operator.carry_out(watch)
        assert [operator.knows(command) for command in back] == [True]


def test_delete_user(running: Running) -> None:
    with running.proven() as operator:
        delete, verify = operator.blocks("delete-user", count=2)
        assert " in partition " in operator.carry_out(delete)

        def is_gone() -> bool:  # after FLUSH_DELAY_S
            operator.carry_out(verify)
            return operator.said[-1].split() == ["1"] and " 0 read states" in operator.said[-2]

        until(is_gone, "one row, which says that the user was deleted for good")


@pytest.mark.long
def test_large_accounts(running: Running) -> None:
    with running.proven() as operator:
        operator.carry_out(*operator.blocks("large-accounts", count=2))
        assert "in all:" in operator.said[-2]


@pytest.mark.long
def test_retention(running: Running) -> None:
    with running.proven() as operator:
        operator.carry_out(*operator.blocks("retention", count=4))
        said = operator.service.cli("init").stdout
        assert "retention.ms" not in said, "a retention that is long enough stays"


@pytest.mark.long
def test_schema(running: Running) -> None:
    with running.proven() as operator:
        _, change, verify, another = operator.blocks("schema", count=4)
        operator.carry_out(change, verify)
        operator.carry_out(another)
        operator.carry_out(["kubectl -n read-states rollout status statefulset/read-states"])


@pytest.mark.long
def test_rotate(running: Running) -> None:
    with running.proven() as operator:
        login, secret, restart, *_ = operator.blocks("rotate", "The Kafka login", count=4)
        assert "--entity-type users" in login[0]
        operator.carry_out(secret, restart)


def test_backup(running: Running) -> None:
    with running.proven() as operator:
        operator.carry_out(*operator.blocks("backup", count=2))
        assert '"epoch": 8' in (operator.folder / "backup-status.json").read_text("utf-8")
        assert (operator.folder / "backup-time").read_text("utf-8").startswith("20")


@pytest.mark.long
def test_capacity(running: Running) -> None:
    operator = running.operator
    assert "--users" in operator.carry_out(*operator.blocks("capacity", count=2))


def test_replay(running: Running) -> None:
    """With a database that is as it was an hour ago: all of it is gone."""
    with running.proven() as operator:
        stop, rewind, other, start, watch = operator.blocks("replay", count=5)
        operator.carry_out(stop)
        operator.service.cql("TRUNCATE {keyspace}.read_states")
        rewind = [line.replace("2026-03-01T04:00:00", "2020-03-01T04:00:00") for line in rewind]
        operator.carry_out(rewind)
        assert re.search(r"^[1-9]\d* records will be folded again", operator.said[-1], re.MULTILINE)
        assert len(other) == 3
        operator.carry_out(start)
        operator.carry_out(["kubectl -n read-states rollout status statefulset/read-states"])
        operator.settled(watch[:1])


def test_change_partitions(running: Running) -> None:
    with running.proven() as operator:
        durable, stop, grow, start, verify = operator.blocks("change-partitions", count=5)
        running.load.pause()
        operator.settled(durable)
        operator.carry_out(stop, grow)
        assert "epoch 9, which begins now" in operator.said[-1]
        running.proof.read()
        running.proof.begin_epoch(MORE)
        running.partitions = MORE
        init = operator.folder / "ops/kubernetes/init.yaml"
        init.write_text(init.read_text("utf-8").replace('"8"', f'"{MORE}"'), "utf-8")
        operator.carry_out(start)
        running.load.go(restarted=True)
        operator.settled(verify)


@pytest.mark.long
def test_move_to_another_kafka(running: Running, owner: Owner) -> None:
    other = owner.stack("other-kafka", brief=True)
    address = other.env()["READ_STATES_KAFKA_BOOTSTRAP"]
    with running.proven() as operator:
        durable, stop, new_epoch, start = operator.blocks("move", "Kafka", count=4)
        running.load.pause()
        operator.settled(durable)
        operator.carry_out(stop)
        running.proof.read()
        operator.service.env["READ_STATES_KAFKA_BOOTSTRAP"] = address
        operator.carry_out(new_epoch)
        assert "which begins now" in operator.said[-1]
        running.proof.begin_epoch(running.partitions, in_new_topic=True)
        running.load.settings = running.proof.settings = Settings.load(operator.service.env)
        running.load.go(restarted=True)
        operator.carry_out(start)


def test_every_command_of_a_procedure_has_a_twin_or_a_reason(running: Running) -> None:
    """Pages that were carried out above are whole; the others say here what they lack."""
    by_hand = {
        "canary": "tests/integration/test_rollout_phases.py goes through all phases",
        "servers": "one broker and one node cannot be upgraded one after the other; `make chaos` "
        "restarts three of each",
        "move": "its part about Kafka has a test above; sstableloader needs what nodetool makes",
        "restore": "tests of `readstates restore` have it",
    }
    assert set(by_hand) <= set(PROCEDURES)
    for page in PROCEDURES:
        if page in by_hand:
            continue
        for block in blocks_of(page):
            for command in block:
                assert running.operator.knows(command), f"{page}: {command}"
    assert all(NOT_HERE.values())
