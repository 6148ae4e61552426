"""Rows in random order, until the rules of a gate are settled."""

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
    """The rules that end a scan; none where its settings name none.

    Raises:
        UsageError: rules that counts cannot settle, a confidence out of range, or rows of several pairs.
    """
    stop = settings.until_decided
    if stop is None:
        return []
    rules = [parse_rule(text) for text in stop.rules]
    check_rules(rules)
    if not 0.5 <= stop.confidence < 1.0:
        raise UsageError(
            f"--confidence {stop.confidence:g}", "from 0.5 to below 1", "write for example --confidence 0.95"
        )
    if settings.reading.ranked != "best-worst" or settings.shard is not None:
        raise UsageError(
            "--until-decided with --ranked or --shard", "rows of one pair each, all of them", "leave one of them out"
        )
    return rules


def measure_until_decided(
    scan: Scan,
    stop: UntilDecided,
    settings: ScanSettings,
    done: frozenset[RowKey],
    take: Callable[[RecordBatch], None],
    columns_so_far: Callable[[], Mapping[str, Any]],
) -> Decision:
    """Measure rows in random order, round by round, until every rule is settled or no row is left.

    Args:
        done: keys of the records that are there already.
        take: told every batch of records.
        columns_so_far: all records that were taken, as the columns of a run.
    """
    rules = [parse_rule(text) for text in stop.rules]
    order = scan.reader.in_random_order()
    drawn: list[int] = []
    for rows in rounds(order):
        drawn += rows
        for batch in scan.ranks.gather(scan.records(done, rows)):
            take(batch)
        columns = with_movements(columns_so_far(), settings.loss, settings.dtype)
        # An earlier start may have left a part of a later round, whose longest pairs come first: no random sample.
        columns = {name: column[np.isin(columns["index"], drawn)] for name, column in columns.items()}
        decision = decide(rules, columns, len(order), stop.confidence)
        scan.ranks.end_round(is_last=decision.outcome is not None)
        if decision.outcome is not None:
            break
    return decision


def rounds(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """The rows of each round; together all of them."""
    for start, end in pairwise([0, *round_sizes(len(order))]):
        yield order[start:end]
