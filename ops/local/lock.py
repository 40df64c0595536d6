"""The servers' jar files as jars.lock lists them: which, how large, and with which SHA-256.

A line is `role group:artifact:version[:classifier] sha256 bytes`. A jar that two servers need is
listed once for each. `make lock-jars` writes the file (relock.py); nothing else chooses versions.
"""

from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).with_name("jars.lock")


@dataclass(frozen=True)
class Jar:
    """One jar file of one server."""

    role: str
    group: str
    artifact: str
    version: str
    classifier: str  # empty for an artifact's main file
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """Its name, which no other jar of its role has."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{suffix}.jar"

    @property
    def path(self) -> str:
        """Where it is in a Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file}"

    @property
    def line(self) -> str:
        """Its line in jars.lock."""
        names = (self.group, self.artifact, self.version, self.classifier)
        return f"{self.role} {':'.join(names).removesuffix(':')} {self.sha256} {self.size}"


def jars_of(role: str) -> list[Jar]:
    """Those of a role, as listed. Raises ValueError where the file is damaged."""
    return [jar for line in LOCK.read_text("ascii").splitlines() if (jar := _parsed(line, role))]


def _parsed(line: str, role: str) -> Jar | None:
    of, names, sha256, size = line.split(" ")
    if of != role:
        return None
    group, artifact, version, *classifier = names.split(":")
    return Jar(role, group, artifact, version, ":".join(classifier), sha256, int(size))
