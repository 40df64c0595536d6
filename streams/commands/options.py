"""The settings as options of a command, and the end of a command over an error of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import click

from ..config import Settings, describe, env_name
from ..errors import ReadStatesError

KAFKA_ONLY = ("kafka_bootstrap", "kafka_config", "topic_prefix")
CASSANDRA = (
    "cassandra_hosts",
    "cassandra_port",
    "cassandra_keyspace",
    "cassandra_local_dc",
    "cassandra_username",
    "cassandra_password",
    "cassandra_tls_ca",
    "cassandra_tls_cert",
    "cassandra_tls_key",
)


def with_settings(*names: str) -> Callable[[Any], Any]:
    """Add the settings (all, if none is named) as options; the command gets them as keywords."""

    def decorate(command: Any) -> Any:
        for setting in reversed(fields(Settings)):
            if names and setting.name not in names:
                continue
            command = click.option(
                f"--{setting.name.replace('_', '-')}",
                setting.name,
                default=None,
                metavar=type(setting.default).__name__.upper(),
                help=f"{describe(setting)}  ({env_name(setting.name)})",
            )(command)
        return command

    return decorate


def settings_of(given: dict[str, Any]) -> Settings:
    """Settings from the flags and the environment; a wrong one ends the command with 2."""
    try:
        return Settings.load(**given)
    except ReadStatesError as exc:
        raise click.UsageError(str(exc)) from exc


@contextmanager
def spoken_errors() -> Iterator[None]:
    """An error of ours, or of Kafka's client, ends the command with a line, not a traceback."""
    from confluent_kafka import KafkaException

    try:
        yield
    except (KafkaException, ReadStatesError, OSError) as exc:
        text = str(exc) or "Kafka gave no answer in time: run it again"  # a TimeoutError is empty
        raise click.ClickException(text) from exc
