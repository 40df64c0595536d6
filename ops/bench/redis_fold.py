"""The peer that many would pick instead: a Kafka consumer that counts in Redis.

    python -m readstates.ops.bench.redis_fold BROKER TOPIC GROUP COUNT STATE_DIR

A user is a hash. A mention is an HINCRBY, and an ack an HSET; each batch of records is one pipeline
without a transaction. It does less than the others: an ack does not ask whether it is newer, a
mention not whether it is unread or repeated. Prints one line, `events seconds cpu_seconds`, from
the first event to the COUNTth; the CPU is that of this process and of Redis, which has the states.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import orjson

from .bare_consumer import subscribed
from .cpu import cpu_s_of
from .redis_store import running

BATCH = 1000


def main() -> None:
    """Run until COUNT events were folded."""
    count = int(sys.argv[4])
    consumer = subscribed(*sys.argv[1:4])
    with running(Path(sys.argv[5])) as (client, server):
        while not (batch := consumer.consume(1, 1.0)):
            pass
        started, started_cpu, seen = time.monotonic(), time.process_time() + cpu_s_of(server), 0
        while True:
            with client.pipeline(transaction=False) as pipeline:
                for message in batch:
                    event = orjson.loads(message.value())
                    user, channel = message.key(), str(event["channel_id"])
                    if event["type"] == "mention":
                        pipeline.hincrby(user, f"{channel}:mentions", 1)
                    else:
                        pipeline.hset(
                            user,
                            mapping={channel: str(event["message_id"]), f"{channel}:mentions": 0},
                        )
                pipeline.execute()
            seen += len(batch)
            if seen >= count:
                break
            batch = consumer.consume(BATCH, 0.05)
        cpu_s = time.process_time() + cpu_s_of(server) - started_cpu
        print(seen, time.monotonic() - started, cpu_s, flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
