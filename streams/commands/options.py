"""The settings as options of a command, and the end of a command after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from functools import wraps
from typing import Any

import click

from ..config import SECRETS, Settings, env_name, number_text, range_text
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
RIGHTS = "SECURITY.md lists the rights of a command"
LOGIN = (
    "The login of KAFKA_CONFIG lacks a right that this command needs: SECURITY.md lists them under "
    "“Rights in Kafka”. The workers' login may neither produce updates nor ask queries"
)
ENVIRONMENT_NOTE = (
    "Each setting can also be set in the environment, for example --kafka-bootstrap as "
    "READ_STATES_KAFKA_BOOTSTRAP. Flags take precedence."
)


class SettingOption(click.Option):
    """A setting as a flag; `--help` shows it under the heading `group`."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class SettingsCommand(click.Command):
    """A command whose `--help` shows its own options first, then the settings by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            title = param.group if isinstance(param, SettingOption) else "Options"
            row = param.get_help_record(ctx)
            if row is not None:
                sections.setdefault(title, []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text(ENVIRONMENT_NOTE)


def with_settings(*names: str) -> Callable[[Any], Any]:
    """Add settings (all, if none is named) as options; the command gets `settings`, its first one.

    A setting that is wrong ends the command with status 2.
    """
    chosen = [setting for setting in fields(Settings) if not names or setting.name in names]

    def decorate(function: Callable[..., None]) -> Any:
        @wraps(function)
        def command(**values: Any) -> None:
            flags = {setting.name: values.pop(setting.name) for setting in chosen}
            try:
                settings = Settings.load(**flags)
            except ReadStatesError as exc:
                raise click.UsageError(str(exc)) from exc
            function(settings, **values)

        for setting in reversed(chosen):
            command = click.option(
                f"--{setting.name.replace('_', '-')}",
                setting.name,
                cls=SettingOption,
                group=setting.metadata["group"],
                default=None,
                metavar=type(setting.default).__name__.upper(),
                help=describe(setting),
            )(command)
        return command

    return decorate


def describe(setting: Field[Any]) -> str:
    """Meaning, then range, unit and default, for `--help`."""
    default = setting.default
    allowed = f"{range_text(setting)} {setting.metadata['unit']}".strip()
    facts = [allowed.replace(" ", "\N{NO-BREAK SPACE}")]
    if isinstance(default, int | float):
        facts.append(f"default: {number_text(setting, default)}")
    elif default:
        facts.append(f"default: {default}")
    text = setting.metadata["help"]
    if setting.name in SECRETS:
        name = env_name(setting.name)
        text += (
            f" Other users can see flags in `ps`: set {name} instead, or set {name}_FILE to the "
            "path of a file."
        )
    known = "; ".join(fact for fact in facts if fact)
    return f"{text}  [{known}]" if known else text


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """End the command with one line, not a traceback, after our error or Kafka's client's."""
    from confluent_kafka import KafkaError, KafkaException

    refusals = {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
    try:
        yield
    except (KafkaException, ReadStatesError, OSError) as exc:
        text = str(exc) or "Kafka gave no answer in time: run it again"  # a TimeoutError is empty
        error = exc.args[0] if isinstance(exc, KafkaException) else None
        if isinstance(error, KafkaError) and error.code() in refusals:
            text = f"{error.str()}. {LOGIN}"
        raise click.ClickException(text) from exc
