"""A callback for transformers' Trainer that measures probe pairs while the model is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from entangle_cli.api.run import read
from entangle_cli.diagnose.training.movement import LogProbs, log_probs_by_pair, metrics_by_set, with_references
from entangle_cli.diagnose.training.opening import draw_probes, open_probes
from entangle_cli.diagnose.training.probe_measurer import ProbeMeasurer
from entangle_cli.diagnose.training.processes import gathered
from entangle_cli.diagnose.training.sharding import refuse_sharded
from entangle_cli.errors import UnfinishedError, UsageError
from entangle_cli.records.settings import LossSettings
from entangle_cli.store.series import runs_in, series_folder, write_point

logger = logging.getLogger(__name__)

PREFIX = "entangle/"
"""Prefix of all logged names."""


class EntangleCallback(TrainerCallback):
    """Measures a fixed set of probe pairs at the start, every `every` steps and at the end of a training.

    It logs through the trainer, to where the training logs its own numbers: TensorBoard, W&B, trackio and
    `trainer_state.json`. The names are `entangle/train/...` and `entangle/held_out/...`. It also writes one run per
    measurement, for `entangle report` and `entangle compare`. Weights, optimizer, random state and the training's own
    numbers stay as they are. An error after the first measurement ends the measurements, not the training.

        trainer = DPOTrainer(...)
        trainer.add_callback(EntangleCallback(trainer))
        trainer.train()

    Args:
        trainer: a transformers or TRL trainer of a causal LM.
        train_pairs: rows to draw training pairs from; None for the trainer's `train_dataset`.
        held_out_pairs: rows that are not trained on; None for the trainer's `eval_dataset`, if it has one.
        every: steps between two measurements.
        num_pairs: probe pairs in total. All data sets get the same number.
        seed: seed that draws them.
        dtype: `float32`, `bfloat16` or `float64`; None for the dtype in which the training computes.
        loss: loss of the runs; None for the trainer's, or `sigmoid` if it is unknown.
        output: folder of the runs; None for `entangle` in the trainer's output folder. A number is added to it if an
            earlier training wrote there.
    Raises:
        UsageError: a number is not positive.
        DataError: there are no pairs.
        ModelError: the weights are spread over several processes.
    """

    def __init__(
        self,
        trainer: Trainer,
        train_pairs: Any = None,
        held_out_pairs: Any = None,
        *,
        every: int = 50,
        num_pairs: int = 64,
        seed: int = 0,
        dtype: str | None = None,
        loss: LossSettings | None = None,
        output: str | Path | None = None,
    ) -> None:
        for name, value in (("every", every), ("num_pairs", num_pairs)):
            if value < 1:
                raise UsageError(f"{name}={value}", "a whole number above 0", f"use for example {name}=50")
        refuse_sharded(trainer.model)
        self.trainer = trainer
        self.every = every
        self.folder: Path | None = None
        """Folder of the series; None before the training starts."""
        self.metrics: dict[int, Mapping[str, float]] = {}
        """Logged numbers by step."""
        self.error: Exception | None = None
        """The error that ended the measurements; None if there was none."""
        self._source = draw_probes(_data_sets(trainer, train_pairs, held_out_pairs), num_pairs, seed)
        self._wanted = Path(output if output is not None else Path(str(trainer.args.output_dir)) / "entangle")
        self._options: dict[str, Any] = {"seed": seed, "dtype": dtype, "loss": loss}
        self._measurer: ProbeMeasurer | None = None
        self._start: LogProbs = {}
        self._references: LogProbs = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model before the first step, or where a resumed training goes on."""
        refuse_sharded(self.trainer.model)
        self.metrics, self.error = {}, None
        self.folder = series_folder(self._wanted, is_resumed=state.global_step > 0)
        self._measurer = open_probes(
            _model_of(self.trainer),
            self.trainer.processing_class,
            self._source,
            args,
            reference=_reference_model(self.trainer),
            **self._options,
        )
        self._start = self._stored_start() if state.global_step > 0 else {}
        self._references = self._measurer.reference_log_probs()
        self._measure(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the model after every `every` steps and after the last one."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._measure_safely(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model of a training that was stopped early. It may have gone back to its best weights by now."""
        if state.global_step not in self.metrics and not args.load_best_model_at_end:
            self._measure_safely(state, control)
        self._measurer = None

    def _measure_safely(self, state: TrainerState, control: TrainerControl) -> None:
        """Measure. An error in one process ends the measurements in all of them, but not the training."""
        if self._measurer is None or state.global_step in self.metrics:
            return
        try:
            self._measure(state, control)
        except Exception as error:  # whatever it is, the training is worth more
            self.error = error
        problems = [problem for problem in gathered(None if self.error is None else str(self.error)) if problem]
        if problems:
            self.error = self.error or UnfinishedError(problems[0], "no error in any process", "see the other process")
            logger.warning("no more entangle measurements after step %d: %s", state.global_step, problems[0])
            self._measurer = None

    def _measure(self, state: TrainerState, control: TrainerControl) -> None:
        assert self._measurer is not None
        assert self.folder is not None
        point = self._measurer.measure(state.global_step)
        self._start = self._start or log_probs_by_pair(point.records)
        records = with_references(point.records, self._references or self._start)
        metrics = metrics_by_set(records, self._start, self._measurer.set_names)
        self.metrics[point.step] = metrics
        self._log({**metrics, "seconds": point.seconds}, control)
        if state.is_world_process_zero:
            write_point(self.folder, point.step, point.identity, point.about, records)

    def _log(self, metrics: Mapping[str, float], control: TrainerControl) -> None:
        """Log metrics and leave no trace in the training's own logs.

        A trainer's own `log` may also write and reset the means of its metrics, as DPOTrainer's does. Logging ends the
        request to log this step.
        """
        should_log = control.should_log
        Trainer.log(self.trainer, {PREFIX + name: value for name, value in metrics.items()})
        control.should_log = should_log

    def _stored_start(self) -> LogProbs:
        """The log-probs at the start of a resumed training, from the first run of its series; empty without one."""
        stored: dict[Any, tuple[float, float]] = {}
        if self.trainer.is_world_process_zero() and self.folder is not None:
            for folder in list(runs_in(self.folder).values())[:1]:
                stored = log_probs_by_pair(list(read(folder)))
        return gathered(stored)[0]


def _model_of(trainer: Trainer) -> Any:
    """The trained model without the wrappers of its processes."""
    return trainer.accelerator.unwrap_model(trainer.model)


def _data_sets(trainer: Trainer, train_pairs: Any, held_out_pairs: Any) -> dict[str, Any]:
    """The data sets of the probe pairs by name. A trainer may have several for evaluation."""
    sets = {"train": trainer.train_dataset if train_pairs is None else train_pairs}
    held_out = trainer.eval_dataset if held_out_pairs is None else held_out_pairs
    if isinstance(held_out, dict):
        return sets | {f"held-out-{name}": rows for name, rows in held_out.items()}
    return sets if held_out is None else sets | {"held-out": held_out}


def _reference_model(trainer: Any) -> Any:
    """The reference model of a TRL trainer; None without one, as with adapters."""
    model = getattr(trainer, "ref_model", None)
    return None if model is None else trainer.accelerator.unwrap_model(model)
