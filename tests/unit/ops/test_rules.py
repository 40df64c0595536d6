"""The rules do what they say: promtool folds made-up series and sees which alerts fire.

`make promtool` gets it. Without it these tests are skipped, and say so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.promql import ALERTS, OPS, RULES, expressions, rules

TESTS = sorted((OPS / "prometheus/tests").glob("*.yml"))


@pytest.fixture(scope="module")
def promtool() -> str:
    beside = Path(sys.executable).parent / "promtool"
    found = os.environ.get("PROMTOOL") or shutil.which("promtool") or shutil.which(beside)
    if not found:
        pytest.skip("no promtool: `make promtool` gets it")
    return found


def run(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_are_sound(promtool: str) -> None:
    run(promtool, "check", "config", OPS / "prometheus/prometheus.yml")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES, ALERTS)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_must_and_only_then(promtool: str, path: Path) -> None:
    run(promtool, "test", "rules", path)


def test_panels_are_valid_promql(promtool: str, tmp_path: Path) -> None:
    """promtool knows no dashboards: their expressions as recording rules, variables filled in."""
    asked = {e.text for e in expressions() if ".json" in e.where}
    assert len(asked) > 50
    filled = [re.sub(r"\$\w+", "x", text.replace("$__rate_interval", "1m")) for text in asked]
    written = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(sorted(filled))]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": written}]}), "utf-8")
    run(promtool, "check", "rules", path)


def test_every_alert_is_seen_firing() -> None:
    seen = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            for check in test["promql_expr_test"]:
                for sample in check["exp_samples"]:
                    seen |= set(re.findall(r'alertname="(\w+)"', sample["labels"]))
    assert seen == {rule["alert"] for rule in rules(ALERTS)}
