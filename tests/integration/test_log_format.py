"""A worker's standard output with --log-format json: every line is an object, Faust's too."""

from __future__ import annotations

import json
from pathlib import Path

from readstates.ops.local.stack import Stack
from tests.support.service import Service


def test_every_line_is_an_object(stack: Stack, folder: Path) -> None:
    service = Service(stack.env(), folder, "logs", log_format="json")
    try:
        worker = service.start()
        worker.wait_ready()
        assert worker.stop() == 0
        lines = worker.log.read_text().splitlines()
    finally:
        service.close()
    # standard error is in the same file: librdkafka's own lines begin with %LEVEL|
    found = [json.loads(line) for line in lines if not line.startswith("%")]
    assert all({"ts", "level", "logger", "event", "message"} <= line.keys() for line in found)
    opened = [line for line in found if line["event"] == "table_open"]
    assert sorted(line["partition"] for line in opened) == [0, 1, 2, 3]
    loggers = {line["logger"].partition(".")[0] for line in found}
    assert {"readstates", "mode"} <= loggers
