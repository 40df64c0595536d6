"""A candidate that refuses every query: its replies are compared with those of the live worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from urllib.request import urlopen

from confluent_kafka import Producer

from readstates.schemas.headers import HEADER_ROLE
from readstates.schemas.rollout import shadow_topic
from readstates.streams.config import Settings
from readstates.streams.rollout import control

from .prometheus import PrometheusError

GROUP = "drills-wrong"
USER = "42"
GAP_S = 0.2  # between two queries
START_S, ZERO_S = 60.0, 5.0  # until it compares; until Prometheus has seen that nothing differs


class WrongCandidate(threading.Thread):
    """Asks, and writes a wrong reply into the shadow topic, until `end`."""

    def __init__(
        self, settings: Settings, env: Mapping[str, str], folder: Path, port: int, replies: str
    ) -> None:
        super().__init__(daemon=True)
        self._settings, self._replies = settings, replies
        self._candidate = control.start(settings, GROUP)
        self._ended = threading.Event()
        argv = ["-m", "readstates.streams.cli", "rollout", "compare", GROUP]
        with (folder / "compare.log").open("ab") as out:
            self._compare = subprocess.Popen(
                [sys.executable, *argv, "--metrics-port", str(port)],
                env={**os.environ, **env},
                stdout=out,
                stderr=out,
            )
        self._wait(f"http://127.0.0.1:{port}/metrics")

    def _wait(self, url: str) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                urlopen(url, timeout=5).close()
                break
            except OSError as exc:
                if time.monotonic() > end:
                    raise PrometheusError(f"rollout compare does not answer: {exc}") from exc
                time.sleep(0.5)
        time.sleep(ZERO_S)

    def run(self) -> None:
        producer = Producer(self._settings.librdkafka(partitioner="murmur2_random"))
        shadow = shadow_topic(self._settings.topic_prefix, GROUP)
        error = {"code": "invalid_query", "message": "refused"}
        while not self._ended.wait(GAP_S):
            correlation = ("kafka_correlationId", uuid.uuid4().bytes)
            producer.produce(
                self._settings.queries_topic,
                json.dumps({"type": "get", "user_id": USER}),
                USER,
                headers=[("kafka_replyTopic", self._replies.encode()), correlation],
            )
            producer.produce(
                shadow,
                json.dumps({"user_id": USER, "error": error}),
                USER,
                headers=[
                    correlation,
                    ("read-states-error", b"invalid_query"),
                    (HEADER_ROLE, b"candidate"),
                ],
            )
            producer.poll(0)
        producer.flush(10)

    def end(self) -> None:
        """End the candidate, its replies and the comparison."""
        self._ended.set()
        self.join()
        control.abort(self._settings, self._candidate)
        self._compare.terminate()
        self._compare.wait(30)
