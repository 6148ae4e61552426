"""Opens a rehearsal: reads its data and checks its settings."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from entangle_cli.data.adapter import is_adapter
from entangle_cli.data.checkpoint import library_versions
from entangle_cli.data.device import choose_device
from entangle_cli.data.fingerprint import fingerprint
from entangle_cli.data.learning_rates import refuse_schedule
from entangle_cli.data.origin import find_origin, identity_of, refuse_swapped
from entangle_cli.data.pair_ids import content_hash
from entangle_cli.data.pairs import SkippedRow
from entangle_cli.data.probe_answers import refuse_probe_settings
from entangle_cli.data.rows import RowSource
from entangle_cli.data.sources import named_data, open_source
from entangle_cli.data.tokenizer import tokenizer_of_model
from entangle_cli.data.training_rows import TrainingRow, read_training_rows
from entangle_cli.diagnose.forecast.optimizer_step import refuse_rate
from entangle_cli.diagnose.rehearse.followed_probes import open_probes
from entangle_cli.diagnose.rehearse.rehearsal import Rehearsal, loss_key, weights_dtype
from entangle_cli.diagnose.rehearse.trainers import require_packages
from entangle_cli.diagnose.rehearse.trl_losses import trainer_of
from entangle_cli.diagnose.scan.row_preparation import resolved_length
from entangle_cli.diagnose.scan.row_reader import pair_reader
from entangle_cli.diagnose.selected_rows import selected_rows
from entangle_cli.diagnose.views.first_rows import peeked_formats
from entangle_cli.errors import DataError, ModelError, UsageError
from entangle_cli.records.data_words import parsed_data_word
from entangle_cli.records.settings import RehearsalSettings, ScanSettings


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
    tokenizer = tokenizer_of_model(model, measuring.loading)
    max_length = resolved_length(measuring.max_length, tokenizer.context)
    device = choose_device(measuring.device)
    if device.index:
        raise UsageError(
            f"--device {device}",
            "cpu, or the first GPU, which Trainer takes",
            f"set CUDA_VISIBLE_DEVICES={device.index} and use --device cuda",
        )
    probes = open_probes(settings, replace(measuring, dtype=weights_dtype(measuring.dtype)), tokenizer)
    rehearsal = Rehearsal(model, device, measuring, settings, rows, held_out, skipped, max_length, {}, probes)
    refuse_schedule(settings, rehearsal.horizon)
    return replace(rehearsal, identity=_identity(rehearsal, identity_of(origin), names, eval_data))


def _refuse(settings: RehearsalSettings, eval_data: str | None) -> None:
    """Check what needs no file."""
    refuse_rate(settings.learning_rate)
    refuse_schedule(settings, settings.horizon)
    refuse_probe_settings(settings.probe, settings.probe_generate)
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
    for name in ("losses", "probe", "probe_generate"):
        del settings[name]
    probes = rehearsal.probes
    measuring = rehearsal.measuring
    reading = {name: value for name, value in asdict(measuring.reading).items() if value}
    return {
        "model": dict(model),
        "data": {
            "name": ", ".join(map(_file_name, names)),
            "rows": _content(rehearsal.rows),
        },
        "held_out": {
            "name": None if eval_data is None else _file_name(eval_data),
            "rows": _content(rehearsal.held_out),
        },
        "training": {**settings, "horizon": rehearsal.horizon, "steps": rehearsal.num_steps, "every": rehearsal.every},
        **({} if probes is None else {"probe": {**probes.identity, "generate": probes.generate}}),
        "reading": reading,
        "loading": _loading(measuring),
        "dtype": measuring.dtype,
        "max_length": rehearsal.max_length,
        "truncation": measuring.truncation,
        "seed": measuring.seed,
        "versions": {"entangle": version("entangle-cli"), "trl": version("trl"), **library_versions()},
    }


def _file_name(word: str) -> str:
    return Path(parsed_data_word(word).name).name


def _loading(measuring: ScanSettings) -> dict[str, str]:
    """Settings that load another model, tokenizer or template. A template counts by its content."""
    named = {name: str(value) for name, value in asdict(measuring.loading).items() if value}
    template = measuring.loading.chat_template
    return named if template is None else {**named, "chat_template": fingerprint(template).sha256}


def _content(rows: Sequence[TrainingRow]) -> dict[str, Any]:
    return {"count": len(rows), "hash": content_hash([row.columns for row in rows])}
