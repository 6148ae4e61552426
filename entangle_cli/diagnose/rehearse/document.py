"""A rehearsal as plain data: curves, extrapolation, differences between the losses, and every probe pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from entangle_cli.analysis.gate import Outcome
from entangle_cli.analysis.movement import movement_names
from entangle_cli.analysis.observed_movement import CHANGES, log_probs_of
from entangle_cli.analysis.rehearsal import judge_rehearsal, paired_differences
from entangle_cli.analysis.rules import Rule
from entangle_cli.data.trainer_log import LOGGED
from entangle_cli.data.traps import plain_text
from entangle_cli.diagnose.rehearse.probe_document import rehearsal_probes
from entangle_cli.diagnose.rehearse.rehearsal import Rehearsal, loss_key
from entangle_cli.diagnose.training.movement import log_probs_by_pair, set_metrics
from entangle_cli.diagnose.views.movements import describe_loss
from entangle_cli.records.arrays import Floats
from entangle_cli.records.pair import PairRecord, Status
from entangle_cli.records.settings import LossSettings

SETS = ("train", "held-out")
"""Names of the probe sets."""


@dataclass(frozen=True, slots=True)
class RehearsedLoss:
    """What was measured under one loss."""

    loss: LossSettings
    trainer: str
    """TRL's class."""
    log: Sequence[Mapping[str, Any]]
    """The trainer's own log, one entry per step."""
    points: Mapping[int, Sequence[PairRecord]]
    """The probe pairs by step, in the same order at every step."""
    seconds: float
    probes: Mapping[str, Any] | None = None
    """The log-probs of the probe answers, see `FollowedProbes.document`; None without them."""

    @property
    def steps(self) -> int:
        """Real steps taken."""
        return max(self.points)

    def changes(self, name: str) -> Floats:
        """Changes of the pairs of a set from the first point to the last, [2, pairs], nats."""
        first, last = (
            log_probs_of([record for record in self.points[step] if record.file == name])
            for step in (min(self.points), self.steps)
        )
        return last - first


def rehearsal_document(
    rehearsal: Rehearsal, rehearsed: Sequence[RehearsedLoss], rules: Sequence[Rule], folder: Path
) -> dict[str, Any]:
    """The whole rehearsal, JSON-able. Changes are in nats since the start.

    Args:
        rules: judged for every loss.
        folder: where the runs are.
    """
    identity = rehearsal.identity
    so_far = list(accumulate(rehearsal.learning_rates()))
    losses = [_loss(one, so_far) for one in rehearsed]
    return {
        "schema": "entangle.rehearsal",
        "schema_version": "1.0",
        "model": identity["model"],
        "data": identity["data"],
        "held_out_data": identity["held_out"] if rehearsal.held_out else None,
        "training": {**identity["training"], "dtype": identity["dtype"]},
        "measurement": {
            "dtype": rehearsal.weights_dtype,
            **{name: identity[name] for name in ("max_length", "truncation", "seed")},
        },
        "versions": identity["versions"],
        "skipped": [
            {name: getattr(row, name) for name in ("index", "line", "file", "pair_in_row", "reason", "detail")}
            for row in rehearsal.skipped
        ],
        "steps": rehearsal.num_steps,
        "horizon": rehearsal.horizon,
        "learning_rate_share": so_far[rehearsal.num_steps - 1] / so_far[-1] if so_far[-1] else None,
        "losses": losses,
        "differences": _differences(rehearsed),
        "gate": None if not rules else _gate(losses, rules),
        "pairs": _pairs(rehearsal, rehearsed),
        "probes": _probes(rehearsal, rehearsed),
        "folder": str(folder),
    }


def _probes(rehearsal: Rehearsal, rehearsed: Sequence[RehearsedLoss]) -> dict[str, Any] | None:
    """What happened to the probe answers; None without them."""
    if rehearsal.probes is None:
        return None
    measured = {loss_key(one.loss): one.probes for one in rehearsed if one.probes is not None}
    return rehearsal_probes(rehearsal.probes, measured)


