"""SCRAM (RFC 5802), the client's side: a login that proves the password without sending it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from ..errors import ReadStatesError

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
ITERATIONS_MIN = 4096  # the least that RFC 5802 and Kafka allow
ITERATIONS_MAX = 1 << 20  # half a second: more would only hold up the login
NONCE_BYTES = 24


class ScramError(ReadStatesError):
    """The broker's side of the login is wrong: it may not know the password itself."""


class ScramClient:
    """One login: send `first()`, then `final(...)` of the answer, then `check` the answer."""

    def __init__(self, mechanism: str, username: str, password: str, nonce: str = "") -> None:
        self._hash, self._password = HASHES[mechanism], password.encode()
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
        name = username.replace("=", "=3D").replace(",", "=2C")
        self._first_bare = f"n={name},r={self._nonce}"
        self._signature = b""

    def first(self) -> bytes:
        """The first message."""
        return f"n,,{self._first_bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        """The second message: the proof. Raises ScramError."""
        fields = _fields(challenge)
        try:
            nonce, iterations = fields["r"], int(fields["i"])
            salt = base64.b64decode(fields["s"], validate=True)
        except (KeyError, ValueError) as exc:
            raise ScramError(f"the broker's challenge of the login is malformed: {exc}") from exc
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("the broker answered another client's login: its nonce is wrong")
        if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
            raise ScramError(
                f"the broker wants {iterations} iterations of the password's hash, and only "
                f"{ITERATIONS_MIN} … {ITERATIONS_MAX} are accepted"
            )
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, iterations)
        without_proof = f"c=biws,r={nonce}"  # biws: "n,,", no channel binding
        signed = b",".join((self._first_bare.encode(), challenge, without_proof.encode()))
        client_key = self._hmac(salted, b"Client Key")
        stored_key = hashlib.new(self._hash, client_key).digest()
        mask = self._hmac(stored_key, signed)
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), signed)
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def check(self, answer: bytes) -> None:
        """Check that the broker knows the password, too. Raises ScramError."""
        try:
            signature = base64.b64decode(_fields(answer)["v"], validate=True)
        except (KeyError, ValueError) as exc:
            raise ScramError("the broker's last message of the login is malformed") from exc
        if not self._signature or not hmac.compare_digest(signature, self._signature):
            raise ScramError("the broker does not know the password: it may be another server")

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._hash)


def _fields(message: bytes) -> dict[str, str]:
    parts = message.decode("utf-8", "replace").split(",")
    return {part[0]: part[2:] for part in parts if part[1:2] == "="}
