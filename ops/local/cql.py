"""Just enough of CQL's native protocol (version 4) to ask a starting server one question.

The full driver keeps threads and reports every refused connection; a server that is still starting
refuses many. Frame: version, flags, stream (i16), opcode, length (u32), body; big-endian.
Source: native_protocol_v4.spec in Cassandra's documentation.
"""

import contextlib
import socket
import ssl
import struct
from typing import NamedTuple

ERROR, STARTUP, READY, AUTHENTICATE, QUERY, RESULT = 0x00, 0x01, 0x02, 0x03, 0x07, 0x08
AUTH_RESPONSE, AUTH_SUCCESS = 0x0F, 0x10
REQUEST, RESPONSE = 0x04, 0x84
KIND_VOID, KIND_ROWS, KIND_SCHEMA_CHANGE = 1, 2, 5
CONSISTENCY_ONE = 0x0001
SKIP_METADATA = 0x02
NO_METADATA = 0x0004
BODY_BYTES_MAX = 1 << 20


class CqlError(Exception):
    """The server gave an answer that does not fit the question."""


class LoginError(CqlError):
    """The server does not know the user, or the password is wrong."""


class Login(NamedTuple):
    """A login at a server that speaks only TLS."""

    user: str
    password: str
    tls: ssl.SSLContext


def query(
    address: str, port: int, statement: str, timeout_s: float, login: Login | None = None
) -> list[list[bytes | None]]:
    """The rows of a SELECT, each value as its raw bytes; none for a statement without rows.

    Raises OSError (refused, timed out, no trust), LoginError and CqlError (any other answer).
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((address, port), timeout_s))
        connection.settimeout(timeout_s)
        if login is not None:
            secured = login.tls.wrap_socket(connection, server_hostname=address)
            connection = stack.enter_context(secured)
        _start(connection, login)
        text = statement.encode()
        body = struct.pack(">i", len(text)) + text
        body += struct.pack(">HB", CONSISTENCY_ONE, SKIP_METADATA)
        opcode, answer = _ask(connection, QUERY, body)
    if opcode != RESULT:
        raise CqlError(f"opcode {opcode} instead of a result: {answer[6:200]!r}")
    try:
        return _rows(answer)
    except (struct.error, IndexError) as error:
        raise CqlError("the result is cut short") from error


def _start(connection: socket.socket, login: Login | None) -> None:
    options = struct.pack(">H", 1) + _string("CQL_VERSION") + _string("3.0.0")
    opcode, _ = _ask(connection, STARTUP, options)
    if opcode == AUTHENTICATE and login is not None:
        token = f"\0{login.user}\0{login.password}".encode()
        opcode, _ = _ask(connection, AUTH_RESPONSE, struct.pack(">i", len(token)) + token)
        if opcode != AUTH_SUCCESS:
            raise LoginError(f"the server does not let {login.user} in")
    elif opcode != READY:
        raise CqlError("the server is not ready, or wants a login")


def _rows(body: bytes) -> list[list[bytes | None]]:
    (kind,) = struct.unpack_from(">i", body)
    if kind in (KIND_VOID, KIND_SCHEMA_CHANGE):
        return []
    _, flags, columns = struct.unpack_from(">iii", body)
    if kind != KIND_ROWS or not flags & NO_METADATA:
        raise CqlError(f"not plain rows: kind {kind}, flags {flags}")
    (count,) = struct.unpack_from(">i", body, 12)
    byte_offset = 16
    rows: list[list[bytes | None]] = []
    for _ in range(count):
        row: list[bytes | None] = []
        for _ in range(columns):
            (length,) = struct.unpack_from(">i", body, byte_offset)
            byte_offset += 4
            row.append(None if length < 0 else body[byte_offset : byte_offset + length])
            byte_offset += max(length, 0)
        rows.append(row)
    return rows


def _ask(connection: socket.socket, opcode: int, body: bytes) -> tuple[int, bytes]:
    header = struct.pack(">BBhBI", REQUEST, 0, 0, opcode, len(body))
    connection.sendall(header + body)
    version, _flags, _stream, answer, length = struct.unpack(">BBhBI", _read(connection, 9))
    if version != RESPONSE or length > BODY_BYTES_MAX:
        raise CqlError("not Cassandra's native protocol, version 4")
    return answer, _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError("closed in the middle of an answer")
        data += chunk
    return bytes(data)


def _string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()
