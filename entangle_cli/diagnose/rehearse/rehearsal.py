"""A rehearsal: the rows, the schedule and the identity that all its losses share, and a fresh trainer for each."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from entangle_cli.data.adapter import is_adapter
from entangle_cli.data.checkpoint import Checkpoint, library_versions, load_checkpoint, quiet_libraries
from entangle_cli.data.device import choose_device
from entangle_cli.data.fingerprint import fingerprint
from entangle_cli.data.learning_rates import learning_rates, refuse_schedule
from entangle_cli.data.origin import find_origin, identity_of, refuse_swapped
from entangle_cli.data.pair_ids import content_hash
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.rows import RowSource
from entangle_cli.data.sources import named_data, open_source
from entangle_cli.data.tokenizer import tokenizer_of_model
from entangle_cli.data.training_rows import TrainingRow, read_training_rows
from entangle_cli.diagnose.forecast.optimizer_step import refuse_rate
from entangle_cli.diagnose.rehearse.trainers import TrainingInputs, make_trainer, needs_reference, require_packages
from entangle_cli.diagnose.rehearse.trl_losses import trainer_of
from entangle_cli.diagnose.scan.row_reader import pair_reader, resolved_length
from entangle_cli.diagnose.selected_rows import selected_rows
from entangle_cli.diagnose.views.first_rows import peeked_formats
from entangle_cli.errors import DataError, ModelError, UsageError
from entangle_cli.records.settings import Dtype, LossSettings, RehearsalSettings, ScanSettings

MEASUREMENTS = 10
"""Measurements of the probe pairs after the first one, unless `every` says otherwise."""


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that is ready to start, created by `open_rehearsal`.

    Attributes:
        rows: pairs in training, as TRL gets them.
        held_out: pairs out of the training.
        skipped: rows that hold no pair.
        identity: everything but the losses that determines the numbers, JSON-able.
    """

    model: str
    device: torch.device
    measuring: ScanSettings
    settings: RehearsalSettings
    rows: Sequence[TrainingRow]
    held_out: Sequence[TrainingRow]
    skipped: Sequence[SkippedRow]
    max_length: int | None
    identity: Mapping[str, Any]

    @property
    def horizon(self) -> int:
        """Steps of the whole run."""
        if self.settings.horizon is not None:
            return self.settings.horizon
        return max(1, math.ceil(len(self.rows) / (self.settings.batch_size * self.settings.accumulate)))

    @property
    def num_steps(self) -> int:
        """Real steps per loss."""
        return min(self.settings.steps, self.horizon)

    @property
    def every(self) -> int:
        """Steps between two measurements."""
        return self.settings.every or max(1, self.num_steps // MEASUREMENTS)

    @cached_property
    def learning_rates(self) -> Sequence[float]:
        """The learning rate of every step of the whole run."""
        return learning_rates(self.settings, self.settings.learning_rate, self.horizon)

    def trainer(self, loss: LossSettings, folder: Path) -> Any:
        """A TRL trainer for a loss, on a fresh copy of the checkpoint.

        Raises:
            ModelError: the checkpoint cannot be loaded or trained.
        """
        inputs = TrainingInputs(
            rows=self.rows,
            settings=self.settings,
            horizon=self.horizon,
            max_length=self.max_length,
            truncation=self.measuring.truncation,
            dtype=self.measuring.dtype,
            seed=self.measuring.seed,
            recompute=self.measuring.activation_checkpointing,
            on_cpu=self.device.type == "cpu",
        )
        with quiet_libraries():
            policy = self._loaded()
            reference = self._loaded() if needs_reference(loss, self.settings) else None
            return make_trainer(policy, reference, loss, inputs, folder)

    def _loaded(self) -> Checkpoint:
        # bfloat16 is the dtype of the computation. The weights stay in float32, as in TRL.
        dtype = Dtype.FLOAT32.value if self.measuring.dtype == Dtype.BFLOAT16 else self.measuring.dtype
        loaded = load_checkpoint(self.model, dtype, self.device, self.measuring.loading)
        if getattr(loaded.model, "quantization_method", None) is not None:
            raise ModelError(
                f"{self.model}: quantised weights",
                "weights that can be trained",
                "rehearse on the checkpoint before quantisation",
            )
        return loaded


def open_rehearsal(
    model: str,
    data: str | Sequence[str],
    eval_data: str | None,
    measuring: ScanSettings,
    settings: RehearsalSettings,
) -> Rehearsal:
    """Read the data and check the settings. Loads no weights.

    Args:
        measuring: how to read, tokenise and load; its loss does not count.
    Raises:
        UsageError: a setting cannot be used, a loss has no trainer in TRL, or TRL is not installed.
        DataError, ModelError: the data or the checkpoint cannot be used.
    """
    _refuse(settings, eval_data)
    require_packages(settings)
    names = named_data(data)
    refuse_swapped(model, names)
    rows, skipped = _rows(names, measuring)
    if eval_data is not None:
        reading = replace(measuring.reading, split=settings.eval_split, config_name=None, revision=None)
        held_out, _ = _rows([eval_data], replace(measuring, reading=reading, limit=None, sample=None))
    else:
        rows, held_out = _split(rows, settings.held_out, measuring.seed)
    origin = find_origin(model, measuring.loading)
    if origin.folder is not None and is_adapter(origin.folder):
        raise ModelError(
            f"{model}: an adapter",
            "a whole checkpoint; --lora trains a new adapter on it",
            "rehearse on the adapter's base model, or merge the adapter into it first",
            topic="training",
        )
    max_length = resolved_length(measuring.max_length, tokenizer_of_model(model, measuring.loading).context)
    device = choose_device(measuring.device)
    rehearsal = Rehearsal(model, device, measuring, settings, rows, held_out, skipped, max_length, {})
    refuse_schedule(settings, rehearsal.horizon)
    return replace(rehearsal, identity=_identity(rehearsal, identity_of(origin), names, eval_data))


def _refuse(settings: RehearsalSettings, eval_data: str | None) -> None:
    """Check what needs no file."""
    refuse_rate(settings.learning_rate)
    refuse_schedule(settings, settings.horizon)
    for loss in settings.losses:
        trainer_of(loss)
    if len(set(map(loss_key, settings.losses))) < len(settings.losses):
        raise UsageError("--losses: the same loss twice", "every loss once", "remove one of them")
    if not 0 <= settings.held_out < 1:
        raise UsageError(f"--held-out {settings.held_out:g}", "a share from 0 to below 1", "use for example 0.1")
    if settings.held_out and eval_data is not None:
        raise UsageError("--held-out and --eval-data", "one of the two", "omit one of them")


def _rows(names: Sequence[str], measuring: ScanSettings) -> tuple[list[TrainingRow], list[SkippedRow]]:
    source: RowSource = open_source(names, measuring.reading, measuring.limit)
    pairs = pair_reader(source, measuring.reading)
    peeked_formats(source, pairs, measuring.reading)
    selected = selected_rows(source.indices, measuring.limit, measuring.sample, measuring.seed, None)
    rows = read_training_rows(source, pairs, selected)
    source.refuse_changed()
    return rows


def _split(rows: list[TrainingRow], share: float, seed: int) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Rows in and out of the training."""
    count = round(share * len(rows))
    if share and not 0 < count < len(rows):
        raise DataError(
            f"--held-out {share:g} of {len(rows):,} rows", "at least one row on both sides", "use another share"
        )
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    parts = [[row for place, row in enumerate(rows) if (place in chosen) is held] for held in (False, True)]
    return parts[0], parts[1]


def _identity(
    rehearsal: Rehearsal, model: Mapping[str, Any], names: Sequence[str], eval_data: str | None
) -> dict[str, Any]:
    settings = asdict(rehearsal.settings)
    del settings["losses"]
    measuring = rehearsal.measuring
    reading = {name: value for name, value in asdict(measuring.reading).items() if value}
    return {
        "model": dict(model),
        "data": {"name": ", ".join(Path(name).name for name in names), "rows": _content(rehearsal.rows)},
        "held_out": {
            "name": None if eval_data is None else Path(eval_data).name,
            "rows": _content(rehearsal.held_out),
        },
        "training": {**settings, "horizon": rehearsal.horizon, "steps": rehearsal.num_steps, "every": rehearsal.every},
        "reading": reading,
        "loading": _loading(measuring),
        "dtype": measuring.dtype,
        "max_length": rehearsal.max_length,
        "truncation": measuring.truncation,
        "seed": measuring.seed,
        "versions": {"entangle": version("entangle-cli"), "trl": version("trl"), **library_versions()},
    }


def _loading(measuring: ScanSettings) -> dict[str, str]:
    """Settings that load another model, tokenizer or template. A template counts by its content."""
    named = {name: str(value) for name, value in asdict(measuring.loading).items() if value}
    template = measuring.loading.chat_template
    return named if template is None else {**named, "chat_template": fingerprint(template).sha256}


def _content(rows: Sequence[TrainingRow]) -> dict[str, Any]:
    return {"count": len(rows), "hash": content_hash([row.columns for row in rows])}


def loss_key(loss: LossSettings) -> str:
    """Name of a loss within a rehearsal, such as `simpo-beta2-gamma0.5`; also its folder."""
    numbers = {"beta": loss.beta, **loss.options}
    return "-".join([loss.name, *(f"{name}{value:g}" for name, value in sorted(numbers.items()))])
