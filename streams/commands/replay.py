"""`readstates replay`: sends a recording again, at its own pace or N times faster.

A record goes into the partition that it came from if the topics have as many partitions as the
recorded ones, and otherwise into the partition of its key. Queries are asked anew, in the plain
dialect: the reply address and the correlation ID are the replay's own, the time until the deadline
is the recorded one, and `after_offset` is left out, because the offsets differ. A query without a
usable reply address is sent unchanged.

With `--compare`, each new reply is compared with the recorded one (`replay_comparing.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .recording import RecordingError, partitions_of

if TYPE_CHECKING:
    from .replay_comparing import Comparing


@click.command("replay", cls=SettingsCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Speed of the replay, as a multiple of the recording's.",
)
@click.option(
    "--wait-s",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the last replies.",
)
@click.option("--queries-only", is_flag=True, help="Do not send the updates.")
@click.option(
    "--compare", "compares", is_flag=True, help="Compare the replies with the recorded ones."
)
@click.option(
    "--examples",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --compare: a new file for the pairs that are different or not comparable.",
)
@click.option(
    "--other-log",
    is_flag=True,
    help="With --compare: ignore the recorded versions. Use it only if no read state changes "
    "during the replay.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY)
def replay(
    settings: Settings,
    file: Path,
    speed: float,
    wait_s: float,
    queries_only: bool,
    compares: bool,
    examples: Path | None,
    other_log: bool,
    as_json: bool,
) -> None:
    """Send the updates and queries of a recording, FILE, to the topics again.

    The command keeps the order of the records. It also keeps their timing, scaled by --speed. The
    updates become new events in the log, so replay into a separate service and not into the
    recorded one. The queries ask for replies on the command's own topic, and have no after_offset.
    A round trip is measured from the time when its query was due. The exit status is 1 if the
    brokers refuse a record. Query errors and missing replies are only counted, because the recorded
    service may have had them too.

    With --compare, the command compares each new reply with the recorded one. FILE is then a
    recording with replies (record --replies), or has JSON lines {"query", "reply"} from any
    service, with an optional timestamp_ms. The two replies may be from different positions of the
    log. If updates between these positions may explain a difference, the pair is not comparable.
    Use --queries-only if the service reads the same log that was recorded. With --compare, the exit
    status is also 1 if the replies of a pair differ, a query is not answered, or no pair matches.
    """
    if not compares and (examples or other_log):
        raise click.UsageError("--examples and --other-log are for --compare")
    from .replaying import Replay

    try:
        with errors_as_messages(), ExitStack() as stack:
            comparing = None
            if compares:
                comparing = _comparing(stack, file, queries_only, other_log, examples)
            result = Replay(settings, file, speed, queries_only, comparing).run(wait_s)
    except RecordingError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(json.dumps(result) if as_json else "\n".join(_lines(result, comparing)))
    if comparing is not None and not comparing.is_good:
        raise click.exceptions.Exit(1)


def _comparing(
    stack: ExitStack, file: Path, queries_only: bool, other_log: bool, examples: Path | None
) -> Comparing:
    from ..comparison.tally import Sides, Tally
    from ..comparison.two_logs import TwoLogs
    from .record import open_private
    from .replay_comparing import Comparing
    from .reply_pairs import is_recording

    out = None
    if examples is not None:
        out = stack.enter_context(os.fdopen(open_private(examples, force=False), "wb"))
    is_two_logs = is_recording(file) and not queries_only and not other_log
    logs = TwoLogs(partitions_of(file)) if is_two_logs else None
    return Comparing(Tally(Sides("recorded", "replayed"), out), logs, other_log)


def _lines(result: dict[str, Any], comparing: Comparing | None) -> Iterator[str]:
    yield (
        f"{result['updates']} updates and {result['queries']} queries in "
        f"{result['took_s']:.1f} s, at most {result['late_ms']:.0f} ms late"
    )
    yield (
        f"{result['answered']} answered, errors: {result['errors'] or 'none'}, "
        f"no reply: {result['unanswered']}"
    )
    if result["round_trip_ms"]:
        quantiles = " · ".join(f"{name} {ms:.1f}" for name, ms in result["round_trip_ms"].items())
        yield f"round trip: {quantiles} ms"
    if comparing is not None:
        yield from comparing.lines()
