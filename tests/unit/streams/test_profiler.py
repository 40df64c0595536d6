"""The profiler counts the processor time of threads by what they do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from readstates.streams.worker import profiler as module
from readstates.streams.worker.http import PROFILE_HEADER, _not_for_profiles
from readstates.streams.worker.profiler import ProfileError, Profiler, Stack


def burn(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(2000))


def wait(stop: threading.Event) -> None:
    stop.wait()


@pytest.fixture
def threads() -> Iterator[None]:
    """One that works and one that waits."""
    stop = threading.Event()
    made = [
        threading.Thread(target=function, args=(stop,), name=function.__name__)
        for function in (burn, wait)
    ]
    for thread in made:
        thread.start()
    yield
    stop.set()
    for thread in made:
        thread.join()


def profile(profiler: Profiler, seconds: float) -> dict[Stack, int]:
    profiler.start(seconds)
    assert profiler._thread is not None
    profiler._thread.join(60)
    found = profiler.result()
    assert found is not None
    return found


@pytest.mark.usefixtures("threads")
def test_a_thread_that_works_counts_and_one_that_waits_does_not() -> None:
    found = profile(Profiler(), 0.5)
    by_thread: dict[str, int] = {}
    for stack, ns in found.items():
        by_thread[stack[0]] = by_thread.get(stack[0], 0) + ns
    assert by_thread["burn"] > 100 * by_thread.get("wait", 0)
    assert module.NAME not in by_thread
    (stacks,) = ({s[1:] for s in found if s[0] == "burn"},)
    for stack in stacks:
        assert stack[0] == "threading.Thread._bootstrap", "the outermost first"
        assert f"{__name__}.burn" in stack


@pytest.mark.usefixtures("threads")
def test_the_sum_is_what_the_thread_used() -> None:
    """A profile may not count more than the clock of the whole process."""
    import time

    before = time.process_time_ns()
    found = profile(Profiler(), 0.3)
    assert 0 < sum(found.values()) <= time.process_time_ns() - before


@pytest.mark.usefixtures("threads")
def test_different_stacks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STACKS_MAX", 0)
    assert set(profile(Profiler(), 0.2)) <= {("burn",), ("wait",), ("MainThread",)}
    monkeypatch.setattr(module, "STACKS_MAX", 100)
    monkeypatch.setattr(module, "DEPTH_MAX", 2)
    assert max(map(len, profile(Profiler(), 0.2))) == 3


def test_one_profile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    profiler = Profiler()
    assert profiler.result() is None
    profiler.start(0.2)
    with pytest.raises(ProfileError, match="another"):
        profiler.start(0.2)
    assert profiler.result() is None, "not finished"
    assert profiler._thread is not None
    profiler._thread.join(60)
    assert profiler.result() is not None
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ProfileError, match="Linux"):
        profiler.start(0.2)


@pytest.mark.parametrize(
    ("peer", "headers", "is_refused"),
    [
        (("127.0.0.1", 5), {PROFILE_HEADER: "1"}, False),
        (("::1", 5, 0, 0), {PROFILE_HEADER: "1"}, False),
        (("10.1.2.3", 5), {PROFILE_HEADER: "1"}, True),
        (("2001:db8::1", 5, 0, 0), {PROFILE_HEADER: "1"}, True),
        (None, {PROFILE_HEADER: "1"}, True),
        (("127.0.0.1", 5), {}, True),
    ],
)
def test_only_the_command_on_this_machine_gets_a_profile(
    peer: Any, headers: dict[str, str], is_refused: bool
) -> None:
    transport = SimpleNamespace(get_extra_info=lambda _name: peer)
    request: Any = SimpleNamespace(transport=transport, headers=headers)

    async def refusal() -> Any:
        return _not_for_profiles(request)

    found = asyncio.run(refusal())
    assert (found is not None) == is_refused
    assert found is None or found.status == 403
