"""What a user should know about a run beside its numbers, read off its manifest and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from entangle_cli.data.pairs import PairFormat
from entangle_cli.records import Notice


def run_notices(manifest: Mapping[str, Any], columns: Mapping[str, Any]) -> list[Notice]:
    """Notices in the order of their weight; none when there is nothing to say."""
    notices = []
    if count := int(np.count_nonzero(columns["format"] == PairFormat.TRANSCRIPT.value)):
        notices.append(
            Notice(
                "W-TRANSCRIPT",
                "transcripts: the prompt is everything the two texts share, character by character, as TRL takes it; "
                "words that both answers start with are not scored",
                count,
            )
        )
    if count := int(np.nansum(columns["boundary_moved"])):
        notices.append(
            Notice(
                "W-BOUNDARY",
                "the tokenised prompt is no prefix of prompt and answer; as in TRL, scoring starts where they part",
                count,
            )
        )
    truncated = np.nan_to_num(columns["chosen_truncated"]) + np.nan_to_num(columns["rejected_truncated"]) > 0
    if count := int(np.count_nonzero(truncated)):
        notices.append(Notice("W-TRUNCATED", "a response was cut at --max-length", count))
    if manifest.get("tokenizer", {}).get("eos_token") is None:
        notices.append(Notice("W-NO-EOS", "the tokenizer has no EOS token; none was appended to answers"))
    slow = manifest.get("plan", {}).get("slow_parameters") or {}
    if slow:
        first, reason = next(iter(slow.items()))
        notices.append(
            Notice("W-SLOW", f"parameters measured by the slow exact way, such as {first}: {reason}", len(slow))
        )
    return notices
