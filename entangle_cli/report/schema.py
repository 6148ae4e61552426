"""The JSON Schema of the run document, made of the record's own fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from entangle_cli.records import SCHEMA, Movement, PairRecord, Status
from entangle_cli.report.rows import FLAGS

TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "None": "null"}
"""Words of a field's annotation to JSON's."""


def run_schema() -> dict[str, Any]:
    """The schema of what `scan --json` and `report --format json` write, of any version 1.x."""
    pair = {field.name: _property(field.name, str(field.type)) for field in fields(PairRecord)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of entangle",
        "type": "object",
        "required": ["schema", "schema_version", "status", "manifest", "summary", "pairs"],
        "properties": {
            "schema": {"const": SCHEMA},
            "schema_version": {"type": "string", "pattern": r"^1\.\d+$"},
            "status": {"enum": ["complete", "partial"]},
            "manifest": {"type": "object", "required": ["identity", "loss", "parts"]},
            "summary": {"type": "object", "required": ["predictor", "loss", "rows", "pairs", "movements", "reasons"]},
            "pairs": {"type": "array", "items": {"type": "object", "required": list(pair), "properties": pair}},
        },
    }


def _property(name: str, annotation: str) -> dict[str, Any]:
    if name == "status":
        return {"enum": [status.value for status in Status]}
    if name == "movement":
        return {"enum": [*(movement.value for movement in Movement), None]}
    words = [TYPES[word.strip()] for word in annotation.split("|")]
    found: dict[str, Any] = {"type": words[0] if len(words) == 1 else words}
    if "integer" in words and name not in FLAGS:
        found["minimum"] = 0
    return found
