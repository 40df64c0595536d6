"""`readstates rollout advance` and `finish`: the next share, and the end, if the gates hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from readstates.schemas.rollout import SHARE_MAX, Candidate

from ..config import Settings
from ..errors import RolloutError
from ..rollout.gates import Plan, Verdict
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .rollout_gates import judged_by, read, show, with_gates

REASON_MAX = 1_000  # characters; all reasons are in one record
TIMEOUT_S = 300.0


@click.command("advance", cls=SettingsCommand, short_help="Set the next share, if all gates hold.")
@click.argument("group", required=False)
@click.option(
    "--accept",
    "reason",
    metavar="REASON",
    help="Accept the differences that were found so far, and keep the reason.",
)
@with_gates
@with_settings(*KAFKA_ONLY)
def advance(
    settings: Settings, group: str | None, reason: str | None, file: Path | None, url: str
) -> None:
    """Set the next share of GROUP, or of the only candidate, if all gates of this phase hold.

    The command prints a line for each gate: its limit, its present figure, and how long the figure
    has been within the limit. If a gate does not hold, the share stays the same, and the exit
    status is 1. The command waits up to five seconds for the candidate's workers to confirm the new
    share.
    """
    from ..rollout import control

    plan = read(file)
    if reason is not None and not 0 < len(reason.strip()) <= REASON_MAX:
        raise click.UsageError(f"--accept: give a reason of at most {REASON_MAX} characters")
    with errors_as_messages():
        candidate = control.known_candidate(settings, group)
        share = plan.next_share(candidate.share)
        if share is None:
            raise RolloutError(
                f"{candidate.group} has the last share, {candidate.share}. To end the rollout, "
                f"run: readstates rollout finish {candidate.group}"
            )
        candidate = _passed(settings, plan, candidate, url, reason)
        control.refuse_if_changed(settings, candidate)
        offset = control.set_share(settings, candidate, share, compares=candidate.compares)
        click.echo(f"{candidate.group}: share {candidate.share} -> {share}")
        late = control.not_following(settings, candidate.group, offset)
    if late:
        raise click.ClickException(
            f"no sign of {', '.join(late)}. Where no other worker of the candidate answers, the "
            "live workers go on answering"
        )


@click.command("finish", cls=SettingsCommand, short_help="End a candidate whose version is live.")
@click.argument("group", required=False)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    help="How long to wait for the commits of the live workers.",
)
@with_gates
@with_settings(*KAFKA_ONLY, "kafka_group")
def finish(
    settings: Settings, group: str | None, timeout_s: float, file: Path | None, url: str
) -> None:
    """End the rollout of GROUP, or of the only candidate: its version becomes the live one.

    Run this command twice, with the settings of the live workers. The first run notes that the
    gates of the last phase hold, and exits with 1. Then restart the live workers with the
    candidate's version and settings; until they are ready, the candidate answers all users. The
    second run waits until the live workers have committed all updates, and ends the candidate. Any
    run can be interrupted and repeated.
    """
    from ..rollout import control, finishing
    from ..rollout.prometheus import Prometheus

    plan = read(file)
    with errors_as_messages():
        candidate = control.known_candidate(settings, group)
        if candidate.group == settings.kafka_group:
            raise RolloutError(
                f"{candidate.group} is the candidate's group. Set KAFKA_GROUP to that of the live "
                "workers"
            )
        if candidate.share < SHARE_MAX:
            raise RolloutError(
                f"{candidate.group} has share {candidate.share}, and must have {SHARE_MAX} first: "
                f"readstates rollout advance {candidate.group}"
            )
        if not candidate.finishing_ms:
            candidate = _passed(settings, plan, candidate, url, None)
            candidate = control.note_finishing(settings, candidate)
            click.echo("the gates of the last phase hold")
        finishing.refuse_old_workers(Prometheus(url), candidate, time.time())
        click.echo("all live workers were started since the last gates held")
        finishing.wait_for_commits(settings, timeout_s, _Left().show)
        control.refuse_if_changed(settings, candidate)
        control.abort(settings, candidate)
    click.echo(f"{candidate.group} has ended: the live workers answer everybody")
    for one in candidate.accepted:
        click.echo(f"  {one.differences} differences were accepted: {one.reason}")


class _Left:
    """Prints how many records the live workers have not committed yet, when that has changed."""

    def __init__(self) -> None:
        self._last = -1

    def show(self, count: int) -> None:
        if count != self._last:
            click.echo(f"records that the live workers have not committed yet: {count}")
        self._last = count


def _passed(
    settings: Settings, plan: Plan, candidate: Candidate, url: str, reason: str | None
) -> Candidate:
    """The candidate, with what was accepted. Raises RolloutError if a gate of its phase fails."""
    from ..rollout import control

    now_s = time.time()
    verdicts = judged_by(plan, candidate, url, now_s)
    if reason is not None:
        count = _differences(verdicts)
        if count > candidate.differences:
            candidate = control.accept(settings, candidate, reason.strip(), count)
            click.echo(f"accepted: {count} differences in all, because: {reason.strip()}")
            verdicts = judged_by(plan, candidate, url, now_s)
        else:
            click.echo("there is no difference that is not accepted yet")
    show(verdicts, now_s)
    failed = [verdict.gate.name for verdict in verdicts if not verdict.holds]
    if failed:
        raise RolloutError(
            f"{candidate.group} keeps share {candidate.share}, because these gates do not hold: "
            f"{', '.join(failed)}"
        )
    return candidate


def _differences(verdicts: Sequence[Verdict]) -> int:
    """How many differences there are. `increase` extrapolates, so the figure is rounded."""
    found = [one.value for one in verdicts if one.gate.accepts]
    if not found:
        raise RolloutError("the plan has no gate that accepts differences")
    known = [value for value in found if value is not None and 0 <= value < float("inf")]
    if len(known) < len(found):
        raise RolloutError("Prometheus does not say how many differences there are")
    return round(max(known))
