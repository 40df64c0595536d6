"""`make demo` and `readstates demo`: the service at work, with a proof at the end (stages.py)."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--updates", default=200_000, show_default=True, help="Updates sent in the burst.")
@click.option("--queries", default=25, show_default=True, help="Queries of each kind per second.")
@click.option("--users", default=10_000, show_default=True, help="Number of users with traffic.")
@click.option("--seconds", default=24.0, show_default=True, help="Seconds of steady traffic.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random traffic.")
def demo(updates: int, queries: int, users: int, seconds: float, seed: int) -> None:
    """Start everything on this machine, send sample traffic, and check the result.

    The demo starts a real Kafka, a real Cassandra and a worker, and stops them at the end. From the
    log, it also computes the read states a second time, with separate code. The exit status is 0
    only if Cassandra has the same read states.
    """
    from .stages import play  # here, because --help works without the packages of a worker

    sys.exit(0 if play(updates, queries, users, seconds, seed) else 1)


if __name__ == "__main__":
    demo()
