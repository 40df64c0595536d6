"""tests/foreign/README.md holds the table that `make foreign` printed, of the present clients."""

from __future__ import annotations

from typing import Any

import pytest

from tests.foreign.clients import CLIENTS, Client
from tests.foreign.service import differences
from tests.foreign.table import PARTITIONS, shown

LINES = {line.name: line for line in shown()}


def test_each_client_is_in_it_and_no_other() -> None:
    assert list(LINES) == [client.name for client in CLIENTS]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_it_is_of_the_pinned_version_and_the_present_setting(client: Client) -> None:
    line = LINES[client.name]
    assert (line.version, line.setting) == (client.version, client.setting)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_each_client_that_was_run_got_what_it_must(client: Client) -> None:
    line = LINES[client.name]
    if line.result.startswith("left out: "):
        return
    assert line.result == "equal"
    assert int(line.replies) > 0
    assert all(one == "right" or one.startswith("wrong for ") for one in line.defaults)
    assert len(line.defaults) == len(PARTITIONS)


@pytest.mark.parametrize(
    ("got", "where"),
    [
        ({"a": "1", "b": [{"c": 2}]}, []),
        ({"a": 1, "b": [{"c": 2}]}, ["r.a"]),
        ({"a": "1", "b": [{"c": True}]}, ["r.b[0].c"]),
        ({"a": "1", "b": []}, ["r.b"]),
        ({"a": "1"}, ["r.b"]),
        ({"a": "1", "b": [{"c": 2}], "d": 1}, ["r.d"]),
        ([], ["r"]),
    ],
)
def test_replies_differ_field_by_field(got: Any, where: list[str]) -> None:
    wanted = {"a": "1", "b": [{"c": 2}]}
    assert [one.partition(":")[0] for one in differences(wanted, got, "r")] == where
