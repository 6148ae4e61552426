"""Rows with token ids: exactly these ids are used, and exactly the labels are scored."""

from __future__ import annotations

from typing import Any

import pytest

from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenize import TokenizedRow, tokenize_pair
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse
from entangle_cli.records.settings import Truncation
from tests.data.reading import only_pair
from tests.data.tokenizers import small_tokenizer

BY_PROMPT = {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 2], "rejected_ids": [9, 10, 2]}
BY_LABELS = {
    "chosen_input_ids": [5, 6, 7, 8, 2],
    "chosen_labels": [-100, -100, -100, 8, 2],
    "rejected_input_ids": [5, 6, 7, 9, 10, 2],
    "rejected_labels": [-100, -100, -100, 9, 10, 2],
}
SAME = TokenizedPair(TokenizedResponse((5, 6, 7, 8, 2), 3), TokenizedResponse((5, 6, 7, 9, 10, 2), 3))


def read(row: dict[str, Any]) -> PreferencePair | SkippedRow:
    return only_pair(RawRow(0, row, 1))


def tokenized(row: dict[str, Any], **settings: Any) -> TokenizedRow | SkippedRow:
    pair = read(row)
    assert isinstance(pair, PreferencePair), pair
    return tokenize_pair(pair, small_tokenizer(), TokenSettings(**settings))


@pytest.mark.parametrize(
    "row",
    [
        BY_PROMPT,
        {name.replace("_ids", "_input_ids"): ids for name, ids in BY_PROMPT.items()},
        BY_LABELS,
        {**BY_LABELS, "prompt_input_ids": [5, 6, 7]},
        {name: str(ids) for name, ids in BY_LABELS.items()},  # as in CSV
        {**BY_LABELS, "chosen_input_ids": [5, 6, 7, 8, 2, 0, 0], "chosen_labels": [-100, -100, -100, 8, 2, -100, -100]},
    ],
    ids=["TRL's collator", "TRL before 1.10", "labels", "labels and prompt", "as text", "padded"],
)
def test_the_same_tokens_in_every_shape(row: dict[str, Any]) -> None:
    found = tokenized(row)
    assert isinstance(found, TokenizedRow)
    assert (found.pair, found.prompt_tokens, found.boundary_moved) == (SAME, 3, False)


def test_sides_may_have_prompts_of_their_own() -> None:
    found = tokenized({**BY_LABELS, "chosen_labels": [-100, -100, 7, 8, 2]})
    assert isinstance(found, TokenizedRow)
    assert (found.pair.chosen.first_scored, found.pair.rejected.first_scored) == (2, 3)


def test_they_are_cut_as_texts_are() -> None:
    kept = tokenized(BY_PROMPT, max_length=5)
    assert isinstance(kept, TokenizedRow)
    assert kept.pair.rejected == TokenizedResponse((5, 6, 7, 9, 10), 3, truncated=True)
    end = tokenized(BY_PROMPT, max_length=5, truncation=Truncation.KEEP_END)
    assert isinstance(end, TokenizedRow)
    assert end.pair.rejected == TokenizedResponse((6, 7, 9, 10, 2), 2, truncated=False)
    too_long = tokenized(BY_PROMPT, max_length=3)
    assert isinstance(too_long, SkippedRow)
    assert too_long.reason == "prompt_too_long"


def test_tokens_that_the_model_does_not_have_are_refused() -> None:
    found = tokenized({**BY_PROMPT, "chosen_ids": [500]}, num_embeddings=400)
    assert isinstance(found, SkippedRow)
    assert found.detail == "token id 500, but the model has only 400 embeddings"


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"chosen_labels": [-100, -100, -100, 8]}, "malformed", "5 chosen_input_ids and 4 chosen_labels"),
        ({"chosen_labels": [-100] * 5}, "empty", "chosen_labels score no token"),
        ({"chosen_labels": [5, -100, -100, 8, 2]}, "malformed", "only one contiguous range"),
        ({"chosen_labels": [-100, -100, -100, 9, 2]}, "malformed", "chosen_labels differ from chosen_input_ids"),
        ({"chosen_input_ids": "tokens"}, "malformed", '"chosen_input_ids" is not JSON'),
        ({"chosen_input_ids": [5, 6, 7, 8.5, 2]}, "malformed", "not a list of token ids"),
        ({"chosen_input_ids": [5, 6, 7, -8, 2]}, "malformed", "not a list of token ids"),
    ],
)
def test_invalid_token_ids_have_a_reason(change: dict[str, Any], reason: str, detail: str) -> None:
    found = read({**BY_LABELS, **change})
    assert isinstance(found, SkippedRow)
    assert found.reason == reason
    assert detail in found.detail
    assert found.holds_pair


def test_ids_beside_texts_are_left_alone_as_trl_leaves_them() -> None:
    found = read({"prompt": "a", "chosen": "b", "rejected": "c", **BY_PROMPT})
    assert isinstance(found, PreferencePair)
    assert (found.tokens, found.format) == (None, "TRL standard")


def test_the_id_follows_the_tokens_and_the_scores() -> None:
    ids = [read(row) for row in (BY_PROMPT, BY_LABELS, {**BY_LABELS, "chosen_labels": [-100, -100, 7, 8, 2]})]
    assert ids[0].pair_id == ids[1].pair_id != ids[2].pair_id
