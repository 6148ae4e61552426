"""Checks against malicious tokenizer files."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from entangle_cli.errors import ModelError

LARGEST_GROWTH = 20
"""Largest number of output characters per input character of a normalizer or decoder. Common ones make one or two."""

MOST_ADDED_TOKENS = 1000
"""Largest number of tokens that a tokenizer may add to a text. Common ones add a few."""


def refuse_growing(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that expands a short text so much that the tokenizers library could exhaust the memory.

    Raises:
        ModelError: it makes more than LARGEST_GROWTH characters from one, or adds more than MOST_ADDED_TOKENS.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    parts = [part for part in (backend.normalizer, backend.decoder) if part is not None]
    growth = max((_growth(json.loads(part.__getstate__())) for part in parts), default=1)
    processor = None if backend.post_processor is None else json.loads(backend.post_processor.__getstate__())
    growth = max(growth, _repeats(processor))
    added = backend.num_special_tokens_to_add(False)
    if growth > LARGEST_GROWTH or added > MOST_ADDED_TOKENS:
        raise ModelError(
            f"{name}: the tokenizer makes {growth:,} characters from one, and adds {added:,} tokens to a text",
            f"at most {LARGEST_GROWTH:,} characters per character, and {MOST_ADDED_TOKENS:,} added tokens",
            "restore the original tokenizer.json",
        )


def _growth(normalizer: dict[str, Any]) -> int:
    """Largest number of output characters per input character of a normalizer or decoder."""
    kind = normalizer.get("type")
    if kind == "Sequence":
        growth = 1
        for part in normalizer.get("normalizers") or normalizer.get("decoders") or ():
            growth *= _growth(part)
        return growth
    if kind == "Prepend":
        return 1 + len(str(normalizer.get("prepend") or ""))
    if kind != "Replace":
        return 1
    replaced = (normalizer.get("pattern") or {}).get("String")
    added = len(normalizer.get("content") or "")
    # A regular expression may match the empty string between two characters.
    return max(1, -(-added // len(replaced))) if replaced else 1 + added


def _repeats(processor: Any) -> int:
    """How many times the output of a post-processor contains the input text."""
    if isinstance(processor, list):
        return sum(map(_repeats, processor))
    if not isinstance(processor, dict):
        return 0
    if processor.get("type") == "Sequence":
        return max(1, _repeats(processor.get("processors")))
    single = processor.get("single")
    return sum("Sequence" in piece for piece in single if isinstance(piece, dict)) if isinstance(single, list) else 1
