"""The peer of `round_trip`: a bare confluent-kafka consumer and producer in the worker's place.

    python -m readstates.ops.bench.echo BROKER TOPIC BYTES

Answers each record of TOPIC at once with BYTES bytes and the correlation ID, to the topic that its
header names. Reads nothing of the value, keeps nothing, commits nothing. Prints `ready`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Message, Producer

from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_REPLY_TOPIC
from readstates.streams.config import Settings

from .asking import DRAIN_MESSAGES, PRODUCER


@contextmanager
def beside(settings: Settings, topic: str, size: int) -> Iterator[int]:
    """An echo as a process of its own, ready and reading `topic`; yields its pid."""
    arguments = [settings.kafka_bootstrap, topic, str(size)]
    with subprocess.Popen(
        [sys.executable, "-m", "readstates.ops.bench.echo", *arguments], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "the echo did not start"
            yield process.pid
        finally:
            process.kill()


def main() -> None:
    """Echo until a signal."""
    broker, topic, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    body = b"x" * size
    producer = Producer({"bootstrap.servers": broker, **PRODUCER})
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": f"{topic}.echo",
            "auto.offset.reset": "latest",
            "enable.auto.commit": False,
        }
    )

    def ready(_consumer: Consumer, _assigned: Any) -> None:
        print("ready", flush=True)

    def answer(message: Message) -> None:
        headers = dict(message.headers() or ())
        reply_to, correlation_id = headers[HEADER_REPLY_TOPIC], headers[HEADER_CORRELATION_ID]
        producer.produce(
            reply_to.decode(),
            body,
            message.key(),
            headers=[(HEADER_CORRELATION_ID, correlation_id)],
        )

    consumer.subscribe([topic], on_assign=ready)
    while True:
        message = consumer.poll(0.05)
        if message is not None and message.error() is None:
            answer(message)
            for more in consumer.consume(DRAIN_MESSAGES, 0):
                answer(more)
        producer.poll(0)


if __name__ == "__main__":
    main()
