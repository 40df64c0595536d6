"""`make foreign`: other people's clients against a real Kafka, Cassandra and worker.

Each client produces events and sends queries at 8 partitions and at 6. Every reply is compared,
field by field, with the log's fold and with the reply to the project's own client. Before that the
client shows where it puts keys as long as nothing is set.

Names of clients as arguments run these alone; a run of all writes README.md's table and
placements.json. A client whose toolchain is missing is left out, and keeps its placements.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from readstates.ops.local.owner import Owner, command
from readstates.schemas.other_partitioners import explain
from readstates.schemas.partitioner import partition_of

from . import table
from .clients import CLIENTS, Client
from .models import check_models
from .service import Misplaced, Place, Service, differences
from .table import PARTITIONS, Line
from .toolchains import ROOT, Missing, built
from .traffic import EVENTS, USERS, Record, Traffic

TIMEOUT_S = 300.0  # of one run of a client's program
PLACEMENTS = Path(__file__).with_name("placements.json")
DIFFERENCES_SHOWN = 3
STDERR_SHOWN = 1500  # characters
OK = "equal"

Step = dict[str, Any]
Placements = dict[str, dict[str, list[Place]]]


class Failed(Exception):
    """A client's program failed, or a reply is not what it must be."""


def step(topic: str, records: list[Record], *, setting: bool, replies: str | None = None) -> Step:
    rows = [record._asdict() for record in records]
    return {"topic": topic, "replies": replies, "setting": setting, "records": rows}


class Campaign:
    """Runs clients one after the other against the services."""

    def __init__(self, owner: Owner) -> None:
        self._folder = owner.folder
        env = owner.stack(progress=click.echo).env()
        self._services = [Service(env, owner.folder, count) for count in PARTITIONS]
        self.placements: Placements = {}
        self.replies: dict[str, str] = {}  # one as it came, of each kind

    def close(self) -> None:
        for service in self._services:
            service.close()

    def line(self, number: int, client: Client) -> Line:
        """Runs a client; its line in the table, whatever came of it."""
        name, version = client.name, client.version
        try:
            folder = built(client.toolchain)
        except Missing as why:
            dashes = ("–",) * len(PARTITIONS)
            return Line(name, version, dashes, client.setting, "–", f"left out: {why}")
        defaults: list[str] = []
        replies, result = 0, OK
        try:
            traffic = Traffic(number)
            self._produce(client, number, folder, traffic)
            defaults = [self._places(client, number, service) for service in self._services]
            replies = self._ask(client, number, folder, traffic)
        except (Failed, Misplaced, subprocess.TimeoutExpired, TimeoutError) as why:
            result = "wrong"
            click.echo(f"{client.name}: {why}", err=True)
        defaults += ["–"] * (len(PARTITIONS) - len(defaults))
        return Line(name, version, tuple(defaults), client.setting, str(replies), result)

    def _place_topic(self, number: int, service: Service) -> str:
        return f"places-{number}-of-{service.partitions}"

    def _produce(self, client: Client, number: int, folder: Path, traffic: Traffic) -> None:
        """Records with nothing set to a topic that shows their places; events as they must be."""
        steps = []
        for service in self._services:
            topic = service.topic(self._place_topic(number, service), service.partitions)
            steps.append(step(topic, traffic.places(), setting=False))
        for service in self._services:
            steps.append(step(service.updates, traffic.events(), setting=True))
        self._run(client, folder, steps)

    def _places(self, client: Client, number: int, service: Service) -> str:
        """What the client's default partitioner did."""
        found = sorted(set(service.places(self._place_topic(number, service))))
        count = service.partitions
        wrong = [(key, at) for key, at in found if at != partition_of(key.encode(), count)]
        self.placements.setdefault(client.name, {})[str(count)] = found
        if not wrong:
            return "right"
        (likeliest, *_) = explain([(key.encode(), at) for key, at in wrong], count)
        users = len({key for key, _ in wrong})
        return f"wrong for {users} of {USERS} users: {likeliest.name}"

    def _ask(self, client: Client, number: int, folder: Path, traffic: Traffic) -> int:
        """Asks, and compares; the number of replies that are as they must be."""
        steps, expected = [], []
        for service in self._services:
            queries = traffic.queries(service.fold(EVENTS))
            expected.append([service.expected(query) for query in queries])
            replies = service.topic(
                f"{service.prefix}.replies.client-{number}", client.reply_partitions
            )
            steps.append(step(service.queries, queries, setting=True, replies=replies))
        got = {(line["step"], line["record"]): line for line in self._run(client, folder, steps)}
        wrong: list[str] = []
        for at, replies_wanted in enumerate(expected):
            for record, wanted in enumerate(replies_wanted):
                wrong += self._compare(wanted, got.get((at, record)), f"{at}/{record}")
        if wrong:
            raise Failed("; ".join(wrong[:DIFFERENCES_SHOWN]))
        self._keep(got.values())
        return len(got)

    @staticmethod
    def _compare(wanted: dict[str, Any], line: dict[str, Any] | None, where: str) -> list[str]:
        if line is None:
            return [f"{where}: no reply"]
        code = wanted.get("error", {}).get("code")
        if line["error"] != code:
            return [f"{where}: error {line['error']}, wanted {code}"]
        return differences(wanted, json.loads(line["reply"]), where)

    def _keep(self, lines: Iterable[dict[str, Any]]) -> None:
        """Keeps a reply of each kind, the one that says most."""
        for line in lines:
            body = json.loads(line["reply"])
            kind = line["error"] or f"full {body['full']}"
            if len(line["reply"]) > len(self.replies.get(kind, "")):
                self.replies[kind] = line["reply"]

    def _run(self, client: Client, folder: Path, steps: list[Step]) -> list[dict[str, Any]]:
        """Runs the client's program on these steps; the lines that it printed."""
        plan = self._folder / "plan.json"
        body = {"bootstrap": self._services[0].bootstrap, "steps": steps}
        plan.write_text(json.dumps(body), "utf-8")
        done = subprocess.run(
            [*client.run, str(plan)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"exit status {done.returncode}: {done.stderr[-STDERR_SHOWN:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def save_placements(found: Placements) -> None:
    """Keeps the places of the clients that have to set something to be right."""
    old: Placements = json.loads(PLACEMENTS.read_text("utf-8")) if PLACEMENTS.exists() else {}
    wrong = {
        name: places
        for name, places in found.items()
        if any(at != partition_of(key.encode(), int(n)) for n in places for key, at in places[n])
    }
    kept = {name: places for name, places in old.items() if name not in found}
    lines = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(n)}: {json.dumps(places[n])}" for n in places)
        + "\n  }"
        for name, places in sorted({**kept, **wrong}.items())
    ]
    PLACEMENTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Run the clients whose name contains one of NAMES, or all."""
    lines = []
    with command("read-states-foreign-") as owner:
        campaign = Campaign(owner)
        try:
            for number, client in enumerate(CLIENTS):
                if names and not any(name in client.name for name in names):
                    continue
                start = time.monotonic()
                lines.append(campaign.line(number, client))
                took = time.monotonic() - start
                click.echo(f"{client.name} {client.version}: {lines[-1].result}, {took:.0f} s")
        finally:
            campaign.close()
        save_placements(campaign.placements)
    models = check_models(list(campaign.replies.values()))
    printed = table.markdown(lines) + "\n" + table.models_markdown(models)
    if not names:
        table.write(printed)
    click.echo(printed)
    results = [line.result for line in lines] + [line.result for line in models]
    if any(result.startswith("wrong") for result in results):
        raise click.ClickException("some clients did not get what they must, see above")


if __name__ == "__main__":
    main()
