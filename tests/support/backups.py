"""Backups of a keyspace, and the fold of a log with several epochs."""

from __future__ import annotations

from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from readstates.ops.proof.oracle import Oracle
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings

from .service import Service
from .waiting import WAIT_S

TABLES = ("read_states", "log", "epochs")
VERSION = "version"  # the column of read_states whose value is every write time


class Table(NamedTuple):
    """The rows of a table, as a snapshot has them."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


Backup = dict[str, Table]


def take_backup(service: Service) -> Backup:
    """All tables of the keyspace, with what their rows were written at."""
    settings = Settings.load(service.env)
    store = Store(settings)
    try:
        backup = {}
        for name in TABLES:
            found = store.execute(f"SELECT * FROM {settings.cassandra_keyspace}.{name}", (), WAIT_S)
            backup[name] = Table(list(found.column_names), list(map(tuple, found)))
        return backup
    finally:
        store.close()


def put_back(service: Service, backup: Backup) -> None:
    """The keyspace as it was: nothing that was written since is there."""
    service.cql("DROP KEYSPACE {keyspace}")
    settings = Settings.load(service.env)
    store = Store(settings)
    try:
        store.create_schema()
        for name, (columns, rows) in backup.items():
            into = f"INSERT INTO {settings.cassandra_keyspace}.{name} ({', '.join(columns)}) "
            into += f"VALUES ({', '.join(['%s'] * len(columns))})"
            for row in rows:
                values = tuple(list(v) if isinstance(v, tuple) else v for v in row)
                at = f" USING TIMESTAMP {row[columns.index(VERSION)]}" if VERSION in columns else ""
                store.execute(into + at, values, WAIT_S)
    finally:
        store.close()


def fold_of(service: Service, epochs: list[tuple[int, tuple[int, ...]]]) -> Oracle:
    """The whole log in the oracle: each record with the version of its epoch.

    `epochs`: the number and the first offsets of each, as the test itself has seen them.
    """
    records: list[tuple[int, int, int, bytes | None, bytes | None]] = []
    partitions = len(epochs[-1][1])
    ends = service.wire.ends(service.wire.updates, partitions)
    consumer = Consumer({"bootstrap.servers": service.wire.bootstrap, "group.id": "fold"})
    consumer.assign([TopicPartition(service.wire.updates, n, 0) for n in range(partitions)])
    try:
        while len(records) < sum(ends):
            for message in consumer.consume(1000, 1.0):
                assert message.error() is None, message.error()
                number, offset = message.partition() or 0, message.offset() or 0
                epoch = max(
                    epoch
                    for epoch, firsts in epochs
                    if number < len(firsts) and firsts[number] <= offset
                )
                records.append((epoch, number, offset, message.key(), message.value()))
    finally:
        consumer.close()
    oracle = Oracle(int(service.env["READ_STATES_USER_STATES_MAX"]))
    for epoch, _number, offset, key, value in sorted(records, key=lambda one: one[:3]):
        oracle.apply(key, value, offset, epoch=epoch)
    return oracle


def differences(service: Service, oracle: Oracle) -> list[str]:
    """How Cassandra differs from the fold."""
    expected = {(user, *row[:2]): row for user in oracle.users for row in oracle.stored(user)}
    assert expected
    found = service.wire.rows.all()
    return [
        f"{key}: Cassandra has {found.get(key)}, the fold {expected.get(key)}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]
