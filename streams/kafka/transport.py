"""A Faust transport that delivers a whole poll as one event instead of one event per message.

Stock Faust makes four tasks, a lock and two sensor calls for each message, and a message takes
several iterations of the event loop; this transport pays that once for each poll. It overrides only
these parts of Faust:

- `_fetch_records` returns updates as one `Poll`: a `Batch` of each partition. A batch has the
  partition's position before and after it, so that the offsets it skips (control records, aborted
  transactions) are explained, and any other gap is noticed (`BatchGapError`).
- Back-pressure leaves any partition whose inbox is full out of the next poll; its records stay in
  the fetcher's buffer. Faust's own pause drops batches in the middle of a poll.
- The rebalance hooks hand partitions over before they are revoked, and seek to the tables'
  positions after partitions are assigned. `streams/worker/rebalance.py` does the work.
- Commits carry metadata, are bounded in time, and report failure as False.
- Queries are not fetched here but read by `streams/kafka/query_reader.py`, in the same group.
- Errors of the group are handled (`streams/kafka/group.py`), which Faust does not do.
- On shutdown the consumer leaves the group of its own accord, so that the other members need not
  wait for the end of its session.

`streams/kafka/group_membership.py` has the methods that the worker calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import aiokafka
import faust
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from ..errors import ReadStatesError
from ..partition.batch import Batch, Poll, Skipped
from . import fetched_records, unpack
from .group import GroupErrors
from .group_consumer import Committed, TopicPartition
from .group_membership import GroupMembership
from .outside_log import lost_updates
from .query_reader import PARTITION_FETCH_BYTES, UNPACKED_BYTES_MAX, QueryReader

log = logging.getLogger(__name__)

NAME = "read-states"
COMMIT_TIMEOUT_S = 5.0
THREAD_STOP_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 1.0
HEARTBEAT_MS = 300  # a member may hear of a rebalance this late, and all others wait for it
FETCH_GATHER_MS = 10  # a fetch waits this long for FETCH_GATHER_BYTES, as each costs about 1 ms
FETCH_GATHER_BYTES = 32 << 10
FETCH_WAIT_IDLE_MS = 1000  # after IDLE_AFTER_S without records, a fetch waits for one this long
IDLE_AFTER_S = 1.0
POLL_S = 0.05  # of an empty poll while a partition is held back, which may soon have room again
POLL_IDLE_S = 0.2  # of an empty poll while none is held back; a rebalance waits for its end


class Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The consumer's own thread: fetches, commits, heartbeats."""

    shutdown_timeout = THREAD_STOP_TIMEOUT_S

    async def on_start(self) -> None:
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        self.group_errors = GroupErrors(self.app.read_states_settings, coordinator, self.app.refuse)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        settings = self.app.read_states_settings
        conf = self.app.conf
        self._assignor = self.app.assignor  # copartitions updates and queries, and is sticky
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=settings.instance_id or None,
            bootstrap_servers=settings.kafka_bootstrap.split(","),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",  # the worker seeks; other values would hide lost records
            max_poll_records=conf.broker_max_poll_records,
            max_partition_fetch_bytes=1 << 20,
            fetch_max_wait_ms=FETCH_GATHER_MS,
            fetch_min_bytes=FETCH_GATHER_BYTES,
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=int(max(10.0, settings.session_timeout_s) * 1000),
            max_poll_interval_ms=300_000,
            request_timeout_ms=int(max(40.0, settings.session_timeout_s) * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=30_000,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109 (the signature is Faust's)
        max_records: int | None = None,
    ) -> Mapping[TP, list[Poll]]:
        topic = self.app.read_states_settings.updates_topic
        active = [
            driver.ensure_aiokafka_TP(tp) for tp in active_partitions or () if tp.topic == topic
        ]
        states = self._wanted(consumer, active)
        if not states:
            # fetch_context tells aiokafka that we are still polling; otherwise it would leave the
            # group after max_poll_interval_ms.
            with consumer._subscription.fetch_context():
                await asyncio.sleep(0.005)
            return {}
        try:
            poll = await self._pull(consumer, states, max_records)
            held_back = len(states) < len(self.app.partitions.owned)
            if not poll and await self._arrival(consumer, POLL_S if held_back else POLL_IDLE_S):
                poll = await self._pull(consumer, self._wanted(consumer, active), max_records)
        except NoOffsetForPartitionError:  # no commit, and no seek of ours yet
            return {}
        except OffsetOutOfRangeError as exc:
            places = (f"{tp.topic} partition {tp.partition}" for tp in exc.args[0])
            self.app.refuse(lost_updates(", ".join(places)))
            return {}
        now_ns = time.perf_counter_ns()
        if poll:
            self._busy_until = now_ns + IDLE_AFTER_S * 1e9
        busy = now_ns < self._busy_until
        consumer._fetcher._fetch_max_wait_ms = FETCH_GATHER_MS if busy else FETCH_WAIT_IDLE_MS
        consumer._fetcher._fetch_min_bytes = FETCH_GATHER_BYTES if busy else 1
        # Faust needs one partition for the event: name the first one of the poll
        return {TP(topic, poll[0][0]): [poll]} if poll else {}

    def _wanted(self, consumer: aiokafka.AIOKafkaConsumer, active: list[Any]) -> dict[Any, Any]:
        """The partitions whose records may be taken now, each with its state in aiokafka."""
        subscription = consumer._subscription
        if not self.consumer.flow_active or subscription.reassignment_in_progress:
            return {}
        assignment = subscription.subscription.assignment
        if assignment is None:
            return {}
        wants, topic = self.app.partitions.wants, self.app.read_states_settings.updates_topic
        return {
            tp: state
            for tp in active
            if wants(topic, tp.partition) and (state := assignment.state_value(tp)) is not None
        }

    async def _pull(
        self, consumer: aiokafka.AIOKafkaConsumer, states: dict[Any, Any], max_records: int | None
    ) -> Poll:
        """Take the records fetched for these partitions, and move the positions past them.

        It must not wait, so that all records belong to one assignment. aiokafka's own wait may
        outlive a rebalance and then take records of the next assignment, which would be lost
        unnoticed.
        """
        if not states:
            return []
        before = {tp: state._position for tp, state in states.items()}
        records = await super()._fetch_records(
            consumer, set(states), timeout=0, max_records=max_records
        )
        taken_ns = time.perf_counter_ns()
        poll: Poll = []
        for tp, state in states.items():
            start, end = before[tp], state._position
            if start is not None and end is not None and (end != start or tp in records):
                log_end = state.lso if state.lso is not None else state.highwater
                last = log_end is not None and end >= log_end
                taken = records.get(tp, [])
                size = getattr(taken, "size_bytes", 0)
                self.app.partitions.pulled(tp.partition, size)
                poll.append((tp.partition, Batch(start, [*taken], end, taken_ns, last, size)))
        return poll

    @staticmethod
    async def _arrival(consumer: aiokafka.AIOKafkaConsumer, timeout_s: float) -> bool:
        """Wait for fetched records of any partition; False if none arrive. Raises fetch errors."""
        waiter = consumer._fetcher._create_fetch_waiter()
        with consumer._subscription.fetch_context():
            await asyncio.wait([waiter], timeout=timeout_s)
        if not waiter.done():
            waiter.cancel()
            return False
        waiter.result()
        return True

    _busy_until = 0.0  # time.perf_counter_ns()

    async def _commit(self, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Commit `{tp: (offset, metadata)}`; False if that failed: try again later."""
        consumer = self._ensure_consumer()
        own = {TopicPartition(tp.topic, tp.partition) for tp in consumer.assignment()}
        ours = {
            driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(*value)
            for tp, value in offsets.items()
            if tp in own
        }
        if not ours or consumer._coordinator.generation <= 0:  # expelled from the group
            return False
        try:
            await asyncio.wait_for(consumer.commit(ours), COMMIT_TIMEOUT_S)
        except (TimeoutError, KafkaError) as exc:
            log.warning("commit_failed partitions=%d error=%r", len(ours), exc)
            return False
        return True

    async def pause_queries_topic(self, topic: str) -> None:
        """Do not fetch queries: `QueryReader` reads them. Call this again after each assignment."""
        consumer = self._ensure_consumer()
        consumer.pause(*(tp for tp in consumer.assignment() if tp.topic == topic))

    def readable_end(self, tp: TP) -> int | None:
        """The offset up to which updates may be read; open transactions are beyond it."""
        end = self._ensure_consumer().last_stable_offset(driver.ensure_aiokafka_TP(tp))
        return None if end is None else int(end)

    async def behind_unreadable(self, tp: TP, offset: int) -> Skipped | None:
        """What to skip if the batch of queries that holds `offset` cannot be read.

        None if the broker does not say.
        """
        return await self.call_thread(self._behind, tp, offset)  # type: ignore[no-any-return]

    async def _behind(self, tp: TP, offset: int) -> Skipped | None:
        client = self._ensure_consumer()._client
        node = client.cluster.leader_for_partition(driver.ensure_aiokafka_TP(tp))
        if node is None or node < 0:
            return None
        size = PARTITION_FETCH_BYTES  # a broker sends the first batch whole, however large
        places = [(tp.topic, [(tp.partition, offset, size)])]
        request = FetchRequest(0, 1, size, READ_COMMITTED, places, rack_id="")
        # Use another connection: a fetch of updates may block the usual one for a second.
        response = await client.send(node, request, group=ConnectionGroup.COORDINATION)
        raw: bytes = response.topics[0][1][0][-1] or b""
        return fetched_records.behind_unreadable(raw, offset, unpack.Unpacker(UNPACKED_BYTES_MAX))

    async def committed(self, tps: list[TP]) -> Mapping[TP, Committed]:
        """Committed offsets with their metadata; partitions without one are left out."""
        return await self.call_thread(self._committed, tps)  # type: ignore[no-any-return]

    async def _committed(self, tps: list[TP]) -> Mapping[TP, Committed]:
        coordinator = self._ensure_consumer()._coordinator
        wanted = [driver.ensure_aiokafka_TP(tp) for tp in tps]
        offsets = await coordinator.fetch_committed_offsets(wanted)
        return {
            TP(tp.topic, tp.partition): (value.offset, value.metadata)
            for tp, value in offsets.items()
            if value.offset >= 0
        }

    async def on_thread_stop(self) -> None:
        await self._leave()
        await super().on_thread_stop()

    async def _leave(self) -> None:
        """Leave the group. A static member does not leave, because it will come back."""
        consumer = self._consumer
        if consumer is None or self.app.read_states_settings.instance_id:
            return
        coordinator = consumer._coordinator
        if getattr(coordinator, "coordinator_id", None) is None or coordinator.generation <= 0:
            return
        request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
        try:
            await asyncio.wait_for(coordinator._send_req(request), LEAVE_TIMEOUT_S)
        except (TimeoutError, KafkaError) as exc:
            log.warning("leave_group_failed error=%r", exc)


class Consumer(GroupMembership, driver.Consumer):  # type: ignore[misc]
    """The consumer as Faust sees it, on the main loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings, put = self.app.read_states_settings, self.app.query_channel.put_now
        self.queries = QueryReader(settings, put, self.app.refuse, self._behind_unreadable)

    async def _behind_unreadable(self, number: int, offset: int) -> Skipped | None:
        place = TP(self.app.read_states_settings.queries_topic, number)
        found: Skipped | None = None
        try:
            found = await self._thread.behind_unreadable(place, offset)
        except KafkaError as exc:
            log.warning("batch_end_unknown topic=%s partition=%d error=%r", *place, exc)
        return found

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave queries out of Faust's monitoring, because Faust does not fetch them."""
        if tp.topic != self.app.read_states_settings.queries_topic:
            super().verify_event_path(now, tp)

    def _new_consumer_thread(self) -> Thread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    def close(self) -> None:
        """Do nothing: closing here would precede LeaveGroup, and a phantom member would remain."""

    def _to_message(self, tp: TP, poll: Poll) -> ConsumerMessage:
        batch = poll[0][1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            max(batch.start, batch.end - 1),
            0.0,
            0,
            None,
            None,
            poll,
            None,
            None,
            None,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.rebalancing = True
        if revoked:
            self.stop_delivery()
            await self.app.rebalancer.hand_over(self)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.rebalancing = False
        self.stop_flow()  # at the first assignment the flow is already running
        self.app.flow_control.suspend()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Open the assigned partitions' tables, and seek to their positions."""
        if self.rebalancing:
            raise IllegalStateError("rebalancing again")
        queries_topic = self.app.read_states_settings.queries_topic
        await self._thread.call_thread(self._thread.pause_queries_topic, queries_topic)
        await super().perform_seek()
        try:
            positions = await self.app.rebalancer.open(self)
        except ReadStatesError as exc:
            self.app.refuse(exc)
            raise
        if positions:
            await self._thread.seek_wait(
                {driver.ensure_aiokafka_TP(tp): offset for tp, offset in positions.items()}
            )
        if not self.rebalancing:  # otherwise they are being revoked: wait for the next assignment
            # Use the partitions as they are owned now: some may have gone and returned since.
            owned = self.app.partitions.owned
            self.queries.read_from({number: one.query_position for number, one in owned.items()})


class Transport(driver.Transport):  # type: ignore[misc]
    Consumer = Consumer


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """The place where Faust would decode: a batch passes through as it is."""

    def compile(self, app: Any, **_kwargs: Any) -> Any:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


def register() -> str:
    """Make the transport known to Faust; returns the scheme for the broker URL."""
    fetched_records.install()
    drivers.TRANSPORTS.aliases[NAME] = f"{__name__}:Transport"
    return NAME
