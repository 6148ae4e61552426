"""The plan of a scan for people: what was recognised, and what the scan will take."""

from __future__ import annotations

from datetime import timedelta

from rich import filesize
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from entangle_cli.records.plan import ScanEstimate, ScanPlan
from entangle_cli.records.words import counted
from entangle_cli.report.escape import for_terminal

FLOAT32_ON_A_GPU = "float32 takes an H100 5 to 9 times as long as --dtype bfloat16 (estimated, not measured)"


def plan_lines(plan: ScanPlan, estimate: ScanEstimate | None = None) -> RenderableType:
    """What a scan recognised and will do, and what it will take where that was measured."""
    selected = f"{plan.num_selected:,} of {counted(plan.num_rows, 'row')}" if plan.num_selected != plan.num_rows else ""
    rules = ", ".join(f"{rule} {count:,}" for rule, count in plan.numel_by_rule.items())
    table = _two_columns()
    table.add_row("data", Text(for_terminal(f"{plan.data}: {plan.data_kind}, {counted(plan.num_rows, 'row')}")))
    table.add_row("", Text(for_terminal("; ".join(plan.formats) + (f"; {selected}" if selected else ""))))
    table.add_row("model", Text(for_terminal(f"{plan.model}: {plan.dtype} on {plan.device}")))
    if plan.device.startswith("cuda") and plan.dtype == "float32":
        table.add_row("", FLOAT32_ON_A_GPU)
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
    dealt = f", dealt to {plan.num_workers} workers" if plan.num_workers > 1 else ""
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
    per_worker = " in each worker" if plan.num_workers > 1 else ""
    peak = "unknown" if estimate.peak_bytes is None else filesize.decimal(estimate.peak_bytes)
    table.add_row(
        "memory",
        Text(
            f"{peak} at most{per_worker}, with pairs of up to {estimate.longest_tokens:,} tokens; "
            f"weights {filesize.decimal(estimate.weight_bytes)}"
        ),
    )
    duration = timedelta(seconds=round(estimate.total_seconds))
    speed = plan.num_workers / estimate.pair_seconds
    table.add_row(
        "time",
        Text(f"about {duration} for {counted(plan.num_selected, 'row')}, {speed:.3g} pairs/s; loading not counted"),
    )


def _two_columns() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table
