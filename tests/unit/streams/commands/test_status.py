"""What `readstates status` calls wrong, and what it calls well."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from readstates.streams.commands.status_asking import (
    UNKNOWN,
    KafkaStatus,
    LogStatus,
    Member,
    PartitionStatus,
)
from readstates.streams.commands.status_judging import problems_of
from readstates.streams.commands.status_printing import NOTHING_WRONG, Status, json_of, text_of
from readstates.streams.config import Settings

SETTINGS = Settings()
LOG = LogStatus(8, "id", 2, SETTINGS.updates_topic, "2026-01-02T03:04:05", (0, 0))


def one(number: int) -> PartitionStatus:
    return PartitionStatus(number, 1, "w", 0, 10, 7, "live:9", 1, 5, 5)


def kafka() -> KafkaStatus:
    return KafkaStatus("id", "STABLE", [Member("w", "c", "h", None, [0, 1])], [one(0), one(1)])


def found(state: KafkaStatus | None, log: LogStatus | None = LOG) -> list[str]:
    return list(problems_of(SETTINGS, state, log))


def test_nothing_is_wrong() -> None:
    assert found(kafka()) == []


def test_a_partition_that_was_never_committed_is_well() -> None:
    fresh = kafka()
    fresh.partitions[0] = PartitionStatus(0, 1, "w", 0, 0, None, "", 1, 0, None)
    assert found(fresh) == []


def test_lag_is_what_is_not_committed_and_unknown_without_a_commit() -> None:
    fresh = PartitionStatus(0, 1, "w", 0, 0, None, "", 1, 0, None)
    assert (fresh.updates_lag, one(1).updates_lag, one(1).queries_lag) == (None, 3, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leader": None}, "updates partition 0 has no leader"),
        ({"queries_leader": None}, "queries partition 0 has no leader"),
        ({"owner": None}, "partition 0 has no owner"),
        ({"committed": 11}, "outside the log, 0 … 10"),
        ({"log_start": 8}, "outside the log, 8 … 10"),
        ({"newest_query_age_ms": -1_500}, "1.5 s in the future by this machine's clock"),
        ({"newest_query_age_ms": 61_000}, "61 s old, but its owner sends one every 10 s"),
    ],
)
def test_a_partition(change: dict[str, Any], said: str) -> None:
    state = kafka()
    state.partitions[0] = replace(state.partitions[0], **change)
    (problem,) = found(state)
    assert said in problem


@pytest.mark.parametrize("age_ms", [-900, 0, 59_000])
def test_clocks_that_agree(age_ms: int) -> None:
    state = kafka()
    state.partitions[0].newest_query_age_ms = age_ms
    assert found(state) == []


def test_without_an_owner_nobody_compares_clocks() -> None:
    state = kafka()
    state.partitions[0].owner, state.partitions[0].newest_query_age_ms = None, 10**9
    (problem,) = found(state)
    assert "has no owner" in problem


def test_a_group_that_rebalances() -> None:
    state = kafka()
    state.group_state = "PREPARING_REBALANCING"
    assert "partitions are moving" in found(state)[0]


def test_a_group_without_members() -> None:
    state = kafka()
    state.group_state, state.members = "EMPTY", []
    assert "no worker is running" in found(state)[0]


def test_owners_that_kafka_does_not_tell_are_not_called_missing() -> None:
    state = kafka()
    state.group_state, state.members, state.partitions[0].owner = UNKNOWN, [], None
    assert found(state) == []


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (LogStatus(), "was never written from"),
        (LogStatus(last_topic="other.updates"), "was never written from"),
        (replace(LOG, topic_id="other"), "topic ID id and 2 partitions, but"),
        (replace(LOG, partitions=3), "with 3: workers refuse"),
        (replace(LOG, last_topic="other.updates"), "last written from other.updates"),
        (replace(LOG, first_offsets=()), "does not say at which offsets epoch 8"),
    ],
)
def test_the_database(log: LogStatus, said: str) -> None:
    (problem,) = found(kafka(), log)
    assert said in problem


@pytest.mark.parametrize("log_start", [0, 7, 9])
def test_a_commit_before_the_epoch(log_start: int) -> None:
    """Whatever is left of the log below the epoch: it is not that Kafka lost something."""
    state, epoch = kafka(), replace(LOG, first_offsets=(7, 8))
    for place in state.partitions:
        place.log_start = log_start
    problems = [problem for problem in found(state, epoch) if "partition 1" in problem]
    (problem,) = problems
    assert "partition 1: commit before the epoch: the committed offset is 7, but epoch 8" in problem
    assert "begins at offset 8" in problem
    assert "ReadStatesPartitionUnowned.md" in problem
    # of another log, or of an epoch of which nothing is known, it says nothing
    for other in (replace(epoch, topic_id="other"), replace(epoch, first_offsets=())):
        assert not [one for one in found(state, other) if "before the epoch" in one]


@pytest.mark.parametrize(
    ("written_to", "is_other"),
    [
        (f"live:9;8@{UUID(int=1)};", False),
        (f"live:9;8@{UUID(int=2)};", True),
        ("live:9;8@5;", False),
        ("live:9;8@3600000005;", True),
        ("", False),
    ],
)
def test_commits_over_another_database(written_to: str, is_other: bool) -> None:
    state = kafka()
    state.partitions[1].written_to = written_to
    epoch = replace(LOG, began_us=5, database_id=str(UUID(int=1)))
    problems = [one for one in found(state, epoch) if "deviation database_replaced: " in one]
    assert bool(problems) is is_other
    if is_other:
        assert "partition 1 were made over another database" in problems[0]


def test_the_id_is_shown() -> None:
    epoch = replace(LOG, database_id=str(UUID(int=1)))
    assert f": ID {UUID(int=1)}, epoch 8 since" in "\n".join(
        text_of(SETTINGS, Status(None, epoch, []))
    )


def test_first_offsets_are_strings_in_json() -> None:
    body = json.loads(json_of(Status(None, replace(LOG, first_offsets=(7, 8)), [])))
    assert body["cassandra"]["first_offsets"] == ["7", "8"]


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"owner": None}, "partitions 0-2, 4 have no owner: updates and queries wait"),
        ({"leader": None}, "updates partitions 0-2, 4 have no leader: a broker is away"),
        ({"queries_leader": None}, "queries partitions 0-2, 4 have no leader: a broker is away"),
    ],
)
def test_what_partitions_lack_together_is_said_once(lacking: dict[str, Any], said: str) -> None:
    state = kafka()
    state.partitions = [one(number) for number in range(5)]
    for number in (0, 1, 2, 4):
        state.partitions[number] = replace(state.partitions[number], **lacking)
    (problem,) = found(state, replace(LOG, partitions=5, first_offsets=(0,) * 5))
    assert problem.endswith(said)


@pytest.mark.parametrize(
    ("written_to", "said"),
    [
        ("live:9;8@5;", "the owners are catching up"),
        ("", "somebody moved the commits back, as `readstates rewind` does"),
    ],
)
def test_a_partition_that_is_behind_is_not_called_well(written_to: str, said: str) -> None:
    state = kafka()
    for place in state.partitions:
        place.overdue, place.written_to = 1_000_000, written_to
    (problem,) = found(state, replace(LOG, began_us=5))
    assert "partitions 0-1: 2000000 updates are more than 67 s old" in problem
    assert said in problem


def test_what_is_young_may_be_uncommitted() -> None:
    state = kafka()
    state.partitions[0].overdue = 0
    assert found(state) == []


@pytest.mark.parametrize(
    ("unseen_s", "said"),
    [
        (10.0, "A worker that died within the last 10 s (SESSION_TIMEOUT_S) still counts"),
        (None, "A worker that died within the brokers' group.consumer.session.timeout.ms still"),
    ],
)
def test_it_says_how_long_a_dead_worker_counts(unseen_s: float | None, said: str) -> None:
    state = kafka()
    state.death_unseen_s = unseen_s
    assert said in "\n".join(text_of(SETTINGS, Status(state, LOG, [])))
    assert json.loads(json_of(Status(state, LOG, [])))["kafka"]["death_unseen_s"] == unseen_s
    state.members = []
    assert "died" not in "\n".join(text_of(SETTINGS, Status(state, LOG, [])))


def test_what_was_met_while_asking_is_told() -> None:
    state = kafka()
    state.problems.append("met")
    assert found(state) == ["met"]


def test_a_part_that_is_away_is_judged_by_nothing() -> None:
    assert found(None) == []
    assert found(kafka(), None) == []


def test_a_part_that_is_away_leaves_the_other_on_the_screen() -> None:
    text = "\n".join(text_of(SETTINGS, Status(None, LOG, ["Kafka: gone"])))
    assert "epoch 8" in text
    assert "PROBLEM Kafka: gone" in text


def test_a_part_that_is_away_is_null_in_json() -> None:
    assert '"kafka": null' in json_of(Status(None, LOG, ["Kafka: gone"]))


def test_it_says_what_it_looked_at_and_what_not() -> None:
    *_, last = text_of(SETTINGS, Status(kafka(), LOG, []))
    assert last == NOTHING_WRONG
    for word in ("group", "topics", "epoch", "latency", "dead letters", "metrics"):
        assert word in last


def test_what_is_not_committed_is_called_so() -> None:
    lines = list(text_of(SETTINGS, Status(kafka(), LOG, [])))
    (head,) = (line for line in lines if line.lstrip().startswith("partition"))
    (row,) = (line for line in lines if line.split()[0] == "0")
    end = head.index("not committed") + len("not committed")
    assert row[:end].split()[-1] == str(one(0).updates_lag) == "3"


def test_no_control_character_of_a_client_reaches_the_terminal() -> None:
    state = kafka()
    state.members[0].client_id = state.partitions[0].metadata = "\x1b[2J"
    lines = list(text_of(SETTINGS, Status(state, LOG, ["\x1b"])))
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("log", [replace(LOG, epoch=None), LOG])
def test_a_database_that_is_older_than_the_log(log: LogStatus) -> None:
    state = kafka()
    state.last_epoch = 9
    (problem,) = found(state, log)
    assert "of which epoch 9 is known" in problem
    assert problem.endswith("Stop them and run: readstates restore")
    state.last_epoch = log.epoch or 0
    assert not [one for one in found(state, log) if "restore" in one]
