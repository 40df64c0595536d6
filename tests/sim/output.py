"""The output of a worker: replies, errors and dead letters. The checks see all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from readstates.schemas.headers import ReplyAddress
from readstates.schemas.replies import encode_error

if TYPE_CHECKING:
    from .worker import Worker
    from .world import World

REPLIES = "read-states.replies.a"
LATE_REPLIES = "read-states.replies.late"  # made in the middle of the run
DEAD_LETTER_RETRY_S = 0.2


class Replies:
    """As `ReplyProducer` of readstates.streams.kafka, without a broker."""

    def __init__(self, world: World, worker: Worker) -> None:
        self._world = world
        self._worker = worker
        self._topics = {REPLIES}

    def allowed(self, topic: str, _is_probe: bool = False) -> bool:
        return self._world.plan.settings.reply_topic_pattern.fullmatch(topic) is not None

    def exists(self, address: ReplyAddress, _is_probe: bool = False) -> bool:
        return address.topic in self._topics

    async def refresh(self) -> None:
        await asyncio.sleep(0.1)
        if self._world.clock.now > self._world.plan.late_topic_s:
            self._topics.add(LATE_REPLIES)

    def reply(
        self,
        address: ReplyAddress,
        key: bytes | None,
        body: bytes,
        _deadline_ms: int,
        _partition: int = 0,
    ) -> None:
        self._worker.may_die()
        self._world.checks.replied(self._worker, address, key, body)
        self._worker.may_die()

    def error(
        self,
        address: ReplyAddress,
        key: bytes | None,
        user_id: int | None,
        code: str,
        text: str,
        limit: int | None = None,
        deadline_ms: int = 0,
        partition: int = 0,
    ) -> None:
        self.reply(address, key, encode_error(user_id, code, text, limit), deadline_ms, partition)


class DeadLetters:
    """As `DeadLetterProducer` of readstates.streams.kafka, without a broker."""

    def __init__(self, world: World, worker: Worker) -> None:
        self._world = world
        self._worker = worker

    def send(self, record: Any, partition: int, reason: str, kept: Callable[[], None]) -> None:
        """Tried until the broker has it; it may have it and not say so."""
        self._worker.may_die()
        loop, world = self._worker.loop, self._world
        fails = world.chance(world.plan.letter_fails)
        if not fails or world.noise.random() < 0.3:
            world.checks.dead_letter(record, reason)
        if fails:
            loop.call_later(DEAD_LETTER_RETRY_S, self.send, record, partition, reason, kept)
        else:
            loop.call_later(world.delay(), kept)
