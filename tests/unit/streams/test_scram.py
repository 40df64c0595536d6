"""The login by SCRAM, over the examples of the RFCs and answers that lie."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from readstates.streams.kafka import scram
from readstates.streams.kafka.scram import ScramClient, ScramError

NONCE = "rOprNGfwEbeRWgbNEkqO"  # all of this is from RFC 7677, 3
CHALLENGE = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
ANSWER = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def client() -> ScramClient:
    return ScramClient("SCRAM-SHA-256", "user", "pencil", NONCE)


def test_the_example() -> None:
    login = client()
    assert login.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert login.final(CHALLENGE) == FINAL
    login.check(ANSWER)


def test_sha_512() -> None:
    """The broker is imitated here; test_reader_logins.py asks Kafka itself."""
    login = ScramClient("SCRAM-SHA-512", "u,s=er", "pässword", "abc")
    assert login.first() == b"n,,n=u=2Cs=3Der,r=abc"
    challenge = b"r=abcdef,s=" + base64.b64encode(b"salt") + b",i=5000"
    final = login.final(challenge)
    salted = hashlib.pbkdf2_hmac("sha512", "pässword".encode(), b"salt", 5000)
    client_key = hmac.digest(salted, b"Client Key", "sha512")
    message = b"n=u=2Cs=3Der,r=abc," + challenge + b",c=biws,r=abcdef"
    signature = hmac.digest(hashlib.sha512(client_key).digest(), message, "sha512")
    without, _, proof = final.partition(b",p=")
    assert without == b"c=biws,r=abcdef"
    proven = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    assert proven == client_key
    server_key = hmac.digest(salted, b"Server Key", "sha512")
    login.check(b"v=" + base64.b64encode(hmac.digest(server_key, message, "sha512")))


def test_each_login_has_its_own_nonce() -> None:
    nonces = {ScramClient("SCRAM-SHA-256", "user", "pencil").first() for _ in range(50)}
    assert len(nonces) == 50


@pytest.mark.parametrize(
    ("challenge", "says"),
    [
        (CHALLENGE.replace(b"rOpr", b"xOpr"), "another client's login"),
        (CHALLENGE.replace(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b""), "another client's login"),
        (CHALLENGE.replace(b"4096", b"4095"), "4095 iterations"),
        (CHALLENGE.replace(b"4096", b"%d" % (scram.ITERATIONS_MAX + 1)), "iterations"),
        (CHALLENGE.replace(b"4096", b"many"), "malformed"),
        (CHALLENGE.replace(b"s=W22", b"s=!W2"), "malformed"),
        (b"e=unknown-user", "malformed"),
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_a_challenge_that_is_wrong(challenge: bytes, says: str) -> None:
    with pytest.raises(ScramError, match=says):
        client().final(challenge)


@pytest.mark.parametrize(
    "answer", [b"", b"v=", b"v=AAAA", ANSWER.replace(b"6r", b"7r"), b"v=%%", b"e=other-error"]
)
def test_a_broker_that_does_not_know_the_password(answer: bytes) -> None:
    login = client()
    login.final(CHALLENGE)
    with pytest.raises(ScramError):
        login.check(answer)


def test_no_check_before_the_proof() -> None:
    with pytest.raises(ScramError):
        client().check(b"v=")
