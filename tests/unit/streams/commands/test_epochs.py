"""Where an epoch begins, how far back a commit may go, and what is known of an older epoch."""

from __future__ import annotations

import uuid

import pytest
from click.testing import CliRunner

from readstates.streams.cassandra.epochs import Log, is_last, last_topic, present_log
from readstates.streams.cli import main
from readstates.streams.commands.new_epoch import Around
from readstates.streams.commands.rewind import Step, step_of
from readstates.streams.errors import EpochError, RewindError

ID, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
LOG = Log(9, ID, 2, (10, 0), 1_800_000_000_999_999)
LOGS = {"new": LOG, "old": Log(8, OTHER, 2, (0, 0), 1)}


def test_when_it_began() -> None:
    assert LOG.said == "epoch 9 (since 2027-01-15T08:00:00 UTC)"


def test_the_largest_epoch_counts() -> None:
    assert last_topic({}) is None
    assert last_topic(LOGS) == "new"
    assert is_last(LOGS, "new", ID, 2)
    assert not is_last(LOGS, "old", OTHER, 2)
    assert not is_last(LOGS, "new", OTHER, 2)
    assert not is_last(LOGS, "new", ID, 4)
    assert not is_last({}, "new", ID, 2)
    assert present_log(LOGS, "new", ID, 2, "k") == LOG


@pytest.mark.parametrize(
    ("logs", "name", "said"),
    [
        ({}, "new", "k was never written .* Run: readstates init$"),
        (LOGS, "old", "old has topic .* k was last written from new, .*init --new-epoch$"),
        ({"new": LOG._replace(partitions=4)}, "new", "with 4 partitions"),
        ({"new": LOG._replace(first_offsets=())}, "new", "did not keep .* Run: readstates init$"),
    ],
)
def test_a_log_that_is_not_known(logs: dict[str, Log], name: str, said: str) -> None:
    with pytest.raises(EpochError, match=said):
        present_log(logs, name, ID if name == "new" else OTHER, 2, "k")


@pytest.mark.parametrize(
    ("before", "wanted", "start", "after"),
    [
        (30, 20, 0, 20),
        (30, 10, 0, 10),  # exactly the epoch's first
        (30, None, 0, 10),
        (30, None, 15, 15),  # the log begins later than the epoch
        (30, 30, 0, None),
        (30, 40, 0, None),  # never forward
        (30, -1, 0, None),  # no record is as late as that
        (-1, 20, 0, None),  # no commit
        (-1, None, 0, None),
        (3, None, 0, 10),  # somebody put it below the epoch
        (3, None, 15, 15),
        (3, 20, 0, 10),  # nobody knows how far it was: no further than the epoch's first
    ],
)
def test_how_a_commit_moves(before: int, wanted: int | None, start: int, after: int | None) -> None:
    expected = None if after is None else Step(0, before, after)
    assert step_of("t", 0, before, wanted, start, LOG) == expected


@pytest.mark.parametrize(
    ("number", "wanted", "start", "said"),
    [
        (0, 9, 0, r"t partition 0: epoch 9 \(since .*\) begins at offset 10, and you ask for 9"),
        (0, 0, 20, "begins at offset 10, and you ask for 0"),  # though the log has no more of it
        (0, 12, 20, "t partition 0 begins at offset 20: earlier records are gone"),
        (1, 0, 1, "t partition 1 begins at offset 1"),
    ],
)
def test_where_a_commit_may_not_go(number: int, wanted: int, start: int, said: str) -> None:
    with pytest.raises(RewindError, match=said):
        step_of("t", number, 30, wanted, start, LOG)


@pytest.mark.parametrize(
    ("low", "high", "committed", "first"),
    [
        (10, 10, -1, 10),  # no record is near that time: it is known
        (10, 10, 30, 10),
        (10, 14, 30, 14),  # too large by four at most, which leaves nothing out
        (10, 14, 12, 12),
        (10, 14, 10, 10),
        (10, 14, 3, 14),  # moved there by hand: of no use, and a worker will refuse it
        (10, 14, -1, None),
        (0, 0, -1, 0),
        (0, 4, 0, 0),
    ],
)
def test_where_an_earlier_version_began(
    low: int, high: int, committed: int, first: int | None
) -> None:
    assert Around(low, high, 40, committed).first == first


def test_what_an_operator_may_say() -> None:
    assert Around(10, 14, 40, -1).may_be(40)
    assert not Around(10, 14, 40, -1).may_be(41)
    assert Around(10, 14, 40, 30).may_be(30)
    assert not Around(10, 14, 40, 30).may_be(31), "31 would be left out"
    assert Around(10, 14, 40, 3).may_be(12), "that commit was moved by hand"


@pytest.mark.parametrize("given", ["", "a", "1,", "1,-2", f"{1 << 48}", "1.5", "1 2"])
def test_offsets_that_are_none(given: str) -> None:
    done = CliRunner().invoke(main, ["init", "--first-offsets", given])
    assert done.exit_code == 2
    assert "expected an offset for each partition" in done.output


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--to-epoch-start", "--to-time", "2026-01-01"),
        ("--to-epoch-start", "--to-offset", "3", "--partition", "0"),
        ("--to-offset", "3"),
        ("--to-offset", "-1", "--partition", "0"),
    ],
)
def test_rewind_wants_one_place(options: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["rewind", *options]).exit_code == 2


def test_first_offsets_of_an_epoch_that_is_yet_to_begin() -> None:
    done = CliRunner().invoke(main, ["init", "--new-epoch", "--first-offsets", "1"])
    assert done.exit_code == 2
    assert "leave --new-epoch out" in done.output


def test_the_future_cannot_be_rewound_to() -> None:
    """Not even in local time: `0 records` would look like a success."""
    done = CliRunner().invoke(main, ["rewind", "--to-time", "2999-01-01T00:00:00"])
    assert done.exit_code == 2
    assert "2999-01-01T00:00:00 is in the future" in done.output
    assert "in UTC, not in local time" in done.output
