"""Takes the first real steps of a training under several losses, on a copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entangle_cli.records.settings import LossSettings, RehearsalSettings, ScanSettings
from entangle_cli.records.words import counted

if TYPE_CHECKING:
    from entangle_cli.analysis.rules import Rule
    from entangle_cli.diagnose.rehearse.document import RehearsedLoss
    from entangle_cli.diagnose.rehearse.rehearsal import Rehearsal


class RehearsalObserver:
    """Receives the progress of a rehearsal. All methods do nothing unless overridden."""

    def opened(self, folder: Path, line: str) -> None:
        """Called before the first loss with the folder, and a line about the training."""

    @contextmanager
    def rehearsing(self, loss: str, num_steps: int, *, is_finished: bool) -> Iterator[Callable[[], None]]:
        """Entered for every loss. The yielded function is called after every step."""
        del loss, num_steps, is_finished
        yield lambda: None


def rehearse(
    model: str,
    data: str | Sequence[str],
    settings: ScanSettings | None = None,
    training: RehearsalSettings | None = None,
    eval_data: str | None = None,
    output: str | Path | None = None,
    rules: Sequence[Rule | str] = (),
    *,
    observer: RehearsalObserver | None = None,
) -> dict[str, Any]:
    """Train a copy of a checkpoint for some steps under each loss, with TRL's trainers, and measure probe pairs.

    Args:
        model: a checkpoint's folder or hub name. Nothing is written to it.
        data: the pairs to train on.
        settings: how to read, tokenise and load. `dtype` bfloat16 is autocast on float32 weights, as in TRL;
            all measurements are in float32 then.
        training: the losses, the optimizer and the schedule.
        eval_data: held-out pairs, which are not trained on.
        output: folder of the rehearsal; None for a new one in `entangle-runs/`. Losses that it holds are not repeated.
        rules: such as `chosen_falls_rate > 50%`; judged for every loss, over the training probe pairs. `held_out_` in
            front of a metric means the held-out ones.
        observer: receives progress.
    Returns:
        The rehearsal, JSON-able, with the verdict in `gate`.
    Raises:
        EntangleError: the model, the data or a setting cannot be used.
    """
    from entangle_cli.analysis.rehearsal import parse_rehearsal_rule
    from entangle_cli.diagnose.rehearse.document import rehearsal_document
    from entangle_cli.diagnose.rehearse.opening import open_rehearsal
    from entangle_cli.store.rehearsals import opened_folder, rehearsal_folder

    parsed = [parse_rehearsal_rule(rule) if isinstance(rule, str) else rule for rule in rules]
    settings, training = settings or ScanSettings(), training or RehearsalSettings()
    observer = observer or RehearsalObserver()
    rehearsal = open_rehearsal(model, data, eval_data, settings, training)
    folder = rehearsal_folder(rehearsal.identity) if output is None else Path(output)
    with opened_folder(folder, rehearsal.identity):
        observer.opened(folder, _training_line(rehearsal))
        rehearsed = [_rehearsed(rehearsal, loss, folder, observer) for loss in training.losses]
    return rehearsal_document(rehearsal, rehearsed, parsed, folder)


def parsed_rehearsal_rule(text: str, origin: str) -> Rule:
    """A rule on a rehearsal, and where it was set.

    Raises:
        UsageError: its form is wrong, its metric is unknown, or it can never be true.
    """
    from entangle_cli.analysis.rehearsal import parse_rehearsal_rule

    return parse_rehearsal_rule(text, origin)


def customary_loss(name: str, numbers: Mapping[str, float]) -> LossSettings:
    """A loss at its customary settings, except for some numbers.

    Args:
        numbers: beta and options by name.
    Raises:
        UsageError: the loss or a number of it is unknown.
    """
    from entangle_cli.analysis.losses.table import find_loss, loss_numbers

    named = LossSettings(name).name
    options = dict(numbers)
    loss = LossSettings(named, options.pop("beta", find_loss(named).customary_beta), options)
    loss_numbers(loss)
    return loss


def _training_line(rehearsal: Rehearsal) -> str:
    batch = rehearsal.settings.batch_size * rehearsal.settings.accumulate
    held_out = f", {len(rehearsal.held_out):,} held out" if rehearsal.held_out else ""
    return (
        f"{rehearsal.num_steps:,} of {counted(rehearsal.horizon, 'step')} "
        f"on {counted(len(rehearsal.rows), 'pair')}{held_out}, "
        f"{batch:,} per step, learning rate {rehearsal.settings.learning_rate:g}"
    )


def _rehearsed(rehearsal: Rehearsal, loss: LossSettings, folder: Path, observer: RehearsalObserver) -> RehearsedLoss:
    """Rehearse a loss, unless the folder holds it already."""
    from entangle_cli.api.run import read
    from entangle_cli.diagnose.rehearse.document import RehearsedLoss
    from entangle_cli.diagnose.rehearse.rehearsal import loss_key
    from entangle_cli.diagnose.views.movements import describe_loss
    from entangle_cli.store.rehearsals import finished_log
    from entangle_cli.store.series import runs_in

    key = loss_key(loss)
    stored = finished_log(folder, key)
    has_all = stored is not None and (rehearsal.probes is None or stored.get("probes") is not None)
    is_finished = has_all and {0, rehearsal.num_steps} <= runs_in(folder / key).keys()
    with observer.rehearsing(describe_loss(loss), rehearsal.num_steps, is_finished=is_finished) as advance:
        if not is_finished:
            _train(rehearsal, loss, folder, advance)
    log = finished_log(folder, key)
    assert log is not None
    points = {step: list(read(run)) for step, run in runs_in(folder / key).items()}
    return RehearsedLoss(loss, log["trainer"], log["log"], points, log["seconds"], log.get("probes"))


def _train(rehearsal: Rehearsal, loss: LossSettings, folder: Path, advance: Callable[[], None]) -> None:
    """Train, measure and store one loss."""
    from entangle_cli.api.training import EntangleCallback
    from entangle_cli.diagnose.rehearse.followed_probes import FollowedProbes
    from entangle_cli.diagnose.rehearse.rehearsal import loss_key
    from entangle_cli.diagnose.rehearse.trainers import FollowProbes, StopAfter, make_trainer, run_trainer
    from entangle_cli.diagnose.views.movements import describe_loss
    from entangle_cli.store.rehearsals import begin_loss, finish_loss

    started = time.monotonic()
    key = loss_key(loss)
    own = begin_loss(folder, key)
    trainer = make_trainer(rehearsal, loss, own)
    trainer.add_callback(StopAfter(rehearsal.num_steps, advance))
    callback = EntangleCallback(
        trainer,
        [row.columns for row in rehearsal.rows],
        [row.columns for row in rehearsal.held_out] or None,
        every=rehearsal.every,
        num_pairs=rehearsal.settings.num_pairs,
        seed=rehearsal.measuring.seed,
        dtype=rehearsal.weights_dtype,
        loss=loss,
        output=own,
    )
    trainer.add_callback(callback)
    followed = None if rehearsal.probes is None else FollowedProbes(rehearsal.probes)
    if followed is not None:
        trainer.add_callback(FollowProbes(trainer, followed, rehearsal.every, rehearsal.num_steps))
    log = run_trainer(trainer, describe_loss(loss))
    if callback.error is not None:
        raise callback.error
    seconds = time.monotonic() - started
    document = {"trainer": type(trainer).__name__, "log": log, "seconds": seconds}
    finish_loss(folder, key, document if followed is None else {**document, "probes": followed.document()})
