"""A command whose login lacks a right says where the rights are listed."""

from __future__ import annotations

import click
import pytest
from confluent_kafka import KafkaError, KafkaException

from readstates.streams.commands.options import errors_as_messages


def text_of(code: int) -> str:
    with pytest.raises(click.ClickException) as found, errors_as_messages():
        raise KafkaException(KafkaError(code))
    return str(found.value.message)


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED]
)
def test_a_missing_right(code: int) -> None:
    said = text_of(code)
    assert said.startswith("Broker: ")
    assert "lacks a right that this command needs: SECURITY.md" in said


def test_another_error_of_kafka() -> None:
    assert "right" not in text_of(KafkaError.LEADER_NOT_AVAILABLE)
