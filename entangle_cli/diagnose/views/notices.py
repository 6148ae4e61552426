"""What a user should know about a run beside its numbers, read off its manifest and columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from entangle_cli.analysis.repetition import repetition
from entangle_cli.data.traps import MESSAGES, question_message
from entangle_cli.records.pair import Status
from entangle_cli.records.run import Notice


def run_notices(manifest: Mapping[str, Any], columns: Mapping[str, Any]) -> list[Notice]:
    """Notices of the data, then of the checkpoint; none when there is nothing to say."""
    return [*_data_notices(columns), *_checkpoint_notices(manifest)]


def _data_notices(columns: Mapping[str, Any]) -> Iterator[Notice]:
    counts = Counter(code for codes in columns["warnings"] if codes is not None for code in codes.split())
    known = np.flatnonzero(columns["unordered_id"] != None)  # noqa: E711, elementwise
    ids = (np.array([*map(hash, columns[name][known])], dtype=np.int64) for name in ("pair_id", "unordered_id"))
    counts["W-DUPLICATE"], counts["W-CONTRADICTION"] = repetition(*ids)
    counts["W-REF-MISSING"] = _missing_references(columns)
    unread = {name for names in columns["unread_columns"] if names is not None for name in names.split()}
    yield from data_notices(counts, unread)


def data_notices(counts: Mapping[str, int], unread: Iterable[str]) -> Iterator[Notice]:
    """A notice for each code that occurs, in the order of `MESSAGES`.

    Args:
        unread: columns that hold a prompt and are not read.
    """
    for code, message in MESSAGES.items():
        if counts.get(code):
            yield Notice(code, question_message(unread) if code == "W-QUESTION-UNUSED" else message, counts[code])


def _missing_references(columns: Mapping[str, Any]) -> int:
    """Measured rows without reference log-probs, where others have them."""
    absent = np.isnan(columns["chosen_ref_log_prob"][columns["status"] == Status.OK.value])
    return 0 if absent.all() else int(np.count_nonzero(absent))


def _checkpoint_notices(manifest: Mapping[str, Any]) -> Iterator[Notice]:
    if manifest.get("tokenizer", {}).get("eos_token") is None:
        yield Notice("W-NO-EOS", "the tokenizer has no EOS token; none was appended to answers")
    plan = manifest.get("plan", {})
    for code, message in plan.get("checkpoint_warnings", {}).items():
        yield Notice(code, message)
    if slow := plan.get("slow_parameters") or {}:
        first, reason = next(iter(slow.items()))
        yield Notice("W-SLOW", f"parameters measured by the slow exact way, such as {first}: {reason}", len(slow))
