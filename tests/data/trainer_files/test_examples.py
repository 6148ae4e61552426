"""Configurations as people write them, against settings that were worked out by hand from the trainers' sources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from entangle_cli.data.trainer_files import trl
from entangle_cli.data.trainer_files.reading import read_trainer_file
from entangle_cli.records.settings import LossSettings
from entangle_cli.records.training_setup import DataSetSetup, TrainingSetup

EXAMPLES = Path(__file__).parent / "examples"
FILES = sorted(file for file in EXAMPLES.glob("*/*") if file.suffix in (".yaml", ".sh"))

ALSO_SAID = {"trust_remote_code", "special_tokens", "optim", "optimizer"}
"""Keys that are named although they leave the numbers as they are: 8-bit AdamW counts as AdamW by hand."""

LOSS_KEYS = {"loss_type", "loss_weights", "pref_bco_weight"}


def names(files: Sequence[Path]) -> list[str]:
    return [f"{file.parent.name}-{file.stem}" for file in files]


def expected_of(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.with_name(f"{file.stem}.expected.json").read_text(encoding="utf-8"))
    return content


def as_by_hand(setup: TrainingSetup) -> dict[str, Any]:
    """A setup with the keys and the conventions of the hand-written files."""
    loss = setup.loss
    fields = (
        *("trainer", "model", "model_revision", "tokenizer", "adapter", "ref_model", "held_out", "max_length"),
        *("truncation", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
        *("optimizer", "epochs", "max_steps", "batch_size", "accumulate", "dtype", "autocast"),
    )
    return {
        **{name: getattr(setup, name) for name in fields},
        "lora": None if setup.lora is None else {**asdict(setup.lora)},
        "loss": None if loss is None else loss.name,
        "data": [data_by_hand(one) for one in setup.data],
        "eval_data": [data_by_hand(one) for one in setup.eval_data],
    }


def data_by_hand(one: DataSetSetup) -> dict[str, Any]:
    columns = {role: column for role, column in one.columns.items() if role != column}
    return {**asdict(one), "columns": columns}


def normal(value: Any) -> Any:
    """Tuples as lists, and whole floats as integers, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normal(item) for item in value]
    return int(value) if isinstance(value, float) and value == int(value) else value


def read_in_its_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingSetup:
    monkeypatch.chdir(file.parent)
    return read_trainer_file(Path(file.name))


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_settings_equal_those_worked_out_by_hand(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = read_in_its_folder(file, monkeypatch)
    expected = expected_of(file)
    found = normal(as_by_hand(setup))
    for data in (*expected["data"], *expected["eval_data"]):
        # By hand, null is the trainer's default, which is train for all three.
        data["split"] = data["split"] or "train"
        data["data_format"] = None
        if setup.trainer == "LLaMA-Factory" and Path(data["name"]).suffix:
            data["columns"] = {}  # read from dataset_info.json beside the file, with all of its rules
    expected["model_revision"] = None if expected["model_revision"] == "main" else expected["model_revision"]
    assert {key: found[key] for key in found} == {key: normal(expected[key]) for key in found}
    if expected["loss"] is not None:
        assert setup.loss is not None
        assert setup.loss == LossSettings(expected["loss"], expected["beta"], setup.loss.options)
        defaults = {"nll_weight": 0.0, "label_smoothing": 0.0}
        assert {**defaults, **setup.loss.options} == pytest.approx({**defaults, **expected["options"]})


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_what_matters_and_is_not_taken_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = read_in_its_folder(file, monkeypatch)
    expected = set(expected_of(file)["unsupported"])
    named = {remark.key for remark in setup.remarks}
    if setup.loss_problem is not None:
        assert all(key in setup.loss_problem for key in expected & LOSS_KEYS)
        named |= LOSS_KEYS
    missed = {key for key in expected if key not in named and key.rpartition(".datasets.")[0] not in named}
    assert not missed
    assert {remark.key for remark in setup.remarks} <= {*expected, *ALSO_SAID, "dataset_mixture", "dataset"}
    assert setup.unread == ()


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "trl"], ids=lambda file: file.stem)
def test_trls_parser_and_our_reading_agree(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_trl = read_in_its_folder(file, monkeypatch)
    monkeypatch.setattr(trl, "parsed_by_trl", lambda *_: None)
    alone = read_in_its_folder(file, monkeypatch)
    assert by_trl.parser is None or by_trl.refused is None
    beside = {"read_by": "", "unknown": (), "unread": (), "refused": None, "parser": None, "given": {}}
    assert replace(by_trl, **beside) == replace(alone, **beside)


def test_every_trainer_has_six_examples() -> None:
    for trainer in ("trl", "axolotl", "llama_factory"):
        assert len([file for file in FILES if file.parent.name == trainer]) >= 6
