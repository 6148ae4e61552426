"""Validation of every manifest entry. Manifests are untrusted input."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from entangle_cli.records.settings import Dtype

Check = Callable[[Any], bool]

PART_FILE = re.compile(r"part-\d{6,}\.parquet", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
SHARD = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
DTYPES = tuple(dtype.value for dtype in Dtype)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _is_part(value: Any) -> bool:
    """Whether an entry describes a part with a valid file name. Paths are not allowed."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("file"), str)
        and PART_FILE.fullmatch(value["file"]) is not None
        and _is_count(value.get("rows"))
        and _is_hash(value.get("sha256"))
        and _optional(_is_hash)(value.get("layers_sha256"))
    )


def _are_different(parts: Any) -> bool:
    return len({part["file"] for part in parts}) == len(parts)


def _is_source(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and _is_count(value.get("rows"))


def _is_shard(value: Any) -> bool:
    match = SHARD.fullmatch(value) if isinstance(value, str) else None
    return match is not None and 1 <= int(match[1]) <= int(match[2])


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and _is_number(item) for name, item in value.items())


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


NEEDED: Mapping[str, Check] = {
    "status": lambda value: value in ("complete", "partial"),
    "started": _is_text,
    "seconds": _is_number,
    "identity": _is_object,
    "identity.model": _is_object,
    "identity.model.name": _is_text,
    "identity.data": _is_object,
    "identity.data.name": _is_text,
    "identity.data.rows": _optional(_is_count),
    "identity.settings": _is_object,
    "identity.settings.dtype": lambda value: value in DTYPES,
    "loss": _is_object,
    "parts": lambda value: isinstance(value, list) and all(map(_is_part, value)) and _are_different(value),
}
"""Entry path to its check. Entries that may be null may also be missing."""
OPTIONAL: Mapping[str, Check] = {
    "loss.name": _is_text,
    "loss.beta": _is_number,
    "loss.options": _are_options,
    "plan": _is_object,
    "plan.num_rows": _is_count,
    "plan.num_selected": _is_count,
    "plan.data": _is_text,
    "plan.slow_parameters": _is_object,
    "plan.checkpoint_warnings": _is_object,
    "environment": _is_object,
    "tokenizer": _is_object,
    "configuration": _is_object,
    "configuration.options": lambda value: isinstance(value, dict) and all(map(_is_text, [*value, *value.values()])),
    "identity.data.sources": lambda value: isinstance(value, list) and all(map(_is_source, value)),
    "identity.settings.limit": _optional(_is_count),
    "identity.settings.sample": _optional(_is_count),
    "identity.settings.seed": _optional(lambda value: isinstance(value, int)),
    "identity.settings.shard": _optional(_is_shard),
}
"""Checks of entries that older runs lack."""


def first_wrong(manifest: Mapping[str, Any]) -> str | None:
    """Description of the first invalid entry; None if all are valid."""
    for path, check in {**NEEDED, **OPTIONAL}.items():
        exists, value = _at(manifest, path)
        if not exists:
            if path in OPTIONAL or check(None):
                continue
            return f"no {path}"
        if not check(value):
            return f"{path} is {str(value)[:40]!r}"
    unknown = set(manifest["loss"]) - {"name", "beta", "options"}
    return f"loss has an unknown entry {min(unknown)!r}" if unknown else None


def _at(manifest: Mapping[str, Any], path: str) -> tuple[bool, Any]:
    """Whether the entry exists, and its value."""
    value: Any = manifest
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return False, None
        value = value[name]
    return True, value
