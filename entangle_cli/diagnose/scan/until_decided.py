"""Measures rows in random order until the gate rules are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from entangle_cli.analysis.rules import Rule, parse_rule
from entangle_cli.analysis.sequential import Decision, check_rules, decide, round_sizes
from entangle_cli.diagnose.scan.scan import Scan
from entangle_cli.diagnose.views.movements import with_movements
from entangle_cli.errors import UsageError
from entangle_cli.records.pair import RecordBatch, RowKey
from entangle_cli.records.settings import ScanSettings, UntilDecided


def check_until_decided(settings: ScanSettings) -> list[Rule]:
    """The rules that end a scan early; empty without `until_decided`.

    Raises:
        UsageError: counts cannot decide a rule, the confidence is out of range, or --ranked or --shard is set.
    """
    stop = settings.until_decided
    if stop is None:
        return []
    rules = [parse_rule(text) for text in stop.rules]
    check_rules(rules)
    if not 0.5 <= stop.confidence < 1.0:
        raise UsageError(
            f"--confidence {stop.confidence:g}",
            "a number of at least 0.5 and below 1",
            "use for example --confidence 0.95",
        )
    if settings.reading.ranked != "best-worst" or settings.shard is not None:
        raise UsageError(
            "--until-decided with --ranked or --shard", "all rows, with one pair each", "remove one of these options"
        )
    return rules


def measure_until_decided(
    scan: Scan,
    stop: UntilDecided,
    settings: ScanSettings,
    done: frozenset[RowKey],
    store: Callable[[RecordBatch], None],
    columns_so_far: Callable[[], Mapping[str, Any]],
) -> Decision:
    """Measure rounds of rows in random order until every rule is decided or no row is left.

    Args:
        done: keys of the existing records.
        store: called with every batch of records.
        columns_so_far: returns all stored records as the columns of a run.
    """
    rules = [parse_rule(text) for text in stop.rules]
    order = scan.reader.in_random_order()
    drawn: list[int] = []
    for rows in rounds(order):
        drawn += rows
        for batch in scan.records(done, rows):
            store(batch)
        columns = with_movements(columns_so_far(), settings.loss, settings.dtype)
        # An earlier start may have measured part of a later round, longest pairs first. That is not a random sample.
        columns = {name: column[np.isin(columns["index"], drawn)] for name, column in columns.items()}
        decision = decide(rules, columns, len(order), stop.confidence)
        if decision.outcome is not None:
            break
    return decision


def rounds(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """The rows of each round. Together, the rounds contain all rows."""
    for start, end in pairwise([0, *round_sizes(len(order))]):
        yield order[start:end]
