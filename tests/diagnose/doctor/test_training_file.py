"""Findings on a trainer's file: every code with a file that has the fault and one that has not."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path

import pytest

from entangle_cli.data.trainer_files.reading import read_trainer_file
from entangle_cli.diagnose.doctor import training_file
from entangle_cli.diagnose.doctor.training_file import file_findings

TRL = "model_name_or_path: m\ndataset_name: d\n"
AXOLOTL = "base_model: m\nmicro_batch_size: 4\n"
FACTORY = "finetuning_type: full\nstage: dpo\n"


def codes(tmp_path: Path, text: str, name: str = "train.yaml") -> list[str]:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return [found.code for found in file_findings(read_trainer_file(file))]


@pytest.mark.parametrize(
    ("code", "faulty", "sound"),
    [
        ("D-BETA-ZERO", TRL + "beta: 0\n", TRL + "beta: 0.01\n"),
        ("D-BETA-ZERO", AXOLOTL + "rl: ipo\nrl_beta: 0\n", AXOLOTL + "rl: ipo\nrl_beta: 0.3\n"),
        ("D-BETA-ZERO", FACTORY + "pref_beta: 0.0\n", FACTORY + "pref_beta: 0.1\n"),
        ("D-LEARNING-RATE-ZERO", TRL + "learning_rate: 0\n", TRL + "learning_rate: 5e-7\n"),
        ("D-LEARNING-RATE-ZERO", FACTORY + "learning_rate: 0.0\n", FACTORY + "learning_rate: 5.0e-6\n"),
        ("D-NO-REFERENCE", TRL + "reference_free: true\n", TRL + "reference_free: false\n"),
        (
            "D-NO-REFERENCE",
            TRL + "sync_ref_model: true\nref_model_mixup_alpha: 1.0\nref_model_sync_steps: 1\n",
            TRL + "sync_ref_model: true\nref_model_mixup_alpha: 0.6\nref_model_sync_steps: 64\n",
        ),
        (
            "D-LOSS-WEIGHTS",
            TRL + "loss_type: [sigmoid, sft]\nloss_weights: [1.0]\n",
            TRL + "loss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.2]\nper_device_train_batch_size: 8\n",
        ),
        (
            "D-LOSS-WEIGHTS",
            AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid]\ndpo_loss_weights: [1.0, 0.5]\n",
            AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1.0, 0.5]\n",
        ),
        ("D-UNKNOWN-KEY", TRL + "learning_rte: 5e-7\n", TRL + "learning_rate: 5e-7\n"),
        ("D-UNKNOWN-KEY", TRL + "warmup_ratio: 0.1\n", TRL + "warmup_steps: 0.1\n"),
        ("D-IGNORED", TRL + "label_smoothing: 0.1\n", TRL + "label_smoothing: 0.1\nloss_type: robust\n"),
        ("D-IGNORED", TRL + "lora_r: 16\n", TRL + "lora_r: 16\nuse_peft: true\n"),
        ("D-IGNORED", AXOLOTL + "rl: dpo\nlora_r: 16\n", AXOLOTL + "rl: dpo\nadapter: lora\nlora_r: 16\n"),
        ("D-IGNORED", FACTORY + "lora_rank: 16\n", "finetuning_type: lora\nstage: dpo\nlora_rank: 16\n"),
        ("D-IGNORED", FACTORY + "simpo_gamma: 0.5\n", FACTORY + "pref_loss: simpo\nsimpo_gamma: 0.5\n"),
        (
            "D-IGNORED",
            AXOLOTL + "rl: dpo\nadapter: lora\nlora_model_dir: sft\n",
            AXOLOTL + "rl: simpo\nsimpo_gamma: 1\nadapter: lora\nlora_model_dir: sft\n",
        ),
        ("D-REFUSED", AXOLOTL + "rl: simpo\n", AXOLOTL + "rl: simpo\nsimpo_gamma: 0.5\n"),
        (
            "D-REFUSED",
            AXOLOTL + "rl: dpo\nrpo_alpha: 0.5\n",
            AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1.0, 0.5]\n",
        ),
        (
            "D-ACCUMULATION",
            TRL + "loss_type: aot\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 16\n",
            TRL + "loss_type: sigmoid\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 16\n",
        ),
        (
            "D-ACCUMULATION",
            TRL + "loss_type: [sigmoid, sft]\ngradient_accumulation_steps: 8\n",
            FACTORY + "pref_ftx: 0.5\ngradient_accumulation_steps: 8\n",
        ),
        ("D-ATTENTION", TRL + "attn_implementation: flash_attention_2\n", TRL + "attn_implementation: sdpa\n"),
        ("D-ATTENTION", AXOLOTL + "rl: dpo\nflash_attention: true\n", AXOLOTL + "rl: dpo\nsdp_attention: true\n"),
        ("D-ATTENTION", FACTORY + "flash_attn: fa2\n", FACTORY + "flash_attn: sdpa\n"),
    ],
)
def test_a_fault_is_found_and_a_sound_file_has_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, faulty: str, sound: str
) -> None:
    monkeypatch.setattr(training_file, "find_spec", lambda _: None)
    assert code in codes(tmp_path, faulty)
    assert codes(tmp_path, sound) == []


def test_an_installed_kernel_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_file, "find_spec", lambda _: object())
    assert codes(tmp_path, TRL + "attn_implementation: flash_attention_2\n") == []


def test_an_argument_that_trl_refuses_is_found(tmp_path: Path) -> None:
    assert codes(tmp_path, "python dpo.py --model_name_or_path m --bf16\n", "train.sh") == ["D-REFUSED"]
    assert codes(tmp_path, "python dpo.py --model_name_or_path m --bf16 true\n", "train.sh") == []


@pytest.mark.parametrize(("trl", "is_broken"), [("0.19.1", False), ("0.24.0", True), ("1.16.0", False)])
def test_versions_of_trl_that_lose_llama_factorys_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trl: str, is_broken: bool
) -> None:
    monkeypatch.setattr(training_file, "version", lambda name: trl if name == "trl" else installed_version(name))
    assert ("D-IGNORED" in codes(tmp_path, FACTORY + "pref_loss: ipo\n")) is is_broken
    assert codes(tmp_path, FACTORY + "pref_loss: sigmoid\n") == []
