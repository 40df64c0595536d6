"""The history of epochs in Cassandra: the table `epochs`, to which rows are only added.

The table `log` says which epoch is the present one; its rows change. So each epoch is copied to
`epochs` after it was claimed, and before the next one is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from readstates.schemas.epoch_history import Epoch, History

from ..errors import SchemaMissingError, StoreError
from .driver import is_invalid_request
from .epochs import Log, database_id_of
from .store import PATIENCE_S, Store


def epochs_of(logs: Mapping[str, Log]) -> History:
    """The epochs that the table `log` knows; those without first offsets are left out."""
    return {
        log.epoch: Epoch(
            log.epoch, topic, log.topic_id, log.partitions, log.first_offsets, log.began_us
        )
        for topic, log in logs.items()
        if log.first_offsets
    }


def read_table(store: Store) -> History:
    """The epochs that the table has, by number.

    Raises StoreError; SchemaMissingError if an earlier version made the keyspace.
    """
    table = f"{store.settings.cassandra_keyspace}.epochs"
    query = f"SELECT epoch, topic, topic_id, partitions, first_offsets, began_us FROM {table}"
    try:
        rows = store.execute(query, (), PATIENCE_S)
    except StoreError as exc:
        if not is_invalid_request(exc.__cause__):
            raise
        raise SchemaMissingError(f"{table} is missing. Run: readstates init") from exc
    return {
        int(epoch): Epoch(int(epoch), topic, topic_id, partitions, tuple(firsts), began_us)
        for epoch, topic, topic_id, partitions, firsts, began_us in rows
    }


def write_table(store: Store, epochs: Iterable[Epoch]) -> None:
    """Add epochs to the table. Raises StoreError."""
    for epoch in epochs:
        store.execute(
            f"INSERT INTO {store.settings.cassandra_keyspace}.epochs "
            "(epoch, topic, topic_id, partitions, first_offsets, began_us) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            (*epoch[:4], list(epoch.first_offsets), epoch.began_us),
            PATIENCE_S,
        )


def adopt(store: Store, history: Mapping[int, Epoch]) -> None:
    """Make the keyspace's present epochs those of the history, for a database that was older.

    The last epoch of each topic is set by a lightweight transaction, and none goes back. Raises
    StoreError.
    """
    logs = store.logs(PATIENCE_S)
    database_id = database_id_of(logs)
    last = {epoch.topic: epoch for _, epoch in sorted(history.items())}
    for topic, epoch in last.items():
        known = logs.get(topic)
        if known is not None and known.epoch >= epoch.epoch:
            continue
        store.execute(
            f"UPDATE {store.settings.cassandra_keyspace}.log SET epoch = %s, topic_id = %s, "
            "partitions = %s, first_offsets = %s, database_id = %s WHERE topic = %s IF epoch = %s",
            (
                epoch.epoch,
                epoch.topic_id,
                epoch.partitions,
                list(epoch.first_offsets),
                database_id,
                topic,
                known and known.epoch,
            ),
            PATIENCE_S,
        )
