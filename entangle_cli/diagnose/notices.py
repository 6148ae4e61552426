"""What a user should know about a run beside its numbers, read off its manifest and columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from entangle_cli.data.traps import MESSAGES
from entangle_cli.records import Notice


def run_notices(manifest: Mapping[str, Any], columns: Mapping[str, Any]) -> list[Notice]:
    """Notices of the data, then of the checkpoint; none when there is nothing to say."""
    return [*_data_notices(columns), *_checkpoint_notices(manifest)]


def _data_notices(columns: Mapping[str, Any]) -> Iterator[Notice]:
    counts = Counter(code for codes in columns["warnings"] if codes is not None for code in codes.split())
    counts["W-DUPLICATE"], counts["W-CONTRADICTION"] = _repeated(columns["pair_id"], columns["unordered_id"])
    for code, message in MESSAGES.items():
        if counts[code]:
            yield Notice(code, message, counts[code])


def _repeated(pair_ids: Any, unordered_ids: Any) -> tuple[int, int]:
    """Pairs that repeat an earlier one, and pairs of answers that are preferred both ways."""
    known = np.array([pair_id is not None for pair_id in unordered_ids], dtype=bool)
    distinct = set(zip(unordered_ids[known], pair_ids[known], strict=True))
    ways = Counter(unordered for unordered, _ in distinct)
    return int(known.sum()) - len(distinct), sum(count > 1 for count in ways.values())


def _checkpoint_notices(manifest: Mapping[str, Any]) -> Iterator[Notice]:
    if manifest.get("tokenizer", {}).get("eos_token") is None:
        yield Notice("W-NO-EOS", "the tokenizer has no EOS token; none was appended to answers")
    plan = manifest.get("plan", {})
    for code, message in plan.get("checkpoint_warnings", {}).items():
        yield Notice(code, message)
    if slow := plan.get("slow_parameters") or {}:
        first, reason = next(iter(slow.items()))
        yield Notice("W-SLOW", f"parameters measured by the slow exact way, such as {first}: {reason}", len(slow))
