"""What the drills change of the rules, and that none is missing."""

from __future__ import annotations

import re

import pytest
import yaml
from promql import ALERTS, RULES, rules
from readstates.ops.drills import scaled
from readstates.ops.drills.__main__ import panel_queries
from readstates.ops.drills.drills import DRILLS
from readstates.ops.drills.world import NUMBERS


def test_every_alert_has_one_drill() -> None:
    tried = [alert for drill in DRILLS for alert in drill.alerts]
    assert sorted(tried) == sorted(rule["alert"] for rule in rules(ALERTS))


def test_durations_are_scaled() -> None:
    assert scaled.shorter("5m") == "20s"
    assert scaled.shorter("6h") == "1440s"
    found = scaled.rules("alerts.yml", NUMBERS)
    assert "[5m]" not in found
    assert "for: 40s" in found
    for path in (RULES, ALERTS):
        written = yaml.safe_load(scaled.rules(path.name, {}))["groups"]
        assert sum(len(group["rules"]) for group in written) == len(list(rules(path)))


@pytest.mark.parametrize("old", NUMBERS)
def test_what_is_replaced_is_there(old: str) -> None:
    assert old in RULES.read_text("utf-8") + ALERTS.read_text("utf-8")


def test_panels_have_no_variable_left() -> None:
    found = panel_queries()
    assert len(found) > 50
    for where, query in found:
        assert "$" not in query, where
        assert not re.search(r"\[\d+[mh]\]", query), where
