"""The state that a stack keeps between commands: `stack.json` in its data folder.

1. The file is replaced whole (rename), so a reader sees the old or the new file, never half of one.
2. A process is written down before anything waits for it, so a killed `up` loses none.
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .cluster import Cluster
from .errors import StackError
from .process import ProcessId

STATE_VERSION = 1


@dataclass(frozen=True)
class State:
    """The cluster as it was last started, and the process of each node by the node's name."""

    cluster: Cluster
    processes: dict[str, ProcessId] = field(default_factory=dict)

    def with_process(self, name: str, process: ProcessId) -> "State":
        return replace(self, processes={**self.processes, name: process})

    def without(self, names: set[str]) -> "State":
        left = {name: process for name, process in self.processes.items() if name not in names}
        return replace(self, processes=left)


def state_path(data_dir: Path) -> Path:
    return data_dir / "stack.json"


def load(data_dir: Path) -> State | None:
    """The remembered state, None if there is none. Raises StackError for a damaged file."""
    path = state_path(data_dir)
    try:
        value = json.loads(path.read_text("utf-8"))
        if value["version"] != STATE_VERSION:
            raise StackError(f"{path} is of another version; remove {data_dir} and start anew")
        processes = {name: ProcessId(**given) for name, given in value["processes"].items()}
        return State(Cluster.from_dict(data_dir, value["cluster"]), processes)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{path} cannot be read ({error}); remove {data_dir}") from error


def save(state: State) -> None:
    """Writes the state down."""
    path = state_path(state.cluster.data_dir)
    value = {
        "version": STATE_VERSION,
        "cluster": state.cluster.as_dict(),
        "processes": {name: asdict(process) for name, process in state.processes.items()},
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    os.replace(partial, path)
