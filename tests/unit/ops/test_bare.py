"""Where the proof of `make bare` cannot be run, it says so; and nothing asks for what it lacks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

OPS = Path(__file__).parents[3] / "ops"


def test_without_debootstrap_it_is_skipped_with_a_word() -> None:
    done = subprocess.run(
        ["/bin/bash", str(OPS / "bare.sh")],
        env={"PATH": "/usr/bin:/bin"},  # debootstrap is for root and elsewhere
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"bare: skipped: it needs root, unshare and debootstrap.*\n", done.stdout)


def test_setup_asks_for_python_only() -> None:
    """Java and the servers come in Python packages and by download; see ops/local/java.py."""
    asked = re.findall(r'missing\+=\("([^ "]+)', (OPS / "setup.sh").read_text("utf-8"))
    assert asked == ["Python", "Python's"]
