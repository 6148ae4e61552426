"""The JSON Schema of the run document, made from the table of fields."""

from __future__ import annotations

from typing import Any

from entangle_cli.records.pair import PAIR_FIELDS, Kind, Movement, PairField, Status
from entangle_cli.records.run import SCHEMA

JSON_TYPES = {Kind.TEXT: "string", Kind.FLAG: "boolean", Kind.COUNT: "integer", Kind.NUMBER: "number"}


def run_schema() -> dict[str, Any]:
    """The schema of what `scan --json` and `report --format json` write, of any version 1.x."""
    pair = {name: _property(one) for name, one in PAIR_FIELDS.items()}
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


def _property(one: PairField) -> dict[str, Any]:
    described = {"description": one.meaning}
    if one.name == "status":
        return {"enum": [status.value for status in Status], **described}
    if one.name == "movement":
        return {"enum": [*(movement.value for movement in Movement), None], **described}
    kind = JSON_TYPES[one.kind]
    found: dict[str, Any] = {"type": [kind, "null"] if one.nullable else kind, **described}
    if one.kind is Kind.COUNT:
        found["minimum"] = 0
    return found
