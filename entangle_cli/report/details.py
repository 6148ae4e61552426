"""The numbers behind a run's summary, for `--verbose`: intervals, cosines, deltas, layers, rows not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.pair import MOVEMENT_MEANINGS
from entangle_cli.records.run import Run
from entangle_cli.records.words import percent
from entangle_cli.report.escape import for_terminal
from entangle_cli.report.marks import STYLES, movement_words
from entangle_cli.report.tables import WholeTable

SHOWN_GROUPS = 20
BLOCKS = " ▁▂▃▄▅▆▇█"


def details_report(
    short: RenderableType,
    run: Run,
    summary: Mapping[str, Any],
    worst: Sequence[Mapping[str, Any]],
    skipped: Sequence[Mapping[str, Any]],
    loss: str,
    *,
    is_sample: bool,
) -> RenderableType:
    """The summary of a run, then every number that it leaves out.

    Args:
        short: the summary, rendered.
        summary: `movements.run_summary` of the run.
        worst: rows of the pairs to look at first.
        skipped: rows of the first skipped or undefined pairs.
        loss: the loss and its numbers, in words.
        is_sample: whether the rows are a random sample of more rows; intervals are shown only then.
    """
    parts: list[RenderableType] = [short, Text(), _measurement(run, summary, loss)]
    if summary["pairs"]:
        parts += [_movement_table(summary, is_sample=is_sample), _cosine_lines(summary), Text()]
        parts += [_worst_heading(), _worst_table(worst)]
    if summary.get("data_sets"):
        parts += [Text("Data sets", style="bold"), _data_set_table(summary["data_sets"])]
    if summary.get("layers"):
        parts += [_layers_heading(), _layer_table(summary["layers"])]
    if reasons := _reason_lines(summary, skipped):
        parts += [reasons, Text()]
    return Group(*parts)


def _measurement(run: Run, summary: Mapping[str, Any], loss: str) -> Text:
    seconds = float(run.manifest.get("seconds") or 0.0)
    rate = f", {summary['pairs'] / seconds:.3g} pairs/s" if seconds and summary["pairs"] else ""
    where = f"{run.identity.dtype} on {run.manifest['environment']['device']}"
    text = Text("Measured", style="bold").append(f"  {where}, {seconds:.1f} s{rate}\n", style="not bold")
    words = f"loss {loss}; predictor pair-sgd (each pair alone, one small step of plain gradient descent)"
    return text.append("Computed", style="bold").append(f"  {words}", style="not bold")


def _movement_table(summary: Mapping[str, Any], *, is_sample: bool) -> Table:
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("movement", no_wrap=True)
    for heading in ("pairs", "share", *(["95 % interval"] if is_sample else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")

    def add(name: str, style: str, share: Mapping[str, Any], meaning: str) -> None:
        interval = "" if share["interval"] is None else "{:.1%} to {:.1%}".format(*share["interval"])
        rate = "" if share["rate"] is None else percent(share["rate"], 1)
        cells = [f"{share['count']:,}", rate, *([interval] if is_sample else [])]
        table.add_row(Text(name, style=style), *cells, Text(meaning, style="dim"))

    for name, share in summary["movements"].items():
        add(movement_words(name), STYLES[name], share, MOVEMENT_MEANINGS[name])
    if without := summary["without_movement"]:
        share = {"count": without, "rate": without / summary["pairs"], "interval": None}
        add("none", "dim", share, "the loss has no finite coefficients for these pairs")
    if summary["uncertain"]["count"]:
        add("uncertain", "", summary["uncertain"], "of the above: the sign is within the dtype's error")
    return table


def _data_set_table(data_sets: Sequence[Mapping[str, Any]]) -> Table:
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
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
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    by_line = all(row["line"] is not None for row in worst)
    place = "line" if by_line else "row"
    for heading in (place, "cosine", "norm\nratio", "chosen\nΔ", "rejected\nΔ", "slack", "movement"):
        table.add_column(heading, justify="left" if heading == "movement" else "right", no_wrap=True)
    for row in worst:
        movement = row["movement"]
        name = movement_words(movement) + (" ?" if row["uncertain"] else "")
        table.add_row(
            str(row["line"] if by_line else row["index"]),
            _number(row["cosine"]),
            "-" if row["norm_ratio"] is None else f"{row['norm_ratio']:.3g}",
            _delta(row["chosen_delta"]),
            _delta(row["rejected_delta"]),
            _number(row["slack"]),
            Text(name, style="" if movement is None else STYLES[movement]),
        )
    return table


def _layers_heading() -> Text:
    text = Text("Where", style="bold")
    return text.append(" the gradients overlap: the parts of the cosine add up to its mean", style="not bold")


def _layer_table(profile: Sequence[Mapping[str, Any]]) -> Table:
    table = WholeTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("parameters", overflow="fold")
    for heading in ("chosen\nnorm^2", "rejected\nnorm^2", "part of\ncosine", "own\ncosine"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    largest = max((abs(row["cosine_part"] or 0.0) for row in profile), default=0.0) or 1.0
    shown = sorted(profile, key=lambda row: -abs(row["cosine_part"] or 0.0))[:SHOWN_GROUPS]
    for row in (row for row in profile if row in shown):
        shares = ("-" if row[name] is None else f"{row[name]:.1%}" for name in ("chosen_share", "rejected_share"))
        part = row["cosine_part"] or 0.0
        bar = Text("█" * round(12 * abs(part) / largest), style="dark_orange3" if part > 0 else "blue")
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
