"""Probe answers as plain data. They are named by their place and group. Their text stays out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from entangle_cli.analysis.probe_groups import places_by_group
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.diagnose.probes.tokenized import TokenizedProbe


def probe_row(probe: TokenizedProbe) -> dict[str, Any]:
    """Where an answer stands, and what it is."""
    return {
        "index": probe.answer.index,
        "line": probe.answer.line,
        "file": probe.answer.file,
        "group": probe.answer.group,
        "tokens": probe.tokens.num_scored,
        "answer_is_own": probe.answer.is_own,
    }


def probe_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each group consists of: the number of its answers and tokens, and whether the model wrote them all."""
    return {
        group: {
            "group": group,
            "count": len(places),
            "tokens": sum(rows[place]["tokens"] for place in places),
            "answers_are_own": all(rows[place]["answer_is_own"] for place in places),
        }
        for group, places in places_by_group([row["group"] for row in rows]).items()
    }


def skipped_probes(rows: Iterable[SkippedRow]) -> list[dict[str, Any]]:
    """Rows that cannot be used, with their reasons."""
    return [
        {name: getattr(row, name) for name in ("index", "file", "line", "pair_in_row", "reason", "detail")}
        for row in rows
    ]
