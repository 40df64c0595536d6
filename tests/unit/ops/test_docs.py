"""What the documents name exists, and what exists is named by a document."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import REGISTRY

from readstates.cache import tablefile
from readstates.ops.bench.__main__ import BENCHES
from readstates.schemas import events, headers
from readstates.streams import cli, metrics
from readstates.streams.config import Settings
from readstates.streams.kafka import topics
from readstates.streams.worker import http
from tests.support.promql import ALERTS, DASHBOARDS, OPS, RULES, recorded

assert metrics.TOPIC_PARTITIONS  # imported for its metrics
ROOT = OPS.parent
RUNBOOKS = sorted((OPS / "runbooks").glob("*.md"))
INTERFACE = ROOT / "schemas" / "README.md"
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    INTERFACE,
    OPS / "CAPACITY.md",
    OPS / "bench" / "README.md",
    OPS / "chaos" / "README.md",
    OPS / "examples" / "gateway" / "README.md",
    *RUNBOOKS,
]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
WORKER = cli.COMMANDS["worker"].load()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)


def code(path: Path) -> Iterator[str]:
    """The commands on a page: lines of its blocks, and what stands in backticks."""
    text = path.read_text("utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"^ {4}((?:readstates|make) .*)", text, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def all_documents() -> str:
    return "\n".join(path.read_text("utf-8") for path in DOCUMENTS)


def options_of(command: click.Command) -> set[str]:
    """Its own, and its sub-commands'."""
    found = {option for param in command.params for option in param.opts} | {"--help"}
    for child in getattr(command, "commands", {}).values():
        found |= options_of(child)
    return found


@each_document
def test_commands_exist(path: Path) -> None:
    for line in code(path):
        for found in re.finditer(r"\breadstates ([a-z][a-z-]*)([^|;>`]*)", line):
            command = cli.main.get_command(click.Context(cli.main), found[1])
            assert isinstance(command, click.Command), line
            asked = {w for w in shlex.split(found[2], comments=True) if w.startswith("--")}
            assert asked <= options_of(command), line
        for target in re.findall(r"\bmake ([a-z-]+)", line):
            assert target in TARGETS, line


@each_document
def test_benches_exist(path: Path) -> None:
    for names in re.findall(r'BENCHES="?([a-z_ ]+)', path.read_text("utf-8")):
        assert set(names.split()) <= set(BENCHES), names


@each_document
def test_places_and_settings_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for place in re.findall(r"(?<![\w/.])(?:ops|tests|streams|schemas|cache)/[\w/.-]+\w", text):
        assert (ROOT / place).exists(), place
    settings = {param.name for param in WORKER.params}
    for name in re.findall(r"READ_STATES_([A-Z_]+[A-Z])", text):
        assert name.removesuffix("_FILE").lower() in settings, name


@each_document
def test_metrics_exist(path: Path) -> None:
    ours = {sample for family in REGISTRY.collect() for sample in names_of(family.name)}
    for name in re.findall(r"(?<![:\w])read_states_\w+", path.read_text("utf-8")):
        assert name in ours or name in FIELDS, name
    for name in re.findall(r"\b[a-z_]+:read_states_\w+:\w+", path.read_text("utf-8")):
        assert name in recorded(), name


FIELDS = {
    "read_states_cache",  # a volume
    "read_states_candidate",  # a table
    "read_states_compared_total",  # of `readstates rollout compare`, not of a worker
}


def names_of(family: str) -> set[str]:
    return {family, *(family + end for end in ("_total", "_count", "_sum", "_bucket"))}


@each_document
def test_alerts_exist(path: Path) -> None:
    alerts = set(re.findall(r"alert: (\w+)", ALERTS.read_text("utf-8")))
    for name in re.findall(r"\bReadStates[A-Z]\w+", path.read_text("utf-8")):
        assert name in alerts | {"ReadStatesError"}, name


def test_every_command_and_target_is_named() -> None:
    text = all_documents()
    for name in cli.main.list_commands(click.Context(cli.main)):
        assert f"readstates {name}" in text, name
    for target in re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE):
        assert f"make {target}" in text, target


def test_every_metric_is_watched_or_named() -> None:
    seen = all_documents() + "".join(p.read_text("utf-8") for p in [*DASHBOARDS, ALERTS, RULES])
    ours = [family.name for family in REGISTRY.collect() if family.name.startswith("read_states_")]
    assert [name for name in ours if name not in seen] == []


def test_every_error_code_is_explained() -> None:
    reply = json.loads((ROOT / "schemas/json/reply.json").read_text("utf-8"))
    codes = set(re.findall(r'"enum": (\[[^\]]*"invalid_query"[^\]]*\])', json.dumps(reply)))
    (known,) = codes
    table = re.findall(r"^\| `([a-z_]+)` \|", INTERFACE.read_text("utf-8"), re.MULTILINE)
    assert set(json.loads(known)) <= set(table)


def test_every_setting_is_in_the_help() -> None:
    for param in WORKER.params:
        assert getattr(param, "help", ""), param.name


def test_the_figures_of_security_are_those_of_the_code() -> None:
    text = " ".join((ROOT / "SECURITY.md").read_text("utf-8").split())
    settings = Settings()
    made = topics.wanted(settings, replication=3)
    (batch,) = {
        int(made[name]["max.message.bytes"])
        for name in (settings.updates_topic, settings.queries_topic)
    }
    assert batch == topics.BATCH_BYTES_MAX  # tests/unit/test_inputs.py reads the figures in bytes
    names = (n for n in range(1000, 0, -1) if headers.TOPIC_NAME.fullmatch(b"a" * n))
    for said, limit in {
        r"(\d+) characters for a reply topic": next(names),
        r"(\d+) channels in a query": events.CHANNEL_IDS_MAX,
        r"(\d+) acks in a\s+`bulk_ack`": events.BULK_ACKS_MAX,
        r"of them, or hold one for more than (\d+) s": headers.DEADLINE_MAX_MS / 1000,
        r"keep connections: (\d+) at once": http.CONNECTIONS_MAX,
        r"one request each, (\d+) s": http.CONNECTION_S,
    }.items():
        assert [int(figure) for figure in re.findall(said, text)] == [limit], said
    modes = re.findall(r"made with mode (\d+) in a folder of mode (\d+)", text)
    assert modes == [(f"{tablefile.FILE_MODE:04o}", f"{tablefile.FOLDER_MODE:04o}")]


def test_the_glossary_stays_short() -> None:
    """A newcomer reads it whole: 25 words, under one line of titles."""
    words = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Words\n")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| ", words, re.MULTILINE)) <= 1 + 25