def _loss(one: RehearsedLoss, so_far: Sequence[float]) -> dict[str, Any]:
    start = log_probs_by_pair(one.points[min(one.points)])
    points = [
        {
            "step": step,
            "learning_rate_sum": so_far[step - 1] if step else 0.0,
            **{name.replace("-", "_"): set_metrics(records, start, name) or None for name in SETS},
        }
        for step, records in one.points.items()
    ]
    return {
        "name": loss_key(one.loss),
        "loss": {**asdict(one.loss), "text": describe_loss(one.loss)},
        "trainer": one.trainer,
        "seconds": one.seconds,
        "log": [_logged(entry) for entry in one.log],
        "points": points,
        "extrapolated": _extrapolated(points[-1], so_far[-1]),
    }


def _logged(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": entry["step"], **{name: entry.get(logged) for logged, name in LOGGED.items()}}


def _extrapolated(point: Mapping[str, Any], whole: float) -> dict[str, Any] | None:
    """The mean changes at the end of the run, if log-probs go on to change in proportion to the learning rate.

    None if the learning rates so far are zero.
    """
    if not point["learning_rate_sum"]:
        return None
    factor = whole / point["learning_rate_sum"]
    sets = (name.replace("-", "_") for name in SETS)
    return {
        "factor": factor,
        **{
            name: None if point[name] is None else {change: factor * point[name][change] for change in CHANGES}
            for name in sets
        },
    }


def _differences(rehearsed: Sequence[RehearsedLoss]) -> list[dict[str, Any]]:
    """Every other loss against the first, on the same pairs."""
    if not rehearsed:
        return []
    first, *others = rehearsed
    return [
        {
            "loss": loss_key(other.loss),
            "than": loss_key(first.loss),
            "pairs_of": name.replace("-", "_"),
            **difference._asdict(),
            "interval": None if difference.interval is None else list(difference.interval),
            "beyond_chance": difference.is_beyond_chance,
        }
        for other in others
        for name in SETS
        for difference in paired_differences(first.changes(name), other.changes(name))
        if difference.pairs
    ]


def _gate(losses: Sequence[Mapping[str, Any]], rules: Sequence[Rule]) -> dict[str, Any]:
    """The verdict: failed if a rule is true under any loss."""
    results = [
        {
            "loss": loss["name"],
            "rule": rule.text,
            "origin": rule.origin,
            **{name: getattr(result, name) for name in ("observed", "outcome", "sentence")},
        }
        for loss in losses
        for rule in rules
        for result in [judge_rehearsal(rule, loss["points"][-1])]
    ]
    outcomes = {result["outcome"] for result in results}
    worst = next(outcome for outcome in (Outcome.FAILED, Outcome.CANNOT_JUDGE, Outcome.PASSED) if outcome in outcomes)
    return {"outcome": worst, "results": results}


PROMPT_CHARACTERS = 200


def _pairs(rehearsal: Rehearsal, rehearsed: Sequence[RehearsedLoss]) -> list[dict[str, Any]]:
    """Every measured probe pair with what it did under each loss."""
    if not rehearsed:
        return []
    rows = [*rehearsal.rows, *rehearsal.held_out]
    kept = []
    for position, record in enumerate(rehearsed[0].points[0]):
        if record.status != Status.OK.value:
            continue
        row = rows[record.index]
        kept.append(
            {
                "index": row.index,
                "line": row.line,
                "file": row.file,
                "pair_in_row": row.pair_in_row,
                "pairs_of": str(record.file).replace("-", "_"),
                "pair_id": record.pair_id,
                "prompt": plain_text(row.columns["prompt"])[:PROMPT_CHARACTERS],
                "chosen_tokens": record.chosen_tokens,
                "rejected_tokens": record.rejected_tokens,
                "losses": {loss_key(one.loss): _of_pair(one, position) for one in rehearsed},
            }
        )
    return kept


def _of_pair(one: RehearsedLoss, position: int) -> dict[str, Any]:
    first, last = (one.points[step][position] for step in (min(one.points), one.steps))
    changes = log_probs_of([last]) - log_probs_of([first])
    known = bool(np.isfinite(changes).all())
    return {
        "chosen_change": float(changes[0, 0]) if known else None,
        "rejected_change": float(changes[1, 0]) if known else None,
        "movement": movement_names(*changes)[0],
        "cosine_before": first.cosine,
        "cosine_after": last.cosine,
    }
