"""Rows with token ids from a trainer. Nothing is tokenised again, so the tokens match that trainer's exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from entangle_cli.data.formats.format import NotAPair
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse

Row = Mapping[str, Any]

IGNORED = -100
"""Label of a token that is not scored, as in transformers."""

BY_PROMPT = (
    ("prompt_ids", "chosen_ids", "rejected_ids"),
    ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"),
)
"""Ids of the prompt and of both answers: the columns of TRL's collator since 1.10, and before."""

BY_LABELS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
"""Whole sequences, with labels that mark the scored tokens."""

TITLE = "token ids"


def holds_token_ids(row: Row) -> bool:
    """Whether a row has the columns of one of these layouts."""
    return any(all(row.get(name) is not None for name in names) for names in (BY_LABELS, *BY_PROMPT))


def tokenized_pair(row: Row) -> TokenizedPair:
    """Read the pair's tokens from a row, without truncation.

    Raises:
        NotAPair: a column holds no token ids, or the labels do not mark one contiguous range of the ids.
    """
    if all(row.get(name) is not None for name in BY_LABELS):
        return TokenizedPair(*(_by_labels(row, side) for side in ("chosen", "rejected")))
    for names in BY_PROMPT:
        if all(row.get(name) is not None for name in names):
            prompt, chosen, rejected = (_ids(row, name) for name in names)
            first = max(1, len(prompt))
            return TokenizedPair(
                TokenizedResponse((*prompt, *chosen), first), TokenizedResponse((*prompt, *rejected), first)
            )
    raise NotAPair("malformed", f"no columns {', '.join(BY_PROMPT[0])}, nor {', '.join(BY_LABELS)}")


def _by_labels(row: Row, side: str) -> TokenizedResponse:
    ids, labels = _ids(row, f"{side}_input_ids"), _ids(row, f"{side}_labels", IGNORED)
    if len(ids) != len(labels):
        raise NotAPair("malformed", f"{len(ids)} {side}_input_ids and {len(labels)} {side}_labels")
    scored = [position for position, label in enumerate(labels) if label != IGNORED]
    if not scored:
        raise NotAPair("empty", f"{side}_labels score no token")
    first, end = scored[0], scored[-1] + 1
    if len(scored) != end - first:
        raise NotAPair(
            "malformed", f"{side}_labels are {IGNORED} between scored tokens; only one contiguous range is supported"
        )
    if labels[first:end] != ids[first:end]:
        raise NotAPair("malformed", f"{side}_labels differ from {side}_input_ids where they are not {IGNORED}")
    # Tokens after the scored ones, such as padding, have no effect in a causal model.
    return TokenizedResponse(tuple(ids[:end]), max(1, first))


def _ids(row: Row, name: str, smallest: int = 0) -> list[int]:
    ids = row[name]
    if isinstance(ids, str):  # as in CSV
        try:
            ids = json.loads(ids)
        except ValueError as error:
            raise NotAPair("malformed", f'"{name}" is not JSON: {error}') from error
    is_list = isinstance(ids, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in ids)
    if not is_list or min(ids, default=0) < smallest:
        raise NotAPair("malformed", f'"{name}" is not a list of token ids')
    return list(ids)
