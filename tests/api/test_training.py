"""EntangleCallback inside TRL's DPOTrainer: right numbers, and a training that does not notice it."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

import entangle_cli
from entangle_cli import EntangleCallback, ScanSettings
from entangle_cli.api import training as api_training
from entangle_cli.diagnose.training.probe_measurer import ProbeMeasurer
from entangle_cli.errors import DataError, ModelError, UnfinishedError, UsageError
from tests.cli.conftest import LONG, MODEL

ROWS = [json.loads(line) for line in LONG.read_text().splitlines()]
ROOT = MODEL.parents[1]

MakeTrainer = Callable[..., DPOTrainer]


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """A trainer of the sample model for 8 steps on 60 pairs, with 20 held-out pairs."""

    def make(adapter: LoraConfig | None = None, **arguments: Any) -> DPOTrainer:
        set_seed(0)
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 2,
            "max_steps": 8,
            "learning_rate": 1e-4,
            "logging_steps": 2,
            "report_to": [],
            "save_strategy": "no",
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "disable_tqdm": True,
            **arguments,
        }
        return DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
            args=DPOConfig(**settings),
            train_dataset=Dataset.from_list(ROWS[:60]),
            eval_dataset=Dataset.from_list(ROWS[60:80]),
            processing_class=AutoTokenizer.from_pretrained(MODEL),
            peft_config=adapter,
        )

    return make


def own_logs(trainer: DPOTrainer) -> list[dict[str, Any]]:
    """What the training itself logged, without its times."""
    return [
        {name: value for name, value in entry.items() if not name.startswith(("train_", "eval_runtime", "eval_s"))}
        for entry in trainer.state.log_history
        if not any(name.startswith("entangle/") for name in entry)
    ]


def measured_logs(trainer: DPOTrainer) -> dict[int, dict[str, float]]:
    """What the callback logged, by step."""
    return {
        entry["step"]: {name: value for name, value in entry.items() if name.startswith("entangle/")}
        for entry in trainer.state.log_history
        if any(name.startswith("entangle/") for name in entry)
    }


def trained(trainer: DPOTrainer) -> tuple[list[Any], dict[str, torch.Tensor], list[float]]:
    """The logs, all weights and optimizer moments, and the next random numbers of a training."""
    trainer.train()
    tensors = dict(trainer.model.state_dict())
    for number, state in enumerate(trainer.optimizer.state.values()):
        tensors |= {f"{number} {name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return own_logs(trainer), tensors, [random.random(), float(np.random.rand()), float(torch.rand(()))]


CASES: Mapping[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"bf16": True},
    "recomputed activations": {"activation_checkpointing": True},
    "accumulation": {"gradient_accumulation_steps": 2, "logging_steps": 3},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 4},
    "adapter with dropout": {"adapter": LoraConfig(target_modules=["q_proj"], lora_dropout=0.3, task_type="CAUSAL_LM")},
    "adapter in bf16": {"adapter": LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"), "bf16": True},
}


@pytest.mark.parametrize("case", CASES)
def test_the_training_is_untouched(make_trainer: MakeTrainer, case: str) -> None:
    plain = trained(make_trainer(**CASES[case]))
    trainer = make_trainer(**CASES[case])
    callback = EntangleCallback(trainer, every=3, num_pairs=8)
    trainer.add_callback(callback)
    watched = trained(trainer)
    assert watched[0] == plain[0]
    assert watched[1].keys() == plain[1].keys()
    assert all(torch.equal(tensor, plain[1][name]) for name, tensor in watched[1].items())
    assert watched[2] == plain[2]
    assert list(callback.metrics) == [0, 3, 6, 8]


def test_the_numbers_are_those_of_a_scan(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    callback = EntangleCallback(trainer, every=5, num_pairs=8)
    trainer.add_callback(callback)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    assert callback.folder == tmp_path / "out" / "entangle"
    assert sorted(path.name for path in callback.folder.iterdir()) == ["step-000000", "step-000005", "step-000008"]
    for step, model in ((0, MODEL), (8, tmp_path / "trained")):
        found = entangle_cli.read(callback.folder / f"step-{step:06d}")
        scan = entangle_cli.scan(str(model), Dataset.from_list(ROWS[:80]), ScanSettings())
        assert {pair.file for pair in found} == {"train", "held-out"}
        assert [pair.index < 60 for pair in found] == [pair.file == "train" for pair in found]
        for pair in found:
            expected = scan.pair(pair.index)
            for name in ("chosen_log_prob", "rejected_log_prob", "cosine", "chosen_grad_norm", "inner_product"):
                assert getattr(pair, name) == pytest.approx(getattr(expected, name), rel=2e-5), name
        assert found.manifest["training_step"] == step
        assert found.manifest["status"] == "complete"


def test_bf16_is_measured_as_a_scan_in_bf16_measures(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(bf16=True)
    callback = EntangleCallback(trainer, every=8, num_pairs=8)
    trainer.add_callback(callback)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    assert callback.folder is not None
    found = entangle_cli.read(callback.folder / "step-000008")
    assert found.identity.dtype == "bfloat16"
    scan = entangle_cli.scan(str(tmp_path / "trained"), Dataset.from_list(ROWS[:80]), ScanSettings(dtype="bfloat16"))
    for pair in found:
        assert pair.chosen_log_prob == pytest.approx(scan.pair(pair.index).chosen_log_prob, rel=2e-3)
        assert pair.cosine == pytest.approx(scan.pair(pair.index).cosine, abs=2e-2)


def test_changes_and_rates_are_since_the_start(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    callback = EntangleCallback(trainer, every=4, num_pairs=20)
    trainer.add_callback(callback)
    trainer.train()
    logs = measured_logs(trainer)
    assert list(logs) == [0, 4, 8]
    assert callback.folder is not None
    first, last = (entangle_cli.read(callback.folder / f"step-{step:06d}") for step in (0, 8))
    for name, file in (("train", "train"), ("held_out", "held-out")):
        pairs = [both for both in zip(first, last, strict=True) if both[0].file == file]
        chosen = np.array([now.chosen_log_prob - before.chosen_log_prob for before, now in pairs])
        rejected = np.array([now.rejected_log_prob - before.rejected_log_prob for before, now in pairs])
        seen = {
            metric.removeprefix(f"entangle/{name}/"): value
            for metric, value in logs[8].items()
            if metric.startswith(f"entangle/{name}/")
        }
        assert len(pairs) == 10
        assert seen["chosen_change_mean"] == pytest.approx(chosen.mean())
        assert seen["margin_change_mean"] == pytest.approx((chosen - rejected).mean())
        assert seen["chosen_falls_rate"] == pytest.approx((chosen < 0).mean())
        assert seen["both_fall_rate"] == pytest.approx(((chosen < 0) & (rejected <= 0)).mean())
        assert seen["cosine_mean"] == pytest.approx(np.mean([now.cosine for _, now in pairs]))
        assert f"entangle/{name}/chosen_falls_rate" not in logs[0]
        assert logs[0][f"entangle/{name}/chosen_change_mean"] == 0.0
        # The reference of the run is the model at its start, as TRL's copy is.
        for before, now in pairs:
            assert now.chosen_ref_log_prob == pytest.approx(before.chosen_log_prob, rel=1e-5)


def test_a_series_can_be_compared(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    callback = EntangleCallback(trainer, every=4, num_pairs=12)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.folder is not None
    runs = [entangle_cli.read(folder) for folder in sorted(callback.folder.iterdir(), reverse=True)]
    document = entangle_cli.compare(*runs)
    assert [run["training_step"] for run in document["runs"]] == [0, 4, 8]
    assert document["differences"] == []
    changes = [callback.metrics[8][f"{name}/chosen_change_mean"] for name in ("train", "held_out")]
    assert document["whole"]["log_probs"]["chosen"]["mean_change"] == pytest.approx(np.mean(changes))


def test_everything_that_watches_the_trainer_gets_the_numbers(make_trainer: MakeTrainer) -> None:
    seen: list[dict[str, float]] = []

    class Watching(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *words: Any, logs: dict[str, float], **kwargs: Any) -> None:
            seen.append(dict(logs))

    trainer = make_trainer()
    trainer.add_callback(Watching())
    trainer.add_callback(EntangleCallback(trainer, every=4, num_pairs=4))
    trainer.train()
    measured = [logs for logs in seen if "entangle/train/cosine_mean" in logs]
    assert len(measured) == 3
    assert all("entangle/seconds" in logs and "loss" not in logs for logs in measured)


def test_a_resumed_training_goes_on_in_its_series(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(save_strategy="steps", save_steps=4)
    trainer.add_callback(EntangleCallback(trainer, every=3, num_pairs=8))
    trainer.train()
    before = measured_logs(trainer)
    again = make_trainer(save_strategy="steps", save_steps=4)
    callback = EntangleCallback(again, every=3, num_pairs=8)
    again.add_callback(callback)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert callback.folder == tmp_path / "out" / "entangle"
    assert [path.name for path in sorted(callback.folder.iterdir())] == [f"step-{step:06d}" for step in (0, 3, 4, 6, 8)]
    assert list(callback.metrics) == [4, 6, 8]
    for name in ("chosen_change_mean", "cosine_mean"):
        assert callback.metrics[8][f"train/{name}"] == pytest.approx(before[8][f"entangle/train/{name}"], rel=1e-4)
    third = make_trainer()
    fresh = EntangleCallback(third, every=8, num_pairs=4)
    third.add_callback(fresh)
    third.train()
    assert fresh.folder == tmp_path / "out" / "entangle-2"


def test_a_stopped_training_is_measured_at_its_end(make_trainer: MakeTrainer) -> None:
    class Stopping(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 5

    trainer = make_trainer()
    callback = EntangleCallback(trainer, every=4, num_pairs=4)
    trainer.add_callback(callback)
    trainer.add_callback(Stopping())
    trainer.train()
    assert list(callback.metrics) == [0, 4, 5]


@pytest.mark.parametrize("place", ["measuring", "writing"])
def test_an_error_does_not_end_the_training(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    target, name = (ProbeMeasurer, "measure") if place == "measuring" else (api_training, "write_point")
    original = getattr(target, name)

    def failing(first: Any, step: int, *others: Any) -> Any:
        if step:
            raise UnfinishedError("no room for step 2", "room", "make room")
        return original(first, step, *others)

    monkeypatch.setattr(target, name, failing)
    trainer = make_trainer()
    callback = EntangleCallback(trainer, every=2, num_pairs=4)
    trainer.add_callback(callback)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 8
    assert list(callback.metrics) == ([0] if place == "measuring" else [0, 2])
    assert isinstance(callback.error, UnfinishedError)
    warnings = [record.getMessage() for record in caplog.records if "entangle" in record.getMessage()]
    assert len(warnings) == 1
    assert "after step 2: no room for step 2" in warnings[0]


def test_own_pairs_and_streams(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=1)
    stream = IterableDataset.from_generator(lambda: iter(ROWS[:9]))
    callback = EntangleCallback(trainer, train_pairs=stream, held_out_pairs=ROWS[90:], num_pairs=6)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.folder is not None
    found = entangle_cli.read(callback.folder / "step-000000")
    scan = entangle_cli.scan(str(MODEL), ROWS[:3])
    assert [pair.pair_id for pair in found][:3] == [pair.pair_id for pair in scan]
    assert [pair.file for pair in found] == ["train"] * 3 + ["held-out"] * 3


def test_what_cannot_be_measured_is_refused_at_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=1)
    with pytest.raises(UsageError, match="every=0"):
        EntangleCallback(trainer, every=0)
    with pytest.raises(DataError, match="no rows"):
        EntangleCallback(trainer, train_pairs=[])
    with pytest.raises(DataError, match="a int"):
        EntangleCallback(trainer, train_pairs=3)
    trainer.add_callback(EntangleCallback(trainer, train_pairs=[{"prompt": "a"}], held_out_pairs=[{"prompt": "b"}]))
    with pytest.raises(DataError, match="none of 2 rows can be measured; train row 0"):
        trainer.train()


def test_sharded_weights_are_refused(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.model.lm_head.weight.ds_id = 1
    with pytest.raises(ModelError, match=r"weight is partitioned by DeepSpeed ZeRO-3"):
        EntangleCallback(trainer)


DRIVER = """
import json, sys
from pathlib import Path
from datasets import Dataset
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from entangle_cli import EntangleCallback
from entangle_cli.api import training
model, data = sys.argv[1:]
rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
write = training.write_point
def failing(folder, step, *others):
    if step:
        raise OSError(28, "No space left on device")
    return write(folder, step, *others)
