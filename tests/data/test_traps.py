"""Silent problems in data: every code has a row that raises it, and a clean row raises none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenize import TokenizedRow, tokenize_pair
from entangle_cli.data.traps import question_message
from tests.data.reading import only_pair
from tests.data.tokenizers import small_tokenizer

PAIR = {"prompt": "The owl is", "chosen": " awake now", "rejected": " asleep now"}
CHAT = {
    "prompt": [{"role": "user", "content": "Is it?"}],
    "chosen": [{"role": "assistant", "content": "Yes."}],
    "rejected": [{"role": "assistant", "content": "No."}],
}
USER_TURN = {"role": "user", "content": "Is it?"}
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
    "row",
    [
        PAIR,
        CHAT,
        {"chosen": "A b c", "rejected": "A b d"},
        {"prompt": "Is it?", "chosen": [USER_TURN, *CHAT["chosen"]], "rejected": [USER_TURN, *CHAT["rejected"]]},
        {**PAIR, "score_chosen": 3, "score_rejected": 3},
    ],
    ids=["text", "chat", "implicit", "repeated prompt", "equal scores"],
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
        ("W-SCORE-ORDER", {**PAIR, "score_chosen": 2.0, "score_rejected": 3.5}),
        (
            "W-QUESTION-UNUSED",
            {"prompt": "Why?", "chosen": [USER_TURN, *CHAT["chosen"]], "rejected": [USER_TURN, *CHAT["rejected"]]},
        ),
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


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**PAIR, "chosen": ""}, ("W-EMPTY-ANSWER",)),
        ({**PAIR, "chosen": " \n"}, ("W-BLANK-ANSWER",)),
        ({**PAIR, "prompt": "The owl is awake", "chosen": "The owl is awake now", "rejected": "The owl is awake no"},
         ("W-PROMPT-REPEATED",)),
        ({**PAIR, "prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"}, ()),
        ({**CHAT, "chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]},
         ("W-PROMPT-REPEATED",)),
        # The answer's own first message explains the text that the template writes before it.
        ({**CHAT, "rejected": [{"role": "user", "content": "No."}]}, ("W-ANSWER-ROLE",)),
        ({**PAIR, "prompt": "<s>The owl is"}, ()),
        ({**PAIR, "chosen": " awake<|im_end|>\n"}, ("W-EOS-DOUBLED",)),
        ({**PAIR, "chosen": "[{'role': 'assistant', 'content': 'Yes'}]"}, ("W-MESSAGES-AS-TEXT",)),
        ({**PAIR, "chosen": json.dumps([{"role": "assistant", "content": "Yes"}])}, ("W-MESSAGES-AS-TEXT",)),
        ({"trajectory": [{"from": "user", "value": "2+2?"}], "chosen": "4", "rejected": "5"},
         ("W-QUESTION-UNUSED", "W-PROMPT-EMPTY")),
        ({**PAIR, "initial_reason_steps": "Step 1:"}, ("W-QUESTION-UNUSED",)),
        ({"messages": CHAT["prompt"], "chosen": "Same 4", "rejected": "Same 5"}, ("W-QUESTION-UNUSED",)),
    ],
)  # fmt: skip
def test_common_traps(row: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert codes(row) == expected


def test_a_tokenizer_that_adds_its_own_tokens_doubles_them() -> None:
    pair = only_pair(RawRow(0, {**PAIR, "prompt": "<s>The owl is"}, 1))
    assert isinstance(pair, PreferencePair)
    tokens = tokenize_pair(pair, small_tokenizer(with_bos=True), TokenSettings(None))
    assert isinstance(tokens, TokenizedRow)
    assert tokens.pair.chosen.ids[0] == tokens.pair.chosen.ids[1]
    assert "W-BOS-DOUBLED" in tokens.warnings


def test_the_unread_column_is_named_with_what_reads_it() -> None:
    pair = only_pair(RawRow(0, {"messages": CHAT["prompt"], "chosen": "4", "rejected": "5"}, 1))
    assert isinstance(pair, PreferencePair)
    assert pair.unread_columns == ("messages",)
    assert question_message(["messages"]).endswith("messages; --data-format turns reads it")
    assert question_message(["instruction", "input"]).endswith("input, instruction; --data-format alpaca reads it")
    assert question_message(["query"]).endswith("query; --map prompt=COLUMN with the other two reads it")


def test_sequences_beyond_the_context_are_reported() -> None:
    pair = only_pair(RawRow(0, PAIR, 1))
    assert isinstance(pair, PreferencePair)
    lengths = tokenize_pair(pair, small_tokenizer(), TokenSettings(None))
    assert isinstance(lengths, TokenizedRow)
    longest = max(len(side.ids) for side in (lengths.pair.chosen, lengths.pair.rejected))
    for context, expected in ((longest, ()), (longest - 1, ("W-CONTEXT",))):
        found = tokenize_pair(pair, small_tokenizer(), TokenSettings(None, context=context))
        assert isinstance(found, TokenizedRow)
        assert found.warnings == expected


def test_half_an_emoji_is_reported() -> None:
    for row in ({**PAIR, "chosen": " hi \ud83d"}, {**CHAT, "chosen": [{"role": "assistant", "content": "hi \ud83d"}]}):
        pair = only_pair(RawRow(0, row, 1))
        assert isinstance(pair, PreferencePair)
        found = tokenize_pair(pair, small_tokenizer(), TokenSettings(None))
        assert isinstance(found, SkippedRow)
        assert "half an emoji" in found.detail
        assert "\\ud83d alone is not a valid character" in found.detail
