"""What producers and readers of a run send: updates, queries, and what an earlier epoch left."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from readstates.ops.proof.oracle import EPOCH
from readstates.schemas.version import version_of
from readstates.streams.kafka.group_consumer import TopicPartition

from .checks import Asked
from .output import LATE_REPLIES, REPLIES
from .plan import Send

if TYPE_CHECKING:
    from .world import World


class Traffic:
    """Writes into the world's logs."""

    def __init__(self, world: World) -> None:
        self.world = world

    def earlier_epoch(self, number: int) -> int:
        """Records that were written out before the epoch began; returns its first offset.

        The oracle does not know of them: a worker that folded one would show it.
        """
        topic = self.world.plan.settings.updates_topic
        log = self.world.logs[TopicPartition(topic, number)]
        keys = (send.key for send in self.world.plan.sends if send.partition == number and send.key)
        for key in itertools.islice(keys, self.world.plan.earlier):
            event = {"type": "mention", "user_id": int(key), "channel_id": 1, "message_id": 1}
            fields = {"key": key, "partition": number, "timestamp": self.world.now_ms()}
            log.append(0, topic=topic, value=json.dumps(event).encode(), headers=(), **fields)
        return log.end

    def send(self, send: Send) -> None:
        """Put it into its log, and tell the checks."""
        settings = self.world.plan.settings
        skip = (
            self.world.noise.randint(0, self.world.plan.gap_max)
            if self.world.noise.random() < 0.5
            else 0
        )
        fields: dict[str, Any] = {"key": send.key, "partition": send.partition}
        fields["timestamp"] = self.world.now_ms()
        if not send.query:
            topic = settings.updates_topic
            log = self.world.logs[TopicPartition(topic, send.partition)]
            record = log.append(skip, topic=topic, value=send.value, headers=(), **fields)
            self.world.checks.produced(send.partition, record)
            return
        topic = settings.queries_topic
        asked, value, headers = self._question(send)
        log = self.world.logs[TopicPartition(topic, send.partition)]
        record = log.append(skip, topic=topic, value=value, headers=headers, **fields)
        asked.offset = record.offset
        self.world.checks.sent(asked)

    def _question(self, send: Send) -> tuple[Asked, bytes, list[tuple[str, bytes]]]:
        user_id, what = send.value["user_id"], dict(send.value)
        body: dict[str, Any] = {"type": "get", "user_id": user_id}
        log = self.world.logs[
            TopicPartition(self.world.plan.settings.updates_topic, send.partition)
        ]
        seen = self.world.checks.seen.get(user_id, 0)
        since = {
            "last": seen,
            "past": max(0, seen - self.world.noise.randint(0, 50)),
            "future": version_of(EPOCH, log.end + 5),
        }.get(what["since"])
        if what["since"] is not None:
            body["since_version"] = what["since_version"] = since
        own = max((r.offset for r in log.records[-40:] if r.key == send.key), default=None)
        after = {"own": own, "future": log.end + self.world.noise.randint(0, 30)}.get(
            what["after_update"]
        )
        if after is not None:
            body["after_offset"] = what["after_offset"] = after
        names = (
            "channel_ids",
            "read_state_type",
            "mentions",
            "mentioned",
            "totals",
            "limit",
        )
        body.update({name: what[name] for name in names if name in what})
        if "after" in what:
            kind, channel_id = what["after"]
            body["after"] = {"read_state_type": kind, "channel_id": str(channel_id)}
        if "bad" in what:
            body["since_version"] = -1
        number = len(self.world.checks.asked)
        deadline_ms = self.world.now_ms() + what["left_ms"]
        topic = {"a": REPLIES, "l": LATE_REPLIES}.get(what["topic"], "elsewhere")
        headers = [
            ("kafka_replyTopic", topic.encode()),
            ("kafka_correlationId", b"%d" % number),
            ("read-states-deadline", b"%d" % deadline_ms),
        ]
        asked = Asked(
            number=number,
            partition=send.partition,
            user_id=user_id,
            sent_s=self.world.clock.now,
            deadline_ms=deadline_ms,
            what=what,
            usable=topic == REPLIES,
            allowed=topic != "elsewhere",
        )
        return asked, json.dumps(body).encode(), headers
