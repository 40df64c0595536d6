"""What does not move is found, whether it serves anybody or not."""

from __future__ import annotations

import logging
import time

import pytest

from readstates.streams import metrics
from readstates.streams.kafka.pulse import Pulse
from readstates.streams.worker.pulses import Pulses


def shown(name: str) -> float:
    return next(
        sample.value
        for family in metrics.STUCK.collect()
        for sample in family.samples
        if sample.labels["name"] == name
    )


def test_what_does_not_move(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    vital, other = Pulse("vital", 60, is_vital=True), Pulse("other", 30)
    pulses = Pulses((vital, other))
    now[0] += 1_000  # neither has begun
    assert pulses.health() == pulses.ready() == (True, "everything moves")
    vital.beat()
    other.beat()
    now[0] += 29
    assert pulses.ready()[0]
    now[0] += 2
    assert pulses.health()[0]
    assert pulses.ready() == (False, "stuck: other for 31 s")
    assert (shown("vital"), shown("other")) == (0, 1)
    now[0] += 30
    other.beat()
    assert pulses.health() == pulses.ready() == (False, "stuck: vital for 61 s")
    for _ in range(3):
        pulses.log_stuck()
    lines = [record for record in caplog.records if "stuck name=vital" in record.getMessage()]
    assert [line.levelno for line in lines] == [logging.ERROR]
    vital.beat()
    assert pulses.health()[0]
    assert shown("vital") == 0
