"""Errors of the consumer group, which aiokafka leaves to the next poll.

aiokafka keeps an error of its group coordinator for the next `getmany` and does nothing until then.
Faust never calls it: the worker would stay alive, outside the group, for ever. Here each error is
handled at once:

- An error that a person must correct ends the worker, which says what to do.
- After any other error the worker forgets its membership and joins the group anew. That also
  repairs the case of a coordinator that moved to another broker and knows an older member with the
  same INSTANCE_ID (FENCED_INSTANCE_ID, which aiokafka does not know and reports as UnknownError).
- If the group expels a member repeatedly, two processes have the same INSTANCE_ID and replace each
  other several times per second. The first one to notice ends, or both do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from aiokafka import errors

from ..config import Settings
from ..errors import GroupError, SharedNameError

log = logging.getLogger(__name__)

RETRY_S = 0.5
EXPELLED_MAX = 8  # times that the group may expel a static member within EXPELLED_WITHIN_S
EXPELLED_WITHIN_S = 30.0
ONE_EXPULSION_S = 0.2  # every request under way reports one; within this time it counts once
ADVICE: dict[type[BaseException], str] = {
    errors.GroupAuthorizationFailedError: "this worker is not allowed to use the group: give it "
    "the right Read on the group, see SECURITY.md",
    errors.TopicAuthorizationFailedError: "this worker is not allowed to read the topics: the "
    "rights that a worker needs are in SECURITY.md",
    errors.InvalidSessionTimeoutError: "SESSION_TIMEOUT_S is outside what the brokers allow: look "
    "at their group.min.session.timeout.ms and group.max.session.timeout.ms",
    errors.InconsistentGroupProtocolError: "the group has members of another kind: set another "
    "KAFKA_GROUP",
    errors.InvalidGroupIdError: "KAFKA_GROUP is not a name that Kafka accepts",
}


class GroupErrors:
    """Handles the errors of one consumer's group coordinator. `refuse` ends the worker.

    `instance_id`: the member's name; empty if it has none.
    """

    def __init__(
        self,
        settings: Settings,
        instance_id: str,
        coordinator: Any,
        refuse: Callable[[Exception], None],
    ) -> None:
        self._settings = settings
        self._instance_id = instance_id
        self._coordinator = coordinator
        self._refuse = refuse
        self._expelled: deque[float] = deque(maxlen=EXPELLED_MAX)  # when, by time.monotonic()
        self._reset = coordinator.reset_generation
        coordinator.reset_generation = self._on_expelled
        coordinator._push_error_to_user = self.answer
        coordinator._coordination_task.add_done_callback(self._ended)

    async def answer(self, exc: BaseException) -> None:
        """Handle an error at once, where aiokafka would wait for the next poll."""
        log.warning("group_error error=%r", exc)
        advice = ADVICE.get(type(exc))
        if advice:
            self._refuse(GroupError(f"group {self._settings.kafka_group}: {advice} ({exc!r})"))
        await asyncio.sleep(RETRY_S)
        self._coordinator.reset_generation()  # and joins again

    def _on_expelled(self) -> None:
        """Note that the membership is lost; aiokafka joins again."""
        self._reset()
        now = time.monotonic()
        if not self._instance_id or (self._expelled and now - self._expelled[-1] < ONE_EXPULSION_S):
            return
        self._expelled.append(now)
        if len(self._expelled) == EXPELLED_MAX and now - self._expelled[0] < EXPELLED_WITHIN_S:
            self._refuse(
                SharedNameError(
                    f"group {self._settings.kafka_group} has put this worker out {EXPELLED_MAX} "
                    f"times within {EXPELLED_WITHIN_S:g} s: another process is using the "
                    f"INSTANCE_ID {self._instance_id!r}. Each worker needs its own"
                )
            )

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the worker if the coordinator's task failed: without it there is no group."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._refuse(
                GroupError(f"the consumer's group task died: {exc!r}. Start the worker again")
            )
