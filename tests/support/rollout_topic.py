"""The topic of candidates, without Kafka: what a command would read there, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from readstates.schemas.rollout import Candidate, decode_rollout, names_in
from readstates.streams.config import Settings
from readstates.streams.errors import RolloutError
from readstates.streams.kafka import rollout_topic
from readstates.streams.kafka.rollout_topic import Rollouts
from readstates.streams.rollout import control

READS_MAX = 500  # of a test: a watch that does not end would read for ever


class Topic:
    """`fails`: how many of the next writes the brokers refuse. `on_read` is called by each read."""

    def __init__(self, *candidates: Candidate) -> None:
        self.candidates = {one.group: one for one in candidates}
        self.written: list[Candidate | None] = []
        self.fails = self._reads = 0
        self.on_read: Callable[[], None] = lambda: None

    def read(self, _settings: Settings) -> Rollouts:
        self._reads += 1
        assert self._reads < READS_MAX, "the command does not end"
        self.on_read()
        return Rollouts(dict(self.candidates), {}, len(self.written))

    def write(self, _settings: Settings, records: Iterable[tuple[bytes, bytes | None]]) -> int:
        if self.fails:
            self.fails -= 1
            raise RolloutError("the brokers do not answer")
        for key, value in records:
            group, _ = names_in(key)
            self.candidates.pop(group, None)
            record = None if value is None else decode_rollout(key, value)
            assert record is None or isinstance(record, Candidate)
            if record is not None:
                self.candidates[group] = record
            self.written.append(record)
        return len(self.written)

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        """Commands use it instead of Kafka's from now on."""
        for module in (control, rollout_topic):
            patch.setattr(module, "read_rollouts", self.read)
            patch.setattr(module, "write_rollouts", self.write)
