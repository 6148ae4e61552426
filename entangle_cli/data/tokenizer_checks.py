"""What a tokenizer's files can make it do with a text that no honest tokenizer does."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from entangle_cli.errors import ModelError

LARGEST_GROWTH = 1000
"""Characters into which a normalizer may turn one. Those in use make fewer than 20, by Unicode's decompositions."""

MOST_ADDED_TOKENS = 1000
"""That a tokenizer may put around a text. Those in use put a handful."""


def refuse_growing(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that makes a long text of a short one: the tokenizers library would take all memory.

    Raises:
        ModelError: it does.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    normalizer = backend.normalizer
    growth = 1 if normalizer is None else _growth(json.loads(normalizer.__getstate__()))
    added = backend.num_special_tokens_to_add(False)
    if growth > LARGEST_GROWTH or added > MOST_ADDED_TOKENS:
        raise ModelError(
            f"{name}: the tokenizer makes {growth:,} characters of one, and adds {added:,} tokens to a text",
            f"at most {LARGEST_GROWTH:,} characters for one, and {MOST_ADDED_TOKENS:,} tokens added",
            "restore tokenizer.json",
        )


def _growth(normalizer: dict[str, Any]) -> int:
    """The most characters that a normalizer makes of one."""
    kind = normalizer.get("type")
    if kind == "Sequence":
        growth = 1
        for part in normalizer.get("normalizers") or ():
            growth *= _growth(part)
        return growth
    if kind == "Prepend":
        return 1 + len(str(normalizer.get("prepend") or ""))
    if kind != "Replace":
        return 1
    replaced = (normalizer.get("pattern") or {}).get("String")
    return max(1, -(-len(normalizer.get("content") or "") // max(1, len(replaced or ""))))
