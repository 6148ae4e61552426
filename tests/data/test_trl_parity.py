"""Tokens, dropped rows and log-probs against TRL's own DPOTrainer, by format and by truncation."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.data_utils import extract_prompt as trl_extract_prompt

import entangle_cli
from entangle_cli.data.pairs import PreferencePair
from entangle_cli.data.sources import open_source
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenize import TokenizedRow, tokenize_pair
from entangle_cli.data.trl_rows import extract_prompt
from entangle_cli.records.pair import PairRecord
from entangle_cli.records.settings import ScanSettings
from tests.data.reading import only_pair
from tests.data.tokenizers import EOS, SENTENCES, small_tokenizer
from tests.data.trl_reference import Trl, tiny_llama

Row = dict[str, Any]

SHORT = 16
"""Truncates some of the rows below and drops others; a test checks this."""

SETTINGS: dict[str, tuple[int | None, str]] = {
    "1024 keep_start": (1024, "keep_start"),
    "short keep_start": (SHORT, "keep_start"),
    "short keep_end": (SHORT, "keep_end"),
    "no limit": (None, "keep_start"),
}

LONG = " The capital of France is Paris, and the capital of Spain is Madrid, é🙂, " * 2


def turns(*contents: str, first: str = "user") -> list[dict[str, Any]]:
    """Alternating messages of user and assistant."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]


def answer(content: str) -> list[dict[str, Any]]:
    return turns(content, first="assistant")


STANDARD: list[Row] = [
    {"prompt": "The sk", "chosen": "y is blue.", "rejected": "y is grey."},
    {"prompt": "Two and two is ", "chosen": "four", "rejected": "five"},
    {"prompt": "Hello, how", "chosen": " can I help you today?", "rejected": " do I go away?"},
    {"prompt": LONG, "chosen": " Yes.", "rejected": " No."},
    {"prompt": "Cats", "chosen": LONG, "rejected": " sleep."},
    {"prompt": "Dogs", "chosen": LONG + "bark.", "rejected": LONG + "sleep."},
    {"prompt": "", "chosen": "Madrid.", "rejected": "Paris."},
    {"prompt": "The capital of France", "chosen": f" is Paris.{EOS}", "rejected": " is Madrid."},
    {"prompt": "Two and two is", "chosen": " four", "rejected": " four, not five."},
    {"prompt": "é🙂\u202e\n\t", "chosen": "\x1b[31m日本", "rejected": f"{EOS} <s> <pad>"},
    {"prompt": "Say nothing.", "chosen": EOS, "rejected": " "},
]


def implicit(rows: Sequence[Row]) -> list[Row]:
    return [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]


STANDARD_IMPLICIT: list[Row] = [
    # Nothing is shared: TRL uses the position before the first character, which is the last one of chosen.
    {"chosen": "Cats sleep ", "rejected": "Dogs bark"},
    {"chosen": "Cats sleep", "rejected": "Dogs bark"},
    {"chosen": "The sky is blue", "rejected": "The sky is"},
    *implicit(STANDARD),
]

TRANSCRIPTS: list[Row] = [
    {"chosen": f"{start}\n\nAssistant: {chosen}", "rejected": f"{start}\n\nAssistant: {rejected}"}
    for start, chosen, rejected in [
        ("\n\nHuman: Hi", "Hello.", "Help yourself."),
        ("\n\nHuman: Hi", "Hello.", "Hello. How can I help you?"),
        ("\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is the time?", "It is noon.", "Go away."),
        (f"\n\nHuman: {LONG}", "Yes.", "No."),
        ("\n\nHuman: Cats?", LONG, "Dogs."),
        ("\n\nHuman: Cats?", f"Dogs.{EOS}", "Dogs. "),
    ]
]

