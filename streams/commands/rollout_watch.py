"""`readstates rollout watch`: goes back to share 0 by itself when a gate breaks."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import click

from readstates.schemas.rollout import Candidate

from ..config import Settings
from ..errors import RolloutError
from ..rollout.gates import Plan
from ..rollout.watching import Watching
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .rollout_gates import read, with_gates

INTERVAL_S, BLIND_S, RETRY_S = 15.0, 300.0, 1.0
ANSWER_S = 5.0  # of Prometheus, for each gate: a watch must not wait for long


@click.command("watch", cls=SettingsCommand, short_help="Set the share to 0 if a gate breaks.")
@click.argument("group", required=False)
@click.option(
    "--interval-s", type=click.FloatRange(0, min_open=True), default=INTERVAL_S, show_default=True,
    help="Seconds between two looks.",
)  # fmt: skip
@click.option(
    "--blind-s", type=click.FloatRange(0), default=BLIND_S, show_default=True,
    help="Go back when a gate has had no figure for this long.",
)  # fmt: skip
@with_gates
@with_settings(*KAFKA_ONLY)
def watch(
    settings: Settings,
    group: str | None,
    interval_s: float,
    blind_s: float,
    file: Path | None,
    url: str,
) -> None:
    """Watch the gates of GROUP, or of the only candidate, and set its share to 0 if one breaks.

    A gate breaks when its figure exceeds the limit. Figures that the phase has yet to reach, such
    as the number of compared pairs, are not watched. The command prints each change. After it has
    set the share to 0, it checks once more that the share is still 0, and exits with 1. It exits
    with 0 when the candidate has ended, and after SIGINT or SIGTERM.
    """
    from ..rollout import control

    plan = read(file)
    with errors_as_messages():
        candidate = control.known_candidate(settings, group)
    stop = threading.Event()
    handlers = {
        number: signal.signal(number, lambda _number, _frame: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    watched = _Watch(settings, plan, candidate.group, url, Watching(blind_s), stop)
    try:
        while not stop.is_set() and not watched.look():
            stop.wait(interval_s)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if watched.has_gone_back:
        raise click.exceptions.Exit(1)


class _Watch:
    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        group: str,
        url: str,
        watching: Watching,
        stop: threading.Event,
    ) -> None:
        from ..rollout.prometheus import Prometheus

        self._settings, self._plan, self._group = settings, plan, group
        self._prometheus, self._watching = Prometheus(url, ANSWER_S), watching
        self._stop = stop
        self.has_gone_back = False

    def look(self) -> bool:
        """Look once, and go back if that must be; True if there is nothing more to watch."""
        from ..rollout.phase import judged_now

        try:
            candidate = self._candidate()
        except RolloutError as exc:
            _say(str(exc))
            return False
        if candidate is None:
            _say(f"{self._group} has ended")
            return True
        if self.has_gone_back:
            if not candidate.share:
                return True
            self.has_gone_back = False
            _say("another command has given it a share at the same moment")
        verdicts = judged_now(self._plan, candidate, self._prometheus, time.time())
        lines, reason = self._watching.look(candidate, verdicts, time.monotonic())
        for line in lines:
            _say(line)
        if reason:
            self._go_back(reason)
        return False

    def _candidate(self) -> Candidate | None:
        """Its record now. Raises RolloutError."""
        from ..kafka.rollout_topic import read_rollouts

        return read_rollouts(self._settings).candidates.get(self._group)

    def _go_back(self, reason: str) -> None:
        """Try it until Kafka has it, or until the candidate has ended."""
        from ..rollout import control

        _say(f"going back: {reason}")
        while not self._stop.is_set():
            try:
                candidate = self._candidate()
                if candidate is None:
                    return
                offset = control.set_share(
                    self._settings, candidate, 0, compares=candidate.compares
                )
            except RolloutError as exc:
                _say(f"trying again: {exc}")
                self._stop.wait(RETRY_S)
                continue
            self.has_gone_back = True
            _say(f"{self._group}: share {candidate.share} -> 0")
            break
        else:
            return
        try:
            late = control.not_following(self._settings, self._group, offset)
        except RolloutError as exc:
            _say(str(exc))
            return
        if late:
            _say(f"no sign of {', '.join(late)}. If they are alive, end them")


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}")
