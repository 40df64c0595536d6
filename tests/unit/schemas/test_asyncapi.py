"""asyncapi.yaml is an AsyncAPI 3 document, its references lead somewhere, and it is true.

asyncapi-3.0.0.json is the specification's own JSON Schema (npm: @asyncapi/specs 6.11.1,
schemas/3.0.0.json, Apache-2.0) without examples, descriptions and other protocols' bindings.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from readstates.schemas import headers, replies
from readstates.schemas.dead_letters import REASONS, Origin, origin_headers, origin_of
from readstates.streams.config import Settings
from readstates.streams.kafka.topics import wanted
from tests.support.json_schemas import FILES, FOLDER, SCHEMAS

DOCUMENT = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text("utf-8"))
META = json.loads(Path(__file__).with_name("asyncapi-3.0.0.json").read_text("utf-8"))
ROOT = SCHEMAS.parent
PARTS = DOCUMENT["components"]["schemas"]


def test_it_is_an_asyncapi_document() -> None:
    Draft7Validator(META).validate(DOCUMENT)


@pytest.mark.parametrize("wrong", ["channels/updates/adress", "operations/applyUpdate/action"])
def test_a_slip_would_be_seen(wrong: str) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    *places, last = wrong.split("/")
    part = document
    for place in places:
        part = part[place]
    part[last] = "slip"
    assert not Draft7Validator(META).is_valid(document)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def look_up(reference: str, here: Any) -> Any:
    file, _, path = reference.partition("#")
    node = FILES[Path(file).name] if file else here
    for part in path.strip("/").split("/"):
        node = node[part] if part else node
    return node


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 40
    for reference in found:
        file = reference.partition("#")[0]
        assert not file or file == f"./{FOLDER.name}/{Path(file).name}"
        assert look_up(reference, DOCUMENT), reference
    for name, schema in FILES.items():
        for reference in references(schema):
            assert look_up(reference, schema), (name, reference)


def test_every_message_is_in_a_channel_and_every_event_is_a_message() -> None:
    used = {
        reference.rpartition("/")[2]
        for channel in DOCUMENT["channels"].values()
        for reference in references(channel["messages"])
    }
    assert used == set(DOCUMENT["components"]["messages"])
    assert set(FILES["update.json"]["definitions"]) == set(
        DOCUMENT["channels"]["updates"]["messages"]
    )


def test_topics_are_as_init_makes_them() -> None:
    settings = Settings(changes="on")
    made = wanted(settings, 1)
    described = {
        channel["address"].format(prefix=settings.topic_prefix): channel["bindings"]["kafka"]
        for channel in DOCUMENT["channels"].values()
        if channel["address"] is not None
    }
    assert set(described) == set(made) - {
        settings.probes_topic,
        settings.epochs_topic,
    }  # the service's own
    for topic, binding in described.items():
        config = dict(binding["topicConfiguration"])
        if "cleanup.policy" in config:
            (config["cleanup.policy"],) = config["cleanup.policy"]
        expected = dict(made[topic])
        expected.pop("min.insync.replicas", None)  # follows the replication factor
        assert {name: str(value).lower() for name, value in config.items()} == {
            name: value.lower() for name, value in expected.items()
        }
    prefix = DOCUMENT["components"]["parameters"]["prefix"]
    assert prefix["default"] == settings.topic_prefix


def test_header_names_and_limits_are_those_of_the_code() -> None:
    asked, faust = PARTS["getHeaders"], PARTS["getFromFaustHeaders"]
    assert set(asked["properties"]) == {
        headers.HEADER_REPLY_TOPIC,
        headers.HEADER_CORRELATION_ID,
        headers.HEADER_REPLY_PARTITION,
        headers.HEADER_DEADLINE,
        headers.HEADER_TRACEPARENT,
    }
    assert set(faust["properties"]) == {
        headers.HEADER_FAUST_REPLY_TOPIC,
        headers.HEADER_FAUST_CORRELATION_ID,
        headers.HEADER_DEADLINE,
        headers.HEADER_TRACEPARENT,
    }
    assert set(PARTS["errorHeaders"]["properties"]) == {
        headers.HEADER_CORRELATION_ID,
        headers.HEADER_ERROR,
        headers.HEADER_TRACEPARENT,
    }
    assert PARTS["traceparent"]["maxLength"] == headers.TRACEPARENT_BYTES_MAX
    for form, topic, correlation in (
        (asked, headers.HEADER_REPLY_TOPIC, headers.HEADER_CORRELATION_ID),
        (faust, headers.HEADER_FAUST_REPLY_TOPIC, headers.HEADER_FAUST_CORRELATION_ID),
    ):
        assert form["properties"][topic]["pattern"] == f"^{headers.TOPIC_NAME.pattern.decode()}$"
        most = form["properties"][correlation]["maxLength"]
        assert most == headers.CORRELATION_ID_BYTES_MAX
    for limit in (headers.DEADLINE_DEFAULT_MS, headers.DEADLINE_MAX_MS):
        assert f"timestamp + {limit}" in PARTS["deadline"]["description"].replace("\n", " ")


def test_error_codes_are_those_of_replies() -> None:
    codes = FILES["reply.json"]["definitions"]["error_code"]["enum"]
    for name in ("errorHeaders", "faustReplyHeaders"):
        assert PARTS[name]["properties"]["read-states-error"]["enum"] == codes
    assert replies.OVERLOADED in codes


def test_dead_letters_are_those_of_the_code() -> None:
    form = PARTS["deadLetterHeaders"]
    origin = Origin("misrouted", "t", 1, 2)
    made = origin_headers(origin)
    assert origin_of(made) == origin
    assert [name for name, _ in made] == form["required"]
    all_set = origin._replace(cut=9, last_offset=0, key_cut=7)
    cut = origin_headers(all_set)
    assert origin_of(cut) == all_set
    assert [name for name, _ in cut] == list(form["properties"])
    assert form["properties"]["reason"]["enum"] == list(REASONS)
    for reason in REASONS:
        assert f"{reason}: " in form["properties"]["reason"]["description"].replace("\n", " ")


def test_reasons_in_the_code_are_all_known() -> None:
    """First argument of DecodeError, second of reject: what becomes a dead letter's reason."""
    found = set()
    for path in (
        ROOT / "schemas" / "wire.py",
        ROOT / "schemas" / "fields.py",
        *(ROOT / "streams" / "partition").glob("*.py"),
    ):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = {"DecodeError": 0, "reject": 1}.get(name)
            if place is None:
                continue
            argument = node.args[place]
            if isinstance(argument, ast.Constant):
                found.add(argument.value)
    assert found == set(REASONS)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert DOCUMENT["info"]["version"] == project["version"]
