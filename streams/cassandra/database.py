"""Tells a database from another one, so that a keyspace that was replaced is noticed.

A keyspace has a random ID. It is written with its first epoch by one lightweight transaction, so
all workers that start at once read the same ID. Later epochs keep it, and so does a backup. An
earlier version began epochs without an ID: whoever claims such an epoch first adds one, again by a
lightweight transaction.

The metadata of each commit of updates names the epoch and this ID. An earlier version named the
epoch and its row's write time, in µs. That time is not always the same: Cassandra may propose a
lightweight transaction again, with a later time, when others are under way. So a time that differs
by up to MOVED_US counts as the same. A database that was made anew is noticed by its time if the
time differs by more, and by its ID from the first commit of a worker of this version on.
"""

from __future__ import annotations

import re
import uuid
from typing import NamedTuple

NAMED = re.compile(
    r"(?:clean|live):[0-9]+;([0-9]+)@([0-9]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12});"
)
MOVED_US = 60_000_000  # a client gives a transaction up after 10 s, and repeats it for 30 s


class Database(NamedTuple):
    """A keyspace, as far as it can be told from another."""

    epoch: int
    database_id: uuid.UUID | None  # None if only an earlier version claimed the epoch
    written_us: int  # the write time of the epoch's row, by Cassandra's clock, µs since 1970

    @property
    def name(self) -> str:
        """The name in commits."""
        return f"{self.epoch}@{self.database_id}"

    @property
    def said(self) -> str:
        """The database in an error's text."""
        return f"ID {self.database_id} and epoch {self.epoch}"

    def is_other_than(self, metadata: str) -> bool:
        """True if a commit with this metadata was made over another database.

        An epoch may have begun since the commit. A commit without the name of a database, such as
        one that `readstates rewind` made, may be of any.
        """
        found = NAMED.match(metadata)
        if found is None:
            return False
        epoch, named = int(found[1]), found[2]
        if named.isdecimal():
            moved_us = abs(int(named) - self.written_us)
            return epoch > self.epoch or (epoch == self.epoch and moved_us > MOVED_US)
        return epoch > self.epoch or named != str(self.database_id)


def named_in(metadata: str) -> str:
    """The part of a commit's metadata that names the database; empty if there is none."""
    found = NAMED.match(metadata)
    return found[0] if found else ""


def said_in(metadata: str) -> str:
    """The database that a commit names, in an error's text."""
    found = NAMED.match(metadata)
    assert found is not None
    what = f"a write time of {found[2]} µs" if found[2].isdecimal() else f"ID {found[2]}"
    return f"{what} and epoch {found[1]}"


def another_database(keyspace: str, now: str, before: str) -> str:
    """The text if updates are committed that this keyspace may not have."""
    return (
        f"{keyspace} is another database than the one that the group's updates were written to: it "
        f"has {now}, and that one had {before}. It was dropped and made anew, or CASSANDRA_HOSTS "
        "leads to another cluster. Users would seem to have no read states, so the worker stops "
        "and changes nothing. Set CASSANDRA_HOSTS right, or restore the database: see "
        "ops/runbooks/restore.md"
    )
