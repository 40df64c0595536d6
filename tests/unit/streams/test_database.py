"""Which commits were made over another database, in both forms of the metadata."""

from __future__ import annotations

import re
from uuid import UUID

import pytest

from readstates.streams.cassandra.database import MOVED_US, Database, named_in
from readstates.streams.cassandra.epochs import Log, check_commit_of, database_id_of
from readstates.streams.worker.commits import metadata_of

ID, OTHER = UUID(int=1 << 100), UUID(int=2)
AT_US = 1_800_000_000_000_000
HERE = Database(8, ID, AT_US)
EARLIER = re.compile(r"[^;]*;([0-9]+)@([0-9]+);")  # what an earlier version looks for


@pytest.mark.parametrize(
    ("metadata", "is_other"),
    [
        (f"live:5;8@{ID};", False),
        (f"clean:5;7@{ID};", False),  # an epoch has begun since
        (f"clean:5;9@{ID};", True),  # the database was put back to a state from before that epoch
        (f"live:5;8@{OTHER};", True),
        (f"clean:5;7@{OTHER};", True),
        (f"live:5;8@{AT_US};", False),  # of an earlier version, like the next ones
        (f"live:5;8@{AT_US - 2_000_000};", False),  # the write time has moved
        (f"live:5;8@{AT_US + MOVED_US};", False),
        (f"live:5;8@{AT_US + MOVED_US + 1};", True),
        (f"live:5;8@{AT_US - MOVED_US - 1};", True),
        (f"clean:5;9@{AT_US};", True),
        ("clean:5;7@999;", False),  # an epoch has begun since
        ("clean:5;", False),  # of a version before that
        ("", False),
        (f"clean:5;8@{str(OTHER)[:-1]}", False),  # cut off: confluent-kafka reads what it likes
        ("clean:5;8@10", False),
        ("from another program", False),
    ],
)
def test_commits_of_another_database(metadata: str, is_other: bool) -> None:
    assert HERE.is_other_than(metadata) is is_other
    text = check_commit_of(metadata, Log(8, OTHER, 1, (0,), AT_US, ID), "k")
    assert bool(text) is is_other
    if is_other:
        assert f"it has ID {ID} and epoch 8, and that one had " in text


def test_a_commit_names_its_database() -> None:
    metadata = metadata_of(5, clean=False, database=HERE.name)
    assert named_in(metadata) == named_in(metadata + "more") == metadata == f"live:5;8@{ID};"
    assert named_in("live:5;;") == named_in("é") == ""
    assert not HERE.is_other_than(metadata)
    assert HERE._replace(database_id=OTHER).is_other_than(metadata)
    assert HERE._replace(database_id=None).is_other_than(metadata)


def test_an_earlier_version_reads_no_name_in_it() -> None:
    """So it takes the commit, as it takes one without a name."""
    for number in range(0, 1 << 128, (1 << 128) // 1000):
        metadata = f"live:5;{HERE._replace(database_id=UUID(int=number)).name};"
        assert EARLIER.match(metadata) is None


def test_all_topics_have_the_same_id() -> None:
    old, new = Log(8, ID, 1, (0,), 1, ID), Log(9, OTHER, 1, (0,), 2)
    assert database_id_of({"old": old, "new": new}) == ID
    assert database_id_of({"old": old, "new": new._replace(database_id=OTHER)}) == OTHER
    assert database_id_of({"new": new}) != database_id_of({}), "random"
