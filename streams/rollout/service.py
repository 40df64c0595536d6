"""Runs a worker's part in a rollout alongside its other services."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mode import Service

from ..config import Settings
from ..errors import EndedError
from ..kafka.delivery import Delivery
from ..kafka.pulse import Pulse
from ..kafka.reply_producer import ReplyProducer
from ..worker.owned import OwnedPartition
from .beats import Beats
from .follower import Follower


class RolloutService(Service):  # type: ignore[misc]
    """Follows the shares; sends `beats` if the worker is of a candidate.

    Faust stops it before the service that was added earlier, which closes the producers.
    """

    def __init__(
        self, follower: Follower, beats: Beats | None, refuse: Callable[[Exception], None]
    ) -> None:
        super().__init__()
        self._follower, self._beats, self._refuse = follower, beats, refuse

    async def on_start(self) -> None:
        self._follower.start()

    async def on_stop(self) -> None:
        self._follower.stop()
        if self._beats is not None:
            self._beats.stop()

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        """Of the thread, and of the loop of beats, if there is one."""
        own = (self._follower.pulse,)
        return own if self._beats is None else (*own, self._beats.pulse)

    @Service.task  # type: ignore[untyped-decorator]
    async def _beat(self) -> None:
        if self._beats is None:
            return
        try:
            await self._beats.run()
        finally:
            if not self.should_stop:
                self._refuse(EndedError("the loop of beats has ended"))


def rollout_of(
    settings: Settings,
    replies: ReplyProducer,
    delivery: Delivery,
    owned: Mapping[int, OwnedPartition],
    name: str,
    run: str,
    refuse: Callable[[Exception], None],
) -> RolloutService:
    """Follows which role sends which replies; a candidate also says what it answers.

    `name`: of the worker. `run`: of a candidate; empty for a live worker.
    """
    follower = Follower(settings, replies, refuse, run)
    beats = Beats(settings, delivery, follower, owned, name) if run else None
    return RolloutService(follower, beats, refuse)
