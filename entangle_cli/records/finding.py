"""What `entangle doctor` finds, by code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """The training fails, does nothing, or does something else than its file says. Or entangle is wrong here."""
    WARNING = "warning"
    """The training probably does not do what was meant."""
    NOTE = "note"
    """Worth knowing."""


class Meaning(NamedTuple):
    """What a code stands for."""

    severity: Severity
    text: str


FINDINGS: Mapping[str, Meaning] = {
    "D-MODEL": Meaning(Severity.ERROR, "the model or its tokenizer cannot be used"),
    "D-DATA": Meaning(Severity.ERROR, "the data cannot be used, or most rows cannot"),
    "D-REFUSED": Meaning(Severity.ERROR, "the trainer refuses the file"),
    "D-BETA": Meaning(
        Severity.ERROR,
        "beta is not positive: at 0 a loss of the log-ratios stays at log 2 = 0.693, and preferences have no effect",
    ),
    "D-LEARNING-RATE": Meaning(Severity.ERROR, "the learning rate is not positive, or far above what is usual"),
    "D-LOSS-WEIGHTS": Meaning(Severity.ERROR, "the number of weights is not the number of losses"),
    "D-BEYOND-CONTEXT": Meaning(Severity.ERROR, "sequences may be longer than the model's context"),
    "D-BATCH": Meaning(Severity.ERROR, "a row has another log-prob in a batch than alone, beyond rounding"),
    "D-ENGINE": Meaning(
        Severity.ERROR, "entangle measures other numbers than autograd, with this model on this device"
    ),
    "D-VOCABULARY": Meaning(Severity.ERROR, "the tokenizer has more tokens than the model has embeddings"),
    "D-OTHER-REFERENCE": Meaning(
        Severity.WARNING,
        "the reference log-probs in the data are not the reference's: another model, template, end token or length",
    ),
    "D-NO-REFERENCE": Meaning(
        Severity.WARNING,
        "the reference follows the policy or is uniform: the loss stays near log 2 = 0.693, or holds nothing back",
    ),
    "D-LEARNING-RATE-LOST": Meaning(
        Severity.WARNING, "a step is smaller than the spacing of most bfloat16 weights, and is rounded away"
    ),
    "D-PROMPT-CUT": Meaning(Severity.WARNING, "max_prompt_length cuts prompts, or leaves too few tokens for answers"),
    "D-DROPOUT": Meaning(Severity.WARNING, "dropout is on in training: log-probs are noisy, also beside a reference"),
    "D-IGNORED": Meaning(Severity.WARNING, "the trainer does not read this key, or not with these others"),
    "D-UNKNOWN-KEY": Meaning(
        Severity.WARNING, "the installed trainer does not know this key: it stops there, or leaves the key out"
    ),
    "D-ACCUMULATION": Meaning(
        Severity.WARNING,
        "the loss of a pair depends on its forward pass: accumulated small batches give another loss than one batch",
    ),
    "D-PADDING-SIDE": Meaning(
        Severity.WARNING, "the tokenizer pads on the left, and that changes this model's log-probs"
    ),
    "D-LOSS": Meaning(Severity.NOTE, "the trainer may know this loss, and entangle does not"),
    "D-UNREAD": Meaning(Severity.NOTE, "keys of the file that entangle does not know"),
    "D-ATTENTION": Meaning(Severity.WARNING, "the file's attention kernel is not installed here"),
}
"""Every code of the doctor's own. It also reports the warnings of `entangle inspect` on the data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the doctor found."""

    code: str
    severity: Severity
    message: str
    """What was found and where, with its numbers."""
    remedy: str
    """The next step."""


def finding(code: str, message: str, remedy: str) -> Finding:
    """A finding with the severity of its code."""
    return Finding(code, FINDINGS[code].severity, message, remedy)
