"""A flame graph of a real worker at work."""

from __future__ import annotations

import threading
from pathlib import Path
from xml.etree import ElementTree

from tests.support.service import Service
from tests.support.wire import new_user


def test_a_worker_at_work(service: Service, tmp_path: Path) -> None:
    port, file = service.workers[-1].url.rpartition(":")[2], tmp_path / "graph.svg"
    user, stop = new_user(), threading.Event()
    wire = service.wire
    wire.produce_update(user, {"type": "ack", "channel_id": "1", "message_id": "1"})
    answered = []

    def profile() -> None:
        argv = ["profile", str(file), "--seconds", "3", "--http-port", port]
        answered.append(service.cli(*argv))
        stop.set()

    thread = threading.Thread(target=profile)
    thread.start()
    while not stop.is_set():
        assert len(wire.get(user).states) == 1
    thread.join()
    (done,) = answered
    assert done.returncode == 0, done.stderr
    assert f"worker at 127.0.0.1:{port}" in done.stdout
    root = ElementTree.parse(file).getroot()
    titles = {
        str(each.text).rpartition(": ")[0] for each in root.iter() if each.tag[-5:] == "title"
    }
    reader = f"read-{wire.queries}"  # the thread that answers these queries
    assert {"all", "MainThread", reader} <= titles
    assert any(title.startswith("readstates.streams.kafka.reader.Reader.") for title in titles)


def test_a_web_page_gets_no_profile(service: Service) -> None:
    """A browser sends no header of its own to another site without asking first."""
    status, text = service.workers[-1].get("/profile")
    assert (status, "header" in text) == (403, True)


def test_no_worker_there(service: Service, tmp_path: Path) -> None:
    done = service.cli("profile", str(tmp_path / "x"), "--seconds", "1", "--http-port", "1")
    assert done.returncode == 1
    assert "Is a worker of this machine listening there" in done.stderr
