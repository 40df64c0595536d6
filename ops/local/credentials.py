"""The secrets of a secure stack: a CA, a certificate of the servers, a user and passwords.

All of them are in `<data_dir>/secrets`, which only its owner may enter, and are made once:

    ca.pem           the CA's certificate, for clients
    servers.p12      the servers' certificate and key, for Java
    passwords.json   random, of this stack alone

The CA's own key is deleted after it has signed, so nobody can sign another certificate. Java's
keytool makes the secrets, because Java is installed anyway. No password is ever an argument of a
program.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from .cluster import NODES_MAX
from .errors import StackError

USER = "admin"  # of both servers; may do everything
PASSWORD_BYTES = 24
KEYTOOL_TIMEOUT_S = 60.0
DAYS = "3650"
NAMES = ",".join(["dns:localhost", *(f"ip:127.0.0.{n}" for n in range(1, NODES_MAX + 1))])


@dataclass(frozen=True)
class Secrets:
    """The passwords of one stack, and where its certificates are."""

    folder: Path
    kafka: str
    cassandra: str
    keystore: str

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def servers(self) -> Path:
        return self.folder / "servers.p12"

    def context(self) -> ssl.SSLContext:
        """A client's TLS context that trusts this stack's CA only."""
        return ssl.create_default_context(cafile=self.ca)

    def kafka_config(self, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """librdkafka's settings for a client that logs in as USER."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": mechanism,
            "sasl.username": USER,
            "sasl.password": self.kafka,
            "ssl.ca.location": str(self.ca),
        }

    def env(self) -> dict[str, str]:
        """The settings that let the service in."""
        pairs = (f"{key}={value}" for key, value in self.kafka_config().items())
        return {
            "READ_STATES_KAFKA_CONFIG": ",".join(pairs),
            "READ_STATES_CASSANDRA_USERNAME": USER,
            "READ_STATES_CASSANDRA_PASSWORD": self.cassandra,
            "READ_STATES_CASSANDRA_TLS_CA": str(self.ca),
        }


def load(data_dir: Path) -> Secrets:
    """The secrets that `make` left. Raises StackError if they are damaged or gone."""
    folder = data_dir / "secrets"
    path = folder / "passwords.json"
    try:
        return Secrets(folder, **json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StackError(
            f"{path} cannot be read ({type(error).__name__}); remove {data_dir} and start anew"
        ) from error


def make(data_dir: Path, java: str) -> None:
    """Makes the secrets if they do not exist yet (about 3 s). Raises StackError."""
    folder = data_dir / "secrets"
    if folder.is_dir():
        return
    data_dir.chmod(0o700)
    partial = data_dir / "secrets.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    kafka, cassandra, keystore = (secrets.token_urlsafe(PASSWORD_BYTES) for _ in range(3))
    made = Secrets(partial, kafka, cassandra, keystore)
    write_private(partial / "passwords.json", json.dumps(_passwords(made)) + "\n")
    _certificates(made, java)
    partial.rename(folder)  # it appears whole or not at all


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may ever read."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _passwords(made: Secrets) -> dict[str, str]:
    return {name: value for name, value in asdict(made).items() if name != "folder"}


def _certificates(made: Secrets, java: str) -> None:
    signing = made.folder / "signing.p12"
    store = ("-keystore", str(signing))
    key = ("-keyalg", "EC", "-groupname", "secp256r1", "-validity", DAYS)
    tool = _Keytool(java, made.keystore)
    tool.run(
        "-genkeypair", "-alias", "ca", "-dname", "CN=read-states CA", "-ext", "bc:c", *key, *store
    )
    names = ("-ext", f"san={NAMES}")
    tool.run(
        "-genkeypair",
        "-alias",
        "servers",
        "-signer",
        "ca",
        "-dname",
        "CN=servers",
        *names,
        *key,
        *store,
    )
    write_private(made.ca, tool.run("-exportcert", "-rfc", "-alias", "ca", *store))
    tool.run(
        "-importkeystore", "-srcalias", "servers", "-srckeystore", str(signing),
        "-destkeystore", str(made.servers), "-srcstorepass:env", _Keytool.PASSWORD,
        "-deststorepass:env", _Keytool.PASSWORD,
    )  # fmt: skip
    signing.unlink()
    made.servers.chmod(0o600)


class _Keytool:
    PASSWORD = "KEYTOOL_STORE_PASSWORD"

    def __init__(self, java: str, password: str) -> None:
        self._path = str(Path(java).resolve().with_name("keytool"))
        self._password = password

    def run(self, command: str, *arguments: str) -> str:
        """The output of keytool. Raises StackError with that output if it failed."""
        argv = [self._path, command, *arguments]
        if command != "-importkeystore":
            argv += ["-storepass:env", self.PASSWORD]
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, self.PASSWORD: self._password},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=KEYTOOL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StackError(f"{self._path} {command}: {error}") from error
        if done.returncode != 0:
            raise StackError(f"{self._path} {command} failed:\n{done.stdout}{done.stderr}")
        return done.stdout