for watched in ("no", "yes", "fails"):
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=DPOConfig(
            output_dir="out", per_device_train_batch_size=2, max_steps=6, learning_rate=1e-4, logging_steps=1,
            report_to=[], save_strategy="no", bf16=False, gradient_checkpointing=False, use_cpu=True, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows[:60]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    if watched != "no":
        trainer.add_callback(EntangleCallback(trainer, every=3, num_pairs=9))
    if watched == "fails" and trainer.is_world_process_zero():
        # A full disk ends the measurements in the other process too, which would wait for this one.
        training.write_point = failing
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        measured = [entry for entry in trainer.state.log_history if "entangle/train/cosine_mean" in entry]
        Path(f"{watched}.json").write_text(json.dumps([losses, len(measured)]))
"""


def test_several_processes_share_the_pairs(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(tmp_path / "driver.py"), str(MODEL), str(LONG)),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    plain, measured, failed = (
        json.loads((tmp_path / f"{watched}.json").read_text()) for watched in ("no", "yes", "fails")
    )
    assert measured == [plain[0], 3]
    assert failed == [plain[0], 2]
    found = entangle_cli.read(tmp_path / "out" / "entangle" / "step-000000")
    scan = entangle_cli.scan(str(MODEL), Dataset.from_list(ROWS[:60]))
    assert len(found) == 9
    for pair in found:
        assert pair.cosine == pytest.approx(scan.pair(pair.index).cosine, rel=1e-5)
