"""`scan --until-decided`: rows in random order, until the gate's rules are settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from entangle_cli.analysis.sequential import Decision, check_rules, decide, round_sizes
from entangle_cli.diagnose.movements import with_movements
from entangle_cli.errors import UsageError
from entangle_cli.records import ScanSettings
from entangle_cli.store.reading import read_run

if TYPE_CHECKING:
    from entangle_cli.analysis.rules import Rule
    from entangle_cli.diagnose.scan import Scan
    from entangle_cli.store.writing import RunWriter


def check_settings(rules: Sequence[Rule], confidence: float, settings: ScanSettings) -> tuple[str, ...]:
    """Refuse what cannot be decided row by row.

    Returns:
        What the run's identity says of it.
    Raises:
        UsageError: rules that counts cannot settle, a confidence that is none, or rows of several pairs.
    """
    check_rules(rules)
    if not 0.5 <= confidence < 1.0:
        raise UsageError(f"--confidence {confidence:g}", "from 0.5 to below 1, such as 0.95", "correct it")
    if settings.reading.ranked != "best-worst" or settings.shard is not None:
        raise UsageError(
            "--until-decided with --ranked or --shard", "rows of one pair each, all of them", "leave one of them out"
        )
    return (*(rule.text for rule in rules), f"confidence {confidence:g}", f"loss {settings.loss}")


def measure_until_decided(
    ready: Scan,
    writer: RunWriter,
    rules: Sequence[Rule],
    confidence: float,
    settings: ScanSettings,
    note: Callable[[int], None],
) -> Decision:
    """Measure rows in random order, round by round, until every rule is settled or no row is left.

    Args:
        note: told the rows that were finished.
    """
    order = ready.reader.in_random_order()
    done = frozenset(writer.done)
    drawn: list[int] = []
    for rows in rounds(order):
        drawn += rows
        for batch in ready.ranks.gather(ready.records(done, rows)):
            writer.add(batch.pairs, batch.layers)
            note(len(batch.pairs))
        writer.flush()
        columns = with_movements(read_run(writer.folder).columns, settings.loss, settings.dtype)
        # An earlier start may have left a part of a later round, whose longest pairs come first: no random sample.
        columns = {name: column[np.isin(columns["index"], drawn)] for name, column in columns.items()}
        decision = decide(rules, columns, len(order), confidence)
        ready.ranks.end_round(is_last=decision.outcome is not None)
        if decision.outcome is not None:
            break
    return decision


def rounds(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """The rows of each round; together all of them."""
    for start, end in pairwise([0, *round_sizes(len(order))]):
        yield order[start:end]
