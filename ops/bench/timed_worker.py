"""A worker that notes every query's service time: the service itself, or a no-op in its place.

    python -m readstates.ops.bench.timed_worker worker

Two variables of the environment say the rest. TIMES is the file that is written at the end, with
pairs of 64-bit integers: when a reply was handed over, and how long that took since the consumer
returned the query, in ns of the monotonic clock. If NOOP_BYTES is set, the agent only hands over a
reply of that many bytes.
"""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path
from typing import Any

from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_REPLY_TOPIC
from readstates.streams import metrics
from readstates.streams.cli import main
from readstates.streams.partition.batch import Batch
from readstates.streams.worker.query_intake import QueryIntake

times = array("q")


def note(seconds: float) -> None:
    """Takes the place of the histogram's `observe`, whose buckets are too coarse here."""
    times.append(time.perf_counter_ns())
    times.append(int(seconds * 1e9))


def do_nothing(body: bytes) -> Any:
    """Hands over `body` for each query, in the reader's thread like the service, and no more."""

    def answer_now(self: QueryIntake, number: int, _token: int, batch: Batch) -> None:
        owned = self._owned.get(number)
        if owned is None:
            return
        for record in batch.records:
            headers: dict[str, Any] = dict(record.headers)
            self._replies._producer.now.produce(  # noqa: SLF001 (past all that is ours)
                headers[HEADER_REPLY_TOPIC].decode(),
                body,
                record.key,
                headers=[(HEADER_CORRELATION_ID, headers[HEADER_CORRELATION_ID])],
            )
            note((time.perf_counter_ns() - batch.taken_ns) / 1e9)
        owned.query_position = batch.end

    return answer_now


if __name__ == "__main__":
    metrics.QUERY_SERVICE_SECONDS.observe = note  # type: ignore[method-assign,assignment]
    size = int(os.environ.get("NOOP_BYTES", "0"))
    if size:
        QueryIntake.answer_now = do_nothing(b"x" * size)  # type: ignore[method-assign]
    try:
        main()
    finally:
        with Path(os.environ["TIMES"]).open("wb") as out:
            times.tofile(out)
