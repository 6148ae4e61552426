"""From pairs to scored tokens: boundaries, truncation, and pairs that cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

import entangle_cli
from entangle_cli.data.pairs import PreferencePair, SkippedRow
from entangle_cli.data.rows import RawRow
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenize import TokenizedRow, tokenize_answer, tokenize_pair, tokenize_prompt
from entangle_cli.errors import ExitCode, ModelError
from entangle_cli.records.measurement import TokenizedResponse
from entangle_cli.records.settings import ScanSettings, Truncation
from tests.data.reading import only_pair
from tests.data.tokenizers import BOS, EOS, small_tokenizer
from tests.data.trl_reference import tiny_llama

Row = dict[str, Any]

NO_LIMIT = TokenSettings(max_length=None)


def pair_of(row: Row) -> PreferencePair:
    pair = only_pair(RawRow(5, row, 6))
    assert isinstance(pair, PreferencePair), pair
    return pair


def texts(prompt: str, chosen: str, rejected: str) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def chat(prompt: str, chosen: str, rejected: str, **more: Any) -> Row:
    user = [{"role": "user", "content": prompt}]
    answers = [[{"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
    return {"prompt": user, "chosen": answers[0], "rejected": answers[1], **more}


def tokenized(row: Row, settings: TokenSettings = NO_LIMIT, tokenizer: Any = None) -> TokenizedRow:
    result = tokenize_pair(pair_of(row), tokenizer or small_tokenizer(), settings)
    assert isinstance(result, TokenizedRow), result
    return result


def skipped(row: Row, settings: TokenSettings = NO_LIMIT, tokenizer: Any = None) -> tuple[str, str]:
    pair = pair_of(row)
    result = tokenize_pair(pair, tokenizer or small_tokenizer(), settings)
    assert isinstance(result, SkippedRow), result
    assert (result.index, result.line, result.pair_id) == (5, 6, pair.pair_id)
    assert result.holds_pair
    return result.reason, result.detail


def spelled(response: TokenizedResponse, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[str, str]:
    """The unscored and the scored part, as text."""
    tokenizer = tokenizer or small_tokenizer()
    ids = list(response.ids)
    return tokenizer.decode(ids[: response.first_scored]), tokenizer.decode(ids[response.first_scored :])


def words(count: int) -> str:
    """A text with this number of tokens."""
    text = " the" * count
    assert len(small_tokenizer()(text=text)["input_ids"]) == count
    return text


def test_a_plain_answer_ends_with_the_eos_once() -> None:
    row = tokenized(texts("The sky", " is blue", f" is grey{EOS}"))
    assert spelled(row.pair.chosen) == ("The sky", f" is blue{EOS}")
    assert spelled(row.pair.rejected) == ("The sky", f" is grey{EOS}")
    assert not row.boundary_moved
    assert row.prompt_tokens == 2


def test_a_conversation_ends_as_its_template_does() -> None:
    row = tokenized(chat("Hi", "Hello.", "Go."))
    asked = f"<|im_start|>user\nHi{EOS}\n<|im_start|>assistant\n"
    assert spelled(row.pair.chosen) == (asked, f"Hello.{EOS}\n")
    assert spelled(row.pair.rejected) == (asked, f"Go.{EOS}\n")


def test_a_prompt_that_merges_with_the_answer_gives_its_end_to_both_answers() -> None:
    row = tokenized(texts("The sk", "y is blue", "etch"))
    assert row.boundary_moved
    assert row.prompt_tokens == 1
    assert spelled(row.pair.chosen) == ("The", f" sky is blue{EOS}")
    assert spelled(row.pair.rejected) == ("The", f" sketch{EOS}")


def test_a_generation_prompt_that_the_conversation_lacks_is_scored_from_where_they_part() -> None:
    row = tokenized(chat("Hi", "Hello.", "Go.", chat_template_kwargs={"thinking": False}))
    assert row.boundary_moved
    assert spelled(row.pair.chosen)[1].endswith(f"Hello.{EOS}\n")
    assert "think" not in "".join(spelled(row.pair.chosen))


def test_tools_and_template_arguments_reach_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    row = tokenized(chat("Hi", "Hello.", "Go.", tools=tools, chat_template_kwargs={"brief": True}))
    read = f"<|im_start|>system\n{json.dumps(tools)}{EOS}\n<|im_start|>system\nBe brief.{EOS}\n<|im_start|>user\nHi"
    assert spelled(row.pair.chosen)[0].startswith(read)


def test_a_bos_of_the_tokenizer_is_part_of_a_plain_prompt_only() -> None:
    tokenizer = small_tokenizer(with_bos=True)
    plain = tokenized(texts("", "Madrid", "Paris"), tokenizer=tokenizer)
    assert spelled(plain.pair.chosen, tokenizer) == (BOS, f"Madrid{EOS}")
    assert plain.prompt_tokens == 1
    assert BOS not in "".join(spelled(tokenized(chat("Hi", "a", "b"), tokenizer=tokenizer).pair.chosen, tokenizer))


def test_an_empty_prompt_leaves_the_first_token_without_a_score() -> None:
    row = tokenized(texts("", " the sky", " the sea"))
    assert row.prompt_tokens == 0
    assert row.pair.chosen.first_scored == 1
    assert spelled(row.pair.chosen) == (" the", f" sky{EOS}")
    assert row.pair.chosen.num_scored == 2


def test_a_response_of_one_token_at_the_start_has_nothing_to_score() -> None:
    reason, detail = skipped(texts("", EOS, "Paris"))
    assert (reason, detail) == ("empty", "no token of the chosen response is scored")
    assert skipped(texts("", "Paris", EOS)) == ("empty", "no token of the rejected response is scored")


def test_without_an_eos_nothing_is_appended() -> None:
    tokenizer = small_tokenizer(with_eos=False)
    assert tokenizer.eos_token is None
    row = tokenized(texts("The sky", " is blue", " is grey"), tokenizer=tokenizer)
    assert spelled(row.pair.chosen, tokenizer) == ("The sky", " is blue")


LIMITS = [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("limit", LIMITS)
def test_keep_start_cuts_the_end_and_drops_what_has_no_room_to_answer(limit: int) -> None:
    """A prompt of 4 tokens, answers of 2 and 4 with the EOS."""
    row = texts(words(4), " sky", " is the is")
    whole = tokenized(row).pair
    assert (len(whole.chosen.ids), len(whole.rejected.ids)) == (6, 8)
    cut = TokenSettings(limit, Truncation.KEEP_START)
    if limit <= 4:
        assert skipped(row, cut) == ("prompt_too_long", f"the prompt has 4 tokens, and --max-length is {limit}")
        return
    pair = tokenized(row, cut).pair
    assert pair.chosen == TokenizedResponse(whole.chosen.ids[:limit], 4, truncated=limit < 6)
    assert pair.rejected == TokenizedResponse(whole.rejected.ids[:limit], 4, truncated=limit < 8)


@pytest.mark.parametrize("limit", LIMITS)
def test_keep_end_cuts_the_start_of_each_response_on_its_own(limit: int) -> None:
    row = texts(words(4), " sky", " is the is")
    whole = tokenized(row).pair
    pair = tokenized(row, TokenSettings(limit, Truncation.KEEP_END)).pair
    # The excess tokens are cut at the front. Scored tokens stay scored, except at position 0.
    starts = {3: (1, 1), 4: (2, 1), 5: (3, 1), 6: (4, 2), 7: (4, 3), 8: (4, 4), 9: (4, 4)}
    assert (pair.chosen.first_scored, pair.rejected.first_scored) == starts[limit]
    assert pair.chosen.ids == whole.chosen.ids[-limit:]
    assert pair.rejected.ids == whole.rejected.ids[-limit:]
    # An answer counts as truncated if one of its own tokens is not scored, not if only the prompt was cut.
    assert (pair.chosen.truncated, pair.rejected.truncated) == (limit < 3, limit < 5)


@pytest.mark.parametrize(
    ("limit", "prompt_tokens", "warnings"),
    [
        (4, 0, ("W-TRUNCATED", "W-PROMPT-TRUNCATED")),
        (5, 1, ("W-PROMPT-TRUNCATED",)),
        (7, 3, ("W-PROMPT-TRUNCATED",)),
        (8, 4, ()),
    ],
)
def test_keep_end_says_what_is_scored(limit: int, prompt_tokens: int, warnings: tuple[str, ...]) -> None:
    """A prompt of 4 tokens, answers of 2 and 4. The longer sequence determines how much of the prompt both keep."""
    found = tokenized(texts(words(4), " sky", " is the is"), TokenSettings(limit, Truncation.KEEP_END))
    assert (found.prompt_tokens, found.warnings) == (prompt_tokens, warnings)


def test_keep_end_drops_no_long_prompt() -> None:
    pair = tokenized(texts(words(50), " sky", " sea"), TokenSettings(4, Truncation.KEEP_END)).pair
    assert spelled(pair.chosen) == (" the the", f" sky{EOS}")


def test_answers_that_part_after_the_cut_are_identical() -> None:
    row = texts("The sky", words(20) + " blue", words(20) + " grey")
    assert skipped(row, TokenSettings(12)) == ("identical", "the two responses have the same tokens after truncation")
    assert tokenized(row, TokenSettings(30)).pair.chosen != tokenized(row, TokenSettings(30)).pair.rejected


def test_answers_that_only_the_eos_tells_apart_are_identical() -> None:
    assert skipped(texts("The sky", " is", f" is{EOS}")) == ("identical", "the two responses have the same tokens")


def test_a_conversation_needs_a_chat_template() -> None:
    tokenizer = small_tokenizer(with_template=False)
    with pytest.raises(ModelError, match="row 5 is a conversation, and the tokenizer has no chat template") as caught:
        tokenize_pair(pair_of(chat("Hi", "a", "b")), tokenizer, NO_LIMIT)
    assert caught.value.exit_code is ExitCode.INPUT
    assert tokenized(texts("Hi", "a", "b"), tokenizer=tokenizer).prompt_tokens


def test_a_conversation_that_the_template_refuses_is_malformed() -> None:
    row = chat("Hi", "a", "b")
    row["rejected"][0]["role"] = "refused"
    assert skipped(row) == ("malformed", "the chat template rejects the conversation: no such role")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": ["no schema"]},
        {"chat_template_kwargs": {"tokenize": False}},
        {"chat_template_kwargs": {"continue_final_message": True}},
    ],
    ids=["tools", "an argument of ours", "an argument that contradicts"],
)
def test_what_the_library_refuses_is_malformed(more: Row) -> None:
    reason, detail = skipped(chat("Hi", "a", "b", **more))
    assert reason == "malformed"
    assert detail.startswith("the chat template rejects the conversation: ")


def test_half_a_character_is_malformed() -> None:
    """JSON can contain a lone surrogate, which cannot be encoded."""
    row = json.loads('{"prompt": "2+2=", "chosen": "4 \\ud83d", "rejected": "5"}')
    assert skipped(row)[0] == "malformed"


@pytest.mark.parametrize("wanted", ["pt", "np"])
def test_template_arguments_that_change_the_type_of_the_ids_are_malformed(wanted: str) -> None:
    row = chat("Hi", "Hello, how can I help?", "Go", chat_template_kwargs={"return_tensors": wanted})
    assert skipped(row)[0] == "malformed"


def test_a_sequence_may_have_one_token_more_than_the_model_has_positions() -> None:
    row = texts(words(4), " sky", " is the is")  # sequences of 6 and 8 tokens
    assert tokenized(row, TokenSettings(None, position_limit=7))
    detail = "the rejected sequence has 8 tokens, but the model has only 6 positions"
    assert skipped(row, TokenSettings(None, position_limit=6)) == ("too_long_for_model", detail)
    detail = "the chosen sequence has 8 tokens, but the model has only 6 positions"
    turned = texts(row["prompt"], row["rejected"], row["chosen"])
    assert skipped(turned, TokenSettings(None, position_limit=6)) == ("too_long_for_model", detail)
    assert tokenized(row, TokenSettings(7, position_limit=6)).pair.rejected.truncated


def saved_model(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scanned(model: Path, rows: list[Row], **settings: Any) -> list[entangle_cli.PairRecord]:
    data = model / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return entangle_cli.scan(str(model), data, ScanSettings(device="cpu", **settings))


def test_a_model_of_few_positions_measures_what_fits(tmp_path: Path) -> None:
    """8 positions allow 9 tokens: the last token needs no position. A tenth token does not fit."""
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=8)
    model = GPT2LMHeadModel(config).eval()
    folder = saved_model(tmp_path / "gpt2", model, tokenizer)
    rows = [texts(words(4), words(count), " sky") for count in (3, 4, 5)]
    records = scanned(folder, rows, max_length=None)
    assert [record.status for record in records] == ["ok", "ok", "skipped"]
    assert records[2].reason == "too_long_for_model"
    assert records[2].detail == "the chosen sequence has 10 tokens, but the model has only 8 positions"
    ids = tokenizer(text=words(4) + words(4) + EOS, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 9)
    with torch.no_grad():
        log_probs = model(input_ids=ids[:, :-1]).logits.log_softmax(-1)
        with pytest.raises(IndexError):
            model(input_ids=ids)
    expected = log_probs[0, 3:].gather(-1, ids[0, 4:, None]).sum().item()
    assert records[1].chosen_log_prob == pytest.approx(expected, rel=1e-5)


def test_a_token_that_the_model_has_no_embedding_for_spoils_its_row_only(tmp_path: Path) -> None:
    """Many fine-tuned checkpoints have more tokens in the tokenizer than in the model. The data rarely contain them."""
    tokenizer = small_tokenizer()
    model = tiny_llama(tokenizer)
    tokenizer.add_tokens(["<|new|>"])
    folder = saved_model(tmp_path / "model", model, tokenizer)
    records = scanned(folder, [texts("a", "<|new|>", "b"), texts("a", "b", "c")])
    assert [record.status for record in records] == ["skipped", "ok"]
    assert "360" in (records[0].detail or "")


TEXTS = st.text(alphabet="The skyblu.,\n é🙂", min_size=1, max_size=20)


@given(TEXTS, TEXTS, TEXTS, st.none() | st.integers(1, 12), st.sampled_from(Truncation))
@settings(deadline=None)
def test_cuts_keep_what_they_promise(
    prompt: str, chosen: str, rejected: str, limit: int | None, truncation: Truncation
) -> None:
    pair = only_pair(RawRow(0, texts(prompt, chosen, rejected)))
    if isinstance(pair, SkippedRow):
        return
    tokenizer = small_tokenizer()
    whole = tokenize_pair(pair, tokenizer, NO_LIMIT)
    cut = tokenize_pair(pair, tokenizer, TokenSettings(limit, truncation))
    assert isinstance(whole, TokenizedRow)
    if isinstance(cut, SkippedRow):
        assert limit is not None
        assert cut.reason in {"prompt_too_long", "identical", "empty"}
        return
    for full, response in ((whole.pair.chosen, cut.pair.chosen), (whole.pair.rejected, cut.pair.rejected)):
        ids = list(tokenizer(text=prompt + (chosen if full is whole.pair.chosen else rejected) + EOS)["input_ids"])
        assert list(full.ids) == ids
        kept = ids if limit is None else ids[:limit] if truncation is Truncation.KEEP_START else ids[-limit:]
        assert list(response.ids) == kept
        scored = len(ids) - full.first_scored
        assert response.truncated == (response.num_scored < scored)
        assert response.num_scored == min(scored, len(kept) - 1 if truncation is Truncation.KEEP_END else scored) or (
            truncation is Truncation.KEEP_START and response.num_scored == len(kept) - response.first_scored
        )
        assert 1 <= response.first_scored < len(kept)


PROMPT_AND_ANSWER = [
    texts("The sky", " is blue", " is grey"),
    texts("Th", "e sky is blue.", " is grey"),
    chat("Hi", "Hello.", "Go."),
    chat("Hi", "Hello.", "Go.", chat_template_kwargs={"brief": True}),
]


@pytest.mark.parametrize("row", PROMPT_AND_ANSWER)
@pytest.mark.parametrize(
    "limits",
    [NO_LIMIT, TokenSettings(max_length=12), TokenSettings(max_length=6, truncation=Truncation.KEEP_END)],
)
def test_an_answer_alone_has_the_tokens_that_it_has_in_a_pair(row: Row, limits: TokenSettings) -> None:
    pair = pair_of(row)
    alone = tokenize_answer(pair, small_tokenizer(), limits)
    whole = tokenize_pair(pair, small_tokenizer(), limits)
    if isinstance(whole, SkippedRow):
        assert isinstance(alone, SkippedRow)
        assert (alone.reason, alone.detail) == (whole.reason, whole.detail)
        return
    assert isinstance(alone, TokenizedResponse)
    # The other answer of a pair may differ from the prompt's tokens at an earlier position.
    assert alone.ids == whole.pair.chosen.ids
    if not whole.boundary_moved:
        assert alone == whole.pair.chosen


def test_an_answer_that_cannot_be_scored_has_a_reason() -> None:
    pair = pair_of(texts(words(6), " is blue", " is grey"))
    few = TokenSettings(max_length=None, position_limit=6)
    found = tokenize_answer(pair, small_tokenizer(), few)
    assert isinstance(found, SkippedRow)
    assert (found.reason, found.detail) == (
        "too_long_for_model",
        "the probe sequence has 9 tokens, but the model has only 6 positions",
    )
    unknown = tokenize_answer(pair, small_tokenizer(), TokenSettings(num_embeddings=3))
    assert isinstance(unknown, SkippedRow)
    assert "only 3 embeddings" in unknown.detail


def test_a_prompt_alone_leaves_room_for_an_answer() -> None:
    for row in (texts(words(6), " a", " b"), chat("Hi", "Hello.", "Go.")):
        pair = pair_of(row)
        ids = tokenize_prompt(pair, small_tokenizer(), NO_LIMIT)
        answer = tokenize_answer(pair, small_tokenizer(), NO_LIMIT)
        assert isinstance(answer, TokenizedResponse)
        assert ids == answer.ids[: answer.first_scored]
    pair = pair_of(texts(words(6), " a", " b"))
    for limits in (TokenSettings(max_length=6), TokenSettings(context=6), TokenSettings(position_limit=5)):
        found = tokenize_prompt(pair, small_tokenizer(), limits)
        assert isinstance(found, SkippedRow)
        assert found.reason == "prompt_too_long"
    assert tokenize_prompt(pair, small_tokenizer(), TokenSettings(max_length=7, context=9)) is not None
    empty = tokenize_prompt(pair_of(texts("", "a", "b")), small_tokenizer(), NO_LIMIT)
    assert isinstance(empty, SkippedRow)
    assert empty.reason == "empty"