CONVERSATIONAL: list[Row] = [
    {"prompt": turns("Is the sky blue?"), "chosen": answer("Yes."), "rejected": answer("No.")},
    {"prompt": turns("Hi", "Hello.", "What is it?"), "chosen": answer("The sea."), "rejected": answer("The sky.")},
    {
        "prompt": [{"role": "system", "content": "Be brief."}, *turns("Hi")],
        "chosen": answer("Hello."),
        "rejected": answer("Hello, how can I help you today?"),
    },
    {"prompt": turns(LONG), "chosen": answer("Yes."), "rejected": answer("No.")},
    {"prompt": turns("Cats"), "chosen": answer(LONG), "rejected": answer("sleep.")},
    {"prompt": turns("Go"), "chosen": answer(LONG + "Yes."), "rejected": answer(LONG + "No.")},
    # A prompt that ends with the start of the answer, and answers with several messages.
    {"prompt": turns("Hi", "Hel"), "chosen": answer("lo."), "rejected": answer("p.")},
    {
        "prompt": turns("Hi"),
        "chosen": turns("Hello.", "Go away", "No.", first="assistant"),
        "rejected": answer(f"He{EOS}llo"),
    },
]

CONVERSATIONAL_IMPLICIT: list[Row] = [
    *implicit(CONVERSATIONAL),
    {"chosen": turns("Hi", "Hello.", "Go", "No."), "rejected": turns("Hi", "Hello.")},
    {"chosen": turns("Hi", "Hello.", "Go", "No."), "rejected": turns("Hi", "Hello.", "Come", "Yes.")},
]

CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time."}}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "clock"}}]}

WITH_TOOLS: list[Row] = [
    {**CONVERSATIONAL[0], "tools": [CLOCK], "chat_template_kwargs": {"brief": True, "thinking": True}},
    {**CONVERSATIONAL[0], "tools": None, "chat_template_kwargs": {"brief": False, "thinking": False}},
    {**CONVERSATIONAL[1], "tools": None, "chat_template_kwargs": {"brief": False, "thinking": True}},
    {
        "prompt": turns("What is the time?"),
        "chosen": [CALL],
        "rejected": answer("It is noon."),
        "tools": [CLOCK, CLOCK],
        "chat_template_kwargs": {"brief": False, "thinking": False},
    },
]

TOOLS_AS_TEXT: list[Row] = [{**row, "tools": json.dumps(row["tools"] or [])} for row in WITH_TOOLS]


def random_rows(count: int = 60) -> list[Row]:
    """Texts cut at any character. Some prompts end inside tokens."""
    generator = random.Random(0)
    text = " ".join(SENTENCES)

    def piece(longest: int) -> str:
        start = generator.randrange(len(text) - longest)
        return text[start : start + generator.randint(1, longest)]

    return [{"prompt": piece(30), "chosen": piece(40), "rejected": piece(40)} for _ in range(count)]


FORMATS: dict[str, tuple[list[Row], bool]] = {
    "standard": (STANDARD, False),
    "standard with BOS": (STANDARD, True),
    "standard cut anywhere": (random_rows(), False),
    "standard implicit": (STANDARD_IMPLICIT, False),
    "standard implicit with BOS": (STANDARD_IMPLICIT, True),
    "transcripts": (TRANSCRIPTS, False),
    "conversational": (CONVERSATIONAL, False),
    "conversational with BOS": (CONVERSATIONAL, True),
    "conversational implicit": (CONVERSATIONAL_IMPLICIT, False),
    "tools and template arguments": (WITH_TOOLS, False),
    "tools as text": (TOOLS_AS_TEXT, False),
}
"""Rows, and whether the tokenizer adds a BOS."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The same rows read by TRL and by the package."""

    trl: Trl
    tokens: list[TokenizedRow]
    """All rows, without a length limit."""
    records: list[PairRecord]
    limit: int | None
    truncation: str


