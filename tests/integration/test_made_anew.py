"""Topics that are made anew under the clients of a worker, and under the Python client."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.ops.local.owner import Owner
from readstates.schemas.headers import HEADER_CLOCK
from readstates.streams.client import BlockingClient
from readstates.streams.config import Settings
from tests.support.made_anew import BROKERS, Topics, restart_brokers
from tests.support.preloaded import PreloadedWorker
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user

pytestmark = pytest.mark.long

FIND_S = 4 * WAIT_S  # a producer gives up a record after 30 s
RENEWED = "read_states_clients_renewed_total{client=%s}"
PROBED = "read_states_probe_seconds_count{partition=%d}"
NAMES = ("watched", "alone", "asked")


@pytest.fixture(scope="module")
def services(owner: Owner, folder: Path) -> Iterator[dict[str, tuple[Service, Topics]]]:
    """A service for each test, whose topics have leader epochs above 0."""
    stack = owner.stack(f"anew-{uuid.uuid4().hex[:8]}", brokers=BROKERS, brief=True)
    made = {}
    for name in NAMES:
        service = Service(stack.env(), folder, name, probe_interval_s=1)
        made[name] = service, Topics(Settings.load(service.env), PARTITIONS)
    restart_brokers(stack)
    yield made
    for service, _ in made.values():
        service.close()
    stack.down(remove=True)


def wait_served(service: Service, topics: Topics) -> None:
    """Until a query is answered, a dead letter is there, and the worker says that it is ready."""
    until(topics.asking(), "a query is answered", FIND_S)
    value = topics.send_unreadable()
    until(lambda: value in topics.dead_letters(), "the dead letter is there", FIND_S)
    service.workers[0].wait_ready()


def wait_probed(service: Service) -> None:
    """Until each partition has answered a probe from now on."""
    worker = service.workers[0]
    before = worker.metrics()

    def look() -> bool:
        now = worker.metrics()
        return all(now[PROBED % n] > before.get(PROBED % n, 0) for n in range(PARTITIONS))

    until(look, "probes are answered", FIND_S)
    until(lambda: worker.get("/readyz")[0] == 200, "it is ready", FIND_S)


def committed(service: Service, topics: Topics) -> bool:
    """True if all updates are committed: dead letters hold them until they are kept."""
    updates = topics.settings.updates_topic
    ends = [0] * PARTITIONS
    for message in topics.records(updates):
        ends[message.partition() or 0] = (message.offset() or 0) + 1
    return service.committed() == ends


def clocks_compared(topics: Topics) -> bool:
    """True if each partition of the queries topic has a record that compares clocks."""
    found = {
        message.partition()
        for message in topics.records(topics.settings.queries_topic)
        if HEADER_CLOCK in dict(message.headers() or ())
    }
    return found == set(range(PARTITIONS))


def test_a_worker_that_watches(services: dict[str, tuple[Service, Topics]]) -> None:
    service, topics = services["watched"]
    settings, worker = topics.settings, service.start()
    worker.wait_ready()
    wait_served(service, topics)

    topics.make_anew(settings.queries_topic)
    until(topics.asking(), "a query is answered", FIND_S)
    until(lambda: clocks_compared(topics), "the clocks are compared", FIND_S)
    wait_probed(service)

    topics.make_anew(settings.dead_letters_topic)
    value = topics.send_unreadable()
    until(lambda: value in topics.dead_letters(), "the dead letter is there", FIND_S)
    until(lambda: committed(service, topics), "all is committed", FIND_S)

    topics.make_anew(settings.probes_topic)
    wait_probed(service)
    for client in ("clocks", "dead-letters", "probe", "replies"):
        assert worker.metrics()[RENEWED % client] >= 1, client
        assert f"client_renewed client={client}" in worker.output()
    assert worker.stop() == 0


def test_a_worker_without_its_watch(services: dict[str, tuple[Service, Topics]]) -> None:
    """Nobody tells it that a topic was made anew; reply topics are watched by nobody anyway."""
    service, topics = services["alone"]
    log = service.folder / f"{service.name}.log"
    worker = PreloadedWorker(service.env, log, module="tests.support.only_probe").start()
    service.workers.append(worker)
    worker.wait_ready()
    wait_served(service, topics)

    topics.make_anew(topics.reply_topic)
    until(topics.asking(), "a query is answered", FIND_S)
    assert worker.metrics()[RENEWED % "replies"] == 1

    topics.make_anew(topics.settings.dead_letters_topic)
    value = topics.send_unreadable()
    until(lambda: value in topics.dead_letters(), "the dead letter is there", FIND_S)
    until(lambda: committed(service, topics), "all is committed", FIND_S)
    assert worker.metrics()[RENEWED % "dead-letters"] == 1

    topics.make_anew(topics.settings.queries_topic)
    until(topics.asking(), "a query is answered", FIND_S)
    until(lambda: clocks_compared(topics), "the clocks are compared", FIND_S)
    wait_probed(service)
    assert worker.stop() == 0


def test_the_python_client(
    services: dict[str, tuple[Service, Topics]], caplog: pytest.LogCaptureFixture
) -> None:
    service, topics = services["asked"]
    settings, worker = topics.settings, service.start()
    worker.wait_ready()
    with BlockingClient(
        settings.kafka_bootstrap, topics.reply_topic, topic_prefix=settings.topic_prefix
    ) as client:

        def is_answered() -> bool:
            user = new_user()
            try:
                offset = client.ack(user, 1, 5)
                return bool(client.get(user, after_offset=offset, deadline_s=4).read_states)
            except TimeoutError:
                return False

        until(is_answered, "a reply")
        for topic in (settings.queries_topic, topics.reply_topic):
            topics.make_anew(topic)
            until(is_answered, "a reply", FIND_S)
            assert caplog.text.count(f"client_renewed topic={topic}:") == 1

        # a worker would stop: only the client's producer of updates is to reach the new topic
        assert worker.stop() == 0
        topics.make_anew(settings.updates_topic)

        def is_taken() -> bool:
            try:
                return client.ack(new_user(), 1, 5) >= 0
            except KafkaException:
                return False

        until(is_taken, "an update is taken", FIND_S)
        assert caplog.text.count("client_renewed") == 3


def test_what_librdkafka_does(services: dict[str, tuple[Service, Topics]]) -> None:
    """The reason for all this. If this fails, no client needs to be made anew any more."""
    _, topics = services["asked"]
    producer, topic = topics.producer(timeout_s=5), topics.settings.dead_letters_topic
    codes: list[int | None] = []

    def send() -> None:
        producer.produce(
            topic, b"", partition=0, on_delivery=lambda e, _m: codes.append(e.code() if e else None)
        )
        producer.flush(WAIT_S)

    send()
    topics.make_anew(topic)
    send()
    assert codes == [None, KafkaError._MSG_TIMED_OUT]
    assert not list(topics.records(topic))
