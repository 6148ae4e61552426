"""Whether the numbers of two runs mean the same: one model, dtype, lengths, tokenisation and reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entangle_cli.errors import UsageError
from entangle_cli.records import Run

DATA_SETTINGS = frozenset(
    {"limit", "sample", "seed", "shard", "until_decided", "split", "config_name", "revision", "max_row_bytes"}
)
"""Settings that say which rows are measured, not how."""


def measurement_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, the rows apart; empty where the same pair has the same numbers."""
    found = [name for name in ("model", "tokenization", "reference") if before.get(name) != now.get(name)]
    old, new = (
        {name: value for name, value in identity["settings"].items() if name not in DATA_SETTINGS}
        for identity in (before, now)
    )
    return found + sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def refuse_baseline(run: Run, baseline: Run, *, same_loss: bool) -> None:
    """Refuse a baseline that cannot be compared with a run.

    Args:
        same_loss: whether both are seen under a loss that the command names; else each brings its own.
    Raises:
        UsageError: the run itself, or one of another model, settings or loss.
    """
    if _is_same(run, baseline):
        raise UsageError(
            f"--baseline {baseline.folder}: the run that is judged",
            "another run, scanned before",
            "name an earlier run",
        )
    different: Sequence[str] = measurement_differences(baseline.manifest["identity"], run.manifest["identity"])
    if not same_loss and baseline.manifest["loss"] != run.manifest["loss"]:
        different = [*different, "loss"]
    if different:
        raise UsageError(
            f"--baseline {baseline.folder}: measured with another {', '.join(different)}",
            "a run of the same model, settings and loss",
            f"scan the baseline's data again, or look at both: entangle compare {baseline.folder} {run.folder}",
        )


def _is_same(run: Run, baseline: Run) -> bool:
    if run.folder.resolve() == baseline.folder.resolve():
        return True
    parts = [[part["sha256"] for part in each.manifest["parts"]] for each in (run, baseline)]
    return bool(parts[0]) and parts[0] == parts[1]
