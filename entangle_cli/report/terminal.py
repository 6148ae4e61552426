"""What people read in a terminal: the plan before a scan, the summary after it, a gate's verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import IO, Any

from rich import box, filesize
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import MOVEMENT_MEANINGS, Movement
from entangle_cli.records.plan import ScanEstimate, ScanPlan
from entangle_cli.records.run import Notice, Run
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.words import counted

LARGEST_WIDTH = 10_000
PLAIN_WIDTH = 120
SHOWN_GROUPS = 20
BLOCKS = " ▁▂▃▄▅▆▇█"

STYLES: Mapping[str, str] = {
    Movement.SEPARATES: "green",
    Movement.BOTH_RISE: "yellow",
    Movement.BOTH_FALL: "red",
    Movement.REVERSED: "red",
    Movement.STILL: "dim",
}


def console_for(stream: IO[str]) -> Console:
    """A console on a stream; what is not a terminal gets plain text of full width."""
    columns = os.environ.get("COLUMNS", "")
    chosen = int(columns) if columns.isascii() and columns.isdecimal() and 0 < int(columns) <= LARGEST_WIDTH else None
    width = None if stream.isatty() else chosen or PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def plan_lines(plan: ScanPlan, estimate: ScanEstimate | None = None) -> RenderableType:
    """What a scan recognised and will do, and what it will take where that was measured."""
    selected = f"{plan.num_selected:,} of {counted(plan.num_rows, 'row')}" if plan.num_selected != plan.num_rows else ""
    rules = ", ".join(f"{rule} {count:,}" for rule, count in plan.numel_by_rule.items())
    table = _two_columns()
    table.add_row("data", Text(for_terminal(f"{plan.data}: {plan.data_kind}, {counted(plan.num_rows, 'row')}")))
    table.add_row("", Text(for_terminal("; ".join(plan.formats) + (f"; {selected}" if selected else ""))))
    table.add_row("model", Text(for_terminal(f"{plan.model}: {plan.dtype} on {plan.device}")))
    table.add_row(
        "parameters",
        Text(
            f"{plan.num_parameters:,} of {plan.num_model_parameters:,}, "
            f"{counted(len(plan.numel_by_rule), 'rule')}: {rules}; checked against autograd"
        ),
    )
    for name, reason in list(plan.slow_parameters.items())[:5]:
        table.add_row("  slow", Text(for_terminal(f"{name}: {reason}")))
    table.add_row("length", Text(_length_words(plan)))
    dealt = f", dealt out to {plan.num_processes} processes" if plan.num_processes > 1 else ""
    table.add_row("batches", Text(f"up to {plan.batch_tokens:,} tokens, rows sorted by length{dealt}"))
    if estimate is not None:
        _add_estimate(table, plan, estimate)
    return table


def _length_words(plan: ScanPlan) -> str:
    """How long a pair's sequences may be, and why."""
    if plan.max_length is None:
        return "no limit (--max-length 0)"
    words = f"up to {plan.max_length:,} tokens of prompt and answer (--max-length)"
    return f"{words}, the model's context" if plan.max_length == plan.context else words


def _add_estimate(table: Table, plan: ScanPlan, estimate: ScanEstimate) -> None:
    a_process = " in each process" if plan.num_processes > 1 else ""
    peak = "unknown" if estimate.peak_bytes is None else filesize.decimal(estimate.peak_bytes)
    table.add_row(
        "memory",
        Text(
            f"{peak} at most{a_process}, with pairs of up to {estimate.longest_tokens:,} tokens; "
            f"weights {filesize.decimal(estimate.weight_bytes)}"
        ),
    )
    duration = timedelta(seconds=round(estimate.total_seconds))
    speed = plan.num_processes / estimate.pair_seconds
    table.add_row(
        "time",
        Text(f"about {duration} for {counted(plan.num_selected, 'row')}, {speed:.3g} pairs/s; loading not counted"),
    )


def _two_columns() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def summary_report(
    run: Run,
    summary: Mapping[str, Any],
    worst: Sequence[Mapping[str, Any]],
    skipped: Sequence[Mapping[str, Any]],
    notices: Sequence[Notice],
    loss: str,
) -> RenderableType:
    """Everything worth reading about a run.

    Args:
        summary: what `statistics.summarise` gives.
        worst: rows of the pairs to look at first.
        skipped: rows of the first skipped or undefined pairs.
        loss: the loss and its numbers, in words.
    """
    parts: list[RenderableType] = [_headline(run, summary), Text()]
    if summary["pairs"]:
        parts += [_movement_heading(loss), _movement_table(summary), Text(), _cosine_lines(summary), Text()]
        parts += [_worst_heading(), _worst_table(worst), Text()]
    if summary.get("data_sets"):
        parts += [Text("Data sets", style="bold"), _data_set_table(summary["data_sets"]), Text()]
    if summary.get("layers"):
        parts += [_layers_heading(), _layer_table(summary["layers"]), Text()]
    if reasons := _reason_lines(summary, skipped):
        parts += [reasons, Text()]
    for notice in notices:
        parts.append(Text(for_terminal(f"{notice.code} ({notice.count:,}): {notice.message}"), style="yellow"))
    if notices:
        parts.append(Text(f"entangle explain {notices[0].code} says more", style="dim"))
    parts.append(Text(verdict_sentence(summary, loss), style="bold"))
    return Group(*parts)


