"""What a restore folds of each epoch, and what it says is missing."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from readstates.schemas.epoch_history import Epoch, History
from readstates.streams.errors import RestoreError
from readstates.streams.restore.plan import BEFORE_BACKUP_S, Plan, Span, TopicLog, plan_of

ID, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
HOUR_MS = BEFORE_BACKUP_S * 1000
HISTORY: History = {  # two partitions, then three
    8: Epoch(8, "t", ID, 2, (0, 0), 1_000_000),
    9: Epoch(9, "t", ID, 3, (10, 20, 0), 2_000_000),
}
LOG = TopicLog(ID, (0, 0, 0), (15, 20, 7), (0, 0, 0))


def spans(plan: Plan) -> dict[int, list[tuple[int, ...]]]:
    return {part.epoch.epoch: [span[:3] for span in part.spans] for part in plan.parts}


def of(log: TopicLog, backup_ms: int | None = None, history: History = HISTORY) -> Plan:
    return plan_of(history, {"t": log}, backup_ms)


def test_each_epoch_has_its_part() -> None:
    plan = of(LOG)
    assert spans(plan) == {8: [(0, 0, 10), (1, 0, 20)], 9: [(0, 10, 15), (1, 20, 20), (2, 0, 7)]}
    assert plan.missing == ()
    assert plan.records == 10 + 20 + 5 + 7


def test_what_the_log_has_lost() -> None:
    plan = of(LOG._replace(starts=(3, 20, 2), since=(3, 20, 2)))
    assert spans(plan) == {8: [(0, 3, 10), (1, 20, 20)], 9: [(0, 10, 15), (1, 20, 20), (2, 2, 7)]}
    assert [text.split(": ")[1] for text in plan.missing] == [
        "partition 0 has lost 3 records from before offset 3",
        "partition 1 has lost 20 records from before offset 20",
        "partition 2 has lost 2 records from before offset 2",
    ]


def test_a_backup_has_the_epochs_before_its_own() -> None:
    log = LOG._replace(starts=(3, 20, 2), since=(12, 20, 4))
    plan = of(log, 2_000 + HOUR_MS)
    assert spans(plan) == {9: [(0, 12, 15), (1, 20, 20), (2, 4, 7)]}
    assert plan.missing == (), "what is gone is older than what the backup has"
    assert set(spans(of(log, 2_000 + HOUR_MS - 1))) == {8, 9}, "it may be of the epoch before"


def test_what_a_backup_may_not_have() -> None:
    """The log begins with a record that the backup may lack: so may one that is gone."""
    plan = of(LOG._replace(starts=(3, 0, 0), since=(3, 0, 0)), 1_500)
    assert [text.split(": ")[1] for text in plan.missing] == [
        "partition 0 has lost 3 records from before offset 3"
    ]


@pytest.mark.parametrize("logs", [{}, {"t": LOG._replace(topic_id=OTHER)}])
def test_a_topic_that_was_deleted(logs: dict[str, Any]) -> None:
    plan = plan_of(HISTORY, logs, None)
    assert plan.parts == ()
    assert len(plan.missing) == 2
    assert "the topic was deleted" in plan.missing[0]


def test_an_epoch_that_nobody_knows() -> None:
    history = {9: HISTORY[9]}
    plan = of(LOG, None, history)
    assert set(spans(plan)) == {9}
    assert plan.missing[0].startswith("epoch 8 is not in the history")
    assert of(LOG, 2_000 + HOUR_MS, history).missing == (), "the backup is of a later one"


def test_from_topic_to_topic_and_back() -> None:
    history = {
        8: Epoch(8, "t", ID, 2, (0, 0), 1),
        9: Epoch(9, "u", OTHER, 1, (0,), 2),
        10: Epoch(10, "t", ID, 2, (5, 6), 3),
    }
    logs = {"t": TopicLog(ID, (0, 0), (7, 8), (0, 0)), "u": TopicLog(OTHER, (0,), (9,), (0,))}
    assert spans(plan_of(history, logs, None)) == {
        8: [(0, 0, 5), (1, 0, 6)],
        9: [(0, 0, 9)],
        10: [(0, 5, 7), (1, 6, 8)],
    }


def test_an_open_transaction_in_an_epoch_that_is_over() -> None:
    with pytest.raises(RestoreError, match="partition 0 cannot be read beyond offset 9"):
        of(LOG._replace(ends=(9, 20, 7)))
    assert Span(0, 1, 2).missing == 0
