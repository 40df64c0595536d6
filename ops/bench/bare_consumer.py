"""The limit: a confluent-kafka consumer that takes batches and decodes each value, nothing more.

    python -m readstates.ops.bench.bare_consumer BROKER TOPIC GROUP COUNT

Prints one line, `events seconds cpu_seconds`, from the first batch to the COUNTth event.
"""

from __future__ import annotations

import sys
import time

import orjson
from confluent_kafka import Consumer

BATCH = 10_000


def subscribed(broker: str, topic: str, group: str) -> Consumer:
    """A consumer of a topic, from where its group begins."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 1,  # by default it pauses for a second when its queue is full
        }
    )
    consumer.subscribe([topic])
    return consumer


def main() -> None:
    """Consume COUNT events."""
    count = int(sys.argv[4])
    consumer = subscribed(*sys.argv[1:4])
    loads = orjson.loads
    while not (batch := consumer.consume(1, 1.0)):
        pass
    started, started_cpu = time.monotonic(), time.process_time()
    seen = 1
    while seen < count:
        batch = consumer.consume(BATCH, 0.05)
        for message in batch:
            loads(message.value())
        seen += len(batch)
    print(seen, time.monotonic() - started, time.process_time() - started_cpu, flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
