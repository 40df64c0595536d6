"""The JSON Schemas of schemas/json/ as validators, read as their dialect says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, ValidationError, validators
from referencing import Registry
from referencing.jsonschema import DRAFT7

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
FOLDER = SCHEMAS / "json"
FILES = {path.name: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
_REGISTRY: Registry[Any] = Registry().with_resources(
    # without $schema, which would bring jsonschema's own Draft7Validator back
    (name, DRAFT7.create_resource({k: v for k, v in schema.items() if k != "$schema"}))
    for name, schema in FILES.items()
)


def _pattern(_v: Any, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """As ECMA-262 has it, where $ is the very end; Python's also matches before a last newline."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield ValidationError(f"{value!r} does not match {pattern}")


# its stubs leave `extend` without types
_Validator = validators.extend(Draft7Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


def validator(name: str, definition: str = "") -> Any:
    """The validator of a file, or of one definition in it."""
    where = f"{name}#/definitions/{definition}" if definition else name
    return _Validator({"$ref": where}, registry=_REGISTRY)
