"""Alerts, runbooks, dashboards and the command line name the same things."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from readstates.streams import metrics
from tests.support.promql import ALERTS, DASHBOARDS, OPS, expressions, panels, recorded, rules

assert metrics.TOPIC_PARTITIONS  # imported for its metrics
ROOT = OPS.parent
RUNBOOKS = OPS / "runbooks"
FIVE = ["Means", "Works", "Investigate", "Fix", "Verify"]
NAMES = [rule["alert"] for rule in rules(ALERTS)]
PAGES = sorted(RUNBOOKS.glob("*.md"))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert len(NAMES) == len(set(NAMES))
    assert {path.stem for path in PAGES if path.stem.startswith("ReadStates")} == set(NAMES)


@pytest.mark.parametrize("rule", list(rules(ALERTS)), ids=lambda rule: rule["alert"])
def test_an_alert_says_whom_it_wakes_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"ops/runbooks/{rule['alert']}.md"


def test_every_alert_says_when_it_fires() -> None:
    lines = ALERTS.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.lstrip().startswith("- alert:"):
            above = number
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            assert lines[above].lstrip().startswith("# Fires "), line


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_has_its_five_parts(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.partition("\n")[0] for part in parts] == FIVE
    for part in parts:
        if part.startswith(("Investigate", "Verify")):
            assert "```sh" in part, "nothing to run"


def test_every_recorded_series_is_used() -> None:
    """By an alert, a panel, another rule or a runbook."""
    read = {name for expression in expressions() for name, _ in expression.reads}
    pages = "\n".join(path.read_text("utf-8") for path in PAGES)
    assert {name for name in recorded() - read if name not in pages} == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_belongs_to_no_installation(path: Path) -> None:
    board = json.loads(path.read_text("utf-8"))
    assert board["uid"] == f"read-states-{path.stem}"
    assert "id" not in board
    sources = re.findall(r'"uid": "([^"]+)"', json.dumps(board["panels"]))
    assert set(sources) == {"${datasource}"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(path):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]


def test_grafana_finds_the_dashboards() -> None:
    (provider,) = yaml.safe_load(
        (OPS / "grafana/provisioning/dashboards/read-states.yml").read_text("utf-8")
    )["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["./ops/grafana/dashboards"] == provider["options"]["path"]
    (source,) = yaml.safe_load(
        (OPS / "grafana/provisioning/datasources/prometheus.yml").read_text("utf-8")
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in compose["prometheus"]["ports"]
