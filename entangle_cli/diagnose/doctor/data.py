"""Checks of data with a model's tokenizer: lengths, and reference log-probs in the data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.records.finding import Finding, finding
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.training_setup import TrainingSetup

Score: TypeAlias = Callable[[TokenizedPair], Sequence[float]]

OTHER_MODEL = 0.02
"""Relative difference of log-probs beyond which another model must have made them. bfloat16 stays far below."""


def reference_findings(score: Score, name: str, rows: Sequence[PreparedRow]) -> Iterator[Finding]:
    """The data's reference log-probs against those of the reference model.

    Args:
        score: gives the reference's log-probs of both answers of a pair, nats.
        name: of the reference.
    """
    known = [row for row in rows if row.pair.ref_log_probs is not None]
    differences = []
    for row in known:
        assert row.pair.ref_log_probs is not None
        found = score(row.tokens.pair)
        differences += [abs(a - b) / max(abs(b), 1.0) for a, b in zip(row.pair.ref_log_probs, found, strict=True)]
    if differences and (median := statistics.median(differences)) > OTHER_MODEL:
        yield finding(
            "D-OTHER-REFERENCE",
            f"the reference log-probs in the data differ from those of {name} by {median:.0%} in the median "
            f"of {len(known)} pairs",
            "remove the columns, or write them again with entangle scan --write-reference",
        )


def length_findings(setup: TrainingSetup, context: int | None, rows: Sequence[PreparedRow]) -> Iterator[Finding]:
    """The file's lengths against the model's context and the rows.

    Args:
        rows: rows whose tokens were not cut.
    """
    longest = max(map(longest_sequence, rows), default=0)
    limit = setup.max_length
    if context is not None and min(limit or longest, longest) > context:
        yield finding(
            "D-BEYOND-CONTEXT",
            f"rows of up to {min(limit or longest, longest):,} tokens, and a context of {context:,}",
            f"set the maximal length to {context:,} or less",
        )
    prompt_limit = setup.given.get("max_prompt_length")
    if not isinstance(prompt_limit, int) or isinstance(prompt_limit, bool):
        return
    cut = sum(row.tokens.prompt_tokens > prompt_limit for row in rows)
    if cut:
        yield finding(
            "D-PROMPT-CUT",
            f"max_prompt_length {prompt_limit:,}: {cut:,} of {len(rows):,} prompts are longer and lose their start",
            "raise it, or remove the key; TRL 1.16 cuts the whole sequence at max_length instead",
        )
    if limit is None:
        return
    room = limit - prompt_limit
    short = sum(_longest_answer(row) > room and longest_sequence(row) > limit for row in rows)
    if room <= 0 or short:
        yield finding(
            "D-PROMPT-CUT",
            f"max_prompt_length {prompt_limit:,} of max_length {limit:,} leaves {max(room, 0):,} tokens for answers; "
            f"{short:,} of {len(rows):,} rows have longer ones",
            "raise max_length, or lower max_prompt_length",
        )


def longest_sequence(row: PreparedRow) -> int:
    """Tokens of the prompt with the longer answer."""
    return max(len(row.tokens.pair.chosen.ids), len(row.tokens.pair.rejected.ids))


def _longest_answer(row: PreparedRow) -> int:
    return max(row.tokens.pair.chosen.num_scored, row.tokens.pair.rejected.num_scored)
