"""Faust's consumer as a `GroupConsumer`: the methods that the worker calls, in its own types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from faust.types import TP

from .group_consumer import Committed, GroupConsumer, TopicPartition
from .query_reader import QueryReader

V = TypeVar("V")


class GroupMembership:
    """A part of `transport.Consumer`; `GroupConsumer` documents what each method promises."""

    rebalancing = False
    queries: QueryReader
    app: Any  # these four are Faust's
    _thread: Any
    assignment: Any
    stop_flow: Any

    @property
    def generation(self) -> int:
        return int(self.app.consumer_generation_id)

    def assigned(self) -> set[TopicPartition]:
        return {TopicPartition(tp.topic, tp.partition) for tp in self.assignment()}

    async def committed(
        self, places: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, Committed]:
        return _by_place(await self._thread.committed(_tps(places)))

    async def log_starts(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return _by_place(await self._thread.earliest_offsets(*_tps(places)))

    async def log_ends(self, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return _by_place(await self._thread.highwaters(*_tps(places)))

    async def commit_offsets(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        return bool(await self._thread.commit(offsets))

    def updates_end(self, number: int) -> int | None:
        place = TP(self.app.read_states_settings.updates_topic, number)
        end: int | None = self._thread.readable_end(place)
        return end

    def queries_end(self, number: int) -> int | None:
        return self.queries.end(number)

    def stop_delivery(self) -> None:
        self.stop_flow()
        self.app.flow_control.suspend()
        self.queries.stop_reading()

    def close_queries(self) -> None:
        self.queries.close()


if TYPE_CHECKING:
    _implements: type[GroupConsumer] = GroupMembership


def _tps(places: Iterable[TopicPartition]) -> list[TP]:
    return [TP(*place) for place in places]


def _by_place(values: Mapping[TP, V]) -> dict[TopicPartition, V]:
    return {TopicPartition(tp.topic, tp.partition): value for tp, value in values.items()}
