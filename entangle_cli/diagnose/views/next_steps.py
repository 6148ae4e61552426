"""What a user can do about a run: measured consequences, each with the command to copy. Never a promise of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entangle_cli.analysis.losses.table import find_loss
from entangle_cli.analysis.reasons import ReasonCode
from entangle_cli.diagnose.views.commands import CommandNames, loss_options, tokens_command
from entangle_cli.diagnose.views.overview import movement_counts, num_wrong
from entangle_cli.records.overview import NextStep
from entangle_cli.records.pair import Movement
from entangle_cli.records.run import Run
from entangle_cli.records.words import counted, listed, percent

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
    names = CommandNames(run)
    steps = []
    if num_wrong(movement_counts(summary)):
        steps = [*_other_loss(comparison, names), *_weight(comparison, names), *_filter(summary, names)]
        command = None if worst is None else tokens_command(run, worst["index"])
        if command is not None and ALIKE & set(reasons):
            steps.append(NextStep("See what leaving the shared tokens out changes, for the worst pair.", command))
    return [*steps, NextStep("Check with your batch size and AdamW.", names.forecast + names.loss)]


def separating_losses(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Losses under which most pairs separate, equal ones side by side; empty where none beats the one in use."""
    pairs = comparison["pairs"]
    own = comparison["losses"][0]["counts"][Movement.SEPARATES.value]
    usable = [row for row in comparison["losses"] if not row["depends_on_batch"]]
    most = max((row["counts"][Movement.SEPARATES.value] for row in usable), default=0)
    if most - own < WORTHWHILE * pairs:
        return []
    return [row for row in usable if row["counts"][Movement.SEPARATES.value] == most]


def _other_loss(comparison: Mapping[str, Any], names: CommandNames) -> list[NextStep]:
    best = separating_losses(comparison)
    if not best:
        return []
    own, pairs = comparison["losses"][0], comparison["pairs"]
    there, here = (percent(row["counts"][Movement.SEPARATES.value] / pairs) for row in (best[0], own))
    sentence = f"{there} separate under {_listed([row['name'] for row in best])}; {here} under {_title(own)}."
    numbers = loss_options(best[0]["numbers"])
    return [NextStep(sentence, f"entangle report {names.run} --loss {best[0]['name']}{numbers}")]


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:NAMED_LOSSES])
    if len(names) > NAMED_LOSSES:
        shown.append(f"{len(names) - NAMED_LOSSES} more")
    return listed(shown)


def _weight(comparison: Mapping[str, Any], names: CommandNames) -> list[NextStep]:
    """The smallest change of a weight beside DPO that lets clearly more pairs separate than the loss in use."""
    pairs, own = comparison["pairs"], comparison["losses"][0]
    separate = own["counts"][Movement.SEPARATES.value]
    remedies = {remedy["name"]: remedy for remedy in comparison["remedies"]}
    steps = []
    for name, words, command, setting in WEIGHTS:
        remedy = remedies[name]
        if name == "coefficient ratio" and not _moves_as_dpo(comparison, "kto"):
            continue
        if remedy["best"] is None or remedy["best"]["pairs"] - separate < WORTHWHILE * pairs:
            continue
        value = f"{remedy['value']:.4g}"
        sentence = f"{words.format(value)}: {percent(remedy['best']['pairs'] / pairs)} separate instead of "
        sentence += f"{percent(separate / pairs)} under {_title(own)}."
        steps.append(NextStep(sentence, f"entangle report {names.run} {command.format(value)}", setting.format(value)))
    return steps


def _title(row: Mapping[str, Any]) -> str:
    return find_loss(row["name"]).title


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


def _filter(summary: Mapping[str, Any], names: CommandNames) -> list[NextStep]:
    kept = summary["movements"][Movement.SEPARATES.value]["count"]
    dropped = summary["pairs"] - kept
    command = f"entangle filter {names.seen} {names.data} -o kept{names.suffix} --keep 'movement == separates'"
    rest = "; rows that were not measured are dropped too" if names.num_rows != summary["pairs"] else ""
    sentence = f"Drop {counted(dropped, 'pair')}: {kept:,} of {summary['pairs']:,} are left{rest}. {DROPPING}"
    return [NextStep(sentence, command)]


DROPPING = "It did not help in our trainings."
"""Of the pairs that do not separate; see tests/benchmarks/acting.py."""
