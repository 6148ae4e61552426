"""What goes wrong silently: every code has a row that raises it, and a clean row raises none."""

from __future__ import annotations

from typing import Any

import pytest

from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.tokenize import TokenizedRow, TokenSettings, tokenize_pair
from tests.data.reading import only_pair
from tests.data.tokenizers import small_tokenizer

PAIR = {"prompt": "The owl is", "chosen": " awake now", "rejected": " asleep now"}
CHAT = {
    "prompt": [{"role": "user", "content": "Is it?"}],
    "chosen": [{"role": "assistant", "content": "Yes."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
TURNS = "\n\nHuman: hi\n\nAssistant:"
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def codes(row: dict[str, Any], max_length: int | None = None, template: str | None = None) -> tuple[str, ...]:
    pair = only_pair(RawRow(0, row, 1))
    assert isinstance(pair, PreferencePair), pair
    tokenizer = small_tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    tokens = tokenize_pair(pair, tokenizer, TokenSettings(max_length))
    return (*(pair.warnings if isinstance(tokens, TokenizedRow) else ()), *tokens.warnings)


@pytest.mark.parametrize(
    "row", [PAIR, CHAT, {"chosen": "A b c", "rejected": "A b d"}], ids=["text", "chat", "implicit"]
)
def test_a_clean_row_has_none(row: dict[str, Any]) -> None:
    assert codes(row) == ()


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("W-PROMPT-EMPTY", {**PAIR, "prompt": " "}),
        ("W-PROMPT-EMPTY", {"chosen": "Yes", "rejected": "No"}),
        ("W-SYSTEM-UNUSED", {**PAIR, "system": "Be brief."}),
        ("W-QUESTION-UNUSED", {"question": "2+2?", "chosen": "4", "rejected": "5"}),
        ("W-TRANSCRIPT", {"chosen": TURNS + " Hey", "rejected": TURNS + " Go"}),
        ("W-SHARED-WORDS", {"chosen": TURNS + " Well, yes", "rejected": TURNS + " Well, no"}),
        ("W-SHARED-WORDS", {"chosen": "It is Hello", "rejected": "It is Help"}),
        ("W-BOUNDARY", {**PAIR, "prompt": "The owl is awa", "chosen": "ke", "rejected": "re"}),
    ],
)
def test_a_row_that_raises_it(code: str, row: dict[str, Any]) -> None:
    assert code in codes(row)


def test_a_transcript_whose_answers_begin_apart_shares_no_words() -> None:
    assert codes({"chosen": TURNS + " Hey", "rejected": TURNS + " Go"}) == ("W-TRANSCRIPT",)


def test_what_a_format_reads_is_not_unused() -> None:
    row = {"prompt": "2+2?", "response_1": "5", "response_2": "4", "preference_strength": 2, "system": "x"}
    assert codes(row) == ()


def test_text_of_the_template_before_an_answer() -> None:
    assert codes(CHAT, template=THINKING) == ("W-GENERATION-PROMPT",)
    with_prompt = THINKING.replace("<assistant>{% endif %}", "<assistant><think></think>{% endif %}")
    assert codes(CHAT, template=with_prompt) == ()
    other_prompt = THINKING.replace("<assistant>{% endif %}", "<assistant> OK: {% endif %}")
    assert codes(CHAT, template=other_prompt) == ("W-GENERATION-PROMPT",)


def test_answers_that_are_cut() -> None:
    long = {**PAIR, "chosen": " awake" * 30, "rejected": " asleep" * 30}
    assert codes(long, max_length=20) == ("W-TRUNCATED", "W-BOTH-TRUNCATED")
    assert codes({**long, "chosen": " awake"}, max_length=20) == ("W-TRUNCATED",)
    alike = {**PAIR, "chosen": " owl" * 30 + " a", "rejected": " owl" * 30 + " b"}
    assert codes(alike, max_length=20) == ("W-IDENTICAL-TRUNCATED",)


def test_rows_that_are_identical_without_a_cut_are_not_blamed_on_it() -> None:
    found = only_pair(RawRow(0, {**PAIR, "rejected": PAIR["chosen"]}))
    assert isinstance(found, SkippedRow)
    assert found.warnings == ()