Saved = Callable[[bool], tuple[Path, PreTrainedModel, PreTrainedTokenizerBase]]
"""Whether the tokenizer adds a BOS, to a saved checkpoint and its model and tokenizer in memory."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    @cache
    def saved(with_bos: bool) -> tuple[Path, PreTrainedModel, PreTrainedTokenizerBase]:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = small_tokenizer(with_bos=with_bos)
        model = tiny_llama(tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder, model, tokenizer

    return saved


def compared_cases() -> list[Any]:
    return [pytest.param(case, id=", ".join(case)) for case in product(FORMATS, SETTINGS)]


@pytest.fixture(scope="module", params=compared_cases())
def compared(request: pytest.FixtureRequest, checkpoint: Saved, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    format_name, setting = request.param
    return compare(FORMATS[format_name], SETTINGS[setting], checkpoint, tmp_path_factory.mktemp("case"))


def compare(
    rows_and_bos: tuple[list[Row], bool],
    setting: tuple[int | None, str],
    checkpoint: Saved,
    folder: Path,
) -> Compared:
    rows, with_bos = rows_and_bos
    limit, truncation = setting
    saved, model, tokenizer = checkpoint(with_bos)
    datasets.disable_progress_bars()
    trl = Trl(rows, tokenizer, model, limit, truncation, folder / "trainer")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    # With a few tokens per batch, responses are padded differently from TRL.
    scan_settings = ScanSettings(max_length=limit, truncation=truncation, device="cpu", batch_tokens=200)
    records = entangle_cli.scan(str(saved), data, scan_settings)
    return Compared(trl, [tokens_of(row, tokenizer) for row in pairs_of(data)], records, limit, truncation)


def pairs_of(data: Path) -> list[PreferencePair]:
    pairs = [only_pair(row) for row in open_source(str(data)).rows()]
    assert all(isinstance(pair, PreferencePair) for pair in pairs), pairs
    return [pair for pair in pairs if isinstance(pair, PreferencePair)]


def tokens_of(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase) -> TokenizedRow:
    row = tokenize_pair(pair, tokenizer, TokenSettings(max_length=None))
    assert isinstance(row, TokenizedRow), row
    return row


def test_the_same_rows_are_dropped(compared: Compared) -> None:
    kept = {record.index for record in compared.records if record.reason != "prompt_too_long"}
    assert [record.index for record in compared.records] == list(range(len(compared.tokens)))
    assert kept == set(compared.trl.pairs)
    for record in compared.records:
        if record.status == "ok":
            continue
        # Other rows that TRL keeps and the package skips have no gradient difference to measure.
        assert record.reason in ("prompt_too_long", "identical"), record
        if record.reason == "identical":
            pair = compared.trl.pairs[record.index]
            assert pair.chosen.ids == pair.rejected.ids


def test_prompt_and_responses_have_the_same_tokens(compared: Compared) -> None:
    for index, pair in compared.trl.pairs.items():
        tokens = compared.tokens[index]
        prompt = tokens.prompt_tokens
        assert prompt == len(pair.prompt_ids)
        for response, response_ids in (
            (tokens.pair.chosen, pair.chosen_ids),
            (tokens.pair.rejected, pair.rejected_ids),
        ):
            assert list(response.ids[:prompt]) == pair.prompt_ids
            assert list(response.ids[prompt:]) == response_ids
            assert response.first_scored == max(1, prompt)


def test_the_same_tokens_are_scored_with_the_same_log_probs(compared: Compared) -> None:
    measured = [record for record in compared.records if record.status == "ok"]
    assert measured
    for record in measured:
        pair = compared.trl.pairs[record.index]
        assert record.chosen_tokens == pair.chosen.num_scored
        assert record.rejected_tokens == pair.rejected.num_scored
        # Without a prompt, the first token has no prediction, cut or not.
        unscored = 0 if pair.prompt_ids else 1
        assert record.chosen_truncated == (pair.chosen.num_scored < len(pair.chosen_ids) - unscored)
        assert record.rejected_truncated == (pair.rejected.num_scored < len(pair.rejected_ids) - unscored)
        kept = [len(side.ids) - side.num_scored for side in (pair.chosen, pair.rejected)]
        assert record.prompt_tokens == min(kept) or (record.prompt_tokens, min(kept)) == (0, 1)
        assert record.chosen_log_prob == pytest.approx(pair.chosen.log_prob, rel=1e-5, abs=1e-5)
        assert record.rejected_log_prob == pytest.approx(pair.rejected.log_prob, rel=1e-5, abs=1e-5)


LONG_CASES = [case for case in compared_cases() if SETTINGS[case.values[0][1]][0] != SHORT]
"""Cases in which whole responses are scored. A cut response may have one scored token, with no end to drop."""


@pytest.mark.parametrize("compared", LONG_CASES, indirect=True, scope="module")
def test_another_boundary_or_no_last_token_would_be_seen(compared: Compared) -> None:
    """One scored token more or less changes the values compared above by over 1000 times their tolerance."""
    for record in [record for record in compared.records if record.status == "ok"][:8]:
        pair = compared.trl.pairs[record.index]
        chosen = compared.trl.log_prob(pair.prompt_ids, pair.chosen_ids)
        assert chosen == pytest.approx(record.chosen_log_prob, rel=1e-5, abs=1e-5)
        without_last = compared.trl.log_prob(pair.prompt_ids, pair.chosen_ids[:-1])
        assert abs(without_last - chosen) > 1e-2
        # Position 0 has no log-prob, so a boundary before it equals one after it.
        if pair.prompt_ids:
            later = compared.trl.log_prob([*pair.prompt_ids, pair.chosen_ids[0]], pair.chosen_ids[1:])
            assert abs(later - chosen) > 1e-2


SHORT_CASES = [case for case in compared_cases() if case.values[0][1] == "short keep_start"]


@pytest.mark.parametrize("compared", SHORT_CASES, indirect=True, scope="module")
def test_the_short_limit_drops_cuts_and_leaves_rows(compared: Compared) -> None:
    measured = [record for record in compared.records if record.status == "ok"]
    assert len(compared.trl.pairs) < len(compared.tokens)
    assert any(record.chosen_truncated or record.rejected_truncated for record in measured)


def test_the_standard_rows_hold_every_kind_of_cut(checkpoint: Saved, tmp_path: Path) -> None:
    short = compare((STANDARD, False), (SHORT, "keep_start"), checkpoint, tmp_path)
    assert [record.index for record in short.records if record.reason == "prompt_too_long"] == [3]
    assert [record.index for record in short.records if record.reason == "identical"] == [5]
    assert [record.chosen_truncated for record in short.records if record.index in (0, 4)] == [False, True]


@pytest.mark.parametrize("rows", [STANDARD, random_rows()], ids=["written", "random"])
def test_a_moved_boundary_is_reported(rows: list[Row], checkpoint: Saved, tmp_path: Path) -> None:
    case = compare((rows, False), (None, "keep_start"), checkpoint, tmp_path)
    tokenizer = checkpoint(False)[2]
    prompt_lengths = [len(tokenizer(text=row["prompt"])["input_ids"]) for row in rows]
    moved = [length > len(case.trl.pairs[index].prompt_ids) for index, length in enumerate(prompt_lengths)]
    assert [record.boundary_moved for record in case.records] == moved
    assert set(moved) == {True, False}


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from(["", " ", "a"])}),
    min_size=1,
    max_size=4,
)


def with_shared_start(texts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Two texts that often share a start, contain each other at the start, or differ from the first character."""
    started = st.tuples(texts, texts, texts).map(lambda parts: (parts[0] + parts[1], parts[0] + parts[2]))
    longer = st.tuples(texts, texts).map(lambda parts: (parts[0], parts[0] + parts[1]))
    return st.one_of(started, longer, longer.map(lambda two: two[::-1]), st.tuples(texts, texts))


@given(
    st.one_of(
        with_shared_start(st.text(alphabet="ab \n", min_size=1, max_size=6)),
        with_shared_start(st.text(min_size=1)),
        with_shared_start(MESSAGES),
    )
)
@settings(max_examples=300, deadline=None)
def test_the_implicit_prompt_is_the_one_that_trl_extracts(answers: tuple[Any, Any]) -> None:
    chosen, rejected = answers
    if chosen == rejected:
        return
    expected = trl_extract_prompt({"chosen": chosen, "rejected": rejected})
    assert extract_prompt(chosen, rejected) == (expected["prompt"], expected["chosen"], expected["rejected"])
