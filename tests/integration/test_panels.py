"""Every query of every dashboard's panel returns data from a running worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from readstates.ops.drills import queries
from readstates.ops.drills.prometheus import Prometheus, PrometheusError, find, free_port
from readstates.ops.drills.world import NUMBERS
from tests.support.service import Service
from tests.support.wire import new_user

DATA_TIMEOUT_S = 90.0


@pytest.fixture
def prometheus(service: Service, tmp_path: Path) -> Iterator[Prometheus]:
    try:
        find()
    except PrometheusError as exc:
        pytest.skip(str(exc))
    port = urlsplit(service.workers[0].url).port
    assert port is not None
    made = Prometheus(tmp_path / "prometheus", port, free_port(), NUMBERS)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def test_panels_return_data(service: Service, prometheus: Prometheus) -> None:
    left = queries.of_panels()
    assert len(left) > 50
    end = time.monotonic() + DATA_TIMEOUT_S
    while left and time.monotonic() < end:
        service.wire.get(new_user())
        left = [(where, query) for where, query in left if not prometheus.query(query)]
    assert left == []


def test_a_wrong_name_returns_none(prometheus: Prometheus) -> None:
    assert prometheus.query("read_states_no_such_metric") == []
