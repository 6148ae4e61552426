"""Checks of data with a model's tokenizer: lengths, and reference log-probs in the data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from entangle_cli.data.trainer_files.keys import Keys
from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.records.finding import Finding, finding
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.training_setup import TrainingSetup
from entangle_cli.records.words import counted

Score: TypeAlias = Callable[[TokenizedPair], Sequence[float]]

FEW_TOKENS = 10
OTHER_MODEL = (0.02, 0.005)
"""Relative difference of a log-prob beyond which another model made it: of answers with few tokens, and of longer ones.
bfloat16 against float32 gives a quarter of this (0.54 % on two tokens, 0.13 % on LLMBar's answers)."""


def reference_findings(score: Score, name: str, rows: Sequence[PreparedRow]) -> Iterator[Finding]:
    """The data's reference log-probs against those of the reference model.

    Args:
        score: gives the reference's log-probs of both answers of a pair, nats.
        name: of the reference.
        rows: with the tokens that the training keeps.
    """
    differences, excesses, margins = [], [], []
    for row in rows:
        if row.pair.ref_log_probs is None:
            continue
        pair, known, found = row.tokens.pair, row.pair.ref_log_probs, score(row.tokens.pair)
        for side, one, other in zip((pair.chosen, pair.rejected), known, found, strict=True):
            difference = abs(one - other) / max(abs(other), 1.0)
            differences.append(difference)
            excesses.append(difference / OTHER_MODEL[side.num_scored >= FEW_TOKENS])
        margins.append(abs((known[0] - known[1]) - (found[0] - found[1])))
    if excesses and statistics.median(excesses) > 1:
        yield finding(
            "D-OTHER-REFERENCE",
            f"the reference log-probs in the data are not those of {name}: in the median of {len(margins)} pairs they "
            f"differ by {statistics.median(differences):.1%}, and the margins by {statistics.median(margins):.2g} nats",
            "compare model, template, end token and lengths, or write them again with scan --write-reference",
        )


def unused_reference_findings(setup: TrainingSetup, rows: Sequence[PreparedRow]) -> Iterator[Finding]:
    """Reference log-probs in the data that TRL's DPOTrainer does not use (TRL 1.16, `_precompute_ref_logps`)."""
    if setup.trainer != "TRL" or setup.method != "dpo" or all(row.pair.ref_log_probs is None for row in rows):
        return
    columns, remedy = "ref_chosen_logps and ref_rejected_logps in the data", "see entangle explain training"
    if Keys(setup.trainer, setup.given).flag("precompute_ref_log_probs"):
        text = "TRL stops with duplicated columns, unless a trainer of your own keeps these"
        yield finding(
            "D-REFUSED", f"precompute_ref_log_probs, and {columns}: {text}", f"remove one of them, or {remedy}"
        )
    else:
        yield finding("D-IGNORED", f"{columns}: TRL's DPOTrainer computes its own", remedy)


def length_findings(setup: TrainingSetup, context: int | None, rows: Sequence[PreparedRow]) -> Iterator[Finding]:
    """The file's lengths against the model's context and the rows.

    Args:
        rows: rows whose tokens were not cut.
    """
    limit = setup.max_length
    beyond = [
        length for row in rows if (length := min(longest_sequence(row), limit or math.inf)) > (context or math.inf)
    ]
    if beyond:
        yield finding(
            "D-BEYOND-CONTEXT",
            f"longer than the context of {context:,} tokens: {len(beyond):,} of {counted(len(rows), 'row')}; "
            f"the longest has {max(beyond):,}",
            f"set the maximal length to {context:,} or less",
        )
    prompt_limit = setup.given.get("max_prompt_length")
    if not isinstance(prompt_limit, int) or isinstance(prompt_limit, bool) or "max_prompt_length" in setup.unknown:
        return
    cut = sum(row.tokens.prompt_tokens > prompt_limit for row in rows)
    if cut:
        yield finding(
            "D-PROMPT-CUT",
            f"max_prompt_length {prompt_limit:,}: {cut:,} of {len(rows):,} prompts are longer and lose their start",
            "raise it, or use TRL 1.16, which cuts the whole sequence at max_length instead",
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
