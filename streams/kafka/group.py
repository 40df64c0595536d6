"""The worker's membership in the consumer group: one thread with a consumer that reads no records.

The owner of the partitions runs on the event loop. It puts commands into a queue, and the thread
takes them. The thread reports changes of ownership to the owner, in order. Each poll is short, and
the thread never blocks elsewhere, because a blocked thread would delay all messages of the group.
`ownership.py` decides which commands still count (O1-O3). `group_member.py` wraps librdkafka, and
`group_errors.py` decides what each error means.

Release. When the group revokes partitions (`Owner.revoked`), the owner continues to serve them,
hands them over, and then calls `release`. When the owner has released all revoked partitions, the
thread *lets go* of them: it tells librdkafka that the group may assign them to other members. If
the group assigns one of them to this member again, `Owner.assigned` comes only after that.

Loss. The thread learns of a loss from librdkafka, from a rejected commit, or from a new member ID.
It then reports all partitions as lost (`Owner.lost`) and creates a new consumer. The old consumer
could still count lost partitions as its own, and it reports no loss while a release is pending.

G1: The thread does not let go of a partition while a commit with its offset is under way. While the
    coordinator is unavailable, librdkafka delays commits. A commit that arrives after the release
    would overwrite the next owner's commit.
G2: Only one commit is under way at a time, so an older commit never arrives last (W2 of
    `watermark.py`).
G3: If the owner does not release within the group's rebalance timeout, the thread reports a loss,
    because the group expels such a member.
G4: After an error that needs an operator, the thread creates no new consumer. Otherwise, a worker
    that is about to end would fence another worker with the same name.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from ..config import Settings
from ..errors import GroupError
from .group_consumer import Committed, Membership, Owner, TopicPartition
from .group_errors import EXPELLED, TOPIC_GONE, Judge, Sparing, advised, is_fatal
from .group_member import Member, rebalance_timeout_s
from .group_questions import Questions
from .ownership import Ownership
from .pulse import Pulse

log = logging.getLogger(__name__)

POLL_S = 0.1  # a command waits at most this long
POLL_BUSY_S = 0.005  # replaces POLL_S for BUSY_S after a change of ownership
BUSY_S = 3.0
COMMIT_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 3.0
SILENT_MAX_S = 60.0  # a thread that is silent for longer is stuck; a turn takes under 1 s
RETRY_S, RETRY_MAX_S = 0.1, 2.0  # pause before a new consumer is created; it doubles each time


@dataclass(eq=False)
class Commit:
    """A queued commit. `heard`: the last change that the owner knew when it committed."""

    offsets: Mapping[TopicPartition, Committed]
    heard: int
    answer: asyncio.Future[bool]
    is_whole: bool = True  # False if some offsets were left out
    abandoned: bool = False  # True if the owner no longer waits


class Release(NamedTuple):
    """A queued release. `heard`: as in `Commit`."""

    numbers: Set[int]
    heard: int


class Group:
    """See the module.

    `instance_id`: the member's `group.instance.id`, or empty. The group calls `refuse` on the event
    loop with the error that ends the worker.
    """

    def __init__(
        self, settings: Settings, instance_id: str, refuse: Callable[[Exception], None]
    ) -> None:
        self._settings, self._tell_refusal = settings, refuse
        self._instance_id = instance_id
        self._questions = Questions(settings, refuse)
        self._heard = 0  # the last change that the owner knows
        self._commands: deque[Release | Commit] = deque()
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self.pulse = Pulse("group", SILENT_MAX_S, is_vital=True)
        # Only the thread uses these.
        self._member: Member | None = None
        self._ownership = Ownership()
        self._judge = Judge(settings, instance_id)
        self._commits: deque[Commit] = deque()
        self._under_way: Commit | None = None
        self._loss = ""  # why the membership is lost; `_begin_anew` handles it
        self._refused = False
        self._pause_s = RETRY_S
        self._begin_at = self._look_at = self._busy_until = 0.0  # time.monotonic()
        self._sparing = Sparing()

    # -- on the event loop; documented in `Membership` -----------------------------------------

    def start(self, owner: Owner) -> None:
        self._owner, self._loop = owner, asyncio.get_running_loop()
        self._left = self._loop.create_future()
        self._questions.warm_up()
        self._thread = threading.Thread(target=self._run, name=self.pulse.name, daemon=True)
        self._thread.start()

    def release(self, numbers: Set[int]) -> None:
        self._commands.append(Release(frozenset(numbers), self._heard))

    async def committed(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, Committed]:
        return await self._questions.committed(places)

    async def log_ranges(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        return await self._questions.log_ranges(places)

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """See `Membership`. The result is also False if some offsets were left out."""
        if self._thread is None or not self._thread.is_alive():
            return False
        commit = Commit(offsets, self._heard, self._loop.create_future())
        self._commands.append(commit)
        try:
            return await asyncio.wait_for(commit.answer, COMMIT_TIMEOUT_S)
        except TimeoutError:
            log.warning("commit_timeout partitions=%d timeout_s=%s", len(offsets), COMMIT_TIMEOUT_S)
            return False
        finally:
            commit.abandoned = True

    async def leave(self) -> None:
        self._leaving.set()
        if self._thread is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._left), LEAVE_TIMEOUT_S)
            except TimeoutError:
                log.warning("leave_group_timeout timeout_s=%s", LEAVE_TIMEOUT_S)
        self._questions.close()

    def _told(self, change: int, tell: Callable[[Set[int]], None], numbers: Set[int]) -> None:
        self._heard = change
        tell(numbers)

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._leaving.is_set():
                self.pulse.beat()
                self._turn()
        except Exception as exc:  # a bug; the worker needs this thread
            log.exception("group_thread_failed")
            self._refuse(
                GroupError(f"the group's thread died: {exc!r}. Restart the worker and report this")
            )
        finally:
            self._answer_commits()
            if self._member is not None:
                self._member.close()
            self._on_loop(self._left.set_result, None)

    def _turn(self) -> None:
        now = time.monotonic()
        if self._member is None and not self._refused and now >= self._begin_at:
            self._member = Member(self._settings, self._instance_id, self)
            self._loss = ""
        wait_s = POLL_BUSY_S if now < self._busy_until or self._ownership.pending else POLL_S
        if self._member is None:
            time.sleep(wait_s)
        elif (error := self._member.poll(wait_s)) is not None:
            self._failed(error)
        self._take_commands()
        if self._member is not None:
            self._watch(self._member)
        if self._loss and self._member is not None:
            self._begin_anew(self._member)

    def _take_commands(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, Commit):
                self._commits.append(command)
            else:
                self._ownership.release(command.numbers, command.heard)

    def _watch(self, member: Member) -> None:
        """Detect a loss, let go of released partitions, and send the next commit."""
        now, ownership = time.monotonic(), self._ownership
        if now >= self._look_at:
            self._look_at = now + member.look_s
            if member.is_expelled() and ownership.owned:
                self.on_lost("the member's ID has changed")
        if ownership.pending_for_s() > rebalance_timeout_s(self._settings):  # G3
            self.on_lost(f"partitions {sorted(ownership.pending)} were not released in time")
        if self._loss:
            return
        if ownership.may_let_go() and not self._names_pending(self._under_way):  # G1
            log.info("group_let_go partitions=%s", sorted(ownership.pending))
            member.let_go()
            ownership.let_go()
        self._send_commit(member)

    def _names_pending(self, commit: Commit | None) -> bool:
        pending = self._ownership.pending
        return commit is not None and any(place.partition in pending for place in commit.offsets)

    def _send_commit(self, member: Member) -> None:
        while self._commits and self._under_way is None:  # G2
            commit = self._commits.popleft()
            if commit.abandoned:
                continue
            kept = {
                place: value
                for place, value in commit.offsets.items()
                if self._ownership.may_commit(place.partition, commit.heard)
            }
            commit.is_whole = len(kept) == len(commit.offsets)
            if not kept:
                self._answer(commit, False)
                continue
            commit.offsets = kept
            self._under_way = commit
            try:
                member.commit(kept)
            except KafkaException as exc:
                self.on_commit([exc.args[0]])

    def _begin_anew(self, member: Member) -> None:
        """Tell the owner that all partitions are lost, and schedule a new consumer."""
        change, lost = self._ownership.lose()
        log.warning("group_lost partitions=%s why=%r", sorted(lost), self._loss)
        if lost:
            self._tell(change, self._owner.lost, lost)
        self._answer_commits()
        self._member = None
        member.retire()
        self._begin_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    def _failed(self, error: KafkaError) -> None:
        """Handle an error that a poll returned."""
        now = time.monotonic()
        code, end = self._judge.judge(error, now)
        if self._sparing.is_due(error, now):
            log.warning("group_error code=%s error=%s", error.name(), error.str())
        if end is not None:
            self._refuse(end)
        if code in TOPIC_GONE:
            self._on_loop(self._check_topic)
        if is_fatal(error):
            self.on_lost(error.str())

    # -- in the thread, called during a poll -----------------------------------------------

    def on_assigned(self, numbers: Set[int]) -> None:
        self._judge.joined()
        self._pause_s = RETRY_S
        if numbers:
            self._busy_until = time.monotonic() + BUSY_S
            log.info("group_assigned partitions=%s", sorted(numbers))
            self._tell(self._ownership.assign(numbers), self._owner.assigned, numbers)

    def on_revoked(self, numbers: Set[int]) -> None:
        self._busy_until = time.monotonic() + BUSY_S
        log.info("group_revoked partitions=%s", sorted(numbers))
        self._tell(self._ownership.revoke(numbers), self._owner.revoked, numbers)

    def on_lost(self, why: str) -> None:
        self._loss = self._loss or why

    def on_commit(self, errors: list[KafkaError]) -> None:
        if errors and self._goes_on_with_updates(errors[0]):
            return
        commit, self._under_way = self._under_way, None
        if commit is not None:
            self._answer(commit, not errors and commit.is_whole)
        for error in errors[:1]:
            if self._sparing.is_due(error, time.monotonic()):
                log.warning("commit_failed code=%s error=%s", error.name(), error.str())
            if error.code() in EXPELLED:
                self.on_lost(f"a commit was refused: {error.str()}")
            elif (
                not is_fatal(error)
                and (end := advised(self._settings, error, self._instance_id)) is not None
            ):
                self._refuse(end)

    def _goes_on_with_updates(self, error: KafkaError) -> bool:
        """Commit only the offsets of updates, if the queries topic is missing.

        librdkafka reports the error of one topic for the whole commit. The offsets of queries
        follow once the queries topic exists again. Return False if this case does not apply.
        """
        commit, member = self._under_way, self._member
        if error.code() not in TOPIC_GONE or commit is None or member is None:
            return False
        topic = self._settings.updates_topic
        updates = {place: one for place, one in commit.offsets.items() if place.topic == topic}
        if not updates or len(updates) == len(commit.offsets):
            return False
        commit.offsets = updates
        try:
            member.commit(updates)
        except KafkaException:
            return False
        return True

    def on_connection_error(self, error: KafkaError) -> None:
        if self._sparing.is_due(error, time.monotonic()):
            log.warning("group_connection code=%s error=%s", error.name(), error.str())

    # -- from the thread to the event loop -------------------------------------------------------

    def _tell(self, change: int, tell: Callable[[Set[int]], None], numbers: Set[int]) -> None:
        self._on_loop(self._told, change, tell, numbers)

    def _answer(self, commit: Commit, accepted: bool) -> None:
        self._on_loop(_resolve, commit.answer, accepted)

    def _answer_commits(self) -> None:
        """Report all queued commits as failed, because no result will arrive."""
        under_way = () if self._under_way is None else (self._under_way,)
        for commit in (*under_way, *self._commits):
            self._answer(commit, False)
        self._under_way = None
        self._commits.clear()

    def _refuse(self, error: Exception) -> None:
        if not self._refused:
            self._refused = True  # G4
            self._on_loop(self._tell_refusal, error)

    def _on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed, so nobody waits for this call
            log.debug("group_loop_closed call=%r", call)

    def _check_topic(self) -> None:
        """Check on the event loop whether the topic is gone."""
        self._checking = asyncio.ensure_future(self._questions.check_topic())
        self._checking.add_done_callback(lambda done: done.cancelled() or done.exception())


def _resolve(answer: asyncio.Future[bool], accepted: bool) -> None:
    if not answer.done():
        answer.set_result(accepted)


_implements: type[Membership] = Group
