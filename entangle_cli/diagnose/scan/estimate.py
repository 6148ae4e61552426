"""Estimates the time and memory of a scan from two measured batches of its first window."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from entangle_cli.diagnose.scan.row_records import PreparedRow
from entangle_cli.errors import DataError
from entangle_cli.records.plan import ScanEstimate

Measure = Callable[[Sequence[PreparedRow]], object]
"""Measures one batch."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What two batches cost."""

    seconds: float
    """Duration of the batch of median length."""
    weight_bytes: int
    peak_bytes: int | None
    """Peak memory of the process or device during the longest batch; None if unknown."""


def cost_of(
    measure: Measure, longest: Sequence[PreparedRow], typical: Sequence[PreparedRow], model: torch.nn.Module
) -> Cost:
    """Measure two batches: the longest for memory, a typical one for time."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    measure(longest)
    peak_bytes = _peak_bytes(device)
    start = time.perf_counter()
    measure(typical)
    seconds = time.perf_counter() - start
    weight_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return Cost(seconds, weight_bytes, peak_bytes)


def estimate(
    cost: Callable[[Sequence[PreparedRow], Sequence[PreparedRow]], Cost],
    batches: Sequence[Sequence[PreparedRow]],
    window_rows: int,
    num_selected: float,
) -> ScanEstimate:
    """Estimate time from the batch of median length and memory from the longest batch. Time is scaled by tokens.

    Args:
        cost: measures what the longest batch and a typical one cost.
        batches: batches of the first window, longest first.
        window_rows: number of rows in that window, including skipped ones.
        num_selected: number of rows in the whole scan, or in the share of one worker.
    Raises:
        DataError: no row of the window can be measured.
    """
    if not batches:
        raise DataError(
            f"none of the first {window_rows:,} rows can be measured",
            "at least one pair that fits the model and --max-length",
            "run entangle scan with --limit to see the reasons",
        )
    typical = batches[len(batches) // 2]
    found = cost(batches[0], typical)
    window_seconds = found.seconds / _padded_tokens(typical) * sum(map(_padded_tokens, batches))
    return ScanEstimate(
        pair_seconds=found.seconds / len(typical),
        total_seconds=window_seconds * num_selected / window_rows,
        weight_bytes=found.weight_bytes,
        peak_bytes=found.peak_bytes,
        longest_tokens=_longest(batches[0]),
    )


def _longest(rows: Sequence[PreparedRow]) -> int:
    return max(len(side.ids) for row in rows for side in (row.tokens.pair.chosen, row.tokens.pair.rejected))


def _padded_tokens(rows: Sequence[PreparedRow]) -> int:
    return 2 * len(rows) * _longest(rows)


def _peak_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
