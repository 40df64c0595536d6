"""One connection to a broker: TCP, TLS and the login, then one request at a time.

`connect` blocks, and so does `ask`; both are for threads that wait for nothing else. `Connection`
is for the reader's thread, which waits for several brokers at once. Its reads wait for IO_WAIT_S at
most, without the interpreter's lock. A socket that never waits would need a turn of the lock for
each piece of a response, and while the event loop computes, a turn takes up to a switch interval.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import ssl
import struct

from ..errors import ReadStatesError
from . import protocol
from .login import Login
from .protocol import Broker, ProtocolError
from .scram import ScramClient

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0  # of each step: TCP, TLS, each message of the login
SEND_TIMEOUT_S = 1.0  # a request is at most some dozens of KiB, and the last one was answered
IO_WAIT_S = 0.02  # that a read waits for the rest of a response
BUFFER_BYTES = 64 << 10  # kept for the next response
LARGE_BUFFER_BYTES = 8 << 20  # kept as long as responses do not fit into the smaller one
# The most that a response may have. A fetch asks for less, but a broker sends the first batch
# whole, up to the topic's max.message.bytes.
RESPONSE_BYTES_MAX = 64 << 20
_LENGTH = struct.Struct(">i")
_correlation_ids = itertools.count(1)


class LoginError(ReadStatesError):
    """A broker refused the login; the text says why, and has no password."""


def connect(broker: Broker, login: Login | None) -> socket.socket:
    """A socket over which requests may be sent. Raises OSError, LoginError or another of ours."""
    try:
        sock = socket.create_connection(broker, CONNECT_TIMEOUT_S)
    except UnicodeError as exc:  # no name can be like that
        raise OSError(f"{broker.host!r} is not the name of a host: {exc}") from exc
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if login is not None and login.tls is not None:
            sock = login.tls.wrap_socket(sock, server_hostname=broker.host)
        if login is not None and login.mechanism:
            _log_in(sock, login)
            log.debug(
                "logged_in broker=%s:%d user=%s mechanism=%s",
                *broker,
                login.username,
                login.mechanism,
            )
    except BaseException:
        sock.close()
        raise
    return sock


def ask(sock: socket.socket, kind: int, body: bytes) -> memoryview:
    """Send a request and wait for its response, without its head. Raises OSError, ProtocolError."""
    correlation_id = next(_correlation_ids) & 0x7FFFFFFF
    sock.sendall(protocol.request(kind, correlation_id, body))
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    _check_length(length)
    return _without_head(memoryview(_exactly(sock, length)), correlation_id)


def _log_in(sock: socket.socket, login: Login) -> None:
    body = protocol.handshake_body(login.mechanism)
    error, known = protocol.read_handshake(ask(sock, protocol.SASL_HANDSHAKE, body))
    if error:
        raise LoginError(
            f"the broker does not take {login.mechanism} ({protocol.error_name(error)}); it knows "
            f"{', '.join(known) or 'none'}"
        )
    if login.mechanism == "PLAIN":
        _step(sock, f"\0{login.username}\0{login.password}".encode())
        return
    scram = ScramClient(login.mechanism, login.username, login.password)
    scram.check(_step(sock, scram.final(_step(sock, scram.first()))))


def _step(sock: socket.socket, token: bytes) -> bytes:
    body = protocol.authenticate_body(token)
    response = protocol.read_authenticate(ask(sock, protocol.SASL_AUTHENTICATE, body))
    error, message, answer = response
    if error:
        raise LoginError(f"the broker refused the login: {message or protocol.error_name(error)}")
    return answer


def _exactly(sock: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        count = sock.recv_into(view[at:])
        if count == 0:
            raise ConnectionResetError("the broker closed the connection")
        at += count
    return data


def _check_length(length: int) -> None:
    if not _LENGTH.size <= length <= RESPONSE_BYTES_MAX:
        raise ProtocolError(
            f"a response of {length} bytes is refused: {_LENGTH.size} … {RESPONSE_BYTES_MAX} are "
            "accepted. Either this is no Kafka broker, or it wants TLS, or the topic's "
            "max.message.bytes is too large: lower it"
        )


def _without_head(response: memoryview, correlation_id: int) -> memoryview:
    (found,) = _LENGTH.unpack_from(response)
    if found != correlation_id:
        raise ProtocolError(f"a response belongs to request {found}, not {correlation_id}")
    return response[_LENGTH.size :]


class Connection:
    """A connection for a thread that waits by `select`, with one request under way at a time.

    `send` and `receive` raise OSError or ProtocolError; the connection is of no use afterwards.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._is_tls = sock, isinstance(sock, ssl.SSLSocket)
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled, self._correlation_id = 0, 0
        if self._is_tls:
            sock.settimeout(IO_WAIT_S)
        else:  # Python's own timeout would make each read return what is there
            sock.setblocking(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(IO_WAIT_S))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_TIMEOUT_S))

    def fileno(self) -> int:
        """For `select`."""
        return self._sock.fileno()

    def send(self, kind: int, body: bytes) -> None:
        """Send a request; the last one was answered."""
        self._correlation_id = next(_correlation_ids) & 0x7FFFFFFF
        self._filled = 0
        if self._is_tls:
            self._sock.settimeout(SEND_TIMEOUT_S)
        self._sock.sendall(protocol.request(kind, self._correlation_id, body))
        if self._is_tls:
            self._sock.settimeout(IO_WAIT_S)

    def receive(self) -> memoryview | None:
        """The response without its head, until the next `send`; None if it is not whole yet."""
        while self._filled < _LENGTH.size:
            if not self._read(len(self._buffer), wait=False):
                return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        _check_length(length)
        end = _LENGTH.size + length
        if end > len(self._buffer):
            larger = bytearray(end)
            larger[: self._filled] = memoryview(self._buffer)[: self._filled]
            self._buffer = larger
        while self._filled < end:
            if not self._read(end, wait=True):
                return None
        if self._filled > end:
            raise ProtocolError(f"{self._filled - end} bytes follow a response")
        response = memoryview(self._buffer)[_LENGTH.size : end]
        if len(self._buffer) > (BUFFER_BYTES if end <= BUFFER_BYTES else LARGE_BUFFER_BYTES):
            self._buffer = bytearray(BUFFER_BYTES)
        return _without_head(response, self._correlation_id)

    def _read(self, end: int, *, wait: bool) -> bool:
        """Read up to `end` of the buffer; False if nothing is there."""
        view = memoryview(self._buffer)[self._filled : end]
        try:
            if self._is_tls:
                count = self._sock.recv_into(view)
            else:
                flags = socket.MSG_WAITALL if wait else socket.MSG_DONTWAIT
                count = self._sock.recv_into(view, 0, flags)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            return False
        if count == 0:
            raise ConnectionResetError("the broker closed the connection")
        self._filled += count
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it may be closed already
            self._sock.close()


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
