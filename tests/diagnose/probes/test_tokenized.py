"""Log-probs of probe answers against a plain log-softmax, and own answers against transformers' `generate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.probe_answers import ProbeAnswer, ProbeFile
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenizer import TokenizerOfModel
from entangle_cli.diagnose.probes.own_answers import end_tokens, greedy_answer, with_own_answers
from entangle_cli.diagnose.probes.tokenized import AnswerPack, TokenizedProbe, tokenize_probes
from entangle_cli.engine.scorer import Scorer
from entangle_cli.errors import DataError
from entangle_cli.records.measurement import TokenizedResponse
from tests.data.tokenizers import small_tokenizer
from tests.tiny_models import VOCABULARY, tiny_model


def responses(number: int) -> list[TokenizedResponse]:
    generator = np.random.default_rng(number)
    lengths = generator.integers(4, 12, number)
    return [
        TokenizedResponse(tuple(generator.integers(3, VOCABULARY, length).tolist()), int(generator.integers(1, 4)))
        for length in lengths
    ]


def plain_log_prob(model: PreTrainedModel, response: TokenizedResponse) -> float:
    ids = torch.tensor([response.ids])
    with torch.no_grad():
        scores = model(ids).logits[0, :-1].log_softmax(-1)
    return float(scores.gather(-1, ids[0, 1:, None])[response.first_scored - 1 :].sum())


@pytest.mark.parametrize("number", [1, 2, 5])
def test_log_probs_are_sums_of_log_softmax(number: int) -> None:
    model, answers = tiny_model("llama"), responses(number)
    pack = AnswerPack(answers)
    with Scorer(model) as scorer:
        found = pack.log_probs(scorer.log_probs)
    assert found == pytest.approx([plain_log_prob(model, answer) for answer in answers], rel=1e-6)
    assert np.array_equal(pack.by_answer(pack.by_side(found)), found)
    assert len(pack.pairs) == (number + 1) // 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba", "gemma2"])
def test_an_own_answer_is_that_of_generate(family: str) -> None:
    model = tiny_model(family, torch.float32)
    prompt = (5, 9, 30)
    with Scorer(model):  # as in a forecast
        found = greedy_answer(model, prompt, 6, [2])
    written = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=2)
    assert list(found) == written[0, 3:].tolist()


def test_an_own_answer_ends_with_its_end_token() -> None:
    model = tiny_model("llama", torch.float32)
    whole = greedy_answer(model, (5, 9, 30), 6, [])
    assert len(whole) == 6
    end = whole[2]
    place = whole.index(end)
    assert greedy_answer(model, (5, 9, 30), 6, [end]) == whole[: place + 1]


def test_the_checkpoints_own_penalties_do_not_count() -> None:
    """Repetitions are what is asked for."""
    model = tiny_model("llama", torch.float32)
    expected = greedy_answer(model, (5, 9, 30), 12, [])
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.do_sample = True
    assert greedy_answer(model, (5, 9, 30), 12, []) == expected


def test_end_tokens_are_those_of_model_and_tokenizer() -> None:
    model, tokenizer = tiny_model("llama"), small_tokenizer()
    assert end_tokens(model, tokenizer) == [2, tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [7, 2]
    assert end_tokens(model, tokenizer) == [7, 2, tokenizer.eos_token_id]
    model.generation_config.eos_token_id = None
    assert end_tokens(model, small_tokenizer(with_eos=False)) == []


def answer(index: int, prompt: Any, completion: Any) -> ProbeAnswer:
    return ProbeAnswer(index, index + 1, None, "g", prompt, completion)


def tokenized(*answers: ProbeAnswer, **limits: Any) -> tuple[list[TokenizedProbe], list[SkippedRow]]:
    tokenizer = TokenizerOfModel(small_tokenizer(), {}, None, None, None)
    return tokenize_probes(ProbeFile("probes.jsonl", answers, []), tokenizer, TokenSettings(**limits))


def test_own_answers_keep_to_the_limits() -> None:
    prompt = [{"role": "user", "content": "Hi"}]
    probes, _ = tokenized(answer(0, prompt, None), answer(1, "The sky", " is blue"))
    assert probes[0].tokens.num_scored == 0
    assert small_tokenizer().decode(probes[0].tokens.ids).endswith("<|im_start|>assistant\n")

    class Talker:
        """Writes as many tokens as it may."""

        device = torch.device("cpu")

        def generate(self, ids: torch.Tensor, *, max_new_tokens: int, **_: Any) -> torch.Tensor:
            return torch.cat([ids, torch.full((1, max_new_tokens), 9)], dim=1)

    length = len(probes[0].tokens.ids)
    for limits, expected in (
        (TokenSettings(None), 7),
        (TokenSettings(length + 3), 3),
        (TokenSettings(None, context=length + 1), 1),
    ):
        own, given = with_own_answers(Talker(), small_tokenizer(), probes, limits, 7)
        assert own.tokens == TokenizedResponse((*probes[0].tokens.ids, *[9] * expected), length)
        assert given == probes[1]


def test_rows_that_do_not_fit_are_named() -> None:
    long = answer(0, "The sky " * 20, " is blue")
    probes, skipped = tokenized(long, answer(1, "The sky", " is blue"), max_length=8)
    assert [probe.answer.index for probe in probes] == [1]
    assert [(row.index, row.line, row.reason) for row in skipped] == [(0, 1, "prompt_too_long")]
    with pytest.raises(DataError, match="none of 1 rows can be used; line 1: the prompt has"):
        tokenized(long, max_length=8)
