"""What a tokenizer's files can make it do with a text that no honest tokenizer does."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from entangle_cli.errors import ModelError

LARGEST_GROWTH = 20
"""Characters into which a normalizer or a decoder may turn one. Those in use make one or two."""

MOST_ADDED_TOKENS = 1000
"""That a tokenizer may put around a text. Those in use put a handful."""


def refuse_growing(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that makes a long text of a short one: the tokenizers library would take all memory.

    Raises:
        ModelError: it makes more than LARGEST_GROWTH characters of one, or adds more than MOST_ADDED_TOKENS.
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
            f"{name}: the tokenizer makes {growth:,} characters of one, and adds {added:,} tokens to a text",
            f"at most {LARGEST_GROWTH:,} characters for one, and {MOST_ADDED_TOKENS:,} tokens added",
            "restore tokenizer.json",
        )


def _growth(normalizer: dict[str, Any]) -> int:
    """The most characters that a normalizer or a decoder makes of one."""
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
    # An expression may find the nothing between two characters.
    return max(1, -(-added // len(replaced))) if replaced else 1 + added


def _repeats(processor: Any) -> int:
    """How often a text stands in what a post-processor makes of it."""
    if isinstance(processor, list):
        return sum(map(_repeats, processor))
    if not isinstance(processor, dict):
        return 0
    if processor.get("type") == "Sequence":
        return max(1, _repeats(processor.get("processors")))
    single = processor.get("single")
    return sum("Sequence" in piece for piece in single if isinstance(piece, dict)) if isinstance(single, list) else 1
