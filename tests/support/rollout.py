"""A candidate beside a service of a test's own, as an operator and as its clients see it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer

from readstates.ops.local.worker import WorkerProcess
from readstates.schemas.rollout import SHARE_MAX, bucket_of
from readstates.streams.config import Settings
from readstates.streams.rollout import control

from .service import Service
from .waiting import WAIT_S, until
from .wire import PARTITIONS, Reply, TopicReader, encode, new_user, reply_of

SHARE = "read_states_rollout_share"
RELEASED = "read_states_withheld_replies_total{outcome=released}"


class CandidateOf:
    """A candidate of a service; `start` was run for it."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.group = service, f"{service.name}-{name}"
        done = service.cli("rollout", "start", self.group)
        assert done.returncode == 0, done.stderr
        self.settings = Settings.load(service.env)
        self._reader = TopicReader(
            service.wire.bootstrap, f"{service.wire.prefix}.shadow.{self.group}", PARTITIONS
        )
        self._shadow: list[Reply] = []

    def start(self, module: str = "", **settings: object) -> WorkerProcess:
        """A worker of it, not waited for. `module`: what it runs, if not the service's."""
        given: dict[str, object] = {"role": "candidate", "kafka_group": self.group, **settings}
        return self.service.start(module=module, **given)

    def set_share(self, share: int, *, compares: bool = True) -> int:
        """Not waited for; as `advance` does when its gates hold."""
        known = control.known_candidate(self.settings, self.group)
        return control.set_share(self.settings, known, share, compares=compares)

    def status(self) -> dict[str, Any]:
        """Of this candidate, as `readstates rollout status --json` shows it."""
        found = json.loads(self.service.cli("rollout", "status", "--json").stdout)
        return next(one for one in found["candidates"] if one["group"] == self.group)

    def wait_followed(self, share: int, *workers: WorkerProcess) -> None:
        """Until these workers go by the share; a live one only once the candidate answers."""
        until(lambda: all(w.metrics().get(SHARE) == share for w in workers), f"share {share}")

    def committed(self) -> list[int]:
        return self.service.wire.committed(self.group)

    def shadow(self) -> list[Reply]:
        """What is in the shadow topic so far."""
        while (message := self._reader.poll(0.05)) is not None:
            self._shadow.append(reply_of(message))
        return self._shadow

    def has(self, user: int, share: int) -> bool:
        return share == SHARE_MAX or bucket_of(str(user).encode(), self.group) < share

    def overlay(self) -> list[list[bytes | None]]:
        """The rows that this run has written: user, type, channel, deleted."""
        run = self.status()["run"]
        rows = self.service.cql(
            "SELECT user_id, run, read_state_type, channel_id, deleted "
            "FROM {keyspace}.read_states_candidate"
        )
        return [row for row in rows if row[1] == run.encode()]

    def close(self) -> None:
        self._reader.close()


class Asking(threading.Thread):
    """Asks for these users in turn inside a `with`; knows what it has asked."""

    def __init__(self, service: Service, users: list[int], per_second: int = 60) -> None:
        super().__init__(daemon=True)
        wire = service.wire
        self._topic, self._reply_topic = wire.queries, wire.reply_topic
        self._users, self._gap_s = users, 1 / per_second
        self._end = threading.Event()
        self.asked: dict[bytes, int] = {}  # correlation IDs and users
        self._producer = Producer(
            {"bootstrap.servers": wire.bootstrap, "partitioner": "murmur2_random"}
        )

    def __enter__(self) -> Asking:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join(WAIT_S)
        assert self._producer.flush(WAIT_S) == 0

    def run(self) -> None:
        number = 0
        while not self._end.wait(self._gap_s):
            user = self._users[number % len(self._users)]
            number += 1
            correlation_id = uuid.uuid4().bytes
            deadline_ms = int((time.time() + WAIT_S) * 1000)
            headers = [
                ("kafka_replyTopic", self._reply_topic.encode()),
                ("kafka_correlationId", correlation_id),
                ("read-states-deadline", str(deadline_ms).encode()),
            ]
            self._producer.produce(
                self._topic, encode(user, {"type": "get"}), str(user), headers=headers
            )
            self._producer.poll(0)
            self.asked[correlation_id] = user

    def wait_for(self, more: int) -> None:
        """Until so many more queries were sent."""
        end = len(self.asked) + more
        until(lambda: len(self.asked) >= end, f"{more} queries are sent")


def replies_to(service: Service, asked: dict[bytes, int]) -> dict[bytes, list[Reply]]:
    """The replies that the clients have got, by correlation ID, once each query has one."""
    found: dict[bytes, list[Reply]] = {correlation_id: [] for correlation_id in asked}

    def all_there() -> bool:
        for replies in found.values():
            replies.clear()
        for reply in service.wire.arrived():
            correlation_id = reply.headers.get("kafka_correlationId", b"")
            if correlation_id in found:
                found[correlation_id].append(reply)
        return all(found.values())

    until(all_there, "each query has a reply")
    return found


MakeCandidate = Callable[[Service, str], CandidateOf]


def ack(channel: int, message: int) -> dict[str, Any]:
    return {"type": "ack", "channel_id": str(channel), "message_id": str(message)}


def wait_durable(candidate: CandidateOf, ends: list[int]) -> None:
    until(lambda: candidate.committed() == ends, f"the candidate has committed {ends}", 60)


class Pair:
    """A live worker and a candidate's, both ready, and users with read states."""

    def __init__(
        self, service: Service, candidate: CandidateOf, users: int = 40, module: str = ""
    ) -> None:
        self.service, self.candidate = service, candidate
        self.live, self.new = service.start(), candidate.start(module)
        for worker in (self.live, self.new):
            worker.wait_ready()
        self.users = [new_user() for _ in range(users)]
        for number, user in enumerate(self.users, 1):
            service.wire.produce_update(user, ack(7, number))
        ends = service.wire.ends(service.wire.updates)
        service.wait_durable(ends)
        wait_durable(candidate, ends)

    def follow(self, share: int) -> None:
        self.candidate.set_share(share)
        self.candidate.wait_followed(share, self.live, self.new)

    def ask_all(
        self, body: dict[str, Any] | None = None
    ) -> tuple[dict[int, list[Reply]], dict[int, list[Reply]]]:
        """One query of each user: what the clients got, and what the shadow topic has."""
        asked = {self.service.wire.ask(user, body, deadline_s=20): user for user in self.users}
        got = replies_to(self.service, asked)

        def shadows() -> dict[bytes, list[Reply]] | None:
            found: dict[bytes, list[Reply]] = {correlation_id: [] for correlation_id in asked}
            for reply in self.candidate.shadow():
                if (correlation_id := reply.headers["kafka_correlationId"]) in found:
                    found[correlation_id].append(reply)
            return found if all(found.values()) else None

        kept = until(shadows, "each query has a reply in the shadow topic")
        return (
            {asked[correlation_id]: replies for correlation_id, replies in got.items()},
            {asked[correlation_id]: replies for correlation_id, replies in kept.items()},
        )
