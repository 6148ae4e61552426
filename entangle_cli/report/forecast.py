"""A forecast for people: what one step moves, who hurts whom, and how right the predictors were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import Movement
from entangle_cli.records.words import counted, percent
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import movement_words
from entangle_cli.report.probe_answers import forecast_probe_parts
from entangle_cli.report.tables import WholeTable

MOVEMENTS = tuple(movement.value for movement in Movement)
NUM_NAMED = 5

PREDICTOR_MEANINGS = {
    "pair-sgd": "the pair alone, plain gradient descent: the paper's",
    "batch-sgd": "its whole batch, plain gradient descent",
    "optimizer": "its whole batch, the optimizer's own step",
}


def forecast_report(document: Mapping[str, Any]) -> RenderableType:
    """Everything worth reading about a forecast."""
    parts: list[RenderableType] = [_headline(document), Text()]
    parts += [
        _movement_heading("Predicted movement", "under one step"),
        _movement_table(document["summary"]),
        _legend(),
        Text(),
    ]
    if document["held_out_summary"] is not None:
        heading = _movement_heading(
            "Predicted movement of held-out pairs", "under the first step, in which they take no part"
        )
        parts += [heading, _movement_table(document["held_out_summary"]), Text()]
    parts += [*_run_lines(document), Text()]
    if lines := _skipped_lines(document):
        parts += [*lines, Text()]
    parts += [*_reach_lines(document), Text()]
    if len(document["pairs"]) > 1:
        parts += [*_neighbour_tables(document["pairs"]), Text()]
    if (probes := document["probes"]) is not None:
        parts += [*forecast_probe_parts(probes, shows_run=document["run"]["holds"] is not False), Text()]
    if document["verification"]:
        parts += [_verification_heading(), _agreement_table(document["verification"]), Text()]
    parts += [Text(line, style="bold") for line in _verdicts(document)]
    return Group(*parts)


def _headline(document: Mapping[str, Any]) -> Text:
    title = f"One step of {document['model']['name']} on {document['data']['name']}"
    text = Text(for_terminal(title), style="bold")
    optimizer, steps = document["optimizer"], document["steps"]
    step = f"{optimizer['name']}, learning rate {optimizer['learning_rate']:g}, "
    step += f"weight decay {optimizer['weight_decay']:g}, "
    clip = optimizer["max_grad_norm"]
    step += "no clipping" if clip is None else f"gradient clipped to {clip:g}"
    before = optimizer["steps_before"]
    step += "" if before is None else f", after {counted(before, 'step')}"
    several = (
        f", {counted(steps['count'], 'step')} of up to {counted(steps['largest'], 'pair')}, each from these weights"
    )
    batch = several if steps["count"] > 1 else " in one step"
    skipped = f", {counted(len(document['skipped']), 'row')} not used" if document["skipped"] else ""
    pairs = f"{counted(document['summary']['pairs'], 'pair')}{batch}{skipped}; loss {document['loss']['text']}"
    return text.append(f"\n{step}\n{pairs}", style="not bold")


def _movement_heading(title: str, when: str) -> Text:
    return Text(title, style="bold").append(f"  log-probs of each pair {when}", style="not bold")


def _movement_table(summary: Mapping[str, Any], predictors: Sequence[str] = tuple(PREDICTOR_MEANINGS)) -> Table:
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("predictor", no_wrap=True)
    for name in MOVEMENTS:
        table.add_column(movement_words(name), justify="right", no_wrap=True)
    for predictor in predictors:
        shares = summary["movements"].get(predictor)
        if shares is None:
            continue
        values = ["-" if shares[name]["rate"] is None else percent(shares[name]["rate"], 1) for name in MOVEMENTS]
        table.add_row(predictor, *values)
    return table


def _run_lines(document: Mapping[str, Any]) -> list[RenderableType]:
    """The end of a run: movements, loss, margin and accuracy; or that it is not known."""
    run = document["run"]
    length = f"at the end of a run of {counted(run['num_steps'], 'step')}, schedule {run['lr_scheduler_type']}"
    lines: list[RenderableType] = [_movement_heading("Predicted movement", length)]
    drift = "not measured" if run["drift"] is None else f"{run['drift']:.2g} of |g_c - g_r|"
    if run["holds"] is False:
        return [
            *lines,
            Text(f"not known: along this run the gradients of {run['num_probes']} probed pairs change by {drift}."),
            Text(f"The forecast holds up to {run['drift_limit']:g}. Lower --horizon or --learning-rate."),
        ]
    lines.append(_movement_table(document["summary"], ("run",)))
    if document["held_out_summary"] is not None:
        lines += [Text("held-out pairs"), _movement_table(document["held_out_summary"], ("run",))]
    for name, key in (("pairs", "training"), ("held-out pairs", "held_out")):
        if run[key] is not None:
            lines.append(_outlook_line(name, run[key]))
    lines.append(
        Text(
            "At most: real log-probs end lower than a linear forecast says. Falls hold, some rises do not.\n"
            f"Drift of the gradients along the run: {drift}; it holds up to {run['drift_limit']:g}.",
            style="dim",
        )
    )
    return lines


def _outlook_line(name: str, outlook: Mapping[str, Mapping[str, float]]) -> Text:
    start, end = outlook["start"], outlook["end"]
    return Text(
        f"{name}: DPO loss {start['loss']:.3f} -> {end['loss']:.3f}, "
        f"margin {start['margin']:.3g} -> {end['margin']:.3g} nats, "
        f"accuracy {percent(start['accuracy'])} -> {percent(end['accuracy'])}"
    )


def _legend() -> Text:
    return Text("\n".join(f"{name}: {meaning}" for name, meaning in PREDICTOR_MEANINGS.items()), style="dim")


def _skipped_lines(document: Mapping[str, Any]) -> list[RenderableType]:
    """The first rows that take no part, with their reasons."""
    lines: list[RenderableType] = []
    probe_rows = [] if document["probes"] is None else document["probes"]["skipped"]
    for rows, title in (
        (document["skipped"], "Not used"),
        (document["held_out_skipped"], "Not used of the held-out rows"),
        (probe_rows, "Not used of the probe rows"),
    ):
        if rows:
            lines.append(Text(title, style="bold").append(f"  {counted(len(rows), 'row')}", style="not bold"))
        for row in rows[:NUM_NAMED]:
            detail = f": {row['detail']}" if row["detail"] else ""
            lines.append(Text(for_terminal(f"  {_place(row)}: {row['reason']}{detail}")))
        if len(rows) > NUM_NAMED:
            lines.append(Text(f"  and {len(rows) - NUM_NAMED:,} more"))
    return lines


def _reach_lines(document: Mapping[str, Any]) -> list[RenderableType]:
    summary, rate = document["summary"], document["optimizer"]["learning_rate"]
    lines: list[RenderableType] = []
    valid = summary["valid_learning_rate"]
    if valid["p50"] is not None:
        lines.append(
            Text("First order", style="bold").append(
                f"  the second order is as large at a learning rate of {valid['p05']:.2g} for 5 % of the log-probs, "
                f"{valid['p50']:.2g} for half of them; yours is {rate:.2g}",
                style="not bold",
            )
        )
    if summary["turned_by_others"] is not None:
        lines.append(
            Text("Other pairs", style="bold").append(
                f"  turn the sign of {percent(summary['turned_by_others'], 1)} of the log-probs' changes",
                style="not bold",
            )
        )
    worst = max(check["identity_error"] for check in document["checks"])
    lines.append(
        Text("Check", style="bold").append(
            f"  the batch's own gradient and the pairs' derivatives agree to {worst:.1e}; "
            f"{counted(summary['uncertain'], 'pair')} within the rounding of theirs",
            style="not bold",
        )
    )
    return lines


def _neighbour_tables(pairs: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """The pairs that lose most by others, and those that others lose most by."""
    heading = Text("Pairs against one another", style="bold").append(
        "  changes of margins in nats, batch-sgd; equal lists where all coefficients are equal", style="not bold"
    )
    hurt = [(_place(row), f"{_others_margin(row):+.3g}") for row in _most_negative(pairs, _others_margin)]
    hurting = [(_place(row), f"{_influence(row):+.3g}") for row in _most_negative(pairs, _influence)]
    if not hurt and not hurting:
        return [heading, Text("  none loses by another")]
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("hurt most\nby others", "margin\nby others", "hurting\nothers most", "others'\nmargins"):
        table.add_column(column, justify="right", no_wrap=True)
    for victim, culprit in zip_longest(hurt, hurting, fillvalue=("", "")):
        table.add_row(*victim, *culprit)
    return [heading, table]


def _most_negative(
    pairs: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> list[Mapping[str, Any]]:
    return [row for row in sorted(pairs, key=value)[:NUM_NAMED] if value(row) < 0]


def _influence(row: Mapping[str, Any]) -> float:
    return float(row["influence_on_others_margins"] or 0.0)


def _others_margin(row: Mapping[str, Any]) -> float:
    chosen, rejected = row["others"]["chosen_delta"], row["others"]["rejected_delta"]
    return 0.0 if chosen is None or rejected is None else chosen - rejected


def _place(row: Mapping[str, Any]) -> str:
    return f"row {row['index']}" + ("" if row["line"] is None else f", line {row['line']}")


def _verification_heading() -> Text:
    return Text("Real steps", style="bold").append(
        "  each batch's step taken with torch's optimizer on a copy, against the predictions", style="not bold"
    )


def _agreement_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("learning\nrate", justify="right", no_wrap=True)
    table.add_column("predictor", no_wrap=True)
    for heading in ("same\nsign", "95 % interval", "same\nmovement", "slope", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row['learning_rate']:.3g}",
            row["predictor"],
            percent(row["same_sign"] / row["log_probs"], 1) if row["log_probs"] else "-",
            " to ".join(percent(end, 1) for end in row["interval"]) if row["interval"] else "-",
            percent(row["same_movement"] / row["pairs"], 1) if row["pairs"] else "-",
            "-" if row["slope"] is None else f"{row['slope']:.3g}",
            "-" if row["relative_error"] is None else percent(row["relative_error"], 1),
        )
    return table


def _verdicts(document: Mapping[str, Any]) -> list[str]:
    """Plain sentences about the first step, and about a longer run whose forecast holds."""
    pairs, run = document["summary"]["pairs"], document["run"]
    fall, rise = _falls_and_rises(document["summary"], "optimizer")
    sentences = [
        f"Verdict under {document['loss']['text']}, by optimizer (the batch's first step): of {pairs:,} pairs {fall} "
        f"would lose probability of the chosen answer and {rise} would gain probability of the rejected one."
    ]
    if run["num_steps"] > 1 and run["holds"]:
        fall, rise = _falls_and_rises(document["summary"], "run")
        sentences.append(
            f"After {counted(run['num_steps'], 'step')}, by run: at least {fall} would lose probability of the chosen "
            f"answer and at most {rise} would gain probability of the rejected one."
        )
    return sentences


def _falls_and_rises(summary: Mapping[str, Any], predictor: str) -> tuple[str, str]:
    """Pairs whose chosen answer falls, and pairs whose rejected answer rises, each with its share."""
    movements = summary["movements"][predictor]
    falls = movements["both_fall"]["count"] + movements["reversed"]["count"]
    rises = movements["both_rise"]["count"] + movements["reversed"]["count"]
    fall, rise = (f"{count:,} ({percent(count / summary['pairs'], 1)})" for count in (falls, rises))
    return fall, rise
