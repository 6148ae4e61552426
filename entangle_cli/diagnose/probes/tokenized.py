"""The tokens of probe answers, two answers to a pair for the scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.probe_answers import ProbeAnswer, ProbeFile, no_usable_probe
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenize import tokenize_answer, tokenize_prompt
from entangle_cli.data.tokenizer import TokenizerOfModel
from entangle_cli.records.arrays import Floats
from entangle_cli.records.measurement import TokenizedPair, TokenizedResponse


@dataclass(frozen=True, slots=True)
class TokenizedProbe:
    """A probe answer with its tokens."""

    answer: ProbeAnswer
    tokens: TokenizedResponse
    """Prompt and answer. Of an own answer that is not written yet, the prompt alone: no token is scored."""


def tokenize_probes(
    file: ProbeFile, tokenizer: TokenizerOfModel, settings: TokenSettings
) -> tuple[list[TokenizedProbe], list[SkippedRow]]:
    """The rows of a probe file as tokens, and all rows that cannot be used, in order.

    Raises:
        DataError: no row can be used.
        ModelError: a row is a conversation and the tokenizer has no chat template.
    """
    probes: list[TokenizedProbe] = []
    skipped = list(file.skipped)
    for answer in file.answers:
        tokens = _tokens(answer, tokenizer, settings)
        if isinstance(tokens, SkippedRow):
            skipped.append(tokens)
        else:
            probes.append(TokenizedProbe(answer, tokens))
    skipped.sort(key=lambda row: row.index)
    if not probes:
        raise no_usable_probe(file, skipped)
    return probes, skipped


def _tokens(
    answer: ProbeAnswer, tokenizer: TokenizerOfModel, settings: TokenSettings
) -> TokenizedResponse | SkippedRow:
    if not answer.is_own:
        return tokenize_answer(answer.as_pair(), tokenizer.tokenizer, settings)
    ids = tokenize_prompt(answer.as_pair(), tokenizer.tokenizer, settings)
    return ids if isinstance(ids, SkippedRow) else TokenizedResponse(ids, len(ids))


class AnswerPack:
    """Answers as pairs of two for the scorer, which reads pairs. Neighbours in length share a pair.

    The last of an odd number of answers stands on both sides, at the cost of one more sequence.

    Args:
        responses: the answers.
    """

    def __init__(self, responses: Sequence[TokenizedResponse]) -> None:
        order = sorted(range(len(responses)), key=lambda place: (len(responses[place].ids), place))
        order += order[-1:] * (len(order) % 2)
        self._places = np.array(order, dtype=np.int64).reshape(-1, 2).T
        self._num_answers = len(responses)
        self.pairs = [TokenizedPair(responses[first], responses[second]) for first, second in self._places.T.tolist()]

    def by_answer(self, values: Tensor | Floats) -> Floats:
        """Values of the pairs' sides [2, pairs] by answer, [answers]."""
        found = np.empty(self._num_answers)
        found[self._places] = np.asarray(values)
        return found

    def by_side(self, values: Floats) -> Floats:
        """Values of the answers [answers] by side, [2, pairs]."""
        sides: Floats = values[self._places]
        return sides

    def log_probs(self, score: Callable[[Sequence[TokenizedPair]], Tensor]) -> Floats:
        """Summed log-probs of the answers, nats, [answers].

        Args:
            score: gives the log-probs of pairs, [2, pairs].
        """
        return self.by_answer(score(self.pairs))
