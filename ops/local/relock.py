"""`make lock-jars`: writes jars.lock anew, after a change of a server's version. It needs Maven.

Maven alone chooses the versions of what a server depends on. Everybody else reads the lock.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click

from . import settings
from .errors import StackError, ToolMissing
from .lock import LOCK, Jar
from .owner import command

PLUGIN_VERSION = "3.8.1"
MAVEN_TIMEOUT_S = 900.0
ARTIFACTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "kafka": (
        ("org.apache.kafka", "kafka_2.13", settings.KAFKA_VERSION),
        # The server logs through SLF4J and names no backend of it.
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4"),
    ),
    "cassandra": (("org.apache.cassandra", "cassandra-all", settings.CASSANDRA_VERSION),),
    "kafka-streams": (
        ("org.apache.kafka", "kafka-streams", settings.KAFKA_VERSION),
        ("com.fasterxml.jackson.core", "jackson-databind", "2.21.2"),
        ("org.slf4j", "slf4j-nop", "1.7.36"),
    ),
}
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>readstates</groupId>
  <artifactId>{role}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId>
    <artifactId>maven-dependency-plugin</artifactId>
    <version>{plugin}</version>
  </plugin></plugins></build>
</project>
"""
_DEPENDENCY = """    <dependency>
      <groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>
    </dependency>
"""


@click.command()
def relock() -> None:
    """Write the lock of the servers' jar files anew, with Maven."""
    with command("read-states-lock-") as owner:
        lines = [
            jar.line for role in ARTIFACTS for jar in resolved(role, owner.new_folder(owner.folder))
        ]
    LOCK.write_text("\n".join(lines) + "\n", "ascii")
    click.echo(f"{LOCK}: {len(lines)} jars")


def resolved(role: str, folder: Path) -> Iterator[Jar]:
    """What Maven chooses for a role, in order; it is fetched into `folder`."""
    mvn = shutil.which("mvn")
    if mvn is None:
        raise ToolMissing("Maven is missing; it chooses the versions: apt-get install maven")
    dependencies = "".join(_DEPENDENCY.format(*artifact) for artifact in ARTIFACTS[role])
    pom = folder / "pom.xml"
    pom.write_text(_POM.format(role=role, dependencies=dependencies, plugin=PLUGIN_VERSION))
    argv = [
        mvn,
        "-B",
        "-ntp",
        "-q",
        "-Dstyle.color=never",
        "-f",
        str(pom),
        "dependency:copy-dependencies",
    ]
    argv += ["-DincludeScope=runtime", "-Dmdep.useRepositoryLayout=true"]
    argv += [f"-DoutputDirectory={folder / 'repository'}"]
    if subprocess.run(argv, timeout=MAVEN_TIMEOUT_S, check=False).returncode != 0:
        raise StackError(f"{role}: Maven failed; what it said is above")
    for path in sorted((folder / "repository").rglob("*.jar")):
        yield _jar(role, path.relative_to(folder / "repository"), path.read_bytes())


def _jar(role: str, path: Path, content: bytes) -> Jar:
    """The jar at `path`, which is as in Jar.path, of a repository."""
    *group, artifact, version, _ = path.parts
    classifier = path.stem.removeprefix(f"{artifact}-{version}").removeprefix("-")
    digest = hashlib.sha256(content).hexdigest()
    return Jar(role, ".".join(group), artifact, version, classifier, digest, len(content))


if __name__ == "__main__":
    relock()