def _headline(run: Run, summary: Mapping[str, Any]) -> Text:
    identity = run.identity
    status = summary["status"]
    counts = f"{counted(summary['pairs'], 'pair')} measured"
    counts += "".join(f", {status.get(name, 0):,} {name}" for name in ("skipped", "undefined"))
    text = Text(for_terminal(f"{identity.model_name} on {identity.data_name}"), style="bold")
    if run.status != "complete":
        text.append("  PARTIAL: the same scan command goes on", style="red")
    seconds = float(run.manifest.get("seconds") or 0.0)
    rate = f", {summary['pairs'] / seconds:.3g} pairs/s" if seconds and summary["pairs"] else ""
    where = f"{identity.dtype} on {run.manifest['environment']['device']}"
    return text.append(f"\n{counts}; {where}, {seconds:.1f} s{rate}", style="not bold")


def _movement_heading(loss: str) -> Text:
    text = Text("Predicted movement", style="bold")
    return text.append(
        f" of each pair's log-probs under one small step on that pair alone (pair-sgd), loss {loss}",
        style="not bold",
    )


def _movement_table(summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("movement", no_wrap=True)
    for heading in ("pairs", "share", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, share in summary["movements"].items():
        style, meaning = STYLES[name], MOVEMENT_MEANINGS[name]
        interval = "" if share["interval"] is None else "{:.1%} to {:.1%}".format(*share["interval"])
        rate = "" if share["rate"] is None else f"{share['rate']:.1%}"
        table.add_row(Text(name, style=style), f"{share['count']:,}", rate, interval, Text(meaning, style="dim"))
    if without := summary["without_movement"]:
        meaning = "the loss has no finite coefficients for these pairs"
        rate = f"{without / summary['pairs']:.1%}"
        table.add_row(Text("none", style="dim"), f"{without:,}", rate, "", Text(meaning, style="dim"))
    uncertain = summary["uncertain"]
    if uncertain["count"]:
        meaning = "of the above: the sign is within the dtype's error"
        count, rate = f"{uncertain['count']:,}", f"{uncertain['rate']:.1%}"
        table.add_row("uncertain", count, rate, "", Text(meaning, style="dim"))
    return table


def _data_set_table(data_sets: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("rows", "pairs", *MOVEMENT_MEANINGS):
        table.add_column(heading.replace("_", "\n"), justify="right", no_wrap=True)
    for found in data_sets:
        rates = (share["rate"] for share in found["movements"].values())
        cells = ("-" if rate is None else f"{rate:.1%}" for rate in rates)
        table.add_row(for_terminal(found["name"]), f"{found['rows']:,}", f"{found['pairs']:,}", *cells)
    return table


def _cosine_lines(summary: Mapping[str, Any]) -> RenderableType:
    counts = summary["cosine_histogram"]["counts"]
    top = max(counts) or 1
    bars = "".join(BLOCKS[0] * 2 if not count else BLOCKS[max(1, round(8 * count / top))] * 2 for count in counts)
    lines = [_quantile_line("Cosine of the two gradients", summary["fields"]["cosine"]), Text(f"  -1 |{bars}| +1")]
    if summary["fields"]["unshared_cosine"]["count"]:
        lines.append(_quantile_line("Without the answers' common start", summary["fields"]["unshared_cosine"]))
    return Group(*lines)


def _quantile_line(heading: str, quantiles: Mapping[str, Any]) -> Text:
    values = "  ".join(f"{name} {_number(quantiles[name])}" for name in ("p05", "p25", "p50", "p75", "p95"))
    return Text(heading, style="bold").append("  " + values, style="not bold")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _worst_heading() -> Text:
    text = Text("Worst pairs", style="bold")
    return text.append(" by slack; Δ is the predicted change in nats per unit learning rate", style="not bold")


def _worst_table(worst: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("row", "line", "cosine", "norm\nratio", "chosen\nΔ", "rejected\nΔ", "slack", "movement"):
        table.add_column(heading, justify="left" if heading == "movement" else "right", no_wrap=True)
    for row in worst:
        movement = row["movement"] or "undefined"
        name = movement + (" ?" if row["uncertain"] else "")
        table.add_row(
            str(row["index"]),
            "" if row["line"] is None else str(row["line"]),
            _number(row["cosine"]),
            "-" if row["norm_ratio"] is None else f"{row['norm_ratio']:.3g}",
            _delta(row["chosen_delta"]),
            _delta(row["rejected_delta"]),
            _number(row["slack"]),
            Text(name, style=STYLES.get(movement, "")),
        )
    return table


def _layers_heading() -> Text:
    text = Text("Where", style="bold")
    return text.append(" the gradients overlap: the parts of the cosine add up to its mean", style="not bold")


def _layer_table(profile: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("parameters", overflow="fold")
    for heading in ("chosen\nnorm^2", "rejected\nnorm^2", "part of\ncosine", "own\ncosine"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    largest = max((abs(row["cosine_part"] or 0.0) for row in profile), default=0.0) or 1.0
    shown = sorted(profile, key=lambda row: -abs(row["cosine_part"] or 0.0))[:SHOWN_GROUPS]
    for row in (row for row in profile if row in shown):
        shares = ("-" if row[name] is None else f"{row[name]:.1%}" for name in ("chosen_share", "rejected_share"))
        part = row["cosine_part"] or 0.0
        bar = Text("█" * round(12 * abs(part) / largest), style="yellow" if part > 0 else "green")
        table.add_row(row["group"], *shares, _number(row["cosine_part"]), _number(row["cosine"]), bar)
    if left := len(profile) - len(shown):
        rest = sum(row["cosine_part"] or 0.0 for row in profile if row not in shown)
        table.add_row(f"{left} more", "", "", _number(rest), "", "")
    return table


def _delta(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3g}"


def _reason_lines(summary: Mapping[str, Any], skipped: Sequence[Mapping[str, Any]]) -> RenderableType | None:
    if not summary["reasons"]:
        return None
    counts = ", ".join(f"{reason} {count:,}" for reason, count in summary["reasons"].items())
    lines: list[RenderableType] = [Text("Not measured", style="bold").append(f"  {counts}", style="not bold")]
    for row in skipped:
        place = f"{row['file']}, " if row["file"] else ""
        place += f"line {row['line']}" if row["line"] is not None else f"row {row['index']}"
        detail = f": {row['detail']}" if row["detail"] else ""
        lines.append(Text(for_terminal(f"  {place}: {row['reason']}{detail}")))
    left = sum(summary["reasons"].values()) - len(skipped)
    if left > 0:
        lines.append(Text(f"  and {left:,} more", style="dim"))
    return Group(*lines)


def verdict_sentence(summary: Mapping[str, Any], loss: str) -> str:
    """One plain sentence, with the predictor it speaks for."""
    pairs = summary["pairs"]
    if not pairs:
        return "Verdict: no pair was measured, so nothing can be said."
    count = {name: share["count"] for name, share in summary["movements"].items()}
    bad = [
        (count["both_fall"] + count["reversed"], "would lower the chosen answer's probability"),
        (count["both_rise"] + count["reversed"], "would raise the rejected answer's"),
    ]
    harms = " and ".join(f"{share:,} ({share / pairs:.1%}) {what}" for share, what in bad if share)
    basis = f"under {loss}, by pair-sgd (each pair alone, one small step)"
    without = summary["without_movement"]
    unknown = f"; for {without:,} the loss has no finite coefficients" if without else ""
    if not harms:
        still = f" ({count['still']:,} do not move)" if count["still"] else ""
        return f"Verdict {basis}: none of {pairs:,} pairs pushes both probabilities the same way{still}{unknown}."
    return f"Verdict {basis}: of {counted(pairs, 'pair')} {harms}{unknown}."


def verdict_lines(verdict: Any) -> RenderableType:
    """A gate's verdict: a line a rule, then the outcome."""
    styles = {"passed": "green", "failed": "red", "cannot_judge": "yellow"}
    lines = []
    for result in verdict.results:
        outcome = result.outcome.value
        sentence = for_terminal(result.sentence)
        lines.append(Text(f"{outcome.replace('_', ' '):13}", style=styles[outcome]).append(sentence, style="default"))
    if verdict.scope is not None:
        lines.append(Text(f"{'judged':13}{for_terminal(verdict.scope.sentence)}"))
    outcome = verdict.outcome.value
    lines.append(Text(f"gate {outcome.replace('_', ' ')}: {verdict.sentence}", style=f"bold {styles[outcome]}"))
    return Group(*lines)


def decision_lines(decision: Any, confidence: str) -> RenderableType:
    """What a scan decided before all rows were measured: a line a rule, then the outcome."""
    styles = {"passed": "green", "failed": "red", "open": "yellow", "cannot_judge": "yellow"}
    lines = []
    for found in decision.rules:
        outcome = "open" if found.outcome is None else found.outcome.value
        bounds = f"{found.bounds.low!r} to {found.bounds.high!r}"
        words = f"{found.rule.metric} of the whole data is {bounds}; the rule fails where it is "
        words += f"{found.rule.operator} {found.rule.threshold!r}."
        lines.append(Text(f"{outcome.replace('_', ' '):13}", style=styles[outcome]).append(words, style="default"))
    outcome = decision.outcome.value
    rows = f"decided after {decision.num_measured:,} of {counted(decision.num_rows, 'row')}, {confidence}"
    lines.append(Text(f"gate {outcome.replace('_', ' ')}: {rows}.", style=f"bold {styles[outcome]}"))
    return Group(*lines)
