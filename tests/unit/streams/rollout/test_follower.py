"""The thread that follows the shares, with a topic and a clock that the test holds in its hand."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.schemas.rollout import (
    SHARE_MAX,
    Beat,
    Candidate,
    encode_beat,
    encode_candidate,
)
from readstates.streams.config import Settings
from readstates.streams.errors import RolloutError
from readstates.streams.rollout import view
from readstates.streams.rollout.follower import CONFIRM_S, POLL_S, Follower
from readstates.streams.rollout.view import GRACE_S, LOST_S, UNREAD_MAX_S

RUN, OTHER_RUN = "0123456789abcdef", "f" * 16
CANDIDATE = Candidate("b", SHARE_MAX, True, RUN)
AWAY = KafkaError(KafkaError._TRANSPORT)
Record = tuple[bytes, bytes | None]


class Message:
    """As confluent-kafka gives it."""

    def __init__(self, offset: int, record: Record | None, error: int = 0) -> None:
        self._offset, self._record, self._error = offset, record or (b"", None), error

    def error(self) -> KafkaError | None:
        return KafkaError(self._error) if self._error else None

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._record[0]

    def value(self) -> bytes | None:
        return self._record[1]


class Replies:
    """In place of a ReplyProducer."""

    def __init__(self) -> None:
        self.split: Any = None
        self.withheld = self
        self.released: list[tuple[str, set[int]]] = []

    def release(self, group: str, partitions: Any) -> None:
        self.released.append((group, set(partitions)))

    def forget_old(self) -> None: ...

    def sends(self, partition: int = 1) -> bool:
        return self.split is None or self.split.withheld(b"42", partition) is None


class World:
    """A follower and its topic. Each poll takes POLL_S and what is in the topic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *records: Record, run: str = "") -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        settings = Settings(kafka_group="b", role="candidate") if run else Settings()
        self.log: list[Record] = list(records)
        self.replies = cast(Any, Replies())
        self.refused: list[Exception] = []
        self.follower = Follower(settings, self.replies, self.refused.append, run)
        monkeypatch.setattr(self.follower, "_consumer", lambda: self)
        self.next, self.is_away = 0, False
        self.error: int | None = None
        self.plan: list[Any] = []  # what is done before each of the next polls

    # -- as a consumer

    def list_topics(self, name: str, timeout: float) -> Any:
        error = None if self.error is None else KafkaError(self.error)
        return SimpleNamespace(topics={name: SimpleNamespace(error=error)})

    def get_watermark_offsets(self, _place: Any, timeout: float) -> tuple[int, int]:
        if self.is_away:
            raise KafkaException(AWAY)
        return 0, len(self.log)

    def assign(self, _places: Any) -> None: ...

    def poll(self, timeout: float) -> Message | None:
        self.now += timeout
        if not self.plan:
            self.follower.stop()
            return None
        step = self.plan.pop(0)
        if step is not None:
            step()
        if self.is_away or self.next == len(self.log):
            return None
        self.next += 1
        return Message(self.next - 1, self.log[self.next - 1])

    def consume(self, _most: int, _timeout: float) -> list[Message]:
        return []

    def close(self) -> None: ...

    # -- by hand

    def follow(self, *plan: Any) -> bool:
        """Poll so often, and then stop."""
        self.plan, consumer = list(plan), cast(Any, self)
        return self.follower._follow(consumer)

    def beat(self, follows: int | None = None) -> None:
        known = len(self.log) if follows is None else follows
        self.log.append(encode_beat(Beat("b", "w", known, frozenset({1, 2}))))

    def wait(self, seconds: float) -> list[None]:
        return [None] * int(seconds / POLL_S + 1)


@pytest.fixture
def seen() -> list[bool]:
    """What a plan has looked at."""
    return []


def test_a_live_worker_leaves_users_to_a_candidate_that_beats(
    monkeypatch: pytest.MonkeyPatch, seen: list[bool]
) -> None:
    monkeypatch.setattr(view, "GRACE_S", 0)
    before = encode_beat(Beat("b", "w", 1, frozenset({1})))
    world = World(monkeypatch, encode_candidate(CANDIDATE), before)
    sends = world.replies.sends
    world.follow(None, None, lambda: seen.append(sends()), world.beat, None)
    assert seen == [True], "a beat from before says nothing"
    assert not sends(1)
    assert sends(3)


def test_silence_counts_only_while_the_topic_can_be_read(
    monkeypatch: pytest.MonkeyPatch, seen: list[bool]
) -> None:
    world = World(monkeypatch, encode_candidate(CANDIDATE))
    sends = world.replies.sends
    world.follow(
        None, world.beat, *world.wait(LOST_S + 2 * CONFIRM_S), lambda: seen.append(sends())
    )
    assert seen == [True]
    assert world.replies.released == [("b", {1, 2})]

    world = World(monkeypatch, encode_candidate(CANDIDATE))
    sends = world.replies.sends

    def goes_away() -> None:
        world.is_away = True

    world.follow(
        *(None, world.beat, goes_away),
        *world.wait(UNREAD_MAX_S - 1), lambda: seen.append(sends()),
        *world.wait(1.5), lambda: seen.append(sends()),
    )  # fmt: skip
    assert seen[1:] == [False, True], "S3"


def test_a_candidate_sends_nothing_before_it_has_read_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, encode_candidate(CANDIDATE), run=RUN)
    assert not world.replies.sends()
    changes: list[int] = []
    world.follower.changed = lambda: changes.append(world.follower.follows)
    world.follow(None, None, None)
    assert world.replies.sends()
    assert changes == [1], "one beat is sent at once"
    assert world.refused == []


@pytest.mark.parametrize(
    "record", [(b"b", None), encode_candidate(CANDIDATE._replace(run=OTHER_RUN))]
)
def test_a_candidate_whose_run_has_ended_goes_on_for_a_moment_and_ends(
    monkeypatch: pytest.MonkeyPatch, seen: list[bool], record: Record
) -> None:
    world = World(monkeypatch, encode_candidate(CANDIDATE), run=RUN)
    world.follow(
        *(None, lambda: world.log.append(record), None),
        *world.wait(GRACE_S - 4 * POLL_S), lambda: seen.append(bool(world.refused)),
        *world.wait(GRACE_S),
    )  # fmt: skip
    assert seen == [False]
    (error,) = world.refused
    assert isinstance(error, RolloutError)
    assert "has ended" in str(error)


def test_without_the_topic_there_is_nothing_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.error = KafkaError.UNKNOWN_TOPIC_OR_PART
    assert world.follow() is False
    world.error = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException):
        world.follow()
    assert world.replies.split is None


def test_a_record_that_cannot_be_read_ends_nothing_but_its_own_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "GRACE_S", 0)
    other = Candidate("c", SHARE_MAX, True, RUN)
    world = World(monkeypatch, encode_candidate(other), encode_candidate(CANDIDATE), (b"b", b"{"))
    record = encode_beat(Beat("c", "w", 3, frozenset({1})))
    world.follow(None, None, None, lambda: world.log.append(record), None)
    assert not world.replies.sends(1)
    assert world.replies.split.withheld(b"42", 1).group == "c"
