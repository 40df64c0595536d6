"""KAFKA_CONFIG as the readers get it, and what is refused because they could not follow."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from readstates.streams.config import Settings
from readstates.streams.errors import ConfigError
from readstates.streams.kafka import admin
from readstates.streams.kafka.admin import connect_admin
from readstates.streams.kafka.login import Login, login

LOGIN = "sasl.mechanism=SCRAM-SHA-512,sasl.username=me,sasl.password=hid,,den"


def found(kafka_config: str) -> Login | None:
    """What the readers connect with."""
    return login(Settings.load({}, kafka_config=kafka_config))


def test_a_plain_connection() -> None:
    for given in ("", "security.protocol=plaintext", "linger.ms=5"):
        assert found(given) is None


@pytest.mark.parametrize("key", ["sasl.mechanism", "sasl.mechanisms"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_SSL", "sasl_plaintext"])
def test_a_login(protocol: str, mechanism: str, key: str) -> None:
    given = found(
        f"security.protocol={protocol},{key}={mechanism},sasl.username=me,sasl.password=hid,,den"
    )
    assert given is not None
    assert given[1:] == (mechanism, "me", "hid,den")
    assert (given.tls is not None) == (protocol == "SASL_SSL")
    assert "hid" not in repr(given)


def context_of(kafka_config: str) -> ssl.SSLContext:
    given = found(kafka_config)
    assert given is not None
    assert given.tls is not None
    return given.tls


def test_certificates_and_names_are_checked() -> None:
    for protocol in ("ssl", f"sasl_ssl,{LOGIN}"):
        context = context_of(f"security.protocol={protocol}")
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_names_only_are_not_checked_where_librdkafka_is_told_so() -> None:
    given = "security.protocol=ssl,ssl.endpoint.identification.algorithm=none"
    context = context_of(given)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("security.protocol=tls", "security.protocol must be one of"),
        (f"security.protocol=sasl_ssl,{LOGIN},sasl.mechanism=OAUTHBEARER", "sasl.mechanism must"),
        (f"security.protocol=sasl_ssl,{LOGIN},sasl.mechanism=GSSAPI", "sasl.mechanism must"),
        (f"security.protocol=sasl_ssl,{LOGIN},sasl.mechanisms=PLAIN", "sasl.mechanism must"),
        ("security.protocol=sasl_ssl,sasl.username=me,sasl.password=hidden", "sasl.mechanism must"),
        ("security.protocol=sasl_ssl,sasl.mechanism=PLAIN,sasl.password=hidden", "sasl.username"),
        ("security.protocol=sasl_ssl,sasl.mechanism=PLAIN,sasl.username=me", "sasl.password"),
        (LOGIN, "no effect with security.protocol=plaintext"),
        (f"security.protocol=ssl,{LOGIN}", "no effect with security.protocol=ssl"),
        ("ssl.ca.location=/ca", "no effect with security.protocol=plaintext"),
        (f"security.protocol=sasl_plaintext,{LOGIN},ssl.ca.location=/ca", "no effect"),
        ("security.protocol=ssl,ssl.crl.location=hidden", "ssl.crl.location is not followed"),
        ("security.protocol=ssl,ssl.ca.pem=hidden", "ssl.ca.pem is not followed"),
        ("security.protocol=ssl,enable.ssl.certificate.verification=false", "is not followed"),
        ("sasl.oauthbearer.config=hidden", "sasl.oauthbearer.config is not followed"),
        ("security.protocol=ssl,ssl.endpoint.identification.algorithm=x", "must be https or none"),
        ("security.protocol=ssl,ssl.ca.location=/nowhere", "no CA certificates.*/nowhere"),
        ("security.protocol=ssl,ssl.certificate.location=/nowhere", "/nowhere.*cannot be used"),
        ("security.protocol=ssl,ssl.key.location=/nowhere", "but no certificate"),
        ("bootstrap.servers=elsewhere:9092", "KAFKA_BOOTSTRAP"),
        ("metadata.broker.list=elsewhere:9092", "KAFKA_BOOTSTRAP"),
    ],
)
def test_what_the_readers_cannot_follow(given: str, said: str) -> None:
    settings = Settings.load({}, kafka_config=given)
    with pytest.raises(ConfigError, match=said) as caught:
        login(settings)
    assert "hid" not in str(caught.value)
    with pytest.raises(ConfigError, match=said):  # nobody connects before it is looked at
        connect_admin(settings)


@pytest.mark.parametrize(
    "given",
    [
        "linger.ms=5,hidden=x",
        f"security.protocol=sasl_ssl,{LOGIN.replace(',,', ',')}=x",  # a comma written once
        "linger.ms=hidden",
    ],
)
def test_what_librdkafka_does_not_know_is_not_repeated(given: str) -> None:
    with pytest.raises(ConfigError, match=r"(entry \d|an entry) is not a setting") as caught:
        connect_admin(Settings.load({}, kafka_config=given))
    assert not {"hid", "den"} & set(str(caught.value).split()) - {"hidden"}
    assert "hidden" not in str(caught.value)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 within .*readstates stack up"):
        connect_admin(Settings.load({}, kafka_bootstrap="127.0.0.1:1"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_client_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=me", "-days", "1"]
    argv += ["-passout", "pass:hidden", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    given = f"security.protocol=ssl,ssl.certificate.location={cert},ssl.key.location={key}"
    assert context_of(f"{given},ssl.key.password=hidden")
    for more in ("", ",ssl.key.password=hid"):  # never asked for at the terminal
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            found(given + more)
        assert "hid" not in str(caught.value)
