"""Errors of the consumer group, which aiokafka leaves to whoever polls next.

aiokafka keeps an error of its group coordinator for the next `getmany` and stands still until then.
Faust never calls that: the worker would stay alive, outside the group, for ever. Here each error is
answered at once:

- What a person must mend ends the worker, saying what to do.
- After anything else the membership is forgotten and the group joined anew.
- FENCED_INSTANCE_ID is unknown to aiokafka, it says UnknownError. A coordinator that moved to
  another broker may know an older member of our INSTANCE_ID than we are; joining anew replaces it.
  But if it comes again and again, another process works under our INSTANCE_ID, and this one ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from aiokafka import errors
from readstates.streams.config import Settings
from readstates.streams.errors import GroupError

log = logging.getLogger(__name__)

RETRY_S = 0.5
UNKNOWN_MAX = 4  # answers that aiokafka does not know, within UNKNOWN_WITHIN_S
UNKNOWN_WITHIN_S = 60.0
ADVICE: dict[type[BaseException], str] = {
    errors.GroupAuthorizationFailedError: "it may not use this group: give it the right Read on "
    "the group, see SECURITY.md",
    errors.TopicAuthorizationFailedError: "it may not read the topics: the rights that a worker "
    "needs are in SECURITY.md",
    errors.InvalidSessionTimeoutError: "SESSION_TIMEOUT_S is outside what the brokers allow: look "
    "at their group.min.session.timeout.ms and group.max.session.timeout.ms",
    errors.InconsistentGroupProtocolError: "the group has members of another kind: set another "
    "KAFKA_GROUP",
    errors.InvalidGroupIdError: "KAFKA_GROUP is not a name that Kafka takes",
}


class GroupErrors:
    """Answers the errors of one consumer's group coordinator. `refuse` ends the worker."""

    def __init__(
        self, settings: Settings, coordinator: Any, refuse: Callable[[Exception], None]
    ) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._refuse = refuse
        self._unknown: deque[float] = deque(maxlen=UNKNOWN_MAX)
        coordinator._push_error_to_user = self.answer
        coordinator._coordination_task.add_done_callback(self._ended)

    async def answer(self, exc: BaseException) -> None:
        """In the place of aiokafka's wait for a user who polls."""
        log.warning("group_error error=%r", exc)
        advice = ADVICE.get(type(exc)) or self._fenced(exc)
        if advice:
            self._refuse(GroupError(f"group {self._settings.kafka_group}: {advice} ({exc!r})"))
        await asyncio.sleep(RETRY_S)
        self._coordinator.reset_generation()  # and joins again

    def _fenced(self, exc: BaseException) -> str:
        if type(exc) is not errors.KafkaError:  # a connection, a broker that is away, …
            return ""
        now = time.monotonic()
        full = len(self._unknown) == UNKNOWN_MAX
        again = full and now - self._unknown[0] < UNKNOWN_WITHIN_S
        self._unknown.append(now)
        if not again:
            return ""
        return (
            f"it puts this worker out again and again: is another process at work under the "
            f"INSTANCE_ID {self._settings.instance_id!r}? Each worker needs its own"
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The coordinator's task ends at a shutdown only; without it there is no group."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._refuse(
                GroupError(f"the consumer's group task died: {exc!r}. Start the worker again")
            )
