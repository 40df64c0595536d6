"""The reader against brokers with TLS and logins."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from readstates.ops.local import credentials
from readstates.ops.local.owner import Owner
from readstates.ops.local.stack import Stack
from readstates.streams.errors import GroupError
from tests.support.topic_reading import ENV, WAIT_S, Topic, reading


@pytest.fixture(scope="module")
def secure(owner: Owner) -> Iterator[tuple[Stack, credentials.Secrets]]:
    stack = owner.stack(f"secure-{uuid.uuid4().hex[:8]}", secure=True, brief=True)
    yield stack, credentials.load(stack.data_dir)
    stack.down(remove=True)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
async def test_tls_and_a_login(
    secure: tuple[Stack, credentials.Secrets],
    mechanism: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    stack, known = secure
    login = known.kafka_config(mechanism)
    config = {"bootstrap.servers": stack.env()[f"{ENV}KAFKA_BOOTSTRAP"], **login}
    topic = Topic(config, partitions=2)
    value = os.urandom(300_000)  # more than TLS sends at once
    topic.write(value, *[b"small"] * 10)
    topic.write(b"other", number=1)

    def text(changed: dict[str, str]) -> str:
        return ",".join(f"{key}={setting}" for key, setting in {**login, **changed}.items())

    async with reading(topic, kafka_config=text({})) as read:
        read.reader.start(0, 0, token=1)
        await read.up_to(11)
        assert read.records()[0].value == value
        read.reader.start(1, 0, token=1)  # while a fetch waits
        assert await read.up_to(1, 1) == [0]
        topic.write(b"more")
        assert await read.up_to(12) == list(range(12))
    assert f"user=admin mechanism={mechanism}" in caplog.text
    async with reading(topic, kafka_config=text({"sasl.password": "wrong-one"})) as read:
        read.reader.start(0, 0, token=1)
        await read.until(lambda: "not_read topic=" in caplog.text)
        assert "the broker refused the login" in caplog.text
    assert "wrong-one" not in caplog.text
    assert known.kafka not in caplog.text


async def test_a_user_without_rights(secure: tuple[Stack, credentials.Secrets]) -> None:
    stack, known = secure
    login = known.kafka_config()
    config = {"bootstrap.servers": stack.env()[f"{ENV}KAFKA_BOOTSTRAP"], **login}
    topic = Topic(config)
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion("nobody", info, b"a-password")
    topic.admin.alter_user_scram_credentials([change])["nobody"].result(WAIT_S)
    theirs = {**login, "sasl.username": "nobody", "sasl.password": "a-password"}
    text = ",".join(f"{key}={value}" for key, value in theirs.items())
    async with reading(topic, kafka_config=text) as read:
        read.reader.start(0, 0, token=1)
        await read.until(lambda: read.refused)
        assert isinstance(read.refused[0], GroupError)
        assert f"{topic.name}: this worker is not allowed to read it" in str(read.refused[0])


async def test_without_the_servers_certificate(
    secure: tuple[Stack, credentials.Secrets], caplog: pytest.LogCaptureFixture
) -> None:
    stack, known = secure
    login = known.kafka_config()
    config = {"bootstrap.servers": stack.env()[f"{ENV}KAFKA_BOOTSTRAP"], **login}
    topic = Topic(config)
    pairs = {key: value for key, value in login.items() if key != "ssl.ca.location"}
    text = ",".join(f"{key}={value}" for key, value in pairs.items())
    async with reading(topic, kafka_config=text) as read:
        read.reader.start(0, 0, token=1)
        await read.until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
