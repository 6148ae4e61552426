"""Probe answers along a rehearsal: their log-probs under the model in training. The training goes on unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from entangle_cli.data.checkpoint import DTYPES
from entangle_cli.data.checkpoint_in_memory import checkpoint_in_training
from entangle_cli.data.in_memory import ModelInMemory
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.probe_answers import read_probe_answers
from entangle_cli.data.token_limits import TokenSettings
from entangle_cli.data.tokenizer import TokenizerOfModel
from entangle_cli.diagnose.probes.document import probe_row
from entangle_cli.diagnose.probes.own_answers import with_own_answers
from entangle_cli.diagnose.probes.tokenized import AnswerPack, TokenizedProbe, tokenize_probes
from entangle_cli.diagnose.scan.budget import SMALLEST_TOKENS
from entangle_cli.diagnose.scan.row_preparation import token_settings
from entangle_cli.diagnose.training.processes import random_state_kept
from entangle_cli.engine.batch import plan_batches
from entangle_cli.engine.compute_dtype import computing_in
from entangle_cli.engine.scorer import Scorer
from entangle_cli.records.arrays import Floats, finite
from entangle_cli.records.measurement import TokenizedPair
from entangle_cli.records.settings import RehearsalSettings, ScanSettings


@dataclass(frozen=True, slots=True)
class RehearsalProbes:
    """The probe answers of a rehearsal, the same for all its losses."""

    identity: dict[str, Any]
    """Name, number and hash of the rows, JSON-able."""
    probes: Sequence[TokenizedProbe]
    skipped: Sequence[SkippedRow]
    """Rows that cannot be used, with their reasons."""
    limits: TokenSettings
    generate: int | None
    """Most tokens of an own answer; None without own answers."""
    dtype: str
    """Dtype of the measurement."""


def open_probes(
    training: RehearsalSettings, measuring: ScanSettings, tokenizer: TokenizerOfModel
) -> RehearsalProbes | None:
    """Read and tokenise the probe answers; None without them.

    Raises:
        DataError: they cannot be read, or none can be used.
        ModelError: a row is a conversation and the tokenizer has no chat template.
    """
    if training.probe is None:
        return None
    most_bytes, generate = measuring.reading.max_row_bytes, training.probe_generate
    file = read_probe_answers(str(training.probe), most_bytes, with_own=generate is not None)
    limits = token_settings(tokenizer, measuring.max_length, measuring.truncation, most_bytes)
    probes, skipped = tokenize_probes(file, tokenizer, limits)
    return RehearsalProbes(file.identity, probes, skipped, limits, generate, measuring.dtype)


class FollowedProbes:
    """Measures the probe answers of a rehearsal under one loss.

    The model's own answers are written at the first measurement, before the first step.

    Cost: a forward pass over the answers for each measurement, and `with_own_answers` once.
    """

    def __init__(self, given: RehearsalProbes) -> None:
        self._given = given
        self._probes = given.probes
        self._steps: list[int] = []
        self._log_probs: list[Floats] = []

    def measure(self, model: Any, tokenizer: Any, step: int) -> None:
        """Measure all answers at a step, unless that was done. Weights, modes and random state stay as they are."""
        if step in self._steps:
            return
        base = checkpoint_in_training(ModelInMemory(model, tokenizer), step).model
        with (
            random_state_kept(),
            torch.no_grad(),
            computing_in(base, DTYPES[self._given.dtype]),
            Scorer(base) as scorer,
        ):
            if not self._steps and self._given.generate is not None:
                self._probes = with_own_answers(base, tokenizer, self._probes, self._given.limits, self._given.generate)
            pack = AnswerPack([probe.tokens for probe in self._probes])
            self._log_probs.append(pack.log_probs(lambda pairs: _in_batches(scorer, pairs)))
        self._steps.append(step)

    def document(self) -> dict[str, Any]:
        """The measured log-probs by answer and step, nats; JSON-able."""
        rows = [
            {**probe_row(probe), "log_probs": [finite(values[place]) for values in self._log_probs]}
            for place, probe in enumerate(self._probes)
        ]
        return {"steps": self._steps, "rows": rows}


def _in_batches(scorer: Scorer, pairs: Sequence[TokenizedPair]) -> torch.Tensor:
    log_probs = torch.empty(2, len(pairs), dtype=torch.float64)
    for batch in plan_batches(pairs, SMALLEST_TOKENS):
        log_probs[:, batch] = scorer.log_probs([pairs[place] for place in batch])
    return log_probs
