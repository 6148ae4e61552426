"""Whether a run may be the baseline of another: one model, dtype, lengths, tokenisation, reference and loss."""

from __future__ import annotations

from entangle_cli.errors import UsageError
from entangle_cli.records.run import OTHER_ROWS, Run


def refuse_baseline(run: Run, baseline: Run) -> None:
    """Refuse a baseline that cannot be compared with a run.

    Raises:
        UsageError: the run itself, or one of another model, settings or loss.
    """
    if _is_same(run, baseline):
        raise UsageError(
            f"--baseline {baseline.place}: the run that is judged",
            "another run, scanned before",
            "name an earlier run",
            topic="ci",
        )
    different = baseline.identity.difference_words(run.identity, ignoring=OTHER_ROWS)
    if baseline.loss != run.loss:
        different = [*different, "loss"]
    if different:
        raise UsageError(
            f"--baseline {baseline.place}: measured with a different {', '.join(different)}",
            "a run of the same model, settings and loss",
            f"scan the baseline's data again, or look at both: entangle compare {baseline.place} {run.place}",
            topic="ci",
        )


def _is_same(run: Run, baseline: Run) -> bool:
    if run.folder is not None and baseline.folder is not None and run.folder.resolve() == baseline.folder.resolve():
        return True
    parts = [[part["sha256"] for part in each.manifest.get("parts", ())] for each in (run, baseline)]
    return bool(parts[0]) and parts[0] == parts[1]
