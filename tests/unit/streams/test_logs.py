"""Log lines as JSON: the event and its pairs; repeats are limited and counted."""

from __future__ import annotations

import ast
import errno
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readstates.streams import logs

STREAMS = Path(logs.__file__).parent


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """What a worker writes with --log-format json."""
    before, level = list(logging.root.handlers), logging.root.level
    stream = io.StringIO()
    logs.set_up("json", "info", stream)
    yield stream
    logging.root.handlers[:] = before
    logging.root.setLevel(level)


def written(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_pairs_become_fields(out: io.StringIO) -> None:
    log = logging.getLogger("readstates.streams.example")
    log.info("table_dropped partition=%d position=%d log=%d…%d", 3, 4, 5, 6)
    log.warning("cassandra_failed %s error=%.5s", "a write", "too long")
    log.warning("no_reply_address offset=%d reply_topic=%.80r: a query needs one", 7, "a b")
    log.info("opened partitions=%s", [1, 2])
    log.debug("hidden")
    first, second, third, fourth = written(out)
    assert first["event"] == "table_dropped"
    assert (first["partition"], first["position"], first["log"]) == (3, 4, "5…6")
    assert first["message"] == "table_dropped partition=3 position=4 log=5…6"
    assert (first["level"], first["logger"]) == ("INFO", log.name)
    assert first["ts"].endswith("Z")
    assert (second["event"], second["error"]) == ("cassandra_failed", "too l")
    assert (third["offset"], third["reply_topic"]) == (7, "'a b'")
    assert fourth["partitions"] == "[1, 2]"


def test_lines_of_others_and_tracebacks_are_one_line(out: io.StringIO) -> None:
    logging.getLogger("aiokafka.consumer").warning("coordinator dead for %s\n+--+", "group=x")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("readstates.x").exception("failed partition=%d", 1)
    other, ours = written(out)
    assert (other["event"], other["message"]) == (None, "coordinator dead for group=x\n+--+")
    assert ours["event"] == "failed"
    assert "two\nlines" in ours["exception"]


def test_a_field_cannot_pose_as_another(out: io.StringIO) -> None:
    logging.getLogger("readstates.x").info("said level=%s event=%s name=%s", "X", "Y", 'a"b\n')
    (line,) = written(out)
    assert (line["level"], line["event"], line["name"]) == ("INFO", "said", 'a"b\n')


def test_every_pair_in_our_format_strings_is_found() -> None:
    """Each log call of streams/: the names before an = are the fields, whatever stands around."""
    seen = 0
    for path in STREAMS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if getattr(node.func.value, "id", "") != "log" or not node.args:
                continue
            line = ast.literal_eval(node.args[0])
            specs = re.findall(logs._SPEC, line)
            args = tuple(1 if spec[-1] in "dfg" else "x" for spec in specs)
            record = logging.LogRecord("readstates.x", 20, "", 0, line, args, None)
            assert line % args == record.getMessage()
            names = re.findall(r"(?:^|\s)(\w+)=\S*%", line)
            assert [name for name, _ in logs.fields_of(record)] == names
            seen += 1
    assert seen > 12


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_repeats_are_limited_by_event_and_counted() -> None:
    stream, clock = io.StringIO(), Clock()
    target = logging.StreamHandler(stream)
    limited = logs.RateLimit(target, clock)

    def say(name: str, line: str, number: int) -> None:
        limited.handle(logging.LogRecord(name, 20, "", 0, line, (number,), None))

    most = logs.REPEATS_PER_SECOND
    for number in range(most + 5):
        say("a", "one n=%d", number)
    say("a", "two n=%d", 0)
    say("b", "one n=%d", 0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == most + 2
    clock.now += 1
    say("a", "one n=%d", 99)
    assert stream.getvalue().splitlines()[len(lines) :] == [
        "suppressed count=5 by=a line='one n=%d'",
        "one n=99",
    ]
    for number in range(most + 1):
        say("a", "one n=%d", number)
    limited.flush()  # as at exit
    assert stream.getvalue().splitlines()[-1] == "suppressed count=2 by=a line='one n=%d'"
    limited.flush()
    assert stream.getvalue().count("suppressed") == 2


def test_warnings_cannot_fill_the_disk() -> None:
    """Somebody sends something wrong again and again, for three minutes."""
    stream, clock = io.StringIO(), Clock()
    limited = logs.RateLimit(logging.StreamHandler(stream), clock)
    for _second in range(180):
        for _ in range(5):
            limited.handle(logging.LogRecord("a", logging.WARNING, "", 0, "bad", (), None))
        clock.now += 1
    limited.flush()
    lines = stream.getvalue().splitlines()
    assert lines.count("bad") == 3 * logs.WARNINGS_PER_MINUTE
    suppressed = [line for line in lines if line != "bad"]
    assert suppressed == ["suppressed count=240 by=a line='bad'"] * 3


def test_a_full_disk_ends_no_thread() -> None:
    """A timer counts what was suppressed, in a thread whose error would end the worker."""

    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "no space left")

    limited = logs.RateLimit(logging.StreamHandler(Full()))
    limited.flush()


def test_a_text_from_outside_cannot_begin_a_line(
    capsys: pytest.CaptureFixture[str], out: io.StringIO
) -> None:
    logs.set_up("text", "INFO", sys.stdout)
    forged = "x\r\n[2026-01-01] [1] [INFO] opened partitions=[1]\x1b[2J\x9b\u2028é"
    logging.getLogger("readstates.x").warning("not_read error=%s", forged)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.endswith(
        r"error=x\r\n[2026-01-01] [1] [INFO] opened partitions=[1]\x1b[2J\x9b\u2028é" + "\n"
    )


def test_text_is_the_default_form(capsys: pytest.CaptureFixture[str], out: io.StringIO) -> None:
    logs.set_up("text", "INFO", sys.stdout)
    logging.getLogger("readstates.x").info("opened partitions=%s", [1])
    assert capsys.readouterr().out.endswith("[INFO] opened partitions=[1]\n")
