"""`readstates rollout`: another version or configuration runs beside the live workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ..config import Settings
from ..rollout.gates import Verdict
from .options import CASSANDRA, KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .rollout_advance import advance, finish
from .rollout_compare import compare
from .rollout_gates import as_object, gates, judged_by, line_of, read, with_plan
from .rollout_watch import watch

FRESH_S = 2.0  # a worker whose last beat is older does not answer; clocks differ, too


@click.group("rollout")
def rollout() -> None:
    """Run another version or configuration beside the live workers, as a candidate.

    A candidate is a group of workers with ROLE=candidate and its own KAFKA_GROUP. It applies the
    same updates, but writes to its own table. Its share says how many of 10,000 users get their
    replies from it. At share 0, no client gets a reply from the candidate.
    """


@rollout.command("start", cls=SettingsCommand, short_help="Make GROUP a candidate, at share 0.")
@click.argument("group")
@with_settings(*KAFKA_ONLY, "kafka_group", *CASSANDRA)
def start(settings: Settings, group: str) -> None:
    """Make GROUP a candidate, at share 0. All clients get the same replies as before.

    Run this command with the settings of the live workers. GROUP must not have members yet. Then
    start the candidate's workers with ROLE=candidate and KAFKA_GROUP=GROUP. They begin at the
    present commits of the live group.
    """
    from ..rollout import control

    with errors_as_messages():
        candidate = control.start(settings, group)
    click.echo(f"{group} is a candidate, run {candidate.run}, share 0")
    click.echo(f"start its workers with ROLE=candidate and KAFKA_GROUP={group}")


@rollout.command("status", cls=SettingsCommand, short_help="Show the candidates.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--prometheus", "url", metavar="URL", help="Also show the gates of each candidate's phase."
)
@with_plan
@with_settings(*KAFKA_ONLY)
def status(settings: Settings, as_json: bool, url: str | None, file: Path | None) -> None:
    """Show the candidates, their shares and their workers. The command changes nothing."""
    import orjson

    from ..kafka.rollout_topic import read_rollouts

    verdicts: dict[str, list[Verdict]] = {}
    now_s = time.time()
    with errors_as_messages():
        found = read_rollouts(settings)
        if url is not None:
            plan = read(file)
            verdicts = {
                group: judged_by(plan, one, url, now_s) for group, one in found.candidates.items()
            }
    now_ms = int(now_s * 1000)
    candidates: list[dict[str, Any]] = [
        {
            "group": one.group,
            "share": one.share,
            "compares": one.compares,
            "run": one.run,
            "since_ms": one.since_ms,
            "started_ms": one.started_ms,
            "finishing_ms": one.finishing_ms,
            "accepted": [accepted._asdict() for accepted in one.accepted],
            "gates": [as_object(verdict) for verdict in verdicts.get(one.group, ())],
            "workers": [
                {
                    "worker": worker,
                    "is_fresh": now_ms - beaten.at_ms < FRESH_S * 1000,
                    "follows": beaten.beat.follows > found.control,
                    "partitions": sorted(beaten.beat.partitions),
                }
                for (group, worker), beaten in sorted(found.beats.items())
                if group == one.group
            ],
        }
        for _, one in sorted(found.candidates.items())
    ]
    if as_json:
        click.echo(orjson.dumps({"candidates": candidates}).decode())
        return
    for one in candidates:
        comparison = "on" if one["compares"] else "off"
        finishing = ", being finished" if one["finishing_ms"] else ""
        click.echo(f"{one['group']}: share {one['share']}, comparison {comparison}{finishing}")
        for worker in one["workers"]:
            state = "answers" if worker["is_fresh"] else "silent, last answered"
            late = "" if worker["follows"] else "; does not follow the last change yet"
            numbers = ", ".join(map(str, worker["partitions"])) or "none"
            click.echo(f"  {worker['worker']}: {state} partitions {numbers}{late}")
        if not one["workers"]:
            click.echo("  no worker")
        for accepted in one["accepted"]:
            click.echo(f"  accepted {accepted['differences']} differences: {accepted['reason']}")
        for verdict in verdicts.get(one["group"], ()):
            click.echo(f"  {line_of(verdict, now_s)}")
    if not candidates:
        click.echo("no candidate")


@rollout.command("back", cls=SettingsCommand, short_help="Set the candidate's share to 0.")
@click.argument("group", required=False)
@with_settings(*KAFKA_ONLY)
def back(settings: Settings, group: str | None) -> None:
    """Set the share of GROUP, or of the only candidate, to 0: live workers answer all users.

    Each worker applies the new share within a second. The command waits up to five seconds for the
    candidate's workers to confirm this, and exits with 1 if one does not. The comparison of replies
    continues.
    """
    from ..rollout import control

    with errors_as_messages():
        candidate = control.known_candidate(settings, group)
        offset = control.set_share(settings, candidate, 0, compares=candidate.compares)
        click.echo(f"{candidate.group}: share {candidate.share} -> 0")
        late = control.not_following(settings, candidate.group, offset)
    if late:
        raise click.ClickException(
            f"no sign of {', '.join(late)}. If they are alive, end them: the live workers answer "
            "everybody, but such a worker may answer, too"
        )


@rollout.command("abort", cls=SettingsCommand, short_help="End the candidate.")
@click.argument("group", required=False)
@with_settings(*KAFKA_ONLY)
def abort(settings: Settings, group: str | None) -> None:
    """End GROUP, or the only candidate: its workers stop, and live workers answer all users."""
    from ..rollout import control

    with errors_as_messages():
        candidate = control.known_candidate(settings, group)
        control.abort(settings, candidate)
    click.echo(f"{candidate.group} is no candidate any more; its workers end by themselves")


for command in (advance, compare, finish, gates, watch):
    rollout.add_command(command)
