"""What a user can do about a run: measured consequences, each with the command to copy. Never a promise of training."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from entangle_cli.analysis.reasons import ReasonCode
from entangle_cli.diagnose.views.overview import movement_counts, num_wrong
from entangle_cli.records.overview import NextStep
from entangle_cli.records.pair import Movement
from entangle_cli.records.run import Run
from entangle_cli.records.settings import DEFAULT_LENGTH
from entangle_cli.records.words import counted, percent

WORTHWHILE = 0.05
"""Share of the pairs that must separate more before another loss or weight is worth a line."""

NAMED_LOSSES = 3

ALIKE = {ReasonCode.NEAR_DUPLICATES, ReasonCode.SHARED_PREFIX, ReasonCode.SHARED_TOKENS}


def next_steps(
    run: Run,
    summary: Mapping[str, Any],
    comparison: Mapping[str, Any],
    reasons: Sequence[str],
    worst: Mapping[str, Any] | None,
) -> list[NextStep]:
    """What to do about a run: another loss, weights, rows to drop, tokens to look at, and the forecast.

    Args:
        comparison: the run under every loss, as `losses_compared` gives it.
        reasons: codes of what explains the run.
        worst: the pair with the smallest slack; None where no pair was measured.
    """
    if not summary["pairs"]:
        return []
    names = _Names(run)
    steps = []
    if num_wrong(movement_counts(summary)):
        steps = [*_other_loss(comparison, names), *_weight(comparison, names), *_filter(summary, names)]
        if worst is not None and ALIKE & set(reasons):
            steps.append(
                NextStep(
                    "See what leaving the shared tokens out changes, for the worst pair.",
                    tokens_command(run, worst["index"]),
                )
            )
    return [*steps, NextStep("Check with your batch size and AdamW.", f"entangle forecast {names.measured}")]


def tokens_command(run: Run, row: int) -> str:
    """The command that shows a pair token by token."""
    return f"entangle tokens {_Names(run).measured} --row {row}"


class _Names:
    """Names for commands, quoted for a shell: as the scan's command line had them, or placeholders."""

    def __init__(self, run: Run) -> None:
        plan = run.manifest.get("plan", {})
        self.run = "RUN" if run.folder is None else shlex.quote(str(run.folder))
        self.model = _quoted(plan.get("model"), "MODEL")
        # Several data sets are one text in the plan.
        self.data = "DATA" if run.identity.sources else _quoted(plan.get("data"), "DATA")
        self.num_rows = run.identity.num_rows
        self.suffix = "".join(Path(run.identity.data_name).suffixes[-1:]) or ".jsonl"
        self.measured = f"{self.model} {self.data}{_length(plan)}"
        """Model and data with the length that decides the tokens."""


def _quoted(name: str | None, placeholder: str) -> str:
    """A name for a shell; a placeholder for what came from memory or from standard input."""
    return placeholder if not name or name == "-" or name.endswith("in memory") else shlex.quote(name)


def _length(plan: Mapping[str, Any]) -> str:
    """The option of a length that is not the default one."""
    length, context = plan.get("max_length"), plan.get("context")
    if length is None:
        return " --max-length 0" if "max_length" in plan else ""
    return "" if length == min(DEFAULT_LENGTH, context or DEFAULT_LENGTH) else f" --max-length {length}"


def separating_losses(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Losses under which most pairs separate, equal ones side by side; empty where none beats the one in use."""
    pairs = comparison["pairs"]
    own = comparison["losses"][0]["counts"][Movement.SEPARATES.value]
    usable = [row for row in comparison["losses"] if not row["depends_on_batch"]]
    most = max((row["counts"][Movement.SEPARATES.value] for row in usable), default=0)
    if most - own < WORTHWHILE * pairs:
        return []
    return [row for row in usable if row["counts"][Movement.SEPARATES.value] == most]


def _other_loss(comparison: Mapping[str, Any], names: _Names) -> list[NextStep]:
    best = separating_losses(comparison)
    if not best:
        return []
    own, pairs = comparison["losses"][0], comparison["pairs"]
    there, here = (percent(row["counts"][Movement.SEPARATES.value] / pairs) for row in (best[0], own))
    sentence = f"{there} separate under {_listed([row['name'] for row in best])}; {here} under {own['name']}."
    numbers = loss_options(best[0]["numbers"])
    return [NextStep(sentence, f"entangle report {names.run} --loss {best[0]['name']}{numbers}")]


def loss_options(numbers: Mapping[str, float]) -> str:
    """Numbers of a loss as options of a command, each after a blank."""
    words = []
    for name, value in numbers.items():
        words.append(f"--{name} {value:g}" if name in {"beta", "gamma"} else f"--loss-option {name}={value:g}")
    return "".join(f" {word}" for word in words)


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:NAMED_LOSSES])
    if len(names) > NAMED_LOSSES:
        shown.append(f"{len(names) - NAMED_LOSSES} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _weight(comparison: Mapping[str, Any], names: _Names) -> list[NextStep]:
    """The smallest change of a weight beside DPO that lets clearly more pairs separate."""
    pairs = comparison["pairs"]
    dpo = next(row for row in comparison["losses"] if row["name"] == "sigmoid")["counts"][Movement.SEPARATES.value]
    remedies = {remedy["name"]: remedy for remedy in comparison["remedies"]}
    steps = []
    for name, words, command, setting in WEIGHTS:
        remedy = remedies[name]
        if name == "coefficient ratio" and not _moves_as_dpo(comparison, "kto"):
            continue
        if remedy["best"] is None or remedy["best"]["pairs"] - dpo < WORTHWHILE * pairs:
            continue
        value = f"{remedy['value']:.4g}"
        sentence = f"{words.format(value)}: {percent(remedy['best']['pairs'] / pairs)} separate instead of "
        sentence += f"{percent(dpo / pairs)} under DPO."
        steps.append(NextStep(sentence, f"entangle report {names.run} {command.format(value)}", setting.format(value)))
    return steps


def _moves_as_dpo(comparison: Mapping[str, Any], name: str) -> bool:
    """Whether a loss moves every pair as DPO does, as KTO does where the reference is the policy."""
    first = {row["name"]: row["same_as"] or row["name"] for row in comparison["losses"]}
    return bool(first[name] == first["sigmoid"])


WEIGHTS = (
    (
        "coefficient ratio",
        "Weight the chosen answer {} times as much as the rejected one",
        "--loss kto --loss-option chosen_weight={}",
        "KTOConfig(desirable_weight={})",
    ),
    (
        "nll_weight",
        "Add the chosen answer's likelihood with weight {}",
        "--loss sigmoid_sft --loss-option nll_weight={}",
        'DPOConfig(loss_type=["sigmoid", "sft"], loss_weights=[1.0, {}])',
    ),
)
"""Remedies that TRL can be set to: name, words, command, setting."""


def _filter(summary: Mapping[str, Any], names: _Names) -> list[NextStep]:
    kept = summary["movements"][Movement.SEPARATES.value]["count"]
    dropped = summary["pairs"] - kept
    command = f"entangle filter {names.run} {names.data} -o kept{names.suffix} --keep 'movement == separates'"
    rest = "; rows that were not measured are dropped too" if names.num_rows != summary["pairs"] else ""
    return [NextStep(f"Drop {counted(dropped, 'pair')}: {kept:,} of {summary['pairs']:,} are left{rest}.", command)]
