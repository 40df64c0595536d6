"""The dashboards are what Grafana's own types say, in the version that docker-compose.yml runs.

The types come from the npm package @grafana/schema (tests/foreign/dashboards). Its compiler reads
each file as a literal, so a misspelt option or value is an error. Grafana itself ignores those.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.foreign.toolchains import HERE, Missing, ToolFailed, built, call
from tests.support.promql import DASHBOARDS, OPS

Change = Callable[[dict[str, Any]], None]


def panel(board: dict[str, Any], kind: str) -> Any:
    return next(panel for panel in board["panels"] if panel["type"] == kind)


def a_wrong_value(board: dict[str, Any]) -> None:
    panel(board, "stat")["options"]["colorMode"] = "colourful"


def an_option_of_another_panel(board: dict[str, Any]) -> None:
    panel(board, "stat")["options"]["legend"] = {}


def a_misspelt_field(board: dict[str, Any]) -> None:
    panel(board, "timeseries")["fieldConfig"]["defaults"]["custom"]["lineWidht"] = 1


def a_panel_that_is_no_more(board: dict[str, Any]) -> None:
    panel(board, "timeseries")["type"] = "graph"


def a_query_without_a_name(board: dict[str, Any]) -> None:
    del panel(board, "stat")["targets"][0]["refId"]


WRONG: tuple[Change, ...] = (
    a_wrong_value,
    an_option_of_another_panel,
    a_misspelt_field,
    a_panel_that_is_no_more,
    a_query_without_a_name,
)


BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in DASHBOARDS}


@pytest.fixture(scope="module")
def errors() -> list[str]:
    """What the compiler says, a line each, of the dashboards and of those changed for the worse."""
    boards = dict(BOARDS)
    for change in WRONG:
        boards[change.__name__] = copy.deepcopy(BOARDS["service"])
        change(boards[change.__name__])
    try:
        folder = built("dashboards")
        for name, board in boards.items():
            text = f"export const board: Board = {json.dumps(board, indent=1)}\n"
            (folder / f"{name}.ts").write_text(f"import type {{ Board }} from './types'\n{text}")
    except Missing as exc:
        pytest.skip(f"Grafana's types cannot be had: {exc}")
    with pytest.raises(ToolFailed):  # because of the changed ones
        call(folder, "node", "node_modules/typescript/bin/tsc", "-p", ".")
    return (folder / "failed.log").read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_fits_the_types(errors: list[str], name: str) -> None:
    assert [line for line in errors if line.startswith((f"{name}.ts", "types.ts"))] == []


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_the_types_are_exact(errors: list[str], change: Change) -> None:
    pattern = rf"{change.__name__}\.ts\(\d+,\d+\): error TS"
    assert any(re.match(pattern, line) for line in errors)


def test_the_types_are_of_the_grafana_that_compose_runs() -> None:
    compose = yaml.safe_load((OPS.parent / "docker-compose.yml").read_text("utf-8"))["services"]
    package = json.loads((HERE / "dashboards/package.json").read_text("utf-8"))
    version = package["dependencies"]["@grafana/schema"]
    assert compose["grafana"]["image"] == f"grafana/grafana:{version}"
