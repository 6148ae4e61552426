"""Ids of pairs, computed only from their content."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from entangle_cli.data.trl_rows import Text


def pair_id(prompt: Text, chosen: Text, rejected: Text, tools: list[Any] | None, kwargs: dict[str, Any]) -> str:
    """Hash of the normalised pair, the same in any file: BLAKE2b with 128 bits, hexadecimal."""
    return content_hash([prompt, chosen, rejected, tools or None, kwargs or None])


def content_hash(parts: list[Any]) -> str:
    """Hash of JSON-able content: BLAKE2b with 128 bits, hexadecimal. Key order and null-valued keys do not matter."""
    text = json.dumps(_without_nulls(parts), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _without_nulls(value: Any) -> Any:
    """Drop null-valued keys. Parquet and Arrow add them to messages that lack a key of another message."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def in_one_order(chosen: Text, rejected: Text) -> list[Text]:
    """The two answers, sorted by their text. The order does not depend on which one was chosen."""
    return sorted((chosen, rejected), key=lambda answer: json.dumps(answer, sort_keys=True, default=str))
