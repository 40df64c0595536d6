"""The name of a header that is not UTF-8, which anybody may write, ends no reader of ours.

confluent-kafka raises an error if it is asked for such headers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_END, Consumer, Message, TopicPartition

from readstates.schemas.headers import headers_of
from readstates.streams.client import Client
from tests.support import raw_batches as raw
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import new_user, partition_of

BAD = ((b"\xff\xfe", b"x"), ("kafka_correlationId", b"y"))
PROBES = "read_states_probe_seconds_count"


def write(service: Service, topic: str, partition: int, key: bytes = b"1") -> None:
    record = raw.Record(key, b"{}", headers=BAD)
    assert raw.produce(service.wire.bootstrap, topic, partition, raw.batch_of(0, [record])) >= 0


def test_a_client_goes_on(service: Service) -> None:
    topic = f"{service.wire.prefix}.replies.bad-headers"

    async def ask() -> None:
        prefix = service.wire.prefix
        async with Client(
            service.wire.bootstrap, topic, topic_prefix=prefix, create_reply_topic=True
        ) as client:
            await client.get(new_user(), deadline_s=WAIT_S)
            await asyncio.to_thread(write, service, topic, 0)
            await client.get(new_user(), deadline_s=WAIT_S)

    asyncio.run(ask())


def test_a_client_whose_thread_dies_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"{service.wire.prefix}.replies.dying"

    def fails(_message: Message) -> None:
        raise RuntimeError("a bug")

    async def ask() -> None:
        prefix = service.wire.prefix
        async with Client(
            service.wire.bootstrap, topic, topic_prefix=prefix, create_reply_topic=True
        ) as client:
            monkeypatch.setattr("readstates.streams.client.connection._reply_of", fails)
            for _ in range(2):
                with pytest.raises(ConnectionError, match="a thread of the client died"):
                    await client.get(new_user(), deadline_s=WAIT_S)
            with pytest.raises(ConnectionError, match="a thread of the client died"):
                await client.ack(new_user(), 1, 1)

    asyncio.run(ask())


def test_a_reader_of_many_records_goes_on(service: Service) -> None:
    """After some calls, the interpreter no longer checks what a call returns by itself."""
    place = TopicPartition(f"{service.wire.prefix}.probes", 0, OFFSET_END)
    consumer = Consumer({"bootstrap.servers": service.wire.bootstrap, "group.id": "headers"})
    try:
        place.offset = consumer.get_watermark_offsets(place)[1]
        for _ in range(30):
            write(service, place.topic, 0)
        consumer.assign([place])
        read: list[int] = []

        def read_on() -> bool:
            for message in consumer.consume(100, 1.0):
                read.append(len(headers_of(message)))
            return read.count(0) >= 30

        until(read_on, "all of them")
    finally:
        consumer.close()


def test_the_probe_goes_on(service: Service) -> None:
    (worker, *_) = service.workers
    write(service, f"{service.wire.prefix}.probes", 0)
    before = worker.metrics()[PROBES]
    until(lambda: worker.metrics()[PROBES] > before + 8, "answers", 2 * WAIT_S)
    assert worker.get("/readyz")[0] == 200
    assert "probe_ended" not in worker.output()


def test_a_recording_goes_on(service: Service, tmp_path: Path) -> None:
    wire, user, file = service.wire, new_user(), tmp_path / "recording"
    number = partition_of(user)
    done: list[subprocess.CompletedProcess[str]] = []

    def record() -> None:
        done.append(service.cli("record", str(file), "--seconds", "8"))

    recording = threading.Thread(target=record)
    recording.start()
    until(lambda: file.exists() and file.stat().st_size, "the recording begins")
    for topic in (wire.updates, wire.queries):
        write(service, topic, number, b"%d" % user)
    recording.join()
    assert done[0].returncode == 0, done[0].stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    seen = [(line["topic"], line.get("headers", [])) for line in lines if line["key"] == str(user)]
    assert sorted(seen) == [("queries", []), ("updates", [])]


def test_dead_letters_are_listed(service: Service) -> None:
    write(service, f"{service.wire.prefix}.dead-letters", 0)
    done = service.cli("dead-letters", "list")
    assert done.returncode == 0, done.stderr
    assert "no reason" in done.stderr


def test_without_headers() -> None:
    class Odd:
        def headers(self) -> None:
            raise SystemError("result with an exception set")

    assert headers_of(Odd()) == []
