"""What a broker does not take is counted and logged by its kind, so that none hides another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from tests.support.service import Service
from tests.support.topic_settings import set_topic
from tests.support.waiting import WAIT_S, until
from tests.support.wire import new_user

METRICS = {
    "probe_reply_not_delivered": "read_states_probe_reply_failures_total",
    "dead_letter_not_delivered": "read_states_dead_letter_failures_total",
    "reply_not_delivered": "read_states_reply_failures_total",
    "probe_failed": "read_states_probe_failures_total",
}


@pytest.fixture
def service(stack: Stack, folder: Path) -> Iterator[Service]:
    made = Service(stack.env(), folder, "apart", probe_interval_s=0.5)
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def said(service: Service, event: str) -> list[str]:
    """The log lines of one kind."""
    lines = service.workers[0].output().splitlines()
    return [line for line in lines if f" {event} " in line]


def failed(service: Service) -> set[str]:
    """The kinds of which a failure was counted."""
    return {event for event, name in METRICS.items() if service.metric(name) > 0}


def test_each_kind_has_a_metric_and_a_log_line(service: Service) -> None:
    wire = service.wire
    answered = "read_states_probe_seconds_count"
    until(lambda: service.metric(answered) > 0, "a probe is answered", WAIT_S)
    assert failed(service) == set()

    set_topic(wire, f"{wire.prefix}.probes", max_message_bytes="10")
    probes = {"probe_reply_not_delivered", "probe_failed"}
    until(lambda: failed(service) >= probes, "failures of probes", WAIT_S)
    until(lambda: said(service, "probe_failed"), "that they are not answered", WAIT_S)
    assert failed(service) == probes

    usual = str(1 << 20)
    set_topic(wire, wire.dead_letters_topic, max_message_bytes="10")
    place = wire.produce(new_user(), b"{")
    until(lambda: failed(service) > probes, "a failure of a dead letter", WAIT_S)
    assert failed(service) == {*probes, "dead_letter_not_delivered"}

    topic = f"{wire.prefix}.replies.small"
    wire.create_topic(topic, config={"max.message.bytes": "10"})
    user = new_user()
    wire.ask(user, headers=[("kafka_replyTopic", topic.encode())])
    until(lambda: failed(service) == METRICS.keys(), "a failure of a reply", WAIT_S)

    until(lambda: all(said(service, event) for event in METRICS), "a log line of each kind")
    origin = f"partition={place.partition} offset={place.offset} reason=invalid_json"
    letters = said(service, "dead_letter_not_delivered")
    assert f"topic={wire.dead_letters_topic} {origin} error=" in letters[0]
    assert f"topic={topic} " in said(service, "reply_not_delivered")[0]
    assert f"topic={wire.prefix}.probes " in said(service, "probe_reply_not_delivered")[0]
    set_topic(wire, wire.dead_letters_topic, max_message_bytes=usual)
    assert wire.dead_letter(place).reason == "invalid_json"
